defmodule EctoFoundationDB.Layer.Plan do
  @moduledoc false
  # How to answer a query: by one get or one range, of records or of an index. Other queries are refused, with
  # the index that would answer them.

  alias EctoFoundationDB.{Index, Indexer, Native, Versionstamp}
  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.{Keys, Metadata, Query, Source}

  import EctoFoundationDB.Layer.Query, only: [ordered?: 1]

  @typedoc """
  `filter`: remaining conditions to check. `sort`: the remaining order. `{:nothing}`: no record fulfils the
  conditions.
  """
  @type t ::
          {:nothing}
          | {:get, id :: term(), filter :: [{atom(), Query.constraint()}]}
          | {:records, range(), reverse? :: boolean(), sort :: [{:asc | :desc, atom()}]}
          | {:index, Index.t(), range(), reverse? :: boolean(), sort :: [{:asc | :desc, atom()}]}
  @type range :: {begin :: binary(), finish :: binary()}

  @doc "The plan of a query, given its tenant's indexes."
  @spec new(Query.t(), Metadata.t() | nil) :: t()
  def new(%Query{limit: 0}, _metadata), do: {:nothing}

  def new(%Query{source: %{id: id} = source} = query, metadata) do
    case Keyword.split(query.where, [id]) do
      {[{_, {:eq, nil}}], _} ->
        {:nothing}

      {[{_, {:eq, value}}], rest} when rest == [] or source.write_primary? ->
        {:get, check_id!(source, value), rest}

      {_, rest} ->
        if source.write_primary? and rest == [] and is_nil(query.filter),
          do: plan_records(query, metadata),
          else: plan_index(query, metadata)
    end
  end

  @doc "Whether a plan needs the tenant's indexes; if not, metadata can be `nil`."
  @spec needs_metadata?(Query.t()) :: boolean()
  def needs_metadata?(%Query{limit: 0}), do: false

  def needs_metadata?(%Query{source: %{id: id} = source} = query) do
    case Keyword.split(query.where, [id]) do
      {[{_, {:eq, _}}], []} -> false
      {[{_, {:eq, _}}], _} -> not source.write_primary?
      {_, []} -> not source.write_primary? or query.filter != nil or unsorted_limit?(query)
      {_, _} -> true
    end
  end

  defp unsorted_limit?(query),
    do: ordered?(query) and not sorted?(query, query.order_by, [query.source.id])

  # With partitions, a primary key consists of both.
  defp check_id!(%{partition_by: nil}, id), do: id
  defp check_id!(_source, {_partition, {:versionstamp, _, _, _}} = id), do: id

  defp check_id!(%{partition_by: field, id: name} = source, id) do
    raise Unsupported,
          "a query of #{Source.describe(source)} needs a compound {partition_value, versionstamp} parameter " <>
            "for #{inspect(name)}, with the value of #{inspect(field)}: " <>
            "`where: s.#{name} == ^{#{field}, id}`. It has #{inspect(id)}"
  end

  defp plan_records(%{source: %{id: id}} = query, metadata) do
    cond do
      sorted?(query, query.order_by, [id]) ->
        {:records, records_range(query), reverse?(query.order_by), []}

      not ordered?(query) ->
        {:records, records_range(query), false, query.order_by}

      query.where == [] ->
        plan_index(query, metadata)

      true ->
        refuse(query, [id | fields(query.order_by)])
    end
  end

  defp records_range(%{source: source} = query) do
    records = Keys.records(query.tenant, source.name)

    case query.where[source.id] do
      nil ->
        Keys.range(records)

      # Every record has a primary key.
      {:range, nil, nil} ->
        Keys.range(records)

      {:range, low, high} ->
        for {id, _} <- [low, high], do: check_id!(source, id)
        check_sides!(source, low, high)
        bounds(records, low, high, &Keys.id_elements/1)
    end
  end

  defp check_sides!(%{partition_by: field} = source, low, high)
       when field != nil and (is_nil(low) or is_nil(high)) do
    raise Unsupported,
          "Single-sided range queries are not supported if records lie by partitions, because it is unknown where " <>
            "the range of #{Source.describe(source)} ends. Give both bounds; " <>
            "EctoFoundationDB.Versionstamp.min() and max() are the first and the last of a partition"
  end

  defp check_sides!(_source, _low, _high), do: :ok

  defp plan_index(query, metadata) do
    candidates =
      for %Index{} = index <- metadata.indexes,
          Indexer.default?(index),
          answers?(index, query.source),
          plan = index_plan(query, index),
          do: {rank(index), plan}

    case Enum.sort_by(candidates, &elem(&1, 0)) do
      [{_, plan} | _] -> plan
      [] -> refuse(query, suggestion(query))
    end
  end

  defp rank(index), do: {not Index.unique?(index), length(index.fields)}

  # If a source stores no records, the entries that point to records are of no use.
  defp answers?(index, source),
    do: source.write_primary? or not Indexer.Default.mapped?(index)

  # The entries of an index are ordered by its fields, then by the primary key.
  defp index_plan(%{source: source} = query, index) do
    key_fields = Indexer.Default.key_fields(index, source)
    equal = for {field, {:eq, _}} <- query.where, do: field

    if one?(query, index, key_fields) do
      # There is at most one such record, which is checked for other conditions.
      range = index_range(query, index, key_fields, [], key_fields)
      {:index, index, range, false, []}
    else
      fields = key_fields ++ [source.id]
      ranged = for {field, {:range, _, _}} <- query.where, do: field
      {first, rest} = Enum.split(fields, length(equal))

      covered? =
        is_nil(query.filter) and Enum.sort(first) == Enum.sort(equal) and
          (ranged == [] or ranged == Enum.take(rest, 1))

      order = Enum.reject(query.order_by, fn {_, field} -> field in equal end)

      cond do
        not covered? ->
          nil

        sorted?(query, order, rest) ->
          {:index, index, index_range(query, index, first, rest, key_fields), reverse?(order), []}

        ordered?(query) ->
          nil

        true ->
          {:index, index, index_range(query, index, first, rest, key_fields), false,
           query.order_by}
      end
    end
  end

  @doc "Whether at most one record matches a query on a unique index."
  @spec one?(Query.t(), Index.t()) :: boolean()
  def one?(query, index),
    do: one?(query, index, Indexer.Default.key_fields(index, query.source))

  defp one?(query, index, key_fields) do
    Index.unique?(index) and key_fields != [] and
      Enum.all?(key_fields, &match?({:eq, value} when value != nil, query.where[&1]))
  end

  defp index_range(%{source: source} = query, index, first, rest, key_fields) do
    values =
      for field <- first do
        {:eq, value} = query.where[field]
        encode(source, field, value)
      end

    base = Keys.index_values(query.tenant, source.name, index.name, length(key_fields), values)
    next = List.first(rest)

    case rest != [] && query.where[next] do
      {:range, low, high} -> bounds(base, low, high, &[encode(source, next, &1)])
      _none when length(first) > length(key_fields) -> one_entry(base)
      _none -> Keys.range(base)
    end
  end

  defp one_entry(tuple) do
    key = Native.pack(tuple)
    {key, key <> <<0>>}
  end

  defp encode(%{id: id}, id, {_partition, {:versionstamp, _, _, _} = value}), do: value
  defp encode(%{id: id}, id, value), do: Keys.encode_id(value)
  defp encode(source, field, value), do: Indexer.Default.encode(value, Source.type(source, field))

  defp bounds(base, low, high, encode) do
    first =
      case low do
        # Nothing is greater or less than nil.
        nil -> Native.pack(Keys.append(base, [nil])) <> <<0xFF>>
        {value, true} -> Native.pack(Keys.append(base, encode.(value)))
        {value, false} -> Native.pack(Keys.append(base, encode.(value))) <> <<0xFF>>
      end

    last =
      case high do
        nil -> Native.pack(base) <> <<0xFF>>
        {value, true} -> Native.pack(Keys.append(base, encode.(value))) <> <<0xFF>>
        {value, false} -> Native.pack(Keys.append(base, encode.(value)))
      end

    # An empty range must not be inverted.
    {min(first, last), last}
  end

  # Whether keys ordered by `fields`, or in reverse, are in this order. The primary key, which follows the last
  # field, no longer matters.
  defp sorted?(query, order, fields) do
    directions = order |> Enum.uniq_by(&elem(&1, 0)) |> length()
    names = fields(order)

    directions <= 1 and unordered(query, order) == [] and
      (List.starts_with?(fields, names) or List.starts_with?(names, fields))
  end

  # The fields of an order whose keys are not ordered like their values.
  defp unordered(%{source: source}, order) do
    for field <- fields(order),
        type = Source.type(source, field),
        source.partition_by != nil or
          not (Indexer.Default.ordered?(type) or Versionstamp.type?(type)),
        do: field
  end

  defp reverse?([{:desc, _} | _]), do: true
  defp reverse?(_order), do: false

  defp fields(order), do: for({_, field} <- order, do: field)

  defp suggestion(query) do
    equal = for {field, {:eq, _}} <- query.where, do: field
    ranged = for {field, {:range, _, _}} <- query.where, do: field
    order = if ordered?(query), do: fields(query.order_by), else: []
    Enum.uniq(equal ++ ranged ++ order)
  end

  @doc "Raises: no get or range answers the query. The message says what would."
  @spec refuse(Query.t(), [atom()]) :: no_return()
  def refuse(%{source: source} = query, fields) do
    same_direction? = query.order_by |> Enum.uniq_by(&elem(&1, 0)) |> length() <= 1
    ranges = for {field, {:range, _, _}} <- query.where, do: field

    help =
      cond do
        query.filter != nil ->
          "FoundationDB Adapter has not implemented support for your query: the condition #{elem(query.filter, 0)} can " <>
            "only be checked on records that have been read. Read them with the other conditions, and filter in Elixir"

        match?([_, _ | _], ranges) ->
          "Default Index query mismatch: it has ranges on #{inspect(ranges)}, but only one is possible. Read with one of " <>
            "them, and filter by the others"

        ordered?(query) and not same_direction? ->
          "Order by fields in one direction, or sort without a limit"

        ordered?(query) and unordered(query, query.order_by) != [] ->
          "The keys of #{inspect(unordered(query, query.order_by))} are not in the order of the values, by their type. " <>
            "Sort without a limit"

        not source.write_primary? ->
          fields = with [] <- fields -- [source.id], do: [:field]

          "With `write_primary: false` records are only in indexes that contain them; this one would " <>
            "answer it: create index(#{Source.describe(source)}, #{inspect(fields)}, " <>
            "options: [mapped?: false])"

        fields -- [source.id] != fields ->
          "Read by the primary key, and sort or filter the result"

        true ->
          "FoundationDB Adapter supports either conditions on the primary key, or equalities on the first fields of " <>
            "an index and one range on the next. This index would answer it: " <>
            "create index(#{Source.describe(source)}, #{inspect(fields)})"
      end

    raise Unsupported,
          "no single get or range answers this query of #{Source.describe(source)}" <>
            describe(query) <> ". " <> help
  end

  defp describe(%{where: where, order_by: order, limit: limit} = query) do
    parts = [
      where != [] && " where #{inspect(Keyword.keys(where))}",
      order != [] && " ordered by #{inspect(order)}",
      limit && " with a limit",
      order != [] && ordered?(query) &&
        ", where ordering must be that of the primary key or of the index"
    ]

    parts |> Enum.filter(& &1) |> Enum.join()
  end
end
