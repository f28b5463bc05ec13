defmodule EctoFoundationDB.Layer.Dependencies do
  @moduledoc false
  # What the result of a live function depends on: a record on its own key, also one that does not exist; a
  # query on the finest counter whose fields its equalities fix, and on the indexes of its source, by which
  # it was planned. Elsewhere nothing is recorded.

  alias EctoFoundationDB.{Index, Native, Transaction}
  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Indexer.SchemaMetadata
  alias EctoFoundationDB.Layer.{Keys, Query, Source}

  @doc "Whether a query that could do without must know the tenant's indexes: to find its counter."
  @spec needs_metadata?(Query.t()) :: boolean()
  def needs_metadata?(%Query{limit: 0}), do: false

  def needs_metadata?(%Query{source: %{id: id}} = query),
    do: Transaction.recording?() and not match?([{^id, {:eq, _}}], query.where)

  @doc "Records what a query depends on, that was answered by this plan. Its source's indexes are known by now."
  @spec record(Query.t(), term()) :: :ok
  def record(%Query{} = query, plan) do
    if Transaction.recording?(), do: depend(query, plan), else: :ok
  end

  defp depend(_query, {:nothing}), do: :ok

  defp depend(query, {:get, id, _filter}) do
    {key, _last} = Keys.record_range(query.tenant, query.source.name, id)
    Transaction.record(key)
  end

  defp depend(%{source: source} = query, _range) do
    equal = for {name, {:eq, value}} <- query.where, do: {name, value}
    metadata = Transaction.metadata(source.name)

    index = SchemaMetadata.finest(metadata, source, Keyword.keys(equal)) || refuse(query, equal)

    {:pack, key} = SchemaMetadata.key(query.tenant, index, values(index, source, equal), :changes)
    Transaction.record(Native.pack(key), source.name)
  end

  defp values(%Index{fields: []}, _source, _equal), do: []
  defp values(index, source, equal), do: SchemaMetadata.values(index, source.schema, equal)

  defp refuse(%{source: source}, equal) do
    fields = for {name, _value} <- equal, do: field(source, name)
    schema = Source.describe(source)
    where = if fields == [], do: "", else: " by #{inspect(fields)}"

    finer =
      if fields == [],
        do: "",
        else:
          "; create metadata(#{schema}, #{inspect(fields)}) makes one for these values alone, which wakes the " <>
            "page less often"

    raise Unsupported,
          "no counter tells when the records of #{schema} that this live function reads#{where} change, so " <>
            "nothing can be watched. This migration makes one: create metadata(#{schema})#{finer}"
  end

  # The name under which a schema has a stored field.
  defp field(%{stored: stored}, name),
    do: Enum.find_value(stored, name, fn {field, as} -> as == name && field end)
end
