defmodule EctoFoundationDB.Queryable do
  @moduledoc false
  # What the functions of either kind of Repo read: the records of a schema by options, or an `Ecto.Query`. It
  # becomes a query of the layer, whose `select` makes results of its records: nil for structs of the schema,
  # else `{module, term}`, whose `results/2` receives the records' fields.

  alias EctoFoundationDB.{Schema, Tenant, Values}
  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.{Order, Record}
  alias EctoFoundationDB.Layer.Query, as: LayerQuery
  alias EctoFoundationDB.Repo.Query

  @type t :: Schema.t() | Ecto.Query.t()

  @options [:where, :order_by, :limit]

  @doc "The schema of a queryable."
  @spec schema!(t()) :: Schema.t()
  def schema!(%{__struct__: Ecto.Query} = query), do: ecto!().schema!(query)

  def schema!(schema) when is_atom(schema) and not is_nil(schema) do
    # Raises if it is not a schema.
    Schema.source(schema)
    schema
  end

  def schema!(other),
    do: raise(ArgumentError, "expected a schema or a query of one, got: #{inspect(other)}")

  @doc """
  The layer's query of a queryable, restricted to records with the values `by`, with the options `:where`,
  `:order_by` and `:limit`.
  """
  @spec query(Tenant.t(), t(), keyword(), keyword()) :: LayerQuery.t()
  def query(tenant, queryable, by \\ [], opts \\ [])

  def query(tenant, %{__struct__: Ecto.Query} = ecto_query, by, opts) do
    unless ecto_query.prefix in [nil, tenant] do
      raise Unsupported,
            "the query has the prefix #{inspect(ecto_query.prefix)}, and the state's tenant is #{inspect(tenant)}: " <>
              "synced data are read from the state's tenant. Leave the prefix out"
    end

    query = ecto!().layer_query(tenant, ecto_query)
    more = query(tenant, query.source.schema, by, opts)

    LayerQuery.new(tenant, query.source, query.where ++ more.where,
      order_by: if(more.order_by == [], do: query.order_by, else: more.order_by),
      limit: Enum.min(for(limit <- [query.limit, more.limit], limit, do: limit), fn -> nil end),
      select: query.select
    )
  end

  def query(tenant, schema, by, opts) do
    schema!(schema)

    with [_ | _] = unknown <- Keyword.keys(opts) -- @options do
      raise ArgumentError,
            "unknown options of a list: #{inspect(unknown)}, known are: #{inspect(@options)}"
    end

    by = for {field, value} <- by, do: {field, {:==, value}}
    Query.new(tenant, schema, Query.merge(opts, where: by))
  end

  defp ecto! do
    if Code.ensure_loaded?(Ecto.Adapters.FoundationDB.Live),
      do: Ecto.Adapters.FoundationDB.Live,
      else:
        raise(
          Unsupported,
          "an Ecto.Query is not supported: this library was compiled without Ecto"
        )
  end

  @doc "A query's results, made from its records."
  @spec results(LayerQuery.t(), [Record.t()]) :: [term()]
  def results(%{select: nil} = query, records),
    do: Values.load_all(Values.loader(query.source.schema, query.tenant), records)

  def results(%{select: {module, select}}, records),
    do: module.results(select, for(record <- records, do: record.data))

  @doc "A query's results, made from structs, or from fields if it selects some: in its order, up to its limit."
  @spec arrange(LayerQuery.t(), [struct() | map()]) :: [term()]
  def arrange(%{select: nil} = query, structs) do
    field = Values.getter(query.source)
    structs |> Order.sort(query.order_by, field) |> take(query.limit)
  end

  def arrange(%{select: {module, select}} = query, data) do
    data = data |> Order.sort(query.order_by, &Map.get/2) |> take(query.limit)
    module.results(select, data)
  end

  defp take(list, nil), do: list
  defp take(list, limit), do: Enum.take(list, limit)
end
