defmodule EctoFoundationDB.UniqueError do
  @moduledoc """
  A record would have the same values as another one in the fields of a unique index.

  `index` is the index's name, `ids` the primary keys of a few records that have these values.
  """
  defexception [:index, :schema, :fields, :ids]

  @type t :: %__MODULE__{
          index: atom() | String.t(),
          schema: module() | String.t(),
          fields: [atom()],
          ids: [term()]
        }

  @impl true
  def message(%{index: index, schema: schema, fields: fields, ids: ids}) do
    "the unique index #{index} of #{inspect(schema)} allows only one record with the same #{inspect(fields)}; " <>
      "these have them: #{inspect(ids, limit: 10)}"
  end
end
