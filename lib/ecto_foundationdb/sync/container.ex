defmodule EctoFoundationDB.Sync.Container do
  @moduledoc false
  # What differs between a LiveView's socket and any other state. A socket is told by its struct's
  # name, and Phoenix's functions are called by name: this library compiles and runs without Phoenix.

  alias EctoFoundationDB.Sync.{LiveStream, Many, Stream}

  @hook :ecto_fdb_sync_hook

  defguardp is_socket(state) when is_struct(state, Phoenix.LiveView.Socket)

  @doc "Whether messages will reach this state. A LiveView's first, disconnected render ends at once."
  def connected?(state) when is_socket(state), do: live_view(:connected?, [state])
  def connected?(_state), do: true

  @doc """
  Assigns changes, a list of `{request, assign, old, new}`: each by the function in the options, or its
  own, or the container's means.
  """
  def assign(state, [{request, own, _old, new} = change | changes], opts) do
    case opts[:assign] || own do
      nil when is_struct(request, Stream) ->
        state |> LiveStream.put(request.label, new) |> assign(changes, opts)

      _assigned ->
        assign_alike(state, change, own, changes, opts)
    end
  end

  def assign(state, [], _opts), do: state

  defp assign_alike(state, change, own, changes, opts) do
    # Changes that are assigned alike, by one call.
    {alike, others} = if opts[:assign], do: {changes, []}, else: split(changes, own)
    state = assign(state, [change | alike], opts[:assign] || own, opts)
    assign(state, others, opts)
  end

  defp split([], _own), do: {[], []}
  defp split(changes, nil), do: Enum.split_with(changes, &plain?/1)
  defp split(changes, own), do: Enum.split_with(changes, &match?({_, ^own, _, _}, &1))

  # Streams are put each by itself.
  defp plain?({request, own, _old, _new}), do: own == nil and not is_struct(request, Stream)

  defp assign(state, changes, fun, _opts) when is_function(fun, 2),
    do: fun.(state, Map.new(by_label(changes)))

  defp assign(state, changes, fun, opts) when is_function(fun, 4) do
    # Records that are synced one by one are told apart from what is replaced as a whole.
    {idlist, std} = Enum.split_with(changes, &match?({%Many{}, _, _, _}, &1))
    fun.(state, by_label(std), by_label(idlist), [{:idlist, :replace} | opts])
  end

  defp assign(state, changes, nil, _opts) when is_socket(state),
    do: apply(Phoenix.Component, :assign, [state, Map.new(by_label(changes))])

  defp assign(state, changes, nil, _opts), do: %{state | assigns: put_all(state.assigns, changes)}

  defp by_label(changes), do: for({%{label: label}, _, _, value} <- changes, do: {label, value})

  defp put_all(assigns, []), do: assigns

  defp put_all(assigns, [{%{label: label}, _, _, value} | changes]),
    do: assigns |> Map.put(label, value) |> put_all(changes)

  @doc "Raises where no hook can be attached, and in a process that is not the LiveView's."
  def check!(state, opts) do
    check_process!(state)
    check_hook!(state, opts)
  end

  # What changes is sent to the process that syncs: a task's end with it, and its socket is thrown away.
  defp check_process!(state) when is_socket(state) do
    if connected?(state) and elsewhere?(state) do
      raise ArgumentError,
            "expected to be called in the LiveView's process, got called in another one, such as a task " <>
              "of assign_async or start_async: what changes would be sent to that process, and the page " <>
              "would never follow. Sync in mount, handle_params, handle_event, handle_info or " <>
              "handle_async; in the task, read with the Repo"
    end
  end

  defp check_process!(_state), do: :ok

  # A LiveView in another one has a process of its own, which its socket does not name. A task says that it
  # began with an anonymous function.
  defp elsewhere?(%{parent_pid: nil, root_pid: root}) when is_pid(root), do: root != self()

  defp elsewhere?(%{parent_pid: parent}) when is_pid(parent) do
    with {_module, function, _arity} <- Process.get(:"$initial_call"),
         do: String.starts_with?(Atom.to_string(function), "-"),
         else: (_unknown -> false)
  end

  defp elsewhere?(_socket), do: false

  defp check_hook!(%{assigns: %{myself: %{__struct__: Phoenix.LiveComponent.CID}}} = state, opts)
       when is_socket(state) do
    unless opts[:attach_container_hook] do
      raise ArgumentError,
            "a stateful LiveComponent can't sync: its messages arrive at the LiveView it is in, and " <>
              "LiveView allows no :handle_info hook in a component. Sync in the parent LiveView and " <>
              "pass the assigns to the component"
    end

    :ok
  end

  defp check_hook!(_state, _opts), do: :ok

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
