# What it brings that an operation is one call of the NIF: `insert!` into a schema with two indexes
# and counters, and `all` of 1,000 rows, beside the same work with one call for each key. Then `all`
# by an index, and what part of an insert the computing of index entries is. Last, the same operations of the
# plain Repo and, where Ecto is present, of an Ecto repository, by 1, 16 and 128 processes at once.
#
#     mix run bench/layer.exs [--inserts 2000] [--each 500] [--cluster FILE]

Code.require_file("support.exs", __DIR__)

alias Bench.{Repo, User}
alias EctoFoundationDB.{Connection, Indexer, Native, Tenant}
alias EctoFoundationDB.Layer.{Keys, Metadata, Record, Source}
alias EctoFoundationDB.Values

defmodule Bench.Indexes do
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

defmodule Bench.IndexMigrator do
  use EctoFoundationDB.Migrator

  @impl true
  def migrations, do: [{1, Bench.Indexes}]
end

{opts, tenant} = Bench.start(inserts: :integer, each: :integer)
inserts = opts[:inserts] || 2000
tenant = Tenant.open!(Repo, tenant.id <> "-indexed", migrator: Bench.IndexMigrator)
database = Connection.fetch!(Repo).database

# One call, and its answer.
call = fn transaction, operation ->
  ref = make_ref()
  Native.transaction_run(transaction, ref, [operation])

  receive do
    {^ref, {:ok, [answer]}} -> answer
  end
end

commit = fn transaction ->
  ref = make_ref()
  Native.transaction_commit(transaction, ref, [], nil)

  receive do
    {^ref, {:ok, _version, _stamp}} -> :ok
  end
end

user = fn kind, i ->
  struct(User, id: "#{kind}#{i}", name: "name #{i}", team: "team #{rem(i, 10)}")
end

insert = fn i -> Repo.insert!(user.("a", i), prefix: tenant) end

insert_by_key = fn i ->
  %{id: id, name: name, team: team} = user.("b", i)
  {:ok, transaction} = Native.transaction_new(database)
  key = Native.pack(Keys.record(tenant, "users", id))
  call.(transaction, {:get, "\xff/metadataVersion", true})
  claim = Native.pack(Keys.claim(tenant, "users"))
  call.(transaction, {:read_conflict, claim, claim <> <<0>>})
  [] = call.(transaction, {:get_range, key, key <> <<0xFF>>, %{}})
  call.(transaction, {:set, key, :erlang.term_to_binary(id: id, name: name, team: team)})

  for {index, values} <- [{"users_name_index", [name]}, {"users_team_name_index", [team, name]}],
      do:
        call.(
          transaction,
          {:set, {:pack, Keys.index_entry(tenant, "users", index, values, id)}, key}
        )

  for signal <- [:inserts, :collection, :changes],
      do:
        call.(
          transaction,
          {:atomic, :add, {:pack, Keys.counter(tenant, "users", nil, [], signal)},
           <<1::little-64>>}
        )

  commit.(transaction)
end

median = fn fun, n ->
  for(i <- 1..n, do: fun |> :timer.tc([i]) |> elem(0)) |> Bench.percentile(0.5)
end

# Both are warm when they are measured.
for i <- 1..100, do: {insert.(-i), insert_by_key.(-i)}

IO.puts(
  "insert! with two indexes and counters: #{median.(insert, inserts)} µs; one call for each key: #{median.(insert_by_key, inserts)} µs"
)

list = Tenant.open!(Repo, tenant.id <> "-list", migrator: Bench.IndexMigrator)
rows = for i <- 1..1000, do: [id: "u#{1000 + i}", name: "name #{i}", team: "team"]
{1000, nil} = Repo.insert_all(User, rows, prefix: list)

all = fn _ -> 1000 = length(Repo.all(User, prefix: list)) end

all_by_key = fn _ ->
  {:ok, transaction} = Native.transaction_new(database)

  read =
    for row <- rows do
      key = Native.pack(Keys.record(list, "users", row[:id]))
      {key, call.(transaction, {:get, key, false})}
    end

  loader = Values.loader(User, list)
  1000 = loader |> Values.load_all(Record.decode(read, Source.of(User))) |> length()
end

