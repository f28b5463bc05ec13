defmodule EctoFoundationDB.LiveQuery do
  @moduledoc false
  # Between the layer and the NIF's live queries: what to read and watch for a record or a list, and
  # how what was read becomes structs.
  #
  # A list is watched by a counter of `EctoFoundationDB.Indexer.SchemaMetadata`. Which range answers
  # it depends on the tenant's indexes, so its live query is a plan, which the NIF asks for anew
  # (`replan/1`) when indexes have changed.

  alias EctoFoundationDB.{Indexer, Native, Queryable, Schema, Tenant, Transaction, Values}
  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.{Keys, Metadata, Order, Plan, Query, Record, Source}

  @doc "The live query of one record."
  @spec record(Tenant.t(), Schema.t(), term()) :: Native.live_query()
  def record(tenant, schema, id) do
    source = Source.of(schema)

    unless source.write_primary? do
      raise Unsupported,
            "#{inspect(schema)} has `write_primary: false`: there is no record to watch"
    end

    stored = Values.stored(schema, Schema.primary_key(schema), id)
    {first, last} = Keys.record_range(tenant, source.name, stored)
    {:records, first, last, first, {0, false}}
  end

  @typedoc "How a record's rows become its struct, or `:data` where only its fields are wanted."
  @opaque decoder :: {Values.loader() | :data, Source.t(), conditions :: keyword()}

  @doc """
  What `decode/2` needs for records of a schema, made once for some of them. No function: those are
  counted by the VM, which thousands of pages at once wait for.
  """
  @spec decoder(Tenant.t(), Schema.t()) :: decoder()
  def decoder(tenant, schema), do: {Values.loader(schema, tenant), Source.of(schema), []}

  @doc "What `decode/2` needs for a list's records."
  @spec decoder(Query.t()) :: decoder()
  def decoder(%Query{tenant: tenant, source: source, where: where, select: select}) do
    loader = if select, do: :data, else: Values.loader(source.schema, tenant)
    {loader, source, where}
  end

  @doc """
  A record's struct, in a list. A record that does not fulfil the query's conditions, which an index
  entry that is out of date has led to, is no result: `[]`.
  """
  @spec decode(decoder(), [Native.row()]) :: [struct() | map()]
  def decode({loader, _source, []}, [{:data, data}]), do: [load(loader, data)]

  def decode({loader, _source, where}, [{:data, data}]) do
    if Order.matches?(Map.to_list(data), where),
      do: [load(loader, data)],
      else: []
  end

  def decode({loader, source, where}, rows) do
    for record <- Record.decode(rows, source),
        Order.matches?(record.data, where),
        do: load(loader, record.data)
  end

  defp load(:data, data) when is_map(data), do: data
  defp load(:data, data), do: Map.new(data)
  defp load(loader, data), do: Values.load(loader, data)

  @doc """
  The query of a list: of all records of a schema, or of those with these values (`by`), with the
  options `:where`, `:order_by` and `:limit`.
  """
  @spec query(Tenant.t(), Queryable.t(), keyword(), keyword()) :: Query.t()
  defdelegate query(tenant, queryable, by \\ [], opts \\ []), to: Queryable

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

  @doc "Forgets the indexes that a plan was made with."
  @spec forget(Query.t()) :: :ok
  def forget(%Query{} = query) do
    Metadata.forget(query.tenant, query.source.name)
    :ok
  end

  @doc "A plan made anew: `Native.replanned/3`'s answer and metadata version."
  @spec replan(term()) ::
          {{:ok, Native.live_query()} | {:error, String.t()}, Native.metadata_version()}
  def replan({:list, query, by, signal} = asked_for) do
    {read, version} = plan(query, by, signal)
    {{:ok, {:planned, read, asked_for, version}}, version}
  rescue
    error in [Unsupported] ->
      {{:error, Exception.message(error)}, Transaction.run(query.tenant, &Metadata.version/0)}
  end

  defp guess(query, by, signal) do
    with {version, metadata} <- Metadata.cached(query.tenant, query.source.name),
         do: {plan(query, metadata, by, signal), version}
  rescue
    # The index may have been made since.
    Unsupported -> nil
  end

  defp plan(query, by, signal) do
    Transaction.run(query.tenant, fn ->
      metadata = Metadata.load(query.tenant, query.source.name)
      {plan(query, metadata, by, signal), Metadata.version()}
    end)
  end

  defp plan(%Query{tenant: tenant, source: %{schema: schema}} = query, metadata, by, signal) do
    counter = Indexer.SchemaMetadata.index!(metadata, tenant, schema, by, signal)
    values = Indexer.SchemaMetadata.values_by(counter, schema, by)
    {:pack, watch} = Indexer.SchemaMetadata.key(tenant, counter, values, signal)
    read(query, Plan.new(query, metadata), Native.pack(watch))
  end

  defp read(query, {:get, id, _filter}, watch) do
    {first, last} = Keys.record_range(query.tenant, query.source.name, id)
    {:records, first, last, watch, {0, false}}
  end

  defp read(query, {:records, {first, last}, reverse?, _sort}, watch),
    do: {:records, first, last, watch, {query.limit || 0, reverse?}}

  defp read(query, {:index, index, {first, last}, reverse?, _sort}, watch),
    do: {source(query, index), first, last, watch, {query.limit || 0, reverse?}}

  defp read(_query, {:nothing}, _watch) do
    raise ArgumentError,
          "no record can fulfil these conditions (the primary key is compared with nil, the conditions " <>
            "contradict each other, or the limit is 0)"
  end

  defp source(query, index) do
    if Indexer.Default.mapped?(index) do
      if query.source.partition_by do
        raise Unsupported,
              "#{inspect(query.source.schema)} lies by partitions, and live queries don't follow its index " <>
                "#{index.name}. Sync a range of the primary key, or make the index `mapped?: false`"
      end

      by = if Source.versionstamps?(query.source), do: :versionstamp, else: :value
      {:index, by, {:pack, Keys.records(query.tenant, query.source.name)}}
    else
      :records
    end
  end

  @doc "What a list's query gives of its structs, in their order; each was read once."
  @spec arrange(Query.t(), [struct() | map()]) :: [term()]
  defdelegate arrange(query, structs), to: Queryable
end
