defmodule EctoFoundationDB.Rebuild do
  @moduledoc """
  Rebuilds an index: adds missing entries, and clears those that match no record.

  Indexes of this library need no rebuilding. It is for data of ecto_foundationdb, which wrote wrong entries for
  upserted records, and for changes by other clients of the database. The application may run meanwhile: every
  step is a transaction that conflicts with writers of the same records. `mix ecto_foundationdb.rebuild` rebuilds
  an index in all tenants.
  """

  alias EctoFoundationDB.{Index, Indexer, Native, Schema, Tenant, Transaction}
  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.{Entries, Keys, Metadata, Query, Reader, Record, Source, Term}
  alias EctoFoundationDB.Repo.Options

  @doc """
  Rebuilds one index of a tenant. Returns the number of entries that were missing, and of those that were wrong.
  `step:` records or entries per transaction, 500 by default.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> EctoFoundationDB.Rebuild.index(tenant, User, :users_team_index)
      %{missing: 0, wrong: 0}
  """
  @spec index(Tenant.t(), Schema.t(), atom() | String.t(), keyword()) :: %{
          missing: non_neg_integer(),
          wrong: non_neg_integer()
        }
  def index(%Tenant{} = tenant, schema, name, opts \\ []) do
    step = opts |> Keyword.validate!(step: 500) |> Keyword.fetch!(:step)
    Options.positive!(:step, step)
    query = Query.new(tenant, Source.of(schema))
    index = Transaction.run(tenant, fn -> find!(query, name) end)
    records = Keys.range(Keys.records(tenant, query.source.name))
    [entries] = Indexer.drop_ranges(tenant, index)

    missing = pages(tenant, records, step, 0, &set(query, name, &1, &2))
    wrong = pages(tenant, entries, step, 0, &clear(query, name, &1, &2))
    %{missing: missing, wrong: wrong}
  end

  defp pages(_tenant, nil, _step, count, _fun), do: count

  defp pages(tenant, range, step, count, fun) do
    {{more, rest}, step} = Transaction.step(tenant, step, &fun.(range, &1))
    pages(tenant, rest, step, count + more, fun)
  end

  # The index may be dropped meanwhile, so each step checks for it.
  defp set(query, name, range, step) do
    index = find!(query, name)
    {records, rest} = Reader.page_of_records(query.source, range, step)

    sets =
      Enum.flat_map(records, fn record ->
        data = Record.to_front(record.data, query.source.id)
        Indexer.set_all(query.tenant, [index], query.source.schema, {record.key, data})
      end)

    present = Transaction.read(for {:set, key, _value} <- sets, do: {:get, key, false})

    missing =
      for {{:set, _, value} = set, stored} <- Enum.zip(sets, present), stored != value, do: set

    mend(query, name, missing)
    {length(missing), rest}
  end

  defp clear(query, name, range, step) do
    index = find!(query, name)
    {entries, rest} = Reader.page_of_entries(query, index, range, step)
    wrong = Entries.wrong(query, index, entries)
    mend(query, name, for(key <- wrong, do: {:clear, key}))
    {length(wrong), rest}
  end

  defp mend(_query, _name, []), do: :ok

  # Live lists notice that the index has a different description, and are read again. No record has changed,
  # so no counter changes.
  defp mend(query, name, operations) do
    key = Native.pack(Keys.index_description(query.tenant, query.source.name, name))
    [description] = Transaction.read([{:get, key, false}])

    described =
      case Term.decode(description) do
        {:ok, data} -> [{:set, key, :erlang.term_to_binary(Index.rebuilt(data))}]
        # It names modules or fields that this node does not know.
        {:error, _reason} -> []
      end

    Transaction.write([Metadata.changed() | described ++ operations])
  end

  defp find!(query, name) do
    {metadata, []} = Metadata.read_for_write(query.tenant, query.source.name, [])

    case Enum.find(metadata.indexes, &("#{&1.name}" == "#{name}")) do
      nil ->
        names = for index <- metadata.indexes, Indexer.default?(index), do: index.name

        raise ArgumentError,
              "tenant #{inspect(query.tenant.id)} has no index #{inspect(name)} of " <>
                "#{inspect(query.source.schema)}; it has #{inspect(names)}"

      index ->
        unless Indexer.default?(index) do
          raise Unsupported,
                "only default indexes can be rebuilt, and the indexer of #{index.name} is " <>
                  "#{inspect(index.indexer)}: drop it and create it again in a migration"
        end

        index
    end
  end
end
