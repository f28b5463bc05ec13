defmodule EctoFoundationDB.LiveQuery do
  @moduledoc false
  # Between the layer and the NIF's live queries: what to read and watch for a record or a list, and
  # how what was read becomes structs.
  #
  # A list is watched by a counter of `EctoFoundationDB.Indexer.SchemaMetadata`. Which range answers
  # it depends on the tenant's indexes, so its live query is a plan, which the NIF asks for anew
  # (`replan/1`) when indexes have changed.

  alias EctoFoundationDB.{Indexer, Native, Schema, Tenant, Transaction}
  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.{EctoQuery, Keys, Metadata, Order, Plan, Query, Record, Values}

  @doc "The live query of one record."
  @spec record(Tenant.t(), Schema.t(), term()) :: Native.live_query()
  def record(tenant, schema, id) do
    unless Schema.write_primary?(schema) do
      raise Unsupported,
            "#{inspect(schema)} has `write_primary: false`: there is no record to watch"
    end

    stored = Values.query_value(schema, :sync, Schema.primary_key(schema), id)
    {first, last} = Keys.record_range(tenant, Schema.source(schema), stored)
    {:records, first, last, first, {0, false}}
  end

  @typedoc "How a record's rows become its struct."
  @opaque decoder :: {Values.loader(), conditions :: keyword()}

  @doc """
  What `decode/2` needs for records of a schema, made once for some of them. No function: those are
  counted by the VM, which thousands of pages at once wait for.
  """
  @spec decoder(Tenant.t(), Schema.t()) :: decoder()
  def decoder(tenant, schema), do: {Values.loader(schema, tenant), []}

  @doc "What `decode/2` needs for a list's records."
  @spec decoder(Query.t()) :: decoder()
  def decoder(%Query{tenant: tenant, schema: schema, where: where}),
    do: {Values.loader(schema, tenant), where}

  @doc """
  A record's struct, in a list. A record that does not fulfil the query's conditions, which an index
  entry that is out of date has led to, is no result: `[]`.
  """
  @spec decode(decoder(), [Native.row()]) :: [struct()]
  def decode({loader, []}, [{:data, data}]), do: [Values.load(loader, data)]

  def decode({loader, where}, [{:data, data}]) do
    if Order.matches?(Map.to_list(data), Values.schema(loader), where),
      do: [Values.load(loader, data)],
      else: []
  end

  def decode({loader, where}, rows) do
    schema = Values.schema(loader)

    for record <- Record.decode(rows, schema),
        Order.matches?(record.data, schema, where),
        do: Values.load(loader, record.data)
  end

  @options [:where, :order_by, :limit]

  @doc """
  The query of a list: of all records of a schema, or of those with these values (`by`), with the
  options `:where`, `:order_by` and `:limit`.
  """
  @spec query(Tenant.t(), EctoFoundationDB.Repo.queryable(), keyword(), keyword()) :: Query.t()
  def query(tenant, queryable, by \\ [], opts \\ []) do
    {schema, from_query, prefix} = EctoQuery.split(queryable)

    with [_ | _] = unknown <- Keyword.keys(opts) -- @options do
      raise ArgumentError,
            "a list's options: unknown options #{inspect(unknown)}, known are: #{inspect(@options)}"
    end

    unless prefix in [nil, tenant] do
      raise Unsupported,
            "the query has the prefix #{inspect(prefix)}, and the state's tenant is #{inspect(tenant)}: " <>
              "what is synced is read from the state's tenant. Leave the prefix out"
    end

    Query.new(tenant, schema, from_query |> Query.merge(opts) |> Query.merge(where: by))
  end

  @doc """
  The live query of a list, watched by the counter `signal` of the records with the values `by`.
  What is known of the tenant's indexes serves as a guess, which the NIF checks as it reads: where it
  answers `:replan`, `forget/1` and ask again.
  """
  @spec all(Query.t(), keyword(), Indexer.SchemaMetadata.signal()) :: Native.live_query()
  def all(%Query{} = query, by, signal) do
    # What is selected is each page's own: lists that differ in nothing else are shared.
    query = %{query | select: nil}
    {read, version} = guess(query, by, signal) || plan(query, by, signal)
    {:planned, read, {:list, query, by, signal}, version}
  end

  @doc "Forgets the indexes that a plan was made with, unless others have been learnt since."
  @spec forget(Native.live_query()) :: :ok
  def forget({:planned, _read, {:list, query, _by, _signal}, version}) do
    with {^version, _metadata} = cached <- Metadata.cached(query.tenant, query.source),
         do: Metadata.forget(query.tenant, query.source, cached),
         else: (_learnt_since -> :ok)
  end

  def forget(_record), do: :ok

  @doc "A plan made anew: `Native.replanned/3`'s answer and metadata version."
  @spec replan(term()) ::
          {{:ok, Native.live_query()} | {:error, String.t()}, Native.metadata_version()}
  def replan({:list, query, by, signal} = asked_for) do
    {read, version} = plan(query, by, signal)
    {{:ok, {:planned, read, asked_for, version}}, version}
  rescue
    error in [Unsupported] ->
      {{:error, Exception.message(error)}, Transaction.run(query.tenant, &Transaction.version/0)}
  end

  defp guess(query, by, signal) do
    with {version, metadata} <- Metadata.cached(query.tenant, query.source),
         do: {plan(query, metadata, by, signal), version}
  rescue
    # The index may have been made since.
    Unsupported -> nil
  end

  defp plan(query, by, signal) do
    Transaction.run(query.tenant, fn ->
      metadata = Metadata.load(query.tenant, query.source)
      {plan(query, metadata, by, signal), Transaction.version()}
    end)
  end

  defp plan(%Query{tenant: tenant, schema: schema} = query, metadata, by, signal) do
    counter = Indexer.SchemaMetadata.index!(metadata, tenant, schema, by, signal)
    values = Indexer.SchemaMetadata.values_by(counter, schema, by)
    {:pack, watch} = Indexer.SchemaMetadata.key(tenant, counter, values, signal)
    read(query, Plan.new(query, metadata), Native.pack(watch))
  end

  defp read(query, {:get, id, _filter}, watch) do
    {first, last} = Keys.record_range(query.tenant, query.source, id)
    {:records, first, last, watch, {0, false}}
  end

  defp read(query, {:records, {first, last}, reverse?, _sort}, watch),
    do: {:records, first, last, watch, {query.limit || 0, reverse?}}

  defp read(query, {:index, index, {first, last}, reverse?, _sort}, watch),
    do: {source(query, index), first, last, watch, {query.limit || 0, reverse?}}

  defp read(_query, {:nothing}, _watch),
    do:
      raise(
        ArgumentError,
        "where: the primary key is compared with nil, and no record has such a one"
      )

  defp source(query, index) do
    id_type = Schema.type(query.schema, Schema.primary_key(query.schema))

    if Indexer.Default.mapped?(index) do
      by = if id_type == EctoFoundationDB.Versionstamp, do: :versionstamp, else: :value
      {:index, by, {:pack, Keys.records(query.tenant, query.source)}}
    else
      :records
    end
  end

  @doc "What a list's query gives of its structs, in their order; each was read once."
  @spec arrange(Query.t(), [struct()]) :: [term()]
  def arrange(%Query{order_by: [], limit: nil} = query, structs), do: Query.select(query, structs)

  def arrange(%Query{} = query, structs) do
    structs = Order.sort_structs(structs, query.order_by)
    structs = if query.limit, do: Enum.take(structs, query.limit), else: structs
    Query.select(query, structs)
  end
end
