defmodule EctoFoundationDB.LiveQueriesListingTest do
  use ExUnit.Case, async: false

  alias EctoFoundationDB.{Embedded, Sync, SyncPage, Tenant}
  alias EctoFoundationDB.SyncRepo, as: Repo
  alias EctoFoundationDB.SyncUser, as: User

  setup do
    tenant = Repo.tenant()
    for n <- 1..3, do: Repo.insert!(%User{id: "#{n}", name: "Ada", team: "red"}, prefix: tenant)
    %{tenant: tenant}
  end

  defp page(tenant, sync), do: SyncPage.start(Repo, tenant, sync)
  defp list(tenant, opts), do: EctoFoundationDB.live_queries(Repo, [search: tenant.id] ++ opts)

  test "says what pages share, in the order that is asked for", %{tenant: tenant} do
    for _ <- 1..5, do: page(tenant, &Sync.sync_one(&1, Repo, :user, User, "1"))
    page(tenant, &Sync.sync_all(&1, Repo, :users, User))
    page(tenant, &Sync.sync_all_by(&1, Repo, :team, User, team: "red"))

    assert {[most, _, _], 3} = list(tenant, [])
    assert %{tenant: id, source: "users", query: {:record, "1"}, subscribers: 5} = most
    assert id == tenant.id
    assert most.records == 1 and most.bytes > 0 and most.stale == nil

    assert {[%{query: {:record, "1"}}, %{records: 3}, %{records: 3}], 3} =
             list(tenant, sort_by: :records, order: :asc)

    {rows, 3} = list(tenant, sort_by: :bytes, limit: 2)

    assert Enum.sort(for row <- rows, do: row.query) == [
             :all,
             {:by, "users_team_metadata", ["red"]}
           ]
  end

  test "a change counts, and a tenant that is gone is named", %{tenant: tenant} do
    page = page(tenant, &Sync.sync_one(&1, Repo, :user, User, "1"))
    Process.sleep(50)
    {[%{changed_ms: before}], 1} = list(tenant, [])
    assert before >= 50
    Repo.update!(Repo.get!(User, "1", prefix: tenant), [name: "Eva"], prefix: tenant)
    SyncPage.await(page, &(&1.user.name == "Eva"))
    {[%{changed_ms: changed}], 1} = list(tenant, [])
    assert changed < before

    Tenant.clear_delete!(Repo, tenant.id)
    SyncPage.await(page, &(&1.user == nil))
    assert {[%{stale: "the tenant " <> _, records: 0}], 1} = list(tenant, sort_by: :stale)
  end

  @tag :embedded
  test "commits, conflicts and retries are counted", %{tenant: tenant} do
    user = Repo.get!(User, "1", prefix: tenant)
    before = Sync.stats(Repo)
    on_exit(fn -> Embedded.faults(Repo, nil) end)
    Embedded.faults(Repo, seed: 3, not_committed: 0.5)
    for n <- 1..20, do: Repo.update!(user, [name: "#{n}"], prefix: tenant)
    stats = Sync.stats(Repo)
    assert stats.commits - before.commits >= 20
    assert stats.conflicts > before.conflicts

    assert stats.transaction_retries - before.transaction_retries >=
             stats.conflicts - before.conflicts
  end

  test "options are checked" do
    list = &EctoFoundationDB.live_queries(Repo, [&1])

    assert_raise ArgumentError, ~r/:sort_by to be one of \[:subscribers/, fn ->
      list.({:sort_by, :age})
    end

    assert_raise ArgumentError, ~r/:order to be :asc or :desc/, fn -> list.({:order, :up}) end
    assert_raise ArgumentError, ~r/:limit to be a number/, fn -> list.({:limit, -1}) end
    assert_raise ArgumentError, ~r/:search to be a text/, fn -> list.({:search, nil}) end
    assert_raise ArgumentError, ~r/unknown keys/, fn -> list.({:sorted, 1}) end
  end
end
