defmodule EctoFoundationDB.Layer.Metadata do
  @moduledoc false
  # What indexes a tenant has for a source. It is cached on the node; `\xff/metadataVersion`, which
  # comes with every read version at no cost, says whether the cache still holds.
  #
  # The version is read as a snapshot: otherwise every migration of any tenant would conflict with
  # every transaction. What writers must not miss is a migration of their own tenant and source, and
  # that always writes the source's claim: so writers conflict with the claim.

  alias EctoFoundationDB.{Connection, DecodeError, Index, Indexer, Native, Tenant, Transaction}
  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.{Keys, Term}

  defstruct indexes: [], building: [], fingerprint: nil

  @typedoc """
  `building`: an index that a migration is building, and the key it has come to; written to, but not read
  from.
  """
  @type t :: %__MODULE__{
          indexes: [Index.t()],
          building: [{Index.t(), binary()}],
          fingerprint: <<_::256>> | nil
        }

  @version_key "\xff/metadataVersion"

  @doc "The operation that tells every node that indexes have changed."
  def changed, do: {:atomic, :set_versionstamped_value, @version_key, <<0::112>>}

  @doc """
  The indexes to keep in step with the record of this key. Of records that a builder is still to come to,
  entries may be there already; an own indexer may count, and must not do so twice.
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
    guard = if Transaction.guard?(source), do: [guard(tenant, source)], else: []

    case Transaction.metadata(source) do
      nil ->
        cached = cached(tenant, source)
        metadata_ops = if cached, do: [version_op()], else: load_ops(tenant, source)
        answers = Transaction.read(guard ++ metadata_ops ++ operations)
        {own, others} = answers |> Enum.drop(length(guard)) |> Enum.split(length(metadata_ops))
        {accept(tenant, source, cached, own), others}

      metadata ->
        case guard ++ operations do
          [] -> {metadata, []}
          all -> {metadata, Enum.drop(Transaction.read(all), length(guard))}
        end
    end
  end

  @doc """
  Starts reads that depend on the metadata: `plan` gives a plan and its reads. What was cached serves as
  a guess, which the answers confirm. `collect/1` gives the plan and the answers.
  """
  def start(%Tenant{} = tenant, source, plan) do
    with nil <- Transaction.metadata(source),
         {_version, metadata} = cached <- cached(tenant, source),
         {plan_made, reads} <- guess(plan, metadata) do
      reads = Transaction.read_async([version_op() | reads])
      {:guessed, tenant, source, cached, {plan_made, plan}, reads}
    else
      _known_or_no_guess ->
        {plan_made, reads} = plan.(load(tenant, source))
        {:known, plan_made, Transaction.read_async(reads)}
    end
  end

  # An index that the cache does not know may be there by now.
  defp guess(plan, metadata) do
    plan.(metadata)
  rescue
    Unsupported -> nil
  end

  def collect({:known, plan, reads}), do: {plan, Transaction.collect(reads)}

  def collect({:guessed, tenant, source, {version, metadata}, {plan_made, plan}, reads}) do
    case Transaction.collect(reads) do
      [^version | answers] ->
        Transaction.put_metadata(source, metadata)
        {plan_made, answers}

      _ ->
        {plan_made, reads} = plan.(load(tenant, source))
        {plan_made, Transaction.read(reads)}
    end
  end

  @doc "The metadata of a source, read where it must be."
  def load(tenant, source) do
    Transaction.metadata(source) ||
      accept(tenant, source, nil, Transaction.read(load_ops(tenant, source)))
  end

  defp accept(_tenant, source, {version, metadata}, [version]),
    do: Transaction.put_metadata(source, metadata)

  defp accept(tenant, source, {_version, _metadata}, [_other]), do: load(tenant, source)

  defp accept(tenant, source, nil, [version, rows, claim]) do
    indexes = Enum.map(rows, &decode_index/1)
    {claimed?, building} = claim_of(claim, source, tenant)

    metadata = %__MODULE__{
      indexes: indexes,
      building: building,
      fingerprint: fingerprint(rows, claim)
    }

    unless claimed? or is_nil(version), do: cache(tenant, source, {version, metadata})
    Transaction.put_metadata(source, metadata)
  end

  # What the NIF's live queries compare with (`basis.rs` makes the same).
  defp fingerprint(rows, claim) do
    rows = for {key, value} <- rows, bytes <- [key, value], do: [<<byte_size(bytes)::32>>, bytes]
    claim = if claim, do: [<<1>>, claim], else: <<0>>
    :crypto.hash(:sha256, [rows, claim])
  end

  @doc false
  def decode_index({key, value}) do
    case Term.decode_foreign(value) do
      {:ok, data} when is_list(data) -> Index.from_data(data)
      {:ok, _} -> raise DecodeError, key: key, reason: "it is no description of an index"
      {:error, reason} -> raise DecodeError, key: key, reason: reason
    end
  end

  defp claim_of(nil, _source, _tenant), do: {false, []}

  defp claim_of(claim, source, tenant) do
    case Term.decode_foreign(claim) do
      {:ok, {_owner, steps}} when is_list(steps) ->
        {true, for({%{source: ^source}, _cursor} = building <- building(steps), do: building)}

      _ ->
        key = Native.pack(Keys.claim(tenant, source))
        raise DecodeError, key: key, reason: "it is no claim of a migration"
    end
  end

  # The first step that is left is the one under way.
  defp building([{_version, [{{{:create, _}, {_key, data}}, {_first, cursor, _last}} | _]} | _])
       when is_list(data) and is_binary(cursor),
       do: [{Index.from_data(data), cursor}]

  defp building([{_version, []} | steps]), do: building(steps)
  defp building(_steps), do: []

  @doc "The metadata version at the current transaction's read version."
  def version do
    [version] = Transaction.read([version_op()])
    version
  end

  defp version_op, do: {:get, @version_key, true}

  defp load_ops(tenant, source) do
    {first, last} = Keys.range(Keys.indexes(tenant, source))

    [
      version_op(),
      {:get_range, first, last, %{}},
      {:get, {:pack, Keys.claim(tenant, source)}, false}
    ]
  end

  defp guard(tenant, source) do
    key = Native.pack(Keys.claim(tenant, source))
    {:read_conflict, key, key <> <<0>>}
  end

  @doc "What is known of a source without reading, and the metadata version it was read at, or `nil`."
  @spec cached(Tenant.t(), String.t()) :: {binary(), t()} | nil
  def cached(%Tenant{repo: repo, prefix: prefix}, source) do
    case :ets.lookup(repo, {prefix, source}) do
      [{_, cached}] -> cached
      [] -> nil
    end
  end

  @doc "Forgets what is known of a source: it has been found to hold no longer."
  @spec forget(Tenant.t(), String.t()) :: true
  def forget(%Tenant{repo: repo, prefix: prefix}, source),
    do: :ets.delete(repo, {prefix, source})

  # Tenants come and go: with too many the cache begins anew.
  @most_cached 100_000

  defp cache(%Tenant{repo: repo, prefix: prefix}, source, cached) do
    if Connection.fetch!(repo).config[:metadata_cache] == :enabled do
      if :ets.info(repo, :size) > @most_cached, do: :ets.match_delete(repo, {{:_, :_}, :_})
      :ets.insert(repo, {{prefix, source}, cached})
    end
  end
end
