defmodule Bench.Layer do
  # What it brings that an operation is one call of the NIF, and what computing index entries costs.

  alias Bench.{Repo, Table, Transactions, User}
  alias EctoFoundationDB.{Connection, Indexer, Native, Values}
  alias EctoFoundationDB.Layer.{Keys, Metadata, Record, Source}

  Code.require_file("transactions.exs", __DIR__)

  def migrator, do: Transactions.Migrator

  def about do
    """
    Medians in microseconds, of one process. An operation is one call of the NIF that reads and one that commits; beside it
    the same work with one call for each key. Last, computing the entries of two indexes and three counters.\
    """
  end

  def run(%{tenant: tenant, quick: quick?}) do
    inserts = if quick?, do: 300, else: 3000
    database = Connection.fetch!(Repo).database
    table = Table.new("one call for an operation, µs", ["p50"])

    user = fn kind, i ->
      struct(User, id: "#{kind}#{i}", name: "name #{i}", team: "team #{rem(i, 10)}")
    end

    insert = fn i -> Repo.insert!(user.("a", i), prefix: tenant) end
    insert_by_key = fn i -> insert_by_key(database, tenant, user.("b", i)) end
    # Both are warm when they are measured.
    for i <- 1..100, do: {insert.(-i), insert_by_key.(-i)}
    table = Table.add(table, ["insert, 2 indexes and counters", median(insert, inserts)])
    table = Table.add(table, ["the same, a call for each key", median(insert_by_key, inserts)])

    rows = for i <- 1..1000, do: [id: "u#{1000 + i}", name: "name #{i}", team: "team"]
    {1000, nil} = Repo.insert_all(User, rows, prefix: tenant)
    all = fn _ -> 1000 = length(Repo.all_range(User, "u", "v", prefix: tenant)) end
    table = Table.add(table, ["1,000 records, a range", median(all, 50)])
    all_by_key = fn _ -> get_by_key(database, tenant, rows) end
    table = Table.add(table, ["the same, a call for each key", median(all_by_key, 20)])
    by_index = fn _ -> 1000 = length(Repo.all(User, where: [team: "team"], prefix: tenant)) end
    table = Table.add(table, ["1,000 records by an index", median(by_index, 50)])

    {indexes, key} =
      EctoFoundationDB.Transaction.run(tenant, fn ->
        {Metadata.load(tenant, "users").indexes, Native.pack(Keys.record(tenant, "users", "u1"))}
      end)

    record = {key, [id: "u1", name: "name 1", team: "team"]}

    entries = fn _ ->
      for _ <- 1..1000, do: [_, _, _, _, _] = Indexer.set_all(tenant, indexes, User, record)
    end

    table = Table.add(table, ["entries of a record", median(entries, 20) / 1000])
    {[table], []}
  end

  defp median(fun, n),
    do: for(i <- 1..n, do: fun |> :timer.tc([i]) |> elem(0)) |> Bench.percentile(0.5)

  # One call, and its answer.
  defp call(transaction, operation) do
    ref = make_ref()
    Native.transaction_run(transaction, ref, [operation])

    receive do
      {^ref, {:ok, [answer]}} -> answer
    end
  end

  defp insert_by_key(database, tenant, %{id: id, name: name, team: team}) do
    {:ok, transaction} = Native.transaction_new(database)
    key = Native.pack(Keys.record(tenant, "users", id))
    call(transaction, {:get, "\xff/metadataVersion", true})
    claim = Native.pack(Keys.claim(tenant, "users"))
    call(transaction, {:read_conflict, claim, claim <> <<0>>})
    [] = call(transaction, {:get_range, key, key <> <<0xFF>>, %{}})
    call(transaction, {:set, key, :erlang.term_to_binary(id: id, name: name, team: team)})

    for {index, values} <- [{"users_name_index", [name]}, {"users_team_name_index", [team, name]}] do
      entry = {:pack, Keys.index_entry(tenant, "users", index, values, id)}
      call(transaction, {:set, entry, key})
    end

    for signal <- [:inserts, :collection, :changes] do
      counter = {:pack, Keys.counter(tenant, "users", nil, [], signal)}
      call(transaction, {:atomic, :add, counter, <<1::little-64>>})
    end

    ref = make_ref()
    Native.transaction_commit(transaction, ref, [], nil)

    receive do
      {^ref, {:ok, _version, _stamp}} -> :ok
    end
  end

  defp get_by_key(database, tenant, rows) do
    {:ok, transaction} = Native.transaction_new(database)

    read =
      for row <- rows do
        key = Native.pack(Keys.record(tenant, "users", row[:id]))
        {key, call(transaction, {:get, key, false})}
      end

    loader = Values.loader(User, tenant)
    1000 = loader |> Values.load_all(Record.decode(read, Source.of(User))) |> length()
  end
end
