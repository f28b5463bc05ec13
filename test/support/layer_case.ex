defmodule EctoFoundationDB.LayerCase do
  @moduledoc false
  # One tenant per test, so that tests can run at the same time.
  use ExUnit.CaseTemplate

  alias EctoFoundationDB.{Native, Tenant, TestRepo}
  alias EctoFoundationDB.Layer.{Keys, Query, Reader, Source}

  using do
    quote do
      import EctoFoundationDB.LayerCase
      import EctoFoundationDB.TestMigration, only: [migration: 1, versions: 1]

      alias EctoFoundationDB.{
        Tenant,
        TestAccount,
        TestEvent,
        TestIndexer,
        TestMember,
        TestNote,
        TestPost,
        TestRepo,
        TestSerial,
        TestThing,
        TestUser
      }
    end
  end

  setup context do
    start_repo()

    {:ok,
     id: tenant_id(context),
     tenant: Tenant.open!(TestRepo, tenant_id(context), Map.get(context, :tenant_options, []))}
  end

  @doc "Starts the Repo of all tests, once."
  def start_repo do
    case Process.whereis(TestRepo) do
      nil ->
        # Not linked: it outlives the first test.
        spawn(fn ->
          TestRepo.start_link(TestRepo.test_config())
          Process.sleep(:infinity)
        end)

        wait_for_repo(200)

      _ ->
        wait_for_repo(200)
    end
  end

  defp wait_for_repo(0), do: raise("the test Repo does not start")

  defp wait_for_repo(n) do
    EctoFoundationDB.Connection.fetch!(TestRepo)
    :ok
  rescue
    ArgumentError ->
      Process.sleep(20)
      wait_for_repo(n - 1)
  end

  def tenant_id(context),
    do:
      "#{inspect(context.module)}-#{context.test}-#{System.unique_integer([:positive])}-#{System.os_time()}"

  @doc "Everything a tenant holds, as `{tuple without the tenant's prefix, value}`."
  def dump(tenant) do
    {first, last} = Keys.range({tenant.prefix})

    # Also the cache of a deleted one.
    rows =
      EctoFoundationDB.Transaction.run_database(tenant.repo, fn ->
        [rows] = EctoFoundationDB.Transaction.read([{:get_range, first, last, %{}}])
        rows
      end)

    for {key, value} <- rows, do: {Tuple.delete_at(Native.unpack(key), 0), value}
  end

  @doc """
  What is wrong with a tenant's default indexes: `{:stray, entry}` for entries that no record has,
  `{:missing, entry}` for those that a record lacks.
  """
  def stray_entries(tenant, schema) do
    rows = dump(tenant)
    source = schema.__schema__(:source)

    indexes =
      for {{<<0xFE>>, "indexes", ^source, _}, value} <- rows, do: :erlang.binary_to_term(value)

    indexes =
      for data <- indexes,
          data[:indexer] in [EctoFoundationDB.Indexer.Default, EctoFoundationDB.TestIndexer],
          do: EctoFoundationDB.Index.from_data(data)

    described = Source.of(schema)

    loaded =
      EctoFoundationDB.Transaction.run(tenant, fn ->
        tenant |> Query.new(described) |> Reader.run()
      end)

    expected =
      for index <- indexes, record <- loaded, into: MapSet.new() do
        id = EctoFoundationDB.Layer.Record.get(record.data, described.id)
        tuple = EctoFoundationDB.Indexer.Default.entry(tenant, index, described, record.data, id)
        # As the tuple layer returns it.
        {tuple |> Native.pack() |> Native.unpack() |> Tuple.delete_at(0), record.key}
      end

    actual =
      for {tuple, value} <- rows,
          match?({<<0xFD>>, ^source, "i"}, first_three(tuple)),
          into: MapSet.new(),
          do: {tuple, value}

    for(entry <- MapSet.difference(actual, expected), do: {:stray, entry}) ++
      for(entry <- MapSet.difference(expected, actual), do: {:missing, entry})
  end

  defp first_three(tuple) when tuple_size(tuple) >= 3,
    do: {elem(tuple, 0), elem(tuple, 1), elem(tuple, 2)}

  defp first_three(_tuple), do: nil

  @doc """
  Asserts which calls for the database a function makes: `:run` for operations, `:commit`. It is given a
  number, and tried again where there are others: migrations of other tests make the node look at the
  tenant's indexes again.
  """
  def assert_calls(expected, fun, n \\ 1) do
    calls = traced(fn -> fun.(n) end)

    if calls != expected and n < 500,
      do: assert_calls(expected, fun, n + 1),
      else: assert(calls == expected)
  end

  defp traced(fun) do
    for {function, arity} <- [transaction_run: 3, transaction_commit: 4],
        do: :erlang.trace_pattern({Native, function, arity}, true, [:global])

    task =
      Task.async(fn ->
        receive do: (:go -> fun.())
      end)

    :erlang.trace(task.pid, true, [:call])
    send(task.pid, :go)
    Task.await(task, :infinity)
    delivered = :erlang.trace_delivered(task.pid)

    receive do
      {:trace_delivered, _, ^delivered} -> called(task.pid)
    end
  end

  defp called(pid) do
    receive do
      {:trace, ^pid, :call, {Native, :transaction_run, _}} -> [:run | called(pid)]
      {:trace, ^pid, :call, {Native, :transaction_commit, _}} -> [:commit | called(pid)]
    after
      0 -> []
    end
  end

  @doc "Runs operations in a transaction of the tenant: what other clients would write."
  def operations(tenant, operations) do
    EctoFoundationDB.Transaction.run(tenant, fn ->
      EctoFoundationDB.Transaction.write(operations)
    end)
  end
end
