defmodule EctoFoundationDB.Layer.Source do
  @moduledoc false
  # The layer's knowledge of the records it reads and writes: their source's name, their primary key, and the
  # types that determine how values become keys. Everything below the Repos uses stored fields: the names under
  # which values are stored, and the values as they are stored.

  alias EctoFoundationDB.{Schema, Versionstamp}
  alias EctoFoundationDB.Exception.Unsupported
  @enforce_keys [:name]
  defstruct [
    :name,
    # The module for indexers and errors, or nil: a source without a schema has none.
    :schema,
    # The stored names of the schema's fields; nil without a schema.
    :fields,
    # The stored name of the field that clusters records (`partition_by:`), or nil.
    :partition_by,
    # The stored name of the primary key.
    id: :id,
    types: %{},
    # From field names to stored names, if those differ.
    stored: %{},
    write_primary?: true
  ]

  @type t :: %__MODULE__{
          name: String.t(),
          schema: Schema.t() | nil,
          fields: [atom()] | nil,
          partition_by: atom() | nil,
          id: atom(),
          types: %{atom() => term()},
          stored: %{atom() => atom()},
          write_primary?: boolean()
        }

  @doc "The source of a schema."
  @spec of(Schema.t()) :: t()
  def of(schema), do: Schema.info(schema).source

  @doc "The records of a schema, or of no schema, under this name."
  @spec of(Schema.t() | nil, String.t()) :: t()
  def of(nil, name), do: %__MODULE__{name: name}

  def of(schema, name) do
    case of(schema) do
      %{name: ^name} = source -> source
      source -> %{source | name: name}
    end
  end

  @doc "The source of a schema whose records can be watched by their primary keys; raises for others."
  @spec watchable!(Schema.t()) :: t()
  def watchable!(schema) do
    source = of(schema)

    unless source.write_primary? do
      raise Unsupported,
            "#{inspect(schema)} has `write_primary: false`: there is no record to watch"
    end

    source
  end

  @doc "The stored name of a field, which may be that name already."
  @spec stored(t(), atom() | String.t()) :: atom() | String.t()
  def stored(%__MODULE__{stored: stored}, field), do: Map.get(stored, field, field)

  @doc "The type of a stored field, or nil if it is unknown."
  @spec type(t(), atom() | String.t()) :: term()
  def type(%__MODULE__{types: types}, name), do: Map.get(types, name)

  @doc "Whether commits create the primary keys."
  @spec versionstamps?(t()) :: boolean()
  def versionstamps?(%__MODULE__{} = source), do: Versionstamp.type?(type(source, source.id))

  @doc "For errors: the schema, or the source's name."
  @spec describe(t()) :: String.t()
  def describe(%__MODULE__{schema: nil, name: name}), do: inspect(name)
  def describe(%__MODULE__{schema: schema}), do: inspect(schema)
end
