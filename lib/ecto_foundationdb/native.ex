defmodule EctoFoundationDB.Native do
  @moduledoc false
  # The NIF's functions, nothing else. The Rust side is native/ecto_fdb.
  #
  # None of these waits for the database: functions that need an answer take a `ref` made by the caller
  # (`make_ref/0`) and answer with one message `{ref, answer}`. `client_start/1` and `database_open/3` touch
  # the file system and run on a dirty I/O scheduler.

  @typedoc "An error of the database or of the client; `code` is FoundationDB's, or 0."
  @type error ::
          {:fdb, code :: non_neg_integer(), message :: String.t()}
          | {:tenant_gone, String.t()}
          | {:raised, raised :: binary(), message :: String.t()}

  @type database :: reference()
  @type transaction :: reference()

  @typedoc "A subscription *is* the reference of its `{subscription, :ready}` messages."
  @type subscription :: reference()

  @typedoc """
  A key: bytes, or a tuple/list of elements for the tuple layer to pack in Rust. Elements: integers
  of any size, binaries (bytes), `{:utf8, binary}`, floats, `nil`/`:null`, booleans, nested tuples,
  `{:versionstamp, id, batch, user}`.
  """
  @type key :: binary() | {:pack, tuple() | list()}

  @typedoc """
  One operation of a transaction. Reads answer with their result, writes with `:ok`.

    * `{:get, key, snapshot?}` → binary or `nil`
    * `{:get_range, begin, end, opts}` → `[{key, value}]`, all of it, or `limit` rows.
      `opts` is a map with `:limit` (0: all), `:reverse`, `:snapshot`, and `:records`: the rows are
      records, and the values that are plain data and in one piece arrive decoded, as keyword lists
    * `{:get_mapped_range, begin, end, mapper, opts}` → `[{key, value, [{key, value}]}]`; with
      `:records` the inner rows are those of records
    * `{:set, key, value}`, `{:clear, key}`, `{:clear_range, begin, end}`
    * `{:atomic, type, key, param}`; `type` is a mutation type's atom: `:add`, `:max`,
      `:byte_min`, `:set_versionstamped_key`, `:set_versionstamped_value`, …
    * `{:read_conflict, begin, end}`
    * `{:directory, :create_or_open | :create | :open, [name]}` → prefix;
      `{:directory, :exists | :remove | :list, [name]}` → boolean, boolean, `[name]`
    * `{:watch, key}` → a reference. Once the transaction has committed, the calling process gets
      one message: `{reference, :ready}` when the watch fires, `{reference, {:error, error}}` when
      it fails. `watch_cancel/1` ends it.
  """
  @type op :: tuple()

  @typedoc """
  The range `[begin, end)` whose records a live query reads, and the key whose watch tells that they may have
  changed. `:records`: the range contains records, each a row, or a row followed by the parts of its split value.
  `{:index, by, records}`: it contains index entries that lead to records, whose keys begin with `records`; these
  are read next. `by` is `:value` if an entry's value is the record's key, `:versionstamp` if its key ends in the
  record's id. `limit` (0: all) counts records; of an index, entries that end in their record's id: others may
  come in addition. `reverse?`: the last key first.

  `:planned`: the read is a plan for `asked_for`, made from what its basis names. It is valid as long as that is
  unchanged; when it changes, the `planner/1` is asked for a new plan.

  One record: `{:records, key, key <> <<0xFF>>, key, {0, false}}`.

  `:function`: what is read and watched is what the `evaluator/2` says that it has read, and it gives one
  value. Functions with the same `id` and the same `every`, in ms, are the same; `code` is for the evaluator.
  """
  @type live_query ::
          read()
          | {:planned, read(), asked_for :: term()}
          | {:function, id :: binary(), code :: binary(), every :: non_neg_integer()}
  @type read ::
          {:records | {:index, :value | :versionstamp, records :: key()}, begin :: key(),
           finish :: key(), watch :: key(), {limit :: non_neg_integer(), reverse? :: boolean()}}

  @typedoc "The value of `\\xff/metadataVersion`. While it is unchanged, so are all indexes and tenants."
  @type metadata_version :: binary() | nil

  @typedoc """
  What live queries rely on beside the keys they read, and the metadata version under which it was last
  found right: the tenant, as the value `prefix` of its directory entry; for plans the sources, each as the range
  of its index descriptions, the key of its migration claim, and a digest of both. While the metadata
  version is another one, the reading transaction compares.

  `subscribe/3` answers `{ref, {:error, {:tenant_gone, name}}}` if the tenant's entry has a different value,
  and `{ref, :replan}` if the source has changed.
  """
  @type basis ::
          {nil | {entry :: binary(), prefix :: binary(), name :: String.t()}, [source()],
           metadata_version()}
          | nil
  @type source :: {key(), key(), claim :: key(), fingerprint :: <<_::256>>}

  @typedoc """
  A live query's result for a subscriber. `{:rows, records}`: a record is the list of its rows (more than one if
  its value is split); `{:keep, first, count}` stands for this many records of the previous result, from place
  `first` on (from 0). The first result contains no `:keep`.

  `{:value, value}`: what a function gave.

  `{:stale, error}`: the data could not be confirmed for longer than `stale_after/2`; `:fresh`: they are
  confirmed again.
  """
  @type taken ::
          :unchanged
          | {:rows, [[row()] | {:keep, non_neg_integer(), pos_integer()}]}
          | {:value, term()}
          | {:stale, error()}
          | :fresh

  @typedoc """
  A row of a live query. `{:data, fields}` is a record's value that is a keyword list of plain data, decoded to a
  map.
  """
  @type row :: {key :: binary(), value :: binary()} | {:data, map()}

  # This many operations or live queries are decoded in less than a millisecond, on the calling scheduler.
  # More of them go to a dirty scheduler.
  @most_on_a_scheduler 500
  # Bytes of a term that are copied in less than a millisecond.
  @large_value 200_000

  # Not loaded by the compiler, which runs before the library exists.
  @compile {:autoload, false}
  @on_load :load

  @doc false
  def load do
    path = Application.app_dir(:ecto_fdb_sync, "priv/native/libecto_fdb")

    with :ok <- EctoFoundationDB.NifFile.check(path <> ".so"),
         :ok <- :erlang.load_nif(String.to_charlist(path), 0) do
      :ok
    else
      # A VM keeps the NIF it has: its threads and the database's network run in it.
      {:error, {reason, _text}} when reason in [:upgrade, :reload] ->
        :logger.error(
          "EctoFoundationDB.Native has changed, but this VM continues with the NIF it has loaded: " <>
            "restart the VM to use the new one"
        )

        {:error, reason}

      {:error, {reason, text}} ->
        :logger.error("the NIF #{path}.so can't be loaded: #{text}. " <> advice())
        {:error, reason}

      {:error, reason} ->
        :logger.error("the NIF can't be loaded: #{reason}. " <> advice())
        {:error, :wrong_library}
    end
  end

  defp advice do
    "Build it again with `mix deps.compile ecto_fdb_sync --force`, or set ECTO_FDB_NIF to a library that " <>
      "`mix ecto_fdb.nif.build` made from this version for this machine, and compile again"
  end

  @doc """
  Binds the C API and starts the network, once per VM. `library` is `:embedded` or
  `{:cluster, path | nil}` (`nil`: the system's search order for `libfdb_c`); `options` is a keyword
  list of FoundationDB network options. Calling it again with the same library returns `:ok`; with a different
  one, an error that names both.
  """
  @spec client_start(%{library: :embedded | {:cluster, binary() | nil}, options: keyword()}) ::
          :ok | {:error, error()}
  def client_start(_config), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  Checks that the cluster file at this path is readable and contains a connection string; `nil` stands for the one
  that FoundationDB's clients use by default. Needs no client.
  """
  @spec cluster_file_check(binary() | nil) :: :ok | {:error, error()}
  def cluster_file_check(_path), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  Opens a database: `{:memory, name}` or `{:file, path}` of the embedded engine, or
  `{:cluster_file, path | nil}`. `options`: a keyword list of database options
  (`:max_watches`, `:transaction_timeout`, `:transaction_retry_limit`, …). `name` is the Repo's. If subscriptions
  from before a restart of the Repo still use a database of this name, returns that one.
  """
  @spec database_open(
          binary(),
          {:memory, binary()} | {:file, binary()} | {:cluster_file, binary() | nil},
          keyword()
        ) :: {:ok, database()} | {:error, error()}
  def database_open(_name, _target, _options), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  A transaction that belongs to the calling process and ends with it. All of its attempts have these options,
  `[{name, value | nil}]`.
  """
  @spec transaction_new(database(), [{atom(), term()}]) ::
          {:ok, transaction()} | {:error, error()}
  def transaction_new(_database, _options \\ []), do: :erlang.nif_error(:nif_not_loaded)

  @doc "A transaction of the calling process that reads at this version."
  @spec transaction_at(database(), integer()) :: {:ok, transaction()} | {:error, error()}
  def transaction_at(_database, _read_version), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  Runs operations in order; reads of one call are in flight together, and several calls may be.
  Answers `{ref, {:ok, [result]}}` or, at the first failed read, `{ref, {:error, error}}`.
  """
  @spec transaction_run(transaction(), reference(), [op()]) :: :ok
  def transaction_run(transaction, ref, ops) do
    if length(ops) > @most_on_a_scheduler,
      do: transaction_run_many(transaction, ref, ops),
      else: transaction_run_few(transaction, ref, ops)
  end

  @doc false
  def transaction_run_few(_transaction, _ref, _ops), do: :erlang.nif_error(:nif_not_loaded)
  @doc false
  def transaction_run_many(_transaction, _ref, _ops), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  Runs the last operations in order, and commits. Answers `{ref, {:ok, committed_version, versionstamp}}`; -1 and
  `nil` for one that wrote nothing. With an `expected` metadata version, one that is another at the read version
  leaves everything undone: `{ref, {:unexpected, metadata_version | nil}}`.
  """
  @spec transaction_commit(transaction(), reference(), [op()], binary() | nil) :: :ok
  def transaction_commit(transaction, ref, ops, expected) do
    if length(ops) > @most_on_a_scheduler,
      do: transaction_commit_many(transaction, ref, ops, expected),
      else: transaction_commit_few(transaction, ref, ops, expected)
  end

  @doc false
  def transaction_commit_few(_transaction, _ref, _ops, _expected),
    do: :erlang.nif_error(:nif_not_loaded)

  @doc false
  def transaction_commit_many(_transaction, _ref, _ops, _expected),
    do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  `fdb_transaction_on_error`: answers `{ref, :ok}` after the back-off, with the transaction reset for another
  attempt, or `{ref, {:error, error}}` if it can't be retried.
  """
  @spec transaction_on_error(transaction(), reference(), non_neg_integer()) :: :ok
  def transaction_on_error(_transaction, _ref, _code), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  Drops the transaction and everything in flight: when it returns, no further answer will be sent. One may be
  in the mailbox.
  """
  @spec transaction_cancel(transaction()) :: :ok
  def transaction_cancel(_transaction), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Cancels a watch of `{:watch, key}`: when it returns, the watch will send no message."
  @spec watch_cancel(reference()) :: :ok
  def watch_cancel(_watch), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  Subscribes the calling process: one subscription for each element of `wanted`, all of them read at
  one read version that is obtained after this call began. Answers `{ref, :ok}` when all are established and
  their first results wait for `take/1`; or `{ref, :replan}` or `{ref, {:error, error}}`, and none is established.

  If an earlier subscription of the process is given beside its queries, those that both have are neither read nor
  watched again: the first `take/1` returns only what has changed since the earlier one took them. The earlier one
  continues until `unsubscribe/1`.
  """
  @spec subscribe(database(), reference(), [{basis(), [live_query()], subscription() | nil}]) ::
          [subscription()]
  def subscribe(database, ref, wanted) do
    count = Enum.reduce(wanted, 0, fn {_, queries, _}, count -> count + length(queries) end)

    if count > @most_on_a_scheduler,
      do: subscribe_many(database, ref, wanted),
      else: subscribe_few(database, ref, wanted)
  end

  @doc false
  def subscribe_few(_database, _ref, _wanted), do: :erlang.nif_error(:nif_not_loaded)
  @doc false
  def subscribe_many(_database, _ref, _wanted), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  Takes the results that are ready. The first time `{:first, [taken]}`, with an element for each live query; then
  `{:news, [{place, taken}]}` for those that may have changed, by their places (from 0). Allows the next
  `{subscription, :ready}`.
  """
  @spec take(subscription()) :: {:first, [taken()]} | {:news, [{non_neg_integer(), taken()}]}
  def take(subscription), do: take_some(subscription) || take_all(subscription)

  @doc false
  def take_some(_subscription), do: :erlang.nif_error(:nif_not_loaded)
  @doc false
  def take_all(_subscription), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  As `take/1`, for a process that keeps no records of its one live query: it shows those from the place `first`
  on. A change is `{:changed, removed, items}`: `{old_place, rows}` of what is no longer there, and what is there
  now, in order: `{:keep, first, count}` by its places so far, `{:insert, rows}`, `{:update, old_place, rows}`, and
  `{:move, old_place, rows}` for records that have changed their order. Places count from `first` on.

  The first take is a change of what an earlier subscription of the process has taken, if one is given.
  """
  @spec take_stream(subscription(), non_neg_integer(), subscription() | nil) ::
          {:first, [taken()]} | {:news, [{non_neg_integer(), taken()}]}
  def take_stream(subscription, first, earlier) do
    take_stream_some(subscription, first, earlier) ||
      take_stream_all(subscription, first, earlier)
  end

  @doc false
  def take_stream_some(_subscription, _first, _earlier), do: :erlang.nif_error(:nif_not_loaded)
  @doc false
  def take_stream_all(_subscription, _first, _earlier), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  What was taken got lost: the next `take/1` gives everything, as the first one did. No message is sent
  for that.
  """
  @spec untake(subscription()) :: :ok
  def untake(_subscription), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  Answers `{ref, :ok}` when every subscription knows all commits from before this call and its message is in the
  mailbox; after `timeout` ms `{ref, {:timeout, what_was_waited_for, last_error | nil}}`.
  """
  @spec settle(database(), reference(), non_neg_integer()) :: :ok
  def settle(_database, _ref, _timeout), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  Ends a subscription: when it returns, the subscription will send no further message. One may be in the mailbox.
  The same applies to the answer to `subscribe/3` once the call's last subscription has ended.
  """
  @spec unsubscribe(subscription()) :: :ok
  def unsubscribe(_subscription), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  Makes the calling process the planner: it gets `{:replan, request, asked_for}` and answers with
  `replanned/4`. Without an answer it is asked again after some seconds.
  """
  @spec planner(database()) :: :ok
  def planner(_database), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  The planner's answer: the live query to read from now on, for all subscribers of the earlier one, and the basis
  that the plan was made from. An error in the query's place says why there is no plan; the subscribers' data stay,
  and are stale for this reason.
  """
  @spec replanned(
          database(),
          request :: reference(),
          {:ok, live_query()} | {:error, String.t()},
          basis()
        ) :: :ok
  def replanned(_database, _request, _answer, _basis), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  Makes the calling process the evaluator, which has up to `at_once` functions evaluated at the same time: it
  gets `{:evaluate, evaluation, code, read_version, key | nil}`, with the watched key whose change has led to
  it, and has a process of its own answer with `evaluated/5`. An `evaluation` that nobody holds any more is
  answered.
  """
  @spec evaluator(database(), pos_integer()) :: :ok
  def evaluator(_database, _at_once), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  The calling process waits for one evaluation, and may get the evaluator's message in the place of the
  evaluator.
  """
  @spec evaluator_idle(database()) :: :ok
  def evaluator_idle(_database), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  An evaluation's answer: the function's value, of so many bytes; what it raised, as an encoded `{kind,
  reason, stacktrace}`, with a message and FoundationDB's code or 0; or the tenant's end. In the first two
  cases with the keys and the sources that it relies on.
  """
  @spec evaluated(
          database(),
          evaluation :: reference(),
          {:ok, value :: term(), bytes :: non_neg_integer()}
          | {:raised, raised :: binary(), {message :: String.t(), code :: integer()}}
          | {:tenant_gone, String.t(), nil},
          [key()],
          basis()
        ) :: :ok
  def evaluated(database, evaluation, answer, keys, basis) do
    if match?({:ok, _value, bytes} when bytes > @large_value, answer) or
         length(keys) > @most_on_a_scheduler,
       do: evaluated_large(database, evaluation, answer, keys, basis),
       else: evaluated_small(database, evaluation, answer, keys, basis)
  end

  @doc false
  def evaluated_small(_database, _evaluation, _answer, _keys, _basis),
    do: :erlang.nif_error(:nif_not_loaded)

  @doc false
  def evaluated_large(_database, _evaluation, _answer, _keys, _basis),
    do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  Whether the database answers its live queries: for how many ms it has been silent, or `nil`; how many ms
  ago it last answered; and its last error since, or `nil`.
  """
  @spec pulse(database()) ::
          {non_neg_integer() | nil, non_neg_integer(), error() | nil}
  def pulse(_database), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  Makes the calling process the reporter: it gets `{:event, name, facts}`, a keyword list, for all events, or
  only for incidents. `EctoFoundationDB.Telemetry` has the events of its groups `:sync` and `:database` with
  their facts. `:duration` is in microseconds, a `:reason` an error.
  """
  @spec reporter(database(), all? :: boolean()) :: :ok
  def reporter(_database, _all?), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  The VM's client: its library's path (`nil` for the embedded engine), release and protocol, the API version, and
  the names of the network options that it was started with (`nil` before a Repo has started it).
  """
  @spec client_facts() :: %{
          library: String.t() | nil,
          version: String.t(),
          protocol: String.t(),
          api_version: pos_integer(),
          options: [String.t()] | nil
        }
  def client_facts, do: :erlang.nif_error(:nif_not_loaded)

  @doc "The location of a database: its cluster file, with its contents when it was opened; or the engine's file."
  @spec database_facts(database()) :: %{
          cluster_file: String.t() | nil,
          connection_string: String.t() | nil,
          file: String.t() | nil
        }
  def database_facts(_database), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  Asks the database for a read version, for at most `timeout` ms, and the client for its status; answers
  `{ref, report}`. Times are milliseconds since 1970, those that end in `_us` microseconds.
  """
  @spec health(database(), reference(), non_neg_integer()) :: :ok
  def health(_database, _ref, _timeout), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  How long the database may be silent, or a live query fail, before subscribers are notified that their data are
  stale (10,000 ms).
  """
  @spec stale_after(database(), pos_integer()) :: :ok
  def stale_after(_database, _milliseconds), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  A transaction's reads and writes so far, in all of its attempts: keys read, bytes of keys and
  values read, keys and ranges written, bytes written.
  """
  @spec transaction_sizes(transaction()) ::
          {non_neg_integer(), non_neg_integer(), non_neg_integer(), non_neg_integer()}
  def transaction_sizes(_transaction), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  Counters of this database, counted by the NIF. Now: `:subscriptions`, `:live_queries`,
  `:pending_watches`, `:transactions`, `:stale` (live queries that can't be kept up to date), `:waiting`
  (reads of live queries that wait for a batch). Since
  it was opened: `:commits`, `:conflicts` (1020), `:unknown_results` (1021) and `:transaction_retries` of
  processes' transactions; `:batches` (transactions that read live queries), `:reads` (live queries read by
  them), `:watches_armed`, `:watches_fired`, `:watches_failed`, `:messages`, `:retries`, `:basis_checks`
  (looks at a tenant and a source, after the metadata version changed), `:probes` (looks at watched keys),
  `:evaluations` (of functions), `:evaluation_us` (how long they took).
  """
  @spec stats(database()) :: %{atom() => non_neg_integer()}
  def stats(_database), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  The live queries of this database, the first `:limit` of those that contain `:search` in their tenant's
  name or watched key; answers `{ref, {rows, matching}}`.
  """
  @spec live_queries(database(), reference(), %{
          sort_by: :subscribers | :records | :bytes | :read_us | :changed_ms | :stale,
          descending: boolean(),
          limit: non_neg_integer(),
          search: String.t()
        }) :: :ok
  def live_queries(_database, _ref, _request), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  The embedded engine's own counters for this database, `nil` on a cluster:
  `%{pending_watches:, transactions:, commits:, reads:, read_versions:}`.
  """
  @spec engine_stats(database()) :: %{atom() => non_neg_integer()} | nil
  def engine_stats(_database), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Replaces this database, which must be the embedded engine's and in memory, with an empty one."
  @spec engine_wipe(database()) :: :ok | {:error, error()}
  def engine_wipe(_database), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  Holds the embedded engine's watches of this database back, or releases them: those that should have fired
  meanwhile fire then.
  """
  @spec engine_hold_watches(database(), boolean()) :: :ok | {:error, error()}
  def engine_hold_watches(_database, _hold?), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Makes the embedded engine inject faults, `name=value,…`; `nil` ends that."
  @spec engine_faults(database(), String.t() | nil) :: :ok | {:error, error()}
  def engine_faults(_database, _faults), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  Simulates an outage of the embedded engine: `EctoFoundationDB.Embedded.outage/2`. The ranges are pairs of
  keys.
  """
  @spec engine_outage(
          database(),
          boolean(),
          boolean(),
          [{binary(), binary()}],
          [{binary(), binary()}]
        ) :: :ok | {:error, error()}
  def engine_outage(_database, _all?, _locked?, _reads, _watches),
    do: :erlang.nif_error(:nif_not_loaded)

  @doc "Writes the embedded engine's database to a new file; returns its number of keys and bytes."
  @spec engine_back_up(database(), String.t()) ::
          {:ok, %{keys: non_neg_integer(), bytes: non_neg_integer()}} | {:error, error()}
  def engine_back_up(_database, _path), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Compacts the file of the embedded engine's database; returns its length in bytes before and after."
  @spec engine_compact(database()) ::
          {:ok, %{before: non_neg_integer(), after: non_neg_integer()}} | {:error, error()}
  def engine_compact(_database), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  Walks over `terms` terms in Erlang's external term format that begin at a position. `:data` refuses functions,
  pids, ports and references. Returns where they end, or `{:more, position, terms}` if there is more to walk over
  than one call may take: call again with these.
  """
  @spec etf_skip(binary(), non_neg_integer(), pos_integer(), :data | :anything) ::
          {:ok, non_neg_integer()}
          | {:more, non_neg_integer(), pos_integer()}
          | {:error, String.t()}
  def etf_skip(_binary, _position, _terms, _allowed), do: :erlang.nif_error(:nif_not_loaded)

  @doc "The fields of an encoded keyword list: names, and encoded values without the version byte."
  @spec etf_fields(binary()) :: {:ok, [{String.t(), binary()}]} | {:error, String.t()}
  def etf_fields(_binary), do: :erlang.nif_error(:nif_not_loaded)

  @doc """
  An encoded term with strings in place of unknown atoms, and `{:reference, encoded}` in place of
  references.
  """
  @spec etf_foreign(binary()) :: {:ok, binary()} | {:error, String.t()}
  def etf_foreign(_binary), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Packs a tuple or list with the tuple layer."
  @spec pack(tuple() | list()) :: binary()
  def pack(_tuple), do: :erlang.nif_error(:nif_not_loaded)

  @doc "Unpacks a packed tuple."
  @spec unpack(binary()) :: tuple()
  def unpack(_binary), do: :erlang.nif_error(:nif_not_loaded)
end
