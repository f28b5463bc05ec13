defmodule EctoFoundationDB.TelemetryTest do
  # Starts and stops an application.
  use ExUnit.Case, async: false

  alias EctoFoundationDB.{Native, Sync, Telemetry, Tenant, TestNote, TestRepo}

  defmodule Repo do
    use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
  end

  @events for name <- [:watch_armed, :watch_fired, :refreshed, :stale, :fresh],
              do: [:ecto_foundationdb, :sync, name]

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
  @tag :capture_log
  test "nobody asks the database for events where the application does not run" do
    {:ok, database} = Native.database_open({:memory, "telemetry"}, [])
    :ok = Application.stop(:telemetry)
    assert Telemetry.start_link(Repo, database) == :ignore
    {:ok, _started} = Application.ensure_all_started(:telemetry)
    assert {:ok, _pid} = Telemetry.start_link(Repo, database)
  end
end