IO.puts(
  "all of 1,000 rows: #{median.(all, 50)} µs; one call for each key: #{median.(all_by_key, 50)} µs"
)

by_index = fn _ -> 1000 = length(Repo.all(User, where: [team: "team"], prefix: list)) end
IO.puts("all of 1,000 rows by an index: #{median.(by_index, 50)} µs")

{indexes, key} =
  EctoFoundationDB.Transaction.run(list, fn ->
    {Metadata.load(list, "users").indexes, Native.pack(Keys.record(list, "users", "u1"))}
  end)

record = {key, [id: "u1", name: "name 1", team: "team"]}

entries = fn _ ->
  for _ <- 1..1000, do: [_, _, _, _, _] = Indexer.set_all(list, indexes, User, record)
end

IO.puts(
  "entries of two indexes and three counters of a record: #{median.(entries, 20) / 1000} µs"
)

# Both kinds of Repo: operations for each second, and the median of one.
kinds =
  if Code.ensure_loaded?(Ecto.Adapter) do
    defmodule Bench.EctoUser do
      use Ecto.Schema

      @primary_key {:id, :string, autogenerate: false}
      schema "users" do
        field(:name, :string)
        field(:team, :string)
      end
    end

    defmodule Bench.EctoRepo do
      use Ecto.Repo, otp_app: :bench, adapter: Ecto.Adapters.FoundationDB
    end

    {:ok, _} = Application.ensure_all_started(:ecto)
    {:ok, _} = Bench.EctoRepo.start_link(Bench.config(opts))
    [{"plain", Repo, User}, {"Ecto", Bench.EctoRepo, Bench.EctoUser}]
  else
    IO.puts("Ecto is not present: its repository is not measured")
    [{"plain", Repo, User}]
  end

each = opts[:each] || 500

for {kind, repo, schema} <- kinds do
  tenant = Tenant.open!(repo, tenant.id <> "-kinds", migrator: Bench.IndexMigrator)
  rows = for i <- 1..1000, do: %{id: "u#{1000 + i}", name: "n#{i}", team: "t#{div(i, 20)}"}
  repo.insert_all(schema, rows, prefix: tenant, on_conflict: :replace_all)
  read = repo.get!(schema, "u1001", prefix: tenant)
  unique = fn -> System.unique_integer([:positive]) end

  by_team =
    if kind == "Ecto",
      do: fn -> repo.all_by(schema, [team: "t7"], prefix: tenant) end,
      else: fn -> repo.all(schema, where: [team: "t7"], prefix: tenant) end

  update =
    if kind == "Ecto",
      do: fn -> repo.update!(Ecto.Changeset.change(read, name: "n#{unique.()}")) end,
      else: fn -> repo.update!(read, name: "n#{unique.()}") end

  own = fn -> struct!(schema, id: "x#{unique.()}", name: "n", team: "new") end

  for {name, fun} <- [
        {"get", fn -> repo.get!(schema, "u1500", prefix: tenant) end},
        {"insert", fn -> repo.insert!(own.(), prefix: tenant) end},
        {"update of one record", update},
        {"index query of 20", fn -> 20 = length(by_team.()) end},
        {"20 gets in one transaction",
         fn ->
           repo.transactional(tenant, fn ->
             repo.await(for i <- 1..20, do: repo.async_get(schema, "u#{1000 + i}"))
           end)
         end},
        {"range of 1,000",
         fn -> 1000 = length(repo.all_range(schema, "u", "v", prefix: tenant)) end}
      ],
      processes <- [1, 16, 128] do
    count = max(div(each, processes), 3)
    count = if name == "range of 1,000", do: max(div(count, 10), 3), else: count
    for _ <- 1..3, do: fun.()

    run = fn -> for _ <- 1..count, do: fun |> :timer.tc() |> elem(0) end

    tasks = fn ->
      1..processes |> Enum.map(fn _ -> Task.async(run) end) |> Task.await_many(:infinity)
    end

    {time, each_took} = :timer.tc(tasks)
    each_took = List.flatten(each_took)
    rate = round(length(each_took) * 1_000_000 / time)

    IO.puts(
      "#{kind}, #{name}, #{processes} processes: #{rate}/s, median #{Bench.percentile(each_took, 0.5)} µs"
    )
  end
end
