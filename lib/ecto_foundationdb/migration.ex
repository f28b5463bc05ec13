defmodule EctoFoundationDB.Migration do
  @moduledoc """
  A migration: changes to a tenant's indexes and counters.

      defmodule MyApp.IndexUsers do
        use EctoFoundationDB.Migration

        @impl true
        def change do
          [
            create(index(MyApp.User, [:dept, :joined])),
            create(metadata(MyApp.User)),
            drop(index(MyApp.User, [:name]))
          ]
        end
      end

  There are no tables to create, and records need no migration: a new field is `nil` in old records.
  The migrations of a Repo are listed by its `EctoFoundationDB.Migrator`.
  """

  alias EctoFoundationDB.Indexer.{Default, SchemaMetadata}
  alias EctoFoundationDB.Migration.Index
  alias EctoFoundationDB.Schema

  @typedoc "An index, or counters: the result of `index/3`, `unique_index/3` and `metadata/3`."
  @type index :: struct()
  @type command :: {:create, index()} | {:drop, index()}

  @callback change() :: [command()]

  defmodule Index do
    @moduledoc false
    # What to create or drop. Claims of migrations store this struct as it is, so its name and fields are
    # part of the data layout, including those this library does not use.
    defstruct schema: nil,
              prefix: nil,
              name: nil,
              columns: [],
              unique: false,
              concurrently: true,
              using: nil,
              include: [],
              only: false,
              nulls_distinct: nil,
              where: nil,
              comment: nil,
              options: []

    @type t :: %__MODULE__{schema: module(), name: atom(), columns: [atom()], options: keyword()}
  end

  @doc false
  defmacro __using__(_opts) do
    quote do
      @behaviour EctoFoundationDB.Migration
      import EctoFoundationDB.Migration
    end
  end

  @doc """
  Creates an index, or counters. The schema must have the fields; this does not apply to `drop/1`.

      iex> {:create, index} = Migration.create(Migration.index(User, [:team, :name]))
      iex> index.name
      :users_team_name_index
  """
  @spec create(index()) :: command()
  def create(%Index{schema: schema, columns: fields} = index) do
    known = Schema.fields(schema)

    # An index may refer to a field by its stored name.
    with [_ | _] = unknown <-
           (fields -- known) -- Enum.map(known, &Schema.field_source(schema, &1)) do
      raise ArgumentError,
            "#{inspect(schema)} has no fields #{inspect(unknown)}; it has #{inspect(known)}"
    end

    {:create, index}
  end

  @doc """
  Drops an index, or counters.

      iex> {:drop, counters} = Migration.drop(Migration.metadata(User, [:team]))
      iex> counters.name
      :users_team_metadata
  """
  @spec drop(index()) :: command()
  def drop(%Index{} = index), do: {:drop, index}

  @doc """
  An index of a schema's records by these fields.

  `unique: true`: no two records may have the same values of these fields, unless one of the values is `nil`.
  Writers check that in their transactions, and `Ecto.Changeset.unique_constraint/3` turns a violation into a
  changeset error. If records with the same values exist already, the migration fails with the ids of a few.
  `name:` the index's name.

  `options:` a keyword list for the indexer: `indexer:` the module (by default
  `EctoFoundationDB.Indexer.Default`), `mapped?: false` for a default index that contains the records
  themselves, `unique: true`. A custom indexer may have other options.

      iex> Migration.index(User, [:team], options: [mapped?: false]).options
      [mapped?: false]
      iex> Migration.create(Migration.index(User, [:dept]))
      ** (ArgumentError) MyApp.User has no fields [:dept]; it has [:id, :name, :team]

      iex> Migration.index(User, [:team], options: [maped?: false])
      ** (ArgumentError) index: unknown options [:maped?] in `options:`, known are: [:indexer, :mapped?, :unique]
  """
  @spec index(module(), atom() | [atom()], keyword()) :: index()
  def index(schema, fields, opts \\ []) do
    {more, opts} =
      if Keyword.keyword?(opts), do: Keyword.split(opts, [:unique, :name]), else: {[], opts}

    options = options!(:index, opts)
    options = if more[:unique], do: Keyword.put_new(options, :unique, true), else: options
    indexer = Keyword.get(options, :indexer, Default)

    unless is_atom(indexer) and not is_boolean(indexer) and not is_nil(indexer) do
      raise ArgumentError,
            "index: indexer: expected a module with the behaviour EctoFoundationDB.Indexer, " <>
              "got: #{inspect(indexer)}"
    end

    case indexer do
      Default ->
        known!(:index, options, [:indexer, :mapped?, :unique])

        for name <- [:mapped?, :unique], not is_boolean(Keyword.get(options, name, true)) do
          raise ArgumentError,
                "index: #{name}: expected true or false, got: #{inspect(options[name])}"
        end

      SchemaMetadata ->
        known!(:index, options, [:indexer, :signals])
        signals!(Keyword.get(options, :signals, SchemaMetadata.signal_names()))

      _own ->
        :ok
    end

    if options[:unique] && indexer != Default do
      raise ArgumentError,
            "index: unique: only default indexes are unique, and this one is of #{inspect(indexer)}"
    end

    index = build(schema, List.wrap(fields), options, "index")
    if more[:name], do: %{index | name: more[:name]}, else: index
  end

  @doc """
  As `index/3` with `unique: true`.

      iex> Migration.unique_index(User, [:name]).options
      [unique: true]
  """
  @spec unique_index(module(), atom() | [atom()], keyword()) :: index()
  def unique_index(schema, fields, opts \\ []),
    do: index(schema, fields, Keyword.put(opts, :unique, true))

  @doc """
  Counters (`EctoFoundationDB.Indexer.SchemaMetadata`) of a schema's records, or of those with equal
  values of these fields. `options: [signals: [:changes]]` keeps only some of the counters.

      iex> Migration.metadata(User).name
      :users_metadata
      iex> Migration.metadata(User, [:team], options: [signals: [:changes]]).options[:signals]
      [:changes]
  """
  @spec metadata(module(), [atom()], keyword()) :: index()
  def metadata(schema, fields \\ [], opts \\ []) do
    options = options!(:metadata, opts)
    known!(:metadata, options, [:signals])

    options =
      options
      |> Keyword.put(:indexer, SchemaMetadata)
      |> Keyword.put_new(:signals, SchemaMetadata.signal_names())

    signals!(options[:signals])
    build(schema, fields, options, "metadata")
  end

  defp options!(function, opts) do
    unless Keyword.keyword?(opts) and Keyword.keys(opts) -- [:options] == [] do
      raise ArgumentError,
            "#{function}: expected `options: [...]`, a keyword list for the indexer, got: #{inspect(opts)}"
    end

    options = Keyword.get(opts, :options, [])

    unless Keyword.keyword?(options) do
      raise ArgumentError,
            "options: expected a keyword list for the indexer, got: #{inspect(options)}"
    end

    options
  end

  defp known!(function, options, known) do
    with [_ | _] = unknown <- Keyword.keys(options) -- known do
      raise ArgumentError,
            "#{function}: unknown options #{inspect(unknown)} in `options:`, known are: #{inspect(known)}"
    end
  end

  defp signals!(signals) do
    unless is_list(signals) and signals != [] and signals -- SchemaMetadata.signal_names() == [] do
      raise ArgumentError,
            "signals: expected some of #{inspect(SchemaMetadata.signal_names())}, got: #{inspect(signals)}"
    end
  end

  defp build(schema, fields, options, suffix) do
    unless is_list(fields) and Enum.all?(fields, &is_atom/1) do
      raise ArgumentError, "expected a list of fields to index, got: #{inspect(fields)}"
    end

    %Index{
      schema: schema,
      columns: fields,
      name: name(schema, fields, suffix),
      options: options
    }
  end

  defp name(schema, fields, suffix) do
    [Schema.source(schema) | fields]
    |> Enum.concat([suffix])
    |> Enum.map_join("_", fn part ->
      part |> to_string() |> String.replace(~r"[^\w_]", "_") |> String.replace_trailing("_", "")
    end)
    |> String.to_atom()
  end
end
