defmodule EctoFoundationDB.Repo.Query do
  @moduledoc false
  # Queries by options: `:where`, `:order_by`, `:limit` and `:key_limit`, on a schema's fields.

  alias EctoFoundationDB.{Schema, Tenant, Values}
  alias EctoFoundationDB.Layer.{Query, Source}
  alias EctoFoundationDB.Repo.Options

  @options [:where, :order_by, :limit, :key_limit]

  @doc "The options of a query."
  def options, do: @options

  @doc "The query of a schema with these options; ignores others."
  @spec new(Tenant.t(), Schema.t(), keyword()) :: Query.t()
  def new(tenant, schema, opts) do
    where = opts |> Keyword.get(:where, []) |> pairs() |> Enum.flat_map(&where(schema, &1))

    Query.new(tenant, Source.of(schema), where,
      order_by: order_by(schema, Keyword.get(opts, :order_by, [])),
      limit: limit(:limit, opts[:limit]),
      key_limit: limit(:key_limit, opts[:key_limit])
    )
  end

  @doc """
  Combines the options of a query with others: both conditions hold, and for the other options the later ones
  win.
  """
  @spec merge(keyword(), keyword()) :: keyword()
  def merge(options, more) do
    where = pairs(options[:where]) ++ pairs(more[:where])
    given = Keyword.reject(more, fn {_option, value} -> is_nil(value) end)
    options |> Keyword.merge(given) |> Keyword.put(:where, where)
  end

  defp pairs(nil), do: []
  defp pairs(where) when is_list(where) or is_map(where), do: Enum.to_list(where)

  defp pairs(other) do
    raise ArgumentError,
          "where: expected a keyword list or map of fields and values, got: #{inspect(other)}"
  end

  defp limit(_name, nil), do: nil
  defp limit(name, limit), do: Options.positive!(name, limit)

  @operators [:>, :>=, :<, :<=]

  defp where(schema, {field, value}) when is_atom(field) do
    known!(schema, field)

    case value do
      {:==, value} ->
        [equal(schema, field, value)]

      {:between, low, high} ->
        [range(schema, field, {low, true}, {high, true})]

      {operator, value} when operator in @operators ->
        [one_sided(schema, field, operator, value)]

      [{one, a}, {other, b}] when one in @operators and other in @operators ->
        [one_sided(schema, field, one, a), one_sided(schema, field, other, b)]

      [{operator, value}] when operator in @operators ->
        [one_sided(schema, field, operator, value)]

      %Range{step: 1} = range ->
        [range(schema, field, {range.first, true}, {range.last, true})]

      %Range{} = range ->
        raise ArgumentError,
              "where: #{inspect(field)} is compared with #{inspect(range)}; expected a range whose " <>
                "step is 1, `{:between, first, last}`, or `{:==, value}`"

      value ->
        [equal(schema, field, value)]
    end
  end

  defp where(_schema, other),
    do: raise(ArgumentError, "where: expected {field, value} pairs, got: #{inspect(other)}")

  defp equal(schema, field, value),
    do: {Schema.field_source(schema, field), {:eq, Values.stored(schema, field, value)}}

  defp one_sided(schema, field, :>, value), do: range(schema, field, {value, false}, nil)
  defp one_sided(schema, field, :>=, value), do: range(schema, field, {value, true}, nil)
  defp one_sided(schema, field, :<, value), do: range(schema, field, nil, {value, false})
  defp one_sided(schema, field, :<=, value), do: range(schema, field, nil, {value, true})

  defp range(schema, field, low, high) do
    range = {:range, bound(schema, field, low), bound(schema, field, high)}
    {Schema.field_source(schema, field), range}
  end

  defp bound(_schema, _field, nil), do: nil

  defp bound(_schema, field, {nil, _}) do
    raise ArgumentError, "where: #{inspect(field)} is compared with nil; leave that bound out"
  end

  defp bound(schema, field, {value, inclusive?}),
    do: {Values.stored(schema, field, value), inclusive?}

  defp order_by(schema, order_by) do
    order_by
    |> List.wrap()
    |> Enum.map(fn
      {direction, field} when direction in [:asc, :desc] and is_atom(field) ->
        {direction, known!(schema, field)}

      field when is_atom(field) ->
        {:asc, known!(schema, field)}

      other ->
        raise ArgumentError,
              "order_by: expected fields, or `asc: field` and `desc: field`, got: #{inspect(other)}"
    end)
  end

  # The field's stored name.
  defp known!(schema, field) do
    if field in Schema.fields(schema) do
      Schema.field_source(schema, field)
    else
      raise ArgumentError,
            "#{inspect(schema)} has no field #{inspect(field)}; it has #{inspect(Schema.fields(schema))}"
    end
  end
end
