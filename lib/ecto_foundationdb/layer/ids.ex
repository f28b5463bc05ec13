defmodule EctoFoundationDB.Layer.Ids do
  @moduledoc false
  # Generated integer primary keys. A node claims them in blocks from a counter of the tenant, in separate
  # transactions, so writers don't conflict. The rest of a block is never used after the Repo stops: ids rise,
  # with gaps. Nodes have different blocks.

  use GenServer

  alias EctoFoundationDB.{Connection, Native, Tenant, Transaction}
  alias EctoFoundationDB.Layer.Keys

  @block 100

  @doc false
  def start_link(repo), do: GenServer.start_link(__MODULE__, repo)

  @doc "This many ids that no record of the source has, in ascending order."
  @spec take(Tenant.t(), String.t(), pos_integer()) :: [pos_integer()]
  def take(%Tenant{repo: repo, prefix: prefix} = tenant, source, count) do
    # The claim would be another process's transaction.
    Transaction.writable!()

    case from_block(repo, {prefix, source}, count) do
      nil ->
        timeout = Connection.fetch!(repo).timeout
        server = :ets.lookup_element(repo, :ids, 2)

        case GenServer.call(server, {:take, tenant, source, count}, timeout) do
          {:ok, ids} -> ids
          {:error, error, stacktrace} -> reraise error, stacktrace
        end

      ids ->
        ids
    end
  end

  defp from_block(repo, key, count) do
    with [{_, counter, last}] <- :ets.lookup(repo, {:ids, key}),
         id when id <= last <- :atomics.add_get(counter, 1, count) do
      Enum.to_list((id - count + 1)..id)
    else
      _exhausted_or_none -> nil
    end
  end

  @impl true
  def init(repo) do
    :ets.insert(repo, {:ids, self()})
    {:ok, %{repo: repo, claims: %{}, waiting: %{}}}
  end

  @impl true
  def handle_call({:take, tenant, source, count}, from, state) do
    key = {tenant.prefix, source}

    case from_block(state.repo, key, count) do
      nil -> {:noreply, state |> wait(key, {from, count}) |> claim(key, tenant, source)}
      ids -> {:reply, {:ok, ids}, state}
    end
  end

  defp wait(state, key, caller) do
    waiting = Map.update(state.waiting, key, [caller], &[caller | &1])
    %{state | waiting: waiting}
  end

  # A separate process claims, one for each source, so that a failing tenant does not affect others.
  defp claim(%{claims: claims, waiting: waiting} = state, key, tenant, source) do
    if Enum.any?(claims, fn {_monitor, {claimed, _, _}} -> claimed == key end) do
      state
    else
      size = wanted(waiting[key]) + @block
      server = self()

      {_pid, monitor} =
        spawn_monitor(fn -> send(server, {:claimed, key, size, reserve(tenant, source, size)}) end)

      %{state | claims: Map.put(claims, monitor, {key, tenant, source})}
    end
  end

  @impl true
  def handle_info({:claimed, key, size, result}, state) do
    {callers, waiting} = Map.pop(state.waiting, key, [])

    case result do
      {:ok, last} ->
        # Requests that came after the claim began may want more than it has.
        {served, left} = split(Enum.reverse(callers), size)
        give(state.repo, key, last, size, served)
        waiting = if left == [], do: waiting, else: Map.put(waiting, key, left)
        {:noreply, %{state | waiting: waiting}}

      error ->
        for {from, _count} <- callers, do: GenServer.reply(from, error)
        {:noreply, %{state | waiting: waiting}}
    end
  end

  def handle_info({:DOWN, monitor, :process, _pid, _reason}, state) do
    {{key, tenant, source}, claims} = Map.pop!(state.claims, monitor)
    state = %{state | claims: claims}
    # Requests that came after the claim was made.
    {:noreply, if(state.waiting[key], do: claim(state, key, tenant, source), else: state)}
  end

  defp wanted(callers), do: Enum.sum(for {_from, count} <- callers, do: count)

  defp split([{_from, count} = caller | callers], size) when count <= size do
    {served, left} = split(callers, size - count)
    {[caller | served], left}
  end

  defp split(callers, _size), do: {[], callers}

  defp give(repo, key, last, size, callers) do
    next =
      Enum.reduce(callers, last, fn {from, count}, last ->
        GenServer.reply(from, {:ok, Enum.to_list((last + 1)..(last + count))})
        last + count
      end)

    counter = :atomics.new(1, signed: false)
    :atomics.put(counter, 1, next)
    :ets.insert(repo, {{:ids, key}, counter, last + size})
  end

  # The last id before the block. There may be records with ids of their own.
  defp reserve(tenant, source, size) do
    last =
      Transaction.run(tenant, fn ->
        key = {:pack, Keys.ids(tenant, source)}
        records = Keys.records(tenant, source)
        first = Native.pack(Keys.append(records, [0]))
        final = Native.pack(Keys.append(records, [0x7FFFFFFFFFFFFFFF]))
        greatest = {:get_range, first, final, %{limit: 1, reverse: true}}
        [counter, greatest] = Transaction.read([{:get, key, false}, greatest])
        last = max(counter(counter), id(greatest))
        Transaction.write([{:set, key, <<last + size::64>>}])
        last
      end)

    {:ok, last}
  rescue
    error -> {:error, error, __STACKTRACE__}
  end

  defp counter(nil), do: 0
  defp counter(<<last::64>>), do: last

  defp id([{key, _value}]), do: elem(Native.unpack(key), 4)
  defp id([]), do: 0
end
