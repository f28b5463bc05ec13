defmodule EctoFoundationDB.HealthTest do
  use ExUnit.Case, async: true

  alias EctoFoundationDB.{Embedded, Error, Sync, Tenant, TestRepo, TestUser, TimeoutError}

  defmodule Repo do
    use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
  end

  setup do
    start_supervised!({Repo, [log: false, max_watches: 5_000] ++ TestRepo.test_config()})
    :ok
  end

  test "of a database that answers" do
    before = DateTime.utc_now() |> DateTime.add(-1, :second)
    tenant = Tenant.open!(Repo, "health-#{System.os_time()}")
    Repo.insert!(%TestUser{id: "u1"}, prefix: tenant)
    state = %{assigns: %{}, private: %{tenant: tenant}}
    Sync.sync_one(state, Repo, :user, TestUser, "u1")

    health = EctoFoundationDB.health(Repo)
    assert %{status: :ok, subscriptions: 1, live_queries: 1, stale: 0, queued: 0} = health
    assert %{max_watches: 5_000, api_version: 730, client_error: nil} = health
    assert health.round_trip_us > 0
    assert DateTime.compare(health.last_answer, before) == :gt
    assert DateTime.compare(health.since, health.last_answer) in [:lt, :eq]
    assert health.version =~ ~r/^\d+\.\d+\.\d+/
    assert [{version, protocol} | _] = health.clients
    assert {version, protocol} == {health.version, health.protocol}
    assert health.failed_connections == 0
    Tenant.clear_delete!(Repo, tenant.id)
  end

  @tag :embedded
  test "of the embedded engine names it" do
    assert %{library: :embedded, database: :memory, coordinators: [], connections: []} =
             EctoFoundationDB.health(Repo)
  end

  @tag :embedded
  test "of a database that does not answer returns within its timeout, and says until when it did" do
    Tenant.list(Repo)
    %{last_answer: answered} = EctoFoundationDB.health(Repo)
    Embedded.faults(Repo, seed: 1, slow_read_version: 1, read_delay_ms: 3_600_000)
    health = EctoFoundationDB.health(Repo, timeout: 20)
    assert %{status: :unreachable, round_trip_us: nil} = health
    assert health.since == health.last_answer
    assert DateTime.compare(health.since, answered) in [:gt, :eq]
    # The client itself still reports its status.
    assert %{client_error: nil, failed_connections: 0} = health

    Embedded.faults(Repo, nil)
    assert %{status: :ok, since: since} = EctoFoundationDB.health(Repo)
    assert DateTime.compare(since, health.since) == :gt
  end

  @tag :embedded
  test "of a database that answers with errors names the last one, but no conflicts" do
    tenant = Tenant.open!(Repo, "health-#{System.os_time()}")
    Embedded.faults(Repo, seed: 1, not_committed: 1)

    assert_raise TimeoutError, fn ->
      Repo.insert!(%TestUser{id: "u1"}, prefix: tenant, timeout: 50)
    end

    assert %{status: :ok, last_error: nil} = EctoFoundationDB.health(Repo)

    Embedded.faults(Repo, seed: 1, read_version_failure: 1)
    before = DateTime.utc_now() |> DateTime.add(-1, :second)
    assert %{status: :failing, last_error: {at, error}} = EctoFoundationDB.health(Repo)
    assert %Error{code: code} = error
    assert code in [1051, 1078]
    assert DateTime.compare(at, before) == :gt
    Embedded.faults(Repo, nil)
    assert %{status: :ok, last_error: {^at, ^error}} = EctoFoundationDB.health(Repo)
  end

  @tag :embedded
  test "shows the queue when reads hang" do
    tenant = Tenant.open!(Repo, "health-#{System.os_time()}")
    state = %{assigns: %{}, private: %{tenant: tenant}}
    Embedded.faults(Repo, seed: 1, slow_read: 1, read_delay_ms: 3_600_000)

    pages =
      for i <- 1..10 do
        {:ok, page} =
          Task.start(fn ->
            Sync.sync_one(state, Repo, :user, TestUser, "u#{i}", timeout: :infinity)
          end)

        page
      end

    assert EctoFoundationDB.SyncRepo.eventually(
             fn -> EctoFoundationDB.health(Repo).batches_under_way end,
             &(&1 > 0)
           )

    for page <- pages, do: Process.exit(page, :kill)
    Embedded.faults(Repo, nil)
  end

  test "refuses an invalid timeout" do
    assert_raise ArgumentError, ~r/timeout: expected a positive number/, fn ->
      EctoFoundationDB.health(Repo, timeout: :infinity)
    end
  end
end
