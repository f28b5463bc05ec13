defmodule EctoFoundationDB.Transaction do
  @moduledoc false
  # A transaction of the calling process, kept in its dictionary: functions deep inside read and
  # write without being handed anything. Writes need no answer, so they wait here and travel with
  # the next read, or with the commit.

  alias EctoFoundationDB.{
    Connection,
    Deadline,
    Error,
    Future,
    Migrator,
    Native,
    Telemetry,
    Tenant,
    TimeoutError,
    Versionstamp
  }

  alias EctoFoundationDB.Exception.{IncorrectTenancy, TenantGone, Unsupported}
  alias EctoFoundationDB.Layer.{Metadata, Tenants}

  import Bitwise, only: [>>>: 2]

  @key __MODULE__

  defstruct [
    :handle,
    :repo,
    :tenant,
    # What all attempts, and the waits between them, have together.
    :deadline,
    # Completed by the commit: two atomics hold the versionstamp's 80 bits, and one that it is there.
    :stamp,
    # When this attempt began.
    :began,
    # FoundationDB's, of all attempts.
    options: [],
    # The errors after which it was tried again, last first.
    errors: [],
    # Whether the tenant is still to come.
    unbound?: false,
    # How many attempts have lasted too long.
    slow: 0,
    # How many attempts others got ahead of, or time.
    lost: 0,
    # Operations to run before the next read or the commit, last first.
    writes: [],
    # Whether a commit is needed.
    dirty?: false,
    # Whether this transaction conflicts with the deletion of its tenant.
    holds_tenant?: false,
    # Whether the tenant is known to be what it was: `:unasked`, `{:asked, ref, known, evidence}` while the
    # answer is under way, `:confirmed`, or `{:refused, why}`. Without a tenant: `:confirmed`.
    check: :unasked,
    # The metadata version at the read version, once the tenant is confirmed.
    version: nil,
    # The metadata version that this attempt takes for the current one, before the database has said so.
    presumed: nil,
    presume?: true,
    # Whether the tenant is to be migrated where its migrations are gone.
    migrate?: true,
    # Reads under way that nobody has awaited.
    pending: MapSet.new(),
    # Answers that came before they were awaited, by reference.
    early: %{},
    # What is known of the sources' indexes: valid for the whole transaction.
    metadata: %{},
    # Sources whose migration claims this transaction conflicts with.
    guarded: MapSet.new(),
    user_version: 0,
    watches: [],
    # An earlier attempt ended in "commit unknown result".
    maybe_committed?: false,
    # An earlier attempt could not have a mapped range.
    mapped_ranges?: true,
    # In a live function: what it has read, `%{keys, sources, most}`. Such a transaction does not write.
    recorded: nil
  ]

  # What FoundationDB answers where it cannot make a mapped range: after own writes, where its servers
  # cannot follow the entries, and where an entry's value is no key.
  @no_mapped_range [2030, 2033, 2034, 2035, 2038, 2039, 2041, 2042]

  @commit_unknown_result 1021
  @transaction_too_old 1007
  @not_committed 1020
  @transaction_timed_out 1031
  @transaction_too_large 2101
  @key_too_large 2102
  @accessed_unreadable 1036
  @cluster_version_changed 1039
  @transaction_cancelled 1025

  # Where half of the work may do.
  @too_much [
    @transaction_too_large,
    @transaction_too_old,
    @transaction_timed_out,
    @not_committed
  ]

  @options [:timeout, :tag, :priority]

  @doc """
  Runs a function in a transaction of this tenant; joins the one the process is in. Of the options it takes
  those of `options/0`: `timeout:` bounds the call, retries and back-off included, also where it joins;
  `tag:` and `priority:` are those of the transaction that the process is in already.
  """
  def run(%Tenant{} = tenant, fun, opts \\ []) do
    case Process.get(@key) do
      nil ->
        start(tenant.repo, tenant, fun, opts)

      %{tenant: %Tenant{prefix: prefix}, repo: repo}
      when prefix == tenant.prefix and repo == tenant.repo ->
        join(fun, opts)

      # The first tenant that is used in it is its tenant.
      %{tenant: nil, unbound?: true, repo: repo} = state when repo == tenant.repo ->
        Process.put(@key, %{state | tenant: tenant, unbound?: false, check: check(tenant)})
        join(fun, opts)

      %{tenant: current} ->
        raise IncorrectTenancy,
              "the original transaction context (tenant #{inspect(current && current.id)}) did not match: this is a transaction of #{describe(current)}, and #{describe(tenant)} was given " <>
                "inside it. A transaction belongs to one tenant: pass none inside it, take the " <>
                "struct of another tenant out of its metadata with " <>
                "`EctoFoundationDB.Schema.put_tenant(struct, nil)`, or use two transactions"
    end
  end

  @doc "The names of the options that are a transaction's own."
  @spec options() :: [atom()]
  def options, do: @options

  @doc "The deadline of a call with these options that begins now."
  @spec deadline(module(), keyword()) :: Deadline.t()
  def deadline(repo, opts),
    do: Deadline.new(Keyword.get_lazy(opts, :timeout, fn -> Connection.fetch!(repo).timeout end))

  defp join(fun, opts) do
    case Keyword.fetch(opts, :timeout) do
      {:ok, timeout} -> within(Deadline.new(timeout), fn -> call(fun) end)
      :error -> call(fun)
    end
  end

  # What is started and awaited meanwhile ends with the earlier one of two deadlines.
  defp within(deadline, fun) do
    %{deadline: outer} = state = Process.get(@key)
    Process.put(@key, %{state | deadline: Deadline.earlier(outer, deadline)})

    try do
      fun.()
    after
      Process.put(@key, %{Process.get(@key) | deadline: outer})
    end
  end

  @typedoc "How many records or keys the next step takes, and how many at the most; or both in one."
  @type pace :: pos_integer() | {pos_integer(), pos_integer()}

  @doc """
  Runs one step of many in a transaction: `fun` is given how many records or keys to take. An attempt that
  lost against others takes half of what the one before it took, and the step that follows twice of that
  again; where a step is too large for a transaction, or too long, all that follow are smaller. Gives the
  result, and the pace to go on with.
  """
  @spec step(Tenant.t(), pace(), (pos_integer() -> result), keyword()) :: {result, pace()}
        when result: term()
  def step(tenant, pace, fun, opts \\ [])

  def step(tenant, size, fun, opts) when is_integer(size),
    do: step(tenant, {size, size}, fun, opts)

  def step(tenant, {size, most}, fun, opts) do
    {result, taken} =
      run(
        tenant,
        fn ->
          taken = max(size >>> current!().lost, 1)
          {fun.(taken), taken}
        end,
        opts
      )

    {result, {min(taken * 2, most), most}}
  rescue
    error in [Error, TimeoutError] ->
      if too_much?(error) and size > 1,
        do: step(tenant, div(size, 2), fun, opts),
        else: reraise(error, __STACKTRACE__)
  end

  defp too_much?(%Error{code: code}), do: code in @too_much

  # Its time is over, and its attempts took too long or lost. One whose commit may have been done is not
  # taken again.
  defp too_much?(%TimeoutError{last_error: %Error{code: code}, doing: doing}),
    do: code in @too_much and doing != "committing"

  defp too_much?(%TimeoutError{}), do: false

  @doc "Runs a function in a transaction of its own, of no tenant: for the directory of tenants."
  def run_database(repo, fun, opts \\ []) do
    outside!()
    start(repo, nil, fun, opts)
  end

  @doc "Raises inside a transaction, where tenants are not opened."
  def outside! do
    if in?() do
      raise IncorrectTenancy,
            "tenants cannot be opened, created or deleted inside a transaction; do it before"
    end
  end

  @doc "Runs a function in a transaction of a Repo, whose tenant is the first that is used in it."
  def run_unbound(repo, fun, opts \\ []), do: start(repo, nil, fun, opts, true)

  defp describe(nil), do: "no tenant"
  defp describe(%Tenant{id: id, repo: repo}), do: "tenant #{inspect(id)} of #{inspect(repo)}"

  @doc "The tenant of the transaction this process is in, or `nil`."
  def tenant, do: with(%{tenant: tenant} <- Process.get(@key), do: tenant)

  @doc "The tenant of the transaction this process is in."
  def tenant!, do: current!().tenant

  @doc "Whether this process is in a transaction."
  def in?, do: Process.get(@key) != nil

  @doc "Whether an earlier attempt of this transaction may have been committed."
  def maybe_committed?, do: current!().maybe_committed?

  defp current! do
    Process.get(@key) ||
      raise IncorrectTenancy,
            "this must be called inside a transaction: Repo.transactional(tenant, fn -> … end)" <>
              (in_task() || "")
  end

  @doc "What to say where the process that started this task is in a transaction; else `nil`."
  def in_task do
    if Enum.any?(Process.get(:"$callers", []), &in_transaction?/1) do
      ". This process is a task of a process that is in a transaction, and is not in it itself: a " <>
        "transaction belongs to the process that began it. Make the call there; the async_* functions " <>
        "and Repo.await have several reads in flight at once"
    end
  end

  defp in_transaction?(pid) do
    with true <- is_pid(pid) and node(pid) == node(),
         {:dictionary, dictionary} <- Process.info(pid, :dictionary),
         do: List.keymember?(dictionary, @key, 0),
         else: (_elsewhere -> false)
  end

  defp start(repo, tenant, fun, opts, unbound? \\ false) do
    began = System.monotonic_time()
    connection = Connection.fetch!(repo)
    options = Enum.flat_map(opts, &option!/1)
    deadline = deadline(repo, opts)
    migrate? = Keyword.get(opts, :migrate?, true)
    state = %__MODULE__{repo: repo, tenant: tenant, unbound?: unbound?, deadline: deadline}
    state = new(%{state | options: options, check: check(tenant), migrate?: migrate?}, connection)

    outcome =
      try do
        {:ok, attempt(state, fun)}
      catch
        kind, reason -> {kind, reason, __STACKTRACE__}
      end

    state = Process.delete(@key)
    migrate? = match?({:throw, {@key, :migrate, _tenant}, _}, outcome)
    told = if Telemetry.on?() and not migrate?, do: told(state, began, opts, outcome)
    Native.transaction_cancel(state.handle)
    Enum.each(state.pending, &flush/1)
    # The watches of one that has succeeded live on.
    if elem(outcome, 0) != :ok, do: Enum.each(state.watches, &cancel_watch/1)
    if told, do: Telemetry.execute(repo, [:transaction], told)

    case outcome do
      {:ok, result} ->
        result

      # Somebody has cleared the tenant: before anything is done with it, it is migrated again, in steps that
      # have their own time.
      {:throw, {@key, :migrate, cleared}, _stack} ->
        :ok = Migrator.up(cleared)
        start(repo, tenant, fun, opts, unbound?)

      {kind, reason, stack} ->
        :erlang.raise(kind, reason, stack)
    end
  end

  # What telemetry is told of a transaction.
  defp told(state, began, opts, outcome) do
    codes = for %Error{code: code} <- Enum.reverse(state.errors), do: code
    {reads, read_bytes, writes, written_bytes} = Native.transaction_sizes(state.handle)

    {result, error} =
      case outcome do
        {:ok, _result} -> {:ok, nil}
        {:error, reason, stack} -> {:error, Exception.normalize(:error, reason, stack)}
        # What the function throws is its own: the transaction was cancelled.
        {kind, reason, _stack} -> {:cancelled, {kind, reason}}
      end

    [
      duration: System.monotonic_time() - began,
      attempts: length(codes) + 1,
      conflicts: Enum.count(codes, &(&1 == @not_committed)),
      unknown_results: Enum.count(codes, &(&1 == @commit_unknown_result)),
      reads: reads,
      read_bytes: read_bytes,
      writes: writes,
      written_bytes: written_bytes,
      tenant: state.tenant && state.tenant.id,
      result: result,
      error: error,
      code: with(%Error{code: code} <- error, do: code, else: (_ -> nil)),
      retried: codes,
      tag: opts[:tag],
      priority: Keyword.get(opts, :priority, :default)
    ]
  end

  defp new(state, connection) do
    %{state | handle: ok!(Native.transaction_new(connection.database, state.options))}
  end

  # FoundationDB's own limits, which it would tell of in the middle of the work.
  @longest_tag 16
  @most_tags 5

  defp option!({:tag, tags}) do
    tags = List.wrap(tags)

    unless length(tags) <= @most_tags and
             Enum.all?(tags, &(is_binary(&1) and byte_size(&1) in 1..@longest_tag)) do
      raise ArgumentError,
            "tag: expected a string of 1 to #{@longest_tag} bytes, or a list of up to #{@most_tags} of " <>
              "them, got: #{inspect(tags)}"
    end

    for tag <- tags, do: {:auto_throttle_tag, tag}
  end

  defp option!({:priority, :default}), do: []
  defp option!({:priority, :batch}), do: [priority_batch: nil]
  defp option!({:priority, :immediate}), do: [priority_system_immediate: nil]

  defp option!({:priority, other}) do
    raise ArgumentError,
          "priority: expected :batch, :default or :immediate, got: #{inspect(other)}"
  end

  defp option!(_other), do: []

  # FoundationDB's limit in ms, and how many attempts may exceed it: the database may have been slow,
  # but a transaction that is too long stays it however often it is tried.
  @longest 5_000
  @slow_attempts 2

  defp attempt(state, fun) do
    state = %{state | began: now()}
    Process.put(@key, state)

    outcome =
      try do
        result = call(fun)
        commit()
        {:ok, result}
      rescue
        error in Error -> {:error, error, __STACKTRACE__}
      catch
        {@key, :presumed} -> :presumed
      end

    case outcome do
      {:ok, result} ->
        result

      :presumed ->
        anew(fun, presume?: false)

      {:error, %Error{code: 0} = error, stack} ->
        reraise error, stack

      {:error, %Error{code: code}, _} when code in @no_mapped_range ->
        anew(fun, mapped_ranges?: false)

      {:error, error, stack} ->
        retry(error, stack, fun)
    end
  end

  # An attempt that does without mapped ranges, or without presuming. A read that failed makes the commit fail,
  # too, so it takes a new transaction.
  defp anew(fun, change) do
    old = Process.get(@key)
    Native.transaction_cancel(old.handle)
    Enum.each(old.pending, &flush/1)
    fresh = struct!(again(old), change)
    attempt(new(fresh, Connection.fetch!(old.repo)), fun)
  end

  # What an attempt begins with.
  defp again(state) do
    kept =
      [:handle, :repo, :tenant, :deadline, :options, :errors, :stamp, :migrate?] ++
        [:unbound?, :slow, :lost, :maybe_committed?, :mapped_ranges?, :presume?]

    struct!(%__MODULE__{check: check(state.tenant)}, Map.take(state, kept))
  end

  # `on_error` waits as long as the database wants it to, and resets the transaction.
  defp retry(error, stack, fun) do
    %{pending: pending, watches: watches} = state = Process.get(@key)
    Enum.each(watches, &cancel_watch/1)
    state = state |> count_slow(error) |> count_lost(error)
    state = %{state | errors: [error | state.errors]}
    Process.put(@key, state)
    if state.slow == @slow_attempts, do: reraise(explain(error), stack)
    ref = make_ref()
    Native.transaction_on_error(state.handle, ref, error.code)

    case await(ref, state, "backing off after an error") do
      :ok ->
        Enum.each(pending, &flush/1)
        unknown? = error.code in [@commit_unknown_result, @cluster_version_changed]
        attempt(%{again(state) | maybe_committed?: unknown? or state.maybe_committed?}, fun)

      {:error, {:fdb, @transaction_cancelled, _}} ->
        reraise error, stack

      {:error, other} ->
        if elem(other, 1) == error.code,
          do: reraise(explain(error), stack),
          else: raise(Error, other)
    end
  end

  defp count_slow(state, %Error{code: @transaction_too_old}) do
    if now() - state.began >= @longest, do: %{state | slow: state.slow + 1}, else: state
  end

  defp count_slow(state, _error), do: state

  defp count_lost(state, %Error{code: code}) when code in [@transaction_too_old, @not_committed],
    do: %{state | lost: state.lost + 1}

  defp count_lost(state, _error), do: state

  @in_steps "Outside of a transaction update_all and delete_all take `step: 1000`, which makes a " <>
              "transaction of every 1,000 records; insert_all takes rows in portions"

  defp explain(%Error{code: code} = error) do
    case advice(code) do
      nil -> error
      advice -> %{error | message: "#{error.message}. #{advice}"}
    end
  end

  defp advice(@transaction_too_old) do
    "FoundationDB's transactions last 5 seconds at most, and this one took longer #{@slow_attempts} " <>
      "times. #{@in_steps}; Repo.stream reads any number of records"
  end

  defp advice(@transaction_too_large) do
    "FoundationDB's transactions write 10 MB at most, keys and index entries included. #{@in_steps}"
  end

  defp advice(@key_too_large) do
    "FoundationDB's keys have 10,000 bytes at most: that of a record holds its primary key, that of an " <>
      "index's entry the values of the indexed fields, too. Index or store a digest of long values"
  end

  defp advice(@accessed_unreadable) do
    "Ids of EctoFoundationDB.Versionstamp are made by the commit, so what this transaction inserted with " <>
      "one cannot be read in it, nor a range that it may be in"
  end

  defp advice(_code), do: nil

  defp now, do: System.monotonic_time(:millisecond)

  defp call(fun) when is_function(fun, 0), do: fun.()
  defp call(fun) when is_function(fun, 1), do: fun.(Process.get(@key).handle)

  defp commit do
    %{dirty?: dirty?, check: check} = state = Process.get(@key)

    # One that has read nothing is confirmed by its commit, where the node knows its tenant.
    expected = if dirty? and check == :unasked, do: state.presumed || presumable(state)
    unused? = check == :unasked and not dirty? and is_nil(state.presumed)
    unless expected || unused?, do: confirm!()
    state = Process.get(@key)
    answered = Map.keys(state.early)
    for ref <- state.pending, ref not in answered, do: await(ref, state, "reading")
    state = %{state | pending: MapSet.new(), early: %{}}
    Process.put(@key, state)

    if dirty? do
      ref = make_ref()
      writes = Enum.reverse(state.writes)
      Error.arguments!(fn -> Native.transaction_commit(state.handle, ref, writes, expected) end)
      committed = await(ref, state, "committing")
      Process.put(@key, %{state | writes: []})

      case committed do
        {:ok, _version, stamp} ->
          complete_stamp(state.stamp, stamp)

        {:unexpected, version} ->
          Tenants.see(state.repo, version)
          throw({@key, :presumed})

        {:error, error} ->
          raise Error, error
      end
    else
      # A transaction that only read read one version of the database: nothing to commit.
      complete_stamp(state.stamp, nil)
    end
  end

  @doc "Runs reads; the answers in their order."
  def read(operations) do
    ref = read_async(operations)
    collect(ref)
  end

  @doc "Starts reads; `collect/1` waits for them. Several may be in flight."
  def read_async(operations) do
    state = current!()
    ref = make_ref()
    # The first call of a transaction asks what its tenant is, before own writes could hide that.
    {check, state} = ask(state, ref)
    skip = length(check) + length(state.writes)

    Error.arguments!(fn ->
      Native.transaction_run(state.handle, ref, check ++ Enum.reverse(state.writes, operations))
    end)

    Process.put(@key, %{state | writes: [], pending: MapSet.put(state.pending, ref)})
    {ref, skip, state.handle, state.deadline}
  end

  ## Whether the tenant is what it was
  #
  # A tenant may have been cleared, deleted, or created again under its name. Each of these sets the metadata
  # version, so if that is still the one under which this node has confirmed the tenant, nothing has happened.
  # Otherwise the transaction reads the tenant's directory entry and its latest migration. Both travel with the
  # first call of a transaction, and nothing is answered or committed before they are known.

  defp check(nil), do: :confirmed
  defp check(%Tenant{}), do: :unasked

  defp ask(%{check: :unasked, tenant: %Tenant{entry: nil}} = state, ref),
    do: {[Metadata.version_op()], %{state | check: {:asked, ref, :made_by_hand, 0}}}

  defp ask(%{check: :unasked, tenant: tenant, repo: repo} = state, ref) do
    known = Tenants.find(tenant)
    doubt? = is_nil(known) or elem(known, 0) == nil or elem(known, 0) != Tenants.seen(repo)
    evidence = if doubt?, do: Tenants.evidence(tenant, state.migrate?), else: []
    {[Metadata.version_op() | evidence], %{state | check: {:asked, ref, known, length(evidence)}}}
  end

  defp ask(state, _ref), do: {[], state}

  defp confirm! do
    case current!() do
      %{check: :confirmed} ->
        :ok

      %{check: {:refused, why}} ->
        refuse(why)

      %{check: :unasked} ->
        read([])
        :ok

      %{check: {:asked, ref, known, count}} = state ->
        answer = state.early[ref] || await(ref, state, "reading")
        Process.put(@key, %{state | early: Map.put(state.early, ref, answer)})
        [version | answers] = ok!(answer)
        Tenants.see(state.repo, version)
        evidence = Enum.take(answers, count)
        check = state |> judge(known, version, evidence) |> as_presumed(state, version)
        Process.put(@key, %{Process.get(@key) | check: check, version: version})
        confirm!()
    end
  end

  defp judge(_state, :made_by_hand, _version, _evidence), do: :confirmed

  defp judge(_state, {version, _, _, _}, version, _evidence) when is_binary(version),
    do: :confirmed

  defp judge(%{tenant: tenant} = state, known, version, []) do
    ref = make_ref()
    Native.transaction_run(state.handle, ref, Tenants.evidence(tenant, state.migrate?))
    judge(state, known, version, ok!(await(ref, state, "reading")))
  end

  defp judge(%{tenant: %Tenant{prefix: prefix} = tenant} = state, _known, version, evidence) do
    case evidence do
      [^prefix] ->
        :confirmed

      [^prefix, migrations] ->
        latest = Tenants.latest(migrations)

        if state.migrate? and Migrator.pending?(tenant, latest) do
          {:refused, :migrate}
        else
          Tenants.learn(state.repo, tenant.id, {version, prefix, tenant.entry, latest})
          :confirmed
        end

      [_other_or_nil | _] ->
        Tenants.forget(tenant)
        {:refused, TenantGone.exception(tenant: tenant)}
    end
  end

  defp as_presumed(:confirmed, %{presumed: presumed}, version)
       when presumed not in [nil, version],
       do: {:refused, :presumed}

  defp as_presumed(check, _state, _version), do: check

  ## What is presumed
  #
  # A transaction that writes without reading would read only to learn the metadata version. It takes the last
  # one that the node has seen instead, and with it what the node knows. The commit is done only if that is the
  # version; if it isn't, or a read that follows brings another one, the attempt is made anew without presuming.

  @doc """
  Whether this transaction may take what was found right under a metadata version for right, before the database
  has said which one it is.
  """
  @spec presume?(binary()) :: boolean()
  def presume?(version) do
    state = current!()
    presume? = state.check == :unasked and version in [state.presumed, presumable(state)]
    if presume?, do: Process.put(@key, %{state | presumed: version})
    presume?
  end

  defp presumable(%{presume?: true, repo: repo, tenant: %Tenant{} = tenant}) do
    with version when is_binary(version) <- Tenants.seen(repo),
         true <- is_nil(tenant.entry) or Tenants.confirmed_version(tenant) == version,
         do: version,
         else: (_doubt -> nil)
  end

  defp presumable(_state), do: nil

  # Also where the application has rescued it: nothing is answered or committed any more.
  defp refuse(:migrate), do: throw({@key, :migrate, tenant!()})
  defp refuse(:presumed), do: throw({@key, :presumed})
  defp refuse(error), do: raise(error)

  @doc "The metadata version at the transaction's read version."
  @spec version() :: binary() | nil
  def version do
    confirm!()
    current!().version
  end

  @doc "The answers to `read_async/1`."
  def collect({ref, skip, handle, deadline}) do
    state = Process.get(@key)

    cond do
      is_nil(state) or state.handle != handle ->
        raise Unsupported,
              "this future belongs to a transaction that has ended, or to another process: await it " <>
                "inside its transaction, in the process that began it"

      not MapSet.member?(state.pending, ref) ->
        raise Unsupported,
              "this future has been awaited already, or was made by an earlier attempt of this " <>
                "transaction. Await each future once, in the function that makes it, and keep the result"

      true ->
        :ok
    end

    within(deadline, fn ->
      confirm!()
      %{pending: pending, early: early} = state = Process.get(@key)
      {answer, early} = Map.pop(early, ref)
      Process.put(@key, %{state | pending: MapSet.delete(pending, ref), early: early})

      case answer || await(ref, state, "reading") do
        {:ok, answers} -> Enum.drop(answers, skip)
        {:error, error} -> raise Error, error
      end
    end)
  end

  @doc "Whether mapped ranges can be read: not after own writes."
  def mapped_ranges? do
    state = current!()
    state.mapped_ranges? and not state.dirty?
  end

  @doc "Queues writes."
  def write([]), do: :ok

  def write(operations) do
    writable!()
    state = current!()
    %{writes: writes} = state = hold_tenant(state)
    Process.put(@key, %{state | writes: Enum.reverse(operations, writes), dirty?: true})
    :ok
  end

  # A writer conflicts with a transaction that deletes the tenant, or creates it again.
  defp hold_tenant(%{tenant: %Tenant{entry: entry}, holds_tenant?: false} = state)
       when is_binary(entry) do
    conflict = {:read_conflict, entry, entry <> <<0>>}
    %{state | writes: [conflict | state.writes], holds_tenant?: true}
  end

  defp hold_tenant(state), do: state

  @doc "Raises in a live function."
  @spec writable!() :: :ok
  def writable! do
    if recording?() do
      raise Unsupported,
            "a live function only reads, and this one writes, or sets a watch. It is evaluated again and again, " <>
              "whenever what it has read changes: write where the event is handled, in handle_event or in a job"
    end

    :ok
  end

  ## Live functions

  @doc """
  Runs a function in a transaction that reads at this version and records what it reads: `{outcome, read}`, where
  the outcome is `{:ok, result}` or `{kind, reason, stacktrace}`. It is not tried again.
  """
  @spec evaluate(Tenant.t(), integer(), keyword(), (() -> result)) ::
          {{:ok, result} | {:error | :exit | :throw, term(), Exception.stacktrace()},
           %{keys: [binary()], sources: [{String.t(), Metadata.t()}], version: binary() | nil}}
        when result: term()
  def evaluate(%Tenant{repo: repo} = tenant, read_version, opts, fun) do
    {:ok, handle} = Native.transaction_at(Connection.fetch!(repo).database, read_version)

    state = %__MODULE__{
      handle: handle,
      repo: repo,
      tenant: tenant,
      deadline: Deadline.new(opts[:timeout]),
      check: check(tenant),
      migrate?: false,
      mapped_ranges?: Keyword.get(opts, :mapped_ranges?, true),
      recorded: %{keys: MapSet.new(), sources: MapSet.new(), most: opts[:max_reads]}
    }

    Process.put(@key, state)

    outcome =
      try do
        result = call(fun)
        if current!().check != :unasked, do: confirm!()
        {:ok, result}
      catch
        kind, reason -> {kind, reason, __STACKTRACE__}
      end

    state = Process.delete(@key)
    Native.transaction_cancel(handle)
    Enum.each(state.pending, &flush/1)

    case outcome do
      {:error, %Error{code: code}, _stack}
      when code in @no_mapped_range and state.mapped_ranges? ->
        evaluate(tenant, read_version, Keyword.put(opts, :mapped_ranges?, false), fun)

      outcome ->
        sources = for source <- state.recorded.sources, do: {source, state.metadata[source]}
        keys = MapSet.to_list(state.recorded.keys)
        {outcome, %{keys: keys, sources: sources, version: state.version}}
    end
  end

  @doc "Whether this is a transaction of a live function, whose reads are to be recorded."
  @spec recording?() :: boolean()
  def recording?, do: match?(%{recorded: %{}}, Process.get(@key))

  @doc "Records that the result depends on a key, and on the plan of a source's query if one is given."
  @spec record(binary(), String.t() | nil) :: :ok
  def record(key, source \\ nil) do
    %{recorded: %{keys: keys, sources: sources, most: most} = recorded} = state = current!()
    keys = MapSet.put(keys, key)
    sources = if source, do: MapSet.put(sources, source), else: sources

    if MapSet.size(keys) > most do
      raise Unsupported,
            "this live function reads more than #{most} records and lists, each of which is watched. Read a list " <>
              "with one query instead of its records one by one, read less, or allow more with `max_reads:`"
    end

    Process.put(@key, %{state | recorded: %{recorded | keys: keys, sources: sources}})
    :ok
  end

  @doc "Queues read conflicts: they matter only if something is written."
  def conflict(operations) do
    %{writes: writes} = state = current!()
    Process.put(@key, %{state | writes: Enum.reverse(operations, writes)})
    :ok
  end

  @doc "Whether this transaction has written."
  def dirty?, do: current!().dirty?

  @doc "Says that an operation that was read may have written: directories."
  def written do
    writable!()
    state = current!()
    Process.put(@key, %{state | dirty?: true})
    :ok
  end

  @doc "Arms a watch with the commit; a reference, of which `{reference, :ready}` comes."
  def watch(key) do
    writable!()
    [watch] = read([{:watch, key}])
    state = Process.get(@key)
    Process.put(@key, %{state | dirty?: true, watches: [watch | state.watches]})
    watch
  end

  @doc "Ends a watch, and takes a message of it that came already."
  def cancel_watch(watch) do
    Native.watch_cancel(watch)
    flush(watch)
  end

  @doc "What a source's indexes are, once it is known for this transaction."
  def metadata(source), do: current!().metadata[source]

  def put_metadata(source, metadata) do
    state = current!()
    Process.put(@key, %{state | metadata: Map.put(state.metadata, source, metadata)})
    metadata
  end

  @doc "True the first time it is asked for a source."
  def guard?(source) do
    state = current!()
    Process.put(@key, %{state | guarded: MapSet.put(state.guarded, source)})
    not MapSet.member?(state.guarded, source)
  end

  def next_user_version do
    %{user_version: version} = state = current!()

    if version > 0xFFFF do
      raise Unsupported, "a transaction can make at most 65,536 versionstamp ids"
    end

    Process.put(@key, %{state | user_version: version + 1})
    version
  end

  def versionstamp do
    state = current!()
    stamp = state.stamp || :atomics.new(3, signed: false)
    Process.put(@key, %{state | stamp: stamp})
    %Future{kind: {:versionstamp, stamp}}
  end

  defp complete_stamp(nil, _stamp), do: :ok
  defp complete_stamp(atomics, nil), do: :atomics.put(atomics, 3, 2)

  defp complete_stamp(atomics, stamp) do
    {:versionstamp, id, batch} = Versionstamp.from_binary(stamp)
    :atomics.put(atomics, 1, id)
    :atomics.put(atomics, 2, batch)
    :atomics.put(atomics, 3, 1)
  end

  defp await(ref, %{deadline: deadline} = state, doing) do
    receive do
      {^ref, {:ok, _, _} = answer} -> answer
      {^ref, answer} -> answer
    after
      Deadline.left(deadline) ->
        Native.transaction_cancel(state.handle)
        flush(ref)

        raise TimeoutError,
          timeout: deadline.timeout,
          doing: doing,
          database: Connection.fetch!(state.repo).database,
          last_error: List.first(state.errors),
          attempts: length(state.errors) + 1
    end
  end

  defp flush(ref) do
    receive do
      {^ref, _} -> :ok
    after
      0 -> :ok
    end
  end

  defp ok!({:ok, result}), do: result
  defp ok!({:error, error}), do: raise(Error, error)
end
