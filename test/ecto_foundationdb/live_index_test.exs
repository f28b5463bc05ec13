defmodule EctoFoundationDB.LiveIndexTest do
  # Lists that are synced by an index.
  use EctoFoundationDB.LayerCase, async: true

  alias EctoFoundationDB.{Native, StreamClient, SyncPage}
  alias EctoFoundationDB.Layer.Keys
  alias EctoFoundationDB.Sync

  migration do
    [
      create(metadata(TestEvent)),
      create(metadata(TestUser)),
      create(index(TestEvent, [:kind])),
      create(index(TestUser, [:dept, :age]))
    ]
  end

  defp insert_event(tenant, kind, data) do
    [event] =
      TestRepo.transactional(tenant, fn ->
        TestRepo.async_insert_all!(TestEvent, [%TestEvent{kind: kind, data: data}])
      end)
      |> TestRepo.await()

    event
  end

  defp page(tenant, schema, opts) do
    page = SyncPage.start(TestRepo, tenant, &Sync.sync_all(&1, TestRepo, :list, {schema, opts}))

    on_exit(fn -> Process.exit(page, :kill) end)
    page
  end

  test "whose ids are versionstamps follow every change", %{tenant: tenant} do
    first = insert_event(tenant, "a", "1")
    insert_event(tenant, "b", "other")
    page = page(tenant, TestEvent, where: [kind: "a"])
    newest = page(tenant, TestEvent, where: [kind: "a"], order_by: [desc: :id], limit: 1)
    assert SyncPage.assigns(page).list == [first]

    second = insert_event(tenant, "a", "2")
    assert SyncPage.await(page, &(&1.list == [first, second]))
    assert SyncPage.await(newest, &(&1.list == [second]))

    TestRepo.update!(first, data: "3")
    assert SyncPage.await(page, &match?(%{list: [%{data: "3"}, ^second]}, &1))
    TestRepo.update!(second, kind: "b")
    assert SyncPage.await(page, &match?(%{list: [%{data: "3"}]}, &1))
    assert SyncPage.await(newest, &match?(%{list: [%{data: "3"}]}, &1))
    TestRepo.delete!(first)
    assert SyncPage.await(page, &(&1.list == []))
  end

  test "with a limit, beside outdated entries", %{tenant: tenant} do
    for i <- 1..6,
        do: TestRepo.insert!(%TestUser{id: "u#{i}", dept: "d", age: i}, prefix: tenant)

    # As ecto_foundationdb left them: entries that end in the wrong id, of earlier values, and one
    # that leads to no record at all.
    entry = fn values, last, value ->
      {:set, {:pack, Keys.index_entry(tenant, "users", "users_dept_age_index", values, last)},
       value}
    end

    record = &Native.pack(Keys.record(tenant, "users", &1))

    operations(tenant, [
      entry.(["d", 0], "wrong", record.("u5")),
      entry.(["d", 0], "wrong too", record.("u6")),
      entry.(["d", 0], "gone", record.("nobody")),
      entry.(["d", 0], "no key", "\xff/not/a/key"),
      entry.(["d", 7], "wrong", record.("u1"))
    ])

    ids = fn opts ->
      for user <- SyncPage.assigns(page(tenant, TestUser, [where: [dept: "d"]] ++ opts)).list,
          do: user.id
    end

    assert ids.(limit: 2, order_by: :age) == ~w(u1 u2)
    assert ids.(limit: 4, order_by: :age) == ~w(u1 u2 u3 u4)
    assert ids.(limit: 2, order_by: [desc: :age]) == ~w(u6 u5)
    assert ids.(order_by: :age) == ~w(u1 u2 u3 u4 u5 u6)

    # Without an order the limit still applies.
    for limit <- 1..7, do: assert(length(ids.(limit: limit)) == min(limit, 6))

    # A stream shows the same, from the beginning and after each change.
    streams =
      for opts <- [[], [order_by: :age], [order_by: [desc: :age]]], limit <- 1..7 do
        opts = [limit: limit, where: [dept: "d"]] ++ opts
        assign = [assign: &StreamClient.assign/2]

        SyncPage.start(TestRepo, tenant, fn state ->
          state
          |> Sync.sync_stream(TestRepo, :stream, {TestUser, opts}, assign)
          |> Sync.sync_all(TestRepo, :list, {TestUser, opts})
        end)
      end

    for change <- [
          fn -> :nothing end,
          fn -> TestRepo.update!(%TestUser{id: "u2"}, [name: "Two"], prefix: tenant) end,
          fn -> TestRepo.update!(%TestUser{id: "u1"}, [age: 9], prefix: tenant) end,
          fn -> TestRepo.delete!(%TestUser{id: "u3"}, prefix: tenant) end,
          fn -> TestRepo.insert!(%TestUser{id: "u7", dept: "d", age: 0}, prefix: tenant) end,
          fn -> TestRepo.update!(%TestUser{id: "u5"}, [dept: "e"], prefix: tenant) end
        ] do
      change.()
      Sync.settle(TestRepo)

      for page <- streams do
        %{list: list, stream: stream} = SyncPage.assigns(page)
        assert Enum.map(stream, & &1.id) == Enum.map(list, & &1.id)
        assert stream == list
      end
    end

    for page <- streams, do: GenServer.stop(page)
  end

  test "by a range, which records leave and enter", %{tenant: tenant} do
    for {id, age} <- [{"u1", 10}, {"u2", 20}, {"u3", nil}],
        do: TestRepo.insert!(%TestUser{id: id, dept: "d", age: age}, prefix: tenant)

    ids = fn assigns -> for user <- assigns.list, do: user.id end
    adults = page(tenant, TestUser, where: [dept: "d", age: {:>=, 18}])
    young = page(tenant, TestUser, where: [dept: "d", age: [<: 18, >: 1]])
    assert ids.(SyncPage.assigns(adults)) == ["u2"]
    assert ids.(SyncPage.assigns(young)) == ["u1"]

    TestRepo.update!(%TestUser{id: "u1"}, [age: 18], prefix: tenant)
    assert SyncPage.await(adults, &(ids.(&1) == ["u1", "u2"]))
    assert SyncPage.await(young, &(ids.(&1) == []))

    # As another client leaves it: an entry of a value that its record no longer has.
    entry = Keys.index_entry(tenant, "users", "users_dept_age_index", ["d", 99], "u3")
    operations(tenant, [{:set, {:pack, entry}, Native.pack(Keys.record(tenant, "users", "u3"))}])
    TestRepo.delete!(%TestUser{id: "u1"}, prefix: tenant)
    assert SyncPage.await(adults, &(ids.(&1) == ["u2"]))
  end

  test "distinguish records whose ids continue with a zero byte", %{tenant: tenant} do
    ids = ["u1", "u1\0", "u1\0x"]
    for id <- ids, do: TestRepo.insert!(%TestUser{id: id, dept: "d"}, prefix: tenant)
    page = page(tenant, TestUser, where: [dept: "d"])
    assert for(user <- SyncPage.assigns(page).list, do: user.id) == ids
    TestRepo.delete!(%TestUser{id: "u1"}, prefix: tenant)
    assert SyncPage.await(page, &(for(user <- &1.list, do: user.id) == tl(ids)))
  end

  test "by the primary key and a value", %{tenant: tenant} do
    TestRepo.insert!(%TestUser{id: "u1", dept: "d"}, prefix: tenant)
    TestRepo.insert!(%TestUser{id: "u2", dept: "d"}, prefix: tenant)
    page = page(tenant, TestUser, where: [id: "u1", dept: "d"])
    assert [%{id: "u1"}] = SyncPage.assigns(page).list
    TestRepo.update!(%TestUser{id: "u1"}, [dept: "e"], prefix: tenant)
    assert SyncPage.await(page, &(&1.list == []))
  end

  versions([
    {1, [create(metadata(TestNote)), create(index(TestNote, [:tag]))]},
    {2, [create(index(TestNote, [:tag, :text])), drop(index(TestNote, [:tag]))]}
  ])

  test "are planned again if their indexes have changed since the last plan",
       %{tenant: tenant} do
    tenant = Tenant.open!(TestRepo, tenant.id <> "-versions")
    migrate(tenant, 1)
    note = TestRepo.insert!(%TestNote{id: "n", tag: "t"}, prefix: tenant)
    page = page(tenant, TestNote, where: [tag: "t"])
    assert SyncPage.assigns(page).list == [note]

    # The next page is planned with the node's earlier indexes.
    migrate(tenant, 2)
    assert SyncPage.assigns(page(tenant, TestNote, where: [tag: "t"])).list == [note]
    assert [] = SyncPage.assigns(page(tenant, TestNote, where: [tag: "t", text: "x"])).list
  end

  test "come in a different order if a different index answers, changed or not", %{tenant: tenant} do
    tenant = Tenant.open!(TestRepo, tenant.id <> "-order")
    migrate(tenant, 1)

    notes =
      for i <- 10..29 do
        TestRepo.insert!(%TestNote{id: "n#{i}", tag: "t", text: "#{50 - i}"}, prefix: tenant)
      end

    page = page(tenant, TestNote, where: [tag: "t"])
    assert SyncPage.assigns(page).list == notes
    migrate(tenant, 2)
    assert SyncPage.await(page, &(&1.list == Enum.reverse(notes)))

    # From the middle to the end.
    moved = TestRepo.update!(Enum.at(notes, 7), text: "99")
    expected = notes |> List.delete_at(7) |> Enum.reverse() |> Kernel.++([moved])
    assert SyncPage.await(page, &(&1.list == expected))
  end
end
