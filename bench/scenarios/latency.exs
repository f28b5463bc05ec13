defmodule Bench.Latency do
  # One page, one change at a time.

  alias Bench.{Chart, Floor, Repo, Table, User}
  alias EctoFoundationDB.Sync

  def about do
    """
    From the return of a commit until one page has assigned the change, in microseconds. The classic way: a watch and a
    read of the process itself. The floor: a task in Rust that waits for the watch and reads. The last columns are
    requests for each change, the writer's included, who reads and commits; on a cluster those of live queries alone.\
    """
  end

  def run(%{tenant: tenant, quick: quick?} = bench) do
    changes = if quick?, do: 300, else: 5000
    user = Repo.insert!(struct(User, id: "u1", name: "Ada", team: "a"), prefix: tenant)

    columns = [
      "changes",
      "commit p50",
      "assign p50",
      "p99",
      "max",
      "reads",
      "watches",
      "transactions"
    ]

    table = Table.new("commit → assign, one page, µs", columns)
    {floor, table} = floor(table, bench)
    state = Sync.sync_one(%{assigns: %{}, private: %{tenant: tenant}}, Repo, :user, User, "u1")
    {synced, table} = measure(table, "sync_one", {bench, :ours}, changes, user, &follow/1, state)
    Sync.cancel_all(state, Repo)

    watch = fn -> Repo.watch(Repo.get!(User, "u1"), label: :user) end
    state = {tenant, %{}, [Repo.transactional(tenant, watch)]}

    way = {bench, :classic}
    name = "classic: Repo.watch"
    {classic, table} = measure(table, name, way, changes, user, &follow_classic/1, state)

    bars = [
      {"the floor: watch and read", :floor, floor},
      {"sync_one", :ours, synced},
      {"Repo.watch, Repo.get", :classic, classic}
    ]

    {[table], [Chart.new("latency", "Commit → assign, one page, p50", "µs", bars)]}
  end

  defp floor(table, bench) do
    {_rate, [p50, p99, max]} = Floor.measure(bench, "latency", if(bench.quick, do: 1, else: 5), 1)
    name = "the floor: watch and read in Rust"
    {p50, Table.add(table, [name, nil, nil, p50, p99, max, nil, nil, nil])}
  rescue
    error in Bench.LeftOut -> {nil, Table.leave_out(table, "the floor", error.message)}
  end

  defp measure(table, name, {bench, kind}, changes, user, follow, state) do
    state =
      Enum.reduce(1..20, state, fn i, state -> change(user, -i, follow, state) |> elem(1) end)

    {counts, times} =
      Bench.counted(fn ->
        {times, _state} = Enum.map_reduce(1..changes, state, &change(user, &1, follow, &2))
        times
      end)

    {commits, assigns} = Enum.unzip(times)
    [commit, _, _] = Bench.spread(commits)
    [p50, p99, max] = Bench.spread(assigns)
    each = Bench.each_change_costs(bench, kind, counts, changes)
    {p50, Table.add(table, [name, changes, commit, p50, p99, max | each])}
  end

  defp change(user, i, follow, state) do
    start = System.monotonic_time(:nanosecond)
    Repo.update!(user, name: "Ada #{i}")
    committed = System.monotonic_time(:nanosecond)
    state = follow.(state)
    assigned = System.monotonic_time(:nanosecond)
    {{(committed - start) / 1000, (assigned - committed) / 1000}, state}
  end

  defp follow(state) do
    receive do
      message ->
        {:halt, state} = Sync.handle_ready(Repo, message, state)
        state
    end
  end

  defp follow_classic({tenant, assigns, futures}) do
    receive do
      {ref, :ready} when is_reference(ref) ->
        {changed, futures, _others} =
          Repo.assign_ready(futures, [ref], watch?: true, prefix: tenant)

        {tenant, Map.merge(assigns, Map.new(changed)), futures}
    end
  end
end
