defmodule EctoFoundationDB.Courier do
  @moduledoc false
  # Wakes the subscribers of a live query that has many, some at a time: between two turns others' messages
  # are sent, and the pages that were woken run. Why that is a process and no thread of the NIF, see
  # `native/ecto_fdb/src/live/delivery.rs`; what it does not get to do that thread does.

  use GenServer

  alias EctoFoundationDB.Native

  def start_link(database), do: GenServer.start_link(__MODULE__, database)

  @impl true
  def init(database) do
    :ok = Native.courier(database)
    {:ok, nil}
  end

  @impl true
  def handle_info({:deliver, delivery} = message, state) do
    if Native.deliver(delivery) do
      send(self(), message)
      {:noreply, state}
    else
      # Its heap is full of subscriptions, which may be over for long before it is collected.
      {:noreply, state, :hibernate}
    end
  end

  def handle_info(_message, state), do: {:noreply, state}
end
