if Code.ensure_loaded?(Ecto.Adapter) do
  defmodule Ecto.Adapters.FoundationDB.Repo do
    @moduledoc false
    # What the functions that the adapter adds to a Repo do.

    alias EctoFoundationDB.{Connection, Future, Schema, Transaction}
    alias EctoFoundationDB.Exception.{IncorrectTenancy, Unsupported}
    alias EctoFoundationDB.Repo.{Options, Queries, Records, Watches}

    require Ecto.Query

    @doc "The option under which rows go to the adapter, or a reference under which it leaves the future of them."
    def rows_option, do: :ecto_fdb_rows

    @doc """
    Starts a query without waiting. `run` is one of the Repo's functions, given its options: first it leaves the
    future of its rows, and once these are there it makes of them what it gives.
    """
    @spec async((keyword() -> term()), (keyword() -> term())) :: Future.t()
    def async(start, finish) do
      ref = make_ref()
      start.([{rows_option(), {:start, ref}}])

      case Process.delete({__MODULE__, ref}) do
        nil -> raise Unsupported, "this query can't be started without waiting for it"
        future -> Future.apply(future, &finish.([{rows_option(), {:rows, &1}}]))
      end
    end

    @doc "Leaves the future of rows for `async/2`."
    def put_future(ref, future), do: Process.put({__MODULE__, ref}, future)

    def transactional(repo, tenant, fun, opts) do
      unless is_function(fun, 0) or is_function(fun, 1) do
        raise ArgumentError,
              "transactional: expected a function of no or one argument, got: #{inspect(fun)}"
      end

      prefix = if tenant, do: [prefix: tenant], else: []
      instance = Connection.instance(repo)
      opts = Keyword.merge(repo.default_options(:transactional), opts)

      Options.follow_single(instance, fn ->
        tenant = Options.tenant!(instance, prefix)
        Transaction.run(tenant, fun, Keyword.take(opts, Transaction.options()))
      end)
    end

    @doc "A transaction of the Repo's only tenant."
    def transactional(repo, fun) do
      unless Transaction.in?() or Options.single(Connection.instance(repo)) do
        raise IncorrectTenancy,
              "Repo.transactional/1 can only be used with a single-tenant Repo, one with `tenant_id:` in its " <>
                "configuration. Use Repo.transactional/2 with a tenant"
      end

      transactional(repo, nil, fun, [])
    end

    @doc "What all_range gives for a source without a schema and without a select: maps of all fields."
    def async_all_range(repo, source, first, last, opts) when is_binary(source) do
      {conditions, opts} = Queries.range(first, last, opts)
      tenant = Options.tenant!(Connection.instance(repo), Keyword.take(opts, [:prefix]))
      where = for {operator, value} <- conditions, do: {:id, range(operator, value)}

      query =
        EctoFoundationDB.Layer.Query.new(
          tenant,
          EctoFoundationDB.Layer.Source.of(nil, source),
          where,
          key_limit: opts[:key_limit]
        )

      Queries.start(tenant, Keyword.take(opts, Transaction.options()), fn ->
        query
        |> EctoFoundationDB.Layer.Reader.start()
        |> Future.apply(fn records -> for record <- records, do: Map.new(record.data) end)
      end)
    end

    def async_all_range(
          repo,
          %Ecto.Query{from: %{source: {source, nil}}, select: nil, wheres: []} = query,
          first,
          last,
          opts
        ) do
      if query.limit,
        do:
          raise(Unsupported, "all_range of a source with a limit needs a select: `select: [:id]`")

      opts = if query.prefix, do: Keyword.put_new(opts, :prefix, query.prefix), else: opts
      async_all_range(repo, source, first, last, opts)
    end

    def async_all_range(repo, queryable, first, last, opts) do
      {conditions, opts} = Queries.range(first, last, opts)
      query = Ecto.Queryable.to_query(queryable)
      id = primary_key(query)

      query =
        Enum.reduce(conditions, query, fn
          {:>=, value}, query -> Ecto.Query.where(query, [q], field(q, ^id) >= ^value)
          {:>, value}, query -> Ecto.Query.where(query, [q], field(q, ^id) > ^value)
          {:<=, value}, query -> Ecto.Query.where(query, [q], field(q, ^id) <= ^value)
          {:<, value}, query -> Ecto.Query.where(query, [q], field(q, ^id) < ^value)
        end)

      all = fn more -> repo.all(query, more ++ opts) end
      async(all, all)
    end

    defp range(:>=, value), do: {:range, {value, true}, nil}
    defp range(:>, value), do: {:range, {value, false}, nil}
    defp range(:<=, value), do: {:range, nil, {value, true}}
    defp range(:<, value), do: {:range, nil, {value, false}}

    defp primary_key(%{from: %{source: {_source, nil}}}), do: :id
    defp primary_key(%{from: %{source: {_source, schema}}}), do: Schema.primary_key(schema)

    def async_insert_all(repo, schema, structs, opts),
      do: Records.async_insert_all(schema, structs, opts, &repo.insert!(&1, opts))

    def watch(repo, struct, opts), do: Watches.watch(Connection.instance(repo), struct, opts)

    def assign_ready(repo, futures, refs, opts),
      do: Watches.assign_ready(Connection.instance(repo), futures, refs, opts)

    @doc "The code that the adapter adds to a Repo."
    def functions do
      quote unquote: false do
        require Ecto.Query
        alias Ecto.Adapters.FoundationDB.Repo, as: FoundationDBRepo

        @doc "See `Ecto.Adapters.FoundationDB`."
        def transactional(fun), do: FoundationDBRepo.transactional(__MODULE__, fun)

        @doc "See `Ecto.Adapters.FoundationDB`."
        def transactional(tenant, fun, opts \\ []),
          do: FoundationDBRepo.transactional(__MODULE__, tenant, fun, opts)

        for {name, start, arity} <- [
              {:get, :get, 2},
              {:get!, :get, 2},
              {:get_by, :get_by, 2},
              {:get_by!, :get_by, 2},
              {:one, :one, 1},
              {:one!, :one, 1},
              {:all, :all, 1}
            ] do
          args = Macro.generate_arguments(arity, __MODULE__)

          @doc "See `Ecto.Adapters.FoundationDB`."
          def unquote(:"async_#{name}")(unquote_splicing(args), opts \\ []) do
            FoundationDBRepo.async(
              &unquote(start)(unquote_splicing(args), &1 ++ opts),
              &unquote(name)(unquote_splicing(args), &1 ++ opts)
            )
          end
        end

        @doc "See `Ecto.Adapters.FoundationDB`."
        def async_all_by(queryable, by, opts \\ []) do
          query = Ecto.Query.where(queryable, [], ^Enum.to_list(by))
          FoundationDBRepo.async(&all(query, &1 ++ opts), &all(query, &1 ++ opts))
        end

        @doc "See `Ecto.Adapters.FoundationDB`."
        def async_all_range(queryable, first, last, opts \\ []),
          do: FoundationDBRepo.async_all_range(__MODULE__, queryable, first, last, opts)

        @doc "See `Ecto.Adapters.FoundationDB`."
        def all_range(queryable, first, last, opts \\ []),
          do: queryable |> async_all_range(first, last, opts) |> await()

        @doc "See `Ecto.Adapters.FoundationDB`."
        def async_insert_all!(schema, structs, opts \\ []),
          do: FoundationDBRepo.async_insert_all(__MODULE__, schema, structs, opts)

        @doc "See `Ecto.Adapters.FoundationDB`."
        def async_insert_all(schema, structs, opts \\ []),
          do: async_insert_all!(schema, structs, opts)

        @doc "See `Ecto.Adapters.FoundationDB`."
        def await(futures), do: EctoFoundationDB.Repo.Queries.await(futures)

        @doc "See `Ecto.Adapters.FoundationDB`."
        def watch(struct, opts \\ []), do: FoundationDBRepo.watch(__MODULE__, struct, opts)

        @doc "See `Ecto.Adapters.FoundationDB`."
        def assign_ready(futures, refs, opts \\ []),
          do: FoundationDBRepo.assign_ready(__MODULE__, futures, refs, opts)
      end
    end
  end
end
