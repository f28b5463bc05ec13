defmodule EctoFoundationDB.Layer.Entries do
  @moduledoc false
  # From the entries of a default index to records. An entry counts if its record has these values:
  # entries that ecto_foundationdb wrote end in the wrong id after an upsert, and those count where
  # the right one is missing.

  alias EctoFoundationDB.{Index, Indexer, Native, Schema, Transaction, Versionstamp}
  alias EctoFoundationDB.Layer.{Keys, Order, Query, Record}

  @typedoc """
  An entry's key and value, and the rows of the record it leads to; without those where the value is
  the record.
  """
  @type entry ::
          {binary(), binary(), [Record.row()]} | {binary(), binary() | Schema.data()}

  @doc "The operation that reads entries, with the records where FoundationDB follows them."
  @spec operation(Query.t(), Index.t(), EctoFoundationDB.Layer.Plan.range(), map()) ::
          EctoFoundationDB.Native.op()
  def operation(query, index, {first, last}, options) do
    cond do
      not Indexer.Default.mapped?(index) ->
        Record.read(first, last, options)

      Transaction.mapped_ranges?() ->
        mapper = {:pack, Indexer.Default.mapper(index, query.schema)}
        {:get_mapped_range, first, last, mapper, Map.put(options, :records, true)}

      true ->
        {:get_range, first, last, options}
    end
  end

  @doc "Reads the records that entries lead to, where the answer to `operation/4` has none."
  @spec follow(Query.t(), Index.t(), [entry() | {binary(), binary()}]) :: [entry()]
  def follow(query, index, [{_entry, _value} | _] = entries) do
    if Indexer.Default.mapped?(index) do
      {first, last} = Keys.range(Keys.records(query.tenant, query.source))

      reads =
        for {entry, value} <- entries do
          key = record_key(query, entry, value)
          # What is no key of a record leads nowhere.
          key = if key > first and key < last, do: key, else: first
          Record.read(key, key <> <<0xFF>>)
        end

      for {{entry, value}, rows} <- Enum.zip(entries, Transaction.read(reads)),
          do: {entry, value, rows}
    else
      entries
    end
  end

  def follow(_query, _index, entries), do: entries

  # An entry's value is the record's key, but the commit completes versionstamps in keys only.
  defp record_key(query, entry, value) do
    if versionstamps?(query),
      do: Native.pack(Keys.record(query.tenant, query.source, last_element(entry))),
      else: value
  end

  defp last_element(key) do
    tuple = Native.unpack(key)
    elem(tuple, tuple_size(tuple) - 1)
  end

  @doc "The records of the entries that count."
  @spec records(Query.t(), Index.t(), [entry()]) :: [Record.t()]
  def records(query, index, entries) do
    judge = judge(query, index)

    judged =
      for entry <- entries, {key, record} <- record(query, entry) do
        {judge.(key, record.data), record}
      end

    # Entries with a wrong last element count where there is no right one.
    questions = for {{:unless, right}, _} <- judged, do: {:get, right, false}
    answers = if questions == [], do: [], else: Transaction.read(questions)
    right = Map.new(Enum.zip(for({:get, key, _} <- questions, do: key), answers))

    for {verdict, record} <- judged,
        verdict == :right or (is_tuple(verdict) and is_nil(right[elem(verdict, 1)])),
        do: record
  end

  @doc "The keys of the entries that no record has so. Right entries must all be there."
  @spec wrong(Query.t(), Index.t(), [entry()]) :: [binary()]
  def wrong(query, index, entries) do
    judge = judge(query, index)

    for entry <- entries,
        not Enum.any?(record(query, entry), fn {key, record} ->
          judge.(key, record.data) == :right
        end),
        do: elem(entry, 0)
  end

  defp record(_query, {_entry, _value, []}), do: []

  defp record(query, {entry, value, rows}) do
    case query |> own(value, rows) |> Record.decode_some(query.schema, false) do
      {[], []} ->
        []

      {[record], []} ->
        [{entry, record}]

      {[], _cut} ->
        # The servers read only so much for one entry.
        key = record_key(query, entry, value)
        [rows] = Transaction.read([Record.read(key, key <> <<0xFF>>)])
        for record <- Record.decode(rows, query.schema), do: {entry, record}
    end
  end

  # An entry that holds the record itself.
  defp record(query, {entry, value}) do
    records = Keys.records(query.tenant, query.source)
    key = Native.pack(Keys.append(records, [last_element(entry)]))
    [{entry, %Record{key: key, data: Record.data(entry, value, query.schema)}}]
  end

  # The servers follow an entry to all keys that begin with the record's: also to those of another one whose
  # id goes on with a zero byte. (Versionstamps are all of one length.)
  defp own(_query, key, [{key, _}] = rows), do: rows

  defp own(query, key, rows) do
    if versionstamps?(query) do
      rows
    else
      last = key <> <<0xFF>>
      Enum.filter(rows, fn {other, _value} -> other >= key and other < last end)
    end
  end

  defp versionstamps?(%Query{schema: schema}),
    do: Schema.type(schema, Schema.primary_key(schema)) == Versionstamp

  # A function that says of an entry's key and its record's fields: `:right`, `:stale`, or
  # `{:unless, key}`, right unless there is that entry. What all records have in common is done once.
  defp judge(%Query{tenant: tenant, schema: schema} = query, index) do
    names = Indexer.Default.key_fields(index, schema)
    fields = for name <- names, do: {source(schema, name), Schema.type(schema, name)}
    id_name = Schema.field_source(schema, Schema.primary_key(schema))
    index_prefix = Indexer.Default.prefix(tenant, index, length(names), [])
    ordered? = Enum.all?(fields, fn {_, type} -> Indexer.Default.ordered?(type) end)

    fn entry, data ->
      values =
        for {name, type} <- fields, do: Indexer.Default.encode(Record.get(data, name), type)

      id = Keys.encode_id(Record.get(data, id_name))
      right = index_prefix <> Native.pack(values ++ [id])

      cond do
        entry == right ->
          :right

        ordered? ->
          if starts_with?(entry, index_prefix <> Native.pack(values)),
            do: {:unless, right},
            else: :stale

        true ->
          # Keys of such types depend on the release that wrote them: the values tell what is out of date.
          cond do
            not Order.matches?(data, schema, query.where) -> :stale
            String.ends_with?(entry, Native.pack({id})) -> :right
            true -> {:unless, right}
          end
      end
    end
  end

  # A field that only a newer version of the application knows has a string for a name.
  defp source(_schema, name) when is_binary(name), do: name
  defp source(schema, name), do: Schema.field_source(schema, name)

  # 0xFF after a string's end means that the string goes on.
  defp starts_with?(entry, prefix) do
    size = byte_size(prefix)

    case entry do
      <<^prefix::binary-size(size), 0xFF, _::binary>> -> false
      <<^prefix::binary-size(size), _::binary>> -> true
      _ -> false
    end
  end
end
