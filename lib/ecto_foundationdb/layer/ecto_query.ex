defmodule EctoFoundationDB.Layer.EctoQuery do
  @moduledoc false
  # What an `Ecto.Query` asks for, in this library's options. Only its fields are looked at: Ecto
  # need not be there.

  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.EctoSelect
  alias EctoFoundationDB.Schema

  @doc "`{schema, options, prefix}` of a schema or a query."
  def split(schema) when is_atom(schema) and not is_nil(schema), do: {schema, [], nil}

  def split(%{__struct__: Ecto.Query} = query) do
    schema =
      with %{source: {source, schema}} when is_atom(schema) and not is_nil(schema) <- query.from,
           ^source <- Schema.source(schema) do
        schema
      else
        source when is_binary(source) -> unsupported("another source than the schema's", query)
        _ -> unsupported("a query of something else than a schema", query)
      end

    for {name, what} <- [
          joins: "join",
          group_bys: "group_by",
          havings: "having",
          distinct: "distinct",
          offset: "offset",
          combinations: "union",
          preloads: "preload",
          lock: "lock",
          windows: "windows",
          with_ctes: "with_cte",
          updates: "update"
        ],
        Map.get(query, name) not in [nil, []] do
      unsupported(what, query)
    end

    select =
      case EctoSelect.function(query.select) do
        {:ok, select} -> select
        :error -> unsupported("a select of more than fields", query)
      end

    options = [
      select: select,
      where: Enum.flat_map(query.wheres, &where(&1, query)),
      order_by: Enum.flat_map(query.order_bys, &order_by(&1, query)),
      limit: query.limit && value(query.limit.expr, query.limit, query)
    ]

    {schema, options, query.prefix || Map.get(query.from, :prefix)}
  end

  def split(other) do
    raise ArgumentError, "expected a schema or a query of one, got: #{inspect(other)}"
  end

  defp where(%{op: :and, expr: expr} = where, query), do: conditions(expr, where, query)
  defp where(_where, query), do: unsupported("or_where", query)

  defp conditions(true, _where, _query), do: []

  defp conditions({:and, _, [left, right]}, where, query),
    do: conditions(left, where, query) ++ conditions(right, where, query)

  defp conditions({operator, _, [field, value]}, where, query)
       when operator in [:==, :>, :>=, :<, :<=] do
    [{field(field, query), {operator, value(value, where, query)}}]
  end

  defp conditions({:is_nil, _, [field]}, _where, query), do: [{field(field, query), {:==, nil}}]
  defp conditions(_expr, _where, query), do: unsupported("this condition", query)

  defp order_by(%{expr: exprs}, query) do
    for {direction, field} <- exprs do
      unless direction in [:asc, :desc], do: unsupported("order_by #{direction}", query)
      {direction, field(field, query)}
    end
  end

  defp field({{:., _, [{:&, _, [0]}, field]}, _, []}, _query), do: field
  defp field(_expr, query), do: unsupported("something else than a field of the schema", query)

  defp value({:^, _, [index]}, %{params: params}, _query), do: params |> Enum.at(index) |> elem(0)
  defp value({:type, _, [expr, _type]}, holder, query), do: value(expr, holder, query)
  defp value(%{__struct__: Ecto.Query.Tagged, value: value}, _holder, _query), do: value

  defp value(literal, _holder, _query)
       when is_binary(literal) or is_number(literal) or is_atom(literal),
       do: literal

  defp value(_expr, _holder, query), do: unsupported("this value", query)

  defp unsupported(what, query) do
    raise Unsupported,
          "#{what}: a query is answered by one get or one range, with equalities and one range on " <>
            "the primary key or an index, order_by and limit; filter and join in Elixir: " <>
            inspect(query)
  end
end
