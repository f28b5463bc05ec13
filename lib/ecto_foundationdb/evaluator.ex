defmodule EctoFoundationDB.Evaluator do
  @moduledoc false
  # Has live functions evaluated: the NIF asks this process of the Repo for each evaluation, and a process of
  # its own does it (`EctoFoundationDB.Evaluation`). So one that is killed harms no other, and one that does not
  # return is ended.

  use GenServer

  alias EctoFoundationDB.{Connection, Evaluation, Native}

  # FoundationDB's transactions last no longer.
  @longest 5_000

  @spec start_link(atom()) :: GenServer.on_start()
  def start_link(repo) do
    %{database: database, timeout: timeout} = Connection.fetch!(repo)
    GenServer.start_link(__MODULE__, {database, min(timeout, @longest), self()})
  end

  @impl true
  def init({database, limit, owner}) do
    Process.flag(:trap_exit, true)
    # A link says nothing if the Repo's process stops normally.
    owner = Process.monitor(owner)
    :ok = Native.evaluator(database, System.schedulers_online())
    # `running`: by process, the evaluation and the timer that ends it.
    {:ok, %{database: database, limit: limit, owner: owner, running: %{}}}
  end

  @impl true
  def handle_info({:evaluate, evaluation, code, read_version, woken}, state) do
    %{database: database, limit: limit, running: running} = state
    job = [database, evaluation, code, read_version, woken, limit]
    pid = :proc_lib.spawn_link(Evaluation, :run, job)
    timer = Process.send_after(self(), {:overdue, pid}, limit)
    {:noreply, %{state | running: Map.put(running, pid, {evaluation, timer})}}
  end

  def handle_info({:EXIT, pid, reason}, state) when is_map_key(state.running, pid) do
    {{evaluation, timer}, running} = Map.pop!(state.running, pid)
    Process.cancel_timer(timer)
    # One that has ended normally has answered.
    if reason != :normal, do: Evaluation.ended(state.database, evaluation, reason)
    {:noreply, %{state | running: running}}
  end

  def handle_info({:overdue, pid}, %{running: running} = state) do
    with {evaluation, _timer} <- running[pid] do
      Evaluation.overdue(state.database, evaluation, pid, state.limit)
      Process.exit(pid, :kill)
    end

    {:noreply, state}
  end

  def handle_info({:DOWN, owner, :process, _pid, _reason}, %{owner: owner} = state),
    do: {:stop, :normal, state}

  def handle_info(_message, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, %{running: running}) do
    for {pid, _evaluation} <- running, do: Process.exit(pid, :kill)
  end
end
