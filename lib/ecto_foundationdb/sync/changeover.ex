defmodule EctoFoundationDB.Sync.Changeover do
  @moduledoc false
  # From earlier subscriptions to new ones as a whole. What a call of Sync replaces or cancels ends when
  # the call returns. Where it raises, which functions of the application may, its caller still has the
  # state from before: then the subscriptions of that state go on, and those that the call has begun end.
  # Calls that callbacks make belong to the call that the callbacks are called in.

  alias EctoFoundationDB.Native
  alias EctoFoundationDB.Sync.Subscription

  @key __MODULE__
  @nothing %{begun: [], ended: [], taken: []}

  @doc "Runs a call of Sync."
  @spec run((() -> result)) :: result when result: term()
  def run(fun) do
    if Process.get(@key), do: fun.(), else: outermost(fun)
  end

  defp outermost(fun) do
    Process.put(@key, @nothing)

    try do
      result = fun.()
      Enum.each(Process.get(@key).ended, &Subscription.cancel/1)
      result
    catch
      kind, reason ->
        %{begun: begun, taken: taken} = Process.get(@key)
        Enum.each(begun, &Subscription.cancel/1)
        Enum.each(taken, &Native.untake/1)
        :erlang.raise(kind, reason, __STACKTRACE__)
    after
      Process.delete(@key)
    end
  end

  @doc "Subscriptions that the call has begun."
  @spec begun([Native.subscription()]) :: :ok
  def begun(subscriptions), do: note(:begun, subscriptions)

  @doc "Subscriptions that are over when the call returns."
  @spec ended([Native.subscription()]) :: :ok
  def ended(subscriptions), do: note(:ended, subscriptions)

  @doc "Subscriptions whose news the call has taken."
  @spec taken([Native.subscription()]) :: :ok
  def taken(subscriptions), do: note(:taken, subscriptions)

  defp note(what, subscriptions) do
    Process.put(@key, Map.update!(Process.get(@key), what, &(subscriptions ++ &1)))
    :ok
  end
end
