defmodule EctoFoundationDB.Sync.One do
  @moduledoc """
  One record, by its primary key: `label` is assigned the struct, or `nil` while there is none.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> state = %{assigns: %{}, private: %{tenant: tenant}}
      iex> state = Sync.sync(state, Repo, [%Sync.One{label: :user, schema: User, id: "u1"}])
      iex> state.assigns.user.name
      "Ada"
  """

  alias EctoFoundationDB.LiveQuery
  alias EctoFoundationDB.Schema
  alias EctoFoundationDB.Sync.Subscription

  @enforce_keys [:label, :schema, :id]
  defstruct [:label, :schema, :id, :on_missing, :preload]

  @type t :: %__MODULE__{
          label: term(),
          schema: module(),
          id: term(),
          on_missing: :raise | nil,
          preload: term()
        }

  @doc false
  def prepare(%__MODULE__{schema: schema} = one, _tenant) do
    # Raises where it has none, or is no schema.
    Schema.primary_key(schema)
    one
  end

  @doc false
  def live_queries(%__MODULE__{schema: schema, id: id}, tenant),
    do: {LiveQuery.basis(tenant), [LiveQuery.record(tenant, schema, id)]}

  @doc false
  def known_live_queries(request, tenant), do: live_queries(request, tenant)

  @doc false
  def decoder(%__MODULE__{schema: schema}, tenant), do: LiveQuery.decoder(tenant, schema)

  @doc false
  def value(_one, {result}, _news, _before), do: result |> Subscription.records() |> List.first()

  @doc "For the error of a record that is not there."
  @spec missing(t()) :: String.t()
  def missing(%__MODULE__{schema: schema, id: id}),
    do: "there is no #{inspect(schema)} with the primary key #{inspect(id)}"

  @doc false
  def empty(_one), do: nil
end
