defmodule EctoFoundationDB.Sync.Container do
  @moduledoc false
  # What differs between a LiveView's socket and any other state. A socket is told by its struct's
  # name, and Phoenix's functions are called by name: this library compiles and runs without Phoenix.

  alias EctoFoundationDB.Sync.Many

  @hook :ecto_fdb_sync_hook

  defguardp is_socket(state) when is_struct(state, Phoenix.LiveView.Socket)

  @doc "Whether messages will reach this state. A LiveView's first, disconnected render ends at once."
  def connected?(state) when is_socket(state), do: live_view(:connected?, [state])
  def connected?(_state), do: true

  @doc "Assigns changes, a list of `{request, value}`."
  def assign(state, changes, opts) do
    case opts[:assign] do
      fun when is_function(fun, 2) ->
        fun.(state, Map.new(by_label(changes)))

      fun when is_function(fun, 4) ->
        # Records that are synced one by one are told apart from what is replaced as a whole.
        {idlist, std} = Enum.split_with(changes, &match?({%Many{}, _value}, &1))
        fun.(state, by_label(std), by_label(idlist), [{:idlist, :replace} | opts])

      _default when is_socket(state) ->
        apply(Phoenix.Component, :assign, [state, Map.new(by_label(changes))])

      _default ->
        %{state | assigns: put_all(state.assigns, changes)}
    end
  end

  defp by_label(changes), do: for({%{label: label}, value} <- changes, do: {label, value})

  defp put_all(assigns, []), do: assigns

  defp put_all(assigns, [{%{label: label}, value} | changes]),
    do: assigns |> Map.put(label, value) |> put_all(changes)

  @doc "Raises where no hook can be attached."
  def check!(%{assigns: %{myself: %{__struct__: Phoenix.LiveComponent.CID}}} = state, opts)
      when is_socket(state) do
    unless opts[:attach_container_hook] do
      raise ArgumentError,
            "a stateful LiveComponent can't sync: its messages arrive at the LiveView it is in, and " <>
              "LiveView allows no :handle_info hook in a component. Sync in the parent LiveView and " <>
              "pass the assigns to the component"
    end

    :ok
  end

  def check!(_state, _opts), do: :ok

  @doc "Has `handle` called with the process's messages, by the container's own means."
  def attach(state, repo, opts, handle) do
    name = {@hook, repo}

    case opts[:attach_container_hook] do
      nil when is_socket(state) ->
        detached = live_view(:detach_hook, [state, name, :handle_info])
        live_view(:attach_hook, [detached, name, :handle_info, handle])

      nil ->
        state

      fun ->
        fun.(state, name, repo, opts)
    end
  end

  def detach(state, repo, opts) do
    name = {@hook, repo}

    case opts[:detach_container_hook] do
      nil when is_socket(state) -> live_view(:detach_hook, [state, name, :handle_info])
      nil -> state
      fun -> fun.(state, name, repo, opts)
    end
  end

  # A call by name asks for no dependency, and warns of none.
  defp live_view(function, args), do: apply(Phoenix.LiveView, function, args)
end
