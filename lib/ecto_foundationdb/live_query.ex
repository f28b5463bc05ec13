defmodule EctoFoundationDB.LiveQuery do
  @moduledoc false
  # Connects the layer and the NIF's live queries: what to read and watch for a record or a list, and how
  # results become structs.
  #
  # A list is watched by a counter of `EctoFoundationDB.Indexer.SchemaMetadata`. The tenant's indexes determine
  # which range answers it, so its live query is a plan. When the indexes change, the NIF asks the
  # `EctoFoundationDB.Planner` for a new one.

  alias EctoFoundationDB.{Evaluation, Indexer, Native, Planner, Queryable, Schema, Tenant, Values}
  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.{Keys, Metadata, Order, Plan, Query, Record, Source}

  @doc "The live query of one record."
  @spec record(Tenant.t(), Schema.t(), term()) :: Native.live_query()
  def record(tenant, schema, id) do
    source = Source.watchable!(schema)
    stored = Values.stored(schema, Schema.primary_key(schema), id)
    {first, last} = Keys.record_range(tenant, source.name, stored)
    {:records, first, last, first, {0, false}}
  end

  @typedoc "How a record's rows become its struct, or `:data` if only its fields are wanted."
  @type decoder :: {Values.loader() | :data, Source.t(), conditions :: keyword()}

  @doc """
  The input of `decode/2` for records of a schema, made once for many of them. It contains no functions: the VM
  counts references to those, and thousands of pages at once would contend for the counters.
  """
  @spec decoder(Tenant.t(), Schema.t()) :: decoder()
  def decoder(tenant, schema), do: {Values.loader(schema, tenant), Source.of(schema), []}

  @doc "The input of `decode/2` for a list's records."
  @spec decoder(Query.t()) :: decoder()
  def decoder(%Query{tenant: tenant, source: source, where: where, select: select}) do
    loader = if select, do: :data, else: Values.loader(source.schema, tenant)
    {loader, source, where}
  end

  @doc """
  A record's struct, in a list. A record that does not fulfil the query's conditions, to which an outdated index
  entry has led, is not a result: `[]`.
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
  The query of a list: all records of a schema, or those with these values (`by`), with the options `:where`,
  `:order_by` and `:limit`.
  """
  @spec query(Tenant.t(), Queryable.t(), keyword(), keyword()) :: Query.t()
  defdelegate query(tenant, queryable, by \\ [], opts \\ []), to: Queryable

  @doc """
  The live query of a function. Functions with the same `key` are the same; without one that is so where module,
  function and arguments are the same, and an anonymous function is the caller's own.
  """
  @spec function(Tenant.t(), Evaluation.fun_or_mfa(), {:key, term()} | nil, keyword()) ::
          Native.live_query()
  def function(tenant, function, key, opts) do
    same = key || if is_function(function), do: make_ref(), else: function
    id = {tenant.entry, tenant.prefix, same, opts[:max_reads]}
    code = Evaluation.encode(tenant, function, opts[:max_reads])
    {:function, :erlang.term_to_binary(id, [:deterministic]), code, opts[:every]}
  end

  @doc "What live queries of a tenant's records rely on."
  @spec basis(Tenant.t()) :: Native.basis()
  def basis(%Tenant{} = tenant), do: {tenant_entry(tenant), [], Tenant.confirmed_version(tenant)}

  @doc """
  The live query of a list, watched by the counter `signal` of the records with the values `by`, and its basis.
  The node's cached indexes serve as a guess, which the NIF checks as it reads: if it answers `:replan`, pass
  the basis to `learn/3` and ask again.
  """
  @spec all(Query.t(), keyword(), Indexer.SchemaMetadata.signal()) ::
          {Native.basis(), Native.live_query()}
  def all(%Query{} = query, by, signal) do
    asked_for = asked_for(query, by, signal)
    guess(asked_for) || plan(asked_for, Planner.learn(query.tenant, query.source.name, :nothing))
  end

  @doc "The result of `all/3`, if it is known without asking the database; otherwise nil."
  @spec known(Query.t(), keyword(), Indexer.SchemaMetadata.signal()) ::
          {Native.basis(), Native.live_query()} | nil
  def known(%Query{} = query, by, signal), do: guess(asked_for(query, by, signal))

  defp asked_for(query, by, signal), do: {:list, normalize(query), Enum.sort(by), signal}

  @doc "Makes the Repo read a source's indexes again, unless this basis is known to be outdated."
  @spec learn(Query.t(), Native.basis()) :: :ok
  def learn(%Query{} = query, {_tenant, [{_, _, _, fingerprint}], _version}) do
    _known = Planner.learn(query.tenant, query.source.name, fingerprint)
    :ok
  end

  # Equal lists are the same live query: the selection, and the options a tenant was opened with, belong to
  # each page, and the order of conditions does not matter.
  defp normalize(%Query{tenant: tenant} = query),
    do: %{query | select: nil, tenant: %{tenant | options: []}, where: Enum.sort(query.where)}

  @doc "The tenant and source of a request."
  @spec source(term()) :: {Tenant.t(), String.t()}
  def source({:list, %Query{tenant: tenant, source: source}, _by, _signal}),
    do: {tenant, source.name}

  @doc "A plan made from these indexes, or why there is none; the last arguments of `Native.replanned/4`."
  @spec replan(term(), {Native.metadata_version(), Metadata.t()}) ::
          {{:ok, Native.live_query()} | {:error, String.t()}, Native.basis()}
  def replan(asked_for, {version, metadata} = known) do
    {basis, query} = plan(asked_for, known)
    {{:ok, query}, basis}
  rescue
    error in [Unsupported] ->
      {tenant, source} = source(asked_for)
      {{:error, Exception.message(error)}, basis(tenant, [{source, metadata}], version)}
  end

  defp guess(asked_for) do
    {tenant, source} = source(asked_for)
    with {_, _} = known <- Metadata.cached(tenant, source), do: plan(asked_for, known)
  rescue
    # The index may have been created since.
    Unsupported -> nil
  end

  defp plan({:list, query, by, signal} = asked_for, {version, metadata}) do
    read = plan(query, metadata, by, signal)
    {basis(query.tenant, [{query.source.name, metadata}], version), {:planned, read, asked_for}}
  end

  @doc "What a result relies on that comes from lists of these sources."
  @spec basis(Tenant.t(), [{String.t(), Metadata.t()}], Native.metadata_version()) ::
          Native.basis()
  def basis(tenant, sources, version) do
    sources = for {source, metadata} <- sources, do: source_indexes(tenant, source, metadata)
    {tenant_entry(tenant), sources, version}
  end

  defp source_indexes(tenant, source, metadata) do
    {first, last} = Keys.range(Keys.indexes(tenant, source))
    claim = Native.pack(Keys.claim(tenant, source))
    {first, last, claim, metadata.fingerprint}
  end

  defp tenant_entry(%Tenant{entry: nil}), do: nil
  defp tenant_entry(%Tenant{} = tenant), do: {tenant.entry, tenant.prefix, tenant.id}

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

  @doc "The results of a list's query, made of its structs in order; each was read once."
  @spec arrange(Query.t(), [struct() | map()]) :: [term()]
  defdelegate arrange(query, structs), to: Queryable
end
