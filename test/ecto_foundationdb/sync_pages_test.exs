defmodule EctoFoundationDB.SyncPagesTest do
  # Many processes at once, and the database's own counters: nothing else may use it meanwhile.
  use ExUnit.Case, async: false

  alias EctoFoundationDB.Native
  alias EctoFoundationDB.Sync
  alias EctoFoundationDB.Tenant
  alias EctoFoundationDB.SyncPage, as: Page
  alias EctoFoundationDB.SyncRepo, as: Repo
  alias EctoFoundationDB.SyncUser, as: User

  setup do
    idle!()
    tenant = Repo.tenant()
    user = Repo.insert!(%User{id: "u1", name: "0"}, prefix: tenant)
    on_exit(&idle!/0)
    %{tenant: tenant, user: user}
  end

  # Nothing of an earlier test is left.
  defp idle! do
    Repo.eventually(
      &Repo.stats/0,
      &match?(%{subscriptions: 0, pending_watches: 0, transactions: 0}, &1)
    )
  end

  defp page(tenant, id \\ "u1", opts \\ []) do
    page = Page.start(Repo, tenant, &Sync.sync_one(&1, Repo, :user, User, id, opts))
    on_exit(fn -> Process.exit(page, :kill) end)
    page
  end

  defp named(name), do: &match?(%{user: %{name: ^name}}, &1)

  test "update, delete, re-creation and creation are seen by every page", context do
    %{tenant: tenant, user: user} = context
    pages = for _ <- 1..3, do: page(tenant)
    absent = for _ <- 1..3, do: page(tenant, "u2")

    Repo.update!(user, name: "1")
    for page <- pages, do: Page.await(page, named("1"))
    Repo.delete!(user)
    for page <- pages, do: Page.await(page, &(&1.user == nil))
    Repo.insert!(%{user | name: "2"}, prefix: tenant)
    for page <- pages, do: Page.await(page, named("2"))

    for page <- absent, do: assert(Page.assigns(page).user == nil)
    Repo.insert!(%User{id: "u2", name: "here"}, prefix: tenant)
    for page <- absent, do: Page.await(page, named("here"))
  end

  test "1,000 updates in a row end with every page on the last value", context do
    %{tenant: tenant, user: user} = context
    pages = for _ <- 1..5, do: page(tenant)
    for i <- 1..1000, do: Repo.update!(user, name: "#{i}")
    for page <- pages, do: Page.await(page, named("1000"))
  end

  test "200 processes share one watch and one read per change", context do
    %{tenant: tenant, user: user} = context
    pages = for _ <- 1..200, do: page(tenant)
    assert %{subscriptions: 200, live_queries: 1} = Repo.stats()
    Repo.eventually(&Repo.stats/0, &(&1.pending_watches == 1))

    if engine = Native.engine_stats(Repo.database()) do
      assert engine.pending_watches == 1
    end

    for i <- 1..5 do
      before = Repo.stats()
      Repo.update!(user, name: "#{i}")
      for page <- pages, do: Page.await(page, named("#{i}"))
      stats = Repo.stats()
      assert stats.reads - before.reads == 1
      assert stats.messages - before.messages == 200
      assert stats.pending_watches <= 1
    end
  end

  test "200 processes on one list share one watch and one read per change", context do
    %{tenant: tenant, user: user} = context
    for i <- 2..200, do: Repo.insert!(%User{id: "u#{i}", name: "#{i}"}, prefix: tenant)
    pages = for _ <- 1..200, do: Page.start(Repo, tenant, &Sync.sync_all(&1, Repo, :users, User))
    on_exit(fn -> for page <- pages, do: Process.exit(page, :kill) end)
    assert %{subscriptions: 200, live_queries: 1} = Repo.stats()
    Repo.eventually(&Repo.stats/0, &(&1.pending_watches == 1))

    for i <- 1..5 do
      before = Repo.stats()
      Repo.update!(user, name: "new #{i}")
      for page <- pages, do: Page.await(page, &(hd(&1.users).name == "new #{i}"))
      stats = Repo.stats()
      assert stats.reads - before.reads == 1
      assert stats.messages - before.messages == 200
      assert stats.pending_watches <= 1
    end
  end

  test "of ids synced again only the new ones are read, and the dropped ones let go", context do
    %{tenant: tenant} = context
    ids = for i <- 1..50, do: "u#{i}"
    page = Page.start(Repo, tenant, &Sync.sync_many(&1, Repo, :users, User, ids))
    on_exit(fn -> Process.exit(page, :kill) end)
    before = Repo.eventually(&Repo.stats/0, &(&1.pending_watches == 50))

    Page.update(page, &Sync.sync_many(&1, Repo, :users, User, tl(ids) ++ ["new 1", "new 2"]))
    stats = Repo.stats()
    assert stats.reads - before.reads == 2
    assert stats.watches_armed - before.watches_armed == 2
    assert %{subscriptions: 1, live_queries: 51} = stats
    Repo.eventually(&Repo.stats/0, &(&1.pending_watches == 51))
  end

  # Many light pages, that tell when they have mounted and when they have been assigned anew.
  defp start_many(count, tenant, mount) do
    test = self()

    for i <- 1..count do
      spawn_link(fn ->
        state = mount.(%{assigns: %{}, private: %{tenant: tenant}}, i)
        send(test, :mounted)
        follow_many(state, test)
      end)
    end

    all(:mounted, count)
  end

  defp follow_many(state, test) do
    receive do
      message ->
        {:halt, state} = Sync.handle_ready(Repo, message, state)
        send(test, {:assigned, first(state.assigns).name})
        follow_many(state, test)
    end
  end

  defp first(%{users: [user | _]}), do: user
  defp first(%{user: user}), do: user

  defp all(_what, 0), do: :ok

  defp all(what, count) do
    assert_receive ^what, 60_000
    all(what, count - 1)
  end

  test "10,000 processes on one list mount with few reads, and share one watch and one read per change",
       context do
    %{tenant: tenant, user: user} = context
    for i <- 2..50, do: Repo.insert!(%User{id: "u#{i}", name: "#{i}"}, prefix: tenant)
    unmounted = Repo.stats()
    start_many(10_000, tenant, fn state, _i -> Sync.sync_all(state, Repo, :users, User) end)
    before = Repo.stats()
    assert %{subscriptions: 10_000, live_queries: 1, pending_watches: 1} = before
    assert before.reads - unmounted.reads <= 30

    Repo.update!(user, name: "new")
    for _ <- 1..10_000, do: assert_receive({:assigned, "new"}, 60_000)
    stats = Repo.stats()
    assert stats.reads - before.reads == 1
    assert stats.messages - before.messages == 10_000
    assert stats.live_queries == 1
  end

  test "12,000 pages on one record, more than a connection may have watches by default",
       context do
    %{tenant: tenant, user: user} = context
    unmounted = Repo.stats()
    start_many(12_000, tenant, fn state, _i -> Sync.sync_one(state, Repo, :user, User, "u1") end)
    before = Repo.stats()
    assert %{subscriptions: 12_000, live_queries: 1, pending_watches: 1} = before
    assert before.reads - unmounted.reads <= 30

    for i <- 1..3 do
      name = "new #{i}"
      Repo.update!(user, name: name)
      for _ <- 1..12_000, do: assert_receive({:assigned, ^name}, 60_000)
    end
  end

  test "30,000 pages on 30,000 records are watched, more than FoundationDB's default", context do
    %{tenant: tenant} = context
    count = 30_000

    start_many(count, tenant, fn state, i ->
      Sync.sync_one(state, Repo, :user, User, "new #{i}")
    end)

    Repo.eventually(&Repo.stats/0, &(&1.pending_watches == count))

    for i <- [1, 9_999, 10_001, 20_000, count] do
      Repo.insert!(%User{id: "new #{i}", name: "#{i}"}, prefix: tenant)
      name = "#{i}"
      assert_receive {:assigned, ^name}, 60_000
    end
  end

  defmodule Uncounted do
    use EctoFoundationDB.Migrator
    use EctoFoundationDB.Migration

    @impl EctoFoundationDB.Migrator
    def migrations, do: Repo.migrations() ++ [{1, __MODULE__}]
    @impl EctoFoundationDB.Migration
    def change, do: [drop(metadata(User)), drop(index(User, [:name]))]
  end

  defmodule CountedAgain do
    use EctoFoundationDB.Migrator
    use EctoFoundationDB.Migration

    @impl EctoFoundationDB.Migrator
    def migrations, do: Uncounted.migrations() ++ [{2, __MODULE__}]
    @impl EctoFoundationDB.Migration
    def change, do: [create(metadata(User)), create(index(User, [:name]))]
  end

  test "without its index a list keeps its data and says it is stale, until there is one",
       context do
    %{tenant: tenant, user: user} = context
    test = self()

    stale = fn state, labels ->
      send(test, {:stale, labels, state.assigns})
      {:cont, state}
    end

    page =
      Page.start(Repo, tenant, fn state ->
        state
        |> Sync.attach_callback(Repo, :handle_stale, stale)
        |> Sync.sync_all(Repo, :users, {User, order_by: :name})
      end)

    on_exit(fn -> Process.exit(page, :kill) end)
    Tenant.open!(Repo, tenant.id, migrator: Uncounted)
    assert_receive {:stale, %{users: reason}, %{users: [%{name: "0"}]}}, 60_000
    assert Exception.message(reason) =~ "metadata("

    # Nobody counts this change.
    Repo.update!(user, name: "1")
    Tenant.open!(Repo, tenant.id, migrator: CountedAgain)
    assert %{users: [_]} = Page.await(page, &match?(%{users: [%{name: "1"}]}, &1))
    assert_receive {:stale, %{users: nil}, _assigns}, 60_000

    Repo.update!(user, name: "2")
    Page.await(page, &match?(%{users: [%{name: "2"}]}, &1))
  end

  @tag :embedded
  test "a page that mounts between a change and its watch costs the others nothing", context do
    %{tenant: tenant, user: user} = context
    first = page(tenant)

    for i <- 1..100 do
      :ok = Native.engine_hold_watches(Repo.database(), true)
      Repo.update!(user, name: "#{i}")
      late = page(tenant)
      assert Page.assigns(late).user.name == "#{i}"
      # By the late page's read, or by the watch: the first page sees it.
      if rem(i, 2) == 0, do: Page.await(first, named("#{i}"))
      :ok = Native.engine_hold_watches(Repo.database(), false)
      Page.await(first, named("#{i}"))
      Process.exit(late, :kill)
    end
  end

  @tag :embedded
  test "a value that changes and changes back leaves nobody on the wrong one", context do
    %{tenant: tenant, user: user} = context
    first = page(tenant)

    for i <- 1..100 do
      :ok = Native.engine_hold_watches(Repo.database(), true)
      Repo.update!(user, name: "other")
      # Reads "other", then the value is the one again that the first page's watch was armed with.
      late = page(tenant)
      Repo.update!(user, name: "0")
      :ok = Native.engine_hold_watches(Repo.database(), false)
      Page.await(late, named("0"))
      Page.await(first, named("0"))
      # And both still follow.
      Repo.update!(user, name: "new #{i}")
      for page <- [first, late], do: Page.await(page, named("new #{i}"))
      Repo.update!(user, name: "0")
      for page <- [first, late], do: Page.await(page, named("0"))
      Process.exit(late, :kill)
    end
  end

  test "a killed page leaves nothing behind", %{tenant: tenant, user: user} do
    pages = for i <- 1..100, do: page(tenant, "u#{rem(i, 10)}")
    assert %{subscriptions: 100, live_queries: 10} = Repo.stats()
    for page <- pages, do: Process.exit(page, :kill)
    idle!()
    Repo.update!(user, name: "after")
    assert %{live_queries: 0} = Repo.stats()
  end

  test "a page that is killed while it subscribes leaves nothing behind", %{tenant: tenant} do
    for i <- 1..300 do
      page = spawn(fn -> page_forever(tenant, "u#{i}") end)
      if rem(i, 3) == 0, do: :erlang.yield()
      if rem(i, 7) == 0, do: Process.sleep(1)
      Process.exit(page, :kill)
    end

    idle!()
    Repo.eventually(&Repo.stats/0, &(&1.live_queries == 0))
  end

  defp page_forever(tenant, id) do
    state = %{assigns: %{}, private: %{tenant: tenant}}
    Sync.sync_one(state, Repo, :user, User, id)
    Process.sleep(:infinity)
  end

  # Ten thousand commits, one after the other, are a matter of minutes on a slow cluster.
  @tag timeout: 600_000
  test "a page that sleeps through many changes has one message waiting", context do
    %{tenant: tenant, user: user} = context
    test = self()

    page =
      spawn_link(fn ->
        state = %{assigns: %{}, private: %{tenant: tenant}}
        state = Sync.sync_one(state, Repo, :user, User, "u1")
        send(test, :mounted)
        assert_receive :wake, 60_000
        send(test, {:waiting, elem(Process.info(self(), :message_queue_len), 1)})
        follow(state, test)
      end)

    assert_receive :mounted, 10_000
    awake = page(tenant)
    for i <- 1..10_000, do: Repo.update!(user, name: "#{i}")
    Page.await(awake, named("10000"))

    send(page, :wake)
    assert_receive {:waiting, 1}, 10_000
    assert_receive {:name, "10000"}, 10_000
  end

  defp follow(state, test) do
    receive do
      message ->
        {:halt, state} = Sync.handle_ready(Repo, message, state)
        send(test, {:name, state.assigns.user.name})
        follow(state, test)
    end
  end

  test "pages that mount while a change is delivered take no one's turn", %{tenant: tenant} do
    for round <- 1..30 do
      id = "d#{round}"
      user = Repo.insert!(%User{id: id, name: "a"}, prefix: tenant)
      first = for _ <- 1..4, do: page(tenant, id)

      # At the same moment: the change, which wakes four, and mounts that make room for more.
      mounts = for _ <- 1..8, do: Task.async(fn -> Page.start(Repo, tenant, &sync(&1, id)) end)
      Repo.update!(user, name: "b")
      pages = first ++ Task.await_many(mounts, 60_000)

      for page <- pages, do: assert(%{user: %{name: "b"}} = Page.await(page, named("b")))
      for page <- pages, do: Process.exit(page, :kill)
    end

    idle!()
  end

  defp sync(state, id), do: Sync.sync_one(state, Repo, :user, User, id)

  test "pages that mount, re-sync, cancel and crash while writers write end on the truth",
       context do
    %{tenant: tenant} = context
    ids = for i <- 1..20, do: "r#{i}"
    seed = ExUnit.configuration()[:seed]
    :rand.seed(:exsss, {seed, 2, 3})

    writers =
      for w <- 1..3 do
        Task.async(fn ->
          :rand.seed(:exsss, {seed, w, 1})
          for i <- 1..400, do: write(tenant, Enum.random(ids), "#{w}-#{i}")
        end)
      end

    pages =
      Enum.reduce(1..300, [], fn i, pages ->
        case :rand.uniform(6) do
          n when n <= 3 or pages == [] ->
            [page(tenant, Enum.random(ids)) | pages]

          4 ->
            some = Enum.take_random(ids, :rand.uniform(5))
            Page.update(Enum.random(pages), &Sync.sync_many(&1, Repo, :users, User, some))
            pages

          5 ->
            label = Enum.random([:user, :users])
            Page.update(Enum.random(pages), &Sync.cancel(&1, Repo, label))
            pages

          6 ->
            if rem(i, 2) == 0 do
              Page.update(
                Enum.random(pages),
                &Sync.sync_one(&1, Repo, :user, User, Enum.random(ids))
              )

              pages
            else
              page = Enum.random(pages)
              Process.exit(page, :kill)
              List.delete(pages, page)
            end
        end
      end)

    Task.await_many(writers, 120_000)
    truth = Map.new(ids, &{&1, Repo.get(User, &1, prefix: tenant)})

    for page <- pages, {label, synced} <- synced(page) do
      expected =
        case synced do
          %Sync.One{id: id} -> truth[id]
          %Sync.Many{ids: ids} -> for id <- ids, user = truth[id], do: user
        end

      assert %{^label => ^expected} = Page.await(page, &(&1[label] == expected))
    end

    subscribed = pages |> Enum.flat_map(&synced/1) |> length()
    assert %{subscriptions: ^subscribed} = Repo.stats()
    for page <- pages, do: Process.exit(page, :kill)
    idle!()
  end

  defp write(tenant, id, name) do
    user = %User{id: id, name: name}

    case :rand.uniform(4) do
      1 -> Repo.delete(user, prefix: tenant)
      _ -> Repo.insert!(user, prefix: tenant, on_conflict: :replace_all)
    end
  rescue
    EctoFoundationDB.StaleEntryError -> :absent
  end

  # What a page has synced, by label.
  defp synced(page) do
    test = self()

    Page.update(page, fn state ->
      data = state.private[:ecto_fdb_sync_data][Repo]

      send(
        test,
        {page, for({_, %{request: request}} <- data.synced, do: {request.label, request})}
      )

      state
    end)

    assert_receive {^page, synced}
    synced
  end
end
