defmodule EctoFoundationDB.TelemetryTest do
  # Starts and stops an application.
  use ExUnit.Case, async: false

  alias EctoFoundationDB.{Embedded, Sync, SyncRepo, Telemetry, Tenant, TestNote, TestRepo}

  defmodule Repo do
    use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
  end

  @names [:watch_armed, :watch_fired, :watch_failed, :refreshed, :retry, :stale, :fresh]
  @events for name <- @names, do: [:ecto_foundationdb, :sync, name]

  # The application, where only the stand-in for its module is there.
  setup_all do
    with {:error, {~c"no such file or directory", _}} <- Application.load(:telemetry),
         do: :application.load({:application, :telemetry, vsn: ~c"0", modules: [:telemetry]})

    {:ok, _started} = Application.ensure_all_started(:telemetry)
    :ok
  end

  defp attach do
    test = self()

    handle = fn event, measurements, metadata, _ ->
      send(test, {event, measurements, metadata})
    end

    :telemetry.attach_many(make_ref(), @events, handle, nil)
  end

  defp measured(name) do
    assert_receive {[:ecto_foundationdb, :sync, ^name], measurements, %{repo: Repo}}, 10_000
    measurements
  end

  test "a Repo's live queries are told of, with the Repo" do
    attach()
    start_supervised!({Repo, TestRepo.test_config()})
    tenant = Tenant.open!(Repo, "telemetry-#{System.os_time()}")
    note = Repo.insert!(%TestNote{id: "n1", text: "a"}, prefix: tenant)

    state = %{assigns: %{}, private: %{tenant: tenant}}
    Sync.sync_one(state, Repo, :note, TestNote, "n1")
    assert measured(:watch_armed) == %{}

    Repo.update!(note, text: "b")
    assert measured(:watch_fired) == %{}

    # The read that the sync began with may be told of, too; it counts as a change.
    assert %{duration: duration, records: 1, subscribers: 1, changed: 1} = measured(:refreshed)
    assert is_integer(duration) and duration >= 0
    Tenant.clear_delete!(Repo, tenant.id)
  end

  @tag :embedded
  test "what goes wrong is told of, and that it is over" do
    attach()
    start_supervised!({Repo, [stale_after: 200] ++ TestRepo.test_config()})
    tenant = Tenant.open!(Repo, "telemetry-#{System.os_time()}")
    Repo.insert!(%TestNote{id: "n1", text: "a"}, prefix: tenant)
    state = %{assigns: %{}, private: %{tenant: tenant}}

    Embedded.faults(Repo, seed: 1, future_version: 1)

    page =
      Task.async(fn ->
        state = Sync.sync_one(state, Repo, :note, TestNote, "n1")
        # Without a page there is no watch that could fail.
        receive do: (:end -> state)
      end)

    assert measured(:retry) == %{code: 1009, queries: 1}
    Embedded.faults(Repo, seed: 1, watch_failure: 1)
    assert measured(:watch_failed) == %{code: 1009}
    send(page.pid, :end)
    assert %{assigns: %{note: %TestNote{text: "a"}}} = Task.await(page)

    Embedded.faults(Repo, nil)
    SyncRepo.eventually(fn -> Sync.stats(Repo).subscriptions end, &(&1 == 0))
    Sync.sync_one(state, Repo, :note, TestNote, "n1")
    Embedded.faults(Repo, seed: 1, slow_read_version: 1, read_delay_ms: 3_600_000)
    assert measured(:stale) == %{subscribers: 1}
    Embedded.faults(Repo, nil)
    assert measured(:fresh) == %{subscribers: 1}
    Tenant.clear_delete!(Repo, tenant.id)
  end

  @tag :embedded
  @tag :capture_log
  test "nobody asks the database for events where the application does not run" do
    start_supervised!({Repo, embedded: true, log: false})
    :ok = Application.stop(:telemetry)
    assert Telemetry.start_link(Repo) == :ignore
    {:ok, _started} = Application.ensure_all_started(:telemetry)
    assert {:ok, _pid} = Telemetry.start_link(Repo)
  end
end
