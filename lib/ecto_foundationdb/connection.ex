defmodule EctoFoundationDB.Connection do
  @moduledoc false
  # The first child of a Repo's supervisor. It opens the database, and owns the table from which processes read
  # the database, the configuration and the cached indexes of tenants without asking it. The table has the
  # name of the Repo's instance: that of its module, or the name under which an Ecto repository was started.

  use GenServer

  alias EctoFoundationDB.{Client, Error, Native}

  @defaults [
    storage_id: "Ecto.Adapters.FoundationDB",
    # A recovery of the cluster takes about 3 s, one in ten more than 5 s, and a client notices it late.
    timeout: 15_000,
    stale_after: 10_000,
    migrator: nil,
    migration_step: 1000,
    max_single_value_size: 100_000,
    max_value_size: :infinity,
    metadata_cache: :enabled,
    log: true,
    # FoundationDB's maximum; its default of 10,000 is less than a node with many pages needs.
    max_watches: 1_000_000
  ]

  @levels [:emergency, :alert, :critical, :error, :warning, :warn, :notice, :info, :debug]

  @database_options [:max_watches, :transaction_timeout, :transaction_retry_limit]
  @known [
           :otp_app,
           :embedded,
           :cluster_file,
           :library,
           :tenant_id,
           :tenant_backend,
           :transaction_timeout,
           :transaction_retry_limit,
           :network_options
         ] ++ Keyword.keys(@defaults)

  @refused [
    storage_delimiter: "it belongs to FoundationDB's own tenants, which are not supported"
  ]

  # `mix ecto.gen.repo` and `mix phx.new` write these for SQL databases. They have no effect here.
  @sql [
         :username,
         :password,
         :hostname,
         :port,
         :database,
         :scheme,
         :ssl,
         :ssl_opts,
         :socket_options
       ] ++
         [:pool, :pool_size, :pool_count, :queue_target, :queue_interval, :idle_interval] ++
         [:parameters, :prepare, :priv, :show_sensitive_data_on_connection_error]

  # Ecto's options.
  @ecto [:repo, :name, :adapter, :telemetry_prefix, :stacktrace, :default_options, :url] ++
          [:open_db, :reset_tenant_cache]

  defstruct [:database, :timeout, :config, :repo]

  @doc false
  def start_link({repo, module, config}),
    do: GenServer.start_link(__MODULE__, {repo, module, config})

  @doc "The database, default timeout and configuration of a Repo's instance, and the Repo's module."
  def fetch!(repo) do
    case :ets.whereis(repo) do
      :undefined -> raise_not_started(repo)
      table -> :ets.lookup_element(table, :connection, 2)
    end
  rescue
    ArgumentError -> raise_not_started(repo)
  end

  @doc """
  The instance of a Repo that the calling process uses. An Ecto repository may be started several times, under
  several names; `put_dynamic_repo/1` chooses one.
  """
  @spec instance(module()) :: atom()
  def instance(repo) do
    if is_atom(repo) and function_exported?(repo, :get_dynamic_repo, 0) do
      case repo.get_dynamic_repo() do
        ^repo -> repo
        other -> apply(Ecto.Adapter, :lookup_meta, [other]).instance
      end
    else
      repo
    end
  end

  defp raise_not_started(repo) do
    unless repo?(repo) do
      raise ArgumentError,
            "#{inspect(repo)} is not a Repo: expected a module with `use Ecto.Repo` and " <>
              "`adapter: Ecto.Adapters.FoundationDB`, or with `use EctoFoundationDB.Repo`"
    end

    raise ArgumentError,
          "#{inspect(repo)} is not started. Put it into your application's supervision tree, " <>
            "or call #{inspect(repo)}.start_link()"
  end

  @doc "Whether a module is a Repo of either kind."
  @spec repo?(term()) :: boolean()
  def repo?(repo) do
    is_atom(repo) and Code.ensure_loaded?(repo) and
      (function_exported?(repo, :__ecto_fdb_repo__, 0) or
         (function_exported?(repo, :__adapter__, 0) and
            repo.__adapter__() == Ecto.Adapters.FoundationDB))
  end

  @doc "A Repo's configuration with defaults, validated."
  def validate!(repo, config) do
    unless Keyword.keyword?(config) do
      raise ArgumentError,
            "the configuration of #{inspect(repo)} must be a keyword list, got: #{inspect(config)}"
    end

    Enum.each(config, fn {name, value} ->
      case check(name, value) do
        :ok ->
          :ok

        {:expected, what} ->
          invalid!(repo, "#{name}: expected #{what}, got: #{inspect(value)}")

        {:unsupported, why} ->
          invalid!(repo, "#{name}: is not supported: #{why}")

        :unknown ->
          invalid!(
            repo,
            "unknown option #{inspect(name)}#{nearest(name)}, known are: #{inspect(@known)}"
          )
      end
    end)

    if config[:embedded] && config[:cluster_file] do
      invalid!(repo, "`embedded:` and `cluster_file:` exclude each other; give one of them")
    end

    if config[:embedded] && config[:library] do
      invalid!(repo, "`library:` is the client library for a cluster; `embedded:` needs none")
    end

    config =
      if config[:open_db],
        do: Keyword.put_new(config, :embedded, is_nil(config[:cluster_file])),
        else: config

    config = Keyword.replace_lazy(config, :storage_id, &to_string/1)
    Keyword.merge(@defaults, config)
  end

  defp nearest(name) do
    near = fn known -> String.jaro_distance("#{name}", "#{known}") end
    known = Enum.max_by(@known, near)
    if near.(known) > 0.77, do: " (did you mean #{inspect(known)}?)", else: ""
  end

  @doc "The options of a Repo's configuration that only apply to SQL databases."
  @spec ignored(keyword()) :: [atom()]
  def ignored(config),
    do: for({name, _} <- config, name in @sql, uniq: true, do: name) -- [:pool_size]

  defp invalid!(repo, message),
    do: raise(ArgumentError, "in the configuration of #{inspect(repo)}: #{message}")

  for {name, why} <- @refused do
    defp check(unquote(name), _value), do: {:unsupported, unquote(why)}
  end

  defp check(:open_db, fun) do
    if fun == (&EctoFoundationDB.Sandbox.open_db/1),
      do: :ok,
      else:
        {:unsupported,
         "databases are opened from `embedded:` or `cluster_file:`; in tests, use `embedded: true` or " <>
           "`&EctoFoundationDB.Sandbox.open_db/1`, which is the same"}
  end

  defp check(:tenant_backend, EctoFoundationDB.Tenant.DirectoryTenant), do: :ok

  defp check(:tenant_backend, _value),
    do: {:unsupported, "tenants are directories (EctoFoundationDB.Tenant.DirectoryTenant)"}

  defp check(:embedded, value) when is_boolean(value), do: :ok

  defp check(:embedded, value),
    do: path(value, "`true` for a database in memory, or the path of its file")

  defp check(:cluster_file, value), do: path(value, "the path of a cluster file")
  defp check(:library, value), do: path(value, "the path of libfdb_c")
  defp check(:storage_id, value) when is_atom(value) and value != nil, do: :ok
  defp check(:storage_id, value), do: path(value, "a string that is not empty")

  defp check(:tenant_id, value),
    do: path(value, "the id of the Repo's only tenant, a string that is not empty")

  defp check(:max_value_size, :infinity), do: :ok
  defp check(:timeout, :infinity), do: :ok

  defp check(:max_single_value_size, value) when is_integer(value) and value > 100_000,
    do: {:expected, "at most 100_000, which is FoundationDB's limit"}

  defp check(name, value)
       when name in [
              :timeout,
              :stale_after,
              :migration_step,
              :max_single_value_size,
              :max_value_size
            ],
       do: check(is_integer(value) and value > 0, {:expected, "a positive integer"})

  defp check(name, value) when name in [:max_watches, :transaction_timeout],
    do: check(is_integer(value) and value >= 0, {:expected, "an integer of 0 or more"})

  defp check(:transaction_retry_limit, value),
    do:
      check(is_integer(value) and value >= -1, {:expected, "an integer of -1 (no limit) or more"})

  defp check(:metadata_cache, value),
    do: check(value in [:enabled, :disabled], {:expected, ":enabled or :disabled"})

  defp check(:log, value),
    do: check(is_boolean(value) or value in @levels, {:expected, "true, false or a Logger level"})

  defp check(:migrator, value), do: check(is_atom(value), {:expected, "a module"})

  defp check(:network_options, value),
    do:
      check(
        Keyword.keyword?(value),
        {:expected, "a keyword list of FoundationDB network options, such as [trace_enable: dir]"}
      )

  defp check(true, _error), do: :ok
  defp check(false, error), do: error
  defp check(name, _value) when name in @known or name in @ecto or name in @sql, do: :ok
  defp check(_name, _value), do: :unknown

  defp path(value, _what) when is_binary(value) and value != "", do: :ok
  defp path(_value, what), do: {:expected, what}

  @impl true
  def init({repo, module, config}) do
    with :ok <- Client.start(repo, config),
         {:ok, database} <-
           Native.database_open(
             inspect(repo),
             target(repo, config),
             Keyword.take(config, @database_options)
           ) do
      :ets.new(repo, [:named_table, :public, read_concurrency: true])

      connection = %__MODULE__{
        database: database,
        timeout: config[:timeout],
        config: config,
        repo: module
      }

      :ets.insert(repo, {:connection, connection})
      :ok = Native.stale_after(database, config[:stale_after])
      Client.check_cluster_file(repo, database)
      {:ok, database}
    else
      {:error, error} -> {:stop, error |> Error.exception() |> explain(config)}
    end
  rescue
    # The NIF's message about a wrong option.
    error ->
      case error do
        %ErlangError{original: message} when is_binary(message) ->
          {:stop, ArgumentError.exception("in the configuration of #{inspect(repo)}: #{message}")}

        _other ->
          reraise error, __STACKTRACE__
      end
  end

  # No option names a database: the configuration may be missing, or belong to a different app.
  defp explain(%Error{code: 0} = error, config) do
    if config[:embedded] || config[:cluster_file] || error.message =~ "embedded: true" do
      error
    else
      hint =
        "The Repo's configuration names no database (`config #{inspect(config[:otp_app])}, …`), so it uses " <>
          "the default cluster file; for a database inside this VM set `embedded: true`"

      %{error | message: "#{error.message}. #{hint}"}
    end
  end

  defp explain(error, _config), do: error

  defp target(repo, config) do
    case config[:embedded] do
      true -> {:memory, inspect(repo)}
      path when is_binary(path) -> {:file, path}
      _ -> {:cluster_file, config[:cluster_file]}
    end
  end
end
