defmodule EctoFoundationDB.SyncPage do
  @moduledoc """
  A process with a LiveView-shaped state, that handles its messages with Sync and lets tests wait
  for what its assigns become.
  """

  use GenServer

  alias EctoFoundationDB.Sync

  @doc "A page of the repo whose state `mount` makes out of `%{assigns: %{}, private: %{tenant: tenant}}`."
  def start(repo, tenant, mount) do
    {:ok, page} = GenServer.start(__MODULE__, {repo, tenant, mount}, timeout: 60_000)
    page
  end

  @doc "Applies a function to the page's state."
  def update(page, fun), do: GenServer.call(page, {:update, fun}, 60_000)

  def assigns(page), do: GenServer.call(page, :state, 60_000).assigns

  @doc "Waits until the page's assigns are such; gives them."
  def await(page, such), do: GenServer.call(page, {:await, such}, 60_000)

  @doc "How often a message of Sync's has been handled."
  def handled(page), do: GenServer.call(page, :handled, 60_000)

  @doc "A state of the calling process after its next message of Sync's; fails after `timeout` ms without one."
  def next(repo, state, timeout \\ 10_000) do
    receive do
      {_ref, :ready} = message ->
        {:halt, state} = Sync.handle_ready(repo, message, state)
        state
    after
      timeout -> ExUnit.Assertions.flunk("no message has come")
    end
  end

  @impl true
  def init({repo, tenant, mount}) do
    state = mount.(%{assigns: %{}, private: %{tenant: tenant}})
    {:ok, %{repo: repo, state: state, handled: 0, waiting: []}}
  end

  @impl true
  def handle_call({:update, fun}, _from, page) do
    {:reply, :ok, answer(%{page | state: fun.(page.state)})}
  end

  def handle_call(:state, _from, page), do: {:reply, page.state, page}
  def handle_call(:handled, _from, page), do: {:reply, page.handled, page}

  def handle_call({:await, such}, from, page) do
    {:noreply, answer(%{page | waiting: [{from, such} | page.waiting]})}
  end

  @impl true
  def handle_info(message, page) do
    {:halt, state} = Sync.handle_ready(page.repo, message, page.state)
    {:noreply, answer(%{page | state: state, handled: page.handled + 1})}
  end

  defp answer(%{state: %{assigns: assigns}} = page) do
    {ready, waiting} = Enum.split_with(page.waiting, fn {_from, such} -> such.(assigns) end)
    for {from, _such} <- ready, do: GenServer.reply(from, assigns)
    %{page | waiting: waiting}
  end
end
