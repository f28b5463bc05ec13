defmodule EctoFoundationDB.Layer.Query do
  @moduledoc false
  # A query is answered by one get or one range, of records or of an index; what needs more is
  # refused. `plan/2` is pure; the rest runs it.

  alias EctoFoundationDB.{Future, Index, Indexer, Native, Schema, Tenant, Transaction}
  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.{Keys, Metadata, Record}

  @enforce_keys [:tenant, :schema, :source]
  defstruct [:tenant, :schema, :source, :limit, :key_limit, where: [], order_by: []]

  @typedoc "`{value, inclusive?}`, or `nil` for no bound."
  @type bound :: {term(), boolean()} | nil
  @type constraint :: {:eq, term()} | {:range, bound(), bound()}
  @type t :: %__MODULE__{
          tenant: Tenant.t(),
          schema: module(),
          source: String.t(),
          where: [{atom(), constraint()}],
          order_by: [{:asc | :desc, atom()}],
          limit: nil | pos_integer(),
          key_limit: nil | pos_integer()
        }

  ## Building

  @doc "A query of a schema with the options `:where`, `:order_by`, `:limit` and `:key_limit`."
  @spec new(Tenant.t(), module(), keyword()) :: t()
  def new(tenant, schema, opts) do
    query = %__MODULE__{
      tenant: tenant,
      schema: schema,
      source: Schema.source(schema),
      where: where(schema, Keyword.get(opts, :where, [])),
      order_by: order_by(schema, Keyword.get(opts, :order_by, [])),
      limit: limit(:limit, opts[:limit]),
      key_limit: limit(:key_limit, opts[:key_limit])
    }

    case for {field, {:range, _, _}} <- query.where, do: field do
      [_, _ | _] = fields ->
        raise Unsupported,
              "ranges on #{inspect(fields)}: a query can have one range. Read with one of them, " <>
                "and filter by the others"

      _ ->
        query
    end
  end

  defp limit(_name, nil), do: nil
  defp limit(_name, limit) when is_integer(limit) and limit > 0, do: limit

  defp limit(name, other),
    do: raise(ArgumentError, "#{name}: expected a positive integer, got: #{inspect(other)}")

  defp where(schema, where) when is_list(where) or is_map(where) do
    where
    |> Enum.map(fn
      {field, value} when is_atom(field) ->
        {known!(schema, field), constraint(schema, field, value)}

      other ->
        raise ArgumentError, "where: expected {field, value} pairs, got: #{inspect(other)}"
    end)
    |> Enum.reduce([], fn {field, constraint}, acc ->
      case acc[field] do
        nil -> acc ++ [{field, constraint}]
        {:range, _, _} = one -> Keyword.put(acc, field, intersect(field, one, constraint))
        _ -> conflicting!(field)
      end
    end)
  end

  defp where(_schema, other) do
    raise ArgumentError, "where: expected a keyword list or map, got: #{inspect(other)}"
  end

  defp intersect(_field, {:range, low, nil}, {:range, nil, high}), do: {:range, low, high}
  defp intersect(_field, {:range, nil, high}, {:range, low, nil}), do: {:range, low, high}
  defp intersect(field, _, _), do: conflicting!(field)

  defp conflicting!(field),
    do: raise(Unsupported, "where: #{inspect(field)} is given more than once")

  @operators [:>, :>=, :<, :<=]

  defp constraint(schema, field, value) do
    case value do
      {:==, value} ->
        {:eq, dump(schema, field, value)}

      {:between, low, high} ->
        range(schema, field, {low, true}, {high, true})

      {operator, value} when operator in @operators ->
        one_sided(schema, field, operator, value)

      [{one, a}, {other, b}] when one in @operators and other in @operators ->
        intersect(field, one_sided(schema, field, one, a), one_sided(schema, field, other, b))

      [{operator, value}] when operator in @operators ->
        one_sided(schema, field, operator, value)

      %Range{step: 1} = range ->
        range(schema, field, {range.first, true}, {range.last, true})

      value ->
        {:eq, dump(schema, field, value)}
    end
  end

  defp one_sided(schema, field, :>, value), do: range(schema, field, {value, false}, nil)
  defp one_sided(schema, field, :>=, value), do: range(schema, field, {value, true}, nil)
  defp one_sided(schema, field, :<, value), do: range(schema, field, nil, {value, false})
  defp one_sided(schema, field, :<=, value), do: range(schema, field, nil, {value, true})

  defp range(schema, field, low, high) do
    type = Schema.type(schema, field)

    unless Indexer.Default.ordered?(type) or type == EctoFoundationDB.Versionstamp do
      raise Unsupported,
            "a range on #{inspect(field)} of type #{inspect(type)}: the keys of this type are not " <>
              "in the order of its values. Compare with equality, or index another field"
    end

    {:range, bound(schema, field, low), bound(schema, field, high)}
  end

  defp bound(_schema, _field, nil), do: nil

  defp bound(_schema, field, {nil, _}) do
    raise ArgumentError, "where: #{inspect(field)} is compared with nil; leave that bound out"
  end

  defp bound(schema, field, {value, inclusive?}), do: {dump(schema, field, value), inclusive?}

  defp dump(schema, field, value), do: Schema.query_value(schema, :where, field, value)

  defp order_by(schema, order_by) do
    order_by
    |> List.wrap()
    |> Enum.map(fn
      {direction, field} when direction in [:asc, :desc] and is_atom(field) ->
        {direction, known!(schema, field)}

      field when is_atom(field) ->
        {:asc, known!(schema, field)}

      other ->
        raise ArgumentError,
              "order_by: expected fields, or `asc: field` and `desc: field`, got: #{inspect(other)}"
    end)
  end

  defp known!(schema, field) do
    if field in Schema.fields(schema) do
      field
    else
      raise ArgumentError,
            "#{inspect(schema)} has no field #{inspect(field)}; it has #{inspect(Schema.fields(schema))}"
    end
  end

  ## Planning

  @doc """
  How to answer a query: `{:get, id, filter}`, `{:records, range, reverse?, sort}`, or
  `{:index, index, range, reverse?, sort}`. `sort` is what is left to sort by afterwards.
  """
  def plan(%__MODULE__{} = query, metadata) do
    id = Schema.primary_key(query.schema)

    case Keyword.split(query.where, [id]) do
      {[{_, {:eq, nil}}], _} -> {:nothing}
      {[{_, {:eq, value}}], rest} -> {:get, value, rest}
      {_, []} -> plan_records(query, id, metadata)
      {_, _} -> plan_index(query, id, metadata)
    end
  end

  # Whether a plan needs to know the tenant's indexes.
  defp needs_metadata?(%__MODULE__{} = query) do
    id = Schema.primary_key(query.schema)

    case Keyword.split(query.where, [id]) do
      {[{_, {:eq, _}}], _} -> false
      {_, []} -> limited?(query) and not sorted?(query.order_by, [id])
      {_, _} -> true
    end
  end

  defp plan_records(query, id, metadata) do
    cond do
      sorted?(query.order_by, [id]) ->
        {:records, records_range(query, id), reverse?(query.order_by), []}

      not limited?(query) ->
        {:records, records_range(query, id), false, query.order_by}

      query.where == [] ->
        plan_index(query, id, metadata)

      true ->
        refuse(query, [id | fields(query.order_by)])
    end
  end

  defp records_range(query, id) do
    records = Keys.records(query.tenant, query.source)

    case query.where[id] do
      nil -> Keys.range(records)
      {:range, low, high} -> bounds(records, low, high, &Keys.encode_id/1)
    end
  end

  defp plan_index(query, id, metadata) do
    candidates =
      for %Index{} = index <- metadata.indexes,
          Indexer.default?(index),
          plan = index_plan(query, id, index),
          do: {length(index.fields), plan}

    case Enum.sort_by(candidates, &elem(&1, 0)) do
      [{_, plan} | _] -> plan
      [] -> refuse(query, suggestion(query))
    end
  end

  # The entries of an index are in the order of its fields, then of the primary key.
  defp index_plan(query, id, index) do
    key_fields = Indexer.Default.key_fields(index, query.schema)
    fields = key_fields ++ [id]
    equal = for {field, {:eq, _}} <- query.where, do: field
    ranged = for {field, {:range, _, _}} <- query.where, do: field
    {first, rest} = Enum.split(fields, length(equal))

    covered? =
      Enum.sort(first) == Enum.sort(equal) and (ranged == [] or ranged == Enum.take(rest, 1))

    order = Enum.reject(query.order_by, fn {_, field} -> field in equal end)

    cond do
      not covered? ->
        nil

      sorted?(order, rest) ->
        {:index, index, index_range(query, index, first, rest, key_fields, id), reverse?(order),
         []}

      limited?(query) ->
        nil

      true ->
        {:index, index, index_range(query, index, first, rest, key_fields, id), false,
         query.order_by}
    end
  end

  defp index_range(query, index, first, rest, key_fields, id) do
    values =
      for field <- first do
        {:eq, value} = query.where[field]
        encode(query.schema, field, id, value)
      end

    base = Keys.index_values(query.tenant, query.source, index.name, length(key_fields), values)

    case Enum.find(query.where, &match?({_, {:range, _, _}}, &1)) do
      nil -> Keys.range(base)
      {_, {:range, low, high}} -> bounds(base, low, high, &encode(query.schema, hd(rest), id, &1))
    end
  end

  defp encode(_schema, id, id, value), do: Keys.encode_id(value)

  defp encode(schema, field, _id, value),
    do: Indexer.Default.encode(value, Schema.type(schema, field))

  defp bounds(base, low, high, encode) do
    first =
      case low do
        # Nothing is greater or less than nil.
        nil -> Native.pack(Keys.append(base, [nil])) <> <<0xFF>>
        {value, true} -> Native.pack(Keys.append(base, [encode.(value)]))
        {value, false} -> Native.pack(Keys.append(base, [encode.(value)])) <> <<0xFF>>
      end

    last =
      case high do
        nil -> Native.pack(base) <> <<0xFF>>
        {value, true} -> Native.pack(Keys.append(base, [encode.(value)])) <> <<0xFF>>
        {value, false} -> Native.pack(Keys.append(base, [encode.(value)]))
      end

    # An empty range may not be written the wrong way round.
    {min(first, last), last}
  end

  # Whether keys in the order of `fields`, or in its reverse, are in this order. What comes after the
  # last of the fields, the primary key, orders nothing any more.
  defp sorted?(order, fields) do
    directions = order |> Enum.uniq_by(&elem(&1, 0)) |> length()
    names = fields(order)
    directions <= 1 and (List.starts_with?(fields, names) or List.starts_with?(names, fields))
  end

  defp reverse?([{:desc, _} | _]), do: true
  defp reverse?(_order), do: false

  defp fields(order), do: for({_, field} <- order, do: field)

  defp limited?(%__MODULE__{limit: limit, key_limit: key_limit}),
    do: limit != nil or key_limit != nil

  defp suggestion(query) do
    equal = for {field, {:eq, _}} <- query.where, do: field
    ranged = for {field, {:range, _, _}} <- query.where, do: field
    order = if limited?(query), do: fields(query.order_by), else: []
    Enum.uniq(equal ++ ranged ++ order)
  end

  defp refuse(query, fields) do
    same_direction? = query.order_by |> Enum.uniq_by(&elem(&1, 0)) |> length() <= 1
    id = Schema.primary_key(query.schema)

    help =
      cond do
        limited?(query) and not same_direction? ->
          "Order by fields in one direction, or sort without a limit"

        fields -- [id] != fields ->
          "Read by the primary key, and sort or filter the result"

        true ->
          "This index would answer it: create index(#{inspect(query.schema)}, #{inspect(fields)})"
      end

    raise Unsupported,
          "no single get or range answers this query of #{inspect(query.schema)}" <>
            describe(query) <> ". " <> help
  end

  defp describe(%{where: where, order_by: order, limit: limit}) do
    parts = [
      where != [] && " where #{inspect(Keyword.keys(where))}",
      order != [] && " ordered by #{inspect(order)}",
      limit && " with a limit"
    ]

    parts |> Enum.filter(& &1) |> Enum.join()
  end

  ## Running

  @doc "Starts a query in the current transaction: a future of its records."
  @spec start(t()) :: Future.t()
  def start(%__MODULE__{} = query) do
    if needs_metadata?(query) do
      reads =
        Metadata.start(query.tenant, query.source, fn metadata ->
          first_reads(query, plan(query, metadata))
        end)

      Future.read(fn ->
        {metadata, answers} = Metadata.collect(reads)
        finish(query, plan(query, metadata), answers)
      end)
    else
      plan = plan(query, nil)

      case first_reads(query, plan) do
        [] ->
          Future.resolved([])

        reads ->
          reads = Transaction.read_async(reads)
          Future.read(fn -> finish(query, plan, Transaction.collect(reads)) end)
      end
    end
  end

  @doc "Runs a query in the current transaction."
  @spec run(t()) :: [Record.t()]
  def run(query), do: query |> start() |> Future.result()

  defp first_reads(_query, {:nothing}), do: []

  defp first_reads(query, {:get, id, _filter}) do
    {first, last} = Keys.record_range(query.tenant, query.source, id)
    [{:get_range, first, last, %{}}]
  end

  defp first_reads(query, {:records, {first, last}, reverse?, _sort}),
    do: [{:get_range, first, last, options(query, reverse?)}]

  defp first_reads(query, {:index, index, {first, last}, reverse?, _sort}) do
    options = options(query, reverse?)

    if Indexer.Default.mapped?(index) and Transaction.mapped_ranges?() do
      mapper = {:pack, Indexer.Default.mapper(index, query.schema)}
      [{:get_mapped_range, first, last, mapper, options}]
    else
      [{:get_range, first, last, options}]
    end
  end

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

  defp finish(query, {:get, _id, filter}, [rows]) do
    rows |> Record.decode(known(query.schema)) |> Enum.filter(&matches?(query, &1, filter))
  end

  defp finish(query, {:records, range, reverse?, sort}, [rows]) do
    query
    |> complete_records(range, reverse?, rows, options(query, reverse?).limit, [])
    |> sort(query.schema, sort)
    |> take(query.limit)
  end

  defp finish(query, {:index, index, range, reverse?, sort}, [rows]) do
    query
    |> complete_entries(index, range, reverse?, follow(query, index, rows), 0)
    |> sort(query.schema, sort)
    |> take(query.limit)
  end

  defp take(records, nil), do: records
  defp take(records, limit), do: Enum.take(records, limit)

  # A limit on rows may cut a large record in two, and large records take several rows.
  defp complete_records(query, range, reverse?, rows, requested, found) do
    last? = requested == 0 or length(rows) < requested
    rows = if reverse?, do: rows |> Enum.reverse() |> drop_parts(not last?), else: rows
    {records, _cut} = Record.decode_some(rows, known(query.schema), last?)
    records = if reverse?, do: Enum.reverse(records), else: records
    found = found ++ records

    if last? or query.key_limit != nil or length(found) >= query.limit do
      found
    else
      {first, last} = rest = rest(range, reverse?, List.last(records))
      more = if records == [], do: requested * 2 + 10, else: query.limit - length(found)
      options = %{limit: more, reverse: reverse?}
      [rows] = Transaction.read([{:get_range, first, last, options}])
      complete_records(query, rest, reverse?, rows, more, found)
    end
  end

  defp rest(range, _reverse?, nil), do: range
  defp rest({_first, last}, false, record), do: {record.key <> <<0xFF>>, last}
  defp rest({first, _last}, true, record), do: {first, record.key}

  # Read backwards, a record's parts come before its own key; without that they are cut off.
  defp drop_parts(rows, false), do: rows

  defp drop_parts(rows, true) do
    Enum.drop_while(rows, fn {key, _} ->
      tuple = Native.unpack(key)

      match?(
        {n, i, crc} when is_integer(n) and is_integer(i) and is_integer(crc),
        elem(tuple, tuple_size(tuple) - 1)
      )
    end)
  end

  # Entries whose records are gone, or carry other values, are no results: more may have to be read.
  defp complete_entries(query, index, {first, last}, reverse?, rows, found) do
    options = options(query, reverse?)
    records = records_of(query, index, rows)
    found = found + length(records)
    full? = options.limit > 0 and length(rows) >= options.limit

    if full? and is_nil(query.key_limit) and found < query.limit do
      entry = rows |> List.last() |> elem(0)
      rest = if reverse?, do: {first, entry}, else: {entry <> <<0>>, last}
      rows = entries(query, index, rest, options)
      records ++ complete_entries(query, index, rest, reverse?, rows, found)
    else
      records
    end
  end

  # Entries with their records' rows, as a mapped range gives them.
  defp entries(query, index, {first, last}, options) do
    [entries] = Transaction.read([{:get_range, first, last, options}])
    follow(query, index, entries)
  end

  defp follow(query, index, [{_entry, _value} | _] = entries) do
    if Indexer.Default.mapped?(index) do
      {first, last} = Keys.range(Keys.records(query.tenant, query.source))

      reads =
        for {entry, value} <- entries do
          key = record_key(query, entry, value)
          # What is no key of a record leads nowhere.
          key = if key > first and key < last, do: key, else: first
          {:get_range, key, key <> <<0xFF>>, %{}}
        end

      for {{entry, value}, rows} <- Enum.zip(entries, Transaction.read(reads)),
          do: {entry, value, rows}
    else
      entries
    end
  end

  defp follow(_query, _index, rows), do: rows

  # An entry's value is the record's key, but the commit completes versionstamps in keys only.
  defp record_key(query, entry, value) do
    if versionstamp?(query.schema) do
      tuple = Native.unpack(entry)
      id = elem(tuple, tuple_size(tuple) - 1)
      Native.pack(Keys.record(query.tenant, query.source, id))
    else
      value
    end
  end

  defp versionstamp?(schema),
    do: Schema.type(schema, Schema.primary_key(schema)) == EctoFoundationDB.Versionstamp

  defp records_of(query, index, rows) do
    known = known(query.schema)
    found = Enum.flat_map(rows, &record_of(query, known, &1))

    judged =
      for {entry, record} <- found do
        {judge(query, index, entry, record), record}
      end

    # Entries with a wrong last element count where there is no right one.
    questions = for {{:unless, right}, _} <- judged, do: {:get, right, false}
    answers = if questions == [], do: [], else: Transaction.read(questions)
    right = Map.new(Enum.zip(for({:get, key, _} <- questions, do: key), answers))

    for {verdict, record} <- judged,
        verdict == :right or (is_tuple(verdict) and is_nil(right[elem(verdict, 1)])),
        do: record
  end

  defp record_of(_query, _known, {_entry, _value, []}), do: []

  defp record_of(query, known, {entry, value, rows}) do
    case Record.decode_some(rows, known, false) do
      {[record], []} ->
        [{entry, record}]

      {[], _cut} ->
        # The servers read only so much for one entry.
        key = record_key(query, entry, value)
        [rows] = Transaction.read([{:get_range, key, key <> <<0xFF>>, %{}}])
        for record <- Record.decode(rows, known), do: {entry, record}
    end
  end

  # An entry that holds the record itself.
  defp record_of(query, known, {entry, value}) do
    tuple = Native.unpack(entry)
    id = elem(tuple, tuple_size(tuple) - 1)
    key = Native.pack(Keys.append(Keys.records(query.tenant, query.source), [id]))
    [{entry, %Record{key: key, data: Record.data(entry, value, known)}}]
  end

  defp judge(query, index, entry, record) do
    schema = query.schema
    id_name = Schema.field_source(schema, Schema.primary_key(schema))
    id = Record.get(record.data, id_name)
    right = Native.pack(Indexer.Default.entry(query.tenant, index, schema, record.data, id))
    fields = Indexer.Default.key_fields(index, schema)

    cond do
      entry == right ->
        :right

      Enum.all?(fields, &Indexer.Default.ordered?(Schema.type(schema, &1))) ->
        values = Indexer.Default.values(schema, fields, record.data)
        prefix = Indexer.Default.prefix(query.tenant, index, length(fields), values)
        if starts_with?(entry, prefix), do: {:unless, right}, else: :stale

      true ->
        # Keys of such types depend on the release that wrote them.
        if String.ends_with?(entry, Native.pack({Keys.encode_id(id)})),
          do: :right,
          else: {:unless, right}
    end
  end

  # 0xFF after a string's end means that the string goes on.
  defp starts_with?(entry, prefix) do
    size = byte_size(prefix)

    case entry do
      <<^prefix::binary-size(size), 0xFF, _::binary>> -> false
      <<^prefix::binary-size(size), _::binary>> -> true
      _ -> false
    end
  end

  @doc "Whether a record fulfils these conditions."
  def matches?(query, record, filter) do
    Enum.all?(filter, fn {field, constraint} ->
      value = Record.get(record.data, Schema.field_source(query.schema, field))

      case constraint do
        {:eq, expected} -> compare(value, expected) == :eq
        {:range, _, _} when is_nil(value) -> false
        {:range, low, high} -> above?(value, low) and below?(value, high)
      end
    end)
  end

  defp above?(_value, nil), do: true

  defp above?(value, {low, inclusive?}),
    do: compare(value, low) in if(inclusive?, do: [:gt, :eq], else: [:gt])

  defp below?(_value, nil), do: true

  defp below?(value, {high, inclusive?}),
    do: compare(value, high) in if(inclusive?, do: [:lt, :eq], else: [:lt])

  defp sort(records, _schema, []), do: records

  defp sort(records, schema, order) do
    order = for {direction, field} <- order, do: {direction, Schema.field_source(schema, field)}
    sort_by(records, order, &Record.get(&1.data, &2))
  end

  @doc "As `order_by`, of structs."
  def sort_structs(structs, []), do: structs
  def sort_structs(structs, order), do: sort_by(structs, order, &Map.fetch!/2)

  defp sort_by(list, order, get), do: Enum.sort(list, &(order(&1, &2, order, get) != :gt))

  defp order(_a, _b, [], _get), do: :eq

  defp order(a, b, [{direction, field} | order], get) do
    case compare(get.(a, field), get.(b, field)) do
      :eq -> order(a, b, order, get)
      result when direction == :asc -> result
      :lt -> :gt
      :gt -> :lt
    end
  end

  defp compare(a, a), do: :eq
  defp compare(nil, _b), do: :lt
  defp compare(_a, nil), do: :gt

  defp compare(%module{} = a, %module{} = b) do
    if function_exported?(module, :compare, 2),
      do: module.compare(a, b),
      else: if(a < b, do: :lt, else: :gt)
  end

  defp compare(a, b) when a < b, do: :lt
  defp compare(a, b) when a > b, do: :gt
  defp compare(_a, _b), do: :eq

  @doc "Structs of records."
  @spec load([Record.t()], module(), Tenant.t()) :: [struct()]
  def load(records, schema, tenant) do
    loader = Schema.loader(schema, tenant)
    Enum.map(records, &loader.(&1.data))
  end

  @doc "The records that the entries of a range point to, by their values; each once."
  @spec by_entries(t(), {binary(), binary()}, map()) :: [Record.t()]
  def by_entries(query, {first, last}, options) do
    [entries] = Transaction.read([{:get_range, first, last, options}])
    keys = entries |> Enum.map(&elem(&1, 1)) |> Enum.uniq()

    case for key <- keys, do: {:get_range, key, key <> <<0xFF>>, %{}} do
      [] ->
        []

      reads ->
        reads |> Transaction.read() |> Enum.flat_map(&Record.decode(&1, known(query.schema)))
    end
  end

  @doc """
  A page of an index's entries: the keys of those that no record has so, and the rest of the range, or
  `nil`. Right entries must all be there.
  """
  def wrong_entries(query, index, {first, last}, rows) do
    entries = entries(query, index, {first, last}, %{limit: rows})
    known = known(query.schema)

    wrong = for entry <- entries, not right?(query, index, entry, known), do: elem(entry, 0)

    rest = if length(entries) >= rows, do: {(entries |> List.last() |> elem(0)) <> <<0>>, last}
    {wrong, rest}
  end

  defp right?(query, index, entry, known) do
    case record_of(query, known, entry) do
      [{key, record}] -> judge(query, index, key, record) == :right
      [] -> false
    end
  end

  @doc "Whether a stored field, by its name, is one of the schema's."
  def known(schema) do
    names = MapSet.new(Schema.fields(schema), &Atom.to_string(Schema.field_source(schema, &1)))
    &MapSet.member?(names, &1)
  end

  @doc """
  A page of a query without ordering: `{records, rest}`, where `rest` is the range still to read, or
  `nil`.
  """
  def page(query, metadata, range, rows) do
    query = %{query | limit: nil, key_limit: rows, order_by: []}

    case plan(query, metadata) do
      {:nothing} ->
        {[], nil}

      {:get, _, _} ->
        {run(%{query | key_limit: nil}), nil}

      {:records, whole, _, _} ->
        {first, last} = range || whole
        [answer] = Transaction.read([{:get_range, first, last, %{limit: rows}}])
        full? = length(answer) >= rows
        {records, left} = Record.decode_some(answer, known(query.schema), not full?)

        cond do
          not full? -> {records, nil}
          records == [] -> page(query, metadata, {first, last}, rows * 2)
          left == [] -> {records, {(answer |> List.last() |> elem(0)) <> <<0>>, last}}
          true -> {records, {left |> hd() |> elem(0), last}}
        end

      {:index, index, whole, _, _} ->
        {first, last} = range || whole
        answer = entries(query, index, {first, last}, %{limit: rows})
        records = records_of(query, index, answer)

        if length(answer) >= rows,
          do: {records, {(answer |> List.last() |> elem(0)) <> <<0>>, last}},
          else: {records, nil}
    end
  end
end
