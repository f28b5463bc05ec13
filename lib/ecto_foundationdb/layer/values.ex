defmodule EctoFoundationDB.Layer.Values do
  @moduledoc false
  # Fields' values as they are stored, and back: dumped, cast and loaded through their types where Ecto
  # is present, as they are where it isn't.

  alias EctoFoundationDB.{CastError, Schema}

  @doc "Fields by their sources, with the values that are stored."
  @spec dump(Schema.t(), atom(), Enumerable.t()) :: Schema.data()
  def dump(schema, action, changes) do
    for {field, value} <- changes,
        do: {Schema.field_source(schema, field), dump_value(schema, action, field, value)}
  end

  @doc "A value as it is stored, and as index keys are made from it."
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

  @doc """
  A value that a query compares with, as it is stored: cast first, as Ecto does, for it may come
  from a URL.
  """
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

  defp ecto_type(schema, field), do: if(Schema.ecto?(), do: Schema.type(schema, field))

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

  @typedoc "How stored records become structs of a tenant."
  @opaque loader :: {Schema.t(), info :: map(), meta :: term()}

  @doc """
  What `load/2` needs, made once for some records. It does not notice when the schema's code is loaded
  anew.
  """
  @spec loader(Schema.t(), term()) :: loader()
  def loader(schema, tenant) do
    info = Schema.info(schema)
    {schema, info, Schema.meta(info.empty, tenant)}
  end

  @doc "The schema of a loader's structs."
  @spec schema(loader()) :: Schema.t()
  def schema({schema, _info, _meta}), do: schema

  @doc "The struct of a stored record, given its fields as they are stored or as a map."
  @spec load(loader(), Schema.data() | map()) :: struct()
  def load({schema, %{empty: empty, renamed: sources, loaded: types}, meta}, data) do
    struct = Map.merge(empty, values(data, sources))
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
