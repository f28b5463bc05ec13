defmodule EctoFoundationDB.Sync do
  @moduledoc """
  Keeps the assigns of a Phoenix LiveView, or the state of any process, up to date with the database.

  A page says what it shows, once:

      def mount(%{"id" => id}, _session, socket) do
        {:ok,
         socket
         |> put_private(:tenant, MyApp.tenant())
         |> Sync.sync_one(Repo, :user, User, id)}
      end

  From then on `@user` follows the record: it is assigned again whenever the record is created,
  changed or deleted, by this node, by another one, or by any other client of the database.

  Underneath are FoundationDB's watches, shared between all processes of the node: however many
  pages show a record, one watch is pending in the database, and one read is made when it changes.

  ## The state

  A *state* is a map or struct with `:assigns` and `:private`, both maps: a
  `Phoenix.LiveView.Socket`, or a map in a GenServer of your own. `private.tenant` holds the tenant; a
  repo with `:tenant_id` needs none there. `private.ecto_fdb_sync_data` is this module's own.

  A socket is assigned by `Phoenix.Component.assign/2`, and a `:handle_info` hook is attached to it,
  so a LiveView has nothing more to do. On a LiveView's first, disconnected render the data are read
  and assigned, but not synced: that process is about to end. Any other state gets its assigns with
  `Map.put/3`, and its process passes its messages to `handle_ready/4`:

      def init(tenant) do
        state = %{assigns: %{}, private: %{tenant: tenant}}
        {:ok, Sync.sync_one(state, Repo, :user, User, "u1")}
      end

      def handle_info(message, state) do
        {_cont_or_halt, state} = Sync.handle_ready(Repo, message, state)
        {:noreply, state}
      end

  When a process ends, its syncs end with it. So sync in the process whose state it is: in a task, such as those
  of `assign_async` and `start_async`, nobody would follow. With a socket that is an error; in such a task
  read with the repo, or sync in `handle_async`.

  The examples below use a plain map, `%{assigns: %{}, private: %{tenant: tenant}}`, of a tenant with two
  users: `u1`, Ada of the red team, and `u2`, Bea of the blue one. With a socket they are the same.

  ## Labels

  The label is the key in the assigns: an atom for LiveView, any term elsewhere. Syncing a label
  again replaces what it was synced to before.

  What one call syncs is read at one version of the database. From then on each label is brought up to
  date by itself: after a transaction that changes what two labels show, one of them may be a moment ahead
  of the other. What has to be seen as one belongs under one label, or into a read of your own, in
  a callback.

  ## Options

  All functions that sync take

    * `:prefix` - the tenant to sync from, in the place of the state's, as all functions of a repo take it. A
      label keeps its tenant until it is synced again. The tenant must be one of the same repo.
    * `:assign` - how to assign what this call syncs, now and whenever it changes: a function of the
      state and a map of new assigns by label, or of the state, the new assigns as a list of
      `{label, value}`, those of `sync_many/6` as a list of `{label, records}`, and the options (see
      `assign_map/4`). It returns the new state.
    * `:attach_container_hook` - a function of the state, a name, the repo and the options that has
      `handle_ready/4` called with the process's messages, and returns the new state.
    * `:detach_container_hook` - its opposite, called when nothing is synced any longer.
    * `:timeout` - how many milliseconds to wait for the database before an
      `EctoFoundationDB.TimeoutError` is raised. Default: the repo's `:timeout`.
    * `:async` - with `true` the call returns at once, whatever the database does; see below.

  ## Mounts that do not wait

  With `async: true`, for which LiveView is needed, a label is assigned a `Phoenix.LiveView.AsyncResult`, which
  `<.async_result>` renders: first it is loading, then ok, and each later value is ok, too.

      def mount(%{"id" => id}, _session, socket) do
        {:ok, Sync.sync_one(socket, Repo, :user, User, id, async: true)}
      end

      <.async_result :let={user} assign={@user}>
        <:loading>Loading…</:loading>
        <:failed :let={error}>{Exception.message(error)}</:failed>
        {user.name}
      </.async_result>

  What would be raised otherwise is the reason of a failed result: `EctoFoundationDB.NoResultsError` with
  `on_missing: :raise`, for instance, and the label is not synced then. After the `:timeout` the result is failed
  with an `EctoFoundationDB.TimeoutError`, and becomes ok when the database answers after all.

  The first, disconnected render shows the label loading and reads nothing. Each label is read by itself, at a
  version of its own. A label that is synced again keeps its last result while the next one loads. Callbacks
  get no call for a label that is loading. The first result comes as a message, as changes do: LiveView's hook
  takes it, and so does `handle_ready/4` elsewhere.
  """

  alias EctoFoundationDB.Connection
  alias EctoFoundationDB.Deadline
  alias EctoFoundationDB.Exception.TenantGone
  alias EctoFoundationDB.Layer.Tenants
  alias EctoFoundationDB.LiveQuery
  alias EctoFoundationDB.Native
  alias EctoFoundationDB.Repo.Options, as: RepoOptions
  alias EctoFoundationDB.Sync.All
  alias EctoFoundationDB.Sync.Arguments
  alias EctoFoundationDB.Sync.Async
  alias EctoFoundationDB.Sync.Callbacks
  alias EctoFoundationDB.Sync.Changeover
  alias EctoFoundationDB.Sync.Container
  alias EctoFoundationDB.Sync.Many
  alias EctoFoundationDB.Sync.One
  alias EctoFoundationDB.Sync.Options
  alias EctoFoundationDB.Sync.State
  alias EctoFoundationDB.Sync.Subscription
  alias EctoFoundationDB.Tenant

  @typedoc "A `Phoenix.LiveView.Socket`, or another map with these two keys."
  @type state :: %{
          required(:assigns) => map(),
          required(:private) => map(),
          optional(term()) => term()
        }
  @type label :: term()
  @type request :: One.t() | Many.t() | All.t()
  @typedoc "A schema, or a schema with `:where`, `:order_by` and `:limit`, or an `Ecto.Query` of one."
  @type queryable :: module() | struct() | {module() | struct(), keyword()}

  @container [:attach_container_hook, :detach_container_hook]

  @doc """
  Syncs one record: `label` is assigned the struct, or `nil` while there is none.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> state = %{assigns: %{}, private: %{tenant: tenant}}
      iex> state = Sync.sync_one(state, Repo, :user, User, "u1")
      iex> state.assigns.user.name
      "Ada"

  With the option `on_missing: :raise`, an `EctoFoundationDB.NoResultsError` is raised where there is no record
  when this is called: in a Phoenix application the answer is 404. Where the record is deleted later, the
  label is assigned `nil`, which a `:handle_assigns` callback hears of.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> state = %{assigns: %{}, private: %{tenant: tenant}}
      iex> Sync.sync_one(state, Repo, :user, User, "nobody", on_missing: :raise)
      ** (EctoFoundationDB.NoResultsError) there is no MyApp.User with the primary key "nobody"

  Label and schema may also be given the other way round. For the other options see the
  [module's documentation](#module-options).
  """
  @spec sync_one(state(), module(), label(), module(), term(), keyword()) :: state()
  def sync_one(state, repo, label, schema, id, opts \\ []) do
    {label, schema} = Arguments.order(label, schema)
    {on_missing, opts} = opts |> Options.keyword!() |> Keyword.pop(:on_missing)
    one = %One{label: label, schema: schema, id: id, on_missing: on_missing}
    sync(state, repo, [one], opts)
  end

  @doc """
  Syncs records by their primary keys, each by itself: `label` is assigned the list of those that
  exist, in the order of `ids`. One that is created later appears in its place. `nil` or `[]`
  cancels.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> state = %{assigns: %{}, private: %{tenant: tenant}}
      iex> state = Sync.sync_many(state, Repo, :users, User, ["u2", "nobody yet", "u1"])
      iex> Enum.map(state.assigns.users, & &1.name)
      ["Bea", "Ada"]

  Synced again with other ids, those that stay are not read again. Label and schema may also be given
  the other way round. For the options see the [module's documentation](#module-options).
  """
  @spec sync_many(state(), module(), label(), module(), [term()] | nil, keyword()) :: state()
  def sync_many(state, repo, label, schema, ids, opts \\ []) do
    {label, schema} = Arguments.order(label, schema)
    sync(state, repo, [%Many{label: label, schema: schema, ids: ids}], opts)
  end

  @doc """
  Syncs the records of a schema: `label` is assigned their list.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> state = %{assigns: %{}, private: %{tenant: tenant}}
      iex> state = Sync.sync_all(state, Repo, :users, User)
      iex> Enum.map(state.assigns.users, & &1.name)
      ["Ada", "Bea"]
      iex> state = Sync.sync_all(state, Repo, :last, {User, order_by: [desc: :id], limit: 1})
      iex> Enum.map(state.assigns.last, & &1.name)
      ["Bea"]

  The list is watched by the schema's `EctoFoundationDB.Indexer.SchemaMetadata` index; without one
  the error shows the migration to write. The option `:watch_action` says which changes are
  followed: `:inserts`, `:deletes`, `:collection` (inserts and deletes), `:updates` or `:changes`
  (all, the default). For the other options see the [module's documentation](#module-options).

  Where Ecto is present, an `Ecto.Query` says the same as the options, and may select: a callback can
  sync the records that a list of ids names.

      Sync.sync_all(socket, Repo, :ids, from(u in User, order_by: u.name, select: u.id))

  Label and queryable may also be given the other way round, and the label may be left out: then it
  is the schema's source as an atom, here `:users`: `Sync.sync_all(state, Repo, User)`.
  """
  @spec sync_all(state(), module(), label(), queryable(), keyword()) :: state()
  def sync_all(state, repo, label, queryable, opts) do
    {label, queryable} = Arguments.order(label, queryable)
    sync_list(state, repo, label, queryable, [], opts)
  end

  @doc false
  def sync_all(state, repo, queryable),
    do: sync_all(state, repo, Arguments.label(queryable), queryable, [])

  @doc false
  def sync_all(state, repo, label, queryable) do
    if Arguments.swapped?(label, queryable) and Keyword.keyword?(queryable) do
      sync_all(state, repo, Arguments.label(label), label, queryable)
    else
      sync_all(state, repo, label, queryable, [])
    end
  end

  @doc """
  Syncs the records with the values `by`, as `sync_all/5` does all of a schema.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> state = %{assigns: %{}, private: %{tenant: tenant}}
      iex> state = Sync.sync_all_by(state, Repo, :reds, User, team: "red")
      iex> Enum.map(state.assigns.reds, & &1.name)
      ["Ada"]

  `by` names exactly the fields of a SchemaMetadata index of the schema, here `metadata(User, [:team])`: it
  counts the changes that are watched.
  """
  @spec sync_all_by(state(), module(), label(), queryable(), keyword() | map(), keyword()) ::
          state()
  def sync_all_by(state, repo, label, queryable, by, opts) do
    {label, queryable} = Arguments.order(label, queryable)
    sync_list(state, repo, label, queryable, by, opts)
  end

  @doc false
  def sync_all_by(state, repo, queryable, by) do
    sync_all_by(state, repo, Arguments.label(queryable), queryable, by, [])
  end

  @doc false
  def sync_all_by(state, repo, label, queryable, by) do
    if Arguments.swapped?(label, queryable) and Arguments.by?(queryable) do
      sync_all_by(state, repo, Arguments.label(label), label, queryable, by)
    else
      sync_all_by(state, repo, label, queryable, by, [])
    end
  end

  defp sync_list(state, repo, label, queryable, by, opts) do
    unless by == [] or Arguments.by?(by) do
      raise ArgumentError,
            "expected the values to sync by, as in [department: \"engineering\"], got: #{inspect(by)}"
    end

    {action, opts} = opts |> Options.keyword!() |> Keyword.pop(:watch_action, :changes)
    all = %All{label: label, queryable: queryable, by: by, watch_action: action}
    sync(state, repo, [all], opts)
  end

  @doc """
  Syncs several labels at once: a list of `EctoFoundationDB.Sync.One`, `EctoFoundationDB.Sync.Many`
  and `EctoFoundationDB.Sync.All`. All of them are read at one version of the database.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> state = %{assigns: %{}, private: %{tenant: tenant}}
      iex> state =
      ...>   Sync.sync(state, Repo, [
      ...>     %Sync.One{label: :user, schema: User, id: "u1"},
      ...>     %Sync.Many{label: :friends, schema: User, ids: ["u2"]},
      ...>     %Sync.All{label: :blues, queryable: User, by: [team: "blue"]}
      ...>   ])
      iex> state.assigns |> Map.keys() |> Enum.sort()
      [:blues, :friends, :user]

  For the options see the [module's documentation](#module-options). Where this raises, also in a
  function of the application such as a callback, nothing has changed: what was synced before goes on.
  """
  @spec sync(state(), module(), [request()], keyword()) :: state()
  def sync(state, repo, queryable_assigns, opts \\ []) do
    State.check!(state)
    Options.sync!(opts)
    Arguments.requests!(queryable_assigns)
    data = State.get(state, repo)
    Callbacks.check_labels!(data, Enum.map(queryable_assigns, & &1.label))
    Container.check!(state, opts)
    if opts[:async], do: Async.check!()

    if opts[:async],
      do: Changeover.run(fn -> begin(state, repo, queryable_assigns, opts) end),
      else: read(state, repo, data, queryable_assigns, opts)
  end

  defp read(state, repo, data, queryable_assigns, opts) do
    RepoOptions.follow_single(repo, fn ->
      sync(state, repo, tenant!(state, repo, opts[:prefix]), data, queryable_assigns, opts)
    end)
  end

  defp sync(state, repo, tenant, data, queryable_assigns, opts) do
    {empty, wanted} =
      queryable_assigns
      |> Enum.map(& &1.__struct__.prepare(&1, tenant))
      |> Enum.split_with(&empty?/1)

    Changeover.run(fn ->
      synced = subscribe(repo, tenant, data, wanted, opts)

      changes =
        for({_, %{request: request} = now} <- synced, do: change(now, was(request, state, data))) ++
          for(many <- empty, do: emptied(many, state, data))

      if Container.connected?(state) do
        state
        |> replace(repo, synced, empty)
        |> attach_hook(repo, opts)
        |> assign(repo, changes, opts)
        |> detach_hook_if_idle(repo, opts)
      else
        synced |> Enum.map(&elem(&1, 0)) |> Changeover.ended()
        assign(state, repo, changes, opts)
      end
    end)
  end

  defp empty?(%Many{ids: ids}), do: ids in [nil, []]
  defp empty?(_request), do: false

  # Begins to sync labels whose first results are not waited for.
  defp begin(state, repo, requests, opts) do
    before = State.get(state, repo)
    {empty, wanted} = Enum.split_with(requests, &empty?/1)

    {replaced, data} =
      Enum.flat_map_reduce(requests, before, fn %{label: label}, data ->
        {synced, data} = State.pop_label(data, label)
        {pending, data} = State.pop_pending(data, label)
        {[synced && elem(synced, 0), pending], data}
      end)

    replaced |> Enum.reject(&is_nil/1) |> Changeover.ended()

    emptied =
      for(many <- empty, do: {many, opts[:assign], was(many, state, before), Async.ok([])})

    loading = for(request <- wanted, do: {request, Async.loading(was(request, state, before))})
    changes = for({request, loading} <- loading, do: {request, opts[:assign], nil, loading})
    # Nothing has come yet: that is not for callbacks.
    state = state |> State.put(repo, data) |> Container.assign(changes, opts)

    state =
      if Container.connected?(state) do
        for {request, loading} <- loading, reduce: state do
          state -> await(state, repo, before, request, loading, opts)
        end
        |> attach_hook(repo, opts)
      else
        state
      end

    state |> assign(repo, emptied, opts) |> detach_hook_if_idle(repo, opts)
  end

  defp await(state, repo, before, request, loading, opts) do
    {timeout, _deadline} = deadline(repo, opts)
    pending = Async.begin(request, opts[:assign], loading, opts[:prefix], timeout)
    # What is wrong with it for sure is wrong now.
    tenant = known_tenant!(state, repo, opts[:prefix])
    request = tenant && request.__struct__.prepare(request, tenant)

    pending =
      case request && request.__struct__.known_live_queries(request, tenant) do
        nil -> plan(pending, state, repo, nil)
        live_queries -> subscribe_for(pending, repo, before, tenant, request, live_queries)
      end

    Changeover.begun([pending])
    State.put(state, repo, State.put_pending(State.get(state, repo), pending))
  end

  defp subscribe_for(pending, repo, data, tenant, request, live_queries) do
    {wanted, synced} = want(request, live_queries, tenant, {:async, pending.assign}, data)
    [subscription] = Native.subscribe(Connection.fetch!(repo).database, pending.ref, [wanted])
    {basis, _queries, _earlier} = wanted
    %{pending | subscription: subscription, synced: synced, basis: basis}
  end

  # Asks the database what to read: in another process, since this one does not wait for it.
  defp plan(pending, %{private: private}, repo, outdated) do
    %{request: %module{} = request, prefix: prefix} = pending
    state = %{private: Map.take(private, [:tenant])}

    Async.run(pending, fn ->
      with {query, basis} <- outdated, do: LiveQuery.learn(query, basis)
      tenant = tenant!(state, repo, prefix)
      request = module.prepare(request, tenant)
      {:planned, tenant, request, module.live_queries(request, tenant)}
    end)

    %{pending | subscription: nil, synced: nil}
  end

  # The tenant, or nil where the database is to be asked for it.
  defp known_tenant!(state, repo, prefix) do
    tenant = prefix || state.private[:tenant]
    id = Connection.fetch!(repo).config[:tenant_id]

    unknown? =
      is_binary(id) and not match?(%Tenant{repo: ^repo}, tenant) and Tenants.find(repo, id) == nil

    if unknown?, do: nil, else: tenant!(state, repo, prefix)
  end

  # An answer to what is awaited.
  defp answered(state, repo, {pending, {:planned, tenant, request, live_queries}}, _opts) do
    data = State.get(state, repo)
    pending = subscribe_for(pending, repo, data, tenant, request, live_queries)
    State.put(state, repo, State.put_pending(data, pending))
  end

  defp answered(state, repo, {%{synced: synced} = pending, :replan}, _opts) do
    Subscription.cancel(pending.subscription)
    # The indexes are others than those that the list was planned by.
    pending = plan(pending, state, repo, {synced.request.query, pending.basis})
    State.put(state, repo, State.put_pending(State.get(state, repo), pending))
  end

  defp answered(state, repo, {pending, :timeout}, opts) do
    error =
      EctoFoundationDB.TimeoutError.exception(
        timeout: pending.timeout,
        doing: "syncing #{inspect(pending.request.label)}",
        database: Connection.fetch!(repo).database
      )

    # It goes on: when the database answers after all, the label has its value.
    failed = Async.failed(pending, error)
    change = {pending.request, pending.assign, pending.loading, failed}
    pending = %{pending | timer: nil, loading: failed}
    data = State.put_pending(State.get(state, repo), pending)
    state |> State.put(repo, data) |> assign(repo, [change], opts)
  end

  defp answered(state, repo, {%{subscription: subscription} = pending, :ok}, opts) do
    taken = take(subscription, pending.synced)
    if reason = stale(taken), do: raise(reason)
    found!(taken)
    taken
  rescue
    error -> fail(state, repo, pending, error, opts)
  else
    taken -> stand(state, repo, pending, taken, opts)
  end

  defp answered(state, repo, {pending, {:error, error}}, opts) do
    tenant = pending.synced.tenant
    error = Subscription.exception({:told, error}, tenant)
    single? = Connection.fetch!(repo).config[:tenant_id] == tenant.id

    if is_struct(error, TenantGone) and single? and not pending.planned_again? do
      pending = plan(%{pending | planned_again?: true}, state, repo, nil)
      State.put(state, repo, State.put_pending(State.get(state, repo), pending))
    else
      fail(state, repo, pending, error, opts)
    end
  end

  defp answered(state, repo, {pending, {:failed, error}}, opts),
    do: fail(state, repo, pending, error, opts)

  defp fail(state, repo, pending, error, opts) do
    {_pending, data} = State.pop_pending(State.get(state, repo), pending.request.label)
    Changeover.ended([pending])
    change = {pending.request, pending.assign, pending.loading, Async.failed(pending, error)}

    state
    |> State.put(repo, data)
    |> assign(repo, [change], opts)
    |> detach_hook_if_idle(repo, opts)
  end

  defp stand(state, repo, %{subscription: subscription} = pending, taken, opts) do
    {_pending, data} = State.pop_pending(State.get(state, repo), pending.request.label)
    {nil, data} = State.put_label(data, pending.request.label, {subscription, taken})
    state = state |> State.put(repo, data) |> assign(repo, [change(taken, pending.loading)], opts)
    Async.over(pending)
    state
  end

  # Subscribes and takes the first results.
  defp subscribe(repo, tenant, data, requests, opts),
    do: subscribe(repo, tenant, data, requests, opts[:assign], deadline(repo, opts))

  defp subscribe(_repo, _tenant, _data, [], _assign, _deadline), do: []

  defp subscribe(repo, tenant, data, requests, assign, deadline) do
    wanted = Enum.map(requests, &want(&1, tenant, assign, data))

    case subscribe(Connection.fetch!(repo).database, wanted, tenant, deadline) do
      # The indexes are others than those that the lists were planned by.
      :replan ->
        for {{basis, _, _}, %{request: %All{query: query}}} <- wanted,
            do: LiveQuery.learn(query, basis)

        subscribe(repo, tenant, data, requests, assign, deadline)

      subscriptions ->
        Changeover.begun(subscriptions)
        first_take(wanted, subscriptions)
    end
  end

  defp subscribe(database, wanted, tenant, deadline) do
    labels = Enum.map_join(wanted, ", ", fn {_query, synced} -> inspect(synced.request.label) end)
    queries = Enum.map(wanted, fn {query, _synced} -> query end)
    Subscription.subscribe(database, queries, deadline, tenant, "syncing #{labels}")
  end

  # The timeout, and when it is over: it goes for all attempts together.
  defp deadline(repo, opts) do
    case opts[:timeout] || Connection.fetch!(repo).timeout do
      :infinity -> {:infinity, :infinity}
      timeout -> {timeout, System.monotonic_time(:millisecond) + timeout}
    end
  end

  defp first_take(wanted, subscriptions) do
    Enum.zip_with(wanted, subscriptions, fn {_query, synced}, subscription ->
      taken = take(subscription, synced)
      # A running sync goes on where a record can't be decoded, but none begins so.
      reason = stale(taken)
      if reason && reason != stale(synced), do: raise(reason)
      found!(taken)
      {subscription, taken}
    end)
  end

  defp found!(%{request: %One{on_missing: :raise} = one, value: nil}) do
    raise EctoFoundationDB.NoResultsError,
      message: "there is no #{inspect(one.schema)} with the primary key #{inspect(one.id)}"
  end

  defp found!(_taken), do: :ok

  # What to subscribe to for a request, and what to remember of it.
  defp want(%module{} = request, tenant, assign, data),
    do: want(request, module.live_queries(request, tenant), tenant, assign, data)

  defp want(request, {basis, queries}, tenant, assign, data) do
    {subscription, before} = earlier(request, tenant, data)
    results = queries |> Enum.map(&Map.get(before, &1, {[], nil})) |> List.to_tuple()

    synced = %{
      request: request,
      tenant: tenant,
      assign: assign,
      results: results,
      value: nil,
      stale: first_stale(results)
    }

    {{basis, queries, subscription}, synced}
  end

  # The label's subscription so far, and what it has for each of its queries: those that stay are not
  # read again. That is for the records of a list of ids: all else is read, as when it is first synced.
  defp earlier(%Many{label: label, schema: schema}, tenant, data) do
    case State.find_label(data, label) do
      {subscription, %{request: %Many{schema: ^schema} = earlier, tenant: ^tenant} = synced} ->
        {_basis, queries} = Many.live_queries(earlier, tenant)
        {subscription, Map.new(Enum.zip(queries, Tuple.to_list(synced.results)))}

      _other ->
        {nil, %{}}
    end
  end

  defp earlier(_request, _tenant, _data), do: {nil, %{}}

  # The decoder is made each time: pages that keep none are smaller.
  defp take(subscription, %{request: %module{} = request, results: before} = synced) do
    decoder = module.decoder(request, synced.tenant)
    {results, news} = Subscription.take(subscription, before, decoder)
    value = module.value(request, results, news, synced.value)
    stale = if synced.stale == nil, do: first_stale(results, news), else: first_stale(results)
    %{synced | results: results, value: value, stale: stale}
  end

  # Why something is stale, or nil. If nothing was, only news can be.
  defp first_stale(results), do: results |> Tuple.to_list() |> Enum.find_value(&elem(&1, 1))

  defp first_stale(_results, []), do: nil

  defp first_stale(results, [place | places]) do
    case elem(results, place) do
      {_places, nil} -> first_stale(results, places)
      {_places, stale} -> stale
    end
  end

  defp stale(%{stale: stale, tenant: tenant}), do: Subscription.exception(stale, tenant)

  # For `assign/4`: what for, by which function of the application or nil, the old value, the new one.
  defp change(%{request: request, assign: {:async, assign}} = synced, old),
    do: {request, assign, old, shown(synced)}

  defp change(%{request: request, assign: assign, value: value}, old),
    do: {request, assign, old, value}

  # What a label is assigned.
  defp shown(%{assign: {:async, _assign}, value: value}), do: Async.ok(value)
  defp shown(%{value: value}), do: value

  defp emptied(%Async{request: %module{} = request, assign: assign, loading: loading}),
    do: {request, assign, loading, Async.ok(module.empty(request))}

  defp emptied(%{request: %module{} = request} = synced),
    do: change(%{synced | value: module.empty(request)}, shown(synced))

  # A list of no ids cancels, whatever the label was synced to.
  defp emptied(many, state, data) do
    case State.find_label(data, many.label) do
      {_subscription, synced} -> emptied(%{synced | request: many})
      nil -> {many, nil, was(many, state, data), Many.empty(many)}
    end
  end

  # The value of a label so far: what was last assigned, which the assigns need not have any more.
  defp was(%module{label: label} = request, state, data) do
    case State.find_label(data, label) do
      {_subscription, synced} ->
        shown(synced)

      nil ->
        case State.find_pending(data, label) do
          %Async{loading: loading} -> loading
          nil -> Map.get_lazy(state.assigns, label, fn -> module.empty(request) end)
        end
    end
  end

  # Remembers what is synced, in the place of what was.
  defp replace(state, repo, synced, empty) do
    {replaced, data} =
      Enum.map_reduce(synced, State.get(state, repo), fn {_, %{request: request}} = synced,
                                                         data ->
        State.put_label(data, request.label, synced)
      end)

    {emptied, data} = Enum.map_reduce(empty, data, &State.pop_label(&2, &1.label))

    labels =
      for(%{label: label} <- empty, do: label) ++
        for({_, %{request: one}} <- synced, do: one.label)

    {pending, data} = Enum.map_reduce(labels, data, &State.pop_pending(&2, &1))

    Changeover.ended(for {ended, _synced} <- replaced ++ emptied, do: ended)
    Changeover.ended(for %Async{} = ended <- pending, do: ended)
    State.put(state, repo, data)
  end

  @doc """
  Handles a message, or a list of messages, of the process that has synced.

  Answers `{:halt, state}` for `{ref, :ready}` messages of this repo's syncs, with the assigns up to
  date, and `{:cont, state}` for everything else, other repos' messages included. Messages of a list
  are handled together, with one assign; it is `:halt` where one of them is this repo's. The data have
  been read already: this never waits for the database.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> state = %{assigns: %{}, private: %{tenant: tenant}}
      iex> state = Sync.sync_one(state, Repo, :user, User, "u1")
      iex> Repo.update!(state.assigns.user, name: "Ada Lovelace")
      iex> message = receive do: ({_ref, :ready} = message -> message)
      iex> {:halt, state} = Sync.handle_ready(Repo, message, state)
      iex> state.assigns.user.name
      "Ada Lovelace"
      iex> {:cont, ^state} = Sync.handle_ready(Repo, :something_else, state)

  Where a function of the application raises (a callback, an `:assign` function), this does, and the
  caller has the state of before. No message is sent for that: the next change of the label brings
  everything.

  A LiveView needs no such function, it has a hook. Options: `:assign`, as in the
  [module's documentation](#module-options), in the place of the labels' own.
  """
  @spec handle_ready(module(), term(), state(), keyword()) :: {:cont | :halt, state()}
  def handle_ready(repo, info, state, opts \\ []) do
    Options.check!(opts)
    data = State.get(state, repo)

    case {ready(info, data.synced), Async.answers(info, data.pending)} do
      {[], []} ->
        {:cont, state}

      {ready, []} ->
        {:halt, refresh(state, repo, data, ready, opts)}

      {ready, answers} ->
        state = if ready == [], do: state, else: refresh(state, repo, data, ready, opts)

        {:halt,
         for {pending, answer} <- answers, reduce: state do
           state -> answered_to(state, repo, pending.ref, answer, opts)
         end}
    end
  end

  # How many ms after an answer could not be handled it comes again.
  @again 1_000

  # What came before in a list of messages may have changed or ended it.
  defp answered_to(state, repo, ref, answer, opts) do
    case State.get(state, repo).pending do
      %{^ref => pending} ->
        Changeover.run(fn -> answered(state, repo, {pending, answer}, opts) end)

      _over ->
        state
    end
  catch
    kind, reason ->
      # The caller has the state of before, which awaits this answer.
      with :ok <- answer,
           %{^ref => %{subscription: subscription}} <- State.get(state, repo).pending,
           do: Subscription.untake(subscription)

      Process.send_after(self(), {ref, answer}, @again)
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  # The subscriptions that messages are of, each with what is synced by it.
  defp ready({ref, :ready}, synced) when is_reference(ref) do
    case synced do
      %{^ref => before} -> [{ref, before}]
      _other -> []
    end
  end

  defp ready(list, synced) when is_list(list),
    do: list |> all_ready(synced) |> Enum.uniq_by(fn {ref, _before} -> ref end)

  defp ready(_info, _synced), do: []

  # A message may be anything, an improper list too.
  defp all_ready([{_ref, :ready} = info | infos], synced),
    do: ready(info, synced) ++ all_ready(infos, synced)

  defp all_ready([_info | infos], synced), do: all_ready(infos, synced)
  defp all_ready(_end, _synced), do: []

  defp refresh(state, repo, data, ready, opts) do
    # Only the application's functions can sync.
    if data.callbacks == [] and opts == [] and not own_assign?(ready),
      do: take_changes(state, repo, data, ready, opts),
      else: Changeover.run(fn -> take_changes(state, repo, data, ready, opts) end)
  end

  defp own_assign?([]), do: false
  defp own_assign?([{_ref, %{assign: nil}} | ready]), do: own_assign?(ready)
  defp own_assign?(_ready), do: true

  defp take_changes(state, repo, data, ready, opts) do
    {synced, changes, stale} = take_all(ready, data.synced, [], [])

    state
    |> State.put(repo, %{data | synced: synced})
    |> assign(repo, changes, opts)
    |> notify_stale(repo, stale)
  catch
    kind, reason ->
      # The caller has the state of before.
      for {subscription, _before} <- ready, do: Subscription.untake(subscription)
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  # Every page does this with every change: a recursion costs less than functions that are made for it.
  defp take_all([], synced, changes, stale), do: {synced, Enum.reverse(changes), stale}

  defp take_all([{subscription, before} | others], synced, changes, stale) do
    now = take(subscription, before)

    changes =
      if before.value === now.value, do: changes, else: [change(now, shown(before)) | changes]

    reason = stale(now)
    stale = if stale(before) == reason, do: stale, else: [{subscription, now, reason} | stale]
    take_all(others, %{synced | subscription => now}, changes, stale)
  end

  defp notify_stale(state, _repo, []), do: state

  defp notify_stale(state, repo, stale) do
    # The callbacks for the assigns may have cancelled a label, or synced it again.
    %State{labels: labels} = State.get(state, repo)

    reasons =
      for {subscription, %{request: %{label: label}}, reason} <- stale,
          labels[label] == subscription,
          into: %{},
          do: {label, reason}

    if reasons == %{}, do: state, else: Callbacks.run(state, repo, :handle_stale, reasons)
  end

  @doc """
  Cancels the sync of a label. When it returns, no message of that sync is in the mailbox, and none
  will come. A label that is not synced is left as it is.

  The label is assigned `nil`, or `[]` where it was synced to a list, unless `assign: false` is
  given. The hook is detached when nothing is left; see `:detach_container_hook` in the
  [module's documentation](#module-options).

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> state = %{assigns: %{}, private: %{tenant: tenant}}
      iex> state = Sync.sync_one(state, Repo, :user, User, "u1")
      iex> Sync.cancel(state, Repo, :user).assigns
      %{user: nil}

  You don't need to cancel before the process exits.
  """
  @spec cancel(state(), module(), label(), keyword()) :: state()
  def cancel(state, repo, label, opts \\ []) do
    cancel_labels(state, repo, [label], opts)
  end

  @doc """
  Cancels every sync of the repo in this state, as `cancel/4` does for one.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> state = %{assigns: %{}, private: %{tenant: tenant}}
      iex> state = state |> Sync.sync_one(Repo, :user, User, "u1") |> Sync.sync_all(Repo, :users, User)
      iex> Sync.cancel_all(state, Repo).assigns
      %{user: nil, users: []}
  """
  @spec cancel_all(state(), module(), keyword()) :: state()
  def cancel_all(state, repo, opts \\ []) do
    %State{labels: labels, pending: pending} = State.get(state, repo)
    awaited = for {_ref, %{request: %{label: label}}} <- pending, do: label
    cancel_labels(state, repo, Map.keys(labels) ++ awaited, opts)
  end

  defp cancel_labels(state, repo, labels, opts) do
    State.check!(state)
    {assign?, opts} = Options.cancel!(opts)
    {cancelled, data} = Enum.map_reduce(labels, State.get(state, repo), &State.pop_label(&2, &1))
    cancelled = Enum.reject(cancelled, &is_nil/1)
    {pending, data} = Enum.map_reduce(labels, data, &State.pop_pending(&2, &1))
    pending = Enum.reject(pending, &is_nil/1)
    shown = for({_, synced} <- cancelled, do: synced) ++ pending
    changes = if assign?, do: Enum.map(shown, &emptied/1), else: []

    Changeover.run(fn ->
      Changeover.ended(for({subscription, _} <- cancelled, do: subscription) ++ pending)

      state
      |> State.put(repo, data)
      |> assign(repo, changes, opts)
      |> detach_hook_if_idle(repo, opts)
    end)
  end

  @doc """
  Whether a label is synced.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> state = %{assigns: %{}, private: %{tenant: tenant}}
      iex> state = Sync.sync_one(state, Repo, :user, User, "u1")
      iex> {Sync.watching?(state, Repo, :user), Sync.watching?(state, Repo, :users)}
      {true, false}
  """
  @spec watching?(state(), module(), label()) :: boolean()
  def watching?(state, repo, label) do
    data = State.get(state, repo)
    is_map_key(data.labels, label) or State.find_pending(data, label) != nil
  end

  @doc """
  Whether what a label shows may be out of date: the database is silent, or refuses, and the process has been
  told so. `:handle_stale` (see `attach_callback/6`) tells when that begins and ends, and why. A label that is
  not synced is not stale.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> state = %{assigns: %{}, private: %{tenant: tenant}}
      iex> state = Sync.sync_one(state, Repo, :user, User, "u1")
      iex> Sync.stale?(state, Repo, :user)
      false
  """
  @spec stale?(state(), module(), label()) :: boolean()
  def stale?(state, repo, label) do
    case State.find_label(State.get(state, repo), label) do
      {_subscription, %{stale: stale}} -> stale != nil
      nil -> false
    end
  end

  @doc """
  What the syncs of all this node's processes with a repo are, and have cost since it started.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> state = %{assigns: %{}, private: %{tenant: tenant}}
      iex> state = Sync.sync_one(state, Repo, :user, User, "u1")
      iex> _state = Sync.sync_one(state, Repo, :me, User, "u1")
      iex> stats = Sync.stats(Repo)
      iex> {stats.subscriptions, stats.live_queries, stats.pending_watches}
      {2, 1, 1}

  Now: `:subscriptions`, `:live_queries` (what they share), `:pending_watches`, `:transactions`,
  `:stale` (live queries that can't be kept up to date), `:waiting` (reads of live queries that wait for a
  batch). Since the start: `:commits`, `:conflicts`, `:unknown_results` and `:transaction_retries` of all
  transactions of the Repo; `:batches` (transactions that read live queries), `:reads` (live queries read by
  them), `:watches_armed`, `:watches_fired`, `:watches_failed`, `:messages`, `:retries`, `:basis_checks`
  (looks at a tenant and its indexes after the metadata version has changed), `:probes` (looks at watched
  keys: at most one for each live query in the time of `stale_after:`). For events see
  `EctoFoundationDB.Telemetry`.
  """
  @spec stats(module()) :: %{atom() => non_neg_integer()}
  def stats(repo), do: Native.stats(Connection.fetch!(repo).database)

  @doc """
  Waits until every process of this node that syncs with the repo knows everything that was committed before
  this call. Its messages are in the mailboxes then, so that a page handles them before what it is asked next.
  It is for tests: after it, `render(view)` shows the change.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> state = %{assigns: %{}, private: %{tenant: tenant}}
      iex> state = Sync.sync_one(state, Repo, :user, User, "u1")
      iex> Repo.update!(state.assigns.user, name: "Ada Lovelace")
      iex> Sync.settle(Repo)
      :ok
      iex> message = receive do: ({_ref, :ready} = message -> message), after: (0 -> nil)
      iex> {:halt, state} = Sync.handle_ready(Repo, message, state)
      iex> state.assigns.user.name
      "Ada Lovelace"

  What other processes are syncing when it is called has its first results when it returns. What a page syncs
  later, in a callback for what it is told, is read later.

  Option: `:timeout`, in ms (default: the repo's); then an `EctoFoundationDB.TimeoutError` says what is not up to
  date. A list that has no usable index any more never is.
  """
  @spec settle(module(), keyword()) :: :ok
  def settle(repo, opts \\ []) do
    opts = Keyword.validate!(opts, [:timeout])
    %{database: database, timeout: default} = repo |> Connection.instance() |> Connection.fetch!()
    settle(database, Deadline.new(opts[:timeout] || default), make_ref())
  end

  # An endless wait is made of bounded ones, so that nothing waits for a process that has ended.
  @longest_settling 60_000

  defp settle(database, deadline, ref) do
    left = Deadline.left(deadline)
    :ok = Native.settle(database, ref, min(left, @longest_settling))

    receive do
      {^ref, :ok} ->
        :ok

      {^ref, {:timeout, _doing, _error}} when left > @longest_settling ->
        settle(database, deadline, ref)

      {^ref, {:timeout, doing, error}} ->
        raise EctoFoundationDB.TimeoutError,
          timeout: deadline.timeout,
          doing: doing,
          last_error: error && EctoFoundationDB.Error.exception(error),
          database: database
    end
  end

  @doc """
  Attaches a callback to an event. It is called with the state and a map by label, and returns
  `{:cont, state}`, or `{:halt, state}` to keep the callbacks attached after it from being called.

    * `:handle_assigns` - after Sync has assigned labels, with their old values: what it had assigned
      before, also where the assigns were reset since; for a label that is new to it, what was there.
    * `:handle_stale` - when labels can't be kept up to date for longer than the Repo's `stale_after:`: the
      database, or the storage server of their keys, is silent or refuses, an index is missing, a record
      can't be loaded, or the tenant is gone. The map has the reason, an exception; the assigns stay what
      they were (those of a tenant that is gone become `nil` or `[]`). The callback is called once more,
      with `nil`, when the labels are up to date again. An incident calls it once each, however much
      changes meanwhile.

  A callback may sync other labels: here, the team of the user.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> state = %{assigns: %{}, private: %{tenant: tenant}}
      iex> state =
      ...>   Sync.attach_callback(state, Repo, :handle_assigns, fn
      ...>     %{assigns: %{user: %User{team: team}}} = state, %{user: _old_user} ->
      ...>       {:cont, Sync.sync_all_by(state, Repo, :team, User, team: team)}
      ...>
      ...>     state, _old ->
      ...>       {:cont, state}
      ...>   end)
      iex> state = Sync.sync_one(state, Repo, :user, User, "u1")
      iex> Enum.map(state.assigns.team, & &1.name)
      ["Ada"]

  The callbacks are called for what that assigns, too; the second clause is for those calls. Syncing the
  label that a callback is being called for raises: it would be called for it again. Where it is called
  for several that have changed together, it may sync one of them because of another.

  Several callbacks have different names (default: `:default`) and are called in the order they were
  attached in. The option `replace: true` puts the callback in the place of one of the same name.
  """
  @spec attach_callback(
          state(),
          module(),
          term(),
          :handle_assigns | :handle_stale,
          fun(),
          keyword()
        ) ::
          state()
  def attach_callback(state, repo, name \\ :default, event, callback, opts \\ []) do
    Callbacks.attach(state, repo, name, event, callback, opts)
  end

  @doc """
  Detaches a callback; one that is not attached is no error.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> state = %{assigns: %{}, private: %{tenant: tenant}}
      iex> never = fn _state, _old -> raise "not called any more" end
      iex> state = Sync.attach_callback(state, Repo, :never, :handle_assigns, never)
      iex> state = Sync.detach_callback(state, Repo, :never, :handle_assigns)
      iex> Sync.sync_one(state, Repo, :user, User, "u1").assigns.user.name
      "Ada"
  """
  @spec detach_callback(state(), module(), term(), :handle_assigns | :handle_stale, keyword()) ::
          state()
  def detach_callback(state, repo, name \\ :default, event, opts \\ []) do
    Callbacks.detach(state, repo, name, event, opts)
  end

  @doc """
  The new assigns of an `:assign` function of four arguments, as one map: `std_assigns` as they are
  and `idlist_assigns`, lists of records with an `:id`, put in the place of those in `assigns` with
  the option `idlist: :replace` (which the function's options hold), else merged into them by id.

      iex> Sync.assign_map(%{users: [%{id: 1, name: "A"}]}, [count: 2],
      ...>   users: [%{id: 1, name: "B"}, %{id: 2, name: "C"}]
      ...> )
      %{count: 2, users: [%{id: 1, name: "B"}, %{id: 2, name: "C"}]}
  """
  @spec assign_map(map(), Enumerable.t(), Enumerable.t(), keyword()) :: map()
  def assign_map(assigns, std_assigns, idlist_assigns, opts \\ []) do
    lists =
      case Keyword.get(opts, :idlist, :merge) do
        :replace ->
          Map.new(idlist_assigns)

        :merge ->
          Map.new(idlist_assigns, fn {label, records} ->
            {label, merge_by_id(Map.get(assigns, label) || [], records)}
          end)
      end

    Map.merge(lists, Map.new(std_assigns))
  end

  defp merge_by_id(old, new) do
    by_id = Map.new(new, &{&1.id, &1})
    known = MapSet.new(old, & &1.id)
    Enum.map(old, &Map.get(by_id, &1.id, &1)) ++ Enum.reject(new, &(&1.id in known))
  end

  defp assign(state, _repo, [], _opts), do: state

  defp assign(state, repo, changes, opts) do
    assigned = Container.assign(state, changes, opts)

    # Most pages have no callbacks, and need not know what was.
    if State.get(assigned, repo).callbacks == [] do
      assigned
    else
      old = Map.new(changes, fn {%{label: label}, _assign, old, _new} -> {label, old} end)
      Callbacks.run(assigned, repo, :handle_assigns, old)
    end
  end

  # Attached by the first sync, and again only if a later one brings other functions for it.
  defp attach_hook(state, repo, opts) do
    data = State.get(state, repo)
    functions = for {name, fun} <- opts, name in @container, fun != nil, do: {name, fun}

    case data.hook do
      _none_needed when data.labels == %{} and data.pending == %{} ->
        state

      nil ->
        attach_hook(state, repo, functions, opts)

      attached ->
        if Enum.all?(functions, &(&1 in attached)),
          do: state,
          else: attach_hook(state, repo, Keyword.merge(attached, functions), opts)
    end
  end

  defp attach_hook(state, repo, functions, opts) do
    state
    |> State.put(repo, %{State.get(state, repo) | hook: functions})
    |> Container.attach(repo, Keyword.merge(opts, functions), &handle_ready(repo, &1, &2))
  end

  defp detach_hook_if_idle(state, repo, opts) do
    %State{hook: attached} = data = State.get(state, repo)

    if State.idle?(data) and attached != nil do
      state
      |> State.put(repo, %{data | hook: nil})
      |> Container.detach(repo, Keyword.merge(attached, opts, fn _, mine, new -> new || mine end))
    else
      state
    end
  end

  # The one that the call names, the state's, or the repo's only one: the state's may be another repo's.
  defp tenant!(_state, repo, prefix) when prefix != nil,
    do: RepoOptions.tenant!(repo, prefix: prefix)

  defp tenant!(%{private: private}, repo, nil) do
    single? = Connection.fetch!(repo).config[:tenant_id] != nil

    case private[:tenant] do
      nil when not single? ->
        raise ArgumentError,
              "no tenant to sync from: put one into the state's private, as in " <>
                "put_private(socket, :tenant, EctoFoundationDB.Tenant.open!(#{inspect(repo)}, \"id\")), " <>
                "or pass it as prefix: tenant"

      %Tenant{repo: other} when single? and other != repo ->
        RepoOptions.tenant!(repo, prefix: nil)

      tenant ->
        RepoOptions.tenant!(repo, prefix: tenant)
    end
  end
end
