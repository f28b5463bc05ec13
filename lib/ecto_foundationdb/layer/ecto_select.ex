defmodule EctoFoundationDB.Layer.EctoSelect do
  @moduledoc false
  # What an `Ecto.Query` selects of a record: a function of its struct. A record is always read as a
  # whole, so what can be selected is what can be made of one: fields, and tuples, lists and maps of
  # them. As in `EctoQuery`, only the query's fields are looked at.

  @typedoc "From a struct to what is selected; nil where that is the struct."
  @type t :: (struct() -> term()) | nil

  @doc "The function of a query's `select`; `:error` where it asks for something else."
  @spec function(term()) :: {:ok, t()} | :error
  def function(nil), do: {:ok, nil}
  def function(%{expr: {:&, _, [0]}, take: take}) when take == %{}, do: {:ok, nil}

  def function(select) do
    {:ok, compile(select.expr, select)}
  catch
    :unsupported -> :error
  end

  defp compile({{:., _, [{:&, _, [0]}, field]}, _, []}, _select), do: &Map.fetch!(&1, field)

  defp compile({:&, _, [0]}, select) do
    case select.take do
      %{0 => {kind, fields}} -> taken(kind, fields)
      _whole -> &Function.identity/1
    end
  end

  defp compile({:{}, _, elements}, select) do
    list = compile(elements, select)
    &List.to_tuple(list.(&1))
  end

  defp compile(elements, select) when is_list(elements) do
    functions = Enum.map(elements, &compile(&1, select))
    &for(function <- functions, do: function.(&1))
  end

  defp compile({:%{}, _, [{key, _value} | _] = pairs}, select) when key != :| do
    {keys, values} = Enum.unzip(pairs)
    {keys, values} = {compile(keys, select), compile(values, select)}
    &Map.new(Enum.zip(keys.(&1), values.(&1)))
  end

  defp compile({:^, _, [index]}, select) do
    {value, _type} = Enum.at(select.params, index)
    fn _struct -> value end
  end

  defp compile(literal, _select)
       when is_binary(literal) or is_number(literal) or is_atom(literal),
       do: fn _struct -> literal end

  defp compile(_expr, _select), do: throw(:unsupported)

  # `select: [:id]`, `struct(u, [:id])` and `map(u, [:id])`.
  defp taken(kind, fields) do
    cond do
      not Enum.all?(fields, &is_atom/1) -> throw(:unsupported)
      kind == :map -> &Map.take(&1, fields)
      # The other fields are those of a new struct.
      true -> fn %schema{} = struct -> struct(schema, Map.take(struct, [:__meta__ | fields])) end
    end
  end
end
