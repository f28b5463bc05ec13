defmodule EctoFoundationDB.Planner do
  @moduledoc false
  # Live queries of lists are plans, which hold as long as the tenant's indexes are what they were. After
  # any tenant's migration the NIF asks for all of a database's plans anew, of which there may be
  # thousands. They are made some at a time, each in a process of its own: where one fails, or waits
  # for the database, others go on. Who gets no answer asks again.

  use GenServer

  alias EctoFoundationDB.{Connection, LiveQuery, Native}

  @at_once 16

  def start_link(repo) do
    %{database: database} = Connection.fetch!(repo)
    GenServer.start_link(__MODULE__, {database, self()})
  end

  @impl true
  def init({database, owner}) do
    # A link says nothing where the Repo's process is stopped in peace.
    owner = Process.monitor(owner)
    :ok = Native.planner(database)
    {:ok, %{waiting: %{}, running: 0, owner: owner}}
  end

  @impl true
  def handle_info({:replan, request, asked_for}, state) do
    # What is asked again, since its turn has not come, is planned once.
    {:noreply, go_on(put_in(state.waiting[asked_for], request))}
  end

  def handle_info({:DOWN, owner, :process, _pid, _reason}, %{owner: owner} = state),
    do: {:stop, :normal, state}

  def handle_info({:DOWN, _ref, :process, _pid, _reason}, state),
    do: {:noreply, go_on(%{state | running: state.running - 1})}

  defp go_on(%{running: running, waiting: waiting} = state)
       when running == @at_once or waiting == %{},
       do: state

  defp go_on(%{running: running, waiting: waiting} = state) do
    {asked_for, request, _} = :maps.next(:maps.iterator(waiting))

    spawn_monitor(fn ->
      {answer, version} = LiveQuery.replan(asked_for)
      Native.replanned(request, answer, version)
    end)

    go_on(%{state | running: running + 1, waiting: Map.delete(waiting, asked_for)})
  end
end
