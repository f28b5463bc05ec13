defmodule EctoFoundationDB.Layer.Metadata do
  @moduledoc false
  # The indexes that a tenant has for a source, cached on the node. `\xff/metadataVersion`, which comes with
  # every read version at no cost, tells whether the cache is certainly valid.
  #
  # That key is global: a different value only means that something has changed somewhere. Then the transaction
  # reads the source's own keys, and keeps the cache if they are the same bytes, by their fingerprint. If the
  # node already knows that the version is different, it reads them beside the transaction's own reads.
  #
  # The version is read as a snapshot (`Transaction.version/0`); otherwise every migration of any tenant would
  # conflict with every transaction. Writers must not miss a migration of their own tenant and source, which
  # always writes the source's claim: so writers conflict with the claim.

  alias EctoFoundationDB.{DecodeError, Index, Indexer, Native, Tenant, Transaction}
  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.{Keys, Tenants, Term}

  defstruct indexes: [], building: [], fingerprint: nil

  @typedoc """
  `building`: an index that a migration is building, and the key it has reached. It is written, but not read.
  `fingerprint`: of the bytes this was made from (`fingerprint/2`).
  """
  @type t :: %__MODULE__{
          indexes: [Index.t()],
          building: [{Index.t(), binary()}],
          fingerprint: binary() | nil
        }

  @typedoc "Metadata, and the metadata version at which they were last confirmed."
  @type cached :: {binary(), t()}

  @version_key "\xff/metadataVersion"

  @doc "The operation that notifies every node of changed indexes."
  def changed, do: {:atomic, :set_versionstamped_value, @version_key, <<0::112>>}

  @doc """
  The indexes to update with the record of this key. Entries of records that a builder has not reached may exist
  already; a custom indexer may count, and must not count twice.
  """
  @spec writable(t(), binary()) :: [Index.t()]
  def writable(%__MODULE__{indexes: indexes, building: building}, key) do
    indexes ++
      for {index, cursor} <- building, Indexer.default?(index) or key < cursor, do: index
  end

  @doc """
  The metadata of a source and the answers to other reads, in one call. For writers: the transaction
  conflicts with migrations of the source.
  """
  def read_for_write(%Tenant{} = tenant, source, operations) do
    if Transaction.guard?(source), do: Transaction.conflict([guard(tenant, source)])

    case Transaction.metadata(source) do
      nil ->
        cached = cached(tenant, source)

        if operations == [] and presumed?(cached) do
          {_version, metadata} = cached
          {Transaction.put_metadata(source, metadata), []}
        else
          own_ops = doubtful_ops(tenant, source, cached)
          {own, others} = (own_ops ++ operations) |> read() |> Enum.split(length(own_ops))
          {settle(tenant, source, cached, own), others}
        end

      metadata ->
        {metadata, read(operations)}
    end
  end

  # Where there is nothing to read, the commit tells whether the cache holds.
  defp presumed?({version, _metadata}) when is_binary(version), do: Transaction.presume?(version)
  defp presumed?(_none_or_never_confirmed), do: false

  defp read([]), do: []
  defp read(operations), do: Transaction.read(operations)

  @doc """
  Starts reads that depend on the metadata: `plan` returns a plan and its reads. The cache serves as a guess,
  which the answers confirm. `collect/1` returns the plan and the answers.
  """
  def start(%Tenant{} = tenant, source, plan) do
    with nil <- Transaction.metadata(source),
         {_version, metadata} = cached <- cached(tenant, source),
         {plan_made, reads} <- guess(plan, metadata) do
      own_ops = doubtful_ops(tenant, source, cached)
      reads = Transaction.read_async(own_ops ++ reads)
      {:guessed, tenant, source, cached, length(own_ops), {plan_made, plan}, reads}
    else
      _known_or_no_guess ->
        {plan_made, reads} = plan.(load(tenant, source))
        {:known, plan_made, Transaction.read_async(reads)}
    end
  end

  # An index that is missing in the cache may exist by now.
  defp guess(plan, metadata) do
    plan.(metadata)
  rescue
    Unsupported -> nil
  end

  def collect({:known, plan, reads}), do: {plan, Transaction.collect(reads)}

  def collect({:guessed, tenant, source, {_, guess} = cached, own, {plan_made, plan}, reads}) do
    {own, answers} = reads |> Transaction.collect() |> Enum.split(own)

    case Transaction.metadata(source) || settle(tenant, source, cached, own) do
      ^guess ->
        {plan_made, answers}

      metadata ->
        {plan_made, reads} = plan.(metadata)
        {plan_made, Transaction.read(reads)}
    end
  end

  @doc "The metadata of a source, read if necessary."
  def load(tenant, source) do
    with nil <- Transaction.metadata(source) do
      cached = cached(tenant, source)
      own = read(doubtful_ops(tenant, source, cached))
      settle(tenant, source, cached, own)
    end
  end

  # While the node has seen no other version, the version alone validates the cache.
  defp doubtful_ops(%Tenant{repo: repo} = tenant, source, cached) do
    with {version, _metadata} <- cached,
         ^version <- Tenants.seen(repo),
         do: [],
         else: (_unknown_or_doubtful -> source_ops(tenant, source))
  end

  # The metadata, given the cache and the source's keys if they were read.
  defp settle(tenant, source, cached, own) do
    version = Transaction.version()

    case {cached, own} do
      {{^version, metadata}, _own} ->
        Transaction.put_metadata(source, metadata)

      {_none_or_doubtful, []} ->
        settle(tenant, source, cached, Transaction.read(source_ops(tenant, source)))

      {_none_or_doubtful, [rows, claim]} ->
        metadata = made_of(tenant, source, cached, rows, claim)
        # Metadata that this transaction has written itself may never be committed.
        keep? = is_nil(claim) and is_binary(version) and not Transaction.dirty?()
        if keep?, do: Tenants.put(tenant.repo, {tenant.prefix, source}, {version, metadata})
        Transaction.put_metadata(source, metadata)
    end
  end

  # The cache, if the bytes are the same.
  defp made_of(tenant, source, cached, rows, claim) do
    fingerprint = fingerprint(rows, claim)

    case cached do
      {_version, %{fingerprint: ^fingerprint} = metadata} ->
        metadata

      _none_or_other ->
        if cached, do: forget(tenant, source, cached)
        indexes = Enum.map(rows, &decode_index/1)
        building = building(claim, source, tenant)
        %__MODULE__{indexes: indexes, building: building, fingerprint: fingerprint}
    end
  end

  @doc """
  The fingerprint of a source's keys: of the descriptions of its indexes, `{key, value}` in order, and of the
  claim of a migration, or `nil`. The NIF computes the same from the same reads.
  """
  @spec fingerprint([{binary(), binary()}], binary() | nil) :: binary()
  def fingerprint(rows, claim) do
    rows =
      for {key, value} <- rows, do: [<<byte_size(key)::32>>, key, <<byte_size(value)::32>>, value]

    :crypto.hash(:sha256, rows ++ [if(claim, do: [<<1>>, claim], else: <<0>>)])
  end

  @doc false
  def decode_index({key, value}) do
    case Term.decode_foreign(value) do
      {:ok, data} when is_list(data) -> Index.from_data(data)
      {:ok, _} -> raise DecodeError, key: key, reason: "it is not a description of an index"
      {:error, reason} -> raise DecodeError, key: key, reason: reason
    end
  end

  defp building(nil, _source, _tenant), do: []

  defp building(claim, source, tenant) do
    case Term.decode_foreign(claim) do
      {:ok, {_owner, steps}} when is_list(steps) ->
        for {%{source: ^source}, _cursor} = building <- building(steps), do: building

      _ ->
        key = Native.pack(Keys.claim(tenant, source))
        raise DecodeError, key: key, reason: "it is not a claim of a migration"
    end
  end

  # The first remaining step is the current one.
  defp building([{_version, [{{{:create, _}, {_key, data}}, {_first, cursor, _last}} | _]} | _])
       when is_list(data) and is_binary(cursor),
       do: [{Index.from_data(data), cursor}]

  defp building([{_version, []} | steps]), do: building(steps)
  defp building(_steps), do: []

  @doc "The operation that reads the metadata version."
  def version_op, do: {:get, @version_key, true}

  # The input of `fingerprint/2`.
  defp source_ops(tenant, source) do
    {first, last} = Keys.range(Keys.indexes(tenant, source))
    [{:get_range, first, last, %{}}, {:get, {:pack, Keys.claim(tenant, source)}, false}]
  end

  defp guard(tenant, source) do
    key = Native.pack(Keys.claim(tenant, source))
    {:read_conflict, key, key <> <<0>>}
  end

  @doc "The cache of a source, and the metadata version it was read at, or `nil`."
  @spec cached(Tenant.t(), String.t()) :: cached() | nil
  def cached(%Tenant{repo: repo, prefix: prefix}, source),
    do: Tenants.lookup(repo, {prefix, source})

  @doc """
  Drops the cache of a source if it is what was found invalid: these metadata, or those with this
  fingerprint.
  """
  @spec forget(Tenant.t(), String.t(), cached() | binary()) :: :ok
  def forget(%Tenant{repo: repo, prefix: prefix}, source, {_version, %__MODULE__{}} = cached),
    do: Tenants.delete(repo, {prefix, source}, cached)

  def forget(tenant, source, fingerprint) when is_binary(fingerprint) do
    with {_version, %{fingerprint: ^fingerprint}} = cached <- cached(tenant, source),
         do: forget(tenant, source, cached),
         else: (_learnt_since -> :ok)
  end
end
