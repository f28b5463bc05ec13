defmodule EctoFoundationDB.Migrator do
  @moduledoc """
  The migrations of a Repo, with their versions in ascending order.

      defmodule MyApp.Repo do
        use EctoFoundationDB.Repo, otp_app: :my_app
        use EctoFoundationDB.Migrator

        @impl true
        def migrations, do: [{0, MyApp.IndexUsers}, {1, MyApp.CountUsers}]
      end

  The Repo is the migrator, unless its option `migrator:` names another module.

  A tenant is migrated when it is opened (`EctoFoundationDB.Tenant.open!/3`), or with all others by
  `mix ecto_foundationdb.migrate -r MyApp.Repo`. The application may run meanwhile: an index is built in steps
  (the option `migration_step:` sets the number of keys per step), while writers, in new and older versions of
  the application, maintain its entries. A step that is too large for a transaction, or that conflicts with
  writers, is split into smaller ones. Queries use the index when it is complete. If several nodes open the same
  tenant, one of them works and the others wait; if it dies, another takes over after five seconds and continues
  where it stopped.
  """

  require Logger

  alias EctoFoundationDB.{
    Connection,
    Index,
    Indexer,
    Native,
    Schema,
    Telemetry,
    Tenant,
    Transaction
  }

  alias EctoFoundationDB.Layer.{
    Keys,
    Metadata,
    Reader,
    Record,
    Source,
    Tenants,
    Term,
    Unique,
    Writer
  }

  alias EctoFoundationDB.Repo.Options

  @callback migrations() :: [{non_neg_integer(), module()}]

  @doc false
  defmacro __using__(_opts) do
    quote do
      @behaviour EctoFoundationDB.Migrator
    end
  end

  # A claim that has not changed for this long has no owner any more: no transaction lasts longer.
  @stale_ms 5_100

  # FoundationDB's limit for a value.
  @longest_claim 100_000

  @doc false
  # Migrates a tenant, unless it has run all migrations.
  @spec up(Tenant.t()) :: :ok
  def up(%Tenant{} = tenant) do
    config = config(tenant)

    case pending(tenant, config) do
      [] ->
        :ok

      migrations ->
        :ok = migrate(tenant, migrations, config)
        migrated(tenant, migrations |> List.last() |> elem(0))
    end
  end

  # The tenant may have been deleted meanwhile; then its cache is dropped.
  defp migrated(%Tenant{repo: repo, id: id} = tenant, latest) do
    with {version, prefix, entry, before} when before < latest <- Tenants.find(tenant),
         do: Tenants.learn(repo, id, {version, prefix, entry, latest}),
         else: (_other -> :ok)
  end

  @doc false
  # Whether there are migrations after this one.
  @spec pending?(Tenant.t(), integer()) :: boolean()
  def pending?(%Tenant{} = tenant, latest), do: pending(tenant, config(tenant), latest) != []

  defp config(%Tenant{repo: repo, options: options}),
    do: Keyword.merge(Connection.fetch!(repo).config, options)

  @doc """
  Migrates all tenants of a Repo, or those with the ids in `tenants:`. Returns the number of tenants.

  `concurrency:` tenants at a time (2). `progress:` a function that is called with the number of finished tenants
  and of all tenants. Interrupting a run is safe; the next one continues where it stopped. An error in one tenant is
  logged with its id, and raised.

      iex> EctoFoundationDB.Migrator.migrate_all(Repo, tenants: ["docs"], concurrency: 4)
      1
  """
  @spec migrate_all(module(), keyword()) :: non_neg_integer()
  def migrate_all(repo, opts \\ []) do
    opts =
      Keyword.validate!(opts, [:tenants, concurrency: 2, progress: fn _done, _all -> :ok end])

    Options.positive!(:concurrency, opts[:concurrency])
    ids = opts[:tenants] || all(repo)

    unless is_list(ids) do
      raise ArgumentError, "tenants: expected a list of tenants' ids, got: #{inspect(ids)}"
    end

    all = length(ids)
    opts[:progress].(0, all)

    ids
    |> Task.async_stream(&open(repo, &1),
      max_concurrency: opts[:concurrency],
      ordered: false,
      timeout: :infinity
    )
    |> Enum.reduce(0, fn
      {:ok, :ok}, done ->
        opts[:progress].(done + 1, all)
        done + 1

      {:ok, {id, error, stacktrace}}, _done ->
        Logger.error(
          "[EctoFoundationDB] the migration of tenant #{inspect(id)} of #{inspect(repo)} failed"
        )

        reraise error, stacktrace
    end)
  end

  # A Repo with `tenant_id:` opens only that tenant.
  defp all(repo) do
    ids = Tenant.list(repo)
    only = Connection.fetch!(repo).config[:tenant_id]
    if only, do: Enum.filter(ids, &(&1 == only)), else: ids
  end

  # Raises the error in the caller, and not in a separate process.
  defp open(repo, id) do
    Tenant.open(repo, id)
    :ok
  rescue
    error -> {id, error, __STACKTRACE__}
  end

  @doc """
  The versions of the migrations that a tenant has not run.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> EctoFoundationDB.Migrator.pending_versions(Repo, tenant)
      []
  """
  @spec pending_versions(module(), Tenant.t()) :: [non_neg_integer()]
  def pending_versions(_repo, %Tenant{} = tenant),
    do: for({version, _} <- pending(tenant, config(tenant)), do: version)

  defp pending(tenant, config) do
    if migrations(tenant, config) == [] do
      []
    else
      latest = Transaction.run(tenant, fn -> latest_version(tenant) end, options(config))
      pending(tenant, config, latest)
    end
  end

  defp pending(tenant, config, latest),
    do:
      for({version, _} = migration <- migrations(tenant, config), version > latest, do: migration)

  # For transactions that must not migrate the tenant first.
  defp options(config), do: [timeout: config[:timeout], migrate?: false]

  defp migrations(%Tenant{repo: repo}, config),
    do: migrations(config[:migrator] || Connection.fetch!(repo).repo)

  defp migrations(migrator) do
    cond do
      not Code.ensure_loaded?(migrator) ->
        raise ArgumentError, "the migrator #{inspect(migrator)} is not a module"

      function_exported?(migrator, :migrations, 0) ->
        migrations = migrator.migrations()

        unless is_list(migrations) do
          raise ArgumentError,
                "#{inspect(migrator)}.migrations/0: expected a list of {version, module} pairs, " <>
                  "got: #{inspect(migrations)}"
        end

        for migration <- migrations do
          unless match?(
                   {version, module}
                   when is_integer(version) and version >= 0 and is_atom(module),
                   migration
                 ) do
            raise ArgumentError,
                  "#{inspect(migrator)}.migrations/0: expected {version, module} pairs, got: #{inspect(migration)}"
          end
        end

        versions = Enum.map(migrations, &elem(&1, 0))

        if Enum.uniq(versions) != versions do
          raise ArgumentError,
                "#{inspect(migrator)}.migrations/0: a version occurs twice: #{inspect(versions)}"
        end

        Enum.sort(migrations)

      true ->
        []
    end
  end

  # From the records: the highest version, which is the last key.
  defp latest_version(tenant) do
    [latest] = Transaction.read([Tenants.latest_op(tenant, false)])
    Tenants.latest(latest)
  end

  ## One tenant's migration
  #
  # The remaining work is a list of steps, `[{version, [{command, range}]}]`, kept in the claim: one value of
  # `{owner, steps}` under each source concerned. The node that holds the claim works. Each of its transactions
  # rewrites the claim, so that other nodes see progress, and so that it conflicts with every writer to one of
  # these sources.

  defp migrate(tenant, migrations, config) do
    steps =
      for {version, module} <- migrations do
        {version, for(command <- change(module), do: command_step(tenant, command))}
      end

    sources =
      for {_, commands} <- steps, {{_, {_, data}}, _} <- commands, uniq: true, do: data[:source]

    # A version without commands still has to be recorded.
    sources = if sources == [], do: ["schema_migrations"], else: sources
    owner = :erlang.term_to_binary(make_ref())

    work(%{
      tenant: tenant,
      steps: steps,
      claims: Enum.map(sources, &Native.pack(Keys.claim(tenant, &1))),
      owner: binary_part(owner, 1, byte_size(owner) - 1),
      limit: config[:migration_step],
      log?: config[:log],
      options: options(config),
      seen: nil,
      # When this node did its first step, its steps since, and when it last reported them.
      began: nil,
      worked: 0,
      reported: nil
    })
  end

  defp change(module) do
    unless Code.ensure_loaded?(module) and function_exported?(module, :change, 0) do
      raise ArgumentError,
            "#{inspect(module)} is not a migration: expected a module with `use EctoFoundationDB.Migration` " <>
              "and change/0"
    end

    case module.change() do
      commands when is_list(commands) -> commands
      other -> unexpected!(other)
    end
  end

  defp unexpected!(other) do
    raise ArgumentError,
          "change/0 of a migration: expected a list of create(…) and drop(…), got: #{inspect(other)}"
  end

  defp command_step(tenant, {action, %EctoFoundationDB.Migration.Index{} = command})
       when action in [:create, :drop] do
    source = Schema.source(command.schema)
    options = Keyword.merge(command.options, concurrently: command.concurrently)

    index = %Index{
      name: command.name,
      indexer: options[:indexer] || Indexer.Default,
      source: source,
      fields: command.columns,
      options: options
    }

    key = Native.pack(Keys.index_description(tenant, source, command.name))

    range =
      case action do
        :create ->
          {first, last} = Keys.range(Keys.records(tenant, source))
          {first, first, last}

        :drop ->
          Indexer.drop_ranges(tenant, index)
      end

    {{{action, command}, {key, Index.to_data(index)}}, range}
  end

  defp command_step(_tenant, other), do: unexpected!(other)

  defp work(job) do
    case Transaction.step(job.tenant, job.limit, &turn(job, &1), job.options) do
      {:done, _limit} ->
        if job.began do
          tell(job, :done, duration: now() - job.began, steps: job.worked, versions: versions(job))
        end

        :ok

      {{:worked, finished, at}, limit} ->
        job = job |> began() |> progress(at)
        if job.log?, do: Enum.each(finished, &log(job.tenant, &1))
        work(%{job | seen: nil, limit: limit})

      {{:wait, claim, watch}, _limit} ->
        work(wait(job, claim, watch))
    end
  end

  # Runs one transaction.
  defp turn(job, limit) do
    claims = claims(job.tenant)
    latest = latest_version(job.tenant)
    # Another node may have done some of it meanwhile.
    left = fn steps -> for {version, _} = step <- steps, version > latest, do: step end
    found = Enum.find(claims, fn {key, _claim} -> key in job.claims end)

    # Another version's migration may concern sources that ours does not: the node that continues or ends it
    # writes all of its claims.
    same = if found, do: for({key, claim} <- claims, claim == elem(found, 1), do: key), else: []
    claims = Enum.uniq(job.claims ++ same)
    job = %{job | steps: left.(job.steps), claims: claims, limit: limit}

    case found do
      nil ->
        if job.steps == [], do: :done, else: step(job, job.steps)

      {key, claim} ->
        own? = owner(claim) == job.owner

        cond do
          # Another version's migrations continue where ours end.
          job.steps == [] ->
            if own?, do: clear_claims(job)
            :done

          own? or stale?(job, claim) ->
            step(job, left.(steps(job, claim)))

          true ->
            {:wait, claim, Transaction.watch(key)}
        end
    end
  end

  defp claims(tenant) do
    {first, last} = Keys.range(Keys.claims(tenant))
    [claims] = Transaction.read([{:get_range, first, last, %{}}])
    claims
  end

  # `seen`: another node's claim, and when it was first seen in this form.
  defp stale?(%{seen: {claim, since}}, claim), do: now() - since > @stale_ms
  defp stale?(_job, _claim), do: false

  defp wait(job, claim, watch) do
    job = if match?(%{seen: {^claim, _}}, job), do: job, else: %{job | seen: {claim, now()}}

    receive do
      {^watch, _} -> :ok
    after
      @stale_ms + 20 -> Transaction.cancel_watch(watch)
    end

    job
  end

  defp now, do: System.monotonic_time(:millisecond)

  # The owner is a reference, whose bytes are compared, not decoded. They end where the steps begin.
  defp owner(<<131, 104, 2, rest::binary>> = claim),
    do: binary_part(rest, 0, steps_at(claim) - 3)

  defp owner(claim), do: claim

  defp steps_at(claim) do
    case Term.skip(claim, 3, :anything) do
      {:ok, position} -> position
      {:error, _} -> byte_size(claim)
    end
  end

  # Another node's remaining steps. If this version cannot read some of the commands, this node does its own
  # steps from their start, and replaces leftovers.
  defp steps(job, <<131, 104, 2, _::binary>> = claim) do
    at = steps_at(claim)
    steps = binary_part(claim, at, byte_size(claim) - at)

    with {:ok, steps} when is_list(steps) <- Term.decode(<<131, steps::binary>>),
         true <- Enum.all?(steps, &known?/1) do
      steps
    else
      _ -> job.steps
    end
  end

  defp steps(job, _claim), do: job.steps

  # Whether this version of the application has the schemas and indexers of a version's commands.
  defp known?({_version, commands}) do
    Enum.all?(commands, fn
      {{{:create, command}, {_key, data}}, _} ->
        Enum.all?([command.schema, data[:indexer]], &(is_atom(&1) and Code.ensure_loaded?(&1)))

      {{{:drop, _}, _}, _} ->
        true
    end)
  end

  defp step(job, [{version, []} | steps]) do
    record_version(job.tenant, version)
    Transaction.write([Metadata.changed()])
    claim(job, steps)
    {:worked, [], nil}
  end

  defp step(job, [{version, [{{{:create, command}, {key, data}}, range} | commands]} | steps]) do
    index = Index.from_data(data)
    finished = [{version, commands} | steps]

    case build(job, index, key, command.schema, range) do
      :there ->
        claim(job, finished)
        {:worked, [], nil}

      {:more, range} ->
        claim(job, [{version, [{{{:create, command}, {key, data}}, range} | commands]} | steps])
        {:worked, [], {version, index.name}}

      :complete ->
        Transaction.write([{:set, key, :erlang.term_to_binary(data)}, Metadata.changed()])
        claim(job, finished)
        {:worked, [{version, "=>", index}], {version, index.name}}
    end
  end

  defp step(job, [{version, [{{{:drop, _command}, {key, data}}, ranges} | commands]} | steps]) do
    clears =
      for range <- ranges do
        case range do
          {first, last} -> {:clear_range, first, last}
          key -> {:clear, key}
        end
      end

    Transaction.write(clears ++ [{:clear, key}, Metadata.changed()])
    claim(job, [{version, commands} | steps])
    index = Index.from_data(data)
    {:worked, [{version, "X", index}], {version, index.name}}
  end

  # Another version's migrations end where ours continue.
  defp step(job, []) do
    claim(job, job.steps)
    {:worked, [], nil}
  end

  # A step of building: writes the entries of this many records, and returns where to continue.
  defp build(job, index, key, schema, {first, cursor, last}) do
    case if(cursor == first, do: begin(job, index, key), else: :begun) do
      :there ->
        :there

      :begun ->
        if Indexer.build?(index),
          do: build_page(job, index, schema, {first, cursor, last}),
          else: :complete
    end
  end

  # An existing index is complete, and must stay so. A different index of that name is replaced; leftovers of
  # an earlier attempt are cleared.
  defp begin(job, index, key) do
    [value] = Transaction.read([{:get, key, false}])

    if value && described?(value, index) do
      :there
    else
      ranges = if Indexer.build?(index), do: Indexer.drop_ranges(job.tenant, index), else: []
      clears = for {from, to} <- ranges, do: {:clear_range, from, to}
      Transaction.write([{:clear, key} | clears])
      :begun
    end
  end

  defp described?(value, index) do
    case Term.decode(value) do
      {:ok, data} -> Index.described?(data, index)
      {:error, _undecodable} -> false
    end
  end

  defp build_page(job, index, schema, {first, cursor, last}) do
    source = Source.of(schema)
    {records, rest} = Reader.page_of_records(source, {cursor, last}, job.limit)
    if Index.unique?(index), do: check_unique!(job, index, source, records)

    Transaction.write(
      Enum.flat_map(records, fn record ->
        data = Record.to_front(record.data, source.id)
        Indexer.set_all(job.tenant, [index], schema, {record.key, data})
      end)
    )

    Transaction.write([Metadata.changed()])

    case rest do
      {cursor, last} -> {:more, {first, cursor, last}}
      nil -> :complete
    end
  end

  # The records before these have their entries already.
  defp check_unique!(job, index, source, records) do
    writer = %{Writer.new(job.tenant, source) | metadata: %Metadata{indexes: [index]}}

    with {:error, error} <- Unique.check(writer, for(record <- records, do: {nil, record.data})),
         do: raise(error)
  end

  defp record_version(tenant, version) do
    now = NaiveDateTime.utc_now() |> NaiveDateTime.truncate(:second)
    value = :erlang.term_to_binary(version: version, inserted_at: now)

    Transaction.write([
      {:set, {:pack, Keys.migration(tenant, version)}, value},
      {:atomic, :max, {:pack, Keys.max_version(tenant)}, <<version::little-64>>}
    ])
  end

  # `claim/2` without steps ends the claim.
  defp claim(job, []), do: clear_claims(job)

  # Later versions that do not fit follow when these are done.
  defp claim(job, steps) do
    <<131, encoded::binary>> = :erlang.term_to_binary(steps)
    value = <<131, 104, 2, job.owner::binary, encoded::binary>>

    cond do
      byte_size(value) <= @longest_claim ->
        Transaction.write(for claim <- job.claims, do: {:set, claim, value})

      match?([_, _ | _], steps) ->
        claim(job, Enum.take(steps, div(length(steps), 2)))

      true ->
        raise ArgumentError,
              "migration #{elem(hd(steps), 0)} has #{length(elem(hd(steps), 1))} remaining commands, but these are kept " <>
                "in one value of at most 100,000 bytes. Split it into several migrations"
    end
  end

  defp clear_claims(job),
    do: Transaction.write(for claim <- job.claims, do: {:clear, claim})

  # A node that only waits for another reports nothing: the other node does.
  defp began(%{began: nil} = job) do
    commands = for {_version, commands} <- job.steps, command <- commands, do: command
    tell(job, :begun, commands: length(commands), versions: versions(job))
    %{job | began: now(), reported: now()}
  end

  defp began(job), do: job

  @progress_ms 10_000

  defp progress(%{worked: worked} = job, at) do
    job = %{job | worked: worked + 1}

    with {version, index} <- at, true <- now() - job.reported >= @progress_ms do
      facts = [duration: now() - job.began, steps: job.worked, version: version, index: index]
      tell(job, :progress, facts)
      %{job | reported: now()}
    else
      _nothing_to_tell -> job
    end
  end

  defp versions(job), do: Enum.map(job.steps, &elem(&1, 0))

  defp tell(job, event, facts) do
    native = &System.convert_time_unit(&1, :millisecond, :native)
    facts = if facts[:duration], do: Keyword.update!(facts, :duration, native), else: facts
    facts = [tenant: job.tenant.id] ++ facts
    Telemetry.report(job.tenant.repo, [:migration, event], facts, log?: job.log?)
  end

  defp log(tenant, {version, what, index}) do
    Logger.notice(
      "[EctoFoundationDB] #{tenant.id} (#{version}) #{index.source} #{what} #{inspect(index.name)}"
    )
  end
end
