defmodule EctoFoundationDB.Values do
  @moduledoc false
  # Converts between the values of fields and stored values. Values of Ecto schemas are cast, dumped and loaded
  # through their types. All others are stored as they are, and those of Ecto's base types are checked.

  alias EctoFoundationDB.{CastError, DecodeError, Native, Schema, Tenant}
  alias EctoFoundationDB.Layer.{Keys, Record, Source}

  @doc "The fields that a plain Repo writes, by their stored names."
  @spec dump(Schema.t(), atom(), Enumerable.t()) :: Schema.data()
  def dump(schema, action, fields) do
    for {field, value} <- fields do
      type = Schema.type(schema, field)

      # Values that could not be loaded are not stored.
      if type != nil and load_value(type, value, false) == :error do
        raise ArgumentError,
              "the value #{inspect(value)} of #{inspect(schema)}.#{field} in #{action} does " <>
                "not match the field's type #{inspect(type)}"
      end

      {Schema.field_source(schema, field), value}
    end
  end

  @doc "The stored form of a field's value, given in a query or as an id; an Ecto type casts it first."
  @spec stored(Schema.t(), atom(), term()) :: term()
  def stored(schema, field, value) do
    type = if Schema.ecto?(schema), do: Schema.type(schema, field)

    with type when not is_nil(type) <- type,
         {:ok, cast} <- apply(Ecto.Type, :cast, [type, value]),
         {:ok, dumped} <- apply(Ecto.Type, :dump, [type, cast]) do
      dumped
    else
      nil ->
        value

      _error ->
        raise CastError, schema: schema, field: field, value: value, type: format(type)
    end
  end

  @doc "The values of fields by their stored names."
  @spec all_stored(Schema.t(), Enumerable.t()) :: Schema.data()
  def all_stored(schema, fields) do
    for {field, value} <- fields,
        do: {Schema.field_source(schema, field), stored(schema, field, value)}
  end

  # Ecto's name for a type: parameterized types are long.
  defp format(type) do
    if Code.ensure_loaded?(Ecto.Type) and function_exported?(Ecto.Type, :format, 1),
      do: apply(Ecto.Type, :format, [type]),
      else: inspect(type)
  end

  @doc "A function from a struct and a stored name to the stored value."
  @spec getter(Source.t()) :: (struct(), atom() -> term())
  def getter(%Source{schema: schema}) do
    %{renamed: renamed, loaded: loaded, ecto?: ecto?} = Schema.info(schema)

    fn struct, name ->
      field = if renamed, do: renamed[name], else: name
      value = Map.fetch!(struct, field)

      if ecto? and List.keymember?(loaded, field, 0),
        do: stored(schema, field, value),
        else: value
    end
  end

  @typedoc "How stored records become structs of a tenant."
  @type loader :: {Schema.t(), info :: map(), meta :: term(), Tenant.t() | nil}

  @doc """
  The input of `load/2`, made once for many records. It does not notice when the schema's code is reloaded.
  """
  @spec loader(Schema.t(), Tenant.t() | nil) :: loader()
  def loader(schema, tenant) do
    info = Schema.info(schema)
    {schema, info, Schema.meta(info.empty, tenant), tenant}
  end

  @doc "The structs of records."
  @spec load_all(loader(), [Record.t()]) :: [struct()]
  def load_all(loader, records), do: for(record <- records, do: load(loader, record.data))

  @doc """
  The struct of a stored record, given its stored fields or a map of them. Raises `DecodeError` if a value is not
  one of its field's type: another version of the application may have written it.
  """
  @spec load(loader(), Schema.data() | map()) :: struct()
  def load({schema, %{empty: empty, renamed: sources} = info, meta, _tenant} = loader, data) do
    struct = empty |> Map.merge(values(data, sources)) |> hide(info.hidden)
    # A field that the schema does not have: one more key than the struct's.
    struct =
      if map_size(struct) == map_size(empty), do: struct, else: Map.take(struct, Map.keys(empty))

    load_values(info.loaded, own(struct, schema, meta), info.ecto?, {loader, data})
  end

  defp hide(struct, hidden) when hidden == %{}, do: struct
  defp hide(struct, hidden), do: Map.merge(struct, hidden)

  # Stored bytes do not decide what is a struct.
  defp own(%{__meta__: _} = struct, schema, meta),
    do: %{struct | __struct__: schema, __meta__: meta}

  defp own(struct, schema, _meta), do: %{struct | __struct__: schema}

  defp values(data, nil) when is_map(data), do: data
  defp values(data, nil), do: :maps.from_list(data)
  # A stored field may be called `__struct__`, so a map is not enumerated by its protocol.
  defp values(data, sources) when is_map(data), do: data |> :maps.to_list() |> rename(sources)
  defp values(data, sources), do: rename(data, sources)

  defp rename(data, sources) do
    for {source, value} <- data, %{^source => field} <- [sources], into: %{}, do: {field, value}
  end

  defp load_values([], struct, _ecto?, _record), do: struct

  defp load_values([{field, type} | types], struct, ecto?, record) do
    %{^field => value} = struct

    # Pages load thousands of records with each mount: most values are only checked.
    case loaded_as_is?(type, value) || load_value(type, value, ecto?) do
      true -> load_values(types, struct, ecto?, record)
      {:ok, ^value} -> load_values(types, struct, ecto?, record)
      {:ok, value} -> load_values(types, %{struct | field => value}, ecto?, record)
      {:raised, message} -> not_loaded!(record, {field, type, value}, ": " <> message)
      _error -> not_loaded!(record, {field, type, value}, "")
    end
  end

  defp loaded_as_is?(type, value) when is_binary(value),
    do: type in [:string, :binary, :binary_id]

  defp loaded_as_is?(type, value) when is_integer(value), do: type in [:integer, :id]
  defp loaded_as_is?(:boolean, value), do: is_boolean(value)
  defp loaded_as_is?(_type, _value), do: false

  # As Ecto loads base types. Ecto handles other types; without Ecto their values stay as they are.
  defp load_value(type, value, _ecto?) when type in [:string, :binary, :binary_id],
    do: ok_if(is_binary(value) or is_nil(value), value)

  defp load_value(type, value, _ecto?) when type in [:integer, :id],
    do: ok_if(is_integer(value) or is_nil(value), value)

  defp load_value(:boolean, value, _ecto?),
    do: ok_if(is_boolean(value) or is_nil(value), value)

  defp load_value(:map, value, _ecto?), do: ok_if(is_map(value) or is_nil(value), value)

  defp load_value(type, value, true) do
    apply(Ecto.Type, :load, [type, value])
  rescue
    # A custom type may raise for values it does not know.
    error -> {:raised, Exception.message(error)}
  end

  defp load_value(_type, nil, false), do: {:ok, nil}
  defp load_value(:float, value, false), do: ok_if(is_number(value), value)

  defp load_value(:decimal, value, false),
    do: ok_if(is_number(value) or is_struct(value, Decimal), value)

  defp load_value(:date, value, false), do: ok_if(is_struct(value, Date), value)

  defp load_value(type, value, false) when type in [:time, :time_usec],
    do: ok_if(is_struct(value, Time), value)

  defp load_value(type, value, false)
       when type in [:naive_datetime, :naive_datetime_usec, :utc_datetime, :utc_datetime_usec],
       do: ok_if(is_struct(value, DateTime) or is_struct(value, NaiveDateTime), value)

  defp load_value({:array, type}, value, false),
    do: ok_if(is_list(value) and Enum.all?(value, &loads?(type, &1)), value)

  defp load_value({:map, type}, value, false),
    do: ok_if(is_map(value) and Enum.all?(Map.values(value), &loads?(type, &1)), value)

  defp load_value(_type, value, false), do: {:ok, value}

  defp loads?(type, value), do: load_value(type, value, false) != :error

  defp ok_if(true, value), do: {:ok, value}
  defp ok_if(false, _value), do: :error

  @spec not_loaded!(term(), {atom(), term(), term()}, String.t()) :: no_return()
  defp not_loaded!({{schema, _info, _meta, tenant}, data}, {field, type, value}, why) do
    %Source{} = source = Source.of(schema)
    id = if is_map(data), do: Map.get(data, source.id), else: Keyword.get(data, source.id)
    key = if tenant, do: Native.pack(Keys.record(tenant, source.name, id))

    raise DecodeError,
      schema: schema,
      field: field,
      id: id,
      key: key,
      reason:
        "the field #{inspect(field)} of the #{inspect(schema)} with primary key #{inspect(id)} contains " <>
          "#{inspect(value)}, which cannot be loaded as #{format(type)}#{why}. Another version of the " <>
          "application may have written it"
  end
end
