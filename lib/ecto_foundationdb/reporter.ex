defmodule EctoFoundationDB.Reporter do
  @moduledoc false
  # A Repo's process that receives events of its live queries and its database from the NIF, for telemetry and the
  # log. Without telemetry it receives incidents only.

  use GenServer

  alias EctoFoundationDB.{Connection, Error, Log, Native, Telemetry}

  # A dead storage server makes thousands of live queries stale, one by one: the first one is logged, and those of
  # the next seconds together.
  @together_ms 10_000

  @spec start_link(atom()) :: GenServer.on_start()
  def start_link(instance) do
    %{database: database, repo: repo} = Connection.fetch!(instance)
    GenServer.start_link(__MODULE__, {repo, database, self()})
  end

  @impl true
  def init({repo, database, owner}) do
    # A link does not help if the Repo's process stops normally.
    owner = Process.monitor(owner)
    telemetry? = Telemetry.detect()
    :ok = Native.reporter(database, telemetry?)
    {:ok, %{repo: repo, telemetry?: telemetry?, owner: owner, logged: %{}}}
  end

  @impl true
  def handle_info({:event, name, facts}, state) do
    event = Telemetry.event(name)
    facts = Enum.flat_map(facts, &fact/1)
    if state.telemetry?, do: Telemetry.execute(state.repo, event, facts)
    {:noreply, log(state, event, facts)}
  end

  def handle_info({:logged, event}, state) do
    case Map.pop(state.logged, event) do
      {{0, _facts}, logged} ->
        {:noreply, %{state | logged: logged}}

      {{more, facts}, _logged} ->
        {level, text} = Log.line(event, Map.new(facts))
        Log.log(level, state.repo, "#{more} more of these: #{text}", [event: event] ++ facts)
        {:noreply, begin(state, event)}
    end
  end

  def handle_info({:DOWN, owner, :process, _pid, _reason}, %{owner: owner} = state),
    do: {:stop, :normal, state}

  def handle_info(_message, state), do: {:noreply, state}

  defp log(state, event, facts) do
    case state.logged do
      %{^event => {more, _facts}} ->
        put_in(state.logged[event], {more + 1, facts})

      %{} ->
        if Log.line(event, Map.new(facts)) do
          Log.event(state.repo, event, facts)
          begin(state, event)
        else
          state
        end
    end
  end

  defp begin(state, event) do
    Process.send_after(self(), {:logged, event}, @together_ms)
    put_in(state.logged[event], {0, []})
  end

  defp fact({:duration, microseconds}),
    do: [duration: System.convert_time_unit(microseconds, :microsecond, :native)]

  defp fact({:reason, reason}) do
    {code, text} = Error.reason(reason)
    [code: code, reason: text]
  end

  defp fact(fact), do: [fact]
end
