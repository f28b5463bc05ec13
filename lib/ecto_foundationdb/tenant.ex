defmodule EctoFoundationDB.Tenant do
  @moduledoc """
  Tenants divide a database: each has separate keys, and every read and write belongs to one tenant.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> Enum.map(Repo.all(User, prefix: tenant), & &1.name)
      ["Ada", "Bea"]

  A tenant is a directory of FoundationDB's directory layer, under the path `[storage_id, id]`, where
  `storage_id` is an option of the Repo ("Ecto.Adapters.FoundationDB" by default). Opening one runs its pending
  migrations (`EctoFoundationDB.Migrator`). An open tenant is a plain value: keep it, send it to other processes,
  open it again; it does not need to be closed.

  Opening a tenant that this node has opened before reads nothing. The transactions that use it check that it still
  exists. If any node has deleted it, using it raises `EctoFoundationDB.Exception.TenantGone`; if it was cleared, it
  is migrated again.
  """

  alias EctoFoundationDB.{Connection, Error, Future, Migrator, Native, Transaction}
  alias EctoFoundationDB.Exception.IncorrectTenancy
  alias EctoFoundationDB.Layer.{Keys, Metadata, Tenants}

  @derive {Inspect, only: [:id, :repo]}
  @enforce_keys [:id, :prefix, :repo]
  defstruct [:id, :prefix, :entry, :repo, options: []]

  @typedoc """
  `prefix`: the first element of every key of the tenant, which is a tuple. `entry`: the key of the tenant's entry
  in the directory layer, whose value is the prefix as long as the tenant exists. It is `nil` in a struct that was not
  opened but made by hand, whose existence is not checked.
  """
  @type t :: %__MODULE__{
          id: id(),
          prefix: binary(),
          entry: binary() | nil,
          repo: module(),
          options: keyword()
        }
  @type id :: String.t()

  @doc """
  Opens a tenant and migrates it. Creates it if it does not exist.

  Options override the Repo's configuration: `:migrator`, `:migration_step`, `:log`,
  `:max_single_value_size`, `:max_value_size`, and `:timeout` in ms for opening it. Each step of a migration has that
  timeout to itself.

      iex> Tenant.open!(Repo, "docs").id
      "docs"
  """
  @spec open!(module(), id(), keyword()) :: t()
  def open!(repo, id, options \\ []), do: open(repo, id, options, :create_or_open)

  @doc """
  Opens an existing tenant and migrates it. Raises `EctoFoundationDB.Error` if it does not exist.
  Options as in `open!/3`.

      iex> Tenant.open(Repo, "docs").id
      "docs"
      iex> Tenant.open(Repo, "nobody's")
      ** (EctoFoundationDB.Error) tenant "nobody's" of MyApp.Repo does not exist. Create it with Tenant.create/2, or open it with Tenant.open!/2
  """
  @spec open(module(), id(), keyword()) :: t()
  def open(repo, id, options \\ []), do: open(repo, id, options, :open)

  @options [:migrator, :migration_step, :log, :timeout, :max_single_value_size, :max_value_size]

  defp open(repo, id, options, how) do
    repo = Connection.instance(repo)
    check_id!(id)
    Transaction.outside!()
    config = Connection.fetch!(repo).config
    options = options!(repo, options)
    only!(repo, config, id)

    with {_version, prefix, entry, latest} <- Tenants.find(repo, id),
         tenant = %__MODULE__{id: id, prefix: prefix, entry: entry, repo: repo, options: options},
         false <- Migrator.pending?(tenant, latest) do
      tenant
    else
      _unknown_or_pending -> find(repo, id, options, path(config, id), how)
    end
  end

  # Opens it in the database, and caches the result.
  defp find(repo, id, options, [storage_id, _id] = path, how) do
    {tenant, version, latest} =
      Transaction.run_database(
        repo,
        fn ->
          [version, exists?] =
            Transaction.read([Metadata.version_op(), {:directory, :exists, path}])

          if how == :open and not exists?, do: raise(missing(repo, id))

          [prefix, parent] =
            Transaction.read([
              {:directory, how, path},
              {:get, Tenants.root_entry(storage_id), false}
            ])

          entries = Tenants.entries(parent, id)
          found = Enum.zip(entries, Transaction.read(for key <- entries, do: {:get, key, false}))
          {entry, ^prefix} = List.keyfind(found, prefix, 1)
          tenant = %__MODULE__{id: id, prefix: prefix, entry: entry, repo: repo, options: options}
          [latest] = Transaction.read([Tenants.latest_op(tenant)])

          if exists? do
            {tenant, version, Tenants.latest(latest)}
          else
            Transaction.write([Metadata.changed()])
            {tenant, Transaction.versionstamp(), Tenants.latest(latest)}
          end
        end,
        Keyword.take(options, [:timeout])
      )

    Tenants.learn(repo, id, {version(version), tenant.prefix, tenant.entry, latest})
    if Migrator.pending?(tenant, latest), do: :ok = Migrator.up(tenant)
    tenant
  end

  # Creating a tenant sets the metadata version to the transaction's versionstamp.
  defp version(%Future{} = stamp) do
    {:versionstamp, id, batch} = Future.result(stamp)
    <<id::64, batch::16>>
  end

  defp version(version), do: version

  # A Repo with `tenant_id:` has only that tenant.
  defp only!(repo, config, id) do
    if config[:tenant_id] not in [nil, id] do
      raise IncorrectTenancy,
            "#{inspect(repo)} has one tenant, #{inspect(config[:tenant_id])}, according to its configuration " <>
              "(`tenant_id:`), and can't open #{inspect(id)}. Open it with another Repo, or leave " <>
              "`tenant_id:` out"
    end
  end

  @doc false
  # The metadata version under which this node has last confirmed the tenant, or `nil`.
  @spec confirmed_version(t()) :: binary() | nil
  def confirmed_version(%__MODULE__{} = tenant), do: Tenants.confirmed_version(tenant)

  @doc false
  # Call this if the tenant was found to be gone, so that opening it looks it up again.
  @spec forget(t()) :: :ok
  def forget(%__MODULE__{} = tenant), do: Tenants.forget(tenant)

  @doc """
  Opens a tenant after clearing its records, indexes and counters, but not its migrations. For tests.

      iex> tenant = Tenant.open_empty!(Repo, "docs")
      iex> Repo.all(User, prefix: tenant)
      []
  """
  @spec open_empty!(module(), id(), keyword()) :: t()
  def open_empty!(repo, id, options \\ []) do
    tenant = open!(repo, id, options)
    range = Keys.range({tenant.prefix, <<0xFD>>})
    Transaction.run(tenant, fn -> Transaction.write([clear(range)]) end, options)
    tenant
  end

  @doc """
  Creates a tenant without opening it.

      iex> Tenant.create(Repo, "acme")
      :ok
      iex> Tenant.create(Repo, "acme")
      {:error, :tenant_already_exists}
      iex> Tenant.delete(Repo, "acme")
      :ok
  """
  @spec create(module(), id()) :: :ok | {:error, :tenant_already_exists}
  def create(repo, id) do
    repo = Connection.instance(repo)
    check_id!(id)
    config = Connection.fetch!(repo).config
    only!(repo, config, id)
    path = path(config, id)

    changing(repo, id, fn ->
      case Transaction.read([{:directory, :exists, path}]) do
        # An earlier attempt of this transaction may have created it.
        [true] ->
          if Transaction.maybe_committed?(), do: :ok, else: {:error, :tenant_already_exists}

        [false] ->
          change([{:directory, :create, path}])
          Transaction.write([Metadata.changed()])
      end
    end)
  end

  @doc """
  Whether a tenant exists.

      iex> Tenant.exists?(Repo, "docs")
      true
  """
  @spec exists?(module(), id()) :: boolean()
  def exists?(repo, id) do
    repo = Connection.instance(repo)
    check_id!(id)
    path = path(Connection.fetch!(repo).config, id)

    [exists?] =
      Transaction.run_database(repo, fn -> Transaction.read([{:directory, :exists, path}]) end)

    exists?
  end

  @doc """
  The ids of all tenants.

      iex> "docs" in Tenant.list(Repo)
      true
  """
  @spec list(module()) :: [id()]
  def list(repo) do
    repo = Connection.instance(repo)
    path = [Connection.fetch!(repo).config[:storage_id]]

    Transaction.run_database(repo, fn ->
      case Transaction.read([{:directory, :exists, path}]) do
        [true] -> hd(Transaction.read([{:directory, :list, path}]))
        [false] -> []
      end
    end)
  end

  @doc false
  # Whether the directory of a Repo's tenants exists.
  def storage?(repo) do
    path = [Connection.fetch!(repo).config[:storage_id]]

    [exists?] =
      Transaction.run_database(repo, fn -> Transaction.read([{:directory, :exists, path}]) end)

    exists?
  end

  @doc false
  def create_storage(repo), do: storage(repo, :create_or_open)

  @doc false
  def delete_storage(repo), do: storage(repo, :remove)

  defp storage(repo, how) do
    path = [Connection.fetch!(repo).config[:storage_id]]
    Transaction.run_database(repo, fn -> change([{:directory, how, path}]) end)
  end

  @doc """
  Clears everything in a tenant, including the state of its migrations. This cannot be undone. The next use of the
  tenant, on any node, migrates it again.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> Tenant.clear(Repo, "docs")
      :ok
      iex> Repo.all(User, prefix: tenant)
      []
  """
  @spec clear(module(), id()) :: :ok
  def clear(repo, id) do
    in_directory(repo, id, fn
      _path, nil -> raise missing(repo, id)
      _path, prefix -> Transaction.write(clear_ops(prefix))
    end)
  end

  @doc """
  Deletes a tenant with everything in it; `:ok` also if it does not exist. Processes that have it open get an
  `EctoFoundationDB.Exception.TenantGone` from now on.

      iex> tenant = Tenant.open!(Repo, "short-lived")
      iex> Repo.insert!(%User{id: "u1"}, prefix: tenant)
      iex> Tenant.clear_delete!(Repo, "short-lived")
      :ok
      iex> Tenant.exists?(Repo, "short-lived")
      false
  """
  @spec clear_delete!(module(), id()) :: :ok
  def clear_delete!(repo, id) do
    in_directory(repo, id, fn
      _path, nil -> :ok
      path, prefix -> delete_directory(path, prefix)
    end)
  end

  @doc """
  Deletes an empty tenant; returns `{:error, :tenant_nonempty}` if it contains data.

      iex> Tenant.delete(Repo, "docs")
      {:error, :tenant_nonempty}
      iex> Tenant.delete(Repo, "nobody's")
      {:error, :tenant_does_not_exist}
  """
  @spec delete(module(), id()) :: :ok | {:error, :tenant_nonempty | :tenant_does_not_exist}
  def delete(repo, id) do
    in_directory(repo, id, fn
      _path, nil ->
        if Transaction.maybe_committed?(), do: :ok, else: {:error, :tenant_does_not_exist}

      path, prefix ->
        {first, last} = Keys.range({prefix, <<0xFD>>})

        case Transaction.read([{:get_range, first, last, %{limit: 1}}]) do
          [[]] -> delete_directory(path, prefix)
          [_] -> {:error, :tenant_nonempty}
        end
    end)
  end

  # A transaction on a tenant's directory: its path, and its prefix, or nil if it does not exist.
  defp in_directory(repo, id, fun) do
    repo = Connection.instance(repo)
    check_id!(id)
    path = path(Connection.fetch!(repo).config, id)

    changing(repo, id, fn ->
      case Transaction.read([{:directory, :exists, path}]) do
        [true] -> fun.(path, hd(Transaction.read([{:directory, :open, path}])))
        [false] -> fun.(path, nil)
      end
    end)
  end

  # This node's cache of a tenant is invalid, also if the outcome is unknown.
  defp changing(repo, id, fun) do
    Transaction.run_database(repo, fun)
  after
    Tenants.forget(repo, id)
  end

  defp delete_directory(path, prefix),
    do: change(clear_ops(prefix) ++ [{:directory, :remove, path}])

  @doc """
  Packs a tuple to a key in the tenant, for keys that the application writes itself.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> key = Tenant.pack(tenant, {"my-app", "cursor", 1})
      iex> Tenant.unpack(tenant, key)
      {"my-app", "cursor", 1}
  """
  @spec pack(t(), tuple()) :: binary()
  def pack(%__MODULE__{} = tenant, tuple),
    do: Error.arguments!(fn -> Native.pack(in_tenant!(tenant, tuple)) end)

  defp in_tenant!(%__MODULE__{prefix: prefix}, tuple) when is_tuple(tuple),
    do: Tuple.insert_at(tuple, 0, prefix)

  defp in_tenant!(_tenant, other) do
    raise ArgumentError,
          "expected a tuple to pack, such as {\"my-app\", 1}, got: #{inspect(other)}"
  end

  @doc "Unpacks a key of `pack/2` to its tuple."
  @spec unpack(t(), binary()) :: tuple()
  def unpack(%__MODULE__{prefix: prefix} = tenant, key) do
    if is_binary(key) and String.starts_with?(key, Native.pack({prefix})),
      do: Error.arguments!(fn -> key |> Native.unpack() |> Tuple.delete_at(0) end),
      else: raise(ArgumentError, "#{inspect(key)} is not a key of #{inspect(tenant)}")
  end

  @doc """
  The range `{begin, end}` of the keys that begin with this tuple.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> {first, last} = Tenant.range(tenant, {"my-app"})
      iex> key = Tenant.pack(tenant, {"my-app", "cursor"})
      iex> first <= key and key < last
      true
  """
  @spec range(t(), tuple()) :: {binary(), binary()}
  def range(%__MODULE__{} = tenant, tuple),
    do: Error.arguments!(fn -> Keys.range(in_tenant!(tenant, tuple)) end)

  defp options!(repo, options) do
    unless Keyword.keyword?(options) and Keyword.keys(options) -- @options == [] do
      raise ArgumentError,
            "expected the options of a tenant, some of #{inspect(@options)}, got: #{inspect(options)}"
    end

    Connection.validate!(repo, options)
    options
  end

  # Keys are tuples with the prefix as an element; the subspace is what other clients of the directory layer
  # would use.
  defp clear_ops(prefix) do
    [
      clear(Keys.range({prefix})),
      {:clear_range, prefix, Keys.strinc(prefix)},
      Metadata.changed()
    ]
  end

  defp clear({first, last}), do: {:clear_range, first, last}

  # Directory changes also read, and their answers are awaited.
  defp change(operations) do
    Transaction.read(operations)
    Transaction.written()
  end

  defp missing(repo, id) do
    Error.exception(
      {:fdb, 0,
       "tenant #{inspect(id)} of #{inspect(repo)} does not exist. " <>
         "Create it with Tenant.create/2, or open it with Tenant.open!/2"}
    )
  end

  defp path(config, id), do: [config[:storage_id], id]

  defp check_id!(id) when is_binary(id) and id != "" do
    unless String.valid?(id) do
      raise ArgumentError, "a tenant's id must be valid UTF-8, got: #{inspect(id)}"
    end
  end

  defp check_id!(id) do
    raise ArgumentError, "a tenant's id must be a string that is not empty, got: #{inspect(id)}"
  end
end
