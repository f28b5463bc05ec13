defmodule EctoFoundationDB.MigrationTest do
  use EctoFoundationDB.LayerCase, async: true

  import ExUnit.CaptureLog

  alias EctoFoundationDB.{Migrator, Native, Recording, Transaction}
  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.{Keys, Metadata, Term}

  versions([
    {1, [create(index(TestUser, [:name])), create(metadata(TestUser))]},
    {2, [create(index(TestUser, [:dept])), drop(index(TestUser, [:name]))]},
    {5, []},
    {6, [create(index(TestUser, [:age], options: [indexer: TestIndexer]))]},
    {7, [create(index(TestUser, [:name], options: [mapped?: false]))]},
    {8,
     [create(index(TestUser, [:name], options: [indexer: EctoFoundationDB.MigrationTest.Count]))]}
  ])

  # An index that only counts records.
  defmodule Count do
    @behaviour EctoFoundationDB.Indexer

    @impl true
    def set(tenant, index, schema, record) do
      TestIndexer.set(tenant, index, schema, record)
      add(tenant, index, 1)
    end

    @impl true
    def clear(tenant, index, _schema, _record), do: add(tenant, index, -1)

    @impl true
    def drop_ranges(tenant, index), do: [EctoFoundationDB.Indexer.range(tenant, index)]

    defp add(tenant, index, n) do
      key = EctoFoundationDB.Indexer.key(tenant, index, ["count"])
      [{:atomic, :add, key, <<n::little-64>>}]
    end
  end

  defp fill(tenant, n) do
    rows =
      for i <- 1..n,
          do: [
            id: "u#{String.pad_leading("#{i}", 5, "0")}",
            name: "n#{rem(i, 10)}",
            dept: "d#{rem(i, 3)}"
          ]

    TestRepo.insert_all(TestUser, rows, prefix: tenant)
  end

  defp claims(tenant),
    do: for({{_, "schema_migrations", "claim", _}, value} <- dump(tenant), do: value)

  test "build and drop indexes of existing records", %{tenant: tenant} do
    fill(tenant, 25)
    tenant = migrate(tenant, 1, migration_step: 4)
    assert stray_entries(tenant, TestUser) == []
    assert [_, _] = TestRepo.all(TestUser, where: [name: "n0"], prefix: tenant)
    assert Migrator.pending_versions(TestRepo, tenant) == []
    newer = %{tenant | options: [migrator: __MODULE__.Until5]}
    assert Migrator.pending_versions(TestRepo, newer) == [2, 5]

    migrate(tenant, 5, migration_step: 4)
    assert stray_entries(tenant, TestUser) == []
    assert [_ | _] = TestRepo.all(TestUser, where: [dept: "d0"], prefix: tenant)

    assert_raise Unsupported, fn ->
      TestRepo.all(TestUser, where: [name: "n0"], prefix: tenant)
    end

    rows = dump(tenant)
    assert claims(tenant) == []
    assert for({{_, "schema_migrations", "d", version}, _} <- rows, do: version) == [1, 2, 5]

    assert {_, <<5::little-64>>} =
             List.keyfind(rows, {<<0xFE>>, "schema_migrations", "max", "version"}, 0)

    refute Enum.any?(rows, &match?({{_, "users", "i", "users_name_index", _, _, _}, _}, &1))
  end

  test "records larger than a step are built", %{tenant: tenant} do
    for i <- 1..3,
        do:
          TestRepo.insert!(
            %TestUser{id: "u#{i}", name: "n", notes: String.duplicate("x", 500_000)},
            prefix: tenant
          )

    migrate(tenant, 1, migration_step: 2)
    assert stray_entries(tenant, TestUser) == []

    assert [%{id: "u1"}, %{id: "u2"}, %{id: "u3"}] =
             TestRepo.all(TestUser, where: [name: "n"], prefix: tenant)
  end

  describe "a step" do
    test "that is too large for a transaction is split", %{tenant: tenant} do
      notes = String.duplicate("x", 90_000)

      for ids <- Enum.chunk_every(1..150, 50) do
        rows = for i <- ids, do: [id: "u#{i}", name: "n", notes: notes]
        TestRepo.insert_all(TestUser, rows, prefix: tenant)
      end

      migrate(tenant, 7)
      assert claims(tenant) == []
      users = TestRepo.all(TestUser, where: [name: "n"], key_limit: 200, prefix: tenant)
      assert length(users) == 150
    end

    test "that conflicts with writers again and again is split",
         %{tenant: tenant} do
      TestRepo.insert_all(TestUser, for(i <- 1..8, do: [id: "u#{i}", name: "n"]), prefix: tenant)

      # A transaction that has read the record before conflicts with this writer.
      TestIndexer.tell(fn data ->
        "u" <> i = data[:id]
        before = %TestUser{id: "u#{String.to_integer(i) - 1}"}
        Task.await(Task.async(fn -> TestRepo.update(before, [notes: "new"], prefix: tenant) end))
      end)

      migrate(tenant, 6)
      assert claims(tenant) == []
      assert stray_entries(tenant, TestUser) == []
    end
  end

  describe "a long history of migrations" do
    defp migrator(name, migrations) do
      name = Module.concat(__MODULE__, name)
      body = quote do: def(migrations, do: unquote(Macro.escape(migrations)))
      Module.create(name, body, Macro.Env.location(__ENV__))
      name
    end

    defp migration(name, fields) do
      name = Module.concat(__MODULE__, name)

      commands =
        for field <- fields, do: EctoFoundationDB.Migration.index(TestUser, [:name, field])

      change = Macro.escape(for command <- commands, do: {:create, command})

      Module.create(
        name,
        quote(do: def(change, do: unquote(change))),
        Macro.Env.location(__ENV__)
      )

      name
    end

    @fields [:dept, :age, :active, :score, :joined, :seen_at, :notes]

    test "that does not fit into a claim is migrated all the same", %{tenant: tenant} do
      fill(tenant, 3)
      years = migration("Years", @fields)
      # The same commands again and again: existing indexes are not built again.
      migrator = migrator("Years.Migrator", for(version <- 1..40, do: {version, years}))
      tenant = Tenant.open!(TestRepo, tenant.id, migrator: migrator, log: false)
      assert Migrator.pending_versions(TestRepo, tenant) == []
      assert claims(tenant) == []
      assert length(index_names(tenant)) == length(@fields)
      assert stray_entries(tenant, TestUser) == []

      assert 40 =
               length(
                 for {{_, "schema_migrations", "d", version}, _} <- dump(tenant), do: version
               )
    end

    test "cannot be a single migration", %{tenant: tenant} do
      all = migration("AtOnce", List.flatten(List.duplicate(@fields, 40)))
      migrator = migrator("AtOnce.Migrator", [{1, all}])

      assert_raise ArgumentError,
                   ~r/migration 1 has \d+ remaining commands, .* Split it into several migrations/,
                   fn ->
                     Tenant.open!(TestRepo, tenant.id, migrator: migrator, log: false)
                   end
    end
  end

  test "nodes that open a tenant at once do the work only once", %{tenant: tenant} do
    fill(tenant, 60)
    before = counter(tenant)

    1..4
    |> Enum.map(fn _ -> Task.async(fn -> migrate(tenant, 5, migration_step: 5) end) end)
    |> Task.await_many(60_000)

    assert stray_entries(tenant, TestUser) == []
    assert claims(tenant) == []
    assert counter(tenant) == before
  end

  defp counter(tenant), do: for({{_, "users", "m", _}, value} <- dump(tenant), do: value)

  test "indexes are right when records are written during the build", %{tenant: tenant} do
    fill(tenant, 200)
    writers = for seed <- 1..3, do: writer(TestRepo, tenant, seed)
    migrate(tenant, 1, migration_step: 7)
    migrate(tenant, 5, migration_step: 7)
    stop(writers)
    assert stray_entries(tenant, TestUser) == []
  end

  # A process that writes until it is stopped.
  defp writer(repo, tenant, seed) do
    parent = self()

    spawn_link(fn ->
      :rand.seed(:exsss, {seed, 2, 3})
      write_until_told(repo, tenant, parent, 0)
    end)
  end

  defp stop(writers) do
    for writer <- writers, do: send(writer, :stop)
    for writer <- writers, do: assert_receive({:wrote, ^writer, n} when n > 0, 60_000)
  end

  defp write_until_told(repo, tenant, parent, n) do
    receive do
      :stop -> send(parent, {:wrote, self(), n})
    after
      0 ->
        id = "u#{String.pad_leading("#{:rand.uniform(220)}", 5, "0")}"
        name = "n#{:rand.uniform(10)}"

        case :rand.uniform(3) do
          1 ->
            repo.insert!(%TestUser{id: id, name: name, dept: name},
              prefix: tenant,
              on_conflict: :replace_all
            )

          2 ->
            repo.update(%TestUser{id: id}, [name: name, dept: name], prefix: tenant)

          3 ->
            repo.delete(%TestUser{id: id}, prefix: tenant)
        end

        write_until_told(repo, tenant, parent, n + 1)
    end
  end

  defmodule FaultyRepo do
    use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
  end

  @tag :embedded
  test "indexes are right when builders are killed and the database has faults", %{id: id} do
    start_supervised!({FaultyRepo, embedded: true, log: false})
    tenant = Tenant.open!(FaultyRepo, id)

    rows =
      for i <- 1..200, do: [id: "u#{String.pad_leading("#{i}", 5, "0")}", name: "n", dept: "d"]

    FaultyRepo.insert_all(TestUser, rows, prefix: tenant)

    EctoFoundationDB.Embedded.faults(FaultyRepo,
      seed: System.os_time(),
      not_committed: 0.1,
      commit_unknown_result: 0.1,
      future_version: 0.02
    )

    open = fn -> migrate(tenant, 6, migration_step: 3) end
    writers = for seed <- 1..2, do: writer(FaultyRepo, tenant, seed)
    TestIndexer.die_at("u00100", open)
    [Task.async(open), Task.async(open)] |> Task.await_many(:infinity)
    stop(writers)
    EctoFoundationDB.Embedded.faults(FaultyRepo, nil)
    assert claims(tenant) == []
    assert stray_entries(tenant, TestUser) == []
    assert index_names(tenant) == ["users_age_index", "users_dept_index"]
  end

  defp index_names(tenant) do
    for {{<<0xFE>>, "indexes", "users", name}, value} <- dump(tenant),
        :erlang.binary_to_term(value)[:indexer] != EctoFoundationDB.Indexer.SchemaMetadata,
        do: name
  end

  test "another process finishes a migration whose process was killed", %{tenant: tenant} do
    fill(tenant, 200)
    TestIndexer.die_at("u00100", fn -> migrate(tenant, 6, migration_step: 7) end)

    # Records written meanwhile are in the index that no process is building.
    TestRepo.insert!(%TestUser{id: "a", age: 1}, prefix: tenant)
    TestRepo.delete!(%TestUser{id: "u00001"}, prefix: tenant)
    migrate(tenant, 6)
    assert claims(tenant) == []
    assert stray_entries(tenant, TestUser) == []
  end

  test "a custom indexer that counts does not count records twice that are written during the build",
       %{tenant: tenant} do
    fill(tenant, 200)
    TestIndexer.die_at("u00100", fn -> migrate(tenant, 8, migration_step: 9) end)

    for id <- ["a", "z", "u00001", "u00100", "u00200"] do
      TestRepo.insert!(%TestUser{id: id, name: "new"}, prefix: tenant, on_conflict: :replace_all)
    end

    for id <- ["u00002", "u00150"], do: TestRepo.delete!(%TestUser{id: id}, prefix: tenant)
    migrate(tenant, 8)

    assert TestRepo.aggregate(TestUser, :count, prefix: tenant) == 200
    assert [200] = for({{_, "users", "i", _, "count"}, <<n::little-64>>} <- dump(tenant), do: n)

    TestRepo.delete_all(TestUser, prefix: tenant)
    assert [0] = for({{_, "users", "i", _, "count"}, <<n::little-64>>} <- dump(tenant), do: n)
  end

  describe "claims" do
    test "of the recorded library are read: its index is written, and its migration finished",
         %{tenant: tenant} do
      fill(tenant, 30)
      # The recorded claim of the step that builds users_name_index, for this tenant.
      {_key, recorded} =
        Enum.find(Recording.claims(), fn {_, claim} ->
          first_command(claim) == "users_name_index"
        end)

      refute recorded == nil

      claim = of_tenant(recorded, tenant)

      operations(tenant, [{:set, {:pack, Keys.claim(tenant, "users")}, claim}, Metadata.changed()])

      TestRepo.insert!(%TestUser{id: "new", name: "while building"}, prefix: tenant)

      assert {{<<0xFD>>, "users", "i", "users_name_index", 1, "while building", "new"}, _} =
               List.keyfind(
                 dump(tenant),
                 {<<0xFD>>, "users", "i", "users_name_index", 1, "while building", "new"},
                 0
               )

      # Queries don't use it.
      assert_raise Unsupported, fn ->
        TestRepo.all(TestUser, where: [name: "x"], prefix: tenant)
      end

      # No node works on the claim any more.
      migrate(tenant, 1)
      assert claims(tenant) == []
      assert stray_entries(tenant, TestUser) == []
      assert [_] = TestRepo.all(TestUser, where: [name: "while building"], prefix: tenant)
    end

    defp of_tenant(claim, tenant) do
      {:ok, {{:reference, owner}, steps}} = Term.decode_foreign(claim)
      <<131, steps::binary>> = steps |> with_prefix(tenant.prefix) |> :erlang.term_to_binary()
      <<131, 104, 2, owner::binary, steps::binary>>
    end

    defp with_prefix(<<1, 0x15, 0x1F, 0, rest::binary>>, prefix),
      do: <<Native.pack({prefix})::binary, rest::binary>>

    defp with_prefix(list, prefix) when is_list(list),
      do: Enum.map(list, &with_prefix(&1, prefix))

    defp with_prefix(tuple, prefix) when is_tuple(tuple),
      do: tuple |> Tuple.to_list() |> with_prefix(prefix) |> List.to_tuple()

    defp with_prefix(other, _prefix), do: other

    defp first_command(claim) do
      case Term.decode_foreign(claim) do
        {:ok, {_, [{_, [{{_, {_, data}}, _} | _]} | _]}} -> to_string(data[:id])
        _ -> nil
      end
    end

    test "that are invalid or have nothing left do not stop a migration", %{tenant: tenant} do
      migrate(tenant, 1)

      [{command, key_and_data, range}] = [
        {:create, {"key", [source: "users", indexer: EctoFoundationDB.Indexer.Default]},
         {"a", "a", "b"}}
      ]

      left = {make_ref(), [{1, [{{{command, %{schema: TestUser}}, key_and_data}, range}]}]}

      tenants =
        for {claim, n} <- Enum.with_index(["no claim", :erlang.term_to_binary(left)]) do
          tenant = Tenant.open!(TestRepo, "#{tenant.id}-#{n}")
          migrate(tenant, 1)
          fill(tenant, 3)
          operations(tenant, [{:set, {:pack, Keys.claim(tenant, "users")}, claim}])
          tenant
        end

      # Both wait until the claims are stale.
      tenants
      |> Enum.map(&Task.async(fn -> migrate(&1, 2) end))
      |> Task.await_many(:infinity)

      for tenant <- tenants do
        assert claims(tenant) == []
        assert index_names(tenant) == ["users_dept_index"]
        assert stray_entries(tenant, TestUser) == []
      end
    end

    test "look like those of the recorded library", %{tenant: tenant} do
      fill(tenant, 20)
      TestIndexer.die_at("u00010", fn -> migrate(tenant, 6, migration_step: 1) end)
      [ours | _] = claims(tenant)
      {_, recorded} = hd(Recording.claims())

      assert {owner, [{6, [{{{:create, index}, {key, data}}, {first, cursor, last}}]}]} =
               :erlang.binary_to_term(ours)

      assert is_reference(owner)

      {:ok, {_, [{1, [{{{:create, theirs}, {_, their_data}}, {_, _, _}} | _]} | _]}} =
        Term.decode_foreign(recorded)

      assert Enum.sort(Map.keys(index)) == Enum.sort(Map.keys(theirs))
      assert Enum.all?([key, first, cursor, last], &is_binary/1)
      assert Enum.map(data, &elem(&1, 0)) == Enum.map(their_data, &elem(&1, 0))
    end
  end

  describe "another node's migrations" do
    test "are noticed by transactions that began with the old indexes", %{tenant: tenant} do
      parent = self()
      migrate(tenant, 1)
      TestRepo.insert!(%TestUser{id: "warm", name: "x"}, prefix: tenant)

      task =
        Task.async(fn ->
          TestRepo.transactional(tenant, fn ->
            TestRepo.insert!(%TestUser{id: "late", name: "late", dept: "d"})
            send(parent, {:attempt, self()})
            receive(do: (:go -> :ok))
          end)
        end)

      assert_receive {:attempt, pid}, 5_000
      migrate(tenant, 5)
      send(pid, :go)
      # It conflicted with the migration.
      assert_receive {:attempt, ^pid}, 5_000
      send(pid, :go)
      Task.await(task)
      assert stray_entries(tenant, TestUser) == []
      assert [%{id: "late"}] = TestRepo.all(TestUser, where: [dept: "d"], prefix: tenant)
    end

    test "of other tenants cause no conflicts", %{tenant: tenant, id: id} do
      migrate(tenant, 1)
      TestRepo.insert!(%TestUser{id: "u", name: "x"}, prefix: tenant)
      attempts = :counters.new(1, [])

      TestRepo.transactional(tenant, fn ->
        :counters.add(attempts, 1, 1)
        TestRepo.update!(%TestUser{id: "u"}, name: "y")

        Task.await(
          Task.async(fn ->
            Tenant.open!(TestRepo, id <> "-other", migrator: __MODULE__.Until5, log: false)
          end)
        )
      end)

      assert :counters.get(attempts, 1) == 1
    end

    test "of indexes that this version does not know are maintained", %{tenant: tenant} do
      # As a newer version of the application wrote them: with unknown atoms.
      field = etf_atom("field_from_the_future")
      name = etf_atom("users_field_from_the_future_index")
      <<131, indexer::binary>> = :erlang.term_to_binary(EctoFoundationDB.Indexer.Default)
      pair = fn key, value -> <<104, 2, etf_atom(key)::binary, value::binary>> end
      <<131, source::binary>> = :erlang.term_to_binary("users")

      description =
        <<131, 108, 6::32>> <>
          pair.("id", name) <>
          pair.("type", etf_atom("index")) <>
          pair.("indexer", indexer) <>
          pair.("source", source) <>
          pair.("fields", <<108, 1::32, field::binary, 106>>) <>
          pair.("options", <<106>>) <> <<106>>

      <<131, text::binary>> = :erlang.term_to_binary("value")
      <<131, u::binary>> = :erlang.term_to_binary("u1")

      record =
        <<131, 108, 2::32>> <> pair.("id", u) <> pair.("field_from_the_future", text) <> <<106>>

      tuple = Keys.index_description(tenant, "users", "users_field_from_the_future_index")
      record_key = Native.pack(Keys.record(tenant, "users", "u1"))
      entry = {<<0xFD>>, "users", "i", "users_field_from_the_future_index", 1, "value", "u1"}

      operations(tenant, [
        {:set, {:pack, tuple}, description},
        {:set, record_key, record},
        {:set, Tenant.pack(tenant, entry), record_key},
        Metadata.changed()
      ])

      assert %TestUser{id: "u1", name: nil} = user = TestRepo.get(TestUser, "u1", prefix: tenant)
      user = TestRepo.update!(user, name: "Ada")
      assert %TestUser{name: "Ada"} = TestRepo.get(TestUser, "u1", prefix: tenant)
      assert {_, value} = List.keyfind(dump(tenant), {<<0xFD>>, "users", "d", "u1"}, 0)

      assert {:ok, [{"id", _}, {"field_from_the_future", ^text}, {"name", _}]} =
               Term.fields(value)

      TestRepo.insert!(%TestUser{id: "u2"}, prefix: tenant)
      assert List.keymember?(dump(tenant), put_elem(put_elem(entry, 5, nil), 6, "u2"), 0)
      TestRepo.delete!(user)
      refute List.keymember?(dump(tenant), entry, 0)

      assert_raise ArgumentError, fn -> String.to_existing_atom("field_from_the_" <> "future") end
    end

    defp etf_atom(name), do: <<119, byte_size(name), name::binary>>
  end

  test "progress is logged, and errors name the tenant", %{tenant: tenant} do
    fill(tenant, 3)

    log =
      capture_log(fn ->
        Tenant.open!(TestRepo, tenant.id, migrator: __MODULE__.Until2, log: true)
      end)

    assert log =~ ~s(#{tenant.id} (1\) users => :users_name_index)
    assert log =~ ~s(#{tenant.id} (1\) users => :users_metadata)
    assert log =~ ~s(#{tenant.id} (2\) users X :users_name_index)

    log =
      capture_log(fn ->
        assert_raise EctoFoundationDB.Error, ~r/tenant "nobody's" .* does not exist/, fn ->
          Migrator.migrate_all(TestRepo, tenants: ["nobody's"])
        end
      end)

    assert log =~ ~s(the migration of tenant "nobody's" of EctoFoundationDB.TestRepo failed)
  end

  test "a transaction sees its own writes to an index being migrated", %{tenant: tenant} do
    migrate(tenant, 1)

    Transaction.run(tenant, fn ->
      assert [%{name: :users_name_index}, _] =
               Enum.sort_by(Metadata.load(tenant, "users").indexes, & &1.name, :desc)
    end)
  end
end
