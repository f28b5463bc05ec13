defmodule EctoFoundationDB.Layer.Reader do
  @moduledoc false
  # Reads the data that answer a query.

  alias EctoFoundationDB.{Future, Index, Indexer, Native, Transaction}
  alias EctoFoundationDB.Exception.Unsupported

  alias EctoFoundationDB.Layer.{
    Dependencies,
    Entries,
    Keys,
    Metadata,
    Order,
    Plan,
    Query,
    Record,
    Source
  }

  @doc """
  Starts a query in the current transaction: returns a future of its records. Of several queries, all of one source
  with the same order and limit, it is a future of the records of all, each once; they are in flight together.
  """
  @spec start(Query.t() | [Query.t(), ...]) :: Future.t()
  def start([%Query{} = query]), do: start(query)

  def start([%Query{order_by: order, limit: limit} | _] = queries) do
    futures = Enum.map(queries, &start/1)

    Future.read(fn ->
      futures
      |> Enum.flat_map(&Future.result/1)
      |> Enum.uniq_by(& &1.key)
      |> Order.sort_records(order)
      |> take(limit)
    end)
  end

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

  # Starts the reads that `plan` returns with its plan. Returns a function that returns the plan and the answers.
  defp planned(query, plan) do
    collect = collect_planned(query, plan)

    fn ->
      {plan, _answers} = result = collect.()
      Dependencies.record(query, plan)
      result
    end
  end

  defp collect_planned(query, plan) do
    if Plan.needs_metadata?(query) or Dependencies.needs_metadata?(query) do
      reads = Metadata.start(query.tenant, query.source.name, plan)
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

  @doc "Whether a get or a range answers a query."
  @spec answers?(Query.t()) :: boolean()
  def answers?(query) do
    Plan.new(query, Metadata.load(query.tenant, query.source.name))
    true
  rescue
    Unsupported -> false
  end

  @doc "Runs a query in the current transaction."
  @spec run(Query.t()) :: [Record.t()]
  def run(query), do: query |> start() |> Future.result()

  @doc "Starts to count the records of a query in the current transaction; with an index, only entries are read."
  @spec start_count(Query.t()) :: Future.t()
  def start_count(%Query{filter: nil, limit: nil, key_limit: nil} = query) do
    query = %{query | order_by: []}

    collect =
      planned(query, fn metadata ->
        case Plan.new(query, metadata) do
          {:index, index, {first, last}, _, _} = plan ->
            if countable?(query, index),
              do: {{:count, plan}, [{:get_range, first, last, %{}}]},
              else: {plan, first_reads(query, plan)}

          {:records, {first, last}, _, _} = plan ->
            {{:count, plan}, [{:get_range, first, last, %{}}]}

          plan ->
            {plan, first_reads(query, plan)}
        end
      end)

    Future.read(fn ->
      case collect.() do
        {{:count, {:index, index, _, _, _}}, [entries]} ->
          {count, doubtful} = Entries.count(entries)
          count + length(Entries.records(query, index, Entries.follow(query, index, doubtful)))

        {{:count, {:records, _, _, _}}, [rows]} ->
          Enum.count(rows, fn {key, _value} -> not Record.part?(key) end)

        {plan, answers} ->
          length(finish(query, plan, answers))
      end
    end)
  end

  def start_count(query), do: Future.apply(start(query), &length/1)

  # The commit completes versionstamps in keys only, so such values don't tell what their entries end in.
  defp countable?(query, index) do
    Indexer.Default.mapped?(index) and query.source.fields != nil and
      not Source.versionstamps?(query.source) and not Plan.one?(query, index)
  end

  defp first_reads(_query, {:nothing}), do: []

  defp first_reads(query, {:get, id, _filter}) do
    {first, last} = Keys.record_range(query.tenant, query.source.name, id)
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
        {_records, keys} -> keys
      end

    %{limit: limit, reverse: reverse?}
  end

  defp finish(_query, {:nothing}, []), do: []

  defp finish(query, {:get, _id, filter}, [rows]) do
    rows
    |> Record.decode(query.source)
    |> Enum.filter(&(Order.matches?(&1.data, filter) and passes?(&1, query.filter)))
  end

  defp finish(query, {:records, range, reverse?, sort}, [rows]) do
    query
    |> complete_records(range, reverse?, rows, options(query, reverse?).limit, [])
    |> Order.sort_records(sort)
    |> take(query.limit)
  end

  defp finish(query, {:index, index, range, reverse?, sort}, [rows]) do
    records =
      complete_entries(query, index, range, reverse?, Entries.follow(query, index, rows), 0)

    records =
      if Plan.one?(query, index),
        do:
          Enum.filter(
            records,
            &(Order.matches?(&1.data, query.where) and passes?(&1, query.filter))
          ),
        else: records

    records
    |> Order.sort_records(sort)
    |> take(query.limit)
  end

  defp passes?(_record, nil), do: true
  defp passes?(%Record{data: data}, {_description, fun}), do: fun.(data)

  defp take(records, nil), do: records
  defp take(records, limit), do: Enum.take(records, limit)

  # A row limit can cut a large record in two, and large records take several rows.
  defp complete_records(query, range, reverse?, rows, requested, found) do
    last? = requested == 0 or length(rows) < requested
    rows = if reverse?, do: rows |> Enum.reverse() |> drop_parts(not last?), else: rows
    {records, _cut} = Record.decode_some(rows, query.source, last?)
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

  # In reverse, a record's parts come before its own key; without that key they are dropped.
  defp drop_parts(rows, false), do: rows
  defp drop_parts(rows, true), do: Enum.drop_while(rows, fn {key, _} -> Record.part?(key) end)

  # Entries whose records are gone, or have other values, are not results: more may have to be read.
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
  Where the next page begins: in a range of records, or of an index. `given` describes what pages returned by
  indexes that have been dropped since: the records whose entry came before this key.
  """
  @type position ::
          {:records, Plan.range()}
          | {Index.t(), Plan.range(), given :: [{Index.t(), binary()}]}

  @doc """
  A page of a query without ordering, from its beginning or from a position: `{records, position}`, with the
  position of the next page, or `nil`. Each page may be read in a separate transaction.
  """
  @spec page(Query.t(), position() | nil, pos_integer()) :: {[Record.t()], position() | nil}
  def page(%Query{limit: 0}, _position, _rows), do: {[], nil}

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
        {records, rest} = page_of_records(query.source, range, rows)
        {records, rest && {:records, rest}}

      {{index, range, given}, [answer]} ->
        entries = Entries.follow(query, index, answer)
        records = Entries.records(query, index, entries)
        rest = rest_of_entries(entries, range, rows)
        {Enum.reject(records, &given?(&1, query, given)), rest && {index, rest, given}}
    end
  end

  defp go_on(_query, _metadata, {:records, _range} = position), do: position

  # The stream continues on its index while that exists, even if the query would be planned differently now.
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
    id = Record.get(data, query.source.id)

    Enum.any?(given, fn {index, first} ->
      Native.pack(Indexer.Default.entry(query.tenant, index, query.source, data, id)) < first
    end)
  end

  @doc "The stored fields of the index that a query uses; none if it reads records directly."
  @spec index_fields(Query.t()) :: [atom()]
  def index_fields(query) do
    case planned(query, &{Plan.new(query, &1), []}).() do
      {{:index, index, _, _, _}, []} -> Indexer.Default.key_fields(index, query.source)
      {_plan, []} -> []
    end
  end

  @doc "A page of a range of records, in the form of `page/3`."
  @spec page_of_records(Source.t(), Plan.range(), pos_integer()) ::
          {[Record.t()], Plan.range() | nil}
  def page_of_records(source, {first, last}, rows) do
    [answer] = Transaction.read([Record.read(first, last, %{limit: rows})])
    full? = length(answer) >= rows
    {records, left} = Record.decode_some(answer, source, not full?)

    cond do
      not full? -> {records, nil}
      # One record takes more rows than a page.
      records == [] -> page_of_records(source, {first, last}, rows * 2)
      # If the record is updated, its parts have different names by the time of the next page.
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

  @doc "The records that the entries of a range point to with their values; each once."
  @spec by_entries(Query.t(), Plan.range(), map()) :: [Record.t()]
  def by_entries(query, {first, last}, options) do
    Dependencies.record(query, :entries)
    [entries] = Transaction.read([{:get_range, first, last, options}])
    keys = entries |> Enum.map(&elem(&1, 1)) |> Enum.uniq()

    case for key <- keys, do: Record.read(key, key <> <<0xFF>>) do
      [] -> []
      reads -> reads |> Transaction.read() |> Enum.flat_map(&Record.decode(&1, query.source))
    end
  end
end
