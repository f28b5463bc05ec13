defmodule EctoFoundationDB.ChurnTest do
  # Lists while others change `\xff/metadataVersion`, which is global to a cluster: migrations of
  # other tenants, other FoundationDB layers.
  use ExUnit.Case, async: true

  alias EctoFoundationDB.{Embedded, Sync, SyncRepo, Tenant, Transaction}
  alias EctoFoundationDB.Layer.Metadata
  alias EctoFoundationDB.SyncPage, as: Page
  alias EctoFoundationDB.SyncUser, as: User

  @moduletag :embedded

  defmodule Repo do
    use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
    use EctoFoundationDB.Migrator

    defmodule ByTwo do
      use EctoFoundationDB.Migration
      @impl true
      def change do
        [create(metadata(User, [:name, :team])), create(index(User, [:team, :name]))]
      end
    end

    @impl true
    def migrations, do: SyncRepo.migrations() ++ [{1, ByTwo}]
  end

  setup do
    start_supervised!({Repo, embedded: true, log: false, timeout: 60_000})
    tenant = Tenant.open!(Repo, "mine-#{System.unique_integer([:positive])}")
    other = Tenant.open!(Repo, "others")
    {:ok, tenant: tenant, other: other}
  end

  defp bump(other), do: Transaction.run(other, fn -> Transaction.write([Metadata.changed()]) end)

  defp bump_every(other, ms) do
    spawn_link(fn ->
      Stream.repeatedly(fn ->
        bump(other)
        Process.sleep(ms)
      end)
      |> Stream.run()
    end)
  end

  test "lists mount, and none is planned again", %{tenant: tenant, other: other} do
    for n <- 1..20, do: Repo.insert!(%User{id: "u#{n}"}, prefix: tenant)
    churn = bump_every(other, 5)
    test = self()
    before = Sync.stats(Repo)

    pages =
      for _ <- 1..500 do
        spawn_link(fn ->
          state = %{assigns: %{}, private: %{tenant: tenant}}
          state = Sync.sync_all(state, Repo, :users, User)
          send(test, {:mounted, length(state.assigns.users)})
          Process.sleep(:infinity)
        end)
      end

    for _ <- pages, do: assert_receive({:mounted, 20}, 60_000)
    now = Sync.stats(Repo)
    # At most one check per batch.
    assert now.basis_checks - before.basis_checks <= now.batches - before.batches
    stop([churn | pages])
  end

  test "live lists are not read again, and continue", %{tenant: tenant, other: other} do
    pages =
      for n <- 1..100,
          do: Page.start(Repo, tenant, &Sync.sync_all_by(&1, Repo, :users, User, team: "t#{n}"))

    SyncRepo.eventually(
      fn -> Sync.stats(Repo) end,
      &match?(%{live_queries: n, pending_watches: n}, &1)
    )

    {reads, engine} = {Sync.stats(Repo).reads, Embedded.stats(Repo).reads}
    for _ <- 1..50, do: bump(other)
    # Only the heartbeat checks the source, for all of its lists.
    %{basis_checks: checks} = Sync.stats(Repo)
    SyncRepo.eventually(fn -> Sync.stats(Repo).basis_checks end, &(&1 > checks))
    bumps = 51
    assert Sync.stats(Repo).reads == reads
    # A changed version and its check: a handful of reads, not one per list.
    assert Embedded.stats(Repo).reads - engine < bumps * 10

    Repo.insert!(%User{id: "u1", team: "t7"}, prefix: tenant)
    assert %{users: [%{id: "u1"}]} = Page.await(Enum.at(pages, 6), &(&1.users != []))
    assert Sync.stats(Repo).reads - reads <= 2
    stop(pages)
  end

  test "a newly built index only changes the plans of its own source", context do
    %{tenant: tenant, other: other} = context
    mine = Page.start(Repo, tenant, &Sync.sync_all_by(&1, Repo, :users, User, team: "t"))
    others = Page.start(Repo, other, &Sync.sync_all_by(&1, Repo, :users, User, team: "t"))
    SyncRepo.eventually(fn -> Sync.stats(Repo) end, &match?(%{pending_watches: 2}, &1))
    before = Sync.stats(Repo)

    defmodule BetterIndex do
      use EctoFoundationDB.Migration
      @impl true
      def change, do: [drop(index(User, [:team]))]
    end

    defmodule Better do
      use EctoFoundationDB.Migrator
      @impl true
      def migrations, do: Repo.migrations() ++ [{2, BetterIndex}]
    end

    Tenant.open!(Repo, other.id, migrator: Better)
    Repo.insert!(%User{id: "u1", team: "t"}, prefix: other)
    assert Page.await(others, &match?(%{users: [_]}, &1))
    Repo.insert!(%User{id: "u1", team: "t"}, prefix: tenant)
    assert Page.await(mine, &match?(%{users: [_]}, &1))
    # Mine is read once, for its own change.
    assert Sync.stats(Repo).reads - before.reads <= 12
    stop([mine, others])
  end

  test "equal lists are one live query, however they are written", %{tenant: tenant} do
    again = Tenant.open!(Repo, tenant.id, timeout: 40_000)
    state = %{assigns: %{}, private: %{tenant: tenant}}
    lists = fn -> Sync.stats(Repo).live_queries end

    where = [name: {:between, "a", "m"}]
    same = [name: [{:>=, "a"}, {:<=, "m"}]]
    state = Sync.sync_all(state, Repo, :a, {User, where: where})
    state = Sync.sync_all(state, Repo, :b, {User, where: same})
    assert lists.() == 1

    state = Sync.sync_all_by(state, Repo, :c, User, team: "t", name: "n")
    state = Sync.sync_all_by(state, Repo, :d, User, name: "n", team: "t")
    state = Sync.sync_all_by(state, Repo, :e, User, %{name: "n", team: "t"})
    assert lists.() == 2

    other = %{assigns: %{}, private: %{tenant: again}}
    other = Sync.sync_all_by(other, Repo, :a, User, team: "t", name: "n")
    assert lists.() == 2
    for state <- [state, other], do: Sync.cancel_all(state, Repo)
  end

  defp stop(pids) do
    for pid <- pids do
      Process.unlink(pid)
      Process.exit(pid, :kill)
    end
  end
end
