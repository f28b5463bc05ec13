defmodule EctoFoundationDB.Layer.Order do
  @moduledoc false
  # Conditions and order, judged by values in memory; as keys are ordered: `nil` comes first.

  alias EctoFoundationDB.Layer.{Query, Record}
  alias EctoFoundationDB.Schema

  @doc "Whether a record's fields fulfil these conditions."
  @spec matches?(Schema.data(), Schema.t(), [{atom(), Query.constraint()}]) :: boolean()
  def matches?(data, schema, where) do
    Enum.all?(where, fn {field, constraint} ->
      value = Record.get(data, Schema.field_source(schema, field))

      case constraint do
        {:eq, expected} -> compare(value, expected) == :eq
        {:range, _, _} when is_nil(value) -> false
        {:range, low, high} -> above?(value, low) and below?(value, high)
      end
    end)
  end

  defp above?(_value, nil), do: true

  defp above?(value, {low, inclusive?}),
    do: compare(value, low) in if(inclusive?, do: [:gt, :eq], else: [:gt])

  defp below?(_value, nil), do: true

  defp below?(value, {high, inclusive?}),
    do: compare(value, high) in if(inclusive?, do: [:lt, :eq], else: [:lt])

  @doc "Records in an order of the schema's fields."
  @spec sort_records([Record.t()], Schema.t(), [{:asc | :desc, atom()}]) :: [Record.t()]
  def sort_records(records, _schema, []), do: records

  def sort_records(records, schema, order) do
    order = for {direction, field} <- order, do: {direction, Schema.field_source(schema, field)}
    sort_by(records, order, &Record.get(&1.data, &2))
  end

  @doc "Structs in an order."
  @spec sort_structs([struct()], [{:asc | :desc, atom()}]) :: [struct()]
  def sort_structs(structs, []), do: structs
  def sort_structs(structs, order), do: sort_by(structs, order, &Map.fetch!/2)

  defp sort_by(list, order, get), do: Enum.sort(list, &(order(&1, &2, order, get) != :gt))

  defp order(_a, _b, [], _get), do: :eq

  defp order(a, b, [{direction, field} | order], get) do
    case compare(get.(a, field), get.(b, field)) do
      :eq -> order(a, b, order, get)
      result when direction == :asc -> result
      :lt -> :gt
      :gt -> :lt
    end
  end

  defp compare(a, a), do: :eq
  defp compare(nil, _b), do: :lt
  defp compare(_a, nil), do: :gt

  defp compare(%module{} = a, %module{} = b) do
    if Code.ensure_loaded?(module) and function_exported?(module, :compare, 2),
      do: module.compare(a, b),
      else: compare(Map.from_struct(a), Map.from_struct(b))
  end

  defp compare(a, b) when a < b, do: :lt
  defp compare(a, b) when a > b, do: :gt
  defp compare(_a, _b), do: :eq
end
