defmodule EctoFoundationDB.Indexer do
  @moduledoc """
  A kind of index. Two come with this library: `EctoFoundationDB.Indexer.Default`, and
  `EctoFoundationDB.Indexer.SchemaMetadata` for counters. To add another, implement this behaviour and name
  the module in the migration:

      create index(User, [:name], options: [indexer: MyApp.LengthIndexer])

  Callbacks are functions from records to operations, and never call the database themselves: the operations
  run in the transaction that writes the record. Keys are tuples for the tuple layer; make them with `key/3`,
  which puts them beside the tenant's other data of the schema. An operation is one of

      {:set, {:pack, tuple}, binary}
      {:clear, {:pack, tuple}}
      {:clear_range, begin, end}
      {:atomic, :add, {:pack, tuple}, binary}

  A record is `{key, data}`: its packed primary key, and its fields as a keyword list of stored
  values. The primary key's value is in `data` under the primary key's name.

  An indexer has access to everything in the database, including other tenants: a faulty one destroys data.
  The guide *Indexes and queries* has an example.
  """

  alias EctoFoundationDB.{Index, Indexer, Schema, Tenant, Transaction, Values}
  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.{Keys, Metadata, Query, Reader, Record, Source}
  alias EctoFoundationDB.Repo.Options

  @type record :: {key :: binary(), Schema.data()}
  @type op ::
          {:set, key(), value :: binary() | key()}
          | {:clear, key()}
          | {:clear_range, first :: key(), after_last :: key()}
          | {:atomic, atom(), key(), operand :: binary() | key()}
  @type key :: binary() | {:pack, tuple()}

  @doc "A record with these contents was added."
  @callback set(Tenant.t(), Index.t(), Schema.t(), record()) :: [op()]

  @doc "A record with these contents was removed."
  @callback clear(Tenant.t(), Index.t(), Schema.t(), record()) :: [op()]

  @doc """
  A record has changed. Without this callback, an update of an indexed field is a `clear` of the old contents
  and a `set` of the new.
  """
  @callback update(Tenant.t(), Index.t(), Schema.t(), old :: record(), new :: record()) :: [
              op()
            ]

  @doc "The keys to clear when the index is dropped: `[{begin, end}]`."
  @callback drop_ranges(Tenant.t(), Index.t()) :: [{binary(), binary()}]

  @doc """
  Whether creating the index calls `set` for existing records. Without this callback it does.
  """
  @callback build?(Index.t()) :: boolean()

  @optional_callbacks update: 5, build?: 1

  @doc """
  A key for an index's entry.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> index = %EctoFoundationDB.Index{
      ...>   name: :users_length_index,
      ...>   indexer: MyApp.LengthIndexer,
      ...>   source: "users",
      ...>   fields: [:name]
      ...> }
      iex> {:pack, key} = Indexer.key(tenant, index, [3, "u1"])
      iex> Tuple.delete_at(key, 0)
      {<<0xFD>>, "users", "i", "users_length_index", 3, "u1"}
  """
  @spec key(Tenant.t(), Index.t(), [term()]) :: {:pack, tuple()}
  def key(tenant, %Index{source: source, name: name}, elements),
    do: {:pack, Keys.append(Keys.index(tenant, source, name), elements)}

  @doc "The range `{begin, end}` of an index's keys that begin with these elements."
  @spec range(Tenant.t(), Index.t(), [term()]) :: {binary(), binary()}
  def range(tenant, %Index{source: source, name: name}, elements \\ []),
    do: Keys.range(Keys.append(Keys.index(tenant, source, name), elements))

  @doc """
  The structs that a custom index leads to, from the entries that begin with these elements. An entry's value
  must be the record's key. Options: `limit:` entries, `reverse: true`, `timeout:`.

      Indexer.all(tenant, Post, :posts_title_index, ["hello"])
  """
  @spec all(Tenant.t(), Schema.t(), atom(), [term()], keyword()) :: [struct()]
  def all(tenant, schema, name, elements, opts \\ []) do
    opts = Keyword.validate!(opts, Transaction.options() ++ [:limit, reverse: false])
    limit = if opts[:limit], do: Options.positive!(:limit, opts[:limit]), else: 0
    query = Query.new(tenant, Source.of(schema))

    Transaction.run(
      tenant,
      fn ->
        indexes = Metadata.load(tenant, query.source.name).indexes

        unless Enum.any?(indexes, &(&1.name == name)) do
          raise Unsupported,
                "tenant #{inspect(tenant.id)} has no index #{inspect(name)} of #{inspect(schema)}; " <>
                  "it has #{inspect(Enum.map(indexes, & &1.name))}"
        end

        range = Keys.range(Keys.append(Keys.index(tenant, query.source.name, name), elements))
        options = %{limit: limit, reverse: opts[:reverse]}
        records = Reader.by_entries(query, range, options)
        Values.load_all(Values.loader(schema, tenant), records)
      end,
      Keyword.take(opts, Transaction.options())
    )
  end

  @doc false
  def set_all(tenant, indexes, schema, record),
    do: Enum.flat_map(indexes, &call(&1, :set, [tenant, &1, schema, record]))

  @doc false
  def clear_all(tenant, indexes, schema, record),
    do: Enum.flat_map(indexes, &call(&1, :clear, [tenant, &1, schema, record]))

  @doc false
  def update_all(tenant, indexes, schema, old, new) do
    Enum.flat_map(indexes, fn index ->
      cond do
        function_exported?(indexer!(index), :update, 5) ->
          call(index, :update, [tenant, index, schema, old, new])

        touched?(index, schema, old, new) ->
          call(index, :clear, [tenant, index, schema, old]) ++
            call(index, :set, [tenant, index, schema, new])

        true ->
          []
      end
    end)
  end

  defp call(index, callback, args) do
    indexer = indexer!(index)

    case apply(indexer, callback, args) do
      operations when is_list(operations) ->
        operations

      other ->
        raise ArgumentError,
              "#{inspect(indexer)}.#{callback}/#{length(args)}: expected a list of operations, " <>
                "got: #{inspect(other)}"
    end
  end

  @doc false
  def touched?(%Index{fields: fields, source: name}, schema, {_, old}, {_, new}) do
    source = Source.of(schema, name)
    changed? = fn name -> Record.get(old, name) !== Record.get(new, name) end
    Enum.any?(fields, &changed?.(Source.stored(source, &1)))
  end

  @doc false
  def build?(%Index{} = index) do
    indexer = indexer!(index)
    not function_exported?(indexer, :build?, 1) or indexer.build?(index)
  end

  @doc false
  def drop_ranges(tenant, %Index{} = index), do: indexer!(index).drop_ranges(tenant, index)

  @doc false
  def default?(%Index{indexer: indexer}), do: indexer == Indexer.Default

  @doc false
  def indexer!(%Index{indexer: indexer, name: name, source: source}) do
    if is_atom(indexer) and Code.ensure_loaded?(indexer) do
      indexer
    else
      raise Unsupported,
            "the index #{name} of #{inspect(source)} is maintained by #{inspect(indexer)}, which " <>
              "this version of the application does not have. Deploy a version that has it " <>
              "before writing to #{inspect(source)}"
    end
  end
end
