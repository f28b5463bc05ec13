defmodule EctoFoundationDB.Layer.Plan do
  @moduledoc false
  # How to answer a query: by one get, or by one range, of records or of an index. What needs more is
  # refused, with the index that would do.

  alias EctoFoundationDB.{Index, Indexer, Native, Schema}
  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.{Keys, Metadata, Query}

  import EctoFoundationDB.Layer.Query, only: [limited?: 1]

  @typedoc """
  `filter`: conditions that are left to judge by. `sort`: what is left to sort by. `{:nothing}`: no
  record has `nil` as its primary key.
  """
  @type t ::
          {:nothing}
          | {:get, id :: term(), filter :: [{atom(), Query.constraint()}]}
          | {:records, range(), reverse? :: boolean(), sort :: [{:asc | :desc, atom()}]}
          | {:index, Index.t(), range(), reverse? :: boolean(), sort :: [{:asc | :desc, atom()}]}
  @type range :: {begin :: binary(), finish :: binary()}

  @doc "The plan of a query, given what indexes its tenant has."
  @spec new(Query.t(), Metadata.t() | nil) :: t()
  def new(%Query{} = query, metadata) do
    id = Schema.primary_key(query.schema)

    case Keyword.split(query.where, [id]) do
      {[{_, {:eq, nil}}], _} -> {:nothing}
      {[{_, {:eq, value}}], []} -> {:get, value, []}
      _ -> plan(query, id, metadata, Schema.write_primary?(query.schema))
    end
  end

  # Records that are in an index alone.
  defp plan(query, id, metadata, false), do: plan_index(query, id, metadata)

  defp plan(query, id, metadata, true) do
    case Keyword.split(query.where, [id]) do
      {[{_, {:eq, value}}], rest} -> {:get, value, rest}
      {_, []} -> plan_records(query, id, metadata)
      {_, _} -> plan_index(query, id, metadata)
    end
  end

  @doc "Whether a plan needs to know the tenant's indexes; without, metadata can be `nil`."
  @spec needs_metadata?(Query.t()) :: boolean()
  def needs_metadata?(%Query{} = query) do
    id = Schema.primary_key(query.schema)

    case Keyword.split(query.where, [id]) do
      {[{_, {:eq, _}}], []} -> false
      {[{_, {:eq, _}}], _} -> not Schema.write_primary?(query.schema)
      {_, []} -> not Schema.write_primary?(query.schema) or unsorted_limit?(query, id)
      {_, _} -> true
    end
  end

  defp unsorted_limit?(query, id),
    do: limited?(query) and not sorted?(query, query.order_by, [id])

  defp plan_records(query, id, metadata) do
    cond do
      sorted?(query, query.order_by, [id]) ->
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
          answers?(index, query.schema),
          plan = index_plan(query, id, index),
          do: {length(index.fields), plan}

    case Enum.sort_by(candidates, &elem(&1, 0)) do
      [{_, plan} | _] -> plan
      [] -> refuse(query, suggestion(query))
    end
  end

  # Entries that point to records lead nowhere where there are none.
  defp answers?(index, schema),
    do: Schema.write_primary?(schema) or not Indexer.Default.mapped?(index)

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

      sorted?(query, order, rest) ->
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
      nil when rest == [] -> one_entry(base)
      nil -> Keys.range(base)
      {_, {:range, low, high}} -> bounds(base, low, high, &encode(query.schema, hd(rest), id, &1))
    end
  end

  defp one_entry(tuple) do
    key = Native.pack(tuple)
    {key, key <> <<0>>}
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
  defp sorted?(query, order, fields) do
    directions = order |> Enum.uniq_by(&elem(&1, 0)) |> length()
    names = fields(order)

    directions <= 1 and unordered(query, order) == [] and
      (List.starts_with?(fields, names) or List.starts_with?(names, fields))
  end

  # The fields of an order whose keys are not in the order of their values.
  defp unordered(%{schema: schema}, order) do
    for field <- fields(order),
        type = Schema.type(schema, field),
        not Indexer.Default.ordered?(type) and type != EctoFoundationDB.Versionstamp,
        do: field
  end

  defp reverse?([{:desc, _} | _]), do: true
  defp reverse?(_order), do: false

  defp fields(order), do: for({_, field} <- order, do: field)

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

        limited?(query) and unordered(query, query.order_by) != [] ->
          "The keys of #{inspect(unordered(query, query.order_by))} are not in the order of the values, by their type. " <>
            "Sort without a limit"

        not Schema.write_primary?(query.schema) ->
          fields = with [] <- fields -- [id], do: [:field]

          "With `write_primary: false` records are in indexes that hold them, alone; this one would " <>
            "answer it: create index(#{inspect(query.schema)}, #{inspect(fields)}, " <>
            "options: [mapped?: false])"

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
end
