defmodule EctoFoundationDB.Indexer.SchemaMetadata do
  @moduledoc """
  Counters of changes to a schema's records, made to be watched.

      create metadata(User)            # of all users
      create metadata(User, [:dept])   # of the users of each department

  | counter | counts |
  | --- | --- |
  | `:inserts` | inserts, and records that gained these indexed values |
  | `:deletes` | deletes, and records that lost them |
  | `:collection` | both |
  | `:updates` | updates, and upserts of existing records |
  | `:changes` | all of these |

  A counter only grows; compare it with an earlier value. (A commit of unknown result may count twice.)
  `options: [signals: [:changes]]` keeps only some of the counters.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> before = SchemaMetadata.changes(User, prefix: tenant)
      iex> Repo.insert!(%User{id: "u3", name: "Cy"}, prefix: tenant)
      iex> SchemaMetadata.changes(User, prefix: tenant) - before
      1

  A list that is read and watched in one transaction misses no change:

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> {[_, _], watch} =
      ...>   Repo.transactional(tenant, fn ->
      ...>     {Repo.all(User), SchemaMetadata.watch_changes(User, label: :users)}
      ...>   end)
      iex> Repo.insert!(%User{id: "u3", name: "Cy"}, prefix: tenant)
      iex> ref = Future.ref(watch)
      iex> receive do {^ref, :ready} -> :changed end
      iex> {assigns, [], []} = Repo.assign_ready([watch], [ref], prefix: tenant)
      iex> Enum.map(assigns[:users], & &1.name)
      ["Ada", "Bea", "Cy"]
  """
  @behaviour EctoFoundationDB.Indexer

  alias EctoFoundationDB.{Future, Index, Indexer, Native, Queryable, Schema, Transaction, Values}
  alias EctoFoundationDB.Exception.{IncorrectTenancy, Unsupported}
  alias EctoFoundationDB.Layer.{Keys, Metadata, Source}
  alias EctoFoundationDB.Repo.Watches

  @signals [:inserts, :deletes, :collection, :updates, :changes]

  @typedoc "A schema, or an `Ecto.Query` of one."
  @type queryable :: module() | struct()

  @typedoc "The name of a counter."
  @type signal :: :inserts | :deletes | :collection | :updates | :changes

  @doc """
  The names of all counters.

      iex> SchemaMetadata.signal_names()
      [:inserts, :deletes, :collection, :updates, :changes]
  """
  @spec signal_names() :: [signal()]
  def signal_names, do: @signals

  ## Indexer

  @impl true
  def set(tenant, index, schema, {_key, data}),
    do: add(tenant, index, values(index, schema, data), [:inserts, :collection, :changes])

  @impl true
  def clear(tenant, index, schema, {_key, data}),
    do: add(tenant, index, values(index, schema, data), [:deletes, :collection, :changes])

  @impl true
  def update(tenant, index, schema, {_, old}, {_, new}) do
    case {values(index, schema, old), values(index, schema, new)} do
      {same, same} ->
        add(tenant, index, same, [:updates, :changes])

      {old, new} ->
        add(tenant, index, old, [:deletes, :collection, :updates, :changes]) ++
          add(tenant, index, new, [:inserts, :collection, :updates, :changes])
    end
  end

  @impl true
  def build?(_index), do: false

  @impl true
  def drop_ranges(tenant, %Index{fields: [], source: source} = index) do
    # The counters of the whole schema stay: if they are created again they continue, so no watch sees an
    # earlier value again.
    for signal <- signals(index), do: Keys.range(Keys.counter(tenant, source, nil, [], signal))
  end

  def drop_ranges(tenant, %Index{source: source, name: name}),
    do: [Keys.range(Keys.append(Keys.counters(tenant, source), ["#{name}"]))]

  @doc false
  # The key of a counter, which a live query of a list watches.
  def key(tenant, index, values, signal),
    do: {:pack, Keys.counter(tenant, index.source, index.name, values, signal)}

  @doc false
  # The counter of all changes whose records have the fewest values beside those of these stored fields. Of a
  # source without a schema the types are not known, by which values become keys.
  @spec finest(Metadata.t(), Source.t(), [atom()]) :: Index.t() | nil
  def finest(metadata, %{schema: nil}, _names), do: finest_of(metadata, [])

  def finest(metadata, source, names) do
    fixed = Enum.filter(Map.keys(source.stored) ++ names, &(Source.stored(source, &1) in names))
    finest_of(metadata, fixed)
  end

  defp finest_of(metadata, fields) do
    metadata.indexes
    |> Enum.filter(fn index ->
      index.indexer == __MODULE__ and :changes in signals(index) and index.fields -- fields == []
    end)
    |> Enum.max_by(&length(&1.fields), fn -> nil end)
  end

  @doc false
  def values(%Index{fields: fields, source: name}, schema, data) do
    source = Source.of(schema, name)
    Indexer.Default.values(source, Enum.map(fields, &Source.stored(source, &1)), data)
  end

  @doc false
  # The same for values given by the fields' names: records store them, dumped, under the fields' sources.
  def values_by(index, schema, by), do: values(index, schema, Values.all_stored(schema, by))

  defp add(tenant, index, values, signals) do
    kept = signals(index)

    for signal <- signals,
        signal in kept,
        do: {:atomic, :add, key(tenant, index, values, signal), <<1::little-64>>}
  end

  defp signals(index), do: Index.option(index, :signals, @signals)

  ## Reading

  # The counters in the examples, where two users were inserted, one of them in the red team.
  for {signal, {all, red}} <- [
        inserts: {2, 1},
        deletes: {0, 0},
        collection: {2, 1},
        updates: {0, 0},
        changes: {2, 1}
      ] do
    @doc """
    The `#{signal}` counter of a schema; `prefix: tenant` outside a transaction.

        iex> tenant = Tenant.open!(Repo, "docs")
        iex> SchemaMetadata.#{signal}(User, prefix: tenant)
        #{all}
    """
    @spec unquote(signal)(module(), keyword()) :: non_neg_integer()
    def unquote(signal)(schema, opts \\ []), do: sync(schema, [], unquote(signal), opts)

    @doc """
    The `#{signal}` counter of the records with these values.

        iex> tenant = Tenant.open!(Repo, "docs")
        iex> SchemaMetadata.#{signal}_by(User, [team: "red"], prefix: tenant)
        #{red}
    """
    @spec unquote(:"#{signal}_by")(module(), keyword(), keyword()) :: non_neg_integer()
    def unquote(:"#{signal}_by")(schema, by, opts \\ []),
      do: sync(schema, by, unquote(signal), opts)

    @doc """
    As `#{signal}/2`, but returns a future. Call it inside a transaction.

        iex> tenant = Tenant.open!(Repo, "docs")
        iex> Repo.transactional(tenant, fn -> Repo.await(SchemaMetadata.async_#{signal}(User)) end)
        #{all}
    """
    @spec unquote(:"async_#{signal}")(module()) :: Future.t()
    def unquote(:"async_#{signal}")(schema), do: async(schema, [], unquote(signal))

    @doc "As `#{signal}_by/3`, but returns a future. Call it inside a transaction."
    @spec unquote(:"async_#{signal}_by")(module(), keyword()) :: Future.t()
    def unquote(:"async_#{signal}_by")(schema, by), do: async(schema, by, unquote(signal))

    @doc "As `watch(schema, :#{signal}, opts)`."
    @spec unquote(:"watch_#{signal}")(queryable(), keyword()) :: Future.t()
    def unquote(:"watch_#{signal}")(schema, opts \\ []),
      do: watch(schema, unquote(signal), opts)

    @doc "As `watch_by(schema, by, :#{signal}, opts)`."
    @spec unquote(:"watch_#{signal}_by")(queryable(), keyword(), keyword()) ::
            Future.t()
    def unquote(:"watch_#{signal}_by")(schema, by, opts \\ []),
      do: watch_by(schema, by, unquote(signal), opts)
  end

  @doc """
  Watches a counter: when it changes, this process gets `{ref, :ready}`. Call it inside a transaction that also
  reads, so that no change is missed, or with `prefix: tenant`. With `label:`, `Repo.assign_ready/3` then returns
  all of the schema's records, or those of the query, under it.
  """
  @spec watch(queryable(), signal(), keyword()) :: Future.t()
  def watch(queryable, signal, opts \\ []), do: watch_by(queryable, [], signal, opts)

  @doc "As `watch/3`, for the records with these values: `watch_by(User, [dept: \"eng\"], :changes)`."
  @spec watch_by(queryable(), keyword(), signal(), keyword()) :: Future.t()
  def watch_by(queryable, by, signal, opts \\ []) do
    opts = Keyword.validate!(opts, [:prefix, :label, :query])
    queryable = opts[:query] || queryable

    Transaction.run(opts[:prefix] || Transaction.tenant!(), fn ->
      watch_counter(Transaction.tenant!(), queryable, by, signal, opts)
    end)
  end

  defp watch_counter(tenant, queryable, by, signal, opts) do
    schema = Queryable.schema!(queryable)
    index = index!(tenant, schema, by, signal)
    watch = Transaction.watch(key(tenant, index, values_by(index, schema, by), signal))

    Future.watch(watch, %Watches{
      of: {:counter, schema, by, signal},
      label: opts[:label],
      queryable: queryable
    })
  end

  @doc """
  Clears a schema's counters, inside a transaction. A watch may miss changes of that time.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> Repo.transactional(tenant, fn -> SchemaMetadata.clear(User) end)
      :ok
      iex> SchemaMetadata.inserts(User, prefix: tenant)
      0
  """
  @spec clear(module()) :: :ok
  def clear(schema), do: clear_by(schema, [])

  @doc "Clears the counters of the records with these values, inside a transaction."
  @spec clear_by(module(), keyword()) :: :ok
  def clear_by(schema, by) do
    tenant = Transaction.tenant!()
    index = index!(tenant, schema, by, nil)
    values = values_by(index, schema, by)

    Transaction.write(
      for signal <- signals(index), do: {:clear, key(tenant, index, values, signal)}
    )
  end

  defp sync(schema, by, signal, opts) do
    opts = Keyword.validate!(opts, [:prefix | Transaction.options()])

    tenant =
      opts[:prefix] || Transaction.tenant() ||
        raise IncorrectTenancy,
              "no tenant is given: pass `prefix: tenant`, or call inside Repo.transactional(tenant, fun)"

    Transaction.run(tenant, fn -> Future.result(async(schema, by, signal)) end, opts)
  end

  defp async(schema, by, signal) do
    tenant = Transaction.tenant!()
    index = index!(tenant, schema, by, signal)
    {:pack, tuple} = key(tenant, index, values_by(index, schema, by), signal)
    key = Native.pack(tuple)
    reads = Transaction.read_async([{:get, key, false}])

    Future.read(fn ->
      if Transaction.recording?(), do: Transaction.record(key, index.source)

      case Transaction.collect(reads) do
        [nil] -> 0
        [counter] -> :binary.decode_unsigned(counter, :little)
      end
    end)
  end

  @doc false
  # The index that counts these fields, and keeps this counter.
  def index!(tenant, schema, by, signal),
    do: index!(Metadata.load(tenant, Schema.source(schema)), tenant, schema, by, signal)

  @doc false
  # The same in a tenant's known metadata.
  def index!(metadata, tenant, schema, by, signal) do
    unless is_nil(signal) or signal in @signals do
      raise ArgumentError,
            "expected one of the counters #{inspect(@signals)}, got: #{inspect(signal)}"
    end

    unless Keyword.keyword?(by) do
      raise ArgumentError,
            "expected the counted fields and their values as a keyword list, got: #{inspect(by)}"
    end

    fields = by |> Keyword.keys() |> Enum.sort()

    found =
      Enum.find(metadata.indexes, fn index ->
        index.indexer == __MODULE__ and Enum.sort(index.fields) == fields and
          (is_nil(signal) or signal in signals(index))
      end)

    found ||
      raise Unsupported,
            "tenant #{inspect(tenant.id)} has no counter #{inspect(signal)} of #{inspect(schema)}" <>
              if(fields == [], do: "", else: " by #{inspect(Keyword.keys(by))}") <>
              ". This migration would create it: create metadata(#{inspect(schema)}" <>
              if(fields == [], do: ")", else: ", #{inspect(Keyword.keys(by))})")
  end
end
