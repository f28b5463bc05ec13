defmodule EctoFoundationDB.Sync.One do
  @moduledoc """
  One record, by its primary key: `label` is assigned the struct, or `nil` while there is none.
  """

  alias EctoFoundationDB.LiveQuery
  alias EctoFoundationDB.Schema

  @enforce_keys [:label, :schema, :id]
  defstruct @enforce_keys

  @type t :: %__MODULE__{label: term(), schema: module(), id: term()}

  @doc false
  def prepare(%__MODULE__{schema: schema} = one, _tenant) do
    # Raises where it has none, or is no schema.
    Schema.primary_key(schema)
    one
  end

  @doc false
  def live_queries(%__MODULE__{schema: schema, id: id}, tenant) do
    [LiveQuery.record(tenant, schema, id)]
  end

  @doc false
  def schema(%__MODULE__{schema: schema}), do: schema

  @doc false
  def decode(%__MODULE__{schema: schema}, tenant, rows) do
    LiveQuery.decode(tenant, schema, rows)
  end

  @doc false
  def value(_one, [records]), do: List.first(records)

  @doc false
  def empty(_one), do: nil
end
