defmodule EctoFoundationDB.TestIndexer do
  @moduledoc false
  # A default index under another name. In the middle of the transaction that writes it, it calls a function
  # that the process has set.

  alias EctoFoundationDB.Indexer.Default

  @behaviour EctoFoundationDB.Indexer

  @doc "Has a function of a record's fields called whenever this process writes such an index."
  def tell(fun), do: Process.put(__MODULE__, fun)

  @doc "Starts a process, and kills it when it writes such an index for a record with this id or a later."
  def die_at(id, fun) do
    parent = self()

    {pid, monitor} =
      spawn_monitor(fn ->
        tell(fn data ->
          if data[:id] >= id do
            send(parent, {:there, self()})
            Process.sleep(:infinity)
          end
        end)

        fun.()
      end)

    receive do
      {:there, ^pid} -> Process.exit(pid, :kill)
      {:DOWN, ^monitor, _, _, reason} -> raise "it did not come to #{id}: #{inspect(reason)}"
    end

    receive do
      {:DOWN, ^monitor, _, _, _} -> :ok
    end
  end

  defp told(data), do: Process.get(__MODULE__, fn _data -> :ok end).(data)

  @impl true
  def set(tenant, index, schema, {_key, data} = record) do
    told(data)
    Default.set(tenant, index, schema, record)
  end

  @impl true
  def update(tenant, index, schema, old, {_key, data} = new) do
    told(data)
    Default.update(tenant, index, schema, old, new)
  end

  @impl true
  defdelegate clear(tenant, index, schema, record), to: Default
  @impl true
  defdelegate drop_ranges(tenant, index), to: Default
end
