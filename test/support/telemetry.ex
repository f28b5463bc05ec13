# Replaces `:telemetry` if it is missing: the functions that a Repo calls, to test that it does.
unless Code.ensure_loaded?(:telemetry) do
  defmodule :telemetry do
    @moduledoc false

    def execute(event, measurements, metadata) do
      for {_id, {events, fun, config}} <- :persistent_term.get(__MODULE__, %{}),
          event in events do
        fun.(event, measurements, metadata, config)
      end

      :ok
    end

    def attach_many(id, events, fun, config) do
      handlers = :persistent_term.get(__MODULE__, %{})
      :persistent_term.put(__MODULE__, Map.put(handlers, id, {events, fun, config}))
    end
  end
end
