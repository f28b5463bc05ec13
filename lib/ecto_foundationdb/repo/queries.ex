defmodule EctoFoundationDB.Repo.Queries do
  @moduledoc false
  # The read functions of the plain Repo.

  alias EctoFoundationDB.{
    Future,
    MultipleResultsError,
    NoResultsError,
    Schema,
    Transaction,
    Values
  }

  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.Reader
  alias EctoFoundationDB.Repo.{Options, Query}

  @doc "The query of a schema and options."
  def query(repo, schema, opts, more \\ []) do
    Options.plain!(schema)
    opts = Options.validate!(opts, Query.options() ++ more)
    {Query.new(Options.tenant!(repo, opts), schema, opts), opts}
  end

  def async_all(repo, schema, opts) do
    {query, opts} = query(repo, schema, opts)
    future(query, opts)
  end

  defp future(query, opts), do: start(query.tenant, opts, fn -> loaded(query) end)

  @doc """
  A future returned by `start` in a transaction. Inside a transaction, reads are in flight until they are awaited;
  outside there is no transaction in which to await them.
  """
  @spec start(EctoFoundationDB.Tenant.t(), keyword(), (() -> Future.t())) :: Future.t()
  def start(tenant, opts, start) do
    if Transaction.in?(),
      do: Transaction.run(tenant, start, opts),
      else: Future.resolved(Transaction.run(tenant, fn -> Future.result(start.()) end, opts))
  end

  defp loaded(query), do: query |> Reader.start() |> Future.apply(&load(&1, query))

  defp load(records, query),
    do: Values.load_all(Values.loader(query.source.schema, query.tenant), records)

  def async_all_by(repo, schema, by, opts), do: async_all(repo, schema, by(opts, by))

  defp by(opts, by), do: Query.merge(opts, where: by)

  def async_get(repo, schema, id, opts), do: async_one(repo, schema, by_id(schema, id, opts))

  def async_get!(repo, schema, id, opts) do
    repo
    |> at_most_one(schema, by_id(schema, id, opts))
    |> found!(schema, "with primary key #{inspect(id)}")
  end

  defp by_id(_schema, nil, _opts),
    do: raise(ArgumentError, "get: the primary key is nil, which no record has")

  defp by_id(schema, id, opts) do
    Options.plain!(schema)
    by(opts, [{Schema.primary_key(schema), {:==, id}}])
  end

  def async_get_by(repo, schema, by, opts), do: async_one(repo, schema, by(opts, by))

  def async_get_by!(repo, schema, by, opts),
    do: repo |> at_most_one(schema, by(opts, by)) |> found!(schema, "where #{inspect(by)}")

  def async_one(repo, schema, opts),
    do: repo |> at_most_one(schema, opts) |> Future.apply(&List.first/1)

  def async_one!(repo, schema, opts) do
    where = Keyword.get(opts, :where, [])
    repo |> at_most_one(schema, opts) |> found!(schema, "where #{inspect(where)}")
  end

  defp at_most_one(repo, schema, opts) do
    {query, opts} = query(repo, schema, opts)

    # Two are enough to know that there is more than one.
    query = if is_nil(query.limit) and query.order_by == [], do: %{query | limit: 2}, else: query

    Future.apply(future(query, opts), fn
      [_, _ | _] ->
        raise MultipleResultsError,
              "expected at most one result of #{inspect(schema)}, got more. " <>
                "`all` returns them all, `limit: 1` the first one"

      none_or_one ->
        none_or_one
    end)
  end

  defp found!(future, schema, what) do
    Future.apply(future, fn
      [] -> raise NoResultsError, "expected a #{inspect(schema)} #{what}, found none"
      [result] -> result
    end)
  end

  def async_all_range(repo, schema, first, last, opts) do
    {range, opts} = range(first, last, opts)
    Options.plain!(schema)
    where = for condition <- range, do: {Schema.primary_key(schema), condition}
    async_all(repo, schema, by(opts, where))
  end

  @doc "The conditions from all_range's arguments and options, and the other options."
  @spec range(term(), term(), keyword()) :: {[{:> | :>= | :< | :<=, term()}], keyword()}
  def range(first, last, opts) do
    {bounds, opts} = Keyword.split(opts, [:inclusive_left?, :inclusive_right?])
    left = if Keyword.get(bounds, :inclusive_left?, true), do: :>=, else: :>
    right = if Keyword.get(bounds, :inclusive_right?, false), do: :<=, else: :<

    {for({operator, id} <- [{left, first}, {right, last}], not is_nil(id), do: {operator, id}),
     opts}
  end

  def exists?(repo, schema, opts) do
    {query, opts} = query(repo, schema, opts)
    Future.result(future(%{query | limit: 1, order_by: []}, opts)) != []
  end

  def aggregate(repo, schema, :count, opts) when is_list(opts) do
    {query, opts} = query(repo, schema, opts)

    Transaction.run(
      query.tenant,
      fn -> query |> Reader.start_count() |> Future.result() end,
      opts
    )
  end

  def aggregate(_repo, _schema, aggregate, field_or_opts) do
    raise Unsupported,
          "aggregate: #{inspect(aggregate)} with #{inspect(field_or_opts)} is not supported; only :count, without a " <>
            "field, is. Read the records, with all or stream, and compute in Elixir; the " <>
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

        # In one transaction, all in flight together.
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

  def stream(repo, schema, opts) do
    {query, opts} = query(repo, schema, opts, [:max_rows])
    {rows, opts} = Keyword.pop(opts, :max_rows, 500)
    query |> pages(rows, opts) |> Stream.flat_map(&load(&1, query)) |> take(query.limit)
  end

  defp take(stream, nil), do: stream
  defp take(stream, limit), do: Stream.take(stream, limit)

  @doc "The records of a query, one page at a time. Each page is read in a separate transaction, or in the current one."
  @spec pages(EctoFoundationDB.Layer.Query.t(), pos_integer(), keyword()) :: Enumerable.t()
  def pages(query, rows, opts) do
    Options.positive!(:max_rows, rows)

    if query.order_by != [] do
      raise Unsupported,
            "stream: order_by is not supported; a stream is in the order of the primary key, or of the index"
    end

    if query.key_limit do
      raise Unsupported,
            "stream: key_limit is not supported; a page has `max_rows:`, and Enum.take ends a stream"
    end

    Stream.unfold(:start, fn
      :done ->
        nil

      position ->
        position = if position == :start, do: nil, else: position

        {records, next} =
          Transaction.run(query.tenant, fn -> Reader.page(query, position, rows) end, opts)

        {records, next || :done}
    end)
  end

  def await(futures) when is_list(futures), do: Enum.map(futures, &await/1)
  def await(%Future{} = future), do: Future.result(future)

  def await(other),
    do: raise(ArgumentError, "await: expected a future or a list of them, got: #{inspect(other)}")
end
