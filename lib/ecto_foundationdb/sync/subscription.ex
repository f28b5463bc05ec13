defmodule EctoFoundationDB.Sync.Subscription do
  @moduledoc false
  # The NIF's subscriptions, as Sync uses them.

  alias EctoFoundationDB.{DecodeError, LiveQuery, Native, Schema, Values}

  @typedoc """
  A live query's records by place, and why they are stale, or nil. At a place there is nil for what is
  no result, and `{:undecodable, struct_so_far, error}` for a record that cannot be decoded.
  """
  @type result :: {[place()], Exception.t() | nil}
  @type place :: struct() | nil | {:undecodable, struct() | nil, Exception.t()}

  @doc """
  Subscribes to lists of live queries, each beside the subscription it takes the place of or nil; one
  subscription for each, all read at one read version. `:replan` where one of the queries is a plan
  that holds no longer. Raises where the database refuses, or does not answer until the deadline
  (`timeout` ms after the beginning). Where it does not give subscriptions, nothing new is subscribed.
  """
  @spec subscribe(
          Native.database(),
          [{[Native.live_query()], Native.subscription() | nil}],
          {timeout(), deadline :: integer() | :infinity},
          String.t()
        ) :: [Native.subscription()] | :replan
  def subscribe(database, wanted, {timeout, deadline}, doing) do
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
      left(deadline) ->
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

  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(deadline - System.monotonic_time(:millisecond), 0)

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
  Takes what has changed into `before`, the results of each live query so far. Only records that have
  changed are decoded.
  """
  @spec take(Native.subscription(), [result()], LiveQuery.decoder()) :: [result()]
  def take(subscription, before, decoder) do
    update(Native.take(subscription), before, decoder)
  end

  @doc "What was taken got lost: the next time everything is taken again."
  @spec untake(Native.subscription()) :: :ok
  def untake(subscription), do: Native.untake(subscription)

  defp update([], [], _decoder), do: []

  defp update([taken | more], [{places, stale} | before], decoder) do
    result =
      case taken do
        :unchanged -> {places, stale}
        {:rows, items} -> items |> merge(places, 0, places, decoder) |> result()
        {:stale, error} -> {places, EctoFoundationDB.Error.exception(error)}
        :fresh -> result(places)
      end

    [result | update(more, before, decoder)]
  end

  defp result(places), do: {places, error(places)}

  defp error([{:undecodable, _struct, error} | _places]), do: error
  defp error([_place | places]), do: error(places)
  defp error([]), do: nil

  # Records that did not change stay the same terms, and so does the list from where on nothing changed.
  # A record that is no result, an index entry's that is out of date, keeps its place as nil.
  #
  # `rest` is what `before` has from the place `at` on. What is kept comes in order, but for records that
  # have changed places without being changed themselves: from the first of those on they are looked up.
  defp merge([], _rest, _at, _before, _decoder), do: []

  defp merge([{:keep, first, count} | items], rest, at, before, decoder) when first >= at,
    do: keep(items, Enum.drop(rest, first - at), count, first + count, before, decoder)

  defp merge([{:keep, _first, _count} | _] = items, _rest, _at, before, decoder),
    do: look_up(items, List.to_tuple(before), before, decoder)

  defp merge([rows | items], rest, at, before, decoder),
    do: [decode(rows, before, decoder) | merge(items, rest, at, before, decoder)]

  defp keep([], rest, count, _at, _before, _decoder) do
    if length(rest) == count, do: rest, else: Enum.take(rest, count)
  end

  defp keep(items, rest, 0, at, before, decoder), do: merge(items, rest, at, before, decoder)

  defp keep(items, [place | rest], count, at, before, decoder),
    do: [place | keep(items, rest, count - 1, at, before, decoder)]

  defp look_up([], _places, _before, _decoder), do: []

  defp look_up([{:keep, first, count} | items], places, before, decoder) do
    kept = for place <- first..(first + count - 1)//1, do: elem(places, place)
    kept ++ look_up(items, places, before, decoder)
  end

  defp look_up([rows | items], places, before, decoder),
    do: [decode(rows, before, decoder) | look_up(items, places, before, decoder)]

  defp decode(rows, before, decoder) do
    LiveQuery.decode(decoder, rows)
  rescue
    error in DecodeError -> {:undecodable, so_far(rows, before), error}
  else
    [record] -> record
    [] -> nil
  end

  # The struct that the process has of a record, found by its id, the last element of the key.
  defp so_far([{key, _value} | _], before) do
    id = key |> Native.unpack() |> Tuple.to_list() |> List.last()

    Enum.find(records({before, nil}), fn
      %schema{} = struct ->
        Values.stored(schema, Schema.primary_key(schema), Schema.id!(struct)) == id

      _fields ->
        false
    end)
  end

  @doc "A result's records. One that cannot be decoded is what it was before."
  @spec records(result()) :: [struct()]
  def records({places, _stale}), do: if(structs?(places), do: places, else: structs(places))

  defp structs?([place | places]) when is_map(place), do: structs?(places)
  defp structs?(places), do: places == []

  defp structs([]), do: []
  defp structs([nil | places]), do: structs(places)
  defp structs([{:undecodable, nil, _error} | places]), do: structs(places)
  defp structs([{:undecodable, struct, _error} | places]), do: [struct | structs(places)]
  defp structs([struct | places]), do: [struct | structs(places)]
end
