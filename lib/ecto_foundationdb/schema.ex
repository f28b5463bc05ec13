defmodule EctoFoundationDB.Schema do
  @moduledoc """
  What this library reads of a schema: Ecto's reflection, `__schema__/1` and `__schema__/2`.

  A module with `use Ecto.Schema` has it. Without Ecto a module gives the same functions itself:

      defmodule MyApp.User do
        defstruct [:id, :name, :age, __meta__: %{prefix: nil}]

        def __schema__(:source), do: "users"
        def __schema__(:primary_key), do: [:id]
        def __schema__(:fields), do: [:id, :name, :age]

        def __schema__(:type, :id), do: :binary_id
        def __schema__(:type, :name), do: :string
        def __schema__(:type, :age), do: :integer
      end

  These four are needed. `__schema__(:autogenerate)`, `(:autoupdate)`, `(:autogenerate_id)` and
  `(:field_source, field)` are used where they exist. `__meta__` may be left out; where a struct has
  it, structs that were read carry their tenant in `__meta__.prefix`.

  Values are dumped and loaded through their Ecto type where Ecto is present, and stored as they are
  where it isn't.
  """

  alias EctoFoundationDB.CastError

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
              "#{inspect(schema)}.__schema__(:source) gave #{inspect(other)}, expected a string " <>
                "(embedded schemas have none, and cannot be stored on their own)"
    end
  end

  @doc """
  The name of the primary key's field; exactly one is needed.

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
  The schema's fields, virtual ones aside.

      iex> EctoFoundationDB.Schema.fields(MyApp.User)
      [:id, :name, :team]
  """
  @spec fields(t()) :: [atom()]
  def fields(schema), do: reflect(schema, :fields)

  @doc false
  def associations(schema), do: optional(schema, :associations, [])

  @doc """
  A field's type, given its name or its source name; `nil` for a field the schema does not have.

      iex> EctoFoundationDB.Schema.type(MyApp.User, :name)
      :string
  """
  @spec type(t() | nil, atom() | String.t()) :: term()
  def type(nil, _field), do: nil
  def type(_schema, field) when is_binary(field), do: nil

  def type(schema, field), do: Map.get(info(schema).types, field)

  @doc """
  The name a field is stored under.

      iex> EctoFoundationDB.Schema.field_source(MyApp.User, :name)
      :name
  """
  @spec field_source(t(), atom()) :: atom()
  def field_source(schema, field), do: Map.get(info(schema).sources, field, field)

  @doc """
  The value of a struct's primary key; an error where it is `nil`.

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

  @doc false
  # What an insert stores: the fields that are not nil, then what is generated.
  @spec insert_data(struct(), map()) :: {data(), map()}
  def insert_data(%schema{} = struct, changes) do
    primary_key = primary_key(schema)

    {changes, generated_id} =
      struct
      |> Map.take(writable(schema, :insert))
      |> Enum.reject(fn {field, value} -> absent?(schema, field, value) end)
      |> Map.new()
      |> Map.merge(Map.take(changes, writable(schema, :insert)))
      |> generate_in_embeds(schema, :autogenerate)
      |> generate_id(schema, primary_key)

    generated = autogenerate(schema, :autogenerate, changes)
    data = dump(schema, :insert, in_order(changes)) ++ dump(schema, :insert, generated)
    data = data ++ dump(schema, :insert, generated_id)
    values = changes |> Map.merge(Map.new(generated)) |> Map.merge(Map.new(generated_id))
    {to_front(data, field_source(schema, primary_key)), values}
  end

  @doc false
  # The struct with its id, generated where it has none and `given`, its changeset, does not bring one.
  @spec generate_id(struct(), struct()) :: struct()
  def generate_id(%schema{} = struct, given) do
    primary_key = primary_key(schema)
    changed? = match?(%{changes: %{^primary_key => id}} when not is_nil(id), given)

    case struct do
      %{^primary_key => nil} when not changed? ->
        {_changes, generated} = generate_id(%{}, schema, primary_key)
        Map.merge(struct, Map.new(generated))

      _has_one ->
        struct
    end
  end

  @doc false
  # What an update of a struct sets, in stored order; [] where nothing changes. `force?` generates all
  # the same.
  @spec update_data(struct(), map(), boolean()) :: {data(), map()}
  def update_data(%schema{} = struct, changes, force? \\ false) do
    changes = Map.take(changes, writable(schema, :update))

    if changes == %{} and not force? do
      {[], %{}}
    else
      changes = generate_in_embeds(changes, schema, :autoupdate, struct)
      generated = autogenerate(schema, :autoupdate, changes)
      data = dump(schema, :update, in_order(changes)) ++ dump(schema, :update, generated)
      {data, Map.merge(changes, Map.new(generated))}
    end
  end

  # Fields may be `writable: :never`, or `writable: :insert`.
  defp writable(schema, :insert), do: keep(optional(schema, :insertable_fields, nil), schema)
  defp writable(schema, :update), do: keep(optional(schema, :updatable_fields, nil), schema)

  defp keep({keep, _drop}, _schema), do: keep
  defp keep(nil, schema), do: fields(schema)

  @doc false
  # The changes of an update as a map, checked.
  @spec changes!(t(), map() | keyword()) :: map()
  def changes!(schema, changes) when is_map(changes) or is_list(changes) do
    changes = Map.new(changes)
    id = primary_key(schema)
    known = fields(schema)

    for {field, _} <- changes do
      cond do
        field == id ->
          raise ArgumentError,
                "the primary key #{inspect(id)} cannot be changed: delete the record, and insert it anew"

        field not in known ->
          raise ArgumentError,
                "#{inspect(schema)} has no field #{inspect(field)}; it has #{inspect(known)}"

        true ->
          :ok
      end
    end

    changes
  end

  def changes!(_schema, other) do
    raise ArgumentError, "expected changes, a keyword list or a map, got: #{inspect(other)}"
  end

  @doc false
  # One row of insert_all: a map or keyword list of fields, no timestamps.
  @spec row_data(t(), map() | keyword()) :: {data(), map()}
  def row_data(schema, row) do
    row = Map.new(row)
    known = fields(schema)

    for {field, _} <- row, field not in known do
      raise ArgumentError,
            "unknown field #{inspect(field)} of #{inspect(schema)} in insert_all, " <>
              "expected one of #{inspect(known)}"
    end

    primary_key = primary_key(schema)
    {row, generated_id} = generate_id(row, schema, primary_key)
    # The order of the sources' names, where that of an insert is of the fields' names.
    data = schema |> dump(:insert_all, Map.to_list(row) ++ generated_id) |> List.keysort(0)
    {to_front(data, field_source(schema, primary_key)), Map.merge(row, Map.new(generated_id))}
  end

  # The order of a small map's keys before OTP 26, which made it arbitrary: the order that stored
  # values have.
  defp in_order(changes) when map_size(changes) <= 32, do: Enum.sort_by(changes, &elem(&1, 0))
  defp in_order(changes), do: Map.to_list(changes)

  defp absent?(_schema, _field, nil), do: true
  defp absent?(schema, field, []), do: field in optional(schema, :embeds, [])
  defp absent?(_schema, _field, _value), do: false

  # Embedded structs have generated ids and timestamps, too. One that is equal to what was there
  # `before` has not changed, and keeps its timestamps.
  defp generate_in_embeds(changes, schema, key, before \\ %{}) do
    embeds = optional(schema, :embeds, [])

    for {field, value} <- changes, into: %{} do
      old = before |> Map.get(field) |> List.wrap()
      {field, if(field in embeds, do: embed(value, key, old), else: value)}
    end
  end

  defp embed(list, key, old) when is_list(list), do: Enum.map(list, &embed(&1, key, old))

  defp embed(%schema{} = struct, key, old) do
    if struct in old do
      struct
    else
      id = optional(schema, :autogenerate_id, nil)
      new? = match?({_, _, _}, id) and is_nil(Map.get(struct, elem(id, 0)))
      key = if new?, do: :autogenerate, else: key
      ids = if new?, do: generate(elem(id, 0), elem(id, 2)), else: []

      set =
        for {field, value} <- Map.from_struct(struct),
            not is_nil(value),
            into: %{},
            do: {field, value}

      # A timestamp that was set by hand stays.
      taken = if key == :autogenerate, do: set, else: %{}
      inner = Map.take(struct, optional(schema, :embeds, []))

      inner_before =
        for {field, _} <- inner, into: %{} do
          {field, Enum.flat_map(old, &(&1 |> Map.get(field) |> List.wrap()))}
        end

      struct
      |> struct!(ids ++ autogenerate(schema, key, taken))
      |> Map.merge(generate_in_embeds(inner, schema, key, inner_before))
    end
  end

  defp embed(other, _key, _old), do: other

  defp generate_id(changes, schema, primary_key) do
    case {changes, optional(schema, :autogenerate_id, nil)} do
      {%{^primary_key => id}, _} when not is_nil(id) ->
        {changes, []}

      {_, {^primary_key, _source, type}} ->
        {Map.delete(changes, primary_key), generate(primary_key, type)}

      {_, _} ->
        {changes, []}
    end
  end

  defp generate(field, type) when type in [:binary_id, Ecto.UUID], do: [{field, uuid()}]

  defp generate(field, type) do
    raise EctoFoundationDB.Exception.Unsupported,
          "the primary key #{inspect(field)} of type #{inspect(type)} cannot be generated by the " <>
            "database. Use :binary_id, EctoFoundationDB.Versionstamp with async_insert_all!, or " <>
            "set it before inserting"
  end

  defp uuid do
    <<a::48, _::4, b::12, _::2, c::62>> = :crypto.strong_rand_bytes(16)

    <<a::binary-size(8), b::binary-size(4), c::binary-size(4), d::binary-size(4), e::binary>> =
      Base.encode16(<<a::48, 4::4, b::12, 2::2, c::62>>, case: :lower)

    Enum.join([a, b, c, d, e], "-")
  end

  defp autogenerate(schema, key, changes) do
    Enum.flat_map(optional(schema, key, []), fn {fields, {module, function, args}} ->
      case Enum.reject(fields, &Map.has_key?(changes, &1)) do
        [] ->
          []

        fields ->
          value = apply(module, function, args)
          Enum.map(fields, &{&1, value})
      end
    end)
  end

  @doc false
  @spec dump(t(), atom(), Enumerable.t()) :: data()
  def dump(schema, action, changes) do
    for {field, value} <- changes,
        do: {field_source(schema, field), dump_value(schema, action, field, value)}
  end

  @doc false
  # A value as it is stored, and as index keys are made from it.
  def dump_value(schema, action, field, value) do
    case ecto_type(schema, field) do
      nil ->
        value

      type ->
        case apply(Ecto.Type, :dump, [type, value]) do
          {:ok, value} -> value
          :error -> mismatch!(schema, action, field, value, type)
        end
    end
  end

  @doc false
  # A value that a query compares with, as it is stored: cast first, as Ecto does, for it may come
  # from a URL.
  def query_value(schema, action, field, value) do
    with type when not is_nil(type) <- ecto_type(schema, field),
         {:ok, value} <- apply(Ecto.Type, :cast, [type, value]) do
      dump_value(schema, action, field, value)
    else
      nil ->
        value

      _error ->
        raise CastError,
          schema: schema,
          field: field,
          value: value,
          type: format(ecto_type(schema, field))
    end
  end

  defp ecto_type(schema, field), do: if(ecto?(), do: type(schema, field))

  defp mismatch!(schema, action, field, value, type) do
    raise ArgumentError,
          "the value #{inspect(value)} of #{inspect(schema)}.#{field} in #{action} does " <>
            "not match the field's type #{format(type)}"
  end

  # Ecto's words for a type: those with parameters are long.
  defp format(type) do
    if function_exported?(Ecto.Type, :format, 1),
      do: apply(Ecto.Type, :format, [type]),
      else: inspect(type)
  end

  @doc false
  # A function from stored records to structs of a tenant.
  @spec loader(t(), term()) :: (data() -> struct())
  def loader(schema, tenant) do
    version = schema.__info__(:md5)
    load = version_loader(schema, tenant)

    # A sync keeps this function for long: where the schema's code was loaded anew, the structs are
    # the new ones.
    fn data ->
      if schema.__info__(:md5) == version,
        do: load.(data),
        else: version_loader(schema, tenant).(data)
    end
  end

  defp version_loader(schema, tenant) do
    %{empty: empty, renamed: sources, loaded: types} = info(schema)
    empty = put_meta(empty, tenant)
    size = map_size(empty)
    # Stored bytes do not say what a struct is.
    own = Map.take(empty, [:__struct__, :__meta__])

    fn data ->
      values = if sources == nil, do: :maps.from_list(data), else: rename(data, sources)
      struct = empty |> Map.merge(values) |> Map.merge(own)
      # A field that the schema does not have: one more key than the struct's.
      struct = if map_size(struct) == size, do: struct, else: Map.take(struct, Map.keys(empty))
      load_values(types, struct, schema)
    end
  end

  defp rename(data, sources) do
    for {source, value} <- data, %{^source => field} <- [sources], into: %{}, do: {field, value}
  end

  defp load_values([], struct, _schema), do: struct

  defp load_values([{field, type} | types], struct, schema) do
    %{^field => value} = struct
    load_values(types, %{struct | field => load_value(schema, field, type, value)}, schema)
  end

  # What is asked for each record: types and sources by field, the struct without values, the fields
  # by their sources where those differ, and the types whose stored values are not the loaded ones. The
  # reflection is done once for each version of the module's code.
  defp info(schema) do
    version =
      is_atom(schema) and function_exported?(schema, :__info__, 1) and
        {schema.__info__(:md5), ecto?()}

    case :persistent_term.get({__MODULE__, schema}, nil) do
      {^version, info} ->
        info

      _none_or_other ->
        info = reflect_all(schema)
        :persistent_term.put({__MODULE__, schema}, {{schema.__info__(:md5), ecto?()}, info})
        info
    end
  end

  defp reflect_all(schema) do
    fields = fields(schema)
    sources = Map.new(fields, &{&1, optional(schema, :field_source, &1, nil) || &1})
    types = Map.new(fields, &{&1, optional(schema, :type, &1, nil)})
    by_source = Map.new(sources, fn {field, source} -> {source, field} end)

    %{
      sources: sources,
      # Indexes may name a field by its source.
      types: Map.merge(Map.new(sources, fn {field, source} -> {source, types[field]} end), types),
      empty: Map.merge(schema.__struct__(), Map.new(fields, &{&1, nil})),
      renamed: if(Enum.any?(sources, fn {field, source} -> field != source end), do: by_source),
      loaded: if(ecto?(), do: for(f <- fields, t = types[f], not plain?(t), do: {f, t}), else: [])
    }
  end

  # Types that Ecto loads as they are stored.
  defp plain?(type),
    do: type in [:id, :binary_id, :string, :binary, :boolean, :integer, :map, :any]

  defp load_value(schema, field, type, value) do
    case apply(Ecto.Type, :load, [type, value]) do
      {:ok, value} ->
        value

      :error ->
        raise ArgumentError,
              "the stored value #{inspect(value)} of #{inspect(schema)}.#{field} cannot be " <>
                "loaded as #{format(type)}"
    end
  end

  @doc false
  # The value that a record to be inserted has as its primary key.
  @spec stored_id!(t(), data()) :: term()
  def stored_id!(schema, data) do
    name = field_source(schema, primary_key(schema))

    case List.keyfind(data, name, 0) do
      {_, id} when not is_nil(id) ->
        id

      _ ->
        raise ArgumentError,
              "the primary key #{inspect(name)} of this #{inspect(schema)} is nil, and a record is " <>
                "stored under its primary key. Set it, or let the schema autogenerate it"
    end
  end

  @doc """
  Puts a tenant into the struct's metadata, where it has some.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> EctoFoundationDB.Schema.put_tenant(%MyApp.User{id: "u1"}, tenant).__meta__.prefix.id
      "docs"
  """
  @spec put_tenant(struct(), EctoFoundationDB.Tenant.t() | nil) :: struct()
  def put_tenant(%{__meta__: %{} = meta} = struct, tenant),
    do: %{struct | __meta__: Map.put(meta, :prefix, tenant)}

  def put_tenant(struct, _tenant), do: struct

  @doc false
  def put_meta(struct, tenant, state \\ :loaded)

  def put_meta(%{__meta__: %{state: _} = meta} = struct, tenant, state),
    do: %{struct | __meta__: %{meta | state: state} |> Map.put(:prefix, tenant)}

  def put_meta(struct, tenant, _state), do: put_tenant(struct, tenant)

  @doc false
  def tenant(%{__meta__: %{prefix: tenant}}), do: tenant
  def tenant(_struct), do: nil

  @doc false
  # The schema's own options, which Ecto keeps in the struct's metadata (`@schema_context`).
  def context(schema) do
    case schema.__struct__() do
      %{__meta__: %{context: context}} when is_list(context) -> context
      _ -> []
    end
  end

  @doc false
  # Whether records are stored under their primary key; else only an index's entries hold them.
  def write_primary?(schema), do: Keyword.get(context(schema), :write_primary, true)

  @doc false
  @spec to_front(data(), atom()) :: data()
  def to_front([{field, _} | _] = data, field), do: data

  def to_front(data, field) do
    case List.keytake(data, field, 0) do
      {id, rest} -> [id | rest]
      nil -> data
    end
  end

  @doc false
  # Looked for once: the code server searches the disk for a module that is not there each time.
  def ecto? do
    case :persistent_term.get({__MODULE__, :ecto?}, nil) do
      nil ->
        ecto? = Code.ensure_loaded?(Ecto.Type)
        :persistent_term.put({__MODULE__, :ecto?}, ecto?)
        ecto?

      ecto? ->
        ecto?
    end
  end

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
  defp optional(schema, key, default) do
    schema.__schema__(key)
  rescue
    FunctionClauseError -> default
  end

  defp optional(schema, key, field, default) do
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
