# Live functions beside sync_one, and beside what pages do without them: run the function by hand on a message.
#
#     mix run bench/functions.exs [--changes 2000] [--pages 10000] [--seconds 10] [--cluster FILE]

Code.require_file("support.exs", __DIR__)

defmodule Bench.Functions do
  alias Bench.{Repo, User}

  def one(id), do: Repo.get(User, id)
  def many(ids), do: ids |> Enum.map(&Repo.async_get(User, &1)) |> Repo.await()

  # What pages show is less than what it was made of.
  def summary(ids) do
    users = many(ids)
    %{count: length(users), first: hd(users).name}
  end
end

alias Bench.{Functions, Repo, User}
alias EctoFoundationDB.Sync

{opts, tenant} = Bench.start(changes: :integer, pages: :integer, seconds: :integer)
changes = opts[:changes] || 2000
now = fn -> System.monotonic_time(:microsecond) end
empty = %{assigns: %{}, private: %{tenant: tenant}}
ids = for n <- 1..50, do: "u#{n}"
users = for id <- ids, do: Repo.insert!(struct(User, id: id, name: "Ada"), prefix: tenant)
[user | _] = users

follow = fn state ->
  receive do
    {_ref, :ready} = message ->
      {:halt, state} = Sync.handle_ready(Repo, message, state)
      state
  end
end

percentiles = fn times -> for q <- [0.5, 0.99], do: Bench.percentile(times, q) end

# Microseconds of a mount that nobody shares, and from a commit's return to the assign.
measure = fn mount ->
  mounts =
    for n <- 1..changes do
      began = now.()
      state = mount.(empty, n)
      time = now.() - began
      Sync.cancel_all(state, Repo)
      time
    end

  state = mount.(empty, 0)

  {wakes, state} =
    Enum.map_reduce(1..changes, state, fn n, state ->
      Repo.update!(user, name: "Ada #{n}")
      committed = now.()
      state = follow.(state)
      {now.() - committed, state}
    end)

  Sync.cancel_all(state, Repo)
  percentiles.(mounts) ++ percentiles.(wakes)
end

widths = [38, 10, 10, 10, 10]
IO.puts("\nMicroseconds, #{changes} each")
Bench.row(["", "mount p50", "mount p99", "wake p50", "wake p99"], widths)

for {what, mount} <- [
      {"sync_one", fn state, _n -> Sync.sync_one(state, Repo, :it, User, "u1") end},
      {"sync_fun of one get",
       fn state, _n -> Sync.sync_fun(state, Repo, :it, {Functions, :one, ["u1"]}) end},
      {"sync_many of 50", fn state, _n -> Sync.sync_many(state, Repo, :it, User, ids) end},
      {"sync_fun of 50 gets, in flight together",
       fn state, _n -> Sync.sync_fun(state, Repo, :it, {Functions, :many, [ids]}) end}
    ],
    do: Bench.row([what | measure.(mount)], widths)

## Many pages on one function

pages = opts[:pages] || 10_000
widths = [38, 10, 12, 14, 14]
IO.puts("\n#{pages} pages; milliseconds")
Bench.row(["", "all mount", "all updated", "evaluations", "watches"], widths)

page = fn mount ->
  fn _n, mounted, updated ->
    state = mount.(empty)
    mounted.()

    Stream.iterate(state, fn state ->
      state = follow.(state)
      updated.()
      state
    end)
    |> Stream.run()
  end
end

# As with Phoenix.PubSub: a registry of the node, a message to each page, each of which runs the function.
{:ok, _} = Registry.start_link(keys: :duplicate, name: Bench.PubSub)

by_hand = fn _n, mounted, updated ->
  {:ok, _} = Registry.register(Bench.PubSub, "users", nil)
  read = fn -> Repo.transactional(tenant, fn -> Functions.summary(ids) end) end
  read.()
  mounted.()

  Stream.repeatedly(fn ->
    receive do: (:changed -> read.())
    updated.()
  end)
  |> Stream.run()
end

update = fn n -> Repo.update!(user, name: "Eva #{System.os_time()} #{n}") end

publish = fn n ->
  update.(n)

  Registry.dispatch(Bench.PubSub, "users", fn pages ->
    for {pid, _} <- pages, do: send(pid, :changed)
  end)
end

# More pages than these can't read by hand within FoundationDB's five seconds.
few = min(pages, 500)

for {what, pages, page, change} <- [
      {"sync_one", pages, page.(&Sync.sync_one(&1, Repo, :it, User, "u1")), update},
      {"sync_fun of 50 gets", pages,
       page.(&Sync.sync_fun(&1, Repo, :it, {Functions, :summary, [ids]}, timeout: 60_000)),
       update},
      {"#{few} by hand: PubSub, 50 gets in each", few, by_hand, publish}
    ] do
  before = Bench.stats()
  started = Bench.pages(pages, page)
  mounted = Bench.stats()
  time = Bench.changes(started, 5, change)
  stats = Bench.stats()

  evaluated =
    "#{mounted.evaluations - before.evaluations} + #{stats.evaluations - mounted.evaluations}"

  Bench.row([what, started.mount_ms, time, evaluated, stats.pending_watches], widths)
  Bench.stop(started)
end

## Many functions, while writes go on

seconds = opts[:seconds] || 10
rate = 1000
all = for n <- 1..10_000, do: "f#{n}"

all
|> Enum.chunk_every(500)
|> Enum.each(fn ids ->
  Repo.transactional(tenant, fn ->
    for id <- ids, do: Repo.insert!(struct(User, id: id, name: "0"))
  end)
end)

bench = self()

pages =
  for ids <- Enum.chunk_every(all, 10) do
    spawn_link(fn ->
      state = Sync.sync_fun(empty, Repo, :it, {Functions, :many, [ids]}, timeout: 60_000)
      send(bench, :mounted)

      Stream.iterate(state, fn %{assigns: %{it: before}} = state ->
        %{assigns: %{it: users}} = state = follow.(state)

        for {%{name: name}, %{name: other}} <- Enum.zip(users, before),
            name != other,
            do: send(bench, {:lag, now.() - String.to_integer(name)})

        state
      end)
      |> Stream.run()
    end)
  end

for _ <- pages, do: receive(do: (:mounted -> :ok))
before = Bench.stats()
began = now.()

# Each record's name is when it was written.
for second <- 1..seconds do
  for n <- 1..rate do
    id = Enum.random(all)
    Repo.update!(struct(User, id: id), [name: "#{now.()}"], prefix: tenant)
    due = began + ((second - 1) * rate + n) * div(1_000_000, rate)
    left = div(due - now.(), 1000)
    if left > 0, do: Process.sleep(left)
  end
end

took = (now.() - began) / 1_000_000
Sync.settle(Repo, timeout: 60_000)

lags =
  Stream.repeatedly(fn ->
    receive do
      {:lag, lag} -> lag
    after
      0 -> nil
    end
  end)
  |> Enum.take_while(& &1)

stats = Bench.stats()
{first, second} = Enum.split(lags, div(length(lags), 2))
widths = [18, 14, 20, 20, 12]

IO.puts(
  "\n1,000 functions of 10 gets; #{rate} writes a second wanted; microseconds from write to page"
)

Bench.row(
  ["writes a second", "evaluations", "first half p50, p99", "second half p50, p99", "results"],
  widths
)

Bench.row(
  [
    round(seconds * rate / took),
    stats.evaluations - before.evaluations,
    Enum.join(percentiles.(first), ", "),
    Enum.join(percentiles.(second), ", "),
    length(lags)
  ],
  widths
)
