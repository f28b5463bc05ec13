defmodule EctoFoundationDB.Repo.Queries do
  @moduledoc false
  # The Repo's functions that read.

  alias EctoFoundationDB.{Future, MultipleResultsError, NoResultsError, Schema, Transaction}
  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.{EctoQuery, Query, Reader}
  alias EctoFoundationDB.Repo.Options

  @query [:where, :order_by, :limit, :key_limit]

  @doc "The query of a schema (or of an Ecto query, where Ecto is present) and options."
  def query(repo, queryable, opts, more \\ []) do
    {schema, from_query, prefix} = EctoQuery.split(queryable)
    opts = Options.validate!(opts, @query ++ more)
    tenant = Options.tenant!(repo, Keyword.put_new(opts, :prefix, prefix))
    {Query.new(tenant, schema, Query.merge(from_query, opts)), opts}
  end

  def async_all(repo, queryable, opts) do
    {query, opts} = query(repo, queryable, opts)
    future(query, opts)
  end

  # Inside a transaction reads are in flight until they are awaited; outside there is none to await
  # them in.
  defp future(query, opts) do
    if Transaction.in?() do
      Transaction.run(query.tenant, fn -> query |> Reader.start() |> loaded(query) end, opts)
    else
      Future.resolved(
        Transaction.run(
          query.tenant,
          fn -> query |> Reader.start() |> loaded(query) |> Future.result() end,
          opts
        )
      )
    end
  end

  defp loaded(future, query),
    do: Future.apply(future, &Reader.load(&1, query))

  def async_all_by(repo, queryable, by, opts), do: async_all(repo, queryable, by(opts, by))

  defp by(opts, by), do: Query.merge(opts, where: by)

  def async_get(repo, queryable, id, opts),
    do: async_one(repo, queryable, by_id(queryable, id, opts))

  def async_get!(repo, queryable, id, opts) do
    repo
    |> at_most_one(queryable, by_id(queryable, id, opts))
    |> found!(queryable, "with primary key #{inspect(id)}")
  end

  defp by_id(queryable, id, opts) do
    if is_nil(id) do
      raise ArgumentError, "get: the primary key is nil, and no record has such a one"
    end

    {schema, _, _} = EctoQuery.split(queryable)
    by(opts, [{Schema.primary_key(schema), {:==, id}}])
  end

  def async_get_by(repo, queryable, by, opts), do: async_one(repo, queryable, by(opts, by))

  def async_get_by!(repo, queryable, by, opts),
    do: repo |> at_most_one(queryable, by(opts, by)) |> found!(queryable, "where #{inspect(by)}")

  def async_one(repo, queryable, opts),
    do: repo |> at_most_one(queryable, opts) |> Future.apply(&List.first/1)

  def async_one!(repo, queryable, opts) do
    where = Keyword.get(opts, :where, [])
    repo |> at_most_one(queryable, opts) |> found!(queryable, "where #{inspect(where)}")
  end

  # In a list, since what a query selects may be nil.
  defp at_most_one(repo, queryable, opts) do
    {query, opts} = query(repo, queryable, opts)

    # Two are enough to know that there is not one alone.
    query = if is_nil(query.limit) and query.order_by == [], do: %{query | limit: 2}, else: query

    Future.apply(future(query, opts), fn
      [_, _ | _] ->
        raise MultipleResultsError,
              "expected at most one result of #{inspect(query.schema)}, got more. " <>
                "`all` gives them all, `limit: 1` the first of them"

      none_or_one ->
        none_or_one
    end)
  end

  defp found!(future, queryable, what) do
    Future.apply(future, fn
      [] ->
        {schema, _, _} = EctoQuery.split(queryable)
        raise NoResultsError, "expected a #{inspect(schema)} #{what}, found none"

      [result] ->
        result
    end)
  end

  def async_all_range(repo, queryable, first, last, opts) do
    {bounds, opts} = Keyword.split(opts, [:inclusive_left?, :inclusive_right?])
    {schema, _, _} = EctoQuery.split(queryable)
    left = if Keyword.get(bounds, :inclusive_left?, true), do: :>=, else: :>
    right = if Keyword.get(bounds, :inclusive_right?, false), do: :<=, else: :<

    range =
      for {operator, id} <- [{left, first}, {right, last}],
          not is_nil(id),
          do: {Schema.primary_key(schema), {operator, id}}

    async_all(repo, queryable, by(opts, range))
  end

  def exists?(repo, queryable, opts) do
    {query, opts} = query(repo, queryable, opts)
    Future.result(future(%{query | limit: 1, order_by: []}, opts)) != []
  end

  def aggregate(repo, queryable, :count, opts) when is_list(opts) do
    {query, opts} = query(repo, queryable, opts)
    Transaction.run(query.tenant, fn -> query |> Reader.run() |> length() end, opts)
  end

  def aggregate(_repo, _queryable, aggregate, field_or_opts) do
    raise Unsupported,
          "aggregate: of #{inspect(aggregate)} and #{inspect(field_or_opts)}; only :count, without a " <>
            "field, is supported. Read the records, with all or stream, and compute in Elixir; a " <>
            "least or greatest value is the first one with `order_by:` and `limit: 1`"
  end

  def reload(_repo, nil, _opts), do: nil

  def reload(repo, structs, opts) when is_list(structs) do
    for other <- structs, not (is_nil(other) or is_struct(other)) do
      raise ArgumentError, "reload: expected a struct or a list of them, got: #{inspect(other)}"
    end

    case Enum.find(structs, & &1) do
      nil ->
        structs

      first ->
        tenant = Options.tenant!(repo, opts, first)
        {run, opts} = Keyword.split(opts, Transaction.options())
        opts = Keyword.put(opts, :prefix, tenant)

        # In one transaction, and all in flight at once.
        Transaction.run(
          tenant,
          fn -> structs |> Enum.map(&async_reload(repo, &1, opts)) |> await() end,
          run
        )
    end
  end

  def reload(repo, struct, opts), do: repo |> reload([struct], opts) |> hd()

  defp async_reload(_repo, nil, _opts), do: Future.resolved(nil)

  defp async_reload(repo, %schema{} = struct, opts),
    do: async_get(repo, schema, Schema.id!(struct), opts)

  def reload!(repo, structs, opts) when is_list(structs) do
    reloaded = reload(repo, structs, opts)

    for {struct, nil} <- Enum.zip(structs, reloaded) do
      raise NoResultsError,
            "could not reload #{inspect(struct)}: there is no such record (it may have been deleted)"
    end

    reloaded
  end

  def reload!(repo, struct, opts), do: repo |> reload!([struct], opts) |> hd()

  def stream(repo, queryable, opts) do
    {query, opts} = query(repo, queryable, opts, [:max_rows])
    rows = Keyword.get(opts, :max_rows, 500)

    Options.positive!(:max_rows, rows)

    if query.order_by != [] do
      raise Unsupported,
            "stream: order_by is not supported; a stream is in the order of the primary key, or of the index"
    end

    if query.key_limit do
      raise Unsupported,
            "stream: key_limit is not supported; a page is of `max_rows:`, and Enum.take ends a stream"
    end

    stream =
      Stream.resource(
        fn -> :start end,
        fn
          :done ->
            {:halt, :done}

          position ->
            position = if position == :start, do: nil, else: position

            {records, next} =
              Transaction.run(query.tenant, fn -> Reader.page(query, position, rows) end, opts)

            {Reader.load(records, query), next || :done}
        end,
        fn _ -> :ok end
      )

    if query.limit, do: Stream.take(stream, query.limit), else: stream
  end

  def await(futures) when is_list(futures), do: Enum.map(futures, &await/1)
  def await(%Future{} = future), do: Future.result(future)

  def await(other),
    do: raise(ArgumentError, "await: expected a future or a list of them, got: #{inspect(other)}")
end
