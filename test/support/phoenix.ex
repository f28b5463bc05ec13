# The parts of Phoenix LiveView that Sync uses, for machines without it: LiveView keeps hooks in the
# same place, and refuses the same things.
unless Code.ensure_loaded?(Phoenix.LiveView) do
  defmodule Phoenix.LiveComponent.CID do
    @moduledoc false
    defstruct [:cid]
  end

  defmodule Phoenix.LiveView.Socket do
    @moduledoc false
    defstruct assigns: %{__changed__: %{}},
              private: %{lifecycle: %{handle_info: []}},
              parent_pid: nil,
              root_pid: nil,
              transport_pid: nil
  end

  defmodule Phoenix.LiveView do
    @moduledoc false
    alias Phoenix.LiveView.Socket

    def connected?(%Socket{transport_pid: pid}), do: pid != nil

    def put_private(%Socket{private: private} = socket, key, value) when is_atom(key) do
      %{socket | private: Map.put(private, key, value)}
    end

    def attach_hook(%Socket{} = socket, id, :handle_info, fun) when is_function(fun, 2) do
      update(socket, fn hooks ->
        if Enum.any?(hooks, &(&1.id == id)),
          do: raise(ArgumentError, "existing hook #{inspect(id)}")

        hooks ++ [%{id: id, stage: :handle_info, function: fun}]
      end)
    end

    def detach_hook(%Socket{} = socket, id, :handle_info) do
      update(socket, fn hooks -> Enum.reject(hooks, &(&1.id == id)) end)
    end

    defp update(%Socket{assigns: %{myself: %{}}}, _fun) do
      raise ArgumentError, "lifecycle hooks are not supported on stateful components."
    end

    defp update(socket, fun), do: update_in(socket.private.lifecycle.handle_info, fun)

    defimpl Inspect, for: Socket do
      def inspect(_socket, _opts), do: "#Phoenix.LiveView.Socket<...>"
    end
  end

  defmodule Phoenix.Component do
    @moduledoc false
    alias Phoenix.LiveView.Socket

    def assign(%Socket{assigns: assigns} = socket, new) when is_map(new) do
      unless Enum.all?(Map.keys(new), &is_atom/1),
        do: raise(ArgumentError, "assigns must be atoms")

      changed = Map.new(new, fn {key, _value} -> {key, true} end)

      %{
        socket
        | assigns: assigns |> Map.merge(new) |> Map.update!(:__changed__, &Map.merge(&1, changed))
      }
    end
  end
end
