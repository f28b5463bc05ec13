defmodule Bench.Transactions do
  # The plain calls of an application, by 1, 16 and 128 processes at once.

  alias Bench.{Chart, Floor, LeftOut, Repo, Table, User}
  alias EctoFoundationDB.Tenant

  @processes [1, 16, 128]

  defmodule Indexes do
    use EctoFoundationDB.Migration

    @impl true
    def change do
      [
        create(metadata(Bench.User)),
        create(index(Bench.User, [:name])),
        create(index(Bench.User, [:team, :name]))
      ]
    end
  end

  defmodule Migrator do
    use EctoFoundationDB.Migrator

    @impl true
    def migrations, do: [{1, Indexes}]
  end

  defmodule NoIndexes do
    use EctoFoundationDB.Migrator

    @impl true
    def migrations, do: []
  end

  def migrator, do: Migrator

  def about do
    """
    Operations a second, microseconds of one, and what it asks of the database: transactions (read versions), reads and
    commits. The schema has two indexes and counters. The floor does the same reads and writes in Rust, with the
    `foundationdb` crate alone; ours in the same run, in turn with it. The last columns are microseconds of processor
    time of an operation: of the VM's schedulers, and of all other threads (the NIF's, and the client's).\
    """
  end

  def run(%{tenant: tenant, quick: quick?} = bench) do
    bench = Map.put(bench, :seconds, if(quick?, do: 0.4, else: 3))
    kinds = kinds(bench)

    columns = ["processes", "a second", "p50 µs", "p99", "max"]
    columns = columns ++ ["transactions", "reads", "commits", "BEAM cpu", "other cpu"]

    rows = for i <- 1..1000, do: %{id: "u#{1000 + i}", name: "n#{i}", team: "t#{div(i - 1, 20)}"}
    bare = Tenant.open!(Repo, tenant.id <> "-bare", migrator: NoIndexes)
    for prefix <- [tenant, bare], do: Repo.insert_all(User, rows, prefix: prefix)

    results =
      for {name, work} <- operations() do
        table = Table.new(name, columns)

        for processes <- @processes, way <- [:floor | kinds], reduce: {table, []} do
          {table, bars} -> measure(table, bars, bench, name, work, processes, way, bare)
        end
      end

    Tenant.clear_delete!(Repo, bare.id)
    {tables, bars} = Enum.unzip(results)
    {tables, [Chart.new("transactions", "Operations a second", "/s", Enum.concat(bars))]}
  end

  # Name, and the floor's name for it.
  defp operations do
    [
      {"get", "get"},
      {"20 gets in one transaction", "gets"},
      {"insert, no index, id generated", nil},
      {"insert, id generated", "insert_new"},
      {"insert, id given", "insert"},
      {"update of one record", "update"},
      {"index query of 20", "index"},
      {"range of 1,000", "range"}
    ]
  end

  defp measure(table, bars, _bench, _name, nil, _processes, :floor, _bare), do: {table, bars}

  defp measure(table, bars, bench, name, work, processes, :floor, _bare) do
    {rate, spread} = Floor.measure(bench, work, bench.seconds, processes)
    row = ["the floor", processes, round(rate)] ++ spread ++ List.duplicate(nil, 5)
    {Table.add(table, row), bars ++ bar(name, processes, :floor, rate)}
  rescue
    error in LeftOut -> {Table.leave_out(table, "the floor", error.message), bars}
  end

  defp measure(table, bars, bench, name, _work, processes, {kind, repo, schema, tenant}, bare) do
    tenant = if name =~ "no index", do: in_repo(repo, bare), else: tenant
    fun = operation(name, repo, schema, tenant)
    on_processes(processes, bench.seconds / 5, fun)

    {counts, {rate, took}} =
      Bench.counted(repo, fn -> on_processes(processes, bench.seconds, fun) end)

    # Of the embedded engine; on a cluster nobody counts them here.
    each =
      if is_map_key(counts, :commits),
        do: for(what <- [:transactions, :reads, :commits], do: counts[what] / length(took)),
        else: [nil, nil, nil]

    each = each ++ for(whose <- [:beam, :other], do: counts[whose] / length(took))
    table = Table.add(table, [kind, processes, round(rate)] ++ Bench.spread(took) ++ each)
    bars = if kind == "plain Repo", do: bars ++ bar(name, processes, :ours, rate), else: bars
    {table, bars}
  end

  # Of 16 processes there is no bar: the chart is long as it is.
  defp bar(_name, 16, _kind, _rate), do: []
  defp bar(name, processes, kind, rate), do: [{"#{name}, #{processes}", kind, round(rate)}]

  @doc "Operations a second, and microseconds of each."
  def on_processes(processes, seconds, fun) do
    microseconds = round(seconds * 1_000_000)

    {time, took} =
      :timer.tc(fn ->
        end_at = System.monotonic_time(:microsecond) + microseconds

        1..processes
        |> Enum.map(fn _ -> Task.async(fn -> until(end_at, fun, []) end) end)
        |> Task.await_many(:infinity)
      end)

    took = Enum.concat(took)
    {length(took) * 1_000_000 / time, took}
  end

  defp until(end_at, fun, took) do
    start = System.monotonic_time(:nanosecond)
    fun.()
    now = System.monotonic_time(:nanosecond)
    took = [(now - start) / 1000 | took]
    if div(now, 1000) < end_at, do: until(end_at, fun, took), else: took
  end

  defp operation("get", repo, schema, tenant),
    do: fn -> repo.get!(schema, "u1500", prefix: tenant) end

  defp operation("20 gets" <> _, repo, schema, tenant) do
    fn ->
      repo.transactional(tenant, fn ->
        repo.await(for i <- 1..20, do: repo.async_get(schema, "u#{1000 + i}"))
      end)
    end
  end

  defp operation("insert, id given", repo, schema, tenant) do
    fn ->
      id = "x#{System.unique_integer([:positive])}"
      repo.insert!(struct!(schema, id: id, name: "n", team: "new"), prefix: tenant)
    end
  end

  defp operation("insert" <> _, repo, schema, tenant),
    do: fn -> repo.insert!(struct!(schema, name: "n", team: "new"), prefix: tenant) end

  # Each process another record, so that they don't conflict but by chance.
  defp operation("update" <> _, repo, schema, tenant) do
    users = List.to_tuple(repo.all_range(schema, "u", "v", prefix: tenant))

    fn ->
      number = System.unique_integer([:positive])
      user = elem(users, rem(number, tuple_size(users)))
      name = "n#{number}"

      # Ecto's own update takes a changeset.
      if schema == User,
        do: repo.update!(user, name: name),
        else: apply(schema, :rename!, [repo, user, name])
    end
  end

  defp operation("index query" <> _, repo, schema, tenant) do
    if schema == User,
      do: fn -> 20 = length(repo.all(schema, where: [team: "t7"], prefix: tenant)) end,
      else: fn -> 20 = length(repo.all_by(schema, [team: "t7"], prefix: tenant)) end
  end

  defp operation("range" <> _, repo, schema, tenant),
    do: fn -> 1000 = length(repo.all_range(schema, "u", "v", prefix: tenant)) end

  # The plain Repo and, where Ecto is present, an Ecto repository.
  defp kinds(bench) do
    plain = {"plain Repo", Repo, User, bench.tenant}

    if Code.ensure_loaded?(Ecto.Adapter) do
      Code.require_file("../ecto.exs", __DIR__)
      {:ok, _} = Application.ensure_all_started(:ecto)
      repo = Module.concat(Bench, EctoRepo)

      case repo.start_link(Bench.config(Map.to_list(bench))) do
        {:ok, _} -> :ok
        {:error, {:already_started, _}} -> :ok
      end

      rows =
        for i <- 1..1000, do: %{id: "u#{1000 + i}", name: "n#{i}", team: "t#{div(i - 1, 20)}"}

      tenant = in_repo(repo, bench.tenant)

      repo.insert_all(Module.concat(Bench, EctoUser), rows,
        prefix: tenant,
        on_conflict: :replace_all
      )

      [plain, {"Ecto repository", repo, Module.concat(Bench, EctoUser), tenant}]
    else
      IO.puts("  Ecto is not present: its repository is not measured.")
      [plain]
    end
  end

  defp in_repo(Repo, tenant), do: tenant

  defp in_repo(repo, tenant) do
    migrator = if tenant.id =~ "-bare", do: NoIndexes, else: Migrator
    Tenant.open!(repo, tenant.id, migrator: migrator)
  end
end
