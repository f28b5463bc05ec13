defmodule EctoFoundationDB.TelemetryTest do
  # Starts and stops an application.
  use ExUnit.Case, async: false

  alias EctoFoundationDB.{Embedded, Native, Sync, SyncRepo, Telemetry, Tenant, TestNote, TestRepo}
  alias EctoFoundationDB.{TestUser, Transaction}

  import ExUnit.CaptureLog

  defmodule Repo do
    use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
  end

  defmodule IndexUsers do
    use EctoFoundationDB.Migration

    @impl true
    def change, do: [create(index(TestUser, [:name])), create(metadata(TestUser))]
  end

  defmodule Indexed do
    use EctoFoundationDB.Migrator

    @impl true
    def migrations, do: [{0, IndexUsers}, {3, IndexUsers}]
  end

  @names [:watch_armed, :watch_fired, :watch_failed, :refreshed, :retry] ++
           [:stale, :fresh, :silent, :answering]
  @events [
            [:ecto_foundationdb, :transaction],
            [:ecto_foundationdb, :gauges],
            [:ecto_foundationdb, :evaluation],
            [:ecto_foundationdb, :sync, :watch_limit],
            [:ecto_foundationdb, :database, :locked],
            [:ecto_foundationdb, :database, :unlocked],
            [:ecto_foundationdb, :migration, :begun],
            [:ecto_foundationdb, :migration, :done]
          ] ++ for(name <- @names, do: [:ecto_foundationdb, :sync, name])

  # Starts the application, if only the stand-in for its module exists.
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
    assert {1, measurements} = Map.pop(measurements, :count)
    measurements
  end

  test "a Repo's live queries are reported, with the Repo" do
    attach()
    start_supervised!({Repo, TestRepo.test_config()})
    tenant = Tenant.open!(Repo, "telemetry-#{System.os_time()}")
    note = Repo.insert!(%TestNote{id: "n1", text: "a"}, prefix: tenant)

    state = %{assigns: %{}, private: %{tenant: tenant}}
    Sync.sync_one(state, Repo, :note, TestNote, "n1")
    assert measured(:watch_armed) == %{}

    Repo.update!(note, text: "b")
    assert measured(:watch_fired) == %{}

    # The read that the sync began with may also be reported; it counts as a change.
    assert %{duration: duration, records: 1, subscribers: 1, changed: 1} = measured(:refreshed)
    assert is_integer(duration) and duration >= 0
    Tenant.clear_delete!(Repo, tenant.id)
  end

  def text(id), do: Repo.get!(TestNote, id).text

  test "evaluations of live functions are told of, and what woke them" do
    attach()
    start_supervised!({Repo, TestRepo.test_config()})
    tenant = Tenant.open!(Repo, "telemetry-#{System.os_time()}")
    note = Repo.insert!(%TestNote{id: "n1", text: "a"}, prefix: tenant)
    function = {__MODULE__, :text, ["n1"]}
    state = %{assigns: %{}, private: %{tenant: tenant}}
    Sync.sync_fun(state, Repo, :text, function)
    assert evaluated(function, tenant, :ok, nil) == nil
    Repo.update!(note, text: "b")
    assert evaluated(function, tenant, :ok, "notes") == nil
    Repo.delete!(note)
    assert evaluated(function, tenant, :error, "notes") =~ "NoResultsError"
    Tenant.clear_delete!(Repo, tenant.id)
  end

  # Those of attempts after an error may be told of earlier.
  defp evaluated(function, %{id: id}, result, woken_by) do
    assert_receive {[:ecto_foundationdb, :evaluation], %{duration: duration, dependencies: 1},
                    %{repo: Repo, tenant: ^id, function: ^function, result: ^result} = metadata}
                   when metadata.woken_by == woken_by

    assert duration > 0
    metadata.error
  end

  @tag :embedded
  test "problems are reported, and their end" do
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
    assert measured(:silent) == %{live_queries: 1}
    Embedded.faults(Repo, nil)
    assert %{live_queries: 1, duration: _} = measured(:answering)

    Embedded.outage(Repo, reads: [{tenant, TestNote, "n1"}])
    assert measured(:stale) == %{subscribers: 1}
    Embedded.outage(Repo, nil)
    assert measured(:fresh) == %{subscribers: 1}
    Tenant.clear_delete!(Repo, tenant.id)
  end

  defp told(event) do
    assert_receive {[:ecto_foundationdb | ^event], measurements, %{repo: Repo} = metadata}, 10_000
    {measurements, metadata}
  end

  describe "transactions" do
    setup do
      start_supervised!({Repo, [log: false] ++ TestRepo.test_config()})
      tenant = Tenant.open!(Repo, "telemetry-#{System.os_time()}")
      attach()
      {:ok, tenant: tenant}
    end

    test "are reported with their counts", %{tenant: tenant} do
      Repo.insert!(%TestUser{id: "u1", name: "Ada"}, prefix: tenant, tag: "web")
      {measurements, metadata} = told([:transaction])
      assert %{attempts: 1, conflicts: 0, unknown_results: 0} = measurements
      assert measurements.duration > 0
      # The record itself, and nothing of an index.
      assert measurements.writes >= 1
      assert measurements.written_bytes > 10

      assert %{result: :ok, error: nil, code: nil, retried: [], tag: "web", priority: :default} =
               metadata

      assert metadata.tenant == tenant.id

      Repo.get!(TestUser, "u1", prefix: tenant)
      {%{reads: reads, read_bytes: bytes, writes: 0, written_bytes: 0}, _} = told([:transaction])
      assert reads > 0 and bytes > 10
    end

    test "that fail are reported with the reason", %{tenant: tenant} do
      catch_throw(Repo.transactional(tenant, fn -> throw(:over) end))
      assert {_, %{result: :cancelled, error: {:throw, :over}}} = told([:transaction])

      assert_raise ArgumentError, fn ->
        Repo.transactional(tenant, fn -> raise(ArgumentError, "no") end)
      end

      assert {_, %{result: :error, error: %ArgumentError{}, code: nil}} = told([:transaction])

      key = Tenant.pack(tenant, {String.duplicate("k", 20_000)})

      assert_raise EctoFoundationDB.Error, fn ->
        Repo.transactional(tenant, fn -> Transaction.write([{:set, key, ""}]) end)
      end

      assert {_, %{result: :error, code: 2102}} = told([:transaction])
    end

    @tag :embedded
    test "that are retried are reported with how often and why", %{tenant: tenant} do
      Embedded.faults(Repo, seed: 3, not_committed: 0.5, commit_unknown_result: 0.4)

      told =
        for i <- 1..20 do
          Repo.insert!(%TestUser{id: "r#{i}"}, prefix: tenant, priority: :batch)
          told([:transaction])
        end

      # The database outlives this test's Repo, and so would its faults.
      Embedded.faults(Repo, nil)

      for {measurements, metadata} <- told do
        assert metadata.priority == :batch
        assert measurements.attempts == length(metadata.retried) + 1
        assert measurements.conflicts == Enum.count(metadata.retried, &(&1 == 1020))
        assert measurements.unknown_results == Enum.count(metadata.retried, &(&1 == 1021))
        metadata.retried
      end
      |> Enum.concat()
      |> Enum.uniq()
      |> Enum.sort()
      |> then(&assert &1 == [1020, 1021])
    end

    test "a handler may use the Repo", %{tenant: tenant} do
      test = self()

      handle = fn _event, _measurements, %{tag: tag}, _ ->
        if tag == "outer" do
          Repo.insert!(%TestUser{id: "by handler"}, prefix: tenant)
          send(test, :handled)
        end
      end

      :telemetry.attach_many(make_ref(), [[:ecto_foundationdb, :transaction]], handle, nil)
      Repo.get(TestUser, "u1", prefix: tenant, tag: "outer")
      assert_received :handled
      assert Repo.get(TestUser, "by handler", prefix: tenant)
    end

    test "gauges are reported on request", %{tenant: tenant} do
      Repo.insert!(%TestNote{id: "n1", text: "a"}, prefix: tenant)
      state = %{assigns: %{}, private: %{tenant: tenant}}
      Sync.sync_one(state, Repo, :note, TestNote, "n1")
      assert :ok = Telemetry.gauges(Repo)
      assert {%{subscriptions: 1, live_queries: 1} = gauges, %{status: :ok}} = told([:gauges])
      assert gauges.round_trip > 0
      assert gauges.max_watches == 1_000_000
    end
  end

  test "a migration is reported and logged by the node that runs it" do
    attach()
    start_supervised!({Repo, [log: false] ++ TestRepo.test_config()})
    id = "telemetry-#{System.os_time()}"
    tenant = Tenant.open!(Repo, id)
    Repo.insert_all(TestUser, for(i <- 1..5, do: [id: "u#{i}", name: "x"]), prefix: tenant)
    Tenant.open!(Repo, id)
    refute_received {[:ecto_foundationdb, :migration, _], _, _}

    open = fn -> Tenant.open!(Repo, id, migrator: Indexed, migration_step: 2, log: true) end
    log = capture_log(open)
    assert {%{commands: 4}, %{tenant: ^id, versions: [0, 3]}} = told([:migration, :begun])
    assert {%{steps: steps}, %{tenant: ^id, versions: [0, 3]}} = told([:migration, :done])
    # Three steps build the index, and each version and the counters take steps, too.
    assert steps >= 6

    assert log =~
             ~s|tenant "#{id}": migration to version 3 begins, with 4 indexes to build or drop|

    assert log =~ ~s|tenant "#{id}": migration to version 3 is done, after|

    assert capture_log(open) == ""
    refute_received {[:ecto_foundationdb, :migration, _], _, _}
  end

  test "every event of the table is documented, with all of its facts" do
    {:docs_v1, _, _, _, %{"en" => doc}, _, _} = Code.fetch_docs(Telemetry)
    for event <- @events, do: assert(doc =~ "`#{inspect(event)}`")
    assert doc =~ "  * `unknown_results`: "
  end

  @tag :embedded
  test "reaching the limit of watches is reported and logged, and the page still follows" do
    attach()
    start_supervised!({Repo, [log: false, max_watches: 1] ++ TestRepo.test_config()})
    tenant = Tenant.open!(Repo, "telemetry-#{System.os_time()}")
    notes = for id <- ["n1", "n2"], do: Repo.insert!(%TestNote{id: id}, prefix: tenant)
    state = %{assigns: %{}, private: %{tenant: tenant}}

    log =
      capture_log(fn ->
        state = Sync.sync_many(state, Repo, :notes, TestNote, ["n1", "n2"])
        assert {%{watches: watches}, %{code: 1032}} = told([:sync, :watch_limit])
        assert watches <= 1
        for note <- notes, do: Repo.update!(note, text: "b")
        assert %{assigns: %{notes: [_, _]}} = follow(state)
        SyncRepo.eventually(fn -> :sys.get_state(reporter()).logged end, &(&1 != %{}))
      end)

    assert log =~ "the database accepts no more than"
    Tenant.clear_delete!(Repo, tenant.id)
  end

  defp follow(state) do
    if Enum.all?(state.assigns.notes, &(&1.text == "b")) do
      state
    else
      assert_receive {ref, :ready} when is_reference(ref), 20_000
      {:halt, state} = Sync.handle_ready(Repo, {ref, :ready}, state)
      follow(state)
    end
  end

  @tag :embedded
  test "a lock and its end are reported and logged, once" do
    attach()
    start_supervised!({Repo, [log: false] ++ TestRepo.test_config()})
    tenant = Tenant.open!(Repo, "telemetry-#{System.os_time()}")

    log =
      capture_log(fn ->
        Embedded.outage(Repo, locked: true)

        for _ <- 1..3 do
          catch_error(Repo.get(TestUser, "u1", prefix: tenant, timeout: 30))
        end

        assert {_, %{code: 1038}} = told([:database, :locked])
        assert EctoFoundationDB.health(Repo).status == :locked
        Embedded.outage(Repo, nil)
        assert Repo.get(TestUser, "u1", prefix: tenant) == nil
        assert {%{duration: duration}, _} = told([:database, :unlocked])
        assert duration > 0
        refute_received {[:ecto_foundationdb, :database, :locked], _, _}
        # The reporter logs after it has emitted the event.
        :sys.get_state(reporter())
      end)

    assert [_, _] =
             String.split(log, "Database is locked (FoundationDB error 1038). Transactions wait")

    assert log =~ "the database is no longer locked, after"
    assert EctoFoundationDB.health(Repo).status == :ok
  end

  @tag :embedded
  @tag :capture_log
  test "without the application, incidents are logged and nothing else is reported" do
    attach()
    :ok = Application.stop(:telemetry)
    on_exit(fn -> {:ok, _started} = Application.ensure_all_started(:telemetry) end)
    start_supervised!({Repo, [stale_after: 200, log: false] ++ TestRepo.test_config()})
    refute Telemetry.on?()
    tenant = Tenant.open!(Repo, "telemetry-#{System.os_time()}")
    Repo.insert!(%TestNote{id: "n1", text: "a"}, prefix: tenant)
    Sync.sync_one(%{assigns: %{}, private: %{tenant: tenant}}, Repo, :note, TestNote, "n1")

    log =
      capture_log(fn ->
        Embedded.faults(Repo, seed: 1, slow_read_version: 1, read_delay_ms: 3_600_000)
        SyncRepo.eventually(fn -> Sync.stats(Repo).stale end, &(&1 == 1))
        SyncRepo.eventually(fn -> :sys.get_state(reporter()).logged end, &(&1 != %{}))
        Embedded.faults(Repo, nil)
      end)

    assert log =~ "1 live query cannot be kept up to date"
    refute_received {[:ecto_foundationdb | _], _, _}
    :ok = Native.reporter(EctoFoundationDB.Repo.database(Repo), false)
    Repo.insert!(%TestNote{id: "n1", text: "b"}, prefix: tenant, on_conflict: :replace_all)
    Tenant.clear_delete!(Repo, tenant.id)
    refute_receive {:event, :watch_fired, _}, 200
  end

  unless Code.ensure_loaded?(Telemetry.Metrics) do
    test "metrics without their package are an error that names it" do
      assert_raise ArgumentError, ~r/Add \{:telemetry_metrics, "~> 1.0"\}/, &Telemetry.metrics/0
    end
  end

  defp reporter do
    {:links, links} = Process.info(Process.whereis(Repo), :links)

    Enum.find(links, fn pid ->
      {:dictionary, dictionary} = Process.info(pid, :dictionary)
      dictionary[:"$initial_call"] == {EctoFoundationDB.Reporter, :init, 1}
    end)
  end
end
