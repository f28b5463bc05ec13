defmodule EctoFoundationDB.SyncFunOutagesTest do
  # Live functions while a part of the database gives no answer, and while the Repo or its processes are killed.
  use ExUnit.Case, async: true

  alias EctoFoundationDB.{Embedded, Evaluator, Sync, SyncPage, SyncRepo, Tenant, TimeoutError}
  alias EctoFoundationDB.SyncUser, as: User

  @moduletag :embedded

  defmodule Repo do
    use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
    use EctoFoundationDB.Migrator

    @impl true
    def migrations, do: EctoFoundationDB.SyncRepo.migrations()
  end

  @config [embedded: true, log: false, timeout: 2_000, stale_after: 500]

  setup do
    start_supervised!({Repo, @config})
    Embedded.outage(Repo, nil)
    SyncRepo.eventually(fn -> Sync.stats(Repo).live_queries end, &(&1 == 0))
    tenant = Tenant.open!(Repo, "fun-outages-#{System.unique_integer([:positive])}")
    users = for n <- 1..20, do: Repo.insert!(%User{id: "u#{n}", name: "A"}, prefix: tenant)
    %{tenant: tenant, users: users}
  end

  def name(id), do: Repo.get!(User, id).name

  defp sync(tenant, id) do
    state = %{assigns: %{}, private: %{tenant: tenant}}
    Sync.sync_fun(state, Repo, :it, {__MODULE__, :name, [id]})
  end

  defp next(state), do: SyncPage.next(Repo, state, 60_000)

  defp until(state, such), do: if(such.(state), do: state, else: state |> next() |> until(such))
  defp stale?(state), do: Sync.stale?(state, Repo, :it)
  defp rename(tenant, id, name), do: Repo.update!(%User{id: id}, [name: name], prefix: tenant)

  test "functions on dead keys are stale, with the reason, and hold up no others", context do
    %{tenant: tenant} = context
    test = self()

    # More of them than evaluations at once.
    dead =
      for n <- 2..20 do
        spawn_link(fn ->
          state = sync(tenant, "u#{n}")
          send(test, :mounted)
          state = until(state, &stale?/1)
          send(test, {:stale, state.assigns.it})
          state = until(state, &(&1.assigns.it == "B"))
          until(state, &(not stale?(&1)))
          send(test, :fresh)
          Process.sleep(:infinity)
        end)
      end

    for _ <- dead, do: assert_receive(:mounted)
    state = sync(tenant, "u1")
    Embedded.outage(Repo, reads: for(n <- 2..20, do: {tenant, User, "u#{n}"}))
    for n <- 2..20, do: rename_blindly(tenant, "u#{n}", "B")

    state =
      for n <- 1..20, reduce: state do
        state ->
          rename(tenant, "u1", "B#{n}")
          until(state, &(&1.assigns.it == "B#{n}"))
      end

    refute stale?(state)
    for _ <- dead, do: assert_receive({:stale, "A"}, 60_000)
    # What is new to the node waits for its own time, and no longer.
    assert_raise TimeoutError, fn -> sync(tenant, "u2") end
    assert sync(tenant, "u1").assigns.it == "B20"
    Embedded.outage(Repo, nil)
    for _ <- dead, do: assert_receive(:fresh, 60_000)
  end

  # Without reading it.
  defp rename_blindly(tenant, id, name),
    do: Repo.insert!(%User{id: id, name: name}, prefix: tenant, conflict_target: [])

  test "a database that is silent is told as of all", %{tenant: tenant} do
    state = sync(tenant, "u1")
    Embedded.outage(Repo, all: true)
    state = until(state, &stale?/1)
    assert state.assigns.it == "A"
    Embedded.outage(Repo, nil)
    state = until(state, &(not stale?(&1)))
    rename(tenant, "u1", "B")
    until(state, &(&1.assigns.it == "B"))
  end

  test "watches that are lost are found by looking at the keys", %{tenant: tenant} do
    state = sync(tenant, "u1")
    Embedded.outage(Repo, watches: [{tenant, User, "u1"}])
    rename(tenant, "u1", "B")
    until(state, &(&1.assigns.it == "B"))
  end

  test "a Repo that is killed or stopped goes on when it is there again", %{tenant: tenant} do
    state = sync(tenant, "u1")
    stop_supervised!(Repo)
    start_supervised!({Repo, @config})
    rename(tenant, "u1", "B")
    state = until(state, &(&1.assigns.it == "B"))

    pid = Process.whereis(Repo)
    Process.exit(pid, :kill)
    SyncRepo.eventually(fn -> Process.whereis(Repo) end, &(&1 not in [nil, pid]))
    SyncRepo.eventually(fn -> renamed(tenant) end, & &1)
    until(state, &(&1.assigns.it == "C"))
  end

  defp renamed(tenant) do
    rename(tenant, "u1", "C")
  rescue
    # It is starting.
    ArgumentError -> false
  end

  test "the evaluator, and the processes that wait for work, may be killed", %{tenant: tenant} do
    state = sync(tenant, "u1")

    state =
      for n <- 1..10, reduce: state do
        state ->
          {_, evaluator, _, _} = Repo |> Supervisor.which_children() |> List.keyfind(Evaluator, 0)
          {:links, links} = Process.info(evaluator, :links)

          for pid <- links,
              is_pid(pid),
              pid != Process.whereis(Repo),
              do: Process.exit(pid, :kill)

          if rem(n, 3) == 0, do: Process.exit(evaluator, :kill)
          rename(tenant, "u1", "#{n}")
          state = until(state, &(&1.assigns.it == "#{n}"))
          SyncRepo.eventually(fn -> Repo |> Supervisor.which_children() |> started?() end, & &1)
          state
      end

    assert state.assigns.it == "10"
  end

  defp started?(children), do: Enum.all?(children, fn {_, pid, _, _} -> is_pid(pid) end)
end
