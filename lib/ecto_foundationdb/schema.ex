defmodule EctoFoundationDB.Schema do
  @moduledoc """
  The schema functions that this library uses: Ecto's reflection, `__schema__/1` and `__schema__/2`.

  A module with `use Ecto.Schema` has them, and belongs to an `Ecto.Repo` with `Ecto.Adapters.FoundationDB`. For
  the plain `EctoFoundationDB.Repo`, without Ecto, a module defines the same functions itself:

      defmodule MyApp.User do
        defstruct [:id, :name, :age, __meta__: %{prefix: nil}]

        def __schema__(:source), do: "users"
        def __schema__(:primary_key), do: [:id]
        def __schema__(:fields), do: [:id, :name, :age]

        def __schema__(:type, :id), do: :binary_id
        def __schema__(:type, :name), do: :string
        def __schema__(:type, :age), do: :integer
      end

  These four are required. `__schema__(:autogenerate)`, `(:autoupdate)`, `(:autogenerate_id)` and
  `(:field_source, field)` are optional. So is `__meta__`; if a struct has it, structs that were read carry
  their tenant in `__meta__.prefix`.

  The plain Repo stores values as they are. Types determine the order of index keys. A value that is not of its
  field's base type (`:string`, `:integer`, `:date`, …) is refused when it is written, and raises an
  `EctoFoundationDB.DecodeError` when it is read.
  """

  alias EctoFoundationDB.Layer.Source
  alias EctoFoundationDB.Versionstamp

  @type t :: module()

  @typedoc "A record as it is stored: the fields' source names and dumped values, in stored order."
  @type data :: [{atom() | String.t(), term()}]

  @doc """
  The source, the name under which a schema's records are stored.

      iex> EctoFoundationDB.Schema.source(MyApp.User)
      "users"
  """
  @spec source(t()) :: String.t()
  def source(schema) do
    case reflect(schema, :source) do
      source when is_binary(source) ->
        source

      other ->
        raise ArgumentError,
              "#{inspect(schema)}.__schema__(:source) returned #{inspect(other)}, expected a string " <>
                "(embedded schemas have none, and cannot be stored on their own)"
    end
  end

  @doc """
  The name of the primary key's field. A schema must have exactly one.

      iex> EctoFoundationDB.Schema.primary_key(MyApp.User)
      :id
  """
  @spec primary_key(t()) :: atom()
  def primary_key(schema) do
    case reflect(schema, :primary_key) do
      [field] ->
        field

      [] ->
        raise ArgumentError,
              "#{inspect(schema)} has no primary key, and a record is stored under its primary " <>
                "key. Declare one field as the schema's primary key"

      fields ->
        raise ArgumentError,
              "#{inspect(schema)} has the primary key #{inspect(fields)}, expected exactly one field"
    end
  end

  @doc """
  The schema's fields without virtual ones.

      iex> EctoFoundationDB.Schema.fields(MyApp.User)
      [:id, :name, :team]
  """
  @spec fields(t()) :: [atom()]
  def fields(schema), do: reflect(schema, :fields)

  @doc """
  The type of a field, given its name or its source name; `nil` if the schema does not have the field.

      iex> EctoFoundationDB.Schema.type(MyApp.User, :name)
      :string
  """
  @spec type(t(), atom() | String.t()) :: term()
  def type(_schema, field) when is_binary(field), do: nil

  def type(schema, field) do
    %{source: source} = info(schema)
    Source.type(source, Source.stored(source, field))
  end

  @doc """
  The name a field is stored under.

      iex> EctoFoundationDB.Schema.field_source(MyApp.User, :name)
      :name
  """
  @spec field_source(t(), atom()) :: atom()
  def field_source(schema, field), do: Source.stored(info(schema).source, field)

  @doc """
  The value of a struct's primary key; raises if it is `nil`.

      iex> EctoFoundationDB.Schema.id!(%MyApp.User{id: "u1"})
      "u1"
  """
  @spec id!(struct()) :: term()
  def id!(%schema{} = struct) do
    field = primary_key(schema)

    case Map.fetch(struct, field) do
      {:ok, nil} ->
        raise ArgumentError,
              "the primary key #{inspect(field)} of this #{inspect(schema)} is nil, and a record " <>
                "is stored under its primary key. Set it, or let the schema autogenerate it: " <>
                inspect(struct)

      {:ok, id} ->
        id

      :error ->
        raise ArgumentError,
              "#{inspect(schema)} declares the primary key #{inspect(field)}, but its struct has " <>
                "no such field"
    end
  end

  # The data that are needed for each record: the layer's source, the struct without values, the fields by their
  # stored names if those differ, and the types that load stored values. The reflection runs once for each
  # version of the module's code.
  @doc false
  def info(schema) do
    case :persistent_term.get({__MODULE__, schema}, nil) do
      {version, info} -> if version == version(schema), do: info, else: put_info(schema)
      nil -> put_info(schema)
    end
  end

  defp put_info(schema) do
    info = reflect_all(schema)
    :persistent_term.put({__MODULE__, schema}, {version(schema), info})
    info
  end

  defp version(schema),
    do: if(function_exported?(schema, :__info__, 1), do: schema.__info__(:md5))

  defp reflect_all(schema) do
    name = source(schema)
    id = primary_key(schema)
    fields = fields(schema)

    sources =
      for field <- fields, do: {field, optional(schema, :field_source, field, nil) || field}

    types = for field <- fields, do: {field, optional(schema, :type, field, nil)}
    stored = for {field, source} <- sources, field != source, into: %{}, do: {field, source}
    partition = types[id] |> Versionstamp.partition_by()

    source = %Source{
      name: name,
      schema: schema,
      id: sources[id],
      fields: Keyword.values(sources),
      types: Map.new(types, fn {field, type} -> {sources[field], type} end),
      stored: stored,
      partition_by: partition && Keyword.fetch!(sources, partition),
      write_primary?: Keyword.get(context(schema), :write_primary, true)
    }

    %{
      source: source,
      empty: Map.merge(schema.__struct__(), Map.new(fields, &{&1, nil})),
      renamed: if(stored != %{}, do: Map.new(sources, fn {field, source} -> {source, field} end)),
      # Fields that Ecto loads only on request (`load_in_query: false`).
      hidden: Map.new(fields -- optional(schema, :query_fields, fields), &{&1, nil}),
      loaded: for({field, type} <- types, type not in [nil, :any], do: {field, type}),
      ecto?: ecto?(schema)
    }
  end

  @doc """
  Puts a tenant into the struct's metadata, if it has some.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> EctoFoundationDB.Schema.put_tenant(%MyApp.User{id: "u1"}, tenant).__meta__.prefix.id
      "docs"
  """
  @spec put_tenant(struct(), EctoFoundationDB.Tenant.t() | nil) :: struct()
  def put_tenant(%{__meta__: %{} = meta} = struct, tenant),
    do: %{struct | __meta__: Map.put(meta, :prefix, tenant)}

  def put_tenant(struct, _tenant), do: struct

  @doc false
  def put_meta(struct, tenant, state \\ :loaded) do
    case meta(struct, tenant, state) do
      nil -> struct
      meta -> %{struct | __meta__: meta}
    end
  end

  # The metadata of a tenant's struct, if it has some.
  @doc false
  def meta(struct, tenant, state \\ :loaded)

  def meta(%{__meta__: %{state: _} = meta}, tenant, state),
    do: Map.put(%{meta | state: state}, :prefix, tenant)

  def meta(%{__meta__: %{} = meta}, tenant, _state), do: Map.put(meta, :prefix, tenant)
  def meta(%{__meta__: meta}, _tenant, _state), do: meta
  def meta(_struct, _tenant, _state), do: nil

  @doc false
  def tenant(%{__meta__: %{prefix: tenant}}), do: tenant
  def tenant(_struct), do: nil

  @doc false
  # The schema's options for this library, which Ecto keeps in the struct's metadata (`@schema_context`).
  def context(schema) do
    case schema.__struct__() do
      %{__meta__: %{context: context}} when is_list(context) -> context
      _ -> []
    end
  end

  @doc false
  # Whether a module is an Ecto schema, whose types Ecto dumps and loads.
  def ecto?(schema), do: function_exported?(schema, :__changeset__, 0)

  defp reflect(schema, key) do
    unless is_atom(schema) and
             (function_exported?(schema, :__schema__, 1) or
                (Code.ensure_loaded?(schema) and function_exported?(schema, :__schema__, 1))) do
      raise ArgumentError,
            "#{inspect(schema)} is not a schema: expected a module with __schema__/1 and " <>
              "__schema__/2, such as one with `use Ecto.Schema`"
    end

    schema.__schema__(key)
  end

  # The parts of the reflection that a hand-written schema may leave out.
  @doc false
  def optional(schema, key, default) do
    schema.__schema__(key)
  rescue
    FunctionClauseError -> default
  end

  @doc false
  def optional(schema, key, field, default) do
    schema.__schema__(key, field)
  rescue
    e in [FunctionClauseError, UndefinedFunctionError] ->
      if match?(%UndefinedFunctionError{module: ^schema, function: :__schema__}, e) or
           match?(%FunctionClauseError{module: ^schema, function: :__schema__}, e) do
        default
      else
        reraise e, __STACKTRACE__
      end
  end
end
