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
    Enum.zip_with(Native.take(subscription), before, fn
      :unchanged, result -> result
      {:rows, items}, {records, _stale} -> {merge(items, records, decode), nil}
      {:stale, error}, {records, _stale} -> {records, EctoFoundationDB.Error.exception(error)}
      :fresh, {records, _stale} -> {records, nil}
    end)
  end

  # Records that did not change stay the same terms. A record that is no result, an index entry's
  # that is out of date, keeps its place as nil.
  defp merge(items, records, decode) do
    records = List.to_tuple(records)

    Enum.flat_map(items, fn
      {:keep, first, count} ->
        for place <- first..(first + count - 1)//1, do: elem(records, place)

      rows ->
        case decode.(rows) do
          [record] -> [record]
          [] -> [nil]
        end
    end)
  end
end
