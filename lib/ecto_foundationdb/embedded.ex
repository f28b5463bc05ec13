defmodule EctoFoundationDB.Embedded do
  @moduledoc """
  Controls the embedded engine of a Repo with `embedded:`: injected faults, outages, backups, counters.

  Clusters have bad days: commits conflict, their results get lost, read versions are too old, watches
  fail. An application must survive that, and its tests can check that it does:

      setup do
        EctoFoundationDB.Embedded.faults(MyApp.Repo,
          seed: 7,
          not_committed: 0.1,
          commit_unknown_result: 0.05,
          watch_failure: 0.2,
          slow_read: 0.1,
          read_delay_ms: 20
        )

        on_exit(fn -> EctoFoundationDB.Embedded.faults(MyApp.Repo, nil) end)
      end

  The same seed and the same sequence of calls give the same faults.

  Stopped or unreachable servers do not fail: they don't answer. `outage/2` simulates that, for some keys or
  for the whole database, until it is called again.
  """

  alias EctoFoundationDB.{Connection, Error, Native, Tenant}
  alias EctoFoundationDB.Layer.{Keys, Tenants}

  @typedoc """
  Keys: from the first (included) up to the second (excluded); all of a tenant; all of a schema in a
  tenant (records, indexes and counters); or those of one record.
  """
  @type keys ::
          {binary(), binary()}
          | Tenant.t()
          | {Tenant.t(), module()}
          | {Tenant.t(), module(), term()}

  @doc """
  Injects faults from now on, or ends that with `nil`. Probabilities are from 0 to 1, and 0 by default:

    * `:not_committed` (1020), `:commit_unknown_result` (1021, applied or not): of commits
    * `:transaction_too_old` (1007): of commits and of reads
    * `:future_version` (1009), `:process_behind` (1037): of reads
    * `:watch_failure`: of watches, which then fail with a retryable error (1009)
    * `:slow_read`: of reads, which then take up to `:read_delay_ms`
    * `:read_version_failure` (1078 or 1051): of read versions, one for each transaction that reads
    * `:slow_read_version`: of read versions, which then take up to `:read_delay_ms`
    * `:slow_watch`: of watches, which then fire up to `:watch_delay_ms` late
    * `:seed`: an integer

  A transaction that conflicts runs again:

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> EctoFoundationDB.Embedded.faults(Repo, seed: 1, not_committed: 0.5)
      :ok
      iex> for id <- ~w(f1 f2 f3 f4), do: Repo.insert!(%User{id: id}, prefix: tenant)
      iex> EctoFoundationDB.Embedded.faults(Repo, nil)
      :ok
      iex> Repo.aggregate(User, :count, prefix: tenant)
      6
  """
  @spec faults(module(), keyword() | nil) :: :ok
  def faults(repo, nil), do: done!(Native.engine_faults(database(repo), nil))

  def faults(repo, faults) do
    unless Keyword.keyword?(faults) and Enum.all?(faults, fn {_, value} -> is_number(value) end) do
      raise ArgumentError,
            "expected faults as a keyword list of numbers, as in [not_committed: 0.1], " <>
              "got: #{inspect(faults)}"
    end

    text = Enum.map_join(faults, ",", fn {name, value} -> "#{name}=#{value}" end)
    done!(Native.engine_faults(database(repo), text))
  end

  @doc """
  Makes part of the database, or all of it, unavailable until the next call. `nil` ends the outage.

    * `all: true`: nothing answers: no read version, no read, no commit, no watch
    * `locked: true`: like a database that an administrator has locked. Every transaction gets
      `database_locked` (1038), which is retried as long as the lock lasts. Lock-aware transactions still
      work
    * `:reads`, a list of `t:keys/0`: reads of these keys get no answer. Read versions and commits do, also
      commits that write to these keys
    * `:watches`, a list of `t:keys/0`: watches of these keys neither fire nor fail

  Nothing fails by itself, and calls wait until their timeout. When the outage ends, reads and commits that
  still wait get their answers, and watches whose keys have changed fire. Each call replaces the settings of
  the one before.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> EctoFoundationDB.Embedded.outage(Repo, reads: [{tenant, User, "u1"}])
      :ok
      iex> Repo.get!(User, "u2", prefix: tenant).name
      "Bea"
      iex> task = Task.async(fn -> Repo.get!(User, "u1", prefix: tenant) end)
      iex> Task.yield(task, 50)
      nil
      iex> EctoFoundationDB.Embedded.outage(Repo, nil)
      :ok
      iex> Task.await(task).name
      "Ada"
  """
  @spec outage(
          module(),
          [all: boolean(), locked: boolean(), reads: [keys()], watches: [keys()]] | nil
        ) ::
          :ok
  def outage(repo, nil), do: outage(repo, [])

  def outage(repo, options) do
    unless Keyword.keyword?(options), do: bad_outage!(options)

    for {name, _} <- options,
        name not in [:all, :locked, :reads, :watches],
        do: bad_outage!(options)

    switch = fn name ->
      case Keyword.get(options, name, false) do
        on? when is_boolean(on?) -> on?
        _ -> bad_outage!(options)
      end
    end

    ranges = fn name ->
      case Keyword.get(options, name, []) do
        list when is_list(list) -> Enum.map(list, &range!/1)
        _ -> bad_outage!(options)
      end
    end

    done!(
      Native.engine_outage(
        database(repo),
        switch.(:all),
        switch.(:locked),
        ranges.(:reads),
        ranges.(:watches)
      )
    )
  end

  defp range!({first, last}) when is_binary(first) and is_binary(last), do: {first, last}
  defp range!(%Tenant{prefix: prefix}), do: Keys.range({prefix})

  defp range!({%Tenant{} = tenant, schema}) when is_atom(schema),
    do: tenant |> Keys.records(source(schema)) |> Tuple.delete_at(3) |> Keys.range()

  defp range!({%Tenant{} = tenant, schema, id}) when is_atom(schema),
    do: Keys.record_range(tenant, source(schema), id)

  defp range!(keys) do
    raise ArgumentError,
          "expected keys as {first, after_last} (binaries), a tenant, {tenant, schema} or " <>
            "{tenant, schema, id}, got: #{inspect(keys)}"
  end

  defp source(schema), do: schema.__schema__(:source)

  defp bad_outage!(options) do
    raise ArgumentError,
          "expected an outage as a keyword list of :all and :locked (true or false), :reads and " <>
            ":watches (lists of keys), or nil, got: #{inspect(options)}"
  end

  @doc """
  Holds watches back (`true`), or releases them (`false`), and those that should have fired fire. So a test can
  act between a change and its notification.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> user = Repo.get!(User, "u1", prefix: tenant)
      iex> ref = EctoFoundationDB.Future.ref(Repo.watch(user))
      iex> EctoFoundationDB.Embedded.hold_watches(Repo, true)
      :ok
      iex> Repo.update!(user, name: "Ann")
      iex> EctoFoundationDB.Embedded.hold_watches(Repo, false)
      :ok
      iex> receive do {^ref, :ready} -> :noticed end
      :noticed
  """
  @spec hold_watches(module(), boolean()) :: :ok
  def hold_watches(repo, hold?) when is_boolean(hold?),
    do: done!(Native.engine_hold_watches(database(repo), hold?))

  @doc """
  Replaces the Repo's database, which must be in memory, with an empty one, as when a cluster is wiped and set
  up again. Its tenants are gone, including open ones; pages that sync notice within seconds. Call it when no
  transaction is under way.

      iex> Tenant.open!(Repo, "docs")
      iex> EctoFoundationDB.Embedded.wipe(Repo)
      :ok
      iex> Tenant.list(Repo)
      []
  """
  @spec wipe(module()) :: :ok
  def wipe(repo) do
    done!(Native.engine_wipe(database(repo)))
    Tenants.forget_all(repo)
  end

  @doc """
  Writes the whole database to a new file, which `embedded: path` opens as a database.

  The backup is consistent: it has every commit that was acknowledged before the call, and no commit that began
  after it returned. Reads and writes continue meanwhile. The database may be in memory or in a file.

  Returns the number of keys in it, including system keys, and its length in bytes. If the file exists, or
  cannot be written, the error says so, and nothing is left behind.

      iex> path = Path.join(System.tmp_dir!(), "docs-\#{System.unique_integer([:positive])}.fdb")
      iex> {:ok, %{bytes: bytes}} = EctoFoundationDB.Embedded.backup(Repo, path)
      iex> File.stat!(path).size == bytes
      true
      iex> {:error, error} = EctoFoundationDB.Embedded.backup(Repo, path)
      iex> error.message =~ "exists already"
      true
      iex> File.rm!(path)
      :ok
  """
  @spec backup(module(), Path.t()) ::
          {:ok, %{keys: non_neg_integer(), bytes: non_neg_integer()}} | {:error, Error.t()}
  def backup(repo, path) do
    path = path |> IO.chardata_to_string() |> Path.expand()
    answer(Native.engine_back_up(database(repo), path))
  end

  @doc """
  Returns unused space in the Repo's file to the file system. Otherwise deleted and overwritten data stay part
  of the file, and their space is reused.

  Commits wait until it is done, which takes about as long as writing the whole file; reads continue. Returns the
  length of the file in bytes `:before` and `:after`. A database in memory has no file:

      iex> {:error, error} = EctoFoundationDB.Embedded.compact(Repo)
      iex> error.message
      "this database is in memory: only one in a file can be compacted"
  """
  @spec compact(module()) ::
          {:ok, %{before: non_neg_integer(), after: non_neg_integer()}} | {:error, Error.t()}
  def compact(repo), do: answer(Native.engine_compact(database(repo)))

  @doc """
  The engine's counters: `:pending_watches` and `:transactions` that there are now, `:commits`,
  `:reads` and `:read_versions` since the database was opened; `nil` on a cluster. A read is a request: all
  keys of a range are one, and so are the records of a mapped range with their entries.

      iex> EctoFoundationDB.Embedded.stats(Repo).pending_watches
      0
  """
  @spec stats(module()) :: %{atom() => non_neg_integer()} | nil
  def stats(repo), do: Native.engine_stats(database(repo))

  defp database(repo), do: Connection.fetch!(repo).database

  defp answer({:ok, answer}), do: {:ok, answer}
  defp answer({:error, error}), do: {:error, Error.exception(error)}

  defp done!(:ok), do: :ok

  defp done!({:error, error}),
    do: raise(ArgumentError, Exception.message(Error.exception(error)))
end
