defmodule EctoFoundationDB.Layer.Reader do
  @moduledoc false
  # What a transaction reads to answer a query.

  alias EctoFoundationDB.{Future, Index, Indexer, Native, Schema, Transaction}
  alias EctoFoundationDB.Layer.{Entries, Keys, Metadata, Order, Plan, Query, Record, Values}

  @doc "Starts a query in the current transaction: a future of its records."
  @spec start(Query.t()) :: Future.t()
  def start(%Query{} = query) do
    collect =
      planned(query, fn metadata ->
        plan = Plan.new(query, metadata)
        {plan, first_reads(query, plan)}
      end)

    Future.read(fn ->
      {plan, answers} = collect.()
      finish(query, plan, answers)
    end)
  end

  # Starts the reads of a plan, which `plan` gives with it; a function that gives the plan and the answers.
  defp planned(query, plan) do
    if Plan.needs_metadata?(query) do
      reads = Metadata.start(query.tenant, query.source, plan)
      fn -> Metadata.collect(reads) end
    else
      case plan.(nil) do
        {plan, []} ->
          fn -> {plan, []} end

        {plan, reads} ->
          reads = Transaction.read_async(reads)
          fn -> {plan, Transaction.collect(reads)} end
      end
    end
  end

  @doc "Runs a query in the current transaction."
  @spec run(Query.t()) :: [Record.t()]
  def run(query), do: query |> start() |> Future.result()

  @doc "What a query gives of its records: their structs, or what it selects of those."
  @spec load([Record.t()], Query.t()) :: [term()]
  def load(records, %Query{} = query) do
    loader = Values.loader(query.schema, query.tenant)
    Query.select(query, Enum.map(records, &Values.load(loader, &1.data)))
  end

  defp first_reads(_query, {:nothing}), do: []

  defp first_reads(query, {:get, id, _filter}) do
    {first, last} = Keys.record_range(query.tenant, query.source, id)
    [Record.read(first, last)]
  end

  defp first_reads(query, {:records, {first, last}, reverse?, _sort}),
    do: [Record.read(first, last, options(query, reverse?))]

  defp first_reads(query, {:index, index, range, reverse?, _sort}),
    do: [Entries.operation(query, index, range, options(query, reverse?))]

  defp options(query, reverse?) do
    limit =
      case {query.limit, query.key_limit} do
        {nil, nil} -> 0
        {nil, keys} -> keys
        {records, nil} -> records
        {records, keys} -> min(records, keys)
      end

    %{limit: limit, reverse: reverse?}
  end

  defp finish(_query, {:nothing}, []), do: []

  defp finish(query, {:get, _id, filter}, [rows]) do
    rows
    |> Record.decode(query.schema)
    |> Enum.filter(&Order.matches?(&1.data, query.schema, filter))
  end

  defp finish(query, {:records, range, reverse?, sort}, [rows]) do
    query
    |> complete_records(range, reverse?, rows, options(query, reverse?).limit, [])
    |> Order.sort_records(query.schema, sort)
    |> take(query.limit)
  end

  defp finish(query, {:index, index, range, reverse?, sort}, [rows]) do
    query
    |> complete_entries(index, range, reverse?, Entries.follow(query, index, rows), 0)
    |> Order.sort_records(query.schema, sort)
    |> take(query.limit)
  end

  defp take(records, nil), do: records
  defp take(records, limit), do: Enum.take(records, limit)

  # A limit on rows may cut a large record in two, and large records take several rows.
  defp complete_records(query, range, reverse?, rows, requested, found) do
    last? = requested == 0 or length(rows) < requested
    rows = if reverse?, do: rows |> Enum.reverse() |> drop_parts(not last?), else: rows
    {records, _cut} = Record.decode_some(rows, query.schema, last?)
    records = if reverse?, do: Enum.reverse(records), else: records
    found = found ++ records

    if last? or query.key_limit != nil or length(found) >= query.limit do
      found
    else
      {first, last} = rest = rest(range, reverse?, List.last(records))
      more = if records == [], do: requested * 2 + 10, else: query.limit - length(found)
      options = %{limit: more, reverse: reverse?}
      [rows] = Transaction.read([Record.read(first, last, options)])
      complete_records(query, rest, reverse?, rows, more, found)
    end
  end

  defp rest(range, _reverse?, nil), do: range
  defp rest({_first, last}, false, record), do: {record.key <> <<0xFF>>, last}
  defp rest({first, _last}, true, record), do: {first, record.key}

  # Read backwards, a record's parts come before its own key; without that they are cut off.
  defp drop_parts(rows, false), do: rows
  defp drop_parts(rows, true), do: Enum.drop_while(rows, fn {key, _} -> Record.part?(key) end)

  # Entries whose records are gone, or carry other values, are no results: more may have to be read.
  defp complete_entries(query, index, {first, last}, reverse?, entries, found) do
    options = options(query, reverse?)
    records = Entries.records(query, index, entries)
    found = found + length(records)
    full? = options.limit > 0 and length(entries) >= options.limit

    if full? and is_nil(query.key_limit) and found < query.limit do
      entry = entries |> List.last() |> elem(0)
      rest = if reverse?, do: {first, entry}, else: {entry <> <<0>>, last}
      more = read_entries(query, index, rest, options)
      records ++ complete_entries(query, index, rest, reverse?, more, found)
    else
      records
    end
  end

  defp read_entries(query, index, range, options) do
    [entries] = Transaction.read([Entries.operation(query, index, range, options)])
    Entries.follow(query, index, entries)
  end

  @typedoc """
  Where the next page begins: in a range of records, or of an index. `given` says what pages gave by
  indexes that have been dropped since: the records whose entry came before this key.
  """
  @type position ::
          {:records, Plan.range()}
          | {Index.t(), Plan.range(), given :: [{Index.t(), binary()}]}

  @doc """
  A page of a query without ordering, from its beginning or from a position: `{records, position}`, where
  that is of the next page, or `nil`. Each page may be read in a transaction of its own.
  """
  @spec page(Query.t(), position() | nil, pos_integer()) :: {[Record.t()], position() | nil}
  def page(query, position, rows) do
    query = %{query | limit: nil, key_limit: rows, order_by: []}

    collect =
      planned(query, fn metadata ->
        case go_on(query, metadata, position) do
          {%Index{} = index, range, _} = plan ->
            {plan, [Entries.operation(query, index, range, %{limit: rows})]}

          plan ->
            {plan, []}
        end
      end)

    case collect.() do
      {{:nothing}, []} ->
        {[], nil}

      {{:get, _, _}, []} ->
        {run(%{query | key_limit: nil}), nil}

      {{:records, range}, []} ->
        {records, rest} = page_of_records(query.schema, range, rows)
        {records, rest && {:records, rest}}

      {{index, range, given}, [answer]} ->
        entries = Entries.follow(query, index, answer)
        records = Entries.records(query, index, entries)
        rest = rest_of_entries(entries, range, rows)
        {Enum.reject(records, &given?(&1, query, given)), rest && {index, rest, given}}
    end
  end

  defp go_on(_query, _metadata, {:records, _range} = position), do: position

  # An index that is there still is gone on with, also where the query would be planned otherwise now.
  defp go_on(query, metadata, {index, {first, _last}, given} = position) do
    if index in metadata.indexes,
      do: position,
      else: query |> Plan.new(metadata) |> beginning([{index, first} | given])
  end

  defp go_on(query, metadata, nil), do: query |> Plan.new(metadata) |> beginning([])

  defp beginning({:records, range, _, _}, _given), do: {:records, range}
  defp beginning({:index, index, range, _, _}, given), do: {index, range, given}
  defp beginning(plan, _given), do: plan

  defp given?(%Record{data: data}, query, given) do
    id = Record.get(data, Schema.field_source(query.schema, Schema.primary_key(query.schema)))

    Enum.any?(given, fn {index, first} ->
      Native.pack(Indexer.Default.entry(query.tenant, index, query.schema, data, id)) < first
    end)
  end

  @doc "The fields of the index that a query goes through; none where it goes through records."
  @spec index_fields(Query.t()) :: [atom()]
  def index_fields(query) do
    case planned(query, &{Plan.new(query, &1), []}).() do
      {{:index, index, _, _, _}, []} -> index.fields
      {_plan, []} -> []
    end
  end

  @doc "A page of a range of records, as `page/3` gives it."
  @spec page_of_records(Schema.t(), Plan.range(), pos_integer()) ::
          {[Record.t()], Plan.range() | nil}
  def page_of_records(schema, {first, last}, rows) do
    [answer] = Transaction.read([Record.read(first, last, %{limit: rows})])
    full? = length(answer) >= rows
    {records, left} = Record.decode_some(answer, schema, not full?)

    cond do
      not full? -> {records, nil}
      # One record takes more rows than a page.
      records == [] -> page_of_records(schema, {first, last}, rows * 2)
      # Its parts have other names by the time of the next page, if it is updated.
      left == [] -> {records, {List.last(records).key <> <<0xFF>>, last}}
      true -> {records, {left |> hd() |> elem(0), last}}
    end
  end

  @doc "A page of an index's entries with their records, and the rest of the range, or `nil`."
  @spec page_of_entries(Query.t(), EctoFoundationDB.Index.t(), Plan.range(), pos_integer()) ::
          {[Entries.entry()], Plan.range() | nil}
  def page_of_entries(query, index, range, rows) do
    entries = read_entries(query, index, range, %{limit: rows})
    {entries, rest_of_entries(entries, range, rows)}
  end

  defp rest_of_entries(entries, {_first, last}, rows) do
    if length(entries) >= rows, do: {(entries |> List.last() |> elem(0)) <> <<0>>, last}
  end

  @doc "The records that the entries of a range point to, by their values; each once."
  @spec by_entries(Query.t(), Plan.range(), map()) :: [Record.t()]
  def by_entries(query, {first, last}, options) do
    [entries] = Transaction.read([{:get_range, first, last, options}])
    keys = entries |> Enum.map(&elem(&1, 1)) |> Enum.uniq()

    case for key <- keys, do: Record.read(key, key <> <<0xFF>>) do
      [] -> []
      reads -> reads |> Transaction.read() |> Enum.flat_map(&Record.decode(&1, query.schema))
    end
  end
end
