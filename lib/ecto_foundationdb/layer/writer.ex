defmodule EctoFoundationDB.Layer.Writer do
  @moduledoc false
  # The operations of a transaction that adds, changes or removes a record.

  alias EctoFoundationDB.{Connection, Indexer, Native, Schema, Tenant, Transaction, Versionstamp}
  alias EctoFoundationDB.Layer.{Keys, Metadata, Record, Source}

  @enforce_keys [:tenant, :source, :metadata, :options]
  defstruct [:tenant, :source, :metadata, :options]

  @type t :: %__MODULE__{
          tenant: Tenant.t(),
          source: Source.t(),
          metadata: Metadata.t() | nil,
          options: keyword()
        }

  @doc "A writer of a source's records, with options for their layout. It needs the metadata from `read/2` to write."
  @spec new(Tenant.t(), Source.t(), keyword()) :: t()
  def new(%Tenant{repo: repo, options: options} = tenant, source, more \\ []) do
    layout =
      Connection.fetch!(repo).config
      |> Keyword.merge(options)
      |> Keyword.merge(more)
      |> Keyword.take([:max_single_value_size, :max_value_size])

    %__MODULE__{tenant: tenant, source: source, metadata: nil, options: layout}
  end

  @doc "Runs reads and learns the indexes with them; the transaction conflicts with migrations of the source."
  @spec read(t(), [Native.op()]) :: {t(), [term()]}
  def read(%__MODULE__{} = writer, operations) do
    {metadata, answers} = Metadata.read_for_write(writer.tenant, writer.source.name, operations)
    {%{writer | metadata: metadata}, answers}
  end

  @doc "Adds a record."
  @spec insert(t(), Schema.data()) :: :ok
  def insert(%__MODULE__{} = writer, data) do
    tuple = key(writer, data)
    rows = Record.encode(tuple, data, writer.options)

    rows =
      cond do
        not writer.source.write_primary? -> []
        incomplete?(writer, data) -> for {key, value} <- rows, do: stamped(key, value)
        true -> for {key, value} <- rows, do: {:set, key, value}
      end

    key = Native.pack(tuple)
    entries = Indexer.set_all(writer.tenant, indexes(writer, key), schema(writer), {key, data})
    Transaction.write(rows ++ entries)
  end

  @doc "Adds a record or replaces an existing one, including a large one's parts."
  @spec overwrite(t(), Schema.data()) :: :ok
  def overwrite(%__MODULE__{} = writer, data) do
    unless incomplete?(writer, data) or not writer.source.write_primary?,
      do: Transaction.write([clear_parts(Native.pack(key(writer, data)))])

    insert(writer, data)
  end

  defp clear_parts(key), do: {:clear_range, key <> <<0>>, key <> <<0xFF>>}

  defp stamped(key, value), do: {:atomic, :set_versionstamped_key, key, value}

  @doc "Changes a record: sets fields, others keep their values."
  @spec update(t(), Record.t(), Schema.data()) :: :ok
  def update(%__MODULE__{} = writer, %Record{data: old} = record, changes),
    do: replace(writer, record, old |> Record.to_front(writer.source.id) |> Record.merge(changes))

  @doc "Replaces a record's fields, in this order."
  @spec replace(t(), Record.t(), Schema.data()) :: :ok
  def replace(%__MODULE__{} = writer, %Record{key: key} = old, data) do
    in_front = Record.to_front(old.data, writer.source.id)
    check_partition!(writer.source, in_front, data)
    rows = Record.encode(key(writer, in_front), data, writer.options)

    # The names of parts contain the checksum, so those of the old value are not overwritten.
    clear = if old.parts > 0, do: [clear_parts(key)], else: []
    set = for {key, value} <- rows, do: {:set, key, value}
    records = if writer.source.write_primary?, do: clear ++ set, else: [clear_record(old)]

    {old_record, new_record} = {{key, in_front}, {key, data}}
    indexes = indexes(writer, key)

    entries =
      if in_front == old.data do
        Indexer.update_all(writer.tenant, indexes, schema(writer), old_record, new_record)
      else
        # Its right entries may never have been written.
        {default, others} = Enum.split_with(indexes, &Indexer.default?/1)

        mistaken(writer, old) ++
          Indexer.clear_all(writer.tenant, default, schema(writer), old_record) ++
          Indexer.set_all(writer.tenant, default, schema(writer), new_record) ++
          Indexer.update_all(writer.tenant, others, schema(writer), old_record, new_record)
      end

    Transaction.write(records ++ entries)
  end

  @doc "Removes a record."
  @spec delete(t(), Record.t()) :: :ok
  def delete(%__MODULE__{} = writer, %Record{key: key} = record) do
    data = Record.to_front(record.data, writer.source.id)
    entries = Indexer.clear_all(writer.tenant, indexes(writer, key), schema(writer), {key, data})
    Transaction.write([clear_record(record) | mistaken(writer, record) ++ entries])
  end

  @doc "Removes all records of the schema; counters change, and never go back."
  @spec delete_all(t(), [Record.t()]) :: :ok
  def delete_all(%__MODULE__{tenant: tenant, source: source} = writer, records) do
    records_range = {first, _last} = Keys.range(Keys.records(tenant, source.name))
    default = for index <- indexes(writer, first), Indexer.default?(index), do: index
    ranges = [records_range | Enum.flat_map(default, &Indexer.drop_ranges(tenant, &1))]
    clears = for {first, last} <- ranges, do: {:clear_range, first, last}

    entries =
      Enum.flat_map(records, fn %Record{key: key, data: data} ->
        others = Enum.reject(indexes(writer, key), &Indexer.default?/1)
        data = Record.to_front(data, writer.source.id)
        Indexer.clear_all(tenant, others, schema(writer), {key, data})
      end)

    Transaction.write(clears ++ add_up(entries))
  end

  # The counters' additions of one, merged for all records.
  defp add_up(operations) do
    {additions, others} =
      Enum.split_with(operations, &match?({:atomic, :add, _, <<1::little-64>>}, &1))

    sums =
      for {{:atomic, :add, key, _one}, count} <- Enum.frequencies(additions),
          do: {:atomic, :add, key, <<count::little-64>>}

    others ++ sums
  end

  defp clear_record(%Record{key: key, parts: 0}), do: {:clear, key}
  defp clear_record(%Record{key: key}), do: {:clear_range, key, key <> <<0xFF>>}

  # ecto_foundationdb took a record's first field for its primary key, and wrote index entries that end in
  # it. Two records can share such an entry: only the record it points to may clear it.
  defp mistaken(writer, %Record{key: key, data: [{first, _} | _] = data}) do
    if first == writer.source.id do
      []
    else
      indexes = Enum.filter(indexes(writer, key), &Indexer.default?/1)

      entries =
        for index <- indexes,
            do: {:pack, Indexer.Default.mistaken_entry(writer.tenant, index, writer.source, data)}

      values = Transaction.read(for entry <- entries, do: {:get, entry, false})
      for {entry, ^key} <- Enum.zip(entries, values), do: {:clear, entry}
    end
  end

  defp indexes(%__MODULE__{metadata: metadata}, key), do: Metadata.writable(metadata, key)

  defp schema(%__MODULE__{source: source}), do: source.schema

  defp key(writer, data),
    do: Keys.record(writer.tenant, writer.source.name, Record.id(data, writer.source))

  defp incomplete?(writer, data), do: Versionstamp.incomplete?(Record.get(data, writer.source.id))

  defp check_partition!(%{partition_by: nil}, _old, _new), do: :ok

  defp check_partition!(%{partition_by: field}, old, new) do
    if Record.get(old, field) !== Record.get(new, field) do
      raise EctoFoundationDB.Exception.Unsupported,
            "Cannot change the partition_by field #{inspect(field)}: it determines where the record lies. Delete the " <>
              "record, and insert it with the other value"
    end
  end
end
