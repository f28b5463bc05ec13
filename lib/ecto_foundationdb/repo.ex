defmodule EctoFoundationDB.Repo do
  @moduledoc """
  A plain repository for applications without Ecto. It works with structs and stores their fields as they are.

  With Ecto, use an Ecto repository with `Ecto.Adapters.FoundationDB`, which adds changesets, types, associations
  and `Ecto.Query`. Both store the same data.

      defmodule MyApp.Repo do
        use EctoFoundationDB.Repo, otp_app: :my_app
        use EctoFoundationDB.Migrator

        @impl true
        def migrations, do: [{0, MyApp.IndexUsers}]
      end

      # config/config.exs
      config :my_app, MyApp.Repo, cluster_file: "/etc/foundationdb/fdb.cluster"

      # in the application's supervision tree
      children = [MyApp.Repo]

  `EctoFoundationDB.Schema` documents the functions of a struct's module. Records are read and written in a tenant.
  In this example two users exist already, Ada and Bea:

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> user = Repo.insert!(%User{id: "u3", name: "Cy", team: "red"}, prefix: tenant)
      iex> {:ok, user} = Repo.update(user, name: "Cyd")
      iex> Repo.get(User, "u3", prefix: tenant).name
      "Cyd"
      iex> Enum.map(Repo.all(User, where: [team: "red"], prefix: tenant), & &1.name)
      ["Ada", "Cyd"]
      iex> Repo.delete!(user)
      iex> Repo.reload(user)
      nil

  ## Configuration

  The database:

    * `embedded: true`: FoundationDB inside this VM, in memory. `embedded: "path"`: in that file.
    * `cluster_file: "path"`: a cluster. Without it and without `embedded:`, the Repo uses the default cluster
      file, found as every FoundationDB client finds it (`FDB_CLUSTER_FILE`, then `fdb.cluster` in the
      working directory, then `/etc/foundationdb/fdb.cluster`). It never falls back to the embedded
      engine.
    * `library: "path"`: the `libfdb_c` to load for a cluster; by default the system's search order.

  A VM has one client library: either all its Repos are embedded, or all use clusters.

  Timeouts and limits:

    * `timeout:` ms that a call may take, with all its retries and the waits between them, 15,000 by
      default; then `EctoFoundationDB.TimeoutError` is raised. Also an option of each call. (A recovery of
      a cluster takes about 3 s, one in ten more than 5 s: with the default a call survives it. See the
      guide on operations.)
    * `stale_after:` ms, 10,000 by default: how long the database may be silent, or a live query fail,
      before syncs are notified that their data are stale (`EctoFoundationDB.Sync.attach_callback/6`,
      `:handle_stale`).
    * `transaction_timeout:` ms, `transaction_retry_limit:`: FoundationDB's own, for every transaction.
    * `max_watches:` 1,000,000 by default, FoundationDB's maximum.
    * `network_options:` a keyword list of FoundationDB's network options, for all Repos of the VM:
      `trace_enable: dir`, `tls_cert_path:`, `tls_key_path:`, `tls_ca_path:`,
      `external_client_directory:`, …

  Layout and migrations:

    * `storage_id:` the directory that contains the tenants, "Ecto.Adapters.FoundationDB" by default
    * `tenant_id:` the Repo's only tenant, opened when it is first needed; `prefix:` may then be left out. The
      Repo opens no other tenant.
    * `migrator:` the module with the migrations, the Repo itself by default
    * `migration_step:` the number of keys in a migration's transactions, 1,000 by default
    * `max_single_value_size:` bytes above which a record is kept in parts, 100,000 by default
    * `max_value_size:` bytes above which a record is refused, `:infinity` by default
    * `metadata_cache: :disabled`: every transaction reads its tenant's directory entry and indexes
    * `log: false`: no log lines about migrations; problems of the database are always logged

  ## Tenants and transactions

  Every call uses one tenant: its `prefix:` option, the tenant in the struct's metadata, or the tenant of the
  surrounding transaction.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> Repo.transactional(tenant, fn ->
      ...>   ada = Repo.get!(User, "u1")
      ...>   bea = Repo.get!(User, "u2")
      ...>   Repo.update!(ada, team: bea.team)
      ...>   Repo.update!(bea, team: ada.team)
      ...> end)
      iex> Repo.get!(User, "u1", prefix: tenant).team
      "blue"

  A transaction is strictly serializable. If it conflicts with another one, its function runs again, so the
  function must do nothing but work with the database. FoundationDB may not know whether a commit succeeded (error
  1021, after losing the connection at the wrong moment). Then the function also runs again, **and its effects may
  have been applied already**. An `insert!` that finds its own identical record on such a retry succeeds; an effect
  that must happen only once needs an id by which to recognize it. A transaction may last 5 seconds.

  `transactional/3` inside a transaction of the same tenant joins it.

  Calls also take these options:

    * `timeout:` ms, or `:infinity`, for the whole call. A call inside a transaction ends with the
      transaction's timeout, or earlier with its own. Each page of a stream, and each transaction of a call
      with `step:`, has this timeout to itself.
    * `tag:` a string of up to 16 bytes, or a list of up to five: the transaction's tags. An operator, or the
      cluster itself, can slow down transactions with certain tags
    * `priority:` `:batch` for work that may wait while the cluster is busy, `:default`, or `:immediate`, which is
      never slowed down: use it for an operator's tools, not for an application's load

  A transaction's tags and priority apply to all calls in it. `default_options/1` sets them for all calls of a
  Repo:

      def default_options(:stream), do: [tag: "export", priority: :batch]
      def default_options(_operation), do: [tag: "web"]

  Independent reads are in flight together:

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> Repo.transactional(tenant, fn ->
      ...>   [ada, blues] = Repo.await([Repo.async_get(User, "u1"), Repo.async_all_by(User, team: "blue")])
      ...>   {ada.name, length(blues)}
      ...> end)
      {"Ada", 1}

  ## Queries

  `:where` takes equalities and one range, on the primary key or on the fields of an index:

      where: [dept: "eng"]
      where: [dept: "eng", age: {:between, 20, 30}]
      where: [age: {:>=, 20}]
      where: [age: [>=: 20, <: 30]]

  To compare with a value that looks like a range, use `{:==, value}`. `:order_by` takes fields, or `desc: field`.
  Without a limit any order is possible; with a limit, that of the primary key or of the index. `:limit` limits the
  results. `:key_limit` limits the keys that are read, for a page of unknown length. A query that no single get or
  range can answer is an `EctoFoundationDB.Exception.Unsupported` that says which index would answer it.

  Functions without a bang return `{:ok, struct}` or `{:error, exception}`: an `EctoFoundationDB.ConflictError`,
  `EctoFoundationDB.StaleEntryError` or `EctoFoundationDB.UniqueError`. Functions with a bang raise it.
  """

  alias EctoFoundationDB.{Connection, Future, Schema, Tenant, Transaction}

  @type t :: module()
  @type result :: {:ok, struct()} | {:error, Exception.t()}

  @doc "The Repo's configuration, defaults included."
  @callback config() :: keyword()
  @doc "Starts the Repo; options override its configuration."
  @callback start_link(keyword()) :: GenServer.on_start()
  @doc "Default options for calls of this operation (`:all`, `:insert`, …); override it."
  @callback default_options(operation :: atom()) :: keyword()

  @doc """
  Runs a function in a transaction of the tenant, and returns its result. The function takes no argument, or the
  transaction.

  An exception, throw or exit in the function cancels the transaction. See the module's description
  for retries, and for the options `:timeout`, `:tag` and `:priority`.
  """
  @callback transactional(Tenant.t() | nil, (... -> result), keyword()) :: result
            when result: term()

  @doc """
  Inserts a struct.

  `on_conflict:` says what to do if a record with this primary key exists: `:raise`, `:nothing`, `:replace_all`,
  `{:replace, fields}`, `{:replace_all_except, fields}`. Fields that are `nil` in the struct are not stored, and
  replace nothing. With `conflict_target:`, the fields of a unique index, records conflict by these fields instead of
  the primary key. `conflict_target: []` writes without checking for an existing record, whose index entries would
  remain: use it only if you know that the record does not exist.

  The returned struct has the given values. With `returning: true`, or a list of fields, it has the stored values:
  for fields that were not replaced the earlier ones; with `on_conflict: :nothing` those of the existing record.
  """
  @callback insert(struct(), keyword()) :: result()
  @callback insert!(struct(), keyword()) :: struct()

  @doc """
  Inserts rows (keyword lists, maps or structs) in one transaction: `{count, nil}`, or `{count, structs}` with the
  stored values if `returning: true` (or fields) is given. Rows that `on_conflict: :nothing` skipped are not
  included. Timestamps are not generated. `on_conflict:` as in `insert/2`; a conflict is raised before any row is
  written.
  """
  @callback insert_all(module(), [map() | keyword()], keyword()) ::
              {non_neg_integer(), nil | [struct()]}

  @doc """
  Sets fields of the struct's record. Other fields keep their values in the database, including fields that the
  schema does not know. With `returning: true`, or a list of fields, the struct has the stored values.
  """
  @callback update(struct(), changes :: map() | keyword(), keyword()) :: result()
  @callback update!(struct(), changes :: map() | keyword(), keyword()) :: struct()

  @doc """
  Updates the records of a query: `update_all(User, set: [active: false])`.

  All in one transaction, which may take 5 seconds and write 10 MB. For more, `step: 1000` makes a transaction of
  every 1,000 records: each step is all or nothing, the whole is not, and it may or may not see a concurrent change.
  (If the records are found by an index on a field that is set, they are read twice, so that moved records are not
  visited again.)
  """
  @callback update_all(Schema.t(), [set: keyword()], keyword()) :: {non_neg_integer(), nil}

  @doc """
  Deletes the struct's record. With `returning: true`, or a list of fields, the struct has the values that were
  stored.
  """
  @callback delete(struct(), keyword()) :: result()
  @callback delete!(struct(), keyword()) :: struct()

  @doc """
  Deletes the records of a query, or all of the schema's without `:where`; `step:` as in
  `update_all/3`.
  """
  @callback delete_all(Schema.t(), keyword()) :: {non_neg_integer(), nil}

  @doc "The structs as they are in the database now, in order; `nil` for deleted ones."
  @callback reload(struct() | [struct() | nil] | nil, keyword()) ::
              struct() | [struct() | nil] | nil

  @doc "As `reload/2`; raises `EctoFoundationDB.NoResultsError` for deleted ones."
  @callback reload!(struct() | [struct()], keyword()) :: struct() | [struct()]

  @doc """
  The number of records of a query, `:count`. One transaction reads and counts their keys, or the entries of the
  index that answers the query. A schema's counters, which writers maintain, cost only one read:
  `EctoFoundationDB.Indexer.SchemaMetadata`.
  """
  @callback aggregate(Schema.t(), :count, keyword()) :: non_neg_integer()

  @doc "The record with this primary key, or `nil`."
  @callback get(Schema.t(), id :: term(), keyword()) :: struct() | nil
  @doc "As `get/3`, but raises `EctoFoundationDB.NoResultsError` if no record has this primary key."
  @callback get!(Schema.t(), id :: term(), keyword()) :: struct()
  @doc """
  The only record with these values, or `nil`; raises `EctoFoundationDB.MultipleResultsError` if there are
  several.
  """
  @callback get_by(Schema.t(), keyword() | map(), keyword()) :: struct() | nil
  @doc "As `get_by/3`, but raises `EctoFoundationDB.NoResultsError` if no record has these values."
  @callback get_by!(Schema.t(), keyword() | map(), keyword()) :: struct()
  @doc """
  The only result of a query, or `nil`; raises `EctoFoundationDB.MultipleResultsError` if there are several.
  """
  @callback one(Schema.t(), keyword()) :: struct() | nil
  @doc "As `one/2`, but raises `EctoFoundationDB.NoResultsError` if no record fulfils the query."
  @callback one!(Schema.t(), keyword()) :: struct()
  @doc "Whether a query has a result; reads one record."
  @callback exists?(Schema.t(), keyword()) :: boolean()
  @doc "The results of a query."
  @callback all(Schema.t(), keyword()) :: [struct()]
  @doc "The records with these values: `all_by(User, dept: \"eng\")`."
  @callback all_by(Schema.t(), keyword() | map(), keyword()) :: [struct()]

  @doc """
  The records whose primary key is from `first` up to, but not including, `last`; `nil` for no bound.
  `:inclusive_left?` (true) and `:inclusive_right?` (false) change that.
  """
  @callback all_range(Schema.t(), first :: term(), last :: term(), keyword()) :: [struct()]

  @doc """
  A lazy stream of records, read in pages of `max_rows:` (500). Inside a transaction it reads there. Outside, each
  page is a separate transaction, so the stream can have any size, and may or may not see a concurrent change. If a
  change moves a record in the index that the stream uses, the stream may return it twice or not at all; so collect
  the records first if you are going to move them. If the index is dropped meanwhile, the stream continues on
  another one that answers the query.
  """
  @callback stream(Schema.t(), keyword()) :: Enumerable.t()

  @doc "As `get/3` and so on, but returns a future. Await it inside the transaction; all reads are in flight together."
  @callback async_get(Schema.t(), term(), keyword()) :: Future.t()
  @callback async_get!(Schema.t(), term(), keyword()) :: Future.t()
  @callback async_get_by(Schema.t(), keyword() | map(), keyword()) :: Future.t()
  @callback async_get_by!(Schema.t(), keyword() | map(), keyword()) :: Future.t()
  @callback async_one(Schema.t(), keyword()) :: Future.t()
  @callback async_one!(Schema.t(), keyword()) :: Future.t()
  @callback async_all_range(Schema.t(), term(), term(), keyword()) :: Future.t()
  @callback async_all(Schema.t(), keyword()) :: Future.t()
  @callback async_all_by(Schema.t(), keyword() | map(), keyword()) :: Future.t()

  @doc """
  Inserts structs whose ids the commit creates (`EctoFoundationDB.Versionstamp`). Await the future after the
  transaction.
  """
  @callback async_insert_all!(module(), [struct()], keyword()) :: Future.t()

  @doc "The result of a future, or the results of several in order."
  @callback await(Future.t() | [Future.t()]) :: term()

  @doc """
  Watches the struct's record: when it changes, this process gets `{ref, :ready}`, once; or
  `{ref, {:error, error}}` if the watch failed, because there are more than `max_watches:` or the database
  was unavailable. `:label` is the key under which `assign_ready/3` returns the record, changed or not.
  """
  @callback watch(struct(), keyword()) :: Future.t()

  @doc """
  Handles messages of watches. Given the futures of `watch/2` (a list, or a map by label) and the refs of the
  messages, returns `{assigns, new_futures, other_futures}`. `watch?: true` sets new watches, in the transaction
  that reads.

      def handle_info({ref, _ready_or_error}, state) when is_reference(ref) do
        {assigns, new, others} = Repo.assign_ready(state.futures, [ref], watch?: true, prefix: state.tenant)
        {:noreply, %{state | futures: new ++ others, assigns: Map.merge(state.assigns, Map.new(assigns))}}
      end
  """
  @callback assign_ready([Future.t()] | %{term() => Future.t()}, [reference()], keyword()) ::
              {keyword(), futures, futures}
            when futures: [Future.t()] | %{term() => Future.t()}

  @optional_callbacks default_options: 1

  defmacro __using__(opts) do
    quote bind_quoted: [opts: opts], location: :keep do
      @behaviour EctoFoundationDB.Repo
      @otp_app EctoFoundationDB.Repo.__otp_app__(__MODULE__, opts)

      alias EctoFoundationDB.Repo.{Queries, Records, Watches}

      def __ecto_fdb_repo__, do: true

      def child_spec(opts \\ []),
        do: %{id: __MODULE__, start: {__MODULE__, :start_link, [opts]}, type: :supervisor}

      @impl true
      def start_link(opts \\ []),
        do: EctoFoundationDB.Repo.__start_link__(__MODULE__, Keyword.merge(app_config(), opts))

      def stop(timeout \\ 5000), do: Supervisor.stop(__MODULE__, :normal, timeout)

      @impl true
      def config, do: EctoFoundationDB.Repo.__config__(__MODULE__, app_config())

      defp app_config, do: [otp_app: @otp_app] ++ Application.get_env(@otp_app, __MODULE__, [])

      @impl true
      def default_options(_operation), do: []
      defoverridable default_options: 1

      defp with_defaults(operation, opts), do: Keyword.merge(default_options(operation), opts)

      @impl true
      def transactional(tenant, fun, opts \\ []) do
        opts = with_defaults(:transactional, opts)

        EctoFoundationDB.Repo.Options.follow_single(__MODULE__, fn ->
          EctoFoundationDB.Repo.__transactional__(__MODULE__, tenant, fun, opts)
        end)
      end

      def in_transaction?, do: EctoFoundationDB.Transaction.in?()

      # Functions that return futures, and functions that await them.
      for {name, arity} <- [
            get: 2,
            get!: 2,
            get_by: 2,
            get_by!: 2,
            one: 1,
            one!: 1,
            all: 1,
            all_by: 2,
            all_range: 3
          ] do
        args = Macro.generate_arguments(arity, __MODULE__)
        async = :"async_#{name}"

        @impl true
        def unquote(name)(unquote_splicing(args), opts \\ []) do
          EctoFoundationDB.Repo.Options.follow_single(__MODULE__, fn ->
            unquote(async)(unquote_splicing(args), opts) |> EctoFoundationDB.Future.result()
          end)
        end

        @impl true
        def unquote(async)(unquote_splicing(args), opts \\ []) do
          opts = with_defaults(unquote(name), opts)
          Queries.unquote(async)(__MODULE__, unquote_splicing(args), opts)
        end
      end

      for {name, arity, module} <- [
            {:insert, 1, Records},
            {:insert!, 1, Records},
            {:insert_all, 2, Records},
            {:async_insert_all!, 2, Records},
            {:update, 2, Records},
            {:update!, 2, Records},
            {:update_all, 2, Records},
            {:delete, 1, Records},
            {:delete!, 1, Records},
            {:delete_all, 1, Records},
            {:exists?, 1, Queries},
            {:reload, 1, Queries},
            {:reload!, 1, Queries},
            {:stream, 1, Queries},
            {:watch, 1, Watches},
            {:assign_ready, 2, Watches}
          ] do
        args = Macro.generate_arguments(arity, __MODULE__)

        @impl true
        def unquote(name)(unquote_splicing(args), opts \\ []) do
          opts = with_defaults(unquote(name), opts)

          EctoFoundationDB.Repo.Options.follow_single(__MODULE__, fn ->
            unquote(module).unquote(name)(__MODULE__, unquote_splicing(args), opts)
          end)
        end
      end

      @impl true
      def aggregate(schema, aggregate, opts \\ []) do
        opts = if is_list(opts), do: with_defaults(:aggregate, opts), else: opts

        EctoFoundationDB.Repo.Options.follow_single(__MODULE__, fn ->
          Queries.aggregate(__MODULE__, schema, aggregate, opts)
        end)
      end

      @impl true
      def await(futures), do: Queries.await(futures)
    end
  end

  @doc false
  def __otp_app__(repo, opts) do
    case Keyword.fetch(opts, :otp_app) do
      {:ok, app} when is_atom(app) ->
        app

      _ ->
        raise ArgumentError,
              "#{inspect(repo)}: `use EctoFoundationDB.Repo` needs `otp_app: :my_app`"
    end
  end

  @doc false
  def __start_link__(repo, config) do
    config = Connection.validate!(repo, config)

    with {:error, error} <-
           EctoFoundationDB.Supervisor.start_link(repo, repo, config, name: repo),
         do: {:error, EctoFoundationDB.Supervisor.reason(error)}
  end

  @doc false
  def __config__(repo, app_config) do
    if :ets.whereis(repo) == :undefined,
      do: Connection.validate!(repo, app_config),
      else: Connection.fetch!(repo).config
  end

  @doc false
  def __transactional__(repo, tenant, fun, opts) do
    unless is_function(fun, 0) or is_function(fun, 1) do
      raise ArgumentError,
            "transactional: expected a function of no or one argument, got: #{inspect(fun)}"
    end

    opts = EctoFoundationDB.Repo.Options.validate!(opts, [])

    if tenant && opts[:prefix] && opts[:prefix] != tenant do
      raise ArgumentError,
            "transactional: expected one tenant, got #{inspect(tenant)} and `prefix: " <>
              "#{inspect(opts[:prefix])}`"
    end

    opts = if tenant, do: Keyword.put(opts, :prefix, tenant), else: opts
    Transaction.run(EctoFoundationDB.Repo.Options.tenant!(repo, opts), fun, opts)
  end

  @doc """
  The database of a Repo, a handle for the NIF.

      iex> is_reference(EctoFoundationDB.Repo.database(Repo))
      true
  """
  @spec database(t()) :: reference()
  def database(repo), do: Connection.fetch!(repo).database
end
