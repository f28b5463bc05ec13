defmodule EctoFoundationDB.Sync.Subscription do
  @moduledoc false
  # The NIF's subscriptions, as Sync uses them.

  alias EctoFoundationDB.{DecodeError, Evaluation, LiveQuery, Native, Schema, Tenant, Values}
  alias EctoFoundationDB.Exception.TenantGone

  @typedoc """
  A live query's records by place, and why they are stale, or nil: what the NIF has told, or a record
  that cannot be decoded. At a place there is nil for what is no result, and `{:undecodable,
  struct_so_far, error}` for a record that cannot be decoded. A function has a value in the place of records.
  """
  @type result :: {[place()] | {:value, term()}, stale()}
  @type stale :: nil | {:told, Native.error()} | {:undecodable, Exception.t()}
  @type place :: struct() | nil | {:undecodable, struct() | nil, Exception.t()}

  @doc """
  Subscribes to lists of live queries, each beside the subscription it takes the place of or nil; one
  subscription for each, all read at one read version. `:replan` where one of the queries is a plan
  that holds no longer. Raises where the database refuses, or does not answer until the deadline
  (`timeout` ms after the beginning). Where it does not give subscriptions, nothing new is subscribed.
  """
  @spec subscribe(
          Native.database(),
          [{Native.basis(), [Native.live_query()], Native.subscription() | nil}],
          {timeout(), deadline :: integer() | :infinity},
          Tenant.t(),
          String.t()
        ) :: [Native.subscription()] | :replan
  def subscribe(database, wanted, {timeout, deadline}, tenant, doing) do
    ref = make_ref()
    subscriptions = Native.subscribe(database, ref, wanted)

    receive do
      {^ref, :ok} ->
        subscriptions

      {^ref, :replan} ->
        :replan

      {^ref, {:error, error}} ->
        refuse(error, tenant)
    after
      left(deadline) ->
        Enum.each(subscriptions, &cancel/1)

        # The answer may have come between the timeout and the cancelling.
        receive do
          {^ref, _answer} -> :ok
        after
          0 -> :ok
        end

        raise EctoFoundationDB.TimeoutError, timeout: timeout, doing: doing, database: database
    end
  end

  # What a function raised is raised here, with the function's own stacktrace.
  defp refuse({:raised, raised, _message}, _tenant) do
    {kind, reason, stack} = Evaluation.decode(raised)
    :erlang.raise(kind, reason, stack)
  end

  defp refuse(error, tenant), do: raise(exception({:told, error}, tenant))

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
  Takes what has changed into `before`, the results of each live query so far; gives the results, and the
  places of those that may have changed. Only records that have changed are decoded.
  """
  @spec take(Native.subscription(), tuple(), LiveQuery.decoder()) ::
          {results :: tuple(), news :: [non_neg_integer()]}
  def take(subscription, before, decoder) do
    case Native.take(subscription) do
      {:news, news} -> put_news(news, before, [], decoder)
      {:first, taken} -> {taken |> first(before, 0, decoder) |> List.to_tuple(), all(before)}
    end
  end

  defp all(before), do: Enum.to_list(0..(tuple_size(before) - 1)//1)

  defp first([], _before, _place, _decoder), do: []

  defp first([taken | more], before, place, decoder),
    do: [result(taken, elem(before, place), decoder) | first(more, before, place + 1, decoder)]

  defp put_news([], results, places, _decoder), do: {results, places}

  defp put_news([{place, taken} | news], results, places, decoder) do
    results = put_elem(results, place, result(taken, elem(results, place), decoder))
    put_news(news, results, [place | places], decoder)
  end

  @doc "What was taken got lost: the next time everything is taken again."
  @spec untake(Native.subscription()) :: :ok
  def untake(subscription), do: Native.untake(subscription)

  defp result(:unchanged, before, _decoder), do: before

  defp result({:rows, items}, {places, stale}, decoder),
    do: items |> merge(places, 0, places, decoder) |> judge(stale)

  defp result({:value, _} = value, {_before, stale}, _decoder), do: {value, stale}

  defp result({:stale, error}, {places, _stale}, _decoder),
    do: {places, {:told, error}}

  defp result(:fresh, {places, _stale}, _decoder), do: judge(places, nil)

  @doc "Why records of this tenant are stale, as an exception, or nil. Forgets a tenant that is gone."
  @spec exception(stale(), Tenant.t()) :: Exception.t() | nil
  def exception(nil, _tenant), do: nil
  def exception({:undecodable, error}, _tenant), do: error

  def exception({:told, {:tenant_gone, _name}}, tenant) do
    # The next one that opens it looks for it.
    Tenant.forget(tenant)
    TenantGone.exception(tenant: tenant)
  end

  def exception({:told, {:raised, raised, _message}}, _tenant), do: Evaluation.exception(raised)
  def exception({:told, error}, _tenant), do: EctoFoundationDB.Error.exception(error)

  # What the NIF has told holds until it tells otherwise.
  defp judge({:value, _} = value, _stale), do: {value, nil}
  defp judge(places, {:told, _error} = stale), do: {places, stale}
  defp judge(places, _stale), do: {places, undecodable(places)}

  defp undecodable([{:undecodable, _struct, error} | _places]), do: {:undecodable, error}
  defp undecodable([_place | places]), do: undecodable(places)
  defp undecodable([]), do: nil

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
    error in DecodeError -> {:undecodable, so_far(id(rows, error), before), error}
  else
    [record] -> record
    [] -> nil
  end

  # A record's id as it is stored. What came decoded has a value that its field's type does not load.
  defp id([{:data, _fields} | _], %DecodeError{id: id}), do: id

  defp id([{key, _value} | _], _error),
    do: key |> Native.unpack() |> Tuple.to_list() |> List.last()

  # The struct that the process has of a record.
  defp so_far(id, before) do
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
