defmodule EctoFoundationDB.Sync.Changeover do
  @moduledoc false
  # From earlier subscriptions to new ones as a whole. What a call of Sync replaces or cancels ends when
  # the call returns. Where it raises, which functions of the application may, its caller still has the
  # state from before: then the subscriptions of that state go on, and those that the call has begun end.
  # Calls that callbacks make belong to the call that the callbacks are called in.

  alias EctoFoundationDB.Native
  alias EctoFoundationDB.Sync.Async
  alias EctoFoundationDB.Sync.Subscription

  @key __MODULE__
  @nothing {_begun = [], _ended = []}

  @doc "Runs a call of Sync."
  @spec run(fun()) :: term()
  def run(fun) do
    if Process.get(@key), do: fun.(), else: outermost(fun)
  end

  defp outermost(fun) do
    Process.put(@key, @nothing)

    try do
      result = fun.()
      {_begun, ended} = Process.get(@key)
      Enum.each(ended, &stop/1)
      result
    catch
      kind, reason ->
        {begun, _ended} = Process.get(@key)
        Enum.each(begun, &stop/1)
        :erlang.raise(kind, reason, __STACKTRACE__)
    after
      Process.delete(@key)
    end
  end

  defp stop(%Async{} = pending), do: Async.stop(pending)
  defp stop(subscription), do: Subscription.cancel(subscription)

  @doc "Subscriptions that the call has begun, or what it awaits."
  @spec begun([Native.subscription() | Async.t()]) :: :ok
  def begun(subscriptions) do
    {begun, ended} = Process.get(@key)
    Process.put(@key, {subscriptions ++ begun, ended})
    :ok
  end

  @doc "Subscriptions that are over when the call returns."
  @spec ended([Native.subscription() | Async.t()]) :: :ok
  def ended(subscriptions) do
    {begun, ended} = Process.get(@key)
    Process.put(@key, {begun, subscriptions ++ ended})
    :ok
  end
end
