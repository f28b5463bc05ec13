defmodule EctoFoundationDB.Sync.Stream.Changes do
  @moduledoc """
  What has changed in a stream: the value of its label in callbacks and `:assign` functions.

    * `:reset?` - whether the stream begins again: nothing is shown but what is placed.
    * `:deleted` - the records that are shown no longer, as they were last.
    * `:placed` - `{:insert | :update | :move, place, record}`, by ascending places, counted from 0 at the top:
      records that are new here; that have other data; and that stand elsewhere among the others, with other
      data or not.

  To change a list of one's own in the same way: delete what is deleted and moved, replace what is updated,
  and insert what is inserted and moved, each at its place, in this order.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> state = %{assigns: %{}, private: %{tenant: tenant}}
      iex> assign = fn state, %{users: changes} -> put_in(state.assigns[:last], changes) end
      iex> state = Sync.sync_stream(state, Repo, :users, User, assign: assign)
      iex> for {:insert, place, user} <- state.assigns.last.placed, do: {place, user.name}
      [{0, "Ada"}, {1, "Bea"}]
      iex> Repo.delete!(%User{id: "u1"}, prefix: tenant)
      iex> message = receive do: ({_ref, :ready} = message -> message)
      iex> {:halt, state} = Sync.handle_ready(Repo, message, state)
      iex> {Enum.map(state.assigns.last.deleted, & &1.name), state.assigns.last.placed}
      {["Ada"], []}
  """

  defstruct reset?: false, deleted: [], placed: []

  @type t :: %__MODULE__{
          reset?: boolean(),
          deleted: [struct() | map()],
          placed: [{:insert | :update | :move, non_neg_integer(), struct() | map()}]
        }

  @doc false
  def any?(%__MODULE__{reset?: false, deleted: [], placed: []}), do: false
  def any?(%__MODULE__{}), do: true
end
