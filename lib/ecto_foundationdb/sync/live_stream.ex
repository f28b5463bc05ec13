defmodule EctoFoundationDB.Sync.LiveStream do
  @moduledoc false
  # LiveView's streams. Its functions and structs are called by name: this library compiles and runs without
  # Phoenix.
  #
  # LiveView tells the client of deletions first, then of insertions in their order, each at its place at that
  # moment; what the client has already is updated where it is. So what moves is deleted and inserted, and
  # ascending places are final ones. What has not been rendered yet is part of the same answer to the client,
  # where only the last word on each element counts: then the stream begins again.

  alias EctoFoundationDB.Native
  alias EctoFoundationDB.Sync.Stream
  alias EctoFoundationDB.Sync.Stream.Changes

  @result Phoenix.LiveView.AsyncResult

  defguardp is_socket(state) when is_struct(state, Phoenix.LiveView.Socket)

  @doc "Changes the stream of a LiveView. Any other state has none."
  @spec put(map(), term(), Changes.t() | struct()) :: map()
  def put(state, name, %{__struct__: @result, result: result} = async) do
    changes = if is_struct(result, Changes), do: result, else: %Changes{}
    async = if is_struct(result, Changes), do: %{async | result: true}, else: async

    state
    |> put(name, changes)
    |> assign(name, async)
  end

  def put(state, name, %Changes{reset?: true, placed: placed}) when is_socket(state) do
    records = for {_how, _place, record} <- placed, do: record
    state = forget(state, name)
    live_view(:stream, [state, name, records, [reset: true]])
  end

  def put(state, name, %Changes{deleted: deleted, placed: placed}) when is_socket(state) do
    state = if find(state, name), do: state, else: live_view(:stream, [state, name, []])
    moved = for {:move, _place, record} <- placed, do: record
    state = Enum.reduce(moved, state, &live_view(:stream_delete, [&2, name, &1]))
    state = Enum.reduce(deleted, state, &live_view(:stream_delete, [&2, name, &1]))

    Enum.reduce(placed, state, fn {_how, place, record}, state ->
      live_view(:stream_insert, [state, name, record, [at: place]])
    end)
  end

  def put(state, _name, %Changes{}), do: state

  defp assign(state, name, value) when is_socket(state),
    do: apply(Phoenix.Component, :assign, [state, name, value])

  defp assign(state, name, value), do: put_in(state.assigns[name], value)

  @doc "Has streams of which something is not rendered yet taken as a whole next time."
  @spec renew(map(), [{Native.subscription(), map()}]) :: :ok
  def renew(state, ready) when is_socket(state) do
    for {subscription, %{request: %Stream{label: name}}} <- ready,
        not rendered?(state, name),
        do: Native.untake(subscription)

    :ok
  end

  def renew(_state, _ready), do: :ok

  @doc "Whether the client has been told of all that is in a stream."
  @spec rendered?(map(), term()) :: boolean()
  def rendered?(state, name) when is_socket(state) do
    case find(state, name) do
      nil ->
        false

      %{inserts: inserts, deletes: deletes, reset?: reset?} ->
        inserts == [] and deletes == [] and not reset?
    end
  end

  def rendered?(_state, _name), do: true

  # The client has not heard of it, and does not need to. LiveView has no function for that.
  defp forget(state, name) do
    case find(state, name) do
      nil ->
        state

      stream ->
        stream = %{stream | inserts: [], deletes: []}
        apply(Phoenix.Component, :update, [state, :streams, &Map.put(&1, name, stream)])
    end
  end

  defp find(%{assigns: %{streams: streams}}, name) when is_map_key(streams, name),
    do: Map.fetch!(streams, name)

  defp find(_state, _name), do: nil

  defp live_view(function, args), do: apply(Phoenix.LiveView, function, args)
end
