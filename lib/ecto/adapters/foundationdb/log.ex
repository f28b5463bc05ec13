if Code.ensure_loaded?(Ecto.Adapter) do
  defmodule Ecto.Adapters.FoundationDB.Log do
    @moduledoc false
    # The telemetry event and the log message of an operation, as Ecto's SQL adapters have them.

    require Logger

    @doc """
    Runs an operation, and tells of it. `what` has the `:source` and the `:query` in words. The function gives
    its result and the native time that went into rows, of that.
    """
    @spec run(map(), keyword(), map(), (() -> {result, decode_time :: non_neg_integer() | nil})) ::
            result
          when result: term()
    def run(meta, opts, what, fun) do
      began = System.monotonic_time()

      try do
        fun.()
      rescue
        error ->
          tell(meta, opts, what, began, nil, {:error, error})
          reraise error, __STACKTRACE__
      else
        {result, decode_time} ->
          tell(meta, opts, what, began, decode_time, {:ok, result})
          result
      end
    end

    defp tell(
           %{telemetry: {_repo, default, event}} = meta,
           opts,
           what,
           began,
           decode_time,
           result
         ) do
      total = System.monotonic_time() - began
      event = Keyword.get(opts, :telemetry_event, event)
      level = level(Keyword.get(opts, :log, default), default)

      # Most often nobody listens.
      if level != nil or (event != nil and :telemetry.list_handlers(event) != []) do
        measurements = measurements(total, decode_time)
        metadata = metadata(meta, opts, what, result)
        if event, do: :telemetry.execute(event, measurements, metadata)
        if level, do: log(level, measurements, metadata)
      end
    end

    # The level to log with, where that is enabled.
    defp level(level, _default) when level in [nil, false], do: nil
    defp level(true, default) when default in [nil, false, true], do: level(:debug, :debug)
    defp level(true, default), do: level(default, default)

    defp level(level, _default),
      do: if(Logger.compare_levels(level, Logger.level()) != :lt, do: level)

    defp measurements(total, nil), do: %{total_time: total, query_time: total}

    defp measurements(total, decode_time),
      do: %{total_time: total, query_time: total - decode_time, decode_time: decode_time}

    defp metadata(%{telemetry: {repo, _log, _event}}, opts, what, result) do
      %{
        type: :ecto_fdb_query,
        repo: repo,
        result: result,
        params: Map.get(what, :params, []),
        cast_params: opts[:cast_params],
        query: if(is_function(what.query), do: what.query.(), else: what.query),
        source: what.source,
        stacktrace: opts[:stacktrace],
        options: Keyword.get(opts, :telemetry_options, [])
      }
    end

    defp log(level, measurements, metadata) do
      Logger.log(
        level,
        fn ->
          [
            "QUERY ",
            if(match?({:ok, _}, metadata.result), do: "OK", else: "ERROR"),
            if(metadata.source, do: " source=#{inspect(metadata.source)}", else: ""),
            time(" db", measurements.query_time),
            time(" decode", measurements[:decode_time]),
            "\n",
            metadata.query,
            " ",
            inspect(metadata.cast_params || metadata.params, charlists: false)
          ]
        end,
        ansi_color: :cyan
      )
    end

    defp time(_name, nil), do: ""

    defp time(name, native) do
      microseconds = System.convert_time_unit(native, :native, :microsecond)
      [name, ?=, :io_lib.format("~.1f", [microseconds / 1000]), "ms"]
    end
  end
end
