defmodule EctoFoundationDB.Repo do
  @moduledoc """
  A repository: the records of schemas, in a FoundationDB cluster or in the embedded engine.

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

  Records are read and written in a tenant. Here two users are there already, Ada and Bea:

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

  Which database:

    * `embedded: true`: FoundationDB inside this VM, in memory. `embedded: "path"`: in that file.
    * `cluster_file: "path"`: a cluster. Without it and without `embedded:`, the default cluster file,
      found as every FoundationDB client finds it (`FDB_CLUSTER_FILE`, then `fdb.cluster` in the
      working directory, then `/etc/foundationdb/fdb.cluster`). Nothing falls back to the embedded
      engine silently.
    * `library: "path"`: the `libfdb_c` to load for a cluster; by default the system's search order.

  A VM has one client library: all its Repos are embedded, or all are of clusters.

  Waits and limits:

    * `timeout:` ms that a call may take, with all its retries and the waits between them, 15,000 by
      default; then `EctoFoundationDB.TimeoutError` is raised. Also an option of each call. (A recovery of
      a cluster takes some 3 s, one in ten more than 5 s: with the default a call survives it. See the
      guide on operations.)
    * `stale_after:` ms, 10,000 by default: how long the database may be silent, or a live query fail,
      before syncs are told that their data are stale (`EctoFoundationDB.Sync.attach_callback/6`,
      `:handle_stale`).
    * `transaction_timeout:` ms, `transaction_retry_limit:`: FoundationDB's own, for every transaction.
    * `max_watches:` 1,000,000 by default, FoundationDB's maximum.
    * `network_options:` a keyword list of FoundationDB's network options, for all Repos of the VM:
      `trace_enable: dir`, `tls_cert_path:`, `tls_key_path:`, `tls_ca_path:`,
      `external_client_directory:`, …

  Layout and migrations:

    * `storage_id:` the directory that tenants are in, "Ecto.Adapters.FoundationDB" by default
    * `tenant_id:` the Repo's only tenant, opened when it is first needed: `prefix:` may be left out. The
      Repo opens no other.
    * `migrator:` the module with the migrations, the Repo itself by default
    * `migration_step:` the number of keys in a migration's transactions, 1,000 by default
    * `max_single_value_size:` bytes above which a record is kept in parts, 100,000 by default
    * `max_value_size:` bytes above which a record is refused, `:infinity` by default
    * `metadata_cache: :disabled`: every transaction reads its tenant's directory entry and indexes
    * `log: false`: no log lines about migrations; what goes wrong with the database is always logged

  ## Tenants and transactions

  Every call is about one tenant: its `prefix:` option, the tenant in the struct's metadata, or the
  tenant of the transaction the call is made in.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> Repo.transactional(tenant, fn ->
      ...>   ada = Repo.get!(User, "u1")
      ...>   bea = Repo.get!(User, "u2")
      ...>   Repo.update!(ada, team: bea.team)
      ...>   Repo.update!(bea, team: ada.team)
      ...> end)
      iex> Repo.get!(User, "u1", prefix: tenant).team
      "blue"

  A transaction is strictly serializable. Where it conflicts with another its function runs again:
  it must do nothing but work with the database. FoundationDB may not know whether a commit
  succeeded (error 1021, after losing the connection at the wrong moment): the function runs again
  then too, **and may have been applied already**. An `insert!` that finds its own identical record
  on such a retry succeeds; what must happen once needs an id that tells whether it has. A
  transaction may last 5 seconds.

  `transactional/3` inside a transaction of the same tenant joins it.

  Calls take these options beside their own:

    * `timeout:` ms, or `:infinity`, for the whole call. A call inside a transaction ends with the
      transaction's time, or earlier with its own. Each page of a stream, and each transaction of a call
      with `step:`, has this time of its own.
    * `tag:` a string of up to 16 bytes, or a list of up to five: the transaction's tags, by which an
      operator, or the cluster itself, slows some transactions down and no others
    * `priority:` `:batch` for work that may wait where the cluster is busy, `:default`, or `:immediate`,
      which is not slowed down: for an operator's own tools, not for an application's load

  A transaction's tags and priority hold for all calls in it. `default_options/1` gives all calls of a Repo
  the same:

      def default_options(:stream), do: [tag: "export", priority: :batch]
      def default_options(_operation), do: [tag: "web"]

  Reads that do not wait for each other are in flight together:

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

  A value that looks like a range is compared with `{:==, value}`. `:order_by` takes fields, or
  `desc: field`; without a limit any order is possible, with a limit that of the primary key or of
  the index. `:limit` limits the results. `:key_limit` limits the keys that are read: a page of
  unknown length. A query that no single get or range can answer is an
  `EctoFoundationDB.Exception.Unsupported` that says which index would answer it. An `Ecto.Query`
  can be used in place of a schema where Ecto is present, within the same limits; its `select` may ask
  for fields, and for tuples, lists and maps of them.

  Functions without a bang give `{:ok, struct}` or `{:error, reason}`, where the reason is an
  exception (`EctoFoundationDB.ConflictError`, `EctoFoundationDB.StaleEntryError`) or an invalid
  changeset; those with a bang raise it.
  """

  alias EctoFoundationDB.{Connection, Future, Tenant, Transaction}

  @type t :: module()
  @type result :: {:ok, struct()} | {:error, Exception.t() | struct()}
  @type queryable :: module() | struct()
  @typedoc "A struct, or what an Ecto query selects of it."
  @type selected :: struct() | term()

  @doc "The Repo's configuration, defaults included."
  @callback config() :: keyword()
  @doc "Starts the Repo; options override its configuration."
  @callback start_link(keyword()) :: GenServer.on_start()
  @doc "Options that calls of this operation (`:all`, `:insert`, …) begin with; override it."
  @callback default_options(operation :: atom()) :: keyword()

  @doc """
  Runs a function of no argument, or of the transaction, in a transaction of the tenant; gives its
  result.

  An exception, throw or exit in the function cancels the transaction. See the module's description
  for retries, and for the options `:timeout`, `:tag` and `:priority`.
  """
  @callback transactional(Tenant.t() | nil, (... -> result), keyword()) :: result
            when result: term()

  @doc """
  Inserts a struct or a changeset.

  `on_conflict:` says what happens where there is a record with this primary key: `:raise`,
  `:nothing`, `:replace_all`, `{:replace, fields}`, `{:replace_all_except, fields}`. Fields that are
  `nil` in the struct are not stored, and replace nothing. `conflict_target: []` writes without looking
  whether there is one: the entries that it has in indexes stay, so only where there is none for sure.

  The struct has the values that were given. `returning: true`, or the fields, gives it those that are
  stored then: of fields that were not replaced the earlier ones; with `on_conflict: :nothing` the record
  that is there.
  """
  @callback insert(struct(), keyword()) :: result()
  @callback insert!(struct(), keyword()) :: struct()

  @doc """
  Inserts rows (keyword lists, maps or structs) in one transaction: `{count, nil}`, or `{count, structs}`
  with `returning: true` (or fields), as they are stored then. Rows that `on_conflict: :nothing` left out
  are not among them. Timestamps are not generated. `on_conflict:` as in `insert/2`; a
  conflict is raised, before any row is written.
  """
  @callback insert_all(module(), [map() | keyword()], keyword()) ::
              {non_neg_integer(), nil | [struct()]}

  @doc "Updates the record of a changeset."
  @callback update(struct(), keyword()) :: result()

  @doc """
  Sets fields of the struct's record. Others keep the values they have in the database, those the
  schema does not know included. With `returning: true`, or the fields, the struct has the values that
  are stored then.
  """
  @callback update(struct(), changes :: map() | keyword(), keyword()) :: result()
  @callback update!(struct(), keyword()) :: struct()
  @callback update!(struct(), changes :: map() | keyword(), keyword()) :: struct()

  @doc "Inserts the struct of a changeset, or updates it where it was read from the database."
  @callback insert_or_update(changeset :: struct(), keyword()) :: result()
  @callback insert_or_update!(changeset :: struct(), keyword()) :: struct()

  @doc """
  Updates the records of a query: `update_all(User, set: [active: false])`.

  All in one transaction, which may take 5 seconds and write 10 MB. For more, `step: 1000` makes a
  transaction of every 1,000 records: each is all or nothing, the whole is not, and a change that is
  made meanwhile may be met or not. (Where the records are found by an index on a field that is set, they
  are read twice, so that none is met again where it has moved to.)
  """
  @callback update_all(queryable(), [set: keyword()], keyword()) :: {non_neg_integer(), nil}

  @doc """
  Deletes the struct's record. With `returning: true`, or the fields, the struct has the values that were
  stored.
  """
  @callback delete(struct(), keyword()) :: result()
  @callback delete!(struct(), keyword()) :: struct()

  @doc """
  Deletes the records of a query, all of the schema's where there is no `:where`; `step:` as in
  `update_all/3`.
  """
  @callback delete_all(queryable(), keyword()) :: {non_neg_integer(), nil}

  @doc "The structs as they are in the database now, in their order; `nil` for those that are gone."
  @callback reload(struct() | [struct() | nil] | nil, keyword()) ::
              struct() | [struct() | nil] | nil

  @doc "As `reload/2`; an `EctoFoundationDB.NoResultsError` for those that are gone."
  @callback reload!(struct() | [struct()], keyword()) :: struct() | [struct()]

  @doc """
  The number of records of a query, `:count`. They are read to be counted, in one transaction. Counters
  of a schema that are kept while it is written cost one read: `EctoFoundationDB.Indexer.SchemaMetadata`.
  """
  @callback aggregate(queryable(), :count, keyword()) :: non_neg_integer()

  @doc "The record with this primary key, or `nil`."
  @callback get(queryable(), id :: term(), keyword()) :: selected() | nil
  @doc "As `get/3`; an `EctoFoundationDB.NoResultsError` where there is none."
  @callback get!(queryable(), id :: term(), keyword()) :: selected()
  @doc """
  The only record with these values, or `nil`; an `EctoFoundationDB.MultipleResultsError` where there are
  more.
  """
  @callback get_by(queryable(), keyword() | map(), keyword()) :: selected() | nil
  @doc "As `get_by/3`; an `EctoFoundationDB.NoResultsError` where there is none."
  @callback get_by!(queryable(), keyword() | map(), keyword()) :: selected()
  @doc """
  The only result of a query, or `nil`; an `EctoFoundationDB.MultipleResultsError` where there are more.
  """
  @callback one(queryable(), keyword()) :: selected() | nil
  @doc "As `one/2`; an `EctoFoundationDB.NoResultsError` where there is none."
  @callback one!(queryable(), keyword()) :: selected()
  @doc "Whether a query has a result; reads one record."
  @callback exists?(queryable(), keyword()) :: boolean()
  @doc "The results of a query."
  @callback all(queryable(), keyword()) :: [selected()]
  @doc "The records with these values: `all_by(User, dept: \"eng\")`."
  @callback all_by(queryable(), keyword() | map(), keyword()) :: [selected()]

  @doc """
  The records whose primary key is from `first` up to, not including, `last`; `nil` for no bound.
  `:inclusive_left?` (true) and `:inclusive_right?` (false) say otherwise.
  """
  @callback all_range(queryable(), first :: term(), last :: term(), keyword()) :: [selected()]

  @doc """
  A lazy stream of records, read in pages of `max_rows:` (500). Inside a transaction it reads there;
  outside, each page is a transaction of its own, so that any size can be read, and a change that is
  made meanwhile may be seen or not. A record that moves in the index which the stream goes through, since
  a field of it is changed, may be met twice or not at all; so collect the records first, where they are to
  be moved. Where the index is dropped meanwhile, another that answers the query is gone on with.
  """
  @callback stream(queryable(), keyword()) :: Enumerable.t()

  @doc "As `get/3` and so on, not waiting: awaited inside the transaction, all are in flight at once."
  @callback async_get(queryable(), term(), keyword()) :: Future.t()
  @callback async_get_by(queryable(), keyword() | map(), keyword()) :: Future.t()
  @callback async_one(queryable(), keyword()) :: Future.t()
  @callback async_all(queryable(), keyword()) :: Future.t()
  @callback async_all_by(queryable(), keyword() | map(), keyword()) :: Future.t()

  @doc """
  Inserts structs whose ids the commit makes (`EctoFoundationDB.Versionstamp`); awaited after the
  transaction.
  """
  @callback async_insert_all!(module(), [struct()], keyword()) :: Future.t()

  @doc "The result of a future, or the results of several in their order."
  @callback await(Future.t() | [Future.t()]) :: term()

  @doc """
  Watches the struct's record: when it changes, this process gets `{ref, :ready}`, once; or
  `{ref, {:error, error}}` where the watch failed, since there are more than `max_watches:`, or the database
  was away. `:label` is the key under which `assign_ready/3` gives the record, changed or not.
  """
  @callback watch(struct(), keyword()) :: Future.t()

  @doc """
  What has become of watches: given the futures of `watch/2` (a list, or a map by label) and the refs
  of the messages that came, gives `{assigns, new_futures, other_futures}`.
  `watch?: true` watches anew, in the transaction that reads.

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

      alias EctoFoundationDB.Repo.{Bulk, Queries, Records, Watches}

      def __ecto_fdb_repo__, do: true

      def child_spec(opts \\ []),
        do: %{id: __MODULE__, start: {__MODULE__, :start_link, [opts]}, type: :worker}

      @impl true
      def start_link(opts \\ []),
        do: EctoFoundationDB.Connection.start_link(__MODULE__, Keyword.merge(app_config(), opts))

      def stop(timeout \\ 5000), do: GenServer.stop(__MODULE__, :normal, timeout)

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
        EctoFoundationDB.Repo.__transactional__(__MODULE__, tenant, fun, opts)
      end

      def in_transaction?, do: EctoFoundationDB.Transaction.in?()

      @impl true
      def insert(struct, opts \\ []),
        do: Records.insert(__MODULE__, struct, with_defaults(:insert, opts))

      @impl true
      def insert!(struct, opts \\ []),
        do: Records.insert!(__MODULE__, struct, with_defaults(:insert, opts))

      @impl true
      def insert_all(schema, rows, opts \\ []),
        do: Bulk.insert_all(__MODULE__, schema, rows, with_defaults(:insert_all, opts))

      @impl true
      def insert_or_update(changeset, opts \\ []),
        do: EctoFoundationDB.Repo.__insert_or_update__(__MODULE__, changeset, opts)

      def update(changeset),
        do: Records.update(__MODULE__, changeset, with_defaults(:update, []))

      @impl true
      def update(%{__struct__: Ecto.Changeset} = changeset, opts),
        do: Records.update(__MODULE__, changeset, with_defaults(:update, opts))

      def update(struct, changes), do: update(struct, changes, [])

      @impl true
      def update(struct, changes, opts),
        do: Records.update(__MODULE__, struct, changes, with_defaults(:update, opts))

      def update!(changeset),
        do: Records.update!(__MODULE__, changeset, with_defaults(:update, []))

      @impl true
      def update!(%{__struct__: Ecto.Changeset} = changeset, opts),
        do: Records.update!(__MODULE__, changeset, with_defaults(:update, opts))

      def update!(struct, changes), do: update!(struct, changes, [])

      @impl true
      def update!(struct, changes, opts),
        do: Records.update!(__MODULE__, struct, changes, with_defaults(:update, opts))

      @impl true
      def insert_or_update!(changeset, opts \\ []) do
        case insert_or_update(changeset, opts) do
          {:ok, struct} -> struct
          {:error, _} = error -> EctoFoundationDB.Repo.Changeset.bang(error, :insert_or_update)
        end
      end

      @impl true
      def update_all(queryable, updates, opts \\ []),
        do: Bulk.update_all(__MODULE__, queryable, updates, with_defaults(:update_all, opts))

      @impl true
      def delete(struct, opts \\ []),
        do: Records.delete(__MODULE__, struct, with_defaults(:delete, opts))

      @impl true
      def delete!(struct, opts \\ []),
        do: Records.delete!(__MODULE__, struct, with_defaults(:delete, opts))

      @impl true
      def delete_all(queryable, opts \\ []),
        do: Bulk.delete_all(__MODULE__, queryable, with_defaults(:delete_all, opts))

      for {name, arity} <- [
            get: 2,
            get!: 2,
            get_by: 2,
            get_by!: 2,
            one: 1,
            one!: 1,
            all: 1,
            all_by: 2
          ] do
        args = Macro.generate_arguments(arity, __MODULE__)
        async = :"async_#{name}"

        if {name, arity + 1} in EctoFoundationDB.Repo.behaviour_info(:callbacks), do: @impl(true)

        def unquote(name)(unquote_splicing(args), opts \\ []) do
          __MODULE__
          |> Queries.unquote(async)(unquote_splicing(args), with_defaults(unquote(name), opts))
          |> EctoFoundationDB.Future.result()
        end

        if {async, arity + 1} in EctoFoundationDB.Repo.behaviour_info(:callbacks), do: @impl(true)

        def unquote(async)(unquote_splicing(args), opts \\ []),
          do:
            Queries.unquote(async)(
              __MODULE__,
              unquote_splicing(args),
              with_defaults(unquote(name), opts)
            )
      end

      @impl true
      def reload(structs, opts \\ []),
        do: Queries.reload(__MODULE__, structs, with_defaults(:reload, opts))

      @impl true
      def reload!(structs, opts \\ []),
        do: Queries.reload!(__MODULE__, structs, with_defaults(:reload, opts))

      @impl true
      def aggregate(queryable, aggregate, opts \\ [])

      def aggregate(queryable, aggregate, opts) when is_list(opts),
        do: Queries.aggregate(__MODULE__, queryable, aggregate, with_defaults(:aggregate, opts))

      def aggregate(queryable, aggregate, field),
        do: Queries.aggregate(__MODULE__, queryable, aggregate, field)

      @doc false
      def aggregate(queryable, aggregate, field, _opts),
        do: aggregate(queryable, aggregate, field)

      @impl true
      def all_range(queryable, first, last, opts \\ []),
        do: queryable |> async_all_range(first, last, opts) |> await()

      def async_all_range(queryable, first, last, opts \\ []),
        do: Queries.async_all_range(__MODULE__, queryable, first, last, with_defaults(:all, opts))

      @impl true
      def exists?(queryable, opts \\ []),
        do: Queries.exists?(__MODULE__, queryable, with_defaults(:exists?, opts))

      @impl true
      def stream(queryable, opts \\ []),
        do: Queries.stream(__MODULE__, queryable, with_defaults(:stream, opts))

      @impl true
      def async_insert_all!(schema, structs, opts \\ []),
        do: Bulk.async_insert_all!(__MODULE__, schema, structs, with_defaults(:insert_all, opts))

      @impl true
      def await(futures), do: Queries.await(futures)

      # What Ecto's repositories have and this one has not says what there is instead.
      for {name, arities} <- EctoFoundationDB.Repo.__instead__(), arity <- arities do
        @doc false
        def unquote(name)(unquote_splicing(Macro.generate_arguments(arity, __MODULE__))),
          do: EctoFoundationDB.Repo.__instead__!(unquote(name))
      end

      @impl true
      def watch(struct, opts \\ []),
        do: Watches.watch(__MODULE__, struct, with_defaults(:watch, opts))

      @impl true
      def assign_ready(futures, refs, opts \\ []),
        do: Watches.assign_ready(__MODULE__, futures, refs, with_defaults(:assign_ready, opts))

      for {name, arities} <- EctoFoundationDB.Repo.__calls__(), arity <- arities do
        args = Macro.generate_arguments(arity, __MODULE__)
        defoverridable [{name, arity}]
        if {name, arity} in EctoFoundationDB.Repo.behaviour_info(:callbacks), do: @impl(true)

        def unquote(name)(unquote_splicing(args)) do
          EctoFoundationDB.Repo.Options.follow_single(__MODULE__, fn ->
            super(unquote_splicing(args))
          end)
        end
      end
    end
  end

  # What runs in a tenant, by its greatest number of arguments: with fewer it calls that.
  @doc false
  def __calls__ do
    [transactional: [2, 3], insert: [2], insert!: [2], insert_all: [3], insert_or_update: [2]] ++
      [update: [1, 2, 3], update!: [1, 2, 3], update_all: [3]] ++
      [delete: [2], delete!: [2], delete_all: [2]] ++
      [get: [3], get!: [3], get_by: [3], get_by!: [3], one: [2], one!: [2], all: [2], all_by: [3]] ++
      [all_range: [4], exists?: [2], aggregate: [3], reload: [2], reload!: [2]] ++
      [watch: [2], assign_ready: [3]]
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

  @instead [
    preload:
      {[2, 3],
       "preload: read the associated records with all_by, by an index on the field that refers to " <>
         "the struct; async_all_by and await have several reads in flight at once"},
    rollback: {[1], "rollback: raise or throw in transactional/3, which cancels the transaction"},
    transact:
      {[1, 2], "transact: use transactional(tenant, fun), which gives the function's result"},
    transaction:
      {[1, 2], "transaction: use transactional(tenant, fun), which gives the function's result"}
  ]

  @doc false
  def __instead__, do: for({name, {arities, _}} <- @instead, do: {name, arities})

  @doc false
  def __instead__!(name) do
    {_arities, message} = Keyword.fetch!(@instead, name)
    raise EctoFoundationDB.Exception.Unsupported, message
  end

  @doc false
  def __insert_or_update__(repo, %{__struct__: Ecto.Changeset, data: data} = changeset, opts) do
    case data do
      %{__meta__: %{state: :loaded}} -> repo.update(changeset, opts)
      _ -> repo.insert(changeset, opts)
    end
  end

  def __insert_or_update__(_repo, other, _opts),
    do: raise(ArgumentError, "insert_or_update: expected a changeset, got: #{inspect(other)}")

  @doc """
  The database of a Repo, a handle for `EctoFoundationDB.Native`.

      iex> is_reference(EctoFoundationDB.Repo.database(Repo))
      true
  """
  @spec database(t()) :: EctoFoundationDB.Native.database()
  def database(repo), do: Connection.fetch!(repo).database
end
