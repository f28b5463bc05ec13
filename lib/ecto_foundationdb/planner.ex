defmodule EctoFoundationDB.Planner do
  @moduledoc false
  # Reads the indexes of a source when they have changed, once for all that need them: pages that subscribe to
  # lists (`learn/3`), and live queries that ask for a new plan (the NIF's `{:replan, …}`).
  #
  # A separate process reads each source, so that one that fails, or waits for the database, does not delay
  # others. A live query that gets no answer asks again.

  use GenServer

  alias EctoFoundationDB.{Connection, LiveQuery, Native, Tenant, Transaction}
  alias EctoFoundationDB.Layer.Metadata

  # How many sources are read at the same time.
  @at_once 16

  def start_link(repo) do
    %{database: database} = Connection.fetch!(repo)
    GenServer.start_link(__MODULE__, {database, self()}, name: name(repo))
  end

  defp name(repo), do: Module.concat(repo, "Planner")

  @doc """
  The current indexes of a source, and under which metadata version. `outdated` is the fingerprint that was found
  wrong: if a different one is cached already, nothing is read.
  """
  @spec learn(Tenant.t(), String.t(), binary() | :nothing) ::
          {Native.metadata_version(), Metadata.t()}
  def learn(%Tenant{repo: repo} = tenant, source, outdated) do
    case Metadata.cached(tenant, source) do
      {_version, %{fingerprint: fingerprint}} = known
      when outdated != :nothing and fingerprint != outdated ->
        known

      _outdated_or_nothing ->
        case GenServer.call(name(repo), {:learn, tenant, source}, :infinity) do
          {:ok, known} -> known
          {:error, {%{__exception__: true} = error, stack}} -> reraise(error, stack)
          {:error, reason} -> exit(reason)
        end
    end
  end

  @impl true
  def init({database, owner}) do
    # A link does not help if the Repo's process stops normally.
    owner = Process.monitor(owner)
    :ok = Native.planner(database)

    # `waiting`: {prefix, source} => {tenant, callers}. `running`: the same by the monitors of the processes
    # that read.
    {:ok, %{database: database, owner: owner, waiting: %{}, running: %{}}}
  end

  @impl true
  def handle_call({:learn, tenant, source}, from, state),
    do: {:noreply, wait(state, tenant, source, {:learn, from})}

  @impl true
  def handle_info({:replan, request, asked_for}, state) do
    {tenant, source} = LiveQuery.source(asked_for)
    {:noreply, wait(state, tenant, source, {:replan, request, asked_for})}
  end

  def handle_info({:DOWN, owner, :process, _pid, _reason}, %{owner: owner} = state),
    do: {:stop, :normal, state}

  def handle_info({:DOWN, monitor, :process, _pid, reason}, state) do
    {{_source, answers}, running} = Map.pop!(state.running, monitor)

    if reason != :normal,
      do: for({:learn, from} <- answers, do: GenServer.reply(from, {:error, reason}))

    {:noreply, start(%{state | running: running})}
  end

  defp wait(state, tenant, source, answer) do
    waiting =
      Map.update(state.waiting, {tenant.prefix, source}, {tenant, [answer]}, fn {tenant, answers} ->
        {tenant, [answer | answers]}
      end)

    start(%{state | waiting: waiting})
  end

  # A read in progress may have begun before the newest request, which therefore waits for the next read.
  defp start(state) do
    reading = MapSet.new(state.running, fn {_monitor, {source, _answers}} -> source end)
    next = Enum.find(state.waiting, fn {source, _} -> source not in reading end)

    if next == nil or map_size(state.running) == @at_once,
      do: state,
      else: start(read(state, next))
  end

  defp read(%{database: database} = state, {{_prefix, source} = key, {tenant, answers}}) do
    {_pid, monitor} = spawn_monitor(fn -> answer(answers, database, tenant, source) end)

    %{
      state
      | running: Map.put(state.running, monitor, {key, answers}),
        waiting: Map.delete(state.waiting, key)
    }
  end

  defp answer(answers, database, tenant, source) do
    known =
      Transaction.run(tenant, fn ->
        metadata = Metadata.load(tenant, source)
        {Transaction.version(), metadata}
      end)

    for answer <- answers do
      case answer do
        {:learn, from} ->
          GenServer.reply(from, {:ok, known})

        {:replan, request, asked_for} ->
          {plan, basis} = LiveQuery.replan(asked_for, known)
          Native.replanned(database, request, plan, basis)
      end
    end
  end
end
