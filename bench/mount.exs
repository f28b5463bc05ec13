# Many pages that mount at the same time, as after a deployment: on one record, on one list, and each on
# a record of its own. Each opens its tenant, as the README's first example does. Then the same list while
# another tenant changes `\xff/metadataVersion`, as the steps of its migration do, and while an index of
# another tenant is really built.
#
#     mix run bench/mount.exs [--pages 10000] [--records 200] [--cluster FILE]

Code.require_file("support.exs", __DIR__)

alias Bench.{Repo, User}
alias EctoFoundationDB.{Sync, Tenant, Transaction}
alias EctoFoundationDB.Layer.Metadata

defmodule Bench.Index do
  use EctoFoundationDB.Migration

  @impl true
  def change, do: [create(index(Bench.User, [:team, :name]))]
end

defmodule Bench.Indexed do
  use EctoFoundationDB.Migrator

  @impl true
  def migrations, do: Repo.migrations() ++ [{2, Bench.Index}]
end

{opts, tenant} = Bench.start(pages: :integer, records: :integer)
n = opts[:pages] || 10_000
records = opts[:records] || 200
rows = for i <- 1..records, do: %{id: "u#{i}", name: "User #{i}", team: "team #{rem(i, 7)}"}
Repo.insert_all(User, rows, prefix: tenant)

# Milliseconds that a page waits for its mount.
mount = fn sync ->
  times = :ets.new(:times, [:public, write_concurrency: true])

  page = fn i, mounted, _updated ->
    start = System.monotonic_time(:microsecond)
    state = sync.(%{assigns: %{}, private: %{tenant: Tenant.open!(Repo, tenant.id)}}, i)
    :ets.insert(times, {i, (System.monotonic_time(:microsecond) - start) / 1000})
    mounted.()
    receive do: (:never -> state)
  end

  {page, fn -> for {_i, time} <- :ets.tab2list(times), do: time end}
end

widths = [26, 9, 9, 12, 12, 10, 14]

measure = fn name, n, sync ->
  {page, times} = mount.(sync)
  before = Bench.stats()
  pages = Bench.pages(n, page)
  now = Bench.stats()
  [p50, p99] = for q <- [0.5, 0.99], do: Bench.percentile(times.(), q)
  reads = now.reads - before.reads
  batches = now.batches - before.batches
  Bench.row([name, n, reads, batches, pages.mount_ms, p50, p99], widths)
  Bench.stop(pages)
  Process.sleep(300)
end

IO.puts("\nPages that mount at the same time; milliseconds")
Bench.row(["", "pages", "reads", "transactions", "all of them", "a page: p50", "p99"], widths)
one = fn state, _i -> Sync.sync_one(state, Repo, :user, User, "u1") end
all = fn state, _i -> Sync.sync_all(state, Repo, :users, User) end

for n <- Enum.uniq([1, 10, min(100, n), n]) do
  measure.("one record", n, one)
  measure.("a list of #{records}", n, all)

  measure.("each its own record", n, fn state, i ->
    Sync.sync_one(state, Repo, :user, User, "new #{n} #{i}")
  end)
end

other = Tenant.open!(Repo, "bench-other-#{System.os_time()}")

beside = fn name, work ->
  process = spawn(work)
  measure.("the list, #{name}", min(2_000, n), all)
  Process.exit(process, :kill)
end

measure.("the list", min(2_000, n), all)

for ms <- [100, 20, 5] do
  beside.("a bump in #{ms} ms", fn ->
    Stream.repeatedly(fn ->
      Transaction.run(other, fn -> Transaction.write([Metadata.changed()]) end)
      Process.sleep(ms)
    end)
    |> Stream.run()
  end)
end

for ids <- Enum.chunk_every(1..20_000, 1_000) do
  rows = for i <- ids, do: %{id: "u#{i}", name: "User #{i}", team: "t"}
  Repo.insert_all(User, rows, prefix: other)
end

beside.("an index built", fn -> Tenant.open!(Repo, other.id, migrator: Bench.Indexed) end)
