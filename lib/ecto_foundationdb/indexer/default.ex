defmodule EctoFoundationDB.Indexer.Default do
  @moduledoc """
  The index that `create index(User, [:dept, :joined])` makes: one key per record, ordered by the values of
  the indexed fields.

  It answers queries with equalities on its first fields, and at most one range on the field that follows.
  Ranges and ordering follow the order of values for integers, floats, booleans, strings, binaries, ids, dates,
  times and date-times; for other types only equality works. `nil` comes first.

  With `options: [mapped?: false]` an entry holds the record itself instead of pointing to it: a query needs one
  read less for each record, and each record is stored once more.

  With `unique: true`, no two records have the same values of the indexed fields, unless one of them is `nil`.
  The transaction that writes a record reads the entries of its values, one range per unique index.
  """
  @behaviour EctoFoundationDB.Indexer

  alias EctoFoundationDB.{Index, Indexer, Native, Versionstamp}
  alias EctoFoundationDB.Layer.{Keys, Record, Source, Term}

  @impl true
  def set(tenant, index, schema, {key, data}) do
    source = Source.of(schema, index.source)
    id = Record.get(data, source.id)
    entry = {:pack, entry(tenant, index, source, data, id)}
    value = if mapped?(index), do: key, else: whole(index, data)

    # FoundationDB fills in a versionstamp in the key or in the value, not in both. The value keeps the
    # incomplete one, and mapped ranges take the id from the entry's key.
    if Versionstamp.incomplete?(id),
      do: [{:atomic, :set_versionstamped_key, entry, value}],
      else: [{:set, entry, value}]
  end

  defp whole(index, data) do
    value = Term.encode_fields(data)

    if byte_size(value) > 100_000 do
      raise ArgumentError,
            "this record takes #{byte_size(value)} bytes, and the index #{index.name} holds the " <>
              "records themselves (`mapped?: false`), which FoundationDB allows up to 100,000 bytes"
    end

    value
  end

  @impl true
  def clear(tenant, index, schema, {_key, data}) do
    source = Source.of(schema, index.source)
    [{:clear, {:pack, entry(tenant, index, source, data, Record.get(data, source.id))}}]
  end

  @impl true
  def update(tenant, index, schema, old, new) do
    if not mapped?(index) or Indexer.touched?(index, schema, old, new),
      do: clear(tenant, index, schema, old) ++ set(tenant, index, schema, new),
      else: []
  end

  @impl true
  def drop_ranges(tenant, %Index{source: source, name: name}),
    do: [Keys.range(Keys.index(tenant, source, name))]

  @doc false
  # The entry that ecto_foundationdb wrote for a record whose primary key is not its first field: it took
  # the first field for the primary key.
  def mistaken_entry(tenant, index, source, [{_, first} | _] = data),
    do: entry(tenant, index, source, data, first)

  @doc false
  def mapped?(index), do: Index.option(index, :mapped?, true)

  @doc false
  # The stored fields in an entry's key; the primary key's value comes last anyway.
  def key_fields(%Index{fields: fields}, source) do
    for field <- fields, name = Source.stored(source, field), name != source.id, do: name
  end

  @doc false
  def entry(tenant, index, source, data, id) do
    values = values(source, key_fields(index, source), data)
    Keys.index_entry(tenant, index.source, index.name, values, id)
  end

  @doc false
  # The values of stored fields in a key.
  def values(source, names, data),
    do: for(name <- names, do: encode(Record.get(data, name), Source.type(source, name)))

  @doc false
  # The mapper of a mapped range: an entry's value is the record's key.
  def mapper(index, source) do
    if Source.versionstamps?(source) do
      count = length(key_fields(index, source))
      {"{K[0]}", "{K[1]}", "{K[2]}", "d", "{K[#{6 + count}]}", "{...}"}
    else
      {"{V[0]}", "{V[1]}", "{V[2]}", "{V[3]}", "{V[4]}", "{...}"}
    end
  end

  @doc false
  def prefix(tenant, %Index{source: source, name: name}, count, values),
    do: Native.pack(Keys.index_values(tenant, source, name, count, values))

  @plain [:id, :binary_id, :integer, :float, :boolean, :string, :binary]
  @dates [:date, :time, :time_usec, :naive_datetime, :naive_datetime_usec] ++
           [:utc_datetime, :utc_datetime_usec]

  @doc false
  # Whether the order of keys is the order of values.
  def ordered?(type), do: is_nil(type) or type in @plain or type in @dates

  @doc false
  # A field's value in a key.
  def encode(nil, _type), do: nil
  def encode(value, type) when type in @plain, do: value
  def encode(%Date{} = date, type) when type in [:date, nil], do: Date.to_iso8601(date, :basic)

  def encode(%Time{} = time, type) when type in [:time, :time_usec, nil],
    do: time |> Time.add(0, :microsecond) |> Time.to_iso8601(:basic)

  def encode(%NaiveDateTime{} = time, type)
      when type in [:naive_datetime, :naive_datetime_usec, nil],
      do: time |> NaiveDateTime.add(0, :microsecond) |> NaiveDateTime.to_iso8601(:basic)

  def encode(%DateTime{} = time, type) when type in [:utc_datetime, :utc_datetime_usec, nil],
    do: time |> DateTime.add(0, :microsecond) |> DateTime.to_iso8601(:basic)

  def encode(value, nil) when is_binary(value) or is_boolean(value) or is_number(value), do: value
  def encode(value, nil) when is_atom(value), do: Atom.to_string(value)
  def encode(value, _type), do: :erlang.term_to_binary(value)
end
