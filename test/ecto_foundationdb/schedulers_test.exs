defmodule EctoFoundationDB.SchedulersTest do
  # No function of the NIF blocks a scheduler, whatever is cancelled or killed while the largest answers are
  # in flight. The VM's own monitor reports it; a VM has only one.
  use ExUnit.Case, async: false

  alias EctoFoundationDB.{Connection, Native, Sync, SyncRepo, Tenant}
  alias EctoFoundationDB.Layer.Keys
  alias EctoFoundationDB.SyncUser, as: User

  @moduletag :embedded
  @moduletag timeout: 300_000

  @long_ms 5
  @records 20_000

  defmodule Repo do
    use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
    use EctoFoundationDB.Migrator

    @impl true
    def migrations, do: EctoFoundationDB.SyncRepo.migrations()
  end

  setup_all do
    start_supervised!({Repo, embedded: true, log: false, timeout: 60_000})
    tenant = Tenant.open!(Repo, "schedulers")

    for ids <- Enum.chunk_every(1..@records, 2_000) do
      rows = for i <- ids, do: [id: "u#{i}", name: "n", team: "t"]
      Repo.insert_all(User, rows, prefix: tenant)
    end

    {:ok, tenant: tenant}
  end

  # A busy machine occasionally takes a scheduler's thread off its core, which looks the same. So each test
  # is tried a few times, and one run without a long schedule in our code is the proof. Code that blocks a
  # scheduler does so each time.
  defp never_long!(work) do
    clean? =
      Enum.any?(1..10, fn _ ->
        previous = :erlang.system_monitor(self(), [{:long_schedule, @long_ms}])
        work.()
        # Cleanup after a dying process runs on a scheduler later.
        Process.sleep(50)
        :erlang.system_monitor(previous)
        long_schedules() == []
      end)

    assert clean?, "a scheduler was held for #{@long_ms} ms each time"
  end

  # Long schedules in our NIF, or in the end of a process.
  defp long_schedules do
    receive do
      {:monitor, _pid, :long_schedule, info} ->
        places = Keyword.values(Keyword.take(info, [:in, :out]))
        ours? = Enum.any?(places, &(&1 == :undefined or match?({Native, _, _}, &1)))
        if ours?, do: [info | long_schedules()], else: long_schedules()
    after
      0 -> []
    end
  end

  test "cancelling a transaction while its answer is built", %{tenant: tenant} do
    database = Connection.fetch!(Repo).database
    {first, last} = Keys.range(Keys.records(tenant, "users"))

    never_long!(fn ->
      for wait <- 0..40//2 do
        {:ok, transaction} = Native.transaction_new(database, [])
        ref = make_ref()
        range = {:get_range, first, last, %{records: true}}
        :ok = Native.transaction_run(transaction, ref, [range])
        Process.sleep(wait)
        :ok = Native.transaction_cancel(transaction)

        receive do
          {^ref, _answer} -> :ok
        after
          0 -> :ok
        end
      end
    end)
  end

  test "killing processes that read, or that sync a large list", %{tenant: tenant} do
    never_long!(fn ->
      pages =
        for wait <- 0..40//4 do
          reader = spawn(fn -> Repo.all(User, prefix: tenant) end)

          page =
            spawn(fn ->
              state = %{assigns: %{}, private: %{tenant: tenant}}
              Sync.sync_all(state, Repo, :users, User)
              Process.sleep(:infinity)
            end)

          Process.sleep(wait)
          Process.exit(reader, :kill)
          page
        end

      for page <- pages, do: Process.exit(page, :kill)
      SyncRepo.eventually(fn -> Sync.stats(Repo).subscriptions end, &(&1 == 0))
    end)
  end

  test "a change of one of many ids costs what has changed, not what is subscribed to", %{
    tenant: tenant
  } do
    ids = for i <- 1..@records, do: "u#{i}"
    state = %{assigns: %{}, private: %{tenant: tenant}}
    state = Sync.sync_many(state, Repo, :users, User, ids)

    reductions = fn state, name ->
      Repo.update!(%User{id: "u7"}, [name: name], prefix: tenant)
      assert_receive {_ref, :ready} = message, 60_000
      {:reductions, before} = Process.info(self(), :reductions)
      {:halt, state} = Sync.handle_ready(Repo, message, state)
      {:reductions, now} = Process.info(self(), :reductions)
      assert Enum.at(state.assigns.users, 6).name == name
      {now - before, state}
    end

    {_first, state} = reductions.(state, "a")
    {cost, state} = reductions.(state, "b")
    # The list is copied up to the place: no id is examined.
    assert cost < 5_000
    assert length(state.assigns.users) == @records
    Sync.cancel_all(state, Repo)
  end
end
