defmodule Bench.Fanout do
  # From a commit until the last page shows it.

  alias Bench.{Chart, LeftOut, Repo, Table, User}
  alias EctoFoundationDB.Indexer.SchemaMetadata
  alias EctoFoundationDB.{Native, Sync}

  # FoundationDB's default of 10,000 watches is the classic way's limit on a cluster.
  @classic_limit 9_000
  @bytes_of_a_page 8_000

  def about do
    """
    From before a change until the last of many pages has it, in milliseconds, and what a page takes in bytes: of the BEAM,
    and of the whole process. The classic way: each page has its own watch, and reads again. The floor of one record: a
    process sends each page a message, and the page makes one NIF call, copies the record out of a binary and puts it
    into a map. Reads, watches and transactions are those of one change, the writer's included, and on a cluster those of
    live queries alone. The last columns are microseconds of processor time of a change and page: of the VM's
    schedulers, and of all other threads.\
    """
  end

  def run(%{quick: quick?} = bench) do
    pages = if quick?, do: [100, 3_000], else: [100, 1_000, 9_000, 100_000]
    lists = if quick?, do: [{300, 200}], else: [{300, 200}, {1_000, 200}, {300, 1_000}]
    bench = Map.put(bench, :times, if(quick?, do: 5, else: 15))
    {record, record_bars} = records(bench, pages)
    {list, list_bars} = lists(bench, lists)

    {[record, list],
     [
       Chart.new("fanout", "Commit → last page, one record, p50", "ms", record_bars),
       Chart.new("fanout-lists", "Commit → last page, a list, p50", "ms", list_bars)
     ]}
  end

  @columns ~w(pages mount p50 p99 max reads watches transactions) ++
             ["BEAM B", "all B", "BEAM cpu", "other cpu"]

  defp records(%{tenant: tenant} = bench, pages) do
    table = Table.new("one record, ms", @columns)
    user = Repo.insert!(struct(User, id: "u1", name: "Ada", team: "a"), prefix: tenant)
    change = fn i -> Repo.update!(user, name: "Ada #{i} #{System.unique_integer()}") end
    sync = &Sync.sync_one(&1, Repo, :user, User, "u1")

    watch = fn ->
      user = Repo.get!(User, "u1")
      {%{user: user}, Repo.watch(user, label: :user)}
    end

    ways = [
      {"the floor: message, call, copy, put", :floor, &floor(&1, &2, bench, user)},
      {"sync_one", :ours, &measure(&1, &2, bench, "sync_one", synced(tenant, sync), change)},
      {"Repo.watch, Repo.get", :classic,
       &measure(&1, &2, bench, "classic: Repo.watch", classic(tenant, watch), change)}
    ]

    for n <- pages,
        {name, kind, way} <- ways,
        kind != :classic or n <= @classic_limit,
        reduce: {table, []} do
      {table, bars} -> add(table, bars, "#{name}, #{n} pages", kind, fn -> way.(table, n) end)
    end
  end

  defp lists(%{tenant: tenant} = bench, lists) do
    table = Table.new("a list of which one record changes, ms", @columns)

    for {n, m} <- lists, kind <- [:ours, :classic], reduce: {table, []} do
      {table, bars} ->
        Repo.delete_all(User, prefix: tenant)
        rows = for i <- 1..m, do: %{id: "u#{i}", name: "User #{i}", team: "team #{rem(i, 7)}"}
        Repo.insert_all(User, rows, prefix: tenant)
        user = Repo.get!(User, "u#{div(m + 1, 2)}", prefix: tenant)
        change = fn i -> Repo.update!(user, name: "User #{i} #{System.unique_integer()}") end

        {name, page} =
          if kind == :ours,
            do: {"sync_all", synced(tenant, &Sync.sync_all(&1, Repo, :users, User))},
            else: {"classic: watch, all", classic(tenant, &watch_all/0)}

        name = "#{name}, #{m} records"

        add(table, bars, "#{name}, #{n} pages", kind, fn ->
          measure(table, n, bench, name, page, change)
        end)
    end
  end

  defp watch_all do
    future = SchemaMetadata.watch_changes(User, label: :users)
    {%{users: Repo.all(User)}, future}
  end

  defp add(table, bars, label, kind, way) do
    {p50, table} = way.()
    {table, bars ++ [{label, kind, p50}]}
  rescue
    error in LeftOut -> {Table.leave_out(table, label, error.message), bars}
  end

  defp measure(table, n, %{times: times} = bench, name, page, change) do
    Bench.check_memory!(n, @bytes_of_a_page)
    pages = Bench.pages(n, page)
    # The first change finds memory cold.
    Bench.each_change(pages, 1, &change.(-&1))
    {counts, took} = Bench.counted(fn -> Bench.each_change(pages, times, change) end)
    Bench.stop(pages)
    [p50 | _] = spread = Bench.spread(took)
    kind = if name =~ "classic", do: :classic, else: :ours
    each = Bench.each_change_costs(bench, kind, counts, times, n)
    cpu = for whose <- [:beam, :other], do: counts[whose] / (n * times)
    {p50, Table.add(table, [name, n, pages.mount_ms] ++ spread ++ each ++ pages.used ++ cpu)}
  end

  defp synced(tenant, sync) do
    fn _i, mounted, updated ->
      state = sync.(%{assigns: %{}, private: %{tenant: tenant}})
      mounted.()
      follow(state, updated)
    end
  end

  defp follow(state, updated) do
    receive do
      message ->
        {:halt, state} = Sync.handle_ready(Repo, message, state)
        updated.()
        follow(state, updated)
    end
  end

  defp classic(tenant, start) do
    fn _i, mounted, updated ->
      {assigns, future} = Repo.transactional(tenant, start)
      mounted.()
      follow_classic(tenant, assigns, [future], updated)
    end
  end

  defp follow_classic(tenant, assigns, futures, updated) do
    receive do
      {ref, :ready} when is_reference(ref) ->
        {changed, futures, _others} =
          Repo.assign_ready(futures, [ref], watch?: true, prefix: tenant)

        updated.()
        follow_classic(tenant, Map.merge(assigns, Map.new(changed)), futures, updated)
    end
  end

  # No page can do less: it is told, calls, copies the record and puts it.
  defp floor(table, n, %{tenant: tenant, times: times}, user) do
    Bench.check_memory!(n, @bytes_of_a_page)

    page = fn _i, mounted, updated ->
      user = Repo.get!(User, "u1", prefix: tenant)
      state = %{assigns: %{user: user}, private: %{tenant: tenant}}
      mounted.()
      follow_bare(state, updated)
    end

    pages = Bench.pages(n, page)

    change = fn i ->
      record = :erlang.term_to_binary(%{user | name: "Ada #{i} #{System.unique_integer()}"})
      for pid <- pages.pids, do: send(pid, {make_ref(), record})
    end

    Bench.each_change(pages, 1, change)
    {counts, took} = Bench.counted(fn -> Bench.each_change(pages, times, change) end)
    Bench.stop(pages)
    [p50 | _] = spread = Bench.spread(took)
    name = "the floor: message, call, copy, put"

    rest =
      [nil, nil, nil] ++ pages.used ++ [counts.beam / (n * times), counts.other / (n * times)]

    {p50, Table.add(table, [name, n, pages.mount_ms] ++ spread ++ rest)}
  end

  defp follow_bare(state, updated) do
    receive do
      {_ref, record} ->
        Native.pack({1})
        user = :erlang.binary_to_term(record)
        state = %{state | assigns: Map.put(state.assigns, :user, user)}
        updated.()
        follow_bare(state, updated)
    end
  end
end
