defmodule EctoFoundationDB.Telemetry do
  # Each event is one line here, and its log line is one clause of EctoFoundationDB.Log.
  # {event, its measurements, its metadata beside the Repo, when it occurs}
  @events [
    {[:transaction],
     [:duration, :attempts, :conflicts, :unknown_results] ++
       [:reads, :read_bytes, :writes, :written_bytes],
     [:tenant, :result, :error, :code, :retried, :tag, :priority], "a transaction has ended"},
    {[:database, :locked], [], [:code, :reason], "a transaction has found the database locked"},
    {[:database, :unlocked], [:duration], [], "the database is no longer locked"},
    {[:migration, :begun], [:commands], [:tenant, :versions],
     "a node begins a tenant's migrations, or continues another node's"},
    {[:migration, :progress], [:duration, :steps], [:tenant, :version, :index],
     "a migration is in progress, every ten seconds"},
    {[:migration, :done], [:duration, :steps], [:tenant, :versions], "a migration has ended"},
    {[:sync, :watch_armed], [], [], "a watch is pending in the database"},
    {[:sync, :watch_fired], [], [], "the database has reported a change"},
    {[:sync, :watch_failed], [:code], [], "a watch has failed; it is armed again"},
    {[:sync, :refreshed], [:duration, :records, :subscribers, :changed], [],
     "a live query was read, once for all its subscribers"},
    {[:evaluation], [:duration, :dependencies], [:tenant, :function, :woken_by, :result, :error],
     "a live function was evaluated, once for all its subscribers"},
    {[:sync, :retry], [:code, :queries], [], "a read of live queries is tried again"},
    {[:sync, :unanswered], [:queries], [],
     "reads get no answer, and are tried beside the others from now on"},
    {[:sync, :watch_limit], [:watches], [:code, :reason], "the database takes no more watches"},
    {[:sync, :silent], [:live_queries], [:code, :reason],
     "the database has not answered for `stale_after:`"},
    {[:sync, :answering], [:duration, :live_queries], [], "the database answers again"},
    {[:sync, :stale], [:subscribers], [:code, :reason], "a live query can't be kept up to date"},
    {[:sync, :fresh], [:subscribers], [], "a live query is up to date again"},
    {[:gauges],
     [:round_trip, :subscriptions, :live_queries, :stale, :pending_watches, :max_watches] ++
       [:transactions, :batches_under_way, :queued, :oldest_waiting], [:status],
     "`gauges/1` was called"}
  ]

  @facts [
    attempts: "how often the transaction's function ran",
    batches_under_way: "transactions that read live queries now",
    changed: "whether the records have changed (1) or not (0)",
    code: "FoundationDB's error code",
    commands: "creates and drops of indexes that are left to do",
    conflicts: "attempts that lost against other transactions (1020)",
    dependencies: "keys that the result depends on, each of which is watched",
    duration: "how long it took, in native time units",
    error: "the exception of a `:result` that is `:error`, else `nil`",
    function: "the live function: a function, or `{module, function, arguments}`",
    index: "the index that is being built or dropped",
    live_queries: "live queries, each of which any number of subscriptions share",
    max_watches: "the Repo's option",
    oldest_waiting: "how long the oldest queued call or re-read has waited, in native time units",
    pending_watches: "pending watches of this node",
    priority: "`:batch`, `:default` or `:immediate`",
    queries: "live queries",
    queued: "calls and re-reads that wait for a batch",
    read_bytes: "bytes of the keys and values read, in all attempts",
    reads: "keys read, in all attempts",
    reason: "the reason as text",
    records: "the live query's records",
    result:
      "`:ok`; `:error` for an exception; `:cancelled` for a throw or an exit of the function",
    retried: "the codes after which the transaction was retried",
    round_trip: "how long a read version took, in native time units; missing without an answer",
    stale: "live queries that can't be kept up to date",
    status: "as in `EctoFoundationDB.health/2`",
    steps: "transactions of the migration so far",
    subscribers: "subscriptions concerned",
    subscriptions: "subscriptions of this node's processes",
    tag: "the call's `tag:`",
    tenant: "the tenant's id; `nil` for a transaction of the directory of tenants",
    transactions: "running transactions of this node's processes",
    unknown_results: "attempts that may or may not have committed (1021)",
    version: "the migration's version",
    versions: "the versions of the migrations",
    watches: "watches that are pending",
    woken_by: "the source whose record or list has changed; `nil` if that is not why",
    writes: "keys and ranges written, in all attempts",
    written_bytes: "bytes of the keys and values written, in all attempts"
  ]

  for {event, measurements, metadata, _when} <- @events,
      fact <- measurements ++ metadata,
      not Keyword.has_key?(@facts, fact),
      do: raise("#{inspect(event)}: #{inspect(fact)} is not documented")

  code = fn names -> Enum.map_join(names, ", ", &"`#{&1}`") end

  rows =
    for {event, measurements, metadata, at} <- @events do
      "| `#{inspect([:ecto_foundationdb | event])}` | #{code.(measurements)} | #{code.(metadata)} | #{at} |\n"
    end

  @moduledoc """
  Telemetry events of a Repo. They are executed if the `:telemetry` application runs when the Repo starts.

  The metadata always has `repo: MyApp.Repo`, too, and the measurements `count: 1`, for counters.
  `metrics/0` gives metrics of them for Phoenix LiveDashboard and for reporters.

  | event | measurements | metadata | when |
  | --- | --- | --- | --- |
  #{rows}
  The measurements and metadata:

  #{for {fact, what} <- @facts, do: "  * `#{fact}`: #{what}\n"}
  For example, to log transactions that take long or were retried:

      :telemetry.attach("slow", [:ecto_foundationdb, :transaction], fn _event, measurements, metadata, _ ->
        ms = System.convert_time_unit(measurements.duration, :native, :millisecond)

        if ms > 500 or measurements.attempts > 5,
          do: Logger.warning("\#{metadata.tenant}: \#{ms} ms, retried after \#{inspect(metadata.retried)}")
      end, nil)

  A single read, `Repo.get`, is also a transaction. Events that operators must know of are also logged, with or
  without telemetry (see the guide on operations).
  """

  alias EctoFoundationDB.Log

  # The NIF's events, by the names it uses.
  @from_nif for {[group, name] = event, _, _, _} when group in [:sync, :database] <- @events,
                into: %{},
                do: {name, event}

  @by_event Map.new(@events, fn {event, measurements, metadata, _when} ->
              {event, {measurements, metadata}}
            end)

  @doc """
  Executes `[:ecto_foundationdb, :gauges]` with the current values of `EctoFoundationDB.health/2` and
  `EctoFoundationDB.Sync.stats/1`. Let `:telemetry_poller` call it periodically:

      {:telemetry_poller,
       measurements: [{EctoFoundationDB.Telemetry, :gauges, [MyApp.Repo]}], period: 10_000}

  It asks the database for a read version, and waits at most a second for it.
  """
  @spec gauges(module()) :: :ok
  def gauges(repo) do
    health = EctoFoundationDB.health(repo)
    native = &System.convert_time_unit(&1, :microsecond, :native)

    round_trip =
      if health.round_trip_us, do: [round_trip: native.(health.round_trip_us)], else: []

    facts =
      Map.take(health, [:subscriptions, :live_queries, :stale, :pending_watches, :max_watches])
      |> Map.merge(Map.take(health, [:transactions, :batches_under_way, :queued, :status]))
      |> Map.put(:oldest_waiting, native.(health.oldest_waiting_us))

    report(repo, [:gauges], round_trip ++ Map.to_list(facts))
  end

  @doc """
  Metrics of these events, as `Telemetry.Metrics` defines them: for the `metrics:` of Phoenix LiveDashboard or of
  a reporter. They are tagged with the Repo.

      def metrics do
        EctoFoundationDB.Telemetry.metrics() ++ [summary("phoenix.endpoint.stop.duration")]
      end

  Those of `[:ecto_foundationdb, :gauges]` need `gauges/1` to be called periodically. Raises an `ArgumentError`
  if the package `telemetry_metrics` is not a dependency.
  """
  @spec metrics() :: [struct()]
  def metrics do
    unless Code.ensure_loaded?(Telemetry.Metrics) do
      raise ArgumentError,
            "these metrics are Telemetry.Metrics', and that package is not there. Add " <>
              "{:telemetry_metrics, \"~> 1.0\"} to the dependencies"
    end

    ms = [unit: {:native, :millisecond}]

    Enum.concat([
      [
        metric(:summary, [:transaction, :duration], ms),
        metric(:counter, [:transaction, :count], tags: [:repo, :result]),
        metric(:summary, [:sync, :refreshed, :duration], ms),
        metric(:last_value, [:gauges, :round_trip], ms),
        metric(:last_value, [:gauges, :oldest_waiting], ms)
      ],
      for fact <- [:conflicts, :unknown_results, :reads, :read_bytes, :writes, :written_bytes] do
        metric(:sum, [:transaction, fact])
      end,
      for event <- [:watch_fired, :watch_failed, :retry, :unanswered, :silent, :stale, :fresh] do
        metric(:counter, [:sync, event, :count])
      end,
      for fact <-
            [:subscriptions, :live_queries, :stale, :pending_watches, :transactions, :queued] do
        metric(:last_value, [:gauges, fact])
      end
    ])
  end

  # Found at run time: the library compiles without it.
  defp metric(kind, name, opts \\ []) do
    opts = Keyword.merge([tags: [:repo], tag_values: &%{&1 | repo: inspect(&1.repo)}], opts)
    apply(Telemetry.Metrics, kind, [[:ecto_foundationdb | name], opts])
  end

  @doc false
  # Checks whether telemetry is running, when a Repo starts.
  def detect do
    # Being loaded is not enough: without its application, each event would log a warning.
    on? = List.keymember?(Application.started_applications(), :telemetry, 0)
    :persistent_term.put(__MODULE__, on?)
    on?
  end

  @doc false
  def on?, do: :persistent_term.get(__MODULE__, false)

  @doc false
  # Passes an event's facts to telemetry and to the log.
  @spec report(module(), [atom()], keyword(), log?: boolean()) :: :ok
  def report(repo, event, facts, opts \\ []) do
    if on?(), do: execute(repo, event, facts)
    if Keyword.get(opts, :log?, true), do: Log.event(repo, event, facts), else: :ok
  end

  @doc false
  def execute(repo, event, facts) do
    {measurements, metadata} = Map.fetch!(@by_event, event)
    measurements = facts |> Keyword.take(measurements) |> Map.new() |> Map.put(:count, 1)
    metadata = facts |> Keyword.take(metadata) |> Map.new() |> Map.put(:repo, repo)
    # Called at run time, because the library also compiles without it.
    apply(:telemetry, :execute, [[:ecto_foundationdb | event], measurements, metadata])
    :ok
  end

  @doc false
  # The event with this name in the NIF.
  def event(name), do: Map.fetch!(@from_nif, name)
end
