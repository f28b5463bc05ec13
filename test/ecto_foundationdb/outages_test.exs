defmodule EctoFoundationDB.OutagesTest do
  # Pages while part of the database, or all of it, gives no answer. The database is a separate one, because
  # outages affect all of its users.
  use ExUnit.Case, async: true

  alias EctoFoundationDB.{Embedded, Sync, SyncRepo, Tenant, TimeoutError}
  alias EctoFoundationDB.SyncPage, as: Page
  alias EctoFoundationDB.SyncUser, as: User

  @moduletag :embedded

  defmodule Repo do
    use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
    use EctoFoundationDB.Migrator

    @impl true
    def migrations, do: EctoFoundationDB.SyncRepo.migrations()
  end

  setup do
    start_supervised!({Repo, embedded: true, log: false, timeout: 60_000, stale_after: 500})
    Embedded.outage(Repo, nil)
    # Those of a failed test.
    SyncRepo.eventually(fn -> Sync.stats(Repo).live_queries end, &(&1 == 0))
    tenant = Tenant.open!(Repo, "outages-#{System.unique_integer([:positive])}")
    {:ok, tenant: tenant}
  end

  defp insert!(tenant, id), do: Repo.insert!(%User{id: id, name: "before"}, prefix: tenant)

  defp rename!(tenant, id, name),
    do: Repo.update!(%User{id: id}, [name: name], prefix: tenant)

  # A page that syncs a record, and informs the test when it is stale and why, or fresh (`nil`).
  defp page(tenant, id, opts \\ []) do
    test = self()

    linked(
      Page.start(Repo, tenant, fn state ->
        state
        |> Sync.attach_callback(Repo, :handle_stale, fn state, %{user: reason} ->
          send(test, {:told, id, reason && Exception.message(reason)})
          {:cont, state}
        end)
        |> Sync.sync_one(Repo, :user, User, id, opts)
      end)
    )
  end

  defp await_name(page, name), do: Page.await(page, &match?(%{user: %{name: ^name}}, &1))

  # A mount in a separate process, reported as `{:mounted, id, result}`.
  defp mount_async(tenant, id, opts \\ []) do
    test = self()

    spawn_link(fn ->
      state = %{assigns: %{}, private: %{tenant: tenant}}

      result =
        try do
          Sync.sync_one(state, Repo, :user, User, id, opts).assigns.user
        rescue
          error in TimeoutError -> error
        end

      send(test, {:mounted, id, result})
      Process.sleep(:infinity)
    end)
  end

  defp waiting, do: Sync.stats(Repo).waiting

  defp stop(pages) do
    for page <- List.wrap(pages) do
      Process.unlink(page)
      Process.exit(page, :kill)
    end
  end

  # The database outlives its Repo; pages of a failed test must not.
  defp linked(page), do: tap(page, &Process.link/1)

  test "reads that get no answer delay no others", %{tenant: tenant} do
    dead = for n <- 1..20, do: "dead#{n}"
    for id <- ["well", "other" | dead], do: insert!(tenant, id)
    [well | _] = pages = [page(tenant, "well") | Enum.map(dead, &page(tenant, &1))]
    Embedded.outage(Repo, reads: Enum.map(dead, &{tenant, User, &1}))

    # Changes of unreadable records, and mounts of them, one batch after the other.
    for id <- dead do
      # Unreadable records can be written.
      Repo.insert!(%User{id: id, name: "after"}, [prefix: tenant] ++ blind())
      mount_async(tenant, id)
      rename!(tenant, "well", "while #{id} hangs")
      await_name(well, "while #{id} hangs")
    end

    other = page(tenant, "other")
    assert %{user: %{name: "before"}} = Page.assigns(other)
    refute_received {:mounted, _, _}

    # Only the pages that show them are notified.
    for id <- dead, do: assert_receive({:told, ^id, reason} when is_binary(reason), 60_000)
    refute_received {:told, "well", _}
    assert Sync.stats(Repo).stale == length(dead)

    Embedded.outage(Repo, nil)
    for id <- dead, do: assert_receive({:mounted, ^id, %User{name: "after"}}, 60_000)
    for page <- tl(pages), do: await_name(page, "after")
    for id <- dead, do: assert_receive({:told, ^id, nil}, 60_000)
    refute_received {:told, _, _}
    assert waiting() == 0
    stop([other | pages])
  end

  defp blind, do: [on_conflict: :replace_all, conflict_target: []]

  test "a call that needs a key without an answer waits, and shares the rest", %{
    tenant: tenant
  } do
    for id <- ["a", "b", "dead"], do: insert!(tenant, id)
    Embedded.outage(Repo, reads: [{tenant, User, "dead"}])
    test = self()

    spawn_link(fn ->
      state = %{assigns: %{}, private: %{tenant: tenant}}
      state = Sync.sync_many(state, Repo, :users, User, ["a", "dead", "b"])
      send(test, {:synced, Enum.map(state.assigns.users, & &1.id)})
    end)

    page = page(tenant, "a")
    rename!(tenant, "a", "after")
    await_name(page, "after")
    refute_received {:synced, _}
    Embedded.outage(Repo, nil)
    assert_receive {:synced, ["a", "dead", "b"]}, 60_000
    stop(page)
  end

  test "calls that have timed out, and those of dead processes, leave the queue", %{
    tenant: tenant
  } do
    insert!(tenant, "dead")
    Embedded.outage(Repo, all: true)
    for n <- 1..200, do: mount_async(tenant, "none#{n}", timeout: 1)
    for n <- 1..200, do: assert_receive({:mounted, _, %TimeoutError{}}, 60_000, "#{n}")
    assert SyncRepo.eventually(&waiting/0, &(&1 == 0))

    pages = for n <- 1..200, do: mount_async(tenant, "none#{n}")
    SyncRepo.eventually(&waiting/0, &(&1 > 0))
    stop(pages)
    assert SyncRepo.eventually(&waiting/0, &(&1 == 0))

    # The same if only some keys give no answer.
    Embedded.outage(Repo, reads: [{tenant, User, "dead"}])
    mount_async(tenant, "dead", timeout: 100)
    assert_receive {:mounted, "dead", %TimeoutError{}}, 60_000
    pages = for _ <- 1..50, do: mount_async(tenant, "dead")
    well = page(tenant, "well")
    stop([well | pages])
    Embedded.outage(Repo, nil)
    assert SyncRepo.eventually(fn -> Sync.stats(Repo) end, &(&1.waiting == 0)).subscriptions == 0
  end

  test "a watch that neither fires nor fails is detected", %{tenant: tenant} do
    insert!(tenant, "u1")
    page = page(tenant, "u1")
    Embedded.outage(Repo, watches: [{tenant, User, "u1"}])
    rename!(tenant, "u1", "after")
    await_name(page, "after")
    assert Sync.stats(Repo).probes > 0
    Embedded.outage(Repo, nil)
    stop(page)
  end

  test "a record whose server gives no answer is stale, although nothing has changed", %{
    tenant: tenant
  } do
    for id <- ["u1", "u2"], do: insert!(tenant, id)
    pages = [page(tenant, "u1"), page(tenant, "u2")]
    Embedded.outage(Repo, reads: [{tenant, User, "u1"}])
    assert_receive {:told, "u1", reason}, 60_000
    assert reason =~ "not for the keys of this query"
    Embedded.outage(Repo, nil)
    assert_receive {:told, "u1", nil}, 60_000
    refute_received {:told, _, _}
    assert Sync.stats(Repo).stale == 0
    stop(pages)
  end

  test "each watched key is checked once in stale_after, unless it was read", %{
    tenant: tenant
  } do
    pages = for n <- 1..50, do: page(tenant, "u#{n}")
    started = System.monotonic_time(:millisecond)
    %{probes: before} = Sync.stats(Repo)
    SyncRepo.eventually(fn -> Sync.stats(Repo).probes end, &(&1 >= before + 100))
    %{probes: now} = Sync.stats(Repo)
    periods = div(System.monotonic_time(:millisecond) - started, 500) + 1
    # Checks of the last period may still be in flight.
    assert now - before <= 50 * (periods + 1)
    stop(pages)
  end

  test "an outage of everything is reported once, and so is its end, despite changes meanwhile",
       %{
         tenant: tenant
       } do
    for n <- 1..20, do: insert!(tenant, "u#{n}")
    pages = for n <- 1..20, do: page(tenant, "u#{n}")

    writer =
      spawn_link(fn ->
        Stream.iterate(1, &(&1 + 1))
        |> Enum.each(fn k ->
          rename!(tenant, "u#{rem(k, 20) + 1}", "#{k}")
          Process.sleep(1)
        end)
      end)

    for _ <- 1..3 do
      Embedded.outage(Repo, all: true)
      for n <- 1..20, id = "u#{n}", do: assert_receive({:told, ^id, <<_, _::binary>>}, 60_000)
      assert Sync.stats(Repo).stale == 20
      Embedded.outage(Repo, nil)
      for n <- 1..20, id = "u#{n}", do: assert_receive({:told, ^id, nil}, 60_000)
      refute_received {:told, _, _}
    end

    Process.unlink(writer)
    stop([writer | pages])
  end

  test "while the database is locked, the reason says so", %{tenant: tenant} do
    page = page(tenant, "u1")
    Embedded.outage(Repo, locked: true)
    assert_receive {:told, "u1", reason}, 60_000
    assert reason =~ "1038"
    Embedded.outage(Repo, nil)
    assert_receive {:told, "u1", nil}, 60_000
    stop(page)
  end

  test "a page that mounts after an outage whose end was not observed is fresh", %{tenant: tenant} do
    page = page(tenant, "u1")
    Embedded.outage(Repo, all: true)
    assert_receive {:told, "u1", <<_, _::binary>>}, 60_000
    stop(page)
    SyncRepo.eventually(fn -> Sync.stats(Repo).live_queries end, &(&1 == 0))
    Embedded.outage(Repo, nil)

    page = page(tenant, "u1")
    insert!(tenant, "u1")
    await_name(page, "before")
    assert Sync.stats(Repo).stale == 0
    refute_received {:told, _, _}
    stop(page)
  end

  test "lists whose records give no answer are stale, and end up right", %{tenant: tenant} do
    for id <- ["u1", "u2"], do: insert!(tenant, id)
    list = linked(Page.start(Repo, tenant, &Sync.sync_all(&1, Repo, :users, User)))
    well = page(tenant, "missing")
    Embedded.outage(Repo, reads: [{tenant, User, "u1"}])
    rename!(tenant, "u2", "after")
    SyncRepo.eventually(fn -> Sync.stats(Repo).stale end, &(&1 == 1))
    insert!(tenant, "missing")
    await_name(well, "before")
    Embedded.outage(Repo, nil)
    Page.await(list, fn %{users: users} -> Enum.any?(users, &(&1.name == "after")) end)
    SyncRepo.eventually(fn -> Sync.stats(Repo).stale end, &(&1 == 0))
    stop([list, well])
  end
end
