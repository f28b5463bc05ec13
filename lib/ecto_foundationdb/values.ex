defmodule EctoFoundationDB.Values do
  @moduledoc false
  # Between fields' values and what is stored of them. Those of Ecto's schemas are cast, dumped and loaded
  # through their types; all others are stored as they are.

  alias EctoFoundationDB.{CastError, Schema, Tenant}
  alias EctoFoundationDB.Layer.{Record, Source}

  @doc "The value of a field as it is stored, given in a query or as an id: an Ecto type casts it first."
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

  @doc "Fields' values by their stored names."
  @spec all_stored(Schema.t(), Enumerable.t()) :: Schema.data()
  def all_stored(schema, fields) do
    for {field, value} <- fields,
        do: {Schema.field_source(schema, field), stored(schema, field, value)}
  end

  # Ecto's words for a type: those with parameters are long.
  defp format(type) do
    if function_exported?(Ecto.Type, :format, 1),
      do: apply(Ecto.Type, :format, [type]),
      else: inspect(type)
  end

  @doc "A function of a struct and a stored name: the value as it is stored."
  @spec getter(Source.t()) :: (struct(), atom() -> term())
  def getter(%Source{schema: schema}) do
    %{renamed: renamed, loaded: loaded} = Schema.info(schema)

    fn struct, name ->
      field = if renamed, do: renamed[name], else: name
      value = Map.fetch!(struct, field)
      if List.keymember?(loaded, field, 0), do: stored(schema, field, value), else: value
    end
  end

  @typedoc "How stored records become structs of a tenant; without a schema, maps."
  @opaque loader :: {Schema.t() | nil, info :: map(), meta :: term()}

  @doc """
  What `load/2` needs, made once for some records. It does not notice when the schema's code is loaded
  anew.
  """
  @spec loader(Schema.t(), Tenant.t() | nil) :: loader()
  def loader(schema, tenant) do
    info = Schema.info(schema)
    {schema, info, Schema.meta(info.empty, tenant)}
  end

  @doc "The schema of a loader's structs."
  @spec schema(loader()) :: Schema.t()
  def schema({schema, _info, _meta}), do: schema

  @doc "The source of a loader's records."
  @spec source(loader()) :: Source.t()
  def source({_schema, %{source: source}, _meta}), do: source

  @doc "The structs of records."
  @spec load_all(loader(), [Record.t()]) :: [struct()]
  def load_all(loader, records), do: for(record <- records, do: load(loader, record.data))

  @doc "The struct of a stored record, given its fields as they are stored or as a map."
  @spec load(loader(), Schema.data() | map()) :: struct()
  def load({schema, %{empty: empty, renamed: sources, loaded: types, hidden: hidden}, meta}, data) do
    struct = empty |> Map.merge(values(data, sources)) |> Map.merge(hidden)
    # A field that the schema does not have: one more key than the struct's.
    struct =
      if map_size(struct) == map_size(empty), do: struct, else: Map.take(struct, Map.keys(empty))

    load_values(types, own(struct, schema, meta), schema)
  end

  # Stored bytes do not say what a struct is.
  defp own(%{__meta__: _} = struct, schema, meta),
    do: %{struct | __struct__: schema, __meta__: meta}

  defp own(struct, schema, _meta), do: %{struct | __struct__: schema}

  defp values(data, nil) when is_map(data), do: data
  defp values(data, nil), do: :maps.from_list(data)
  # A stored field may be called `__struct__`: a map is not enumerated by what it says it is.
  defp values(data, sources) when is_map(data), do: data |> :maps.to_list() |> rename(sources)
  defp values(data, sources), do: rename(data, sources)

  defp rename(data, sources) do
    for {source, value} <- data, %{^source => field} <- [sources], into: %{}, do: {field, value}
  end

  defp load_values([], struct, _schema), do: struct

  defp load_values([{field, type} | types], struct, schema) do
    %{^field => value} = struct
    load_values(types, %{struct | field => load_value(schema, field, type, value)}, schema)
  end

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
end
