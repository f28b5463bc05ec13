defmodule EctoFoundationDB.TimeoutTest do
  # `timeout:` bounds a whole call, whatever the database does. The database is a separate one, because locks
  # and faults affect all users.
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog
  alias EctoFoundationDB.{Embedded, Error, Migrator, Native, Tenant, TestUser, TimeoutError}
  alias EctoFoundationDB.{Transaction, Versionstamp}

  @moduletag :embedded

  defmodule Repo do
    use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
  end

  defmodule IndexUsers do
    use EctoFoundationDB.Migration

    @impl true
    def change, do: [create(index(TestUser, [:name]))]
  end

  defmodule Indexed do
    use EctoFoundationDB.Migrator

    @impl true
    def migrations, do: [{1, IndexUsers}]
  end

  setup do
    start_supervised!({Repo, embedded: true, log: false})
    Embedded.faults(Repo, nil)
    unlock()
    tenant = Tenant.open!(Repo, "timeout-#{System.unique_integer([:positive])}")
    Repo.insert!(%TestUser{id: "u1", name: "Ada"}, prefix: tenant)
    {:ok, tenant: tenant}
  end

  # As fdbcli's `lock`, `unlock`, a restore and a DR switch do.
  defp lock, do: Embedded.outage(Repo, locked: true)
  defp unlock, do: Embedded.outage(Repo, nil)

  test "the errors of every kind of call name a lock and say what to do", %{tenant: tenant} do
    user = Repo.get!(TestUser, "u1", prefix: tenant)

    capture_log(fn ->
      lock()

      for call <- [
            &Repo.get(TestUser, "u1", [prefix: tenant] ++ &1),
            &Repo.update!(user, [name: "Bea"], &1),
            &Repo.all(TestUser, [prefix: tenant] ++ &1),
            &Repo.reload(user, &1),
            &Repo.insert_all(TestUser, [[id: "u2"]], [prefix: tenant] ++ &1),
            &Repo.update_all(TestUser, [set: [name: "C"]], [prefix: tenant, step: 1] ++ &1),
            &Enum.to_list(Repo.stream(TestUser, [prefix: tenant] ++ &1)),
            &Repo.transactional(tenant, fn -> Repo.get(TestUser, "u1") end, &1),
            &Tenant.open!(Repo, "unknown to this node", &1)
          ] do
        error = assert_raise TimeoutError, fn -> call.(timeout: 50) end
        assert %Error{code: 1038} = error.last_error
        assert error.attempts > 1
        message = Exception.message(error)
        assert message =~ "did not succeed within 50 ms"
        assert message =~ ~r/Database is locked \(FoundationDB error 1038\)/
        assert message =~ "`unlock`"
      end

      unlock()
      assert Repo.get!(TestUser, "u1", prefix: tenant).name == "Ada"
    end)
  end

  test "calls that wait for the end of a lock succeed when it comes", %{tenant: tenant} do
    capture_log(fn ->
      lock()

      for timeout <- [60_000, :infinity] do
        task = Task.async(fn -> Repo.get(TestUser, "u1", prefix: tenant, timeout: timeout) end)
        refute Task.yield(task, 100)
        if timeout == :infinity, do: unlock(), else: send(self(), {:later, task})
        if timeout == :infinity, do: assert(%TestUser{name: "Ada"} = Task.await(task))
      end

      assert_received {:later, task}
      assert %TestUser{name: "Ada"} = Task.await(task)
    end)
  end

  test "the Repo's timeout bounds calls without their own", %{tenant: tenant} do
    capture_log(fn ->
      lock()
      stop_supervised!(Repo)
      start_supervised!({Repo, embedded: true, log: false, timeout: 50})

      for call <- [
            fn -> Tenant.create(Repo, "new") end,
            fn -> Tenant.exists?(Repo, "new") end,
            fn -> Tenant.list(Repo) end,
            fn -> Tenant.clear(Repo, tenant.id) end,
            fn -> Tenant.clear_delete!(Repo, tenant.id) end,
            fn -> Tenant.delete(Repo, tenant.id) end,
            fn -> Tenant.open(Repo, "unknown to this node") end,
            fn -> Migrator.migrate_all(Repo, tenants: ["unknown, too"]) end
          ] do
        assert %Error{code: 1038} = assert_raise(TimeoutError, call).last_error
      end

      unlock()
    end)
  end

  test "repeated conflicts end with the timeout, too", %{tenant: tenant} do
    Embedded.faults(Repo, seed: 1, not_committed: 1)

    error =
      assert_raise TimeoutError, fn ->
        Repo.insert!(%TestUser{id: "u2"}, prefix: tenant, timeout: 50)
      end

    assert %Error{code: 1020} = error.last_error
    assert Exception.message(error) =~ "Other transactions keep changing what it reads"
  end

  test "the waits of a function add up", %{tenant: tenant} do
    # No single wait is as long as the timeout.
    Embedded.faults(Repo, seed: 1, slow_read: 1, read_delay_ms: 30)

    assert_raise TimeoutError, ~r/within 300 ms while reading/, fn ->
      Repo.transactional(tenant, fn -> for _ <- 1..1000, do: read(tenant) end, timeout: 300)
    end
  end

  defp read(tenant), do: Transaction.read([{:get, Tenant.pack(tenant, {"k"}), true}])

  test "a call inside a transaction ends with the earlier of both timeouts", %{tenant: tenant} do
    Embedded.faults(Repo, seed: 1, slow_read: 1, read_delay_ms: 3_600_000)
    within = fn ms -> ~r/did not answer within #{ms} ms/ end

    for call <- [
          &Repo.get(TestUser, "u1", &1),
          &Repo.transactional(tenant, fn -> Repo.all(TestUser) end, &1),
          &Repo.await(Repo.async_all(TestUser, &1))
        ] do
      assert_raise TimeoutError, within.(30), fn ->
        Repo.transactional(tenant, fn -> call.(timeout: 30) end, timeout: 60_000)
      end

      assert_raise TimeoutError, within.(31), fn ->
        Repo.transactional(tenant, fn -> call.(timeout: 60_000) end, timeout: 31)
      end
    end

    Embedded.faults(Repo, nil)

    # A finished transaction has no timeout any more.
    assert %TestUser{} =
             Repo.transactional(tenant, fn ->
               assert %TestUser{} = Repo.get(TestUser, "u1", timeout: 100)
               Process.sleep(150)
               Repo.get(TestUser, "u1")
             end)
  end

  test "each step has its own timeout", %{tenant: tenant} do
    Repo.insert_all(TestUser, for(i <- 1..20, do: [id: "s#{i}", name: "x"]), prefix: tenant)
    Embedded.faults(Repo, seed: 1, slow_read: 1, read_delay_ms: 100)

    # Twenty steps, each with two or more reads that take 50 ms on average, take longer than one may.
    assert {21, nil} =
             Repo.update_all(TestUser, [set: [name: "y"]], prefix: tenant, step: 1, timeout: 1000)

    options = [migrator: Indexed, migration_step: 1, timeout: 1000]
    tenant = Tenant.open!(Repo, tenant.id, options)
    Embedded.faults(Repo, nil)
    assert length(Repo.all(TestUser, where: [name: "y"], prefix: tenant)) == 21
  end

  test "a step that times out because of conflicts is halved", %{tenant: tenant} do
    test = self()

    # Conflicts as long as it takes more than two.
    step = fn size ->
      send(test, {:took, size})
      if size > 2, do: raise(Error, {:fdb, 1020, "lost"}), else: size
    end

    assert {taken, _pace} = Transaction.step(tenant, 4096, step, timeout: 60)
    assert taken in 1..2
    assert_received {:took, 4096}
  end

  describe "tags and priorities" do
    test "of a call apply to its transaction", %{tenant: tenant} do
      call = fn ->
        opts = [tag: ["web", "users"], priority: :batch]

        Repo.transactional(
          tenant,
          fn -> Repo.get(TestUser, "u1", tag: "another", priority: :immediate) end,
          opts
        )

        Repo.get(TestUser, "u1", prefix: tenant, tag: "web")
        Repo.insert!(%TestUser{id: "u9"}, prefix: tenant, priority: :immediate)
        Repo.get(TestUser, "u1", prefix: tenant)
      end

      assert options(call) == [
               [auto_throttle_tag: "web", auto_throttle_tag: "users", priority_batch: nil],
               [auto_throttle_tag: "web"],
               [priority_system_immediate: nil],
               []
             ]
    end

    # A tag whose effect is visible.
    test "apply to all attempts" do
      database = EctoFoundationDB.Repo.database(Repo)
      {:ok, transaction} = Native.transaction_new(database, lock_aware: nil)
      lock()

      for value <- ["1", "2", "3"] do
        ref = make_ref()
        Native.transaction_run(transaction, ref, [{:get, "k", false}, {:set, "k", value}])
        assert_receive {^ref, {:ok, [_, :ok]}}
        Embedded.faults(Repo, seed: 1, not_committed: if(value == "3", do: 0, else: 1))
        Native.transaction_commit(transaction, ref, [], nil)

        if value == "3" do
          assert_receive {^ref, {:ok, _version, _stamp}}
        else
          assert_receive {^ref, {:error, {:fdb, 1020, _}}}
          Native.transaction_on_error(transaction, ref, 1020)
          assert_receive {^ref, :ok}
        end
      end

      # And in the next transaction with the same handle.
      Native.transaction_run(transaction, ref = make_ref(), [{:get, "k", false}])
      assert_receive {^ref, {:ok, ["3"]}}
      unlock()
    end

    test "that FoundationDB would refuse are refused", %{tenant: tenant} do
      for {opts, message} <- [
            {[tag: ""], ~r/tag: expected a string of 1 to 16 bytes.*got: \[""\]/},
            {[tag: String.duplicate("x", 17)], ~r/tag: expected/},
            {[tag: :web], ~r/tag: expected.*got: \[:web\]/},
            {[tag: ~w(a b c d e f)], ~r/list of up to 5/},
            {[priority: :high], ~r/priority: expected :batch, :default or :immediate, got: :high/}
          ] do
        assert_raise ArgumentError, message, fn ->
          Repo.get(TestUser, "u1", [prefix: tenant] ++ opts)
        end
      end
    end

    # The tags and priorities of this function's transactions.
    defp options(fun) do
      :erlang.trace_pattern({Native, :transaction_new, 2}, true, [:global])

      task =
        Task.async(fn ->
          receive do: (:go -> fun.())
        end)

      :erlang.trace(task.pid, true, [:call])
      send(task.pid, :go)
      Task.await(task)
      delivered = :erlang.trace_delivered(task.pid)
      assert_receive {:trace_delivered, _, ^delivered}
      traced(task.pid)
    end

    defp traced(pid) do
      receive do
        {:trace, ^pid, :call, {Native, :transaction_new, [_database, options]}} ->
          [options | traced(pid)]
      after
        0 -> []
      end
    end
  end

  test "a transaction that only writes a versionstamped key, with a tag, is not empty", %{
    tenant: tenant
  } do
    stamped =
      Repo.transactional(
        tenant,
        fn ->
          Transaction.write([
            {:atomic, :set_versionstamped_value, Tenant.pack(tenant, {"v"}), <<0::80, 0::32>>}
          ])

          Versionstamp.get(nil)
        end,
        tag: "t"
      )

    assert {:versionstamp, _, _} = Repo.await(stamped)
  end
end
