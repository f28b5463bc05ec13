defmodule EctoFoundationDB.SchemaMetadataTest do
  use EctoFoundationDB.LayerCase, async: true

  alias EctoFoundationDB.Exception.{IncorrectTenancy, Unsupported}
  alias EctoFoundationDB.{Future, LiveQuery, Repo, Sync, TimeoutError}
  alias EctoFoundationDB.Indexer.SchemaMetadata

  migration do
    [
      create(metadata(TestUser)),
      create(metadata(TestUser, [:dept])),
      create(index(TestUser, [:dept])),
      create(metadata(TestAccount, [], options: [signals: [:changes]])),
      create(metadata(TestMember, [:team])),
      create(index(TestMember, [:team]))
    ]
  end

  defp counters(tenant, by \\ []) do
    for signal <- SchemaMetadata.signal_names(),
        do: apply(SchemaMetadata, :"#{signal}_by", [TestUser, by, [prefix: tenant]])
  end

  test "count inserts, deletes, collection, updates, changes", %{tenant: tenant} do
    assert counters(tenant) == [0, 0, 0, 0, 0]
    user = TestRepo.insert!(%TestUser{id: "u1", dept: "eng"}, prefix: tenant)
    assert counters(tenant) == [1, 0, 1, 0, 1]
    user = TestRepo.update!(user, name: "x")
    assert counters(tenant) == [1, 0, 1, 1, 2]
    assert counters(tenant, dept: "eng") == [1, 0, 1, 1, 2]
    user = TestRepo.update!(user, dept: "ops")
    assert counters(tenant) == [1, 0, 1, 2, 3]
    assert counters(tenant, dept: "eng") == [1, 1, 2, 2, 3]
    assert counters(tenant, dept: "ops") == [1, 0, 1, 1, 1]
    TestRepo.insert!(%TestUser{id: "u1", name: "y"}, prefix: tenant, on_conflict: :replace_all)
    assert counters(tenant) == [1, 0, 1, 3, 4]
    TestRepo.insert!(%TestUser{id: "u1"}, prefix: tenant, on_conflict: :nothing)
    assert counters(tenant) == [1, 0, 1, 3, 4]
    TestRepo.delete!(user)
    assert counters(tenant) == [1, 1, 2, 3, 5]
    assert counters(tenant, dept: nil) == [0, 0, 0, 0, 0]
  end

  test "a field with a different stored name is counted, queried and synced by its field name", %{
    tenant: tenant
  } do
    state = %{assigns: %{}, private: %{tenant: tenant}}
    state = Sync.sync_all_by(state, TestRepo, :members, TestMember, team: "eng")
    ada = TestRepo.insert!(%TestMember{id: "m1", name: "Ada", team: "eng"}, prefix: tenant)
    TestRepo.insert!(%TestMember{id: "m2", name: "Bea", team: "ops"}, prefix: tenant)

    assert SchemaMetadata.changes_by(TestMember, [team: "eng"], prefix: tenant) == 1
    assert TestRepo.all_by(TestMember, [team: "eng"], prefix: tenant) == [ada]

    assert_receive {ref, :ready} = message when is_reference(ref), 10_000
    assert {:halt, state} = Sync.handle_ready(TestRepo, message, state)
    assert state.assigns.members == [ada]

    TestRepo.update!(ada, team: "ops")
    assert_receive {ref, :ready} = message when is_reference(ref), 10_000
    assert {:halt, %{assigns: %{members: []}}} = Sync.handle_ready(TestRepo, message, state)
  end

  test "delete_all increases them, never decreases", %{tenant: tenant} do
    users = [[id: "a", dept: "eng"], [id: "b", dept: "eng"]]
    TestRepo.insert_all(TestUser, users, prefix: tenant)

    TestRepo.delete_all(TestUser, prefix: tenant)
    assert counters(tenant) == [2, 2, 4, 0, 4]
    assert counters(tenant, dept: "eng") == [2, 2, 4, 0, 4]
  end

  test "are read as futures, and cleared", %{tenant: tenant} do
    TestRepo.insert!(%TestUser{id: "u1", dept: "eng"}, prefix: tenant)

    TestRepo.transactional(tenant, fn ->
      assert [1, 1] =
               TestRepo.await([
                 SchemaMetadata.async_changes(TestUser),
                 SchemaMetadata.async_inserts_by(TestUser, dept: "eng")
               ])

      SchemaMetadata.clear(TestUser)
    end)

    assert counters(tenant) == [0, 0, 0, 0, 0]
    assert counters(tenant, dept: "eng") == [1, 0, 1, 0, 1]
    TestRepo.transactional(tenant, fn -> SchemaMetadata.clear_by(TestUser, dept: "eng") end)
    assert counters(tenant, dept: "eng") == [0, 0, 0, 0, 0]
  end

  test "that do not exist are an error that says how to create them", %{tenant: tenant} do
    assert_raise Unsupported, ~r/create metadata\(.*TestUser, \[:name\]\)/, fn ->
      SchemaMetadata.changes_by(TestUser, [name: "x"], prefix: tenant)
    end

    assert SchemaMetadata.changes(TestAccount, prefix: tenant) == 0

    assert_raise Unsupported, ~r/has no counter :inserts/, fn ->
      SchemaMetadata.inserts(TestAccount, prefix: tenant)
    end

    assert_raise IncorrectTenancy, fn -> SchemaMetadata.changes(TestUser) end
    assert_raise IncorrectTenancy, fn -> SchemaMetadata.watch_changes(TestUser) end
  end

  # Follows the migration of all tests, version 1.
  versions([
    {1, [create(metadata(TestUser)), create(metadata(TestUser, [:dept]))]},
    {2, [drop(index(TestUser, [:dept])), create(index(TestUser, [:dept, :name]))]},
    {3, [drop(metadata(TestUser, [:dept]))]},
    {4, [drop(metadata(TestUser))]}
  ])

  test "are dropped one by one", %{id: id} do
    tenant = Tenant.open!(TestRepo, id <> "-drop")
    keys = fn -> for {key, _} <- dump(tenant), elem(key, 2) == "m", do: tuple_size(key) end
    migrate(tenant, 1)
    TestRepo.insert!(%TestUser{id: "u1", dept: "eng"}, prefix: tenant)
    # {data, source, "m", signal}, and {data, source, "m", index, 1, value, signal}
    assert keys.() == [4, 4, 4, 7, 7, 7]
    migrate(tenant, 3)
    assert keys.() == [4, 4, 4]
    assert SchemaMetadata.inserts(TestUser, prefix: tenant) == 1

    assert_raise Unsupported, ~r/has no counter/, fn ->
      SchemaMetadata.inserts_by(TestUser, [dept: "eng"], prefix: tenant)
    end

    # The counters of all records stay: created again, they continue and never repeat a value.
    migrate(tenant, 4)
    assert keys.() == [4, 4, 4]

    assert_raise Unsupported, ~r/has no counter/, fn ->
      SchemaMetadata.inserts(TestUser, prefix: tenant)
    end
  end

  describe "watches" do
    test "of a record are assigned", %{tenant: tenant} do
      user = TestRepo.insert!(%TestUser{id: "u1", name: "Ada"}, prefix: tenant)
      future = TestRepo.watch(user, label: :user)
      ref = Future.ref(future)
      refute_received {^ref, :ready}
      TestRepo.update!(user, name: "Bob")
      assert_receive {^ref, :ready}, 5_000

      assert {[user: %{name: "Bob"}], [again], []} =
               TestRepo.assign_ready([future], [ref], watch?: true, prefix: tenant)

      TestRepo.delete!(user)
      ref = Future.ref(again)
      assert_receive {^ref, :ready}, 5_000
      assert {[user: nil], [], []} = TestRepo.assign_ready([again], [ref], prefix: tenant)
    end

    test "of nothing are empty, and other futures have no reference to cancel", %{tenant: tenant} do
      assert TestRepo.watch(nil) == nil

      TestRepo.transactional(tenant, fn ->
        future = TestRepo.async_all(TestUser)
        assert Future.ref(future) == nil
        assert Future.cancel(future) == :ok
        assert TestRepo.await(future) == []
      end)
    end

    defmodule Watching do
      use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
    end

    test "that fail report it, and the process can set them again", %{id: id} do
      start_supervised!({Watching, TestRepo.test_config() ++ [max_watches: 1]})
      tenant = Tenant.open!(Watching, id)
      user = Watching.insert!(%TestUser{id: "u1", name: "Ada"}, prefix: tenant)
      first = Watching.watch(%TestUser{id: "other"}, prefix: tenant)
      future = Watching.watch(user, label: :user)
      ref = Future.ref(future)
      assert_receive {^ref, {:error, {:fdb, 1032, _too_many}}}, 60_000
      :ok = Future.cancel(first)
      again = made_anew(future, tenant)
      Watching.update!(user, name: "Bea")
      assert Watching.await(again) == :ready
    end

    # The slot of a cancelled watch is free a moment later.
    defp made_anew(future, tenant) do
      assert {[user: %{name: "Ada"}], [again], []} =
               Watching.assign_ready([future], [Future.ref(future)], watch?: true, prefix: tenant)

      ref = Future.ref(again)

      receive do
        {^ref, {:error, {:fdb, 1032, _too_many}}} -> made_anew(again, tenant)
      after
        100 -> again
      end
    end

    test "in a map need no label", %{tenant: tenant} do
      user = TestRepo.insert!(%TestUser{id: "u1", name: "Ada"}, prefix: tenant)
      other = TestRepo.insert!(%TestUser{id: "u2", name: "Eve"}, prefix: tenant)
      futures = %{a: TestRepo.watch(user), b: TestRepo.watch(other)}
      TestRepo.update!(user, name: "Bob")
      ref = Future.ref(futures.a)
      assert_receive {^ref, :ready}, 5_000

      assert {[a: %{name: "Bob"}], %{a: _}, %{b: _}} =
               TestRepo.assign_ready(futures, [ref], watch?: true, prefix: tenant)

      assert_raise ArgumentError, ~r/no label/, fn ->
        TestRepo.assign_ready([futures.a], [ref], prefix: tenant)
      end

      assert :ok = Future.cancel(futures.b)
      ref = Future.ref(futures.b)
      TestRepo.update!(other, name: "Eva")
      refute_receive {^ref, _}, 50
    end

    test "of every counter, with their own functions; a process may await them",
         %{tenant: tenant} do
      user = TestRepo.insert!(%TestUser{id: "u1", dept: "eng"}, prefix: tenant)

      moves = %{
        inserts: fn -> TestRepo.insert!(%TestUser{id: "u2", dept: "eng"}, prefix: tenant) end,
        updates: fn -> TestRepo.update!(user, name: "Ada") end,
        deletes: fn -> TestRepo.delete!(%TestUser{id: "u2"}, prefix: tenant) end,
        collection: fn -> TestRepo.insert!(%TestUser{id: "u3", dept: "eng"}, prefix: tenant) end,
        changes: fn -> TestRepo.update!(user, name: "Bea") end
      }

      for signal <- [:inserts, :updates, :deletes, :collection, :changes] do
        watches = [
          apply(SchemaMetadata, :"watch_#{signal}", [TestUser, [prefix: tenant]]),
          apply(SchemaMetadata, :"watch_#{signal}_by", [TestUser, [dept: "eng"], [prefix: tenant]])
        ]

        other = SchemaMetadata.watch_by(TestUser, [dept: "ops"], signal, prefix: tenant)
        moves[signal].()
        assert TestRepo.await(watches) == [:ready, :ready]
        ref = Future.ref(other)
        refute_received {^ref, _}
        Future.cancel(other)

        [all, by] =
          TestRepo.transactional(tenant, fn ->
            TestRepo.await([
              apply(SchemaMetadata, :"async_#{signal}", [TestUser]),
              apply(SchemaMetadata, :"async_#{signal}_by", [TestUser, [dept: "eng"]])
            ])
          end)

        assert all > 0 and by == all
        assert apply(SchemaMetadata, signal, [TestUser, [prefix: tenant]]) == all
      end
    end

    test "of a collection", %{tenant: tenant} do
      TestRepo.insert!(%TestUser{id: "u1", dept: "eng"}, prefix: tenant)

      {all, dept} =
        TestRepo.transactional(tenant, fn ->
          {SchemaMetadata.watch_changes(TestUser, label: :users),
           SchemaMetadata.watch_collection_by(TestUser, [dept: "ops"], label: :ops)}
        end)

      TestRepo.insert!(%TestUser{id: "u2", dept: "eng"}, prefix: tenant)
      ref = Future.ref(all)
      assert_receive {^ref, :ready}, 5_000

      assert {[users: [%{id: "u1"}, %{id: "u2"}]], [_], [^dept]} =
               TestRepo.assign_ready([all, dept], [ref], watch?: true, prefix: tenant)

      TestRepo.insert!(%TestUser{id: "u3", dept: "ops"}, prefix: tenant)
      ref = Future.ref(dept)
      assert_receive {^ref, :ready}, 5_000
      assert {[ops: [%{id: "u3"}]], [], []} = TestRepo.assign_ready([dept], [ref], prefix: tenant)
    end
  end

  describe "live queries" do
    test "of one record and of lists", %{tenant: tenant} do
      query = LiveQuery.query(tenant, TestUser, [dept: "eng"], order_by: [desc: :name])

      [one, by_dept, all] =
        subscribe(query, fn ->
          [
            {LiveQuery.basis(tenant), LiveQuery.record(tenant, TestUser, "u1")},
            LiveQuery.all(query, [dept: "eng"], :changes),
            LiveQuery.all(LiveQuery.query(tenant, TestUser), [], :changes)
          ]
        end)

      for subscription <- [one, by_dept, all],
          do: assert({:first, [{:rows, []}]} = EctoFoundationDB.Native.take(subscription))

      TestRepo.insert_all(
        TestUser,
        [
          [id: "u1", name: "A", dept: "eng"],
          [id: "u2", name: "B", dept: "eng"],
          [id: "u3", name: "C"]
        ],
        prefix: tenant
      )

      for subscription <- [one, by_dept, all], do: assert_receive({^subscription, :ready}, 5_000)

      assert {:news, [{0, {:rows, [rows]}}]} = EctoFoundationDB.Native.take(one)

      assert [%TestUser{id: "u1", name: "A"}] =
               tenant |> LiveQuery.decoder(TestUser) |> LiveQuery.decode(rows)

      assert {:news, [{0, {:rows, records}}]} = EctoFoundationDB.Native.take(by_dept)
      structs = Enum.flat_map(records, &LiveQuery.decode(LiveQuery.decoder(query), &1))
      assert [%{id: "u2"}, %{id: "u1"}] = LiveQuery.arrange(query, structs)
      assert {:news, [{0, {:rows, [_, _, _]}}]} = EctoFoundationDB.Native.take(all)
      Enum.each([one, by_dept, all], &EctoFoundationDB.Native.unsubscribe/1)
    end

    defp subscribe(query, live_queries) do
      ref = make_ref()
      wanted = for {basis, live} <- live_queries.(), do: {basis, [live], nil}
      subscriptions = EctoFoundationDB.Native.subscribe(Repo.database(TestRepo), ref, wanted)
      assert_receive {^ref, answer}, 5_000

      if answer == :replan do
        for {{_, [_], _} = basis, _live} <- live_queries.(),
            do: LiveQuery.learn(query, basis)

        subscribe(query, live_queries)
      else
        assert answer == :ok
        subscriptions
      end
    end

    test "are planned again when indexes change", %{tenant: tenant} do
      TestRepo.insert!(%TestUser{id: "u1", name: "A", dept: "eng"}, prefix: tenant)
      query = LiveQuery.query(tenant, TestUser, dept: "eng")

      [subscription] = subscribe(query, fn -> [LiveQuery.all(query, [dept: "eng"], :changes)] end)

      assert {:first, [{:rows, [_] = first}]} = EctoFoundationDB.Native.take(subscription)

      migrate(tenant, 2)
      TestRepo.insert!(%TestUser{id: "u2", name: "B", dept: "eng"}, prefix: tenant)
      assert_receive {^subscription, :ready}, 15_000
      assert ["u1", "u2"] = eventually(subscription, query, first)
      EctoFoundationDB.Native.unsubscribe(subscription)
    end

    # The rows may arrive before the plan, or with it.
    defp eventually(subscription, query, records) do
      records =
        case EctoFoundationDB.Native.take(subscription) do
          {:news, [{0, {:rows, rows}}]} ->
            Enum.flat_map(rows, fn
              {:keep, first, count} -> Enum.slice(records, first, count)
              record -> [record]
            end)

          _ ->
            records
        end

      decoder = LiveQuery.decoder(query)
      ids = for record <- records, struct <- LiveQuery.decode(decoder, record), do: struct.id

      if length(ids) == 2 do
        ids
      else
        assert_receive {^subscription, :ready}, 15_000
        eventually(subscription, query, records)
      end
    end
  end

  test "a timeout has its own error" do
    assert Exception.message(%TimeoutError{timeout: 7, doing: "reading"}) =~
             "within 7 ms while reading"
  end
end
