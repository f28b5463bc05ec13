defmodule EctoFoundationDB.Layer.Entries do
  @moduledoc false
  # From the entries of a default index to records. An entry counts if its record has these values.
  # Entries that ecto_foundationdb wrote end in the wrong id after an upsert; those count if the right
  # one is missing.

  alias EctoFoundationDB.{Index, Indexer, Native, Transaction}
  alias EctoFoundationDB.Layer.{Keys, Order, Query, Record, Source}

  @typedoc """
  An entry's key and value, and the rows of the record it leads to; no rows if the value is
  the record.
  """
  @type entry ::
          {binary(), binary(), [Record.row()]}
          | {binary(), binary() | EctoFoundationDB.Schema.data()}

  @doc "The operation that reads entries, with their records if FoundationDB can follow them."
  @spec operation(Query.t(), Index.t(), EctoFoundationDB.Layer.Plan.range(), map()) ::
          EctoFoundationDB.Native.op()
  def operation(query, index, {first, last}, options) do
    cond do
      not Indexer.Default.mapped?(index) ->
        Record.read(first, last, options)

      # With partitions, and without a schema, the keys of records are unknown.
      is_nil(query.source.partition_by) and query.source.fields != nil and
          Transaction.mapped_ranges?() ->
        mapper = {:pack, Indexer.Default.mapper(index, query.source)}
        {:get_mapped_range, first, last, mapper, Map.put(options, :records, true)}

      true ->
        {:get_range, first, last, options}
    end
  end

  @doc "Reads the records that entries lead to, if the answer to `operation/4` has none."
  @spec follow(Query.t(), Index.t(), [entry() | {binary(), binary()}]) :: [entry()]
  def follow(query, index, [{_entry, _value} | _] = entries) do
    if Indexer.Default.mapped?(index) do
      {first, last} = Keys.range(Keys.records(query.tenant, query.source.name))

      reads =
        for {entry, value} <- entries do
          key = record_key(query, entry, value)
          # A value that is not the key of a record leads nowhere.
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
  defp record_key(%{tenant: tenant, source: source}, entry, value) do
    case last_element(entry) do
      {:versionstamp, _, _, _} = id ->
        id = if source.partition_by, do: {partition(value), id}, else: id
        Native.pack(Keys.record(tenant, source.name, id))

      _other ->
        value
    end
  end

  # ecto_foundationdb left the place of the versionstamp at the value's end.
  defp partition(value) do
    elem(Native.unpack(value), 4)
  rescue
    _error -> elem(Native.unpack(binary_part(value, 0, byte_size(value) - 4)), 4)
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

    # Entries with a wrong last element count if there is no right one.
    questions = for {{:unless, right}, _} <- judged, do: {:get, right, false}
    answers = if questions == [], do: [], else: Transaction.read(questions)
    right = Map.new(Enum.zip(for({:get, key, _} <- questions, do: key), answers))

    for {verdict, record} <- judged,
        verdict == :right or (is_tuple(verdict) and is_nil(right[elem(verdict, 1)])),
        do: record
  end

  @doc """
  How many entries count, without reading their records: those whose key ends in the id of their value. The
  others are returned.
  """
  @spec count([{binary(), binary()}]) :: {non_neg_integer(), [{binary(), binary()}]}
  def count(entries) do
    {right, others} =
      Enum.split_with(entries, fn {entry, value} ->
        String.ends_with?(entry, Native.pack({last_element(value)}))
      end)

    {length(right), others}
  end

  @doc "The keys of the entries that match no record. All right entries must exist."
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
    case entry |> own(value, rows) |> Record.decode_some(query.source, false) do
      {[], []} ->
        []

      {[record], []} ->
        [{entry, record}]

      {[], _cut} ->
        # The servers read only a limited amount per entry.
        key = record_key(query, entry, value)
        [rows] = Transaction.read([Record.read(key, key <> <<0xFF>>)])
        for record <- Record.decode(rows, query.source), do: {entry, record}
    end
  end

  # An entry that holds the record itself.
  defp record(%{source: source} = query, {entry, value}) do
    data = Record.data(entry, value, source)
    id = if source.partition_by, do: Record.id(data, source), else: last_element(entry)
    key = Native.pack(Keys.append(Keys.records(query.tenant, source.name), Keys.id_elements(id)))
    [{entry, %Record{key: key, data: data}}]
  end

  # The servers follow an entry to all keys that begin with the record's, also to those of another record
  # whose id continues with a zero byte. (All versionstamps have the same length.)
  defp own(_entry, key, [{key, _}] = rows), do: rows

  defp own(entry, key, rows) do
    if match?({:versionstamp, _, _, _}, last_element(entry)) do
      rows
    else
      last = key <> <<0xFF>>
      Enum.filter(rows, fn {other, _value} -> other >= key and other < last end)
    end
  end

  # A function that decides by an entry's key and its record's fields: `:right`, `:stale`, or
  # `{:unless, key}`, right unless that entry exists. The common part of all records is computed once.
  defp judge(%Query{tenant: tenant, source: source} = query, index) do
    names = Indexer.Default.key_fields(index, source)
    types = for name <- names, do: Source.type(source, name)
    index_prefix = Indexer.Default.prefix(tenant, index, length(names), [])
    ordered? = Enum.all?(types, &Indexer.Default.ordered?/1)

    fn entry, data ->
      values = Indexer.Default.values(source, names, data)
      id = Keys.encode_id(Record.get(data, source.id))
      right = index_prefix <> Native.pack(values ++ [id])

      cond do
        entry == right ->
          :right

        ordered? ->
          if starts_with?(entry, index_prefix <> Native.pack(values)),
            do: {:unless, right},
            else: :stale

        true ->
          # Keys of such types depend on the release that wrote them: the values decide whether they are outdated.
          cond do
            not Order.matches?(data, query.where) -> :stale
            String.ends_with?(entry, Native.pack({id})) -> :right
            true -> {:unless, right}
          end
      end
    end
  end

  # 0xFF after a string's end means that the string continues.
  defp starts_with?(entry, prefix) do
    size = byte_size(prefix)

    case entry do
      <<^prefix::binary-size(size), 0xFF, _::binary>> -> false
      <<^prefix::binary-size(size), _::binary>> -> true
      _ -> false
    end
  end
end
