defmodule EctoFoundationDB do
  @moduledoc """
  Repositories on FoundationDB. See `EctoFoundationDB.Repo` for records, `EctoFoundationDB.Sync` for pages
  that follow them, and `EctoFoundationDB.Tenant` for the parts of a database. This module reports a Repo's health.
  """

  alias EctoFoundationDB.{Connection, Deadline, Error, Evaluation, Native}
  alias EctoFoundationDB.Layer.Keys

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

  @typedoc """
  What `live_queries/2` gives of one live query.

    * `:tenant`: its tenant's id; `nil` for a Repo without tenants
    * `:source`, and `:query`: `{:record, primary_key}`, `:all`, or `{:by, counter, values}` for a list of
      the records with these values, by the name of the SchemaMetadata index that counts their changes.
      `:watched` is the key whose change leads to a re-read. Of a live function `:query` is
      `{:function, function}`, without a source, and `:watched` is empty
    * `:subscribers`: the subscriptions that share it
    * `:records`, `:bytes`: what it holds, keys included
    * `:read_us`: how many microseconds its last read took
    * `:changed_ms`: for how many milliseconds it has held these data
    * `:stale`: why it can't be kept up to date, or `nil`
  """
  @type live_query :: %{
          tenant: String.t() | nil,
          source: String.t() | nil,
          query:
            {:record, term()} | :all | {:by, String.t(), [term()]} | {:function, term()} | nil,
          watched: binary(),
          subscribers: non_neg_integer(),
          records: non_neg_integer(),
          bytes: non_neg_integer(),
          read_us: non_neg_integer(),
          changed_ms: non_neg_integer(),
          stale: String.t() | nil
        }

  @sort_by [:subscribers, :records, :bytes, :read_us, :changed_ms, :stale]

  @doc """
  The live queries of this node that a Repo's pages share, and how many there are: what holds memory, what
  changes all the time, what is stale.

  Options: `:sort_by`, one of `#{inspect(@sort_by)}` (default `:subscribers`); `:order`, `:desc` (default) or
  `:asc`; `:limit` (default 50); `:search`, a text that the tenant's id, the source or the key has to contain.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> state = %{assigns: %{}, private: %{tenant: tenant}}
      iex> _state = EctoFoundationDB.Sync.sync_one(state, Repo, :user, User, "u1")
      iex> {[live_query], 1} = EctoFoundationDB.live_queries(Repo, search: "docs")
      iex> {live_query.source, live_query.query, live_query.subscribers, live_query.stale}
      {"users", {:record, "u1"}, 1, nil}
  """
  @spec live_queries(module(), keyword()) :: {[live_query()], matching :: non_neg_integer()}
  def live_queries(repo, opts \\ []) do
    opts = Keyword.validate!(opts, sort_by: :subscribers, order: :desc, limit: 50, search: "")
    check!(opts, :sort_by, &(&1 in @sort_by), "one of #{inspect(@sort_by)}")
    check!(opts, :order, &(&1 in [:asc, :desc]), ":asc or :desc")
    check!(opts, :limit, &(is_integer(&1) and &1 >= 0), "a number of live queries")
    check!(opts, :search, &is_binary/1, "a text")
    request = opts |> Map.new() |> Map.put(:descending, opts[:order] == :desc)
    connection = repo |> Connection.instance() |> Connection.fetch!()
    ref = make_ref()
    :ok = Native.live_queries(connection.database, ref, Map.delete(request, :order))

    receive do
      {^ref, {rows, matching}} -> {Enum.map(rows, &live_query/1), matching}
    end
  end

  defp live_query(%{watch: watched, function: code, stale: stale} = row) do
    {source, query} =
      if code, do: {nil, {:function, Evaluation.function(code)}}, else: Keys.describe(watched)

    row
    |> Map.drop([:watch, :function])
    |> Map.merge(%{source: source, query: query, watched: watched})
    |> Map.put(:stale, stale && elem(Error.reason(stale), 1))
  end

  defp check!(opts, name, valid?, expected) do
    unless valid?.(opts[name]) do
      raise ArgumentError,
            "expected #{inspect(name)} to be #{expected}, got: #{inspect(opts[name])}"
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
