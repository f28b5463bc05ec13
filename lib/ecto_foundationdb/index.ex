defmodule EctoFoundationDB.Index do
  @moduledoc """
  An index of a tenant, as created by its migrations. An `EctoFoundationDB.Indexer` receives it.

  - `name`: `:users_name_index`; a string if this version of the application does not know the index, which a
  newer version has created
  - `indexer`: the module that maintains it
  - `source`: the source of the schema whose records it indexes
  - `fields`: the indexed fields, in the index's order
  - `options`: the migration's `options:`
  """

  @enforce_keys [:name, :indexer, :source, :fields]
  defstruct [:name, :indexer, :source, :fields, options: []]

  @type t :: %__MODULE__{
          name: atom() | String.t(),
          indexer: module() | String.t(),
          source: String.t(),
          fields: [atom() | String.t()],
          options: keyword()
        }

  @doc false
  # As stored: these keys in this order.
  def to_data(%__MODULE__{} = index) do
    [
      id: index.name,
      type: :index,
      indexer: index.indexer,
      source: index.source,
      fields: index.fields,
      options: index.options
    ]
  end

  @doc false
  # The names may be strings (Layer.Term.decode_foreign/1).
  def from_data(data) when is_list(data) do
    get = fn name -> with {_, value} <- List.keyfind(data, name, 0), do: value end

    %__MODULE__{
      name: get.(:id),
      indexer: get.(:indexer) || EctoFoundationDB.Indexer.Default,
      source: get.(:source),
      fields: get.(:fields) || [],
      options: get.(:options) || []
    }
  end

  @doc false
  # Whether no two records may have the same values of the fields.
  def unique?(%__MODULE__{} = index), do: option(index, :unique, false) == true

  @doc false
  # A stored description after its index was rebuilt: different bytes, so that live lists notice.
  def rebuilt(data) do
    update_options(data, &Keyword.update(&1, :rebuilt, 1, fn times -> times + 1 end))
  end

  @doc false
  # Whether a stored description is this index's, rebuilt or not.
  def described?(data, %__MODULE__{} = index) do
    is_list(data) and update_options(data, &Keyword.delete(&1, :rebuilt)) == to_data(index)
  end

  defp update_options(data, update) do
    Enum.map(data, fn
      {:options, options} when is_list(options) -> {:options, update.(options)}
      other -> other
    end)
  end

  @doc false
  def option(%__MODULE__{options: options}, name, default) do
    case List.keyfind(options, name, 0) do
      {_, value} -> value
      nil -> default
    end
  end
end
