defmodule EctoFoundationDB.Evaluator do
  @moduledoc false
  # Has live functions evaluated, each evaluation by a process of its own (`EctoFoundationDB.Evaluation`). So one
  # that is killed harms no other, and one that does not return is ended.
  #
  # Some processes wait for an evaluation, which the NIF sends them; it sends it here where none does. Another
  # one takes the place of one that has ended.

  use GenServer

  alias EctoFoundationDB.{Connection, Evaluation, Native}

  # FoundationDB's transactions last no longer.
  @longest 5_000
  # After its reads have had their time, a function has this to end.
  @grace 500

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

    # `running`: by process, the evaluation, the timer that ends it, and whether it has waited; or nil where it
    # still waits.
    state = %{database: database, limit: limit, owner: owner, running: %{}}
    {:ok, Enum.reduce(1..System.schedulers_online(), state, fn _, state -> start(state, nil) end)}
  end

  # Starts a process, for an evaluation or to wait for one.
  defp start(state, job) do
    pid = :proc_lib.spawn_link(Evaluation, :start, [self(), state.database, state.limit, job])
    put_in(state.running[pid], nil)
  end

  @impl true
  def handle_info({:evaluate, _evaluation, _code, _version, _woken} = job, state),
    do: {:noreply, start(state, job)}

  def handle_info({:begun, pid, evaluation, waited?}, state) do
    timer = Process.send_after(self(), {:overdue, pid}, state.limit + @grace)
    {:noreply, put_in(state.running[pid], {evaluation, timer, waited?})}
  end

  def handle_info({:EXIT, pid, reason}, state) when is_map_key(state.running, pid) do
    {begun, running} = Map.pop!(state.running, pid)
    state = %{state | running: running}

    with {evaluation, timer, _waited?} <- begun do
      Process.cancel_timer(timer)
      # One that has ended normally has answered.
      if reason != :normal, do: Evaluation.ended(state.database, evaluation, reason)
    end

    {:noreply, if(match?({_, _, false}, begun), do: state, else: start(state, nil))}
  end

  def handle_info({:overdue, pid}, %{running: running} = state) do
    with {evaluation, _timer, _waited?} <- running[pid] do
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
