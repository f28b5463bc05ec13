defmodule EctoFoundationDB.Sync.Many do
  @moduledoc """
  Records by their primary keys, each watched by itself: `label` is assigned the list of those that
  exist, in the order of `ids`.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> state = %{assigns: %{}, private: %{tenant: tenant}}
      iex> many = %Sync.Many{label: :users, schema: User, ids: ["u2", "u1"]}
      iex> state = Sync.sync(state, Repo, [many])
      iex> Enum.map(state.assigns.users, & &1.name)
      ["Bea", "Ada"]
  """

  alias EctoFoundationDB.LiveQuery
  alias EctoFoundationDB.Schema
  alias EctoFoundationDB.Sync.Subscription

  @enforce_keys [:label, :schema, :ids]
  defstruct @enforce_keys ++ [:preload]

  @type t :: %__MODULE__{
          label: term(),
          schema: module(),
          ids: [term()] | nil,
          preload: term()
        }

  @doc false
  def prepare(%__MODULE__{schema: schema} = many, _tenant) do
    # Raises where it has none, or is no schema.
    Schema.primary_key(schema)
    many
  end

  @doc false
  def live_queries(%__MODULE__{schema: schema, ids: ids}, tenant) do
    queries = for id <- Enum.uniq(ids || []), do: LiveQuery.record(tenant, schema, id)
    {LiveQuery.basis(tenant), queries}
  end

  @doc false
  def known_live_queries(request, tenant), do: live_queries(request, tenant)

  @doc false
  def decoder(%__MODULE__{schema: schema}, tenant), do: LiveQuery.decoder(tenant, schema)

  @doc false
  def value(_many, results, [place], before)
      when is_list(before) and length(before) == tuple_size(results) do
    # There is a record for each id: this one is at its id's place.
    case Subscription.records(elem(results, place)) do
      [record] -> List.replace_at(before, place, record)
      [] -> List.delete_at(before, place)
    end
  end

  def value(_many, results, _news, _before),
    do: results |> Tuple.to_list() |> Enum.flat_map(&Subscription.records/1)

  @doc false
  def empty(_many), do: []
end
