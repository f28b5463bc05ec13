defmodule EctoFoundationDB.Sync.Stream.Rows do
  @moduledoc false
  # What a page knows of the rows of its stream: how many it shows, and which of the rows that the NIF has for
  # it are exceptions. From this and what the NIF tells of a change it finds what to do, and where.

  alias EctoFoundationDB.{DecodeError, LiveQuery, Native, Values}
  alias EctoFoundationDB.Layer.{Order, Query}
  alias EctoFoundationDB.Sync.Stream.Changes

  # exceptions: place among the NIF's rows => what is special about it:
  #   :none            no result: an index entry that is out of date has led there
  #   {:hidden, error} can't be decoded
  #   {:shown, error}  can't be decoded, and is shown as it was before
  defstruct count: 0, exceptions: %{}

  @type t :: %__MODULE__{
          count: non_neg_integer(),
          exceptions: %{
            non_neg_integer() => :none | {:hidden, Exception.t()} | {:shown, Exception.t()}
          }
        }

  @doc """
  All rows, of a stream that begins with them. They come so again and again where they may be out of their order and
  more than the limit.
  """
  @spec all([[Native.row()]], LiveQuery.decoder(), Query.t(), pos_integer() | nil) ::
          {t(), Changes.t()}
  def all(items, decoder, query, limit) do
    {records, {_place, exceptions}} =
      Enum.flat_map_reduce(items, {0, %{}}, fn item, {place, exceptions} ->
        case decode(decoder, item) do
          {:ok, record} -> {[record], {place + 1, exceptions}}
          exception -> {[], {place + 1, Map.put(exceptions, place, hidden(exception))}}
        end
      end)

    records = Order.sort(records, query.order_by, field(query))
    records = if limit, do: Enum.take(records, limit), else: records
    placed = for {record, place} <- Enum.with_index(records), do: {:insert, place, record}
    rows = %__MODULE__{count: length(records), exceptions: exceptions}
    {rows, %Changes{reset?: true, placed: placed}}
  end

  defp field(%Query{select: nil, source: source}), do: Values.getter(source)
  defp field(_query), do: &Map.get/2

  @doc "A change of these rows. `:unknown` where it can't be told: then all rows must be taken."
  @spec change(t(), [term()], [term()], LiveQuery.decoder()) :: {t(), Changes.t()} | :unknown
  def change(%__MODULE__{exceptions: before}, removed, items, decoder) do
    deleted = Enum.flat_map(removed, fn {old, item} -> delete(before[old], decoder, item) end)
    walk = {0, %__MODULE__{}, deleted, []}
    {_place, rows, deleted, placed} = Enum.reduce(items, walk, &walk(&1, &2, before, decoder))
    {rows, %Changes{deleted: deleted, placed: Enum.reverse(placed)}}
  catch
    :unknown -> :unknown
  end

  defp walk({:keep, _first, count}, {place, rows, deleted, placed}, before, _decoder)
       when before == %{},
       do: {place + count, %{rows | count: rows.count + count}, deleted, placed}

  defp walk({:keep, first, count}, {place, rows, deleted, placed}, before, _decoder) do
    kept =
      for {old, exception} <- before,
          old in first..(first + count - 1)//1,
          into: %{},
          do: {place + old - first, exception}

    hidden = Enum.count(kept, fn {_place, exception} -> not shown?(exception) end)
    exceptions = Map.merge(rows.exceptions, kept)
    rows = %{rows | count: rows.count + count - hidden, exceptions: exceptions}
    {place + count, rows, deleted, placed}
  end

  defp walk({:insert, item}, walk, _before, decoder),
    do: put(walk, decode(decoder, item), :insert, false, decoder, item)

  defp walk({how, old, item}, walk, before, decoder),
    do: put(walk, decode(decoder, item), how, shown?(before[old]), decoder, item)

  # A record of which is known whether it is shown.
  defp put({place, rows, deleted, placed}, {:ok, record}, how, shown?, _decoder, _item) do
    how = if shown?, do: how, else: :insert
    {place + 1, %{rows | count: rows.count + 1}, deleted, [{how, rows.count, record} | placed]}
  end

  defp put({place, rows, deleted, placed}, :none, _how, true, decoder, item),
    do: {place + 1, except(rows, place, :none), delete(nil, decoder, item) ++ deleted, placed}

  defp put({place, rows, deleted, placed}, {:undecodable, error}, :update, true, _decoder, _item),
    do:
      {place + 1, %{except(rows, place, {:shown, error}) | count: rows.count + 1}, deleted,
       placed}

  # It would have to be moved, and its id is not known.
  defp put(_walk, {:undecodable, _error}, :move, true, _decoder, _item), do: throw(:unknown)

  defp put({place, rows, deleted, placed}, exception, _how, false, _decoder, _item),
    do: {place + 1, except(rows, place, hidden(exception)), deleted, placed}

  # What was shown of a row that is gone.
  defp delete(nil, {loader, source, _conditions}, item) do
    case decode({loader, source, []}, item) do
      {:ok, record} -> [record]
      _exception -> throw(:unknown)
    end
  end

  defp delete({:shown, _error}, _decoder, _item), do: throw(:unknown)
  defp delete(_not_shown, _decoder, _item), do: []

  defp shown?(nil), do: true
  defp shown?({:shown, _error}), do: true
  defp shown?(_not_shown), do: false

  defp hidden(:none), do: :none
  defp hidden({:undecodable, error}), do: {:hidden, error}

  defp except(rows, place, exception),
    do: %{rows | exceptions: Map.put(rows.exceptions, place, exception)}

  defp decode(decoder, item) do
    case LiveQuery.decode(decoder, item) do
      [record] -> {:ok, record}
      [] -> :none
    end
  rescue
    error in DecodeError -> {:undecodable, error}
  end

  @doc "What a query gives of changes of its records, from the bottom up where they are shown so."
  @spec arrange(Changes.t(), t(), Query.t(), at :: -1 | 0) :: Changes.t()
  def arrange(%Changes{} = changes, rows, query, at) do
    changes |> select(query) |> turn(rows, at)
  end

  defp select(changes, %Query{select: nil}), do: changes

  defp select(changes, query) do
    query = %{query | order_by: [], limit: nil}
    select = fn data -> query |> LiveQuery.arrange([data]) |> hd() end

    %{
      changes
      | deleted: Enum.map(changes.deleted, select),
        placed: for({how, place, data} <- changes.placed, do: {how, place, select.(data)})
    }
  end

  defp turn(changes, _rows, -1), do: changes

  defp turn(changes, %__MODULE__{count: count}, 0) do
    placed =
      Enum.reduce(changes.placed, [], fn {how, place, record}, placed ->
        [{how, count - 1 - place, record} | placed]
      end)

    %{changes | placed: placed}
  end

  @doc "Why one of the rows can't be shown as it is, or nil."
  @spec undecodable(t()) :: Exception.t() | nil
  def undecodable(%__MODULE__{exceptions: exceptions}) when exceptions == %{}, do: nil

  def undecodable(%__MODULE__{exceptions: exceptions}) do
    exceptions
    |> Enum.sort()
    |> Enum.find_value(fn {_place, exception} ->
      with {_shown, error} <- exception, do: error, else: (_none -> nil)
    end)
  end
end
