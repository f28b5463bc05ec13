defmodule EctoFoundationDB.MessagesTest do
  # Error messages of the public functions: what was expected, what was got, what to do. Messages
  # that need a longer setup have tests elsewhere.
  use EctoFoundationDB.LayerCase, async: true

  alias EctoFoundationDB.{Future, Indexer, Migrator, Rebuild, Schema, Sync, Versionstamp}
  alias EctoFoundationDB.{DecodeError, MultipleResultsError, TestReading}
  alias EctoFoundationDB.Exception.{IncorrectTenancy, Unsupported}
  alias EctoFoundationDB.Indexer.SchemaMetadata
  alias EctoFoundationDB.Layer.Keys

  import EctoFoundationDB.Migration, only: [index: 2, index: 3, metadata: 2, metadata: 3]

  defmodule TwoKeys do
    use EctoFoundationDB.TestSchema,
      source: "two",
      primary_key: [:a, :b],
      fields: [a: :string, b: :string]
  end

  defmodule NoField do
    use EctoFoundationDB.TestSchema,
      source: "nofield",
      primary_key: [:id],
      fields: [name: :string]
  end

  defmodule NoSource do
    use EctoFoundationDB.TestSchema, source: nil, fields: [id: :string]
  end

  defmodule Serial do
    use EctoFoundationDB.TestSchema,
      source: "serials",
      fields: [id: :decimal],
      autogenerate_id: {:id, :id, :decimal}
  end

  defmodule Priced do
    use EctoFoundationDB.TestSchema, source: "priced", fields: [id: :string, price: :decimal]
  end

  defmodule Twice do
    use EctoFoundationDB.Migrator
    @impl true
    def migrations, do: [{1, __MODULE__}, {1, __MODULE__}]
  end

  defmodule NoPairs do
    use EctoFoundationDB.Migrator
    @impl true
    def migrations, do: [:first]
  end

  defmodule NoOperations do
    @behaviour EctoFoundationDB.Indexer
    @impl true
    def set(_tenant, _index, _schema, _record), do: :ok
    @impl true
    def clear(_tenant, _index, _schema, _record), do: []
    @impl true
    def drop_ranges(_tenant, _index), do: []
  end

  defmodule WrongOperations do
    @behaviour EctoFoundationDB.Indexer
    @impl true
    def set(_tenant, _index, _schema, _record), do: [{:put, "key", "value"}]
    @impl true
    def clear(_tenant, _index, _schema, _record), do: []
    @impl true
    def drop_ranges(_tenant, _index), do: []
  end

  versions([
    {1,
     [
       create(
         index(TestNote, [:tag], options: [indexer: EctoFoundationDB.MessagesTest.NoOperations])
       )
     ]},
    {2,
     [
       create(
         index(TestPost, [:title],
           options: [indexer: EctoFoundationDB.MessagesTest.WrongOperations]
         )
       )
     ]},
    {3, [create(index(TestUser, [:name], options: [indexer: Nowhere]))]},
    {4, [:oops]}
  ])

  defmodule Counted do
    use EctoFoundationDB.Migration
    def migrations, do: [{1, __MODULE__}]
    @impl true
    def change, do: [create(metadata(TestAccount))]
  end

  defmodule NoCommands do
    def migrations, do: [{1, __MODULE__}]
    def change, do: :commands
  end

  defmodule NoList do
    def migrations, do: :none
  end

  defmodule NoMigration do
    def migrations, do: [{1, Nowhere}]
  end

  defp state(tenant), do: %{assigns: %{}, private: %{tenant: tenant}}

  # Each is a function of the tenant, the error and its message.
  defp all_raise(tenant, table) do
    for {fun, error, message} <- table do
      raised =
        try do
          fun.(tenant)
          flunk("expected an error with the words #{inspect(message)}")
        rescue
          raised -> raised
        end

      text = Exception.message(raised)
      assert {raised.__struct__, text =~ message, text} == {error, true, text}
    end
  end

  # Raises the error of a task that is started inside a transaction.
  defp in_task(tenant, fun) do
    caught = fn ->
      try do
        fun.()
      rescue
        error -> error
      end
    end

    raise TestRepo.transactional(tenant, fn -> caught |> Task.async() |> Task.await() end)
  end

  defp opts(tenant, more \\ []), do: [prefix: tenant] ++ more

  test "of schemas", %{tenant: tenant} do
    all_raise(tenant, [
      {&TestRepo.get(TwoKeys, "a", opts(&1)), ArgumentError,
       ~r/TwoKeys has the primary key \[:a, :b\], expected exactly one field/},
      {&TestRepo.delete(%NoField{}, opts(&1)), ArgumentError,
       ~r/NoField declares the primary key :id, but its struct has no such field/},
      {&TestRepo.all(NoSource, opts(&1)), ArgumentError,
       ~r/__schema__\(:source\) returned nil, expected a string/},
      {&TestRepo.all(String, opts(&1)), ArgumentError,
       ~r/String is not a schema: expected a module with __schema__\/1/},
      {&TestRepo.insert(%Serial{}, opts(&1)), Unsupported,
       ~r/the primary key of .*Serial, of type :decimal, cannot be generated. Use :id, :binary_id/},
      {fn _ -> Schema.id!(%TestUser{}) end, ArgumentError,
       ~r/the primary key :id of this .*TestUser is nil.*Set it/}
    ])
  end

  test "of writing", %{tenant: tenant} do
    all_raise(tenant, [
      {&TestRepo.insert("user", opts(&1)), ArgumentError,
       ~r/expected a struct or a schema, got: "user"/},
      {fn _ -> TestRepo.update(%TestUser{id: "a"}, :name, []) end, ArgumentError,
       ~r/expected changes, a keyword list or a map, got: :name/},
      {&TestRepo.insert(%TestThing{id: 1, value: self()}, opts(&1)), ArgumentError,
       ~r/this record cannot be stored: it holds a pid, which is not data: \[id: 1, value: #PID/},
      {&TestRepo.insert(%TestNote{id: String.duplicate("x", 11_000)}, opts(&1)),
       EctoFoundationDB.Error, ~r/2102.*10,000 bytes at most.*its primary key/},
      {&TestRepo.update(%TestUser{id: "a"}, [nope: 1], opts(&1)), ArgumentError,
       ~r/update: .*TestUser has no fields \[:nope\]; it has \[:id, /},
      {&TestRepo.update(%TestUser{id: "a"}, [id: "b"], opts(&1)), ArgumentError,
       ~r/the primary key :id cannot be changed: delete the record/},
      {&TestRepo.insert_all(TestUser, [[id: "a", nope: 1]], opts(&1)), ArgumentError,
       ~r/insert_all: .*TestUser has no fields \[:nope\]; it has \[:id/},
      {&TestRepo.insert_all(TestUser, %{id: "a"}, opts(&1)), ArgumentError,
       ~r/insert_all: expected a list of rows, got: %{id: "a"}/},
      {&TestRepo.insert_all(TestUser, [%TestNote{id: "a"}], opts(&1)), ArgumentError,
       ~r/insert_all: expected rows, keyword lists, maps or structs of .*TestUser, got: %.*TestNote/},
      {&TestRepo.insert_all(TestUser, ["a"], opts(&1)), ArgumentError,
       ~r/insert_all: expected rows, .* got: "a"/},
      {&TestRepo.insert_all(TestUser, [[id: "a"]], opts(&1, placeholders: %{})), ArgumentError,
       ~r/unknown options \[:placeholders\], known are: \[.*:returning/},
      {fn _ -> TestRepo.update(%TestUser{id: "a"}, [:name], []) end, ArgumentError,
       ~r/expected changes, a keyword list or a map, got: \[:name\]/},
      {fn _ -> TestRepo.update(%TestUser{id: "a"}, %TestUser{name: "b"}, []) end, ArgumentError,
       ~r/expected changes, a keyword list or a map, got: %.*TestUser/},
      {&TestRepo.update_all(TestUser, [inc: [age: 1]], opts(&1)), ArgumentError,
       ~r/update_all: expected `set: \[field: value\]`, got: \[inc: /},
      {&TestRepo.update_all(TestUser, [set: [name: "a", name: "b"]], opts(&1)), ArgumentError,
       ~r/update_all: \[:name\] is set more than once/},
      {&TestRepo.update_all(TestUser, [set: [nope: 1]], opts(&1)), ArgumentError,
       ~r/TestUser has no fields \[:nope\]; it has \[:id/},
      {&TestRepo.insert_all(TestUser, [[name: "a"]], opts(&1)), ArgumentError,
       ~r/the primary key :id of this .*TestUser is nil/},
      {&TestRepo.insert(%TestUser{id: "a"}, prefix: &1, nope: 1), ArgumentError,
       ~r/unknown options \[:nope\], known are: \[:prefix, :timeout, :tag, :priority, :on_conflict/},
      {fn _ -> TestRepo.all(TestUser, [:prefix]) end, ArgumentError, ~r/expected a keyword list/},
      {fn tenant ->
         limited = Tenant.open!(TestRepo, tenant.id, max_value_size: 50)
         TestRepo.insert(%TestNote{id: "a", text: String.duplicate("x", 60)}, prefix: limited)
       end, ArgumentError,
       ~r/this record takes \d+ bytes, and `max_value_size: 50` says to reject any/}
    ])
  end

  test "of conflicts, before anything is written", %{tenant: tenant} do
    user = %TestUser{id: "a"}

    for {options, error, message} <- [
          {[on_conflict: :what], ArgumentError,
           ~r/on_conflict: expected :raise, :nothing, .* got: :what/},
          {[on_conflict: {:replace, :name}], ArgumentError,
           ~r/on_conflict: expected .*, got: {:replace, :name}/},
          {[on_conflict: [set: [name: "b"]]], ArgumentError,
           ~r/on_conflict: expected .*, got: \[set: /},
          {[on_conflict: {:replace, [:name, :nope]}], ArgumentError,
           ~r/on_conflict: .*TestUser has no fields \[:nope\]; it has \[:id/},
          {[on_conflict: {:replace_all_except, [:nope]}], ArgumentError,
           ~r/on_conflict: .*TestUser has no fields \[:nope\]/},
          {[conflict_target: [:nope]], ArgumentError,
           ~r/conflict_target: .*TestUser has no fields \[:nope\]/},
          {[conflict_target: [], on_conflict: :nothing], Unsupported,
           ~r/on_conflict: :nothing requires reading the existing record, but with `conflict_target: \[\]`/},
          {[nope: 1], ArgumentError, ~r/unknown options \[:nope\]/}
        ] do
      all_raise(tenant, [
        {&TestRepo.insert(user, opts(&1, options)), error, message},
        {&TestRepo.insert_all(TestUser, [user], opts(&1, options)), error, message},
        {fn tenant ->
           TestRepo.transactional(tenant, fn ->
             TestRepo.async_insert_all!(TestUser, [user], options)
           end)
         end, error, message}
      ])
    end

    all_raise(tenant, [
      {&TestRepo.insert(user, opts(&1, conflict_target: [:name], on_conflict: :nothing)),
       Unsupported,
       ~r/conflict_target: \[:name\]; .*create index\(.*TestUser, \[:name\], unique: true\)/},
      {&TestRepo.insert(%TestReading{id: "a"}, opts(&1, on_conflict: :nothing)), Unsupported,
       ~r/on_conflict: :nothing requires reading the existing record.*`write_primary: false`/}
    ])

    assert dump(tenant) == []
  end

  test "of queries", %{tenant: tenant} do
    two = &TestRepo.insert_all(TestUser, [[id: "a"], [id: "b"]], opts(&1))

    all_raise(tenant, [
      {&TestRepo.all("users", opts(&1)), ArgumentError,
       ~r/expected a struct or a schema, got: "users"/},
      {&TestRepo.get(TestUser, nil, opts(&1)), ArgumentError, ~r/get: the primary key is nil/},
      {&TestRepo.all(TestUser, opts(&1, where: :all)), ArgumentError,
       ~r/where: expected a keyword list or map of fields and values, got: :all/},
      {&TestRepo.get_by(TestUser, 1, opts(&1)), ArgumentError,
       ~r/where: expected a keyword list or map of fields and values, got: 1/},
      {&Sync.sync_all(state(&1), TestRepo, :users, {TestUser, where: :all}), ArgumentError,
       ~r/where: expected a keyword list or map of fields and values, got: :all/},
      {&Sync.sync_all(state(&1), TestRepo, :users, {TestUser, wher: []}), ArgumentError,
       ~r/unknown options of a list: \[:wher\], known are: \[:where, :order_by, :limit\]/},
      {&Sync.sync_all(state(&1), TestRepo, :users, {TestUser, key_limit: 1}), ArgumentError,
       ~r/unknown options of a list: \[:key_limit\]/},
      {&TestRepo.all(TestUser, opts(&1, where: [{"name", 1}])), ArgumentError,
       ~r/where: expected {field, value} pairs, got: {"name", 1}/},
      {&TestRepo.all(Priced, opts(&1, where: [price: {:>, 1}])), Unsupported,
       ~r/a range on :price of type :decimal: .* Compare with equality/},
      {&TestRepo.all(TestUser, opts(&1, where: [age: {:>, 1}, dept: {:>, "a"}])), Unsupported,
       ~r/it has ranges on \[:age, :dept\], but only one is possible/},
      {&TestRepo.stream(TestUser, opts(&1, max_rows: 0)), ArgumentError,
       ~r/max_rows: expected a positive integer, got: 0/},
      {&TestRepo.stream(TestUser, opts(&1, key_limit: 1)), Unsupported,
       ~r/stream: key_limit is not supported; a page has `max_rows:`/},
      {&TestRepo.stream(TestUser, opts(&1, order_by: :name)), Unsupported,
       ~r/stream: order_by is not supported; a stream is in the order of/},
      {fn tenant ->
         two.(tenant)
         TestRepo.one(TestUser, opts(tenant))
       end, MultipleResultsError, ~r/expected at most one result of .*TestUser, got more/},
      {fn _ -> TestRepo.await(:future) end, ArgumentError,
       ~r/await: expected a future or a list of them, got: :future/},
      {fn _ -> TestRepo.await([:future]) end, ArgumentError,
       ~r/await: expected a future or a list of them, got: :future/},
      {&TestRepo.all(TestUser, opts(&1, limit: 0)), ArgumentError,
       ~r/limit: expected a positive integer, got: 0/},
      {&TestRepo.all(TestUser, opts(&1, order_by: [up: :name])), ArgumentError,
       ~r/order_by: expected fields, or `asc: field` and `desc: field`, got: {:up, :name}/},
      {&TestRepo.all(TestUser, opts(&1, order_by: :nope)), ArgumentError,
       ~r/TestUser has no field :nope; it has \[:id/},
      {&TestRepo.all(TestUser, opts(&1, where: [age: {:between, 1, nil}])), ArgumentError,
       ~r/where: :age is compared with nil; leave that bound out/},
      {&TestRepo.all(TestUser, opts(&1, where: [age: Range.new(1, 9, 2)])), ArgumentError,
       ~r/where: :age is compared with 1..9\/\/2; expected a range whose step is 1/},
      {&TestRepo.all(TestUser, opts(&1, where: [id: {:>, "a"}], order_by: :name, limit: 1)),
       Unsupported, ~r/where \[:id\] ordered by .* Read by the primary key, and sort or filter/},
      {&Sync.sync_all(
         state(counted(&1)),
         TestRepo,
         :users,
         {TestAccount, where: [id: {:==, nil}]}
       ), ArgumentError,
       ~r/no record can fulfil these conditions \(the primary key is compared with nil/},
      {fn _ -> TestRepo.reload(:user) end, ArgumentError,
       ~r/reload: expected a struct or a list of them, got: :user/},
      {fn _ -> TestRepo.aggregate(TestUser, :sum, :age) end, Unsupported,
       ~r/aggregate: :sum with :age is not supported; only :count, without a field/}
    ])
  end

  test "of transactions and tenants", %{tenant: tenant} do
    all_raise(tenant, [
      {&TestRepo.transactional(&1, :fun), ArgumentError,
       ~r/transactional: expected a function of no or one argument, got: :fun/},
      {&TestRepo.transactional(&1, fn -> 1 end, retries: 0), ArgumentError,
       ~r/unknown options \[:retries\], known are: \[:prefix, :timeout, :tag, :priority\]/},
      {&Tenant.open!(TestRepo, &1.id, migrater: One), ArgumentError,
       ~r/expected the options of a tenant, some of \[:migrator, .*, got: \[migrater: One\]/},
      {&Tenant.open!(TestRepo, &1.id, migration_step: 0), ArgumentError,
       ~r/migration_step: expected a positive integer, got: 0/},
      {&Tenant.pack(&1, {%{}}), ArgumentError, ~r/expected an element of a tuple, got: #{}/},
      {&Tenant.pack(&1, {"a", [1 | 2]}), ArgumentError,
       ~r/expected a proper list to pack, got: \[1\|2\]/},
      {&Tenant.pack(&1, {"a", {:x, [[] | 2]}}), ArgumentError,
       ~r/expected an element of a tuple/},
      {&Tenant.pack(&1, {<<1::3>>}), ArgumentError,
       ~r/expected an element of a tuple, got: .*, which is a bitstring, not a binary/},
      {&Tenant.pack(&1, {{:float, "1"}}), ArgumentError,
       ~r/expected a float in {:float, float}, got: <<"1">>/},
      {&Tenant.pack(&1, {{:uuid, 1}}), ArgumentError,
       ~r/expected 16 bytes in {:uuid, binary}, got: 1/},
      {&Tenant.pack(&1, {{:versionstamp, 1, 2, 0x10000}}), ArgumentError,
       ~r/expected integers of 64, 16 and 16 bits in {:versionstamp, id, batch, user}, got: {versionstamp,/},
      {&Tenant.pack(&1, [1]), ArgumentError,
       ~r/expected a tuple to pack, such as {"my-app", 1}, got: \[1\]/},
      {&Tenant.range(&1, {self()}), ArgumentError, ~r/expected an element of a tuple, got: #?</},
      {&Tenant.range(&1, "a"), ArgumentError, ~r/expected a tuple to pack, .* got: "a"/},
      {&Tenant.unpack(&1, Tenant.pack(&1, {}) <> <<0xEE>>), ArgumentError,
       ~r/expected a packed tuple, got: \d+ bytes/},
      {&Tenant.unpack(&1, <<1::3>>), ArgumentError, ~r/<<1::size\(3\)>> is not a key of/},
      {&Tenant.unpack(&1, "key"), ArgumentError,
       ~r/"key" is not a key of #EctoFoundationDB.Tenant/},
      {&TestRepo.transactional(&1, fn -> 1 end, timeout: 0), ArgumentError,
       ~r/timeout: expected milliseconds, a positive integer, or :infinity, got: 0/},
      {fn tenant -> TestRepo.transactional(tenant, fn -> Tenant.list(TestRepo) end) end,
       IncorrectTenancy, ~r/tenants cannot be opened, created or deleted inside a transaction/},
      {fn tenant -> TestRepo.transactional(tenant, fn -> Versionstamp.next() end) end,
       Unsupported,
       ~r/inside a transaction you must use `EctoFoundationDB.Versionstamp.next\/1`/},
      {fn _ -> Versionstamp.next(:no_transaction) end, IncorrectTenancy,
       ~r/this must be called inside a transaction/},
      {fn tenant ->
         TestRepo.transactional(tenant, fn ->
           for _ <- 0..0x10000, do: Versionstamp.next(:current)
         end)
       end, Unsupported, ~r/a transaction can make at most 65,536 versionstamp ids/},
      {fn tenant ->
         tenant |> TestRepo.transactional(fn -> Versionstamp.get() end) |> Future.result()
       end, Unsupported, ~r/the transaction wrote nothing, so it has no versionstamp/},
      {fn tenant ->
         TestRepo.transactional(tenant, fn ->
           TestRepo.async_insert_all!(TestEvent, [%TestEvent{}])
           TestRepo.all(TestEvent)
         end)
       end, EctoFoundationDB.Error,
       ~r/1036.*are made by the commit, so what this transaction inserted/},
      {&TestRepo.transactional(&1, fn -> 1 end, prefix: %{&1 | id: "other"}), ArgumentError,
       ~r/transactional: expected one tenant, got #EctoFoundationDB.Tenant<.* and `prefix: #Ecto/},
      {&TestRepo.insert(%TestEvent{}, opts(&1)), ArgumentError,
       ~r/is nil.*commit creates ids .* insert .* Repo.async_insert_all!\(.*TestEvent, \[struct\]\) inside/},
      {fn tenant ->
         TestRepo.transactional(tenant, fn ->
           future = TestRepo.async_get(TestUser, "a")
           TestRepo.await(future)
           TestRepo.await(future)
         end)
       end, Unsupported, ~r/this future has been awaited already, .* keep the result/},
      {fn tenant ->
         tenant
         |> TestRepo.transactional(fn -> TestRepo.async_get(TestUser, "a") end)
         |> TestRepo.await()
       end, Unsupported, ~r/belongs to a transaction that has ended, or to another process/},
      {&in_task(&1, fn -> TestRepo.get(TestUser, "a") end), IncorrectTenancy,
       ~r/no tenant is given.*is a task of a process that is in a transaction.*the async_\* functions/},
      {&in_task(&1, fn -> Versionstamp.next(:none) end), IncorrectTenancy,
       ~r/must be called inside a transaction.*is a task of a process that is in a transaction/},
      {fn _ -> Versionstamp.from_integer("1") end, ArgumentError,
       ~r/expected an integer of at most 96 bits, got: "1"/},
      {fn _ -> Tenant.open!(TestRepo, :acme) end, ArgumentError,
       ~r/a tenant's id must be a string that is not empty, got: :acme/},
      {fn _ -> Tenant.create(TestRepo, <<0xFF>>) end, ArgumentError,
       ~r/a tenant's id must be valid UTF-8/},
      {fn _ -> Tenant.clear(TestRepo, "nobody's tenant") end, EctoFoundationDB.Error,
       ~r/tenant "nobody's tenant" of .*TestRepo does not exist. Create it/},
      {&Tenant.unpack(&1, Tenant.pack(%{&1 | prefix: "other"}, {1})), ArgumentError,
       ~r/is not a key of #EctoFoundationDB.Tenant/},
      {fn _ -> TestRepo.get(TestUser, "a", prefix: "acme") end, IncorrectTenancy,
       ~r/prefix: expected a tenant .*got: "acme"/}
    ])
  end

  test "of watches and counters", %{tenant: tenant} do
    all_raise(tenant, [
      {fn tenant ->
         watch = TestRepo.watch(TestRepo.insert!(%TestUser{id: "a"}, opts(tenant)))
         TestRepo.assign_ready([watch], [Future.ref(watch)], opts(tenant))
       end, ArgumentError, ~r/assign_ready: this watch has no label. Give one to watch\/2/},
      {fn tenant ->
         TestRepo.transactional(tenant, fn -> SchemaMetadata.watch(TestUser, :reads) end)
       end, ArgumentError, ~r/expected one of the counters \[:inserts, .*, got: :reads/},
      {fn _ -> SchemaMetadata.changes(TestUser) end, IncorrectTenancy,
       ~r/no tenant is given: pass `prefix: tenant`/},
      {fn _ -> SchemaMetadata.watch_changes(TestUser) end, IncorrectTenancy,
       ~r/this must be called inside a transaction/},
      {fn _ -> SchemaMetadata.async_changes(TestUser) end, IncorrectTenancy,
       ~r/this must be called inside a transaction/},
      {fn _ -> SchemaMetadata.clear(TestUser) end, IncorrectTenancy,
       ~r/this must be called inside a transaction/},
      {&SchemaMetadata.changes_by(TestUser, %{dept: 1}, opts(&1)), ArgumentError,
       ~r/expected the counted fields and their values as a keyword list, got: %{dept: 1}/},
      {&SchemaMetadata.changes_by(TestUser, [dept: "d"], opts(&1)), Unsupported,
       ~r/has no counter :changes .* by \[:dept\]. .*create metadata\(.*TestUser, \[:dept\]\)/},
      {fn _ -> TestRepo.watch(:user) end, ArgumentError,
       ~r/watch: expected a struct, got: :user/},
      {&TestRepo.watch(%TestReading{id: "r"}, opts(&1)), Unsupported,
       ~r/`write_primary: false`: there is no record to watch/},
      {&TestRepo.assign_ready([], :ref, opts(&1)), ArgumentError,
       ~r/assign_ready: expected the references of `{ref, :ready}` messages in a list, got: :ref/},
      {&TestRepo.assign_ready([:watch], [], opts(&1)), ArgumentError,
       ~r/assign_ready: expected the futures of watches, .* got: \[:watch\]/}
    ])
  end

  test "of migrations and indexes", %{tenant: tenant} do
    all_raise(tenant, [
      {&Tenant.open!(TestRepo, &1.id, migrator: Twice), ArgumentError,
       ~r/Twice.migrations\/0: a version occurs twice: \[1, 1\]/},
      {&Tenant.open!(TestRepo, &1.id, migrator: NoPairs), ArgumentError,
       ~r/migrations\/0: expected {version, module} pairs, got: :first/},
      {&Tenant.open!(TestRepo, &1.id, migrator: Nowhere), ArgumentError,
       ~r/the migrator Nowhere is not a module/},
      {&Tenant.open!(TestRepo, &1.id, migrator: NoList), ArgumentError,
       ~r/NoList.migrations\/0: expected a list of {version, module} pairs, got: :none/},
      {&Tenant.open!(TestRepo, &1.id, migrator: NoMigration), ArgumentError,
       ~r/Nowhere is not a migration: expected a module with `use EctoFoundationDB.Migration`/},
      {&migrate(&1, 4), ArgumentError,
       ~r/change\/0 of a migration: expected a list of create.* got: :oops/},
      {&Tenant.open!(TestRepo, &1.id, migrator: NoCommands), ArgumentError,
       ~r/change\/0 of a migration: expected a list of create.* got: :commands/},
      {fn _ -> Migrator.migrate_all(TestRepo, concurrency: 0) end, ArgumentError,
       ~r/concurrency: expected a positive integer, got: 0/},
      {fn _ -> Migrator.migrate_all(TestRepo, tenants: "acme") end, ArgumentError,
       ~r/tenants: expected a list of tenants' ids, got: "acme"/},
      {fn _ -> index(TestUser, [:name], options: :none) end, ArgumentError,
       ~r/options: expected a keyword list for the indexer, got: :none/},
      {fn _ -> metadata(TestUser, [], options: [signals: [:reads]]) end, ArgumentError,
       ~r/signals: expected some of \[:inserts, .*, got: \[:reads\]/},
      {fn _ -> metadata(TestUser, [], options: [signals: []]) end, ArgumentError,
       ~r/signals: expected some of \[:inserts, .*, got: \[\]/},
      {fn _ -> metadata(TestUser, [], options: [indexer: TestIndexer]) end, ArgumentError,
       ~r/metadata: unknown options \[:indexer\] in `options:`, known are: \[:signals\]/},
      {fn _ -> index(TestUser, [:name], options: [unique: true, maped?: false]) end,
       ArgumentError,
       ~r/index: unknown options \[:maped\?\] in `options:`, known are: \[:indexer, :mapped\?, :unique\]/},
      {fn _ -> index(TestUser, [:name], options: [mapped?: nil]) end, ArgumentError,
       ~r/index: mapped\?: expected true or false, got: nil/},
      {fn _ -> index(TestUser, [:name], options: [indexer: "Mine"]) end, ArgumentError,
       ~r/index: indexer: expected a module with the behaviour .*, got: "Mine"/},
      {fn _ -> index(TestUser, [:name], uniq: true) end, ArgumentError,
       ~r/index: expected `options: \[...\]`, .* got: \[uniq: true\]/},
      {fn _ -> index(TestUser, [:name], unique: true, options: [indexer: TestIndexer]) end,
       ArgumentError, ~r/unique: only default indexes are unique, and this one is of/},
      {fn _ ->
         index(TestUser, [:name], options: [indexer: SchemaMetadata, mapped?: true])
       end, ArgumentError,
       ~r/unknown options \[:mapped\?\] .* known are: \[:indexer, :signals\]/},
      {&Rebuild.index(&1, TestUser, :any, step: 0), ArgumentError,
       ~r/step: expected a positive integer, got: 0/},
      {&Indexer.all(&1, TestUser, :nope, ["a"], limit: -1), ArgumentError,
       ~r/limit: expected a positive integer, got: -1/},
      {&Indexer.all(&1, TestUser, :nope, ["a"]), Unsupported,
       ~r/has no index :nope of .*TestUser; it has \[\]/},
      {fn tenant ->
         migrate(tenant, 1)
         TestRepo.insert(%TestNote{id: "a"}, opts(tenant))
       end, ArgumentError, ~r/NoOperations.set\/4: expected a list of operations, got: :ok/},
      {fn tenant ->
         migrate(tenant, 2)
         TestRepo.insert(%TestPost{id: "a"}, opts(tenant))
       end, ArgumentError, ~r/expected an operation, got: {put,/},
      {&migrate(&1, 3), Unsupported,
       ~r/users_name_index of "users" is maintained by Nowhere, which this version/},
      {fn _ -> EctoFoundationDB.Migration.create(index(TestUser, [:name, :nope])) end,
       ArgumentError, ~r/TestUser has no fields \[:nope\]; it has \[:id/},
      {fn _ -> metadata(TestUser, :dept) end, ArgumentError,
       ~r/expected a list of fields to index, got: :dept/},
      {fn tenant ->
         index = %{name: :own, indexer: EctoFoundationDB.Indexer.SchemaMetadata}
         index = struct!(EctoFoundationDB.Index, Map.merge(index, %{source: "users", fields: []}))
         describe(tenant, "own", :erlang.term_to_binary(EctoFoundationDB.Index.to_data(index)))
         Rebuild.index(tenant, TestUser, :own)
       end, Unsupported, ~r/only default indexes can be rebuilt.*drop it and create it again/},
      {&Rebuild.index(&1, TestAccount, :nope), ArgumentError,
       ~r/has no index :nope of .*TestAccount; it has \[\]/},
      {fn tenant ->
         describe(tenant, "broken", :erlang.term_to_binary(%{}))
         TestRepo.all(TestUser, opts(tenant, where: [name: "a"]))
       end, DecodeError, ~r/users.*broken.*it is not a description of an index/s},
      {fn tenant ->
         describe(tenant, "broken", "no term")
         TestRepo.all(TestUser, opts(tenant, where: [name: "a"]))
       end, DecodeError, ~r/users.*broken.*it is not an Erlang term/s},
      {fn tenant ->
         claim = {:set, {:pack, Keys.claim(tenant, "accounts")}, :erlang.term_to_binary(1)}
         operations(tenant, [claim])
         TestRepo.insert(%TestAccount{id: 1}, opts(tenant))
       end, DecodeError, ~r/claim.*accounts.*it is not a claim of a migration/s}
    ])
  end

  defp counted(tenant) do
    Tenant.open!(TestRepo, tenant.id, migrator: __MODULE__.Counted, log: false)
  end

  test "of invalid versionstamp ids: cast errors, as for values in a URL" do
    assert Versionstamp.cast("4295098371", %{partition_by: nil}) ==
             {:ok, {:versionstamp, 1, 2, 3}}

    for id <- [-1, 0x1000000000000000000000000, "-1", String.duplicate("9", 30), "x"],
        do: assert(Versionstamp.cast(id, %{partition_by: nil}) == :error)
  end

  defp describe(tenant, name, value) do
    key = Keys.index_description(tenant, "users", name)
    changed = EctoFoundationDB.Layer.Metadata.changed()
    operations(tenant, [{:set, {:pack, key}, value}, changed])
  end

  test "of damaged values", %{tenant: tenant} do
    text = String.duplicate("x", 250_000)
    TestRepo.insert!(%TestNote{id: "a", text: text}, prefix: tenant)
    {first, _} = Keys.record_range(tenant, "notes", "a")
    part = fn n -> Enum.at(keys(tenant, first), n) end

    all_raise(tenant, [
      {fn tenant ->
         operations(tenant, [{:set, part.(1), String.duplicate("y", 100_000)}])
         TestRepo.get(TestNote, "a", opts(tenant))
       end, DecodeError, ~r/its checksum is \d+, expected \d+ \(a torn value\)/},
      {fn tenant ->
         operations(tenant, [{:clear, part.(2)}])
         TestRepo.get(TestNote, "a", opts(tenant))
       end, DecodeError, ~r/kept in 3 parts, and they are not all there/},
      {fn tenant ->
         value = :erlang.term_to_binary(id: "b", value: make_ref())
         operations(tenant, [{:set, {:pack, Keys.record(tenant, "things", "b")}, value}])
         TestRepo.get(TestThing, "b", opts(tenant))
       end, DecodeError, ~r/field value: it holds a reference, which is not data/}
    ])
  end

  defp keys(tenant, from) do
    EctoFoundationDB.Transaction.run(tenant, fn ->
      read = {:get_range, from, from <> <<0xFF>>, %{}}
      [rows] = EctoFoundationDB.Transaction.read([read])
      for {key, _} <- rows, do: key
    end)
  end

  test "of Mix tasks" do
    for {task, args, message} <- [
          {"ecto_foundationdb.migrate", [], ~r/expected a Repo: -r MyApp.Repo/},
          {"ecto_foundationdb.migrate", ["-r", "String"],
           ~r/String is not a Repo: expected a module with/},
          {"ecto_foundationdb.migrate", ["acme"], ~r/expected options, got: acme/},
          {"ecto_foundationdb.rebuild", ["-r", "String"],
           ~r/expected --schema MyApp.User and --index name/}
        ] do
      assert_raise Mix.Error, message, fn ->
        Mix.Task.rerun(task, args)
      end
    end
  end
end
