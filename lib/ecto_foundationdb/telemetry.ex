defmodule EctoFoundationDB.Telemetry do
  @moduledoc """
  Telemetry events of a Repo's live queries, where the `:telemetry` application runs when the Repo
  starts.

  Each is `[:ecto_foundationdb, :sync, event]` with the metadata `%{repo: MyApp.Repo}`:

  | event | measurements | when |
  | --- | --- | --- |
  | `:watch_armed` | | a watch is pending in the database |
  | `:watch_fired` | | the database has told of a change |
  | `:watch_failed` | `code` | a watch ended with FoundationDB's error `code`; it is armed again |
  | `:refreshed` | `duration`, `records`, `subscribers`, `changed` | a live query was read, once for all its subscribers: how long that took in native time units, the number of records, whether they have changed (1) or not (0) |
  | `:retry` | `code`, `queries` | a read of so many live queries is tried again |
  | `:stale`, `:fresh` | `subscribers` | so many subscribers' data can't be kept up to date; can be again |

      :telemetry.attach("slow reads", [:ecto_foundationdb, :sync, :refreshed], fn _event, measurements, _, _ ->
        ms = System.convert_time_unit(measurements.duration, :native, :millisecond)
        if ms > 100, do: Logger.warning("a live query took \#{ms} ms")
      end, nil)
  """

  use GenServer

  alias EctoFoundationDB.{Connection, Native}

  @doc false
  @spec start_link(module()) :: GenServer.on_start() | :ignore
  def start_link(instance) do
    %{database: database, repo: repo} = Connection.fetch!(instance)

    # Loaded is not enough: without its application each event would be a warning of its own.
    if List.keymember?(Application.started_applications(), :telemetry, 0),
      do: GenServer.start_link(__MODULE__, {repo, database, self()}),
      else: :ignore
  end

  @impl true
  def init({repo, database, owner}) do
    # A link says nothing where the Repo's process is stopped in peace.
    Process.monitor(owner)
    :ok = Native.reporter(database)
    {:ok, %{repo: repo}}
  end

  @impl true
  def handle_info({:event, name, measurements}, metadata) do
    measurements = Map.new(measurements, &measurement/1)
    # Found at run time: the library compiles without it.
    apply(:telemetry, :execute, [[:ecto_foundationdb, :sync, name], measurements, metadata])
    {:noreply, metadata}
  end

  def handle_info({:DOWN, _ref, :process, _owner, _reason}, metadata),
    do: {:stop, :normal, metadata}

  def handle_info(_message, metadata), do: {:noreply, metadata}

  defp measurement({:duration, microseconds}),
    do: {:duration, System.convert_time_unit(microseconds, :microsecond, :native)}

  defp measurement(measurement), do: measurement
end
