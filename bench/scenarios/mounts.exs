defmodule Bench.Mounts do
  # Many pages that mount at the same time, as after a deployment.

  alias Bench.{Chart, LeftOut, Repo, Table, User}
  alias EctoFoundationDB.{Sync, Tenant, Transaction}
  alias EctoFoundationDB.Layer.Metadata

  @bytes_of_a_page 8_000

  defmodule Index do
    use EctoFoundationDB.Migration

    @impl true
    def change, do: [create(index(Bench.User, [:team, :name]))]
  end

  defmodule Indexed do
    use EctoFoundationDB.Migrator

    @impl true
    def migrations, do: Repo.migrations() ++ [{2, Index}]
  end

  def about do
    """
    Pages that mount at the same time, in milliseconds: until all of them are there, and what one of them waits. Each opens
    its tenant, as the README's first example does. The classic way: each page reads for itself and arms a watch. Then
    the same list while another tenant changes the metadata version, as the steps of its migration do, and while an
    index of another tenant is really built.\
    """
  end

  def run(%{tenant: tenant, quick: quick?} = bench) do
    n = if quick?, do: 3_000, else: 10_000
    bench = Map.put(bench, :beside, if(quick?, do: 1_000, else: 2_000))
    rows = for i <- 1..200, do: %{id: "u#{i}", name: "User #{i}", team: "team #{rem(i, 7)}"}
    Repo.insert_all(User, rows, prefix: tenant)
    {storm, bars} = storm(bench, n)
    {[storm, beside(bench)], [Chart.new("mounts", "A storm of mounts, all of them", "ms", bars)]}
  end

  @columns ["pages", "all", "a page p50", "p99", "max", "reads", "watches", "transactions"]

  defp storm(%{tenant: tenant} = bench, n) do
    table = Table.new("pages that mount at the same time, ms", @columns)

    watch = fn _i ->
      fn -> Repo.watch(Repo.get!(User, "u1"), label: :user) end
    end

    ways = [
      {"one record", :ours, synced(tenant, &one/2)},
      {"classic: one record", :classic, classic(tenant, watch)},
      {"a list of 200", :ours, synced(tenant, &all/2)},
      {"classic: a list of 200", :classic, classic(tenant, fn _i -> fn -> watch_all() end end)},
      {"each its own record", :ours, synced(tenant, &own/2)}
    ]

    for n <- Enum.uniq([1, 100, n]), {name, kind, page} <- ways, reduce: {table, []} do
      {table, bars} ->
        {time, table} = measure(table, bench, name, n, page)
        {table, if(n > 1, do: bars ++ [{"#{name}, #{n} pages", kind, time}], else: bars)}
    end
  end

  defp one(state, _i), do: Sync.sync_one(state, Repo, :user, User, "u1")
  defp all(state, _i), do: Sync.sync_all(state, Repo, :users, User)
  defp own(state, i), do: Sync.sync_one(state, Repo, :user, User, "new #{i}")

  defp watch_all do
    EctoFoundationDB.Indexer.SchemaMetadata.watch_changes(User, label: :users)
    Repo.all(User)
  end

  defp synced(tenant, sync) do
    fn i -> sync.(%{assigns: %{}, private: %{tenant: Tenant.open!(Repo, tenant.id)}}, i) end
  end

  defp classic(tenant, start) do
    fn i -> Repo.transactional(Tenant.open!(Repo, tenant.id), start.(i)) end
  end

  defp measure(table, bench, name, n, mount) do
    Bench.check_memory!(n, @bytes_of_a_page)
    times = :ets.new(:times, [:public, write_concurrency: true])

    page = fn i, mounted, _updated ->
      start = System.monotonic_time(:microsecond)
      state = mount.(i)
      :ets.insert(times, {i, (System.monotonic_time(:microsecond) - start) / 1000})
      mounted.()
      receive do: (:never -> state)
    end

    {counts, pages} = Bench.counted(fn -> Bench.pages(n, page) end)
    spread = Bench.spread(for {_i, time} <- :ets.tab2list(times), do: time)
    watches = if name =~ "classic", do: n, else: counts.watches
    # On a cluster nobody counts the reads of the classic way here.
    unknown? = name =~ "classic" and bench.cluster != nil
    {reads, transactions} = if unknown?, do: {nil, nil}, else: {counts.reads, counts.transactions}
    Bench.stop(pages)
    :ets.delete(times)
    Process.sleep(300)
    row = [name, n, pages.mount_ms] ++ spread ++ [reads, watches, transactions]
    {pages.mount_ms, Table.add(table, row)}
  rescue
    error in LeftOut -> {nil, Table.leave_out(table, name, error.message)}
  end

  defp beside(%{tenant: tenant, beside: n, quick: quick?} = bench) do
    other = Tenant.open!(Repo, tenant.id <> "-other")
    table = Table.new("a list of 200, while others migrate, ms", @columns)
    page = synced(tenant, &all/2)

    beside = fn table, name, work ->
      process = spawn(work)
      {_time, table} = measure(table, bench, name, n, page)
      Process.exit(process, :kill)
      table
    end

    {_time, table} = measure(table, bench, "nothing beside", n, page)

    table =
      for ms <- [100, 20, 5], reduce: table do
        table ->
          beside.(table, "a bump in #{ms} ms", fn ->
            Stream.repeatedly(fn ->
              Transaction.run(other, fn -> Transaction.write([Metadata.changed()]) end)
              Process.sleep(ms)
            end)
            |> Stream.run()
          end)
      end

    for ids <- Enum.chunk_every(1..if(quick?, do: 5_000, else: 20_000), 1_000) do
      rows = for i <- ids, do: %{id: "u#{i}", name: "User #{i}", team: "t"}
      Repo.insert_all(User, rows, prefix: other)
    end

    table =
      beside.(table, "an index built", fn -> Tenant.open!(Repo, other.id, migrator: Indexed) end)

    Process.sleep(300)
    Tenant.clear_delete!(Repo, other.id)
    table
  end
end
