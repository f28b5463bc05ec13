defmodule Bench.Churn do
  # Pages that come and go, as people do who click through an application.

  alias Bench.{Repo, Table, User}
  alias EctoFoundationDB.Sync

  @records 2_000
  @pages 1_000

  def about do
    """
    #{@pages} pages at a time, each on one of #{@records} records and on five that all have, each gone after a tenth of a second
    to two seconds, while records change. Memory in MB: before (after some seconds of the same, when all pages are gone),
    while they come and go, and when all of them are gone again.\
    """
  end

  def run(%{tenant: tenant, quick: quick?}) do
    {warm, seconds} = if quick?, do: {2, 8}, else: {15, 60}

    for ids <- Enum.chunk_every(1..@records, 500) do
      rows = for i <- ids, do: %{id: "u#{i}", name: "User #{i}", team: "t"}
      Repo.insert_all(User, rows, prefix: tenant)
    end

    columns = ["BEAM MB", "process MB", "subscriptions", "live queries", "mounts"]
    table = Table.new("memory while pages come and go", columns)
    churn(tenant, warm, fn -> :ok end)
    {table, before} = row(table, "before", nil)
    most = :ets.new(:most, [:public])
    :ets.insert(most, [{:beam, 0}, {:process, 0}, {:subscriptions, 0}, {:live_queries, 0}])
    mounts = churn(tenant, seconds, fn -> sample(most) end)
    values = for {_, value} <- Enum.sort(:ets.tab2list(most)), do: value
    [beam, live_queries, process, subscriptions] = values
    row = ["while (the most)", beam, process, subscriptions, live_queries, mounts]
    table = Table.add(table, row)
    {table, later} = row(table, "after", nil)
    [beam, process] = Enum.zip_with(later, before, fn later, before -> later / before * 100 end)
    {[Table.add(table, ["after, % of before", beam, process, nil, nil, nil])], []}
  end

  defp row(table, name, mounts) do
    for pid <- Process.list(), do: :erlang.garbage_collect(pid)
    Process.sleep(500)
    memory = for bytes <- Bench.memory(), do: bytes / 1_000_000
    live = Bench.stats()

    {Table.add(table, [name] ++ memory ++ [live.subscriptions, live.live_queries, mounts]),
     memory}
  end

  defp sample(most) do
    [beam, process] = for bytes <- Bench.memory(), do: bytes / 1_000_000
    %{subscriptions: subscriptions, live_queries: live_queries} = Bench.stats()
    now = [beam: beam, process: process, subscriptions: subscriptions, live_queries: live_queries]

    for {name, value} <- now,
        value > :ets.lookup_element(most, name, 2),
        do: :ets.insert(most, {name, value})
  end

  # How many pages have mounted.
  defp churn(tenant, seconds, sample) do
    end_at = System.monotonic_time(:millisecond) + seconds * 1000
    mounts = :counters.new(1, [:write_concurrency])

    slots = for _ <- 1..@pages, do: spawn_monitor(fn -> slot(tenant, end_at, mounts) end)

    writer = spawn(fn -> write(tenant, 1) end)
    watch(end_at, sample)
    for {pid, monitor} <- slots, do: receive(do: ({:DOWN, ^monitor, _, ^pid, _} -> :ok))
    Process.exit(writer, :kill)
    :counters.get(mounts, 1)
  end

  defp watch(end_at, sample) do
    if System.monotonic_time(:millisecond) < end_at do
      sample.()
      Process.sleep(500)
      watch(end_at, sample)
    end
  end

  defp slot(tenant, end_at, mounts) do
    {pid, monitor} = spawn_monitor(fn -> page(tenant, mounts) end)
    receive(do: ({:DOWN, ^monitor, _, ^pid, _} -> :ok))

    if System.monotonic_time(:millisecond) < end_at,
      do: slot(tenant, end_at, mounts)
  end

  defp page(tenant, mounts) do
    state = %{assigns: %{}, private: %{tenant: tenant}}
    id = "u#{:rand.uniform(@records)}"
    state = Sync.sync_one(state, Repo, :user, User, id)
    state = Sync.sync_many(state, Repo, :users, User, for(i <- 1..5, do: "u#{i}"))
    :counters.add(mounts, 1, 1)
    follow(state, System.monotonic_time(:millisecond) + 100 + :rand.uniform(1_900))
  end

  defp follow(state, until) do
    receive do
      message ->
        {:halt, state} = Sync.handle_ready(Repo, message, state)
        follow(state, until)
    after
      max(until - System.monotonic_time(:millisecond), 0) -> :ok
    end
  end

  defp write(tenant, i) do
    user = %{struct(User, id: "u#{rem(i, @records) + 1}") | __meta__: %{prefix: tenant}}
    Repo.update!(user, name: "User #{i}")
    Process.sleep(10)
    write(tenant, i + 1)
  end
end
