defmodule EctoFoundationDB.Layer.Tenants do
  @moduledoc false
  # This node's cache of a Repo's tenants, in the table of the Repo's connection, with which it ends.
  #
  # An entry is valid while `\xff/metadataVersion` is the same: a transaction that creates, clears or deletes a
  # tenant, or changes its indexes, also sets that key. Under a different version the database has to confirm
  # the entry, with the reads of `evidence/2`. Metadata versions are versionstamps, so the greater of two is
  # the later one.
  #
  # An entry is removed only if it is the one that was found wrong, so no process discards what another has just
  # learnt.

  alias EctoFoundationDB.{Connection, Native, Tenant}
  alias EctoFoundationDB.Layer.Keys

  # Tenants come and go: a cache with too many entries is emptied.
  @most_cached 100_000

  @typedoc """
  The metadata version under which it was confirmed (`nil`: not confirmed), the prefix, the key of the
  directory's entry, and the version of the latest migration (-1: none).
  """
  @type known :: {binary() | nil, prefix :: binary(), entry :: binary(), latest :: integer()}

  @spec find(module(), Tenant.id()) :: known() | nil
  def find(repo, id), do: lookup(repo, {:tenant, id})

  @doc "The cached entry of this exact tenant, not of another of the same name."
  @spec find(Tenant.t()) :: known() | nil
  def find(%Tenant{repo: repo, id: id, prefix: prefix}) do
    with {_version, ^prefix, _entry, _latest} = known <- find(repo, id),
         do: known,
         else: (_other -> nil)
  end

  @doc "Stores what a transaction has learnt, unless a later one has learnt more."
  @spec learn(module(), Tenant.id(), known()) :: :ok
  def learn(repo, id, known), do: put(repo, {:tenant, id}, known)

  @doc "Drops a tenant that was found to be gone, but not another of the same name."
  @spec forget(Tenant.t()) :: :ok
  def forget(%Tenant{repo: repo, id: id} = tenant) do
    with known when known != nil <- find(tenant), do: delete(repo, {:tenant, id}, known)
    :ok
  end

  @doc "Drops a tenant that this node has changed itself."
  @spec forget(module(), Tenant.id()) :: :ok
  def forget(repo, id) do
    :ets.delete(repo, {:tenant, id})
    :ok
  end

  @doc "Drops all tenants and their indexes."
  @spec forget_all(module()) :: :ok
  def forget_all(repo) do
    :ets.match_delete(repo, {{:_, :_}, :_})
    :ets.delete(repo, :seen)
    :ok
  end

  @doc "The metadata version under which this tenant was last confirmed, or `nil`."
  @spec confirmed_version(Tenant.t()) :: binary() | nil
  def confirmed_version(tenant), do: with({version, _, _, _} <- find(tenant), do: version)

  @doc "The latest metadata version that a transaction of this node has seen, or `nil`."
  @spec seen(module()) :: binary() | nil
  def seen(repo), do: lookup(repo, :seen)

  @spec see(module(), binary() | nil) :: :ok
  def see(repo, version) do
    if seen(repo) != version, do: :ets.insert(repo, {:seen, version})
    :ok
  end

  ## The directory layer's entries
  #
  # `(0xFE)(parent's prefix, 0, name)` holds a directory's prefix; the root's prefix is 0xFE, and a
  # partition keeps the entries of its directories under its own prefix.

  @node <<0xFE>>

  @doc "The key of the entry of a directory in the root."
  @spec root_entry(String.t()) :: binary()
  def root_entry(name), do: @node <> Native.pack({@node, 0, {:utf8, name}})

  @doc "The keys that may hold the entry of a directory in this one: the second one if this one is a partition."
  @spec entries(parent :: binary(), String.t()) :: [binary()]
  def entries(parent, name) do
    nodes = parent <> @node

    [
      @node <> Native.pack({parent, 0, {:utf8, name}}),
      nodes <> Native.pack({nodes, 0, {:utf8, name}})
    ]
  end

  @doc "The operations that read whether a tenant is unchanged: its entry, and its latest migration."
  @spec evidence(Tenant.t(), boolean()) :: [Native.op()]
  def evidence(%Tenant{entry: entry} = tenant, migrations?),
    do: [{:get, entry, false} | if(migrations?, do: [latest_op(tenant)], else: [])]

  @doc """
  Reads a tenant's latest migration: the last key of the records of migrations. As a snapshot, unless the
  transaction should conflict with migrations.
  """
  @spec latest_op(Tenant.t(), boolean()) :: Native.op()
  def latest_op(tenant, snapshot? \\ true) do
    {first, last} = Keys.range(Keys.migrations(tenant))
    {:get_range, first, last, %{limit: 1, reverse: true, snapshot: snapshot?}}
  end

  @doc "The version of the latest migration in the answer to `latest_op/1`."
  @spec latest([{binary(), binary()}]) :: integer()
  def latest([]), do: -1
  def latest([{key, _value}]), do: key |> Native.unpack() |> elem(4)

  ## The table
  #
  # Values are tuples whose first element is the metadata version.

  @doc "The value under a key, or `nil`."
  @spec lookup(module(), term()) :: term()
  def lookup(repo, key) do
    case :ets.lookup(repo, key) do
      [{_key, value}] -> value
      [] -> nil
    end
  rescue
    # The Repo is not running, so nothing is cached.
    ArgumentError -> nil
  end

  @spec put(module(), tuple(), tuple()) :: :ok
  def put(repo, key, value) do
    if Connection.fetch!(repo).config[:metadata_cache] == :enabled do
      if :ets.info(repo, :size) > @most_cached, do: :ets.match_delete(repo, {{:_, :_}, :_})
      put(repo, key, value, lookup(repo, key))
    else
      :ok
    end
  end

  defp put(_repo, _key, value, value), do: :ok

  defp put(repo, key, value, nil) do
    if :ets.insert_new(repo, {key, value}), do: :ok, else: put(repo, key, value)
  end

  # `nil` is less than every binary.
  defp put(_repo, _key, value, earlier)
       when is_binary(:erlang.element(1, earlier)) and
              (not is_binary(:erlang.element(1, value)) or
                 :erlang.element(1, value) < :erlang.element(1, earlier)),
       do: :ok

  defp put(repo, key, value, earlier) do
    replace = [
      {{key, :"$1"}, [{:"=:=", :"$1", {:const, earlier}}], [{{{:const, key}, {:const, value}}}]}
    ]

    if :ets.select_replace(repo, replace) == 1, do: :ok, else: put(repo, key, value)
  end

  @doc "Removes the value under a key if it is this one."
  @spec delete(module(), tuple(), tuple()) :: :ok
  def delete(repo, key, value) do
    :ets.delete_object(repo, {key, value})
    :ok
  rescue
    ArgumentError -> :ok
  end
end
