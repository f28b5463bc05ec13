defmodule EctoFoundationDB.SettleTest do
  # Not async: it waits for all pages of the node.
  use ExUnit.Case, async: false

  alias EctoFoundationDB.{Embedded, LiveQuery, Native, Sync, SyncPage, Tenant, TimeoutError}
  alias EctoFoundationDB.SyncRepo, as: Repo
  alias EctoFoundationDB.SyncUser, as: User

  defmodule Migrations do
    use EctoFoundationDB.Migrator

    defmodule Steps do
      use EctoFoundationDB.Migration

      @impl true
      def change do
        [
          drop(index(EctoFoundationDB.SyncUser, [:name])),
          create(index(EctoFoundationDB.SyncUser, [:name, :team]))
        ]
      end
    end

    @impl true
    def migrations, do: Repo.migrations() ++ [{1, Steps}]
  end

  setup do: %{tenant: Repo.tenant()}

  defp pages(number, tenant, mount),
    do: for(_ <- 1..number, do: SyncPage.start(Repo, tenant, mount))

  # Immediately after: only what the page has handled by then counts.
  defp name(page), do: SyncPage.assigns(page).user.name

  test "2,000 of 2,000 updates are on the page when settle returns", %{tenant: tenant} do
    user = Repo.insert!(%User{id: "1", name: "0"}, prefix: tenant)
    [page] = pages(1, tenant, &Sync.sync_one(&1, Repo, :user, User, "1"))

    for n <- 1..2_000 do
      Repo.update!(user, name: "#{n}")
      assert :ok = Sync.settle(Repo)
      assert name(page) == "#{n}"
    end

    assert SyncPage.handled(page) == 2_000
  end

  test "records and lists of many pages", %{tenant: tenant} do
    for n <- 1..20, do: Repo.insert!(%User{id: "#{n}", name: "0", team: "red"}, prefix: tenant)

    mount = fn state ->
      state
      |> Sync.sync_one(Repo, :user, User, "1")
      |> Sync.sync_many(Repo, :users, User, ["2", "1", "new"])
      |> Sync.sync_all(Repo, :all, User)
      |> Sync.sync_all_by(Repo, :reds, User, team: "red")
    end

    pages = pages(300, tenant, mount)

    for n <- 1..50 do
      Repo.update!(%User{id: "1", team: "red"}, [name: "#{n}"], prefix: tenant)
      assert :ok = Sync.settle(Repo)

      for page <- pages do
        %{user: user, users: users, all: all, reds: reds} = SyncPage.assigns(page)

        for shown <- [user | Enum.map([users, all, reds], &find(&1, "1"))],
            do: assert(shown.name == "#{n}")
      end
    end
  end

  defp find(users, id), do: Enum.find(users, &(&1.id == id))

  test "while others write continuously", %{tenant: tenant} do
    user = Repo.insert!(%User{id: "1", name: "0"}, prefix: tenant)
    Repo.insert!(%User{id: "2", name: "0"}, prefix: tenant)

    mount = fn state ->
      state
      |> Sync.sync_one(Repo, :user, User, "1")
      |> Sync.sync_all(Repo, :all, User)
    end

    pages = pages(30, tenant, mount)

    writers =
      for writer <- 1..2 do
        Task.async(fn -> write_until_told(%User{id: "w#{writer}"}, tenant, 0) end)
      end

    for n <- 1..100 do
      Repo.update!(user, name: "#{n}")
      assert :ok = Sync.settle(Repo)
      for page <- pages, do: assert(name(page) == "#{n}")
    end

    for writer <- writers, do: send(writer.pid, :enough)
    assert [written, also_written] = Task.await_many(writers)
    assert written > 0 and also_written > 0
    assert :ok = Sync.settle(Repo)

    for page <- pages do
      all = SyncPage.assigns(page).all
      assert find(all, "w1").name == "#{written}"
      assert find(all, "w2").name == "#{also_written}"
    end
  end

  defp write_until_told(user, tenant, n) do
    receive do
      :enough -> n
    after
      0 ->
        upsert(%{user | name: "#{n + 1}"}, tenant)
        write_until_told(user, tenant, n + 1)
    end
  end

  defp upsert(user, tenant),
    do: Repo.insert!(user, prefix: tenant, on_conflict: :replace_all)

  test "while migrations change the indexes of a list", %{tenant: tenant} do
    for n <- 1..200, do: Repo.insert!(%User{id: "#{n}", name: "0"}, prefix: tenant)
    ordered = {User, order_by: [:name], where: [name: "0"]}
    [list] = pages(1, tenant, &Sync.sync_all(&1, Repo, :all, User))
    [zeros] = pages(1, tenant, &Sync.sync_all(&1, Repo, :all, ordered))

    migration =
      Task.async(fn -> Tenant.open!(Repo, tenant.id, migrator: Migrations, log: false) end)

    for n <- 1..200 do
      Repo.update!(%User{id: "#{n}", name: "0"}, [name: "1"], prefix: tenant)
      assert :ok = Sync.settle(Repo, timeout: 60_000)
      assert find(SyncPage.assigns(list).all, "#{n}").name == "1"
      refute find(SyncPage.assigns(zeros).all, "#{n}")
    end

    assert %Tenant{} = Task.await(migration, 60_000)
    assert SyncPage.assigns(zeros).all == []
  end

  test "an async sync has its results when settle returns", %{tenant: tenant} do
    Repo.insert!(%User{id: "1", name: "Ada"}, prefix: tenant)
    test = self()

    for _ <- 1..200 do
      page =
        spawn_link(fn ->
          ref = make_ref()
          database = Repo.database()
          basis = LiveQuery.basis(tenant)
          query = LiveQuery.record(tenant, User, "1")
          [_subscription] = Native.subscribe(database, ref, [{basis, [query], nil}])
          send(test, :called)

          receive do
            :have_you -> send(test, {:answered, {self(), received(ref)}})
          end
        end)

      assert_receive :called
      assert :ok = Sync.settle(Repo)
      send(page, :have_you)
      assert_receive {:answered, {^page, true}}
    end
  end

  defp received(ref) do
    receive do
      {^ref, :ok} -> true
    after
      0 -> false
    end
  end

  test "nothing is synced, and nothing is waited for" do
    assert :ok = Sync.settle(Repo)
  end

  test "knows that a tenant is gone", %{tenant: tenant} do
    [page] = pages(1, tenant, &Sync.sync_all(&1, Repo, :all, User))
    Repo.insert!(%User{id: "1"}, prefix: tenant)
    assert :ok = Sync.settle(Repo)
    assert [%User{}] = SyncPage.assigns(page).all
    Tenant.clear_delete!(Repo, tenant.id)
    assert :ok = Sync.settle(Repo)
    assert [] = SyncPage.assigns(page).all
  end

  describe "with faults" do
    @describetag :embedded

    test "watches that do not fire are not needed", %{tenant: tenant} do
      user = Repo.insert!(%User{id: "1", name: "0"}, prefix: tenant)
      [page] = pages(1, tenant, &Sync.sync_one(&1, Repo, :user, User, "1"))
      on_exit(fn -> Native.engine_hold_watches(Repo.database(), false) end)
      :ok = Native.engine_hold_watches(Repo.database(), true)
      Repo.update!(user, name: "1")
      assert :ok = Sync.settle(Repo)
      assert name(page) == "1"
    end

    test "faults only delay it", %{tenant: tenant} do
      user = Repo.insert!(%User{id: "1", name: "0"}, prefix: tenant)
      [page] = pages(1, tenant, &Sync.sync_one(&1, Repo, :user, User, "1"))
      on_exit(fn -> Embedded.faults(Repo, nil) end)

      Embedded.faults(Repo,
        seed: 7,
        not_committed: 0.1,
        transaction_too_old: 0.1,
        watch_failure: 0.1
      )

      for n <- 1..100 do
        Repo.update!(user, name: "#{n}")
        assert :ok = Sync.settle(Repo, timeout: 60_000)
        assert name(page) == "#{n}"
      end
    end

    test "a database that does not answer is an error that says so", %{tenant: tenant} do
      [_page] = pages(1, tenant, &Sync.sync_one(&1, Repo, :user, User, "1"))
      on_exit(fn -> Embedded.outage(Repo, nil) end)
      Embedded.outage(Repo, all: true)

      error = assert_raise TimeoutError, fn -> Sync.settle(Repo, timeout: 100) end
      assert Exception.message(error) =~ "within 100 ms while settling, which begins with a read"
    end

    test "the error names keys that give no answer", %{tenant: tenant} do
      [page] = pages(1, tenant, &Sync.sync_one(&1, Repo, :user, User, "1"))
      on_exit(fn -> Embedded.outage(Repo, nil) end)
      Embedded.outage(Repo, reads: [{tenant, User, "1"}])
      error = assert_raise TimeoutError, fn -> Sync.settle(Repo, timeout: 100) end
      assert error.doing =~ "settling: 1 live queries are not up to date, such as the one that"
      assert error.doing =~ "give no answer"

      Embedded.outage(Repo, nil)
      assert :ok = Sync.settle(Repo)
      assert SyncPage.assigns(page).user == nil
    end
  end

  test "options are validated" do
    assert_raise ArgumentError, ~r/unknown keys/, fn -> Sync.settle(Repo, patience: 1) end
    assert_raise ArgumentError, ~r/milliseconds/, fn -> Sync.settle(Repo, timeout: -1) end
  end
end
