defmodule EctoFoundationDB.Layer.Unique do
  @moduledoc false
  # Unique indexes, which are default indexes. A transaction that writes an entry reads the range of all entries
  # with the same values, and so conflicts with every other transaction that writes one.

  alias EctoFoundationDB.{Index, Indexer, Native, Schema, Transaction, UniqueError}
  alias EctoFoundationDB.Layer.{Entries, Keys, Metadata, Query, Record, Source, Writer}

  # The maximum number of conflicting records to name.
  @few 5

  @typedoc "A record before, or nil, and after the change."
  @type change :: {Schema.data() | nil, Schema.data()}

  @doc "Whether a source has unique indexes, including one that is being built."
  @spec any?(Metadata.t()) :: boolean()
  def any?(metadata), do: indexes(metadata) != []

  defp indexes(%Metadata{indexes: indexes, building: building}) do
    for index <- indexes ++ for({index, _cursor} <- building, do: index),
        Indexer.default?(index) and Index.unique?(index),
        do: index
  end

  @doc "Checks changes that will be written together, before the first of them is written."
  @spec check(Writer.t(), [change()]) :: :ok | {:error, UniqueError.t()}
  def check(writer, changes) do
    case rivals(writer, changes) do
      [] -> :ok
      [{_change, index, records} | _] -> {:error, error(writer.source, index, records)}
    end
  end

  @doc "The unique index and the records that conflict with each change: `{change, index, records}`."
  @spec rivals(Writer.t(), [change()]) :: [{change(), Index.t(), [Record.t()]}]
  def rivals(%Writer{metadata: metadata} = writer, changes) do
    case indexes(metadata) do
      [] -> []
      indexes -> in_batch(writer, indexes, changes) ++ stored(writer, indexes, changes)
    end
  end

  # Conflicts among the changes themselves. A record that is changed twice does not conflict with itself.
  defp in_batch(writer, indexes, changes) do
    for index <- indexes,
        {values, same} when values != nil <-
          Enum.group_by(changes, fn {_old, new} -> values(writer, index, new) end),
        [{_, first}, second | _] <- [Enum.uniq_by(same, fn {_, new} -> key(writer, new) end)] do
      {second, index, [%Record{key: key(writer, first), data: first}]}
    end
  end

  # Conflicts with existing records that the changes don't move out of the way.
  defp stored(writer, indexes, changes) do
    wanted =
      for {old, new} = change <- changes,
          index <- indexes,
          values = values(writer, index, new),
          old == nil or values(writer, index, old) != values,
          do: {change, index, range(writer, index, values)}

    reads = for {_, _, {first, last}} <- wanted, do: {:get_range, first, last, %{limit: @few}}
    answers = if reads == [], do: [], else: Transaction.read(reads)
    giving_way = for {old, new} <- changes, old != nil, into: %{}, do: {key(writer, new), new}

    for {{{_old, new} = change, index, _range}, [_ | _] = entries} <- Enum.zip(wanted, answers),
        own = key(writer, new),
        records = records(writer, index, entries),
        rivals =
          Enum.reject(records, &(&1.key == own or gives_way?(writer, index, &1, new, giving_way))),
        rivals != [],
        do: {change, index, rivals}
  end

  defp gives_way?(writer, index, %Record{key: key}, new, giving_way) do
    case giving_way do
      %{^key => other} -> values(writer, index, other) != values(writer, index, new)
      _ -> false
    end
  end

  defp records(writer, index, entries) do
    query = Query.new(writer.tenant, writer.source)
    Entries.records(query, index, Entries.follow(query, index, entries))
  end

  # The values of an entry's key, or nil if one of them is nil: those never conflict.
  defp values(%Writer{source: source}, index, data) do
    names = Indexer.Default.key_fields(index, source)
    values = Indexer.Default.values(source, names, data)
    if names == [] or nil in values, do: nil, else: values
  end

  defp range(writer, index, values) do
    Keys.range(Keys.index_values(writer.tenant, index.source, index.name, length(values), values))
  end

  defp key(%Writer{tenant: tenant, source: source}, data) do
    case Record.id(data, source) do
      nil -> nil
      id -> Native.pack(Keys.record(tenant, source.name, id))
    end
  end

  defp error(%Source{} = source, index, records) do
    %UniqueError{
      index: index.name,
      schema: source.schema || source.name,
      fields: index.fields,
      ids: for(record <- records, do: Record.get(record.data, source.id))
    }
  end

  @doc "The unique index of these stored fields, in any order."
  @spec find(Writer.t(), [atom()]) :: Index.t() | nil
  def find(%Writer{metadata: metadata, source: source}, names) do
    Enum.find(indexes(metadata), fn index ->
      Enum.sort(Enum.map(index.fields, &Source.stored(source, &1))) == Enum.sort(names)
    end)
  end
end
