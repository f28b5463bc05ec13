defmodule EctoFoundationDB.Sync.All do
  @moduledoc """
  The records of a schema, or those with the values `by`: `label` is assigned their list.

  `queryable` is a schema, `{schema, options}` with `:where`, `:order_by` and `:limit`, or an `Ecto.Query`.
  `watch_action` says which of the changes counted by `EctoFoundationDB.Indexer.SchemaMetadata`
  are followed: `:inserts`, `:deletes`, `:collection` (both), `:updates` or `:changes` (all).

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> state = %{assigns: %{}, private: %{tenant: tenant}}
      iex> all = %Sync.All{label: :users, queryable: {User, order_by: [desc: :id]}}
      iex> state = Sync.sync(state, Repo, [all])
      iex> Enum.map(state.assigns.users, & &1.name)
      ["Bea", "Ada"]
  """

  alias EctoFoundationDB.LiveQuery
  alias EctoFoundationDB.Sync.Subscription

  @enforce_keys [:label, :queryable]
  defstruct [:label, :queryable, :query, :preload, by: [], watch_action: :changes]

  @type t :: %__MODULE__{
          label: term(),
          queryable: EctoFoundationDB.Sync.queryable(),
          by: keyword() | map(),
          watch_action: :inserts | :deletes | :collection | :updates | :changes,
          preload: term()
        }

  @doc false
  def prepare(%__MODULE__{by: by} = all, tenant) do
    {queryable, options} =
      case all.queryable do
        {queryable, options} -> {queryable, options}
        queryable -> {queryable, []}
      end

    %{all | query: LiveQuery.query(tenant, queryable, Enum.to_list(by), options)}
  end

  @doc false
  def live_queries(%__MODULE__{query: query, by: by, watch_action: action}, _tenant) do
    {basis, live_query} = LiveQuery.all(query, Enum.to_list(by), action)
    {basis, [live_query]}
  end

  @doc false
  def known_live_queries(%__MODULE__{query: query, by: by, watch_action: action}, _tenant) do
    with {basis, live_query} <- LiveQuery.known(query, Enum.to_list(by), action),
         do: {basis, [live_query]}
  end

  @doc false
  def decoder(%__MODULE__{query: query}, _tenant), do: LiveQuery.decoder(query)

  @doc false
  def value(%__MODULE__{query: query}, {result}, _news, _before),
    do: LiveQuery.arrange(query, Subscription.records(result))

  @doc false
  def empty(_all), do: []
end
