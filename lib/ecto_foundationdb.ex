defmodule EctoFoundationDB do
  @moduledoc """
  Repositories on FoundationDB. See `EctoFoundationDB.Repo` for records, `EctoFoundationDB.Sync` for pages
  that follow them, and `EctoFoundationDB.Tenant` for the parts of a database. This module reports a Repo's health.
  """

  alias EctoFoundationDB.{Connection, Deadline, Error, Native}

  @typedoc """
  The result of `health/2`.

    * `:status`: `:ok`; `:locked`; `:failing` if the database answers with a different error, `:last_error`;
      `:unreachable` if it does not answer in time
    * `:since`: since when, as far as this node knows. For `:unreachable` the time of its last answer; `nil`
      if it has never answered
    * `:last_answer`, and `:last_error` with its time (`nil` if there was none), of this Repo's
      transactions. Conflicts and similar errors don't count
    * `:round_trip_us`: how many microseconds it took to get a read version; `nil` without an answer
    * `:batches_under_way`, `:queued`: transactions that read live queries, and the reads that wait for one;
      `:oldest_waiting_us`: for how long
    * `:subscriptions`, `:live_queries`, `:stale`, `:pending_watches`, `:max_watches`, `:transactions`: as
      in `EctoFoundationDB.Sync.stats/1`, and the Repo's option
    * `:database`: `{:cluster_file, path}`, `{:file, path}` or `:memory`
    * `:coordinators`: their addresses, `:coordinator` the one in use
    * `:library`: the client library's path, or `:embedded`; its `:version` and `:protocol`, and the
      `:api_version` that this package uses
    * `:clients`: `{version, protocol}` of all loaded client libraries, including those of
      `external_client_directory:`; `:cluster_protocol` the cluster's, if there are several
    * `:connections`: the cluster's processes that this client knows: `:address`, `:status` (`"connected"`,
      `"connecting"`, `"disconnected"`, `"failed"`), `:connect_failed_count`, `:ping_timeouts`,
      `:compatible`, `:protocol`; `:failed_connections` is the number of failed ones
    * `:client_error`: why the client's own data are missing, or `nil`
  """
  @type health :: %{
          status: :ok | :locked | :failing | :unreachable,
          since: DateTime.t() | nil,
          last_answer: DateTime.t() | nil,
          last_error: {DateTime.t(), Error.t()} | nil,
          round_trip_us: non_neg_integer() | nil,
          batches_under_way: non_neg_integer(),
          queued: non_neg_integer(),
          oldest_waiting_us: non_neg_integer(),
          subscriptions: non_neg_integer(),
          live_queries: non_neg_integer(),
          stale: non_neg_integer(),
          pending_watches: non_neg_integer(),
          max_watches: non_neg_integer(),
          transactions: non_neg_integer(),
          database: {:cluster_file, Path.t()} | {:file, Path.t()} | :memory,
          coordinators: [String.t()],
          coordinator: String.t() | nil,
          library: Path.t() | :embedded,
          version: String.t(),
          protocol: String.t(),
          api_version: pos_integer(),
          clients: [{version :: String.t(), protocol :: String.t()}],
          cluster_protocol: String.t() | nil,
          connections: [map()],
          failed_connections: non_neg_integer(),
          client_error: Error.t() | nil
        }

  # The client returns its status immediately, or not for a second.
  @client_ms 1_100

  @doc """
  The health of a Repo's database: asks it for a read version, for at most `timeout:` ms (1,000), and its client
  for its status. This does not check storage servers whose data nobody reads:
  `EctoFoundationDB.Sync.stats/1` returns the number of stale live queries.

      iex> health = EctoFoundationDB.health(Repo)
      iex> {health.status, health.failed_connections, health.api_version}
      {:ok, 0, 730}
  """
  @spec health(module(), keyword()) :: health()
  def health(repo, opts \\ []) do
    opts = Keyword.validate!(opts, timeout: 1_000)
    connection = repo |> Connection.instance() |> Connection.fetch!()
    timeout = opts[:timeout]

    unless is_integer(timeout) and timeout > 0 do
      raise ArgumentError,
            "timeout: expected a positive number of milliseconds, got: #{inspect(timeout)}"
    end

    ref = make_ref()
    :ok = Native.health(connection.database, ref, timeout)
    deadline = Deadline.new(timeout + @client_ms + 5_000)

    receive do
      {^ref, report} -> build(report, connection)
    after
      # The client's threads are too busy to answer.
      Deadline.left(deadline) ->
        raise EctoFoundationDB.TimeoutError,
          timeout: deadline.timeout,
          doing: "asking the client for its health"
    end
  end

  defp build(report, %{database: database, config: config}) do
    {client, report} = Map.pop(report, :client)
    client_facts = Native.client_facts()
    counted = [:subscriptions, :live_queries, :stale, :pending_watches, :transactions]

    known = %{
      coordinators: [],
      coordinator: nil,
      clients: [],
      connections: [],
      failed_connections: 0
    }

    report
    |> Map.merge(known)
    |> Map.merge(Map.take(client || %{}, Map.keys(known)))
    |> Map.merge(Map.take(client_facts, [:version, :protocol, :api_version]))
    |> Map.merge(Map.take(Native.stats(database), counted))
    |> Map.merge(%{
      since: time(report.since),
      last_answer: time(report.last_answer),
      last_error: with({at, error} <- report.last_error, do: {time(at), Error.exception(error)}),
      client_error: report.client_error && Error.exception(report.client_error),
      cluster_protocol: client && client.protocol,
      database: place(Native.database_facts(database)),
      library: client_facts.library || :embedded,
      max_watches: config[:max_watches]
    })
  end

  defp time(nil), do: nil
  defp time(milliseconds), do: DateTime.from_unix!(milliseconds, :millisecond)

  defp place(%{cluster_file: file}) when is_binary(file), do: {:cluster_file, file}
  defp place(%{file: file}) when is_binary(file), do: {:file, file}
  defp place(_facts), do: :memory
end
