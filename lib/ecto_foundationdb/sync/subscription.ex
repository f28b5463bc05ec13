defmodule EctoFoundationDB.Sync.Subscription do
  @moduledoc false
  # The NIF's subscriptions, as Sync uses them.

  alias EctoFoundationDB.Native

  @typedoc "A live query's records by place, nil for none, and why they are stale, or nil."
  @type result :: {[struct() | nil], Exception.t() | nil}

  @doc """
  Subscribes to lists of live queries, each beside the subscription it takes the place of or nil; one
  subscription for each, all read at one read version. `:replan` where one of the queries is a plan
  that holds no longer. Raises where the database refuses, or does not answer within `timeout` ms.
  Where it does not give subscriptions, nothing new is subscribed.
  """
  @spec subscribe(
          Native.database(),
          [{[Native.live_query()], Native.subscription() | nil}],
          timeout(),
          String.t()
        ) :: [Native.subscription()] | :replan
  def subscribe(database, wanted, timeout, doing) do
    ref = make_ref()
    subscriptions = Native.subscribe(database, ref, wanted)

    receive do
      {^ref, :ok} ->
        subscriptions

      {^ref, :replan} ->
        :replan

      {^ref, {:error, error}} ->
        raise EctoFoundationDB.Error, error
    after
      timeout ->
        Enum.each(subscriptions, &cancel/1)

        # The answer may have come between the timeout and the cancelling.
        receive do
          {^ref, _answer} -> :ok
        after
          0 -> :ok
        end

        raise EctoFoundationDB.TimeoutError, timeout: timeout, doing: doing
    end
  end

  @doc "Ends a subscription exactly: none of its messages is in the mailbox, and none will be."
  @spec cancel(Native.subscription()) :: :ok
  def cancel(subscription) do
    :ok = Native.unsubscribe(subscription)

    receive do
      {^subscription, :ready} -> :ok
    after
      0 -> :ok
    end
  end

  @doc """
  Takes what has changed into `before`, the results of each live query so far. `decode` makes a
  record's struct from its rows; it is called for changed records only.
  """
  @spec take(Native.subscription(), [result()], ([Native.row()] -> [struct()])) :: [result()]
  def take(subscription, before, decode) do
    update(Native.take(subscription), before, decode)
  end

  defp update([], [], _decode), do: []

  defp update([taken | more], [{records, stale} | before], decode) do
    result =
      case taken do
        :unchanged -> {records, stale}
        {:rows, items} -> {merge(items, List.to_tuple(records), decode), nil}
        {:stale, error} -> {records, EctoFoundationDB.Error.exception(error)}
        :fresh -> {records, nil}
      end

    [result | update(more, before, decode)]
  end

  # Records that did not change stay the same terms. A record that is no result, an index entry's
  # that is out of date, keeps its place as nil.
  defp merge([], _before, _decode), do: []

  defp merge([{:keep, first, count} | items], before, decode) do
    keep(before, first, first + count, merge(items, before, decode))
  end

  defp merge([rows | items], before, decode) do
    record =
      case decode.(rows) do
        [record] -> record
        [] -> nil
      end

    [record | merge(items, before, decode)]
  end

  defp keep(_before, first, first, tail), do: tail

  defp keep(before, first, last, tail) do
    keep(before, first, last - 1, [elem(before, last - 1) | tail])
  end
end
