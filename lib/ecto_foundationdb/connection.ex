defmodule EctoFoundationDB.Connection do
  @moduledoc false
  # A Repo's process: opens its database, and owns the table in which the database, the
  # configuration and what is known of the tenants' indexes are found without asking a process.

  use GenServer

  alias EctoFoundationDB.{Client, Error, Native, Planner, Reporter, Schema}

  @defaults [
    storage_id: "Ecto.Adapters.FoundationDB",
    # A recovery of the cluster takes some 3 s, one in ten more than 5 s, and a client notices it late.
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
    open_db:
      "databases are opened from `embedded:` or `cluster_file:`; in tests, use `embedded: true`",
    storage_delimiter: "it belongs to FoundationDB's own tenants, which are not supported"
  ]

  defstruct [:database, :timeout, :config]

  def start_link(repo, config) do
    config = validate!(repo, config)
    GenServer.start_link(__MODULE__, {repo, config}, name: repo)
  end

  @doc "The Repo's database, default timeout and configuration."
  def fetch!(repo) do
    case :ets.whereis(repo) do
      :undefined -> raise_not_started(repo)
      table -> :ets.lookup_element(table, :connection, 2)
    end
  rescue
    ArgumentError -> raise_not_started(repo)
  end

  defp raise_not_started(repo) do
    unless is_atom(repo) and Code.ensure_loaded?(repo) and
             function_exported?(repo, :__ecto_fdb_repo__, 0) do
      raise ArgumentError,
            "#{inspect(repo)} is not a Repo: expected a module with `use EctoFoundationDB.Repo`"
    end

    raise ArgumentError,
          "#{inspect(repo)} is not started. Put it into your application's supervision tree, " <>
            "or call #{inspect(repo)}.start_link()"
  end

  @doc "A Repo's configuration with defaults, checked."
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
          invalid!(repo, "unknown option #{inspect(name)}, known are: #{inspect(@known)}")
      end
    end)

    if config[:embedded] && config[:cluster_file] do
      invalid!(repo, "`embedded:` and `cluster_file:` exclude each other; give one of them")
    end

    if config[:embedded] && config[:library] do
      invalid!(repo, "`library:` is the client library for a cluster; `embedded:` needs none")
    end

    Keyword.merge(@defaults, config)
  end

  defp invalid!(repo, message),
    do: raise(ArgumentError, "in the configuration of #{inspect(repo)}: #{message}")

  for {name, why} <- @refused do
    defp check(unquote(name), _value), do: {:unsupported, unquote(why)}
  end

  defp check(:tenant_backend, EctoFoundationDB.Tenant.DirectoryTenant), do: :ok

  defp check(:tenant_backend, _value),
    do: {:unsupported, "tenants are directories (EctoFoundationDB.Tenant.DirectoryTenant)"}

  defp check(:embedded, value) when is_boolean(value), do: :ok

  defp check(:embedded, value),
    do: path(value, "`true` for a database in memory, or the path of its file")

  defp check(:cluster_file, value), do: path(value, "the path of a cluster file")
  defp check(:library, value), do: path(value, "the path of libfdb_c")
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

  defp check(:log, value), do: check(is_boolean(value), {:expected, "true or false"})
  defp check(:migrator, value), do: check(is_atom(value), {:expected, "a module"})

  defp check(:network_options, value),
    do:
      check(
        Keyword.keyword?(value),
        {:expected, "a keyword list of FoundationDB network options, such as [trace_enable: dir]"}
      )

  defp check(true, _error), do: :ok
  defp check(false, error), do: error
  defp check(name, _value) when name in @known, do: :ok
  defp check(_name, _value), do: :unknown

  defp path(value, _what) when is_binary(value) and value != "", do: :ok
  defp path(_value, what), do: {:expected, what}

  @impl true
  def init({repo, config}) do
    # Asked before thousands of pages ask at once, each of which would have the code server search the
    # disk where Ecto is not there.
    Schema.ecto?()

    with :ok <- Client.start(repo, config),
         {:ok, database} <-
           Native.database_open(
             inspect(repo),
             target(repo, config),
             Keyword.take(config, @database_options)
           ) do
      :ets.new(repo, [:named_table, :public, read_concurrency: true])
      connection = %__MODULE__{database: database, timeout: config[:timeout], config: config}
      :ets.insert(repo, {:connection, connection})
      :ok = Native.stale_after(database, config[:stale_after])
      {:ok, _pid} = Planner.start_link(repo, database)
      {:ok, _pid} = Reporter.start_link(repo, database)
      Client.check_cluster_file(repo, database)
      {:ok, database}
    else
      {:error, error} -> {:stop, error |> Error.exception() |> explain(config)}
    end
  rescue
    # The NIF's words about a wrong option.
    error ->
      case error do
        %ErlangError{original: message} when is_binary(message) ->
          {:stop, ArgumentError.exception("in the configuration of #{inspect(repo)}: #{message}")}

        _other ->
          reraise error, __STACKTRACE__
      end
  end

  # Nothing says which database: it may be that the configuration was forgotten, or is another app's.
  defp explain(%Error{code: 0} = error, config) do
    if config[:embedded] || config[:cluster_file] || error.message =~ "embedded: true" do
      error
    else
      hint =
        "The Repo's configuration names no database (`config #{inspect(config[:otp_app])}, …`), so it is " <>
          "that of the default cluster file; for one inside this VM set `embedded: true`"

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
