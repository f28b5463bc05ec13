defmodule EctoFoundationDB.Layer.Order do
  @moduledoc false
  # Conditions and order, evaluated on values in memory, in the order of keys: `nil` comes first.

  alias EctoFoundationDB.Layer.{Query, Record}

  @doc "Whether a record's fields fulfil these conditions."
  @spec matches?(EctoFoundationDB.Schema.data(), [{atom(), Query.constraint()}]) :: boolean()
  def matches?(data, where),
    do:
      Enum.all?(where, fn {name, constraint} -> fulfils?(Record.get(data, name), constraint) end)

  @doc "Whether a value fulfils a condition."
  @spec fulfils?(term(), Query.constraint()) :: boolean()
  def fulfils?(value, {:eq, expected}), do: compare(value, expected) == :eq
  def fulfils?(nil, {:range, _, _}), do: false
  def fulfils?(value, {:range, low, high}), do: above?(value, low) and below?(value, high)

  defp above?(_value, nil), do: true

  defp above?(value, {low, inclusive?}),
    do: compare(value, low) in if(inclusive?, do: [:gt, :eq], else: [:gt])

  defp below?(_value, nil), do: true

  defp below?(value, {high, inclusive?}),
    do: compare(value, high) in if(inclusive?, do: [:lt, :eq], else: [:lt])

  @doc "Sorts by several values of each element: `get` receives an element and a field of the order."
  @spec sort([element], [{:asc | :desc, name}], (element, name -> term())) :: [element]
        when element: term(), name: term()
  def sort(list, [], _get), do: list
  def sort(list, order, get), do: Enum.sort(list, &(order(&1, &2, order, get) != :gt))

  @doc "Sorts records by fields."
  @spec sort_records([Record.t()], [{:asc | :desc, atom()}]) :: [Record.t()]
  def sort_records(records, order), do: sort(records, order, &Record.get(&1.data, &2))

  defp order(_a, _b, [], _get), do: :eq

  defp order(a, b, [{direction, name} | order], get) do
    case compare(get.(a, name), get.(b, name)) do
      :eq -> order(a, b, order, get)
      result when direction == :asc -> result
      :lt -> :gt
      :gt -> :lt
    end
  end

  @doc "How two values compare; numbers by their value, structs as their modules say."
  @spec compare(term(), term()) :: :lt | :eq | :gt
  def compare(a, a), do: :eq
  def compare(nil, _b), do: :lt
  def compare(_a, nil), do: :gt

  def compare(%module{} = a, %module{} = b) do
    if Code.ensure_loaded?(module) and function_exported?(module, :compare, 2),
      do: module.compare(a, b),
      else: compare(Map.from_struct(a), Map.from_struct(b))
  end

  def compare(a, b) when a < b, do: :lt
  def compare(a, b) when a > b, do: :gt
  def compare(_a, _b), do: :eq
end
