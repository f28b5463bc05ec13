defmodule EctoFoundationDB.FaultsTest do
  # A database on a bad day. It is a separate one, because faults affect all of its users.
  use ExUnit.Case, async: true

  alias EctoFoundationDB.{Connection, Embedded, Native, Sync, SyncRepo, Tenant}
  alias EctoFoundationDB.Exception.TenantGone
  alias EctoFoundationDB.SyncPage, as: Page
  alias EctoFoundationDB.SyncUser, as: User

  @moduletag :embedded

  defmodule Repo do
    use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
    use EctoFoundationDB.Migrator

    @impl true
    def migrations, do: EctoFoundationDB.SyncRepo.migrations()
  end

  @faults [
    not_committed: 0.1,
    commit_unknown_result: 0.1,
    transaction_too_old: 0.05,
    future_version: 0.05,
    process_behind: 0.05,
    watch_failure: 0.2,
    slow_read: 0.1,
    read_delay_ms: 5,
    slow_watch: 0.2,
    watch_delay_ms: 20
  ]

  setup do
    start_supervised!({Repo, embedded: true, log: false, timeout: 30_000})
    # Those of a failed test: the database outlives its Repo.
    Embedded.faults(Repo, nil)
    tenant = Tenant.open!(Repo, "faults-#{System.unique_integer([:positive])}")
    {:ok, tenant: tenant}
  end

  # On such a day it takes from half a minute to a whole one.
  @tag timeout: 300_000
  test "pages that mount, re-sync, cancel and die end up right, and leave nothing behind",
       context do
    %{tenant: tenant} = context
    seed = ExUnit.configuration()[:seed]
    :rand.seed(:exsss, {seed, 0, 1})
    ids = for i <- 1..8, do: "u#{i}"
    Embedded.faults(Repo, [seed: seed] ++ @faults)

    writers =
      for w <- 1..3 do
        Task.async(fn ->
          :rand.seed(:exsss, {seed, w, 1})
          for i <- 1..60, do: write(tenant, Enum.random(ids), "#{w}-#{i}")
        end)
      end

    # What each page has synced, by label.
    pages =
      Enum.reduce(1..120, %{}, fn _, pages ->
        case :rand.uniform(8) do
          n when n <= 3 or pages == %{} ->
            requests = requests(ids)
            page = Page.start(Repo, tenant, &Sync.sync(&1, Repo, requests))
            Map.put(pages, page, Map.new(requests, &{&1.label, &1}))

          n when n <= 5 ->
            request = Enum.random(requests(ids))
            {page, synced} = Enum.random(pages)
            Page.update(page, &Sync.sync(&1, Repo, [request]))
            Map.put(pages, page, Map.put(synced, request.label, request))

          n when n <= 7 ->
            label = Enum.random([:user, :some, :all, :team])
            {page, synced} = Enum.random(pages)
            Page.update(page, &Sync.cancel(&1, Repo, label))
            Map.put(pages, page, Map.delete(synced, label))

          8 ->
            {page, _synced} = Enum.random(pages)
            Process.exit(page, :kill)
            Map.delete(pages, page)
        end
      end)

    Task.await_many(writers, 120_000)
    Embedded.faults(Repo, nil)
    truth = Repo.all(User, prefix: tenant)

    for {page, synced} <- pages, {label, request} <- synced do
      expected = expected(request, truth)
      assert %{} = Page.await(page, &(sorted(&1[label]) == expected))
    end

    subscribed = pages |> Enum.map(fn {_page, synced} -> map_size(synced) end) |> Enum.sum()

    # Those of a page that was just killed may still be ending.
    assert %{retries: retries, watches_failed: failed} =
             SyncRepo.eventually(fn -> Sync.stats(Repo) end, &(&1.subscriptions == subscribed))

    assert retries > 0 and failed > 0
    for {page, _synced} <- pages, do: Process.exit(page, :kill)
    nothing_left!()
  end

  defp requests(ids) do
    [
      %Sync.One{label: :user, schema: User, id: Enum.random(ids)},
      %Sync.Many{label: :some, schema: User, ids: Enum.take_random(ids, :rand.uniform(5))},
      %Sync.All{label: :all, queryable: User},
      %Sync.All{label: :team, queryable: User, by: [team: "a"]}
    ]
  end

  defp expected(%Sync.One{id: id}, truth), do: Enum.find(truth, &(&1.id == id))
  defp expected(%Sync.Many{ids: ids}, truth), do: Enum.filter(truth, &(&1.id in ids))
  defp expected(%Sync.All{by: []}, truth), do: truth
  defp expected(%Sync.All{by: [team: team]}, truth), do: Enum.filter(truth, &(&1.team == team))

  defp sorted(list) when is_list(list), do: Enum.sort_by(list, & &1.id)
  defp sorted(other), do: other

  # The database outlives the Repo, and the tests.
  defp nothing_left! do
    SyncRepo.eventually(
      fn -> {Sync.stats(Repo), Embedded.stats(Repo)} end,
      &match?(
        {%{subscriptions: 0, live_queries: 0, pending_watches: 0}, %{pending_watches: 0}},
        &1
      )
    )
  end

  defp write(tenant, id, name) do
    user = %User{id: id, name: name, team: Enum.random(["a", "b"])}

    case :rand.uniform(4) do
      1 -> Repo.delete(user, prefix: tenant)
      _ -> Repo.insert!(user, prefix: tenant, on_conflict: :replace_all)
    end
  end

  test "a read that keeps failing makes the data stale, until it succeeds", %{tenant: tenant} do
    :ok = Native.stale_after(Connection.fetch!(Repo).database, 300)
    Repo.insert!(%User{id: "u1", name: "before"}, prefix: tenant)

    page =
      Page.start(Repo, tenant, fn state ->
        state
        |> Sync.attach_callback(Repo, :handle_stale, fn state, stale ->
          {:cont, %{state | assigns: Map.put(state.assigns, :stale, stale)}}
        end)
        |> Sync.sync_one(Repo, :user, User, "u1")
      end)

    # Reads take longer than the database may be silent.
    Embedded.faults(Repo, seed: 1, slow_read: 1, read_delay_ms: 3_600_000)
    assert %{user: %{name: "before"}} = Page.await(page, &match?(%{stale: %{user: %{}}}, &1))
    assert %EctoFoundationDB.Error{} = Page.assigns(page).stale.user
    assert %{stale: 1, live_queries: 1} = Sync.stats(Repo)

    Embedded.faults(Repo, nil)
    assert %{user: %{name: "before"}} = Page.await(page, &(&1.stale == %{user: nil}))
    assert %{stale: 0} = Sync.stats(Repo)
    Repo.update!(%User{id: "u1"}, [name: "after"], prefix: tenant)
    Page.await(page, &(&1.user.name == "after"))
    Process.exit(page, :kill)
    nothing_left!()
  end

  test "pages follow a database that was wiped and set up again" do
    restart!(stale_after: 400)
    tenant = Tenant.open!(Repo, "before")
    Repo.insert!(%User{id: "u1", name: "Ada"}, prefix: tenant)

    page =
      Page.start(Repo, tenant, fn state ->
        state
        |> Sync.sync_one(Repo, :user, User, "u1")
        |> Sync.sync_many(Repo, :all, User, ["u1"])
      end)

    assert :ok = Embedded.wipe(Repo)
    assert Page.await(page, &(&1 == %{user: nil, all: []}))
    assert Tenant.list(Repo) == []

    # The earlier tenant is gone; the new one of its name is a different tenant.
    assert_raise TenantGone, fn ->
      Repo.insert!(%User{id: "u1", name: "Bea"}, prefix: tenant)
    end

    tenant = Tenant.open!(Repo, "before")
    Repo.insert!(%User{id: "u1", name: "Bea"}, prefix: tenant)
    another = Page.start(Repo, tenant, &Sync.sync_one(&1, Repo, :user, User, "u1"))
    assert %{user: %{name: "Bea"}} = Page.assigns(another)

    Process.exit(page, :kill)
    Process.exit(another, :kill)
    nothing_left!()
  end

  @tag :capture_log
  test "pages continue when the Repo's process is killed and restarted", %{tenant: tenant} do
    page = Page.start(Repo, tenant, &Sync.sync_all(&1, Repo, :users, User))
    before = Process.whereis(Repo)
    Process.exit(before, :kill)
    SyncRepo.eventually(fn -> Process.whereis(Repo) end, &(&1 not in [nil, before]))
    # The supervisor has its name before its first child has the database.
    SyncRepo.eventually(fn -> :ets.whereis(Repo) end, &(&1 != :undefined))
    Repo.insert!(%User{id: "u1", name: "Ada"}, prefix: tenant)
    assert Page.await(page, &match?(%{users: [_]}, &1))

    # The new process plans lists again.
    migrate!(tenant)
    Repo.insert!(%User{id: "u2", name: "Bea"}, prefix: tenant)
    assert Page.await(page, &match?(%{users: [_, _]}, &1))

    # And shares them with earlier pages.
    another = Page.start(Repo, tenant, &Sync.sync_all(&1, Repo, :users, User))
    assert %{subscriptions: 2, live_queries: 1, pending_watches: 1} = Sync.stats(Repo)
    for page <- [page, another], do: Process.exit(page, :kill)
    nothing_left!()
  end

  test "lists turn stale while no process plans them, and are fresh when one does" do
    restart!(stale_after: 400)
    tenant = Tenant.open!(Repo, "plans-nobody")
    test = self()

    page =
      Page.start(Repo, tenant, fn state ->
        state
        |> Sync.attach_callback(Repo, :handle_stale, fn state, stale ->
          send(test, stale)
          {:cont, state}
        end)
        |> Sync.sync_all(Repo, :users, User)
      end)

    # A process that has ended.
    database = Connection.fetch!(Repo).database
    Task.await(Task.async(fn -> Native.planner(database) end))
    migrate!(tenant)
    Repo.insert!(%User{id: "u1", name: "Ada"}, prefix: tenant)
    assert_receive %{users: %{message: message}}, 60_000
    assert message =~ "no new query plan arrived from the Repo"

    restart!(stale_after: 400)
    assert_receive %{users: nil}, 60_000
    assert Page.await(page, &match?(%{users: [%{name: "Ada"}]}, &1))
    Process.exit(page, :kill)
    nothing_left!()
  end

  test "after a migration many lists are planned again, each once", %{tenant: tenant} do
    labels = for limit <- 1..100, do: {:users, limit}

    page =
      Page.start(Repo, tenant, fn state ->
        Enum.reduce(labels, state, fn {_, limit} = label, state ->
          Sync.sync_all(state, Repo, label, {User, limit: limit})
        end)
      end)

    %{reads: before} = Sync.stats(Repo)
    migrate!(tenant)
    # Each list is read again when it has a new plan.
    SyncRepo.eventually(fn -> Sync.stats(Repo) end, &(&1.reads >= before + 100))
    Repo.insert!(%User{id: "u1", name: "Ada"}, prefix: tenant)
    assert Page.await(page, fn assigns -> Enum.all?(labels, &match?([_], assigns[&1])) end)
    Process.exit(page, :kill)
    nothing_left!()
  end

  defp restart!(config) do
    :ok = stop_supervised(Repo)
    start_supervised!({Repo, [embedded: true, log: false] ++ config})
  end

  defmodule AnotherIndex do
    use EctoFoundationDB.Migration
    @impl true
    def change, do: [create(index(User, [:team, :name]))]
  end

  defmodule Another do
    use EctoFoundationDB.Migrator
    @impl true
    def migrations, do: SyncRepo.migrations() ++ [{1, AnotherIndex}]
  end

  # The indexes of the source change, so its lists are planned again.
  defp migrate!(tenant), do: Tenant.open!(Repo, tenant.id, migrator: Another)

  test "a message is handled without waiting for the database", %{tenant: tenant} do
    user = Repo.insert!(%User{id: "u1", name: "before"}, prefix: tenant)
    state = %{assigns: %{}, private: %{tenant: tenant}}
    state = Sync.sync_all(state, Repo, :users, User)
    Repo.update!(user, name: "after")
    assert_receive {ref, :ready} = message when is_reference(ref), 60_000

    # A read would get no answer now.
    Embedded.faults(Repo, seed: 1, slow_read: 1, read_delay_ms: 3_600_000)
    assert {:halt, state} = Sync.handle_ready(Repo, message, state)
    assert [%{name: "after"}] = state.assigns.users
    assert %{assigns: %{users: []}} = Sync.cancel_all(state, Repo)
    Embedded.faults(Repo, nil)
    nothing_left!()
  end

  test "a failed watch is an error for the process that waits for it", %{tenant: tenant} do
    user = Repo.insert!(%User{id: "u1"}, prefix: tenant)
    Embedded.faults(Repo, seed: 1, watch_failure: 1)
    watch = Repo.watch(user)
    assert_raise EctoFoundationDB.Error, ~r/1009/, fn -> Repo.await(watch) end
    Embedded.faults(Repo, nil)
  end

  test "faults are validated" do
    assert_raise ArgumentError, ~r/a keyword list of numbers/, fn ->
      Embedded.faults(Repo, :many)
    end

    assert_raise ArgumentError, ~r/not_committed.*got "not_commited=0.1"/s, fn ->
      Embedded.faults(Repo, not_commited: 0.1)
    end

    assert_raise ArgumentError, ~r/a probability from 0 to 1/, fn ->
      Embedded.faults(Repo, not_committed: 2)
    end
  end
end
