defmodule EctoFoundationDB.Layer.Query do
  @moduledoc false
  # What is asked for: the records of a schema that fulfil conditions, in an order, up to a limit.
  # `Layer.Plan` says how to answer it, `Layer.Reader` does.

  alias EctoFoundationDB.{Indexer, Schema, Tenant}
  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.{EctoSelect, Values}
  alias EctoFoundationDB.Repo.Options

  @enforce_keys [:tenant, :schema, :source]
  defstruct [:tenant, :schema, :source, :limit, :key_limit, :select, where: [], order_by: []]

  @typedoc "`{value, inclusive?}`, or `nil` for no bound."
  @type bound :: {term(), boolean()} | nil
  @type constraint :: {:eq, term()} | {:range, bound(), bound()}
  @type t :: %__MODULE__{
          tenant: Tenant.t(),
          schema: module(),
          source: String.t(),
          where: [{atom(), constraint()}],
          order_by: [{:asc | :desc, atom()}],
          limit: nil | pos_integer(),
          key_limit: nil | pos_integer(),
          select: EctoSelect.t()
        }

  @doc "A query of a schema with the options `:where`, `:order_by`, `:limit` and `:key_limit`."
  @spec new(Tenant.t(), module(), keyword()) :: t()
  def new(tenant, schema, opts) do
    query = %__MODULE__{
      tenant: tenant,
      schema: schema,
      source: Schema.source(schema),
      where: where(schema, Keyword.get(opts, :where, [])),
      order_by: order_by(schema, Keyword.get(opts, :order_by, [])),
      limit: limit(:limit, opts[:limit]),
      key_limit: limit(:key_limit, opts[:key_limit]),
      select: opts[:select]
    }

    case for {field, {:range, _, _}} <- query.where, do: field do
      [_, _ | _] = fields ->
        raise Unsupported,
              "ranges on #{inspect(fields)}: a query can have one range. Read with one of them, " <>
                "and filter by the others"

      _ ->
        query
    end
  end

  @doc """
  Options of a query, and more of them: the conditions of both hold, and of the others those that are
  given later.
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

  defp where(schema, where) do
    where
    |> Enum.map(fn
      {field, value} when is_atom(field) ->
        {known!(schema, field), constraint(schema, field, value)}

      other ->
        raise ArgumentError, "where: expected {field, value} pairs, got: #{inspect(other)}"
    end)
    |> Enum.reduce([], fn {field, constraint}, acc ->
      case acc[field] do
        nil -> acc ++ [{field, constraint}]
        {:range, _, _} = one -> Keyword.put(acc, field, intersect(field, one, constraint))
        _ -> conflicting!(field)
      end
    end)
  end

  defp intersect(_field, {:range, low, nil}, {:range, nil, high}), do: {:range, low, high}
  defp intersect(_field, {:range, nil, high}, {:range, low, nil}), do: {:range, low, high}
  defp intersect(field, _, _), do: conflicting!(field)

  defp conflicting!(field),
    do: raise(Unsupported, "where: #{inspect(field)} is given more than once")

  @operators [:>, :>=, :<, :<=]

  defp constraint(schema, field, value) do
    case value do
      {:==, value} ->
        {:eq, dump(schema, field, value)}

      {:between, low, high} ->
        range(schema, field, {low, true}, {high, true})

      {operator, value} when operator in @operators ->
        one_sided(schema, field, operator, value)

      [{one, a}, {other, b}] when one in @operators and other in @operators ->
        intersect(field, one_sided(schema, field, one, a), one_sided(schema, field, other, b))

      [{operator, value}] when operator in @operators ->
        one_sided(schema, field, operator, value)

      %Range{step: 1} = range ->
        range(schema, field, {range.first, true}, {range.last, true})

      %Range{} = range ->
        raise ArgumentError,
              "where: #{inspect(field)} is compared with #{inspect(range)}; expected a range whose " <>
                "step is 1, `{:between, first, last}`, or `{:==, value}`"

      value ->
        {:eq, dump(schema, field, value)}
    end
  end

  defp one_sided(schema, field, :>, value), do: range(schema, field, {value, false}, nil)
  defp one_sided(schema, field, :>=, value), do: range(schema, field, {value, true}, nil)
  defp one_sided(schema, field, :<, value), do: range(schema, field, nil, {value, false})
  defp one_sided(schema, field, :<=, value), do: range(schema, field, nil, {value, true})

  defp range(schema, field, low, high) do
    type = Schema.type(schema, field)

    unless Indexer.Default.ordered?(type) or type == EctoFoundationDB.Versionstamp do
      raise Unsupported,
            "a range on #{inspect(field)} of type #{inspect(type)}: the keys of this type are not " <>
              "in the order of its values. Compare with equality, or index another field"
    end

    {:range, bound(schema, field, low), bound(schema, field, high)}
  end

  defp bound(_schema, _field, nil), do: nil

  defp bound(_schema, field, {nil, _}) do
    raise ArgumentError, "where: #{inspect(field)} is compared with nil; leave that bound out"
  end

  defp bound(schema, field, {value, inclusive?}), do: {dump(schema, field, value), inclusive?}

  defp dump(schema, field, value), do: Values.query_value(schema, :where, field, value)

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

  defp known!(schema, field) do
    if field in Schema.fields(schema) do
      field
    else
      raise ArgumentError,
            "#{inspect(schema)} has no field #{inspect(field)}; it has #{inspect(Schema.fields(schema))}"
    end
  end

  @doc "What the query selects of structs."
  @spec select(t(), [struct()]) :: [term()]
  def select(%__MODULE__{select: nil}, structs), do: structs
  def select(%__MODULE__{select: select}, structs), do: Enum.map(structs, select)

  @doc "Whether the number of records, or of keys read, is limited."
  @spec limited?(t()) :: boolean()
  def limited?(%__MODULE__{limit: limit, key_limit: key_limit}),
    do: limit != nil or key_limit != nil
end
