defmodule EctoFoundationDB.Layer.Writer do
  @moduledoc false
  # What a transaction writes when a record comes, changes or goes.

  alias EctoFoundationDB.{Indexer, Native, Schema, Tenant, Transaction, Versionstamp}
  alias EctoFoundationDB.Layer.{Keys, Metadata, Record}
  alias EctoFoundationDB.Repo.Options

  @enforce_keys [:tenant, :schema, :source, :metadata, :options]
  defstruct [:tenant, :schema, :source, :metadata, :options]

  @type t :: %__MODULE__{
          tenant: Tenant.t(),
          schema: module(),
          source: String.t(),
          metadata: Metadata.t(),
          options: keyword()
        }

  @doc "A writer of a schema's records. Without metadata, which `Layer.Metadata` reads, it writes none."
  @spec new(Tenant.t(), Schema.t()) :: t()
  def new(tenant, schema) do
    %__MODULE__{
      tenant: tenant,
      schema: schema,
      source: Schema.source(schema),
      metadata: nil,
      options: Options.layout(tenant)
    }
  end

  @doc "A record has come."
  @spec insert(t(), Schema.data()) :: :ok
  def insert(%__MODULE__{} = writer, data) do
    id = Record.get(data, id_name(writer))
    tuple = Keys.record(writer.tenant, writer.source, id)
    rows = Record.encode(tuple, data, writer.options)

    rows =
      cond do
        not Schema.write_primary?(writer.schema) -> []
        Versionstamp.incomplete?(id) -> for {key, value} <- rows, do: stamped(key, value)
        true -> for {key, value} <- rows, do: {:set, key, value}
      end

    key = Native.pack(tuple)
    entries = Indexer.set_all(writer.tenant, indexes(writer, key), writer.schema, {key, data})
    Transaction.write(rows ++ entries)
  end

  @doc "A record comes, whatever is there: of a large one, that is parts."
  @spec overwrite(t(), Schema.data()) :: :ok
  def overwrite(%__MODULE__{} = writer, data) do
    id = Record.get(data, id_name(writer))

    unless Versionstamp.incomplete?(id) or not Schema.write_primary?(writer.schema) do
      key = Native.pack(Keys.record(writer.tenant, writer.source, id))
      Transaction.write([clear_parts(key)])
    end

    insert(writer, data)
  end

  defp clear_parts(key), do: {:clear_range, key <> <<0>>, key <> <<0xFF>>}

  defp stamped(key, value), do: {:atomic, :set_versionstamped_key, key, value}

  @doc "A record has changed: fields are set, others keep their values."
  @spec update(t(), Record.t(), Schema.data()) :: :ok
  def update(%__MODULE__{} = writer, %Record{key: key} = old, changes) do
    id_name = id_name(writer)
    in_front = Record.to_front(old.data, id_name)
    data = Record.merge(in_front, changes)
    id = Record.get(in_front, id_name)
    tuple = Keys.record(writer.tenant, writer.source, id)
    rows = Record.encode(tuple, data, writer.options)

    # The names of parts hold the checksum: those of the old value are not overwritten.
    clear = if old.parts > 0, do: [clear_parts(key)], else: []
    set = for {key, value} <- rows, do: {:set, key, value}
    records = if Schema.write_primary?(writer.schema), do: clear ++ set, else: [clear_record(old)]

    {old_record, new_record} = {{key, in_front}, {key, data}}
    indexes = indexes(writer, key)

    entries =
      if in_front == old.data do
        Indexer.update_all(writer.tenant, indexes, writer.schema, old_record, new_record)
      else
        # Its right entries may never have been written.
        {default, others} = Enum.split_with(indexes, &Indexer.default?/1)

        mistaken(writer, old) ++
          Indexer.clear_all(writer.tenant, default, writer.schema, old_record) ++
          Indexer.set_all(writer.tenant, default, writer.schema, new_record) ++
          Indexer.update_all(writer.tenant, others, writer.schema, old_record, new_record)
      end

    Transaction.write(records ++ entries)
  end

  @doc "A record has gone."
  @spec delete(t(), Record.t()) :: :ok
  def delete(%__MODULE__{} = writer, %Record{key: key} = record) do
    data = Record.to_front(record.data, id_name(writer))
    entries = Indexer.clear_all(writer.tenant, indexes(writer, key), writer.schema, {key, data})
    Transaction.write([clear_record(record) | mistaken(writer, record) ++ entries])
  end

  @doc "These are all records of the schema, and have gone; counters move, and never go back."
  @spec delete_all(t(), [Record.t()]) :: :ok
  def delete_all(%__MODULE__{tenant: tenant, source: source} = writer, records) do
    records_range = {first, _last} = Keys.range(Keys.records(tenant, source))
    default = for index <- indexes(writer, first), Indexer.default?(index), do: index
    ranges = [records_range | Enum.flat_map(default, &Indexer.drop_ranges(tenant, &1))]
    clears = for {first, last} <- ranges, do: {:clear_range, first, last}

    entries =
      Enum.flat_map(records, fn %Record{key: key, data: data} ->
        others = Enum.reject(indexes(writer, key), &Indexer.default?/1)
        data = Record.to_front(data, id_name(writer))
        Indexer.clear_all(tenant, others, writer.schema, {key, data})
      end)

    Transaction.write(clears ++ add_up(entries))
  end

  # Counters by one are one addition for all records.
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

  # ecto_foundationdb took a record's first field for its primary key, and wrote index entries that
  # end in it. Two records can share such an entry: only the record it points to may clear it.
  defp mistaken(writer, %Record{key: key, data: [{first, _} | _] = data}) do
    if first == id_name(writer) do
      []
    else
      indexes = Enum.filter(indexes(writer, key), &Indexer.default?/1)

      entries =
        for index <- indexes,
            do: {:pack, Indexer.Default.mistaken_entry(writer.tenant, index, writer.schema, data)}

      values = Transaction.read(for entry <- entries, do: {:get, entry, false})
      for {entry, ^key} <- Enum.zip(entries, values), do: {:clear, entry}
    end
  end

  defp indexes(%__MODULE__{metadata: metadata}, key), do: Metadata.writable(metadata, key)

  defp id_name(%__MODULE__{schema: schema}),
    do: Schema.field_source(schema, Schema.primary_key(schema))
end
