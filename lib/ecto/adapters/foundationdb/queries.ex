if Code.ensure_loaded?(Ecto.Adapter) do
  defmodule Ecto.Adapters.FoundationDB.Queries do
    @moduledoc false
    # Runs prepared queries, in the current transaction.

    alias Ecto.Adapters.FoundationDB.{Conditions, Expression, Joins, Prepared, Rows}
    alias EctoFoundationDB.{Future, Tenant, Transaction}
    alias EctoFoundationDB.Exception.Unsupported
    alias EctoFoundationDB.Layer.{Bulk, Order, Query, Reader, Record}

    import Ecto.Adapters.FoundationDB.Expression, only: [is_field: 1]

    @decode_time {__MODULE__, :decode_time}

    @doc "Starts a query: a future of its rows."
    @spec start(Prepared.t(), Tenant.t(), [term()], keyword()) :: Future.t()
    def start(prepared, tenant, params, opts) do
      env = Expression.env(params, if(opts[:offset_params], do: exprs(prepared), else: []))

      cond do
        prepared.joins != [] ->
          Future.read(fn ->
            prepared |> Joins.run(tenant, env) |> finish(prepared, env, prepared.order, true)
          end)

        counts?(prepared) ->
          case queries(prepared, tenant, env, opts) do
            [query] ->
              query
              |> Reader.start_count()
              |> Future.apply(&[Enum.map(prepared.fields, fn _ -> &1 end)])

            queries ->
              records(prepared, queries, env)
          end

        true ->
          records(prepared, queries(prepared, tenant, env, opts), env)
      end
    end

    defp exprs(prepared) do
      [prepared.fields, prepared.limit | for(where <- prepared.wheres, do: where.expr)] ++
        for {_number, _qual, condition} <- prepared.joins, do: condition
    end

    # Whether nothing but the number of records is asked for.
    defp counts?(%{
           aggregate?: true,
           distinct: nil,
           limit: nil,
           fields: fields,
           sources: %{0 => source}
         }) do
      Enum.all?(fields, fn
        {:count, _, []} -> true
        {:count, _, [field]} when is_field(field) -> Expression.field(field) == {0, source.id}
        _other -> false
      end)
    end

    defp counts?(_prepared), do: false

    defp records(prepared, [], env), do: Future.resolved(finish([], prepared, env, [], false))

    defp records(prepared, queries, env) do
      {sort, limit?} = left(prepared)

      queries
      |> Reader.start()
      |> Future.apply(fn records ->
        records |> Enum.map(&%{0 => &1}) |> finish(prepared, env, sort, limit?)
      end)
    end

    # What is left to do of the order and of the limit.
    defp left(prepared) do
      cond do
        fields_order(prepared) == nil -> {prepared.order, prepared.limit != nil}
        pushed?(prepared) -> {[], false}
        true -> {[], true}
      end
    end

    defp pushed?(prepared), do: prepared.distinct == nil and not prepared.aggregate?

    # The order as the layer has it, of fields; nil where it is of anything else.
    defp fields_order(%{order: order}) do
      fields =
        for {direction, expr} <- order do
          case {direction, Expression.field(expr)} do
            {direction, {0, name}} when direction in [:asc, :asc_nulls_first] -> {:asc, name}
            {direction, {0, name}} when direction in [:desc, :desc_nulls_last] -> {:desc, name}
            _other -> nil
          end
        end

      if nil in fields, do: nil, else: fields
    end

    @doc "The layer's queries of a query without joins."
    @spec queries(Prepared.t(), Tenant.t(), Expression.env(), keyword()) :: [Query.t()]
    def queries(%{sources: %{0 => source}} = prepared, tenant, env, opts) do
      order = fields_order(prepared)
      limit = prepared.limit && Expression.value(prepared.limit, env)

      if is_nil(order) and limit not in [nil, 0] do
        raise Unsupported,
              "order_by with a limit is of fields, with `nil` before all else. Leave the limit out, and take in Elixir"
      end

      query = %Query{
        tenant: tenant,
        source: source,
        order_by: order || [],
        limit: if(pushed?(prepared) or limit == 0, do: limit),
        key_limit: opts[:key_limit] || opts[:limit]
      }

      prepared.wheres
      |> Conditions.alternatives(env)
      |> Enum.uniq()
      |> Enum.flat_map(&Conditions.queries(&1, 0, query, env))
    end

    @doc "The native time that the process's queries have spent with making rows, since this was last asked."
    @spec take_decode_time() :: non_neg_integer() | nil
    def take_decode_time, do: Process.delete(@decode_time)

    # From records by bindings to rows.
    defp finish(found, prepared, env, order, limit?) do
      began = System.monotonic_time()
      rows = make_rows(found, prepared, env, order, limit?)
      spent = System.monotonic_time() - began
      Process.put(@decode_time, Process.get(@decode_time, 0) + spent)
      rows
    end

    defp make_rows(found, prepared, env, order, limit?) do
      envs = for records <- found, do: Expression.with_records(env, fields(records))
      envs = sort(envs, order)

      cond do
        prepared.aggregate? ->
          [Rows.aggregate(prepared.fields, envs, env)]

        prepared.distinct in [nil, false] ->
          envs |> take(prepared, env, limit?) |> Rows.rows(prepared.fields)

        prepared.distinct == true ->
          envs |> Rows.rows(prepared.fields) |> Enum.uniq() |> take(prepared, env, limit?)

        true ->
          envs
          |> Enum.uniq_by(fn env ->
            for {_, expr} <- prepared.distinct, do: Expression.value(expr, env)
          end)
          |> take(prepared, env, limit?)
          |> Rows.rows(prepared.fields)
      end
    end

    defp fields(records) do
      Map.new(records, fn
        {binding, nil} -> {binding, nil}
        {binding, %Record{data: data}} -> {binding, Map.new(data)}
      end)
    end

    defp take(list, %{limit: limit}, env, true) when limit != nil,
      do: Enum.take(list, Expression.value(limit, env))

    defp take(list, _prepared, _env, _limit?), do: list

    defp sort(envs, []), do: envs

    defp sort(envs, order) do
      order = Enum.flat_map(order, fn {direction, expr} -> direction(direction, expr) end)

      Order.sort(envs, order, fn
        env, {:nil?, expr} -> if is_nil(Expression.value(expr, env)), do: 1, else: 0
        env, expr -> Expression.value(expr, env)
      end)
    end

    defp direction(direction, expr) when direction in [:asc, :asc_nulls_first], do: [asc: expr]
    defp direction(direction, expr) when direction in [:desc, :desc_nulls_last], do: [desc: expr]
    defp direction(:asc_nulls_last, expr), do: [asc: {:nil?, expr}, asc: expr]
    defp direction(:desc_nulls_first, expr), do: [desc: {:nil?, expr}, desc: expr]

    @doc "Updates the records of a query: their number, and rows where some are selected."
    @spec update_all(Prepared.t(), Tenant.t(), [term()], keyword()) ::
            {non_neg_integer(), [[term()]] | nil}
    def update_all(prepared, tenant, params, opts) do
      env = Expression.env(params)
      change = change(prepared.updates, env)
      {query, records} = roots(prepared, tenant, env, opts)
      changed = if records == [], do: [], else: Bulk.update_records(query, records, change)
      {length(changed), rows(prepared, changed, env)}
    end

    @doc "Deletes the records of a query: their number, and rows where some are selected."
    @spec delete_all(Prepared.t(), Tenant.t(), [term()], keyword()) ::
            {non_neg_integer(), [[term()]] | nil}
    def delete_all(prepared, tenant, params, opts) do
      env = Expression.env(params)
      {query, records} = roots(prepared, tenant, env, opts)

      all? =
        prepared.joins == [] and match?(%Query{where: [], filter: nil}, query) and
          prepared.wheres == []

      deleted = if records == [], do: [], else: Bulk.delete_records(query, records, all?)
      {length(deleted), rows(prepared, deleted, env)}
    end

    # The records of the first binding, each once.
    defp roots(%{joins: []} = prepared, tenant, env, opts) do
      case queries(prepared, tenant, env, opts) do
        [] -> {nil, []}
        [query | _] = queries -> {query, queries |> Reader.start() |> Future.result()}
      end
    end

    defp roots(prepared, tenant, env, _opts) do
      records = for %{0 => record} <- Joins.run(prepared, tenant, env), do: record
      {%Query{tenant: tenant, source: prepared.sources[0]}, Enum.uniq_by(records, & &1.key)}
    end

    defp rows(%{fields: nil}, _changed, _env), do: nil

    defp rows(prepared, changed, env) do
      envs = for data <- changed, do: Expression.with_records(env, %{0 => Map.new(data)})
      Rows.rows(envs, prepared.fields)
    end

    @doc "Updates or deletes the records of a query in steps, each a transaction of its own; gives their number."
    @spec in_steps(Prepared.t(), Tenant.t(), [term()], keyword()) :: non_neg_integer()
    def in_steps(prepared, tenant, params, opts) do
      env = Expression.env(params)
      {step, opts} = Keyword.pop!(opts, :step)

      case prepared.joins == [] && queries(prepared, tenant, env, opts) do
        [] ->
          0

        [query] ->
          if prepared.operation == :delete_all,
            do: Bulk.delete_in_steps(query, step, Keyword.take(opts, Transaction.options())),
            else:
              Bulk.update_in_steps(
                query,
                step,
                constants(prepared, env),
                Keyword.take(opts, Transaction.options())
              )

        _several_or_joins ->
          raise Unsupported, "step: goes through one range; this query is of several"
      end
    end

    defp constants(prepared, env) do
      for {kind, fields} <- prepared.updates, {name, expr} <- fields do
        if kind != :set or Expression.bindings(expr) != [] do
          raise Unsupported,
                "step: an update in steps sets the same values everywhere (`set:`), for a step may be taken twice"
        end

        {name, Expression.value(expr, env)}
      end
    end

    @doc "What an update sets of a record's fields, as a function of them."
    @spec change([{atom(), keyword()}], Expression.env()) :: (keyword() -> keyword())
    def change(updates, env) do
      fn data ->
        fields = Map.new(data)
        env = Expression.with_records(env, %{0 => fields})

        for {kind, changes} <- updates, {name, expr} <- changes do
          {name, changed(kind, Map.get(fields, name), Expression.value(expr, env))}
        end
      end
    end

    defp changed(:set, _old, value), do: value
    defp changed(_kind, nil, _value), do: nil

    defp changed(:inc, old, value) when is_struct(old, Decimal),
      do: Decimal.add(old, Expression.decimal(value))

    defp changed(:inc, old, value), do: old + value
    defp changed(:push, old, value), do: old ++ [value]
    defp changed(:pull, old, value), do: Enum.reject(old, &(&1 == value))

    @doc "A stream of pages, `{count, rows}`."
    @spec stream(Prepared.t(), Tenant.t(), [term()], keyword()) :: Enumerable.t()
    def stream(prepared, tenant, params, opts) do
      env = Expression.env(params)
      run = Keyword.take(opts, Transaction.options())

      case prepared.joins == [] and not prepared.aggregate? and prepared.distinct == nil and
             queries(prepared, tenant, env, opts) do
        [query] ->
          query
          |> EctoFoundationDB.Repo.Queries.pages(Keyword.get(opts, :max_rows, 500), run)
          |> limited(query.limit)
          |> Stream.map(fn records ->
            rows = records |> Enum.map(&%{0 => &1}) |> finish(prepared, env, [], false)
            {length(rows), rows}
          end)

        _other ->
          Stream.resource(
            fn -> :start end,
            fn
              :done ->
                {:halt, :done}

              :start ->
                rows =
                  Transaction.run(
                    tenant,
                    fn -> prepared |> start(tenant, params, opts) |> Future.result() end,
                    run
                  )

                {[{length(rows), rows}], :done}
            end,
            fn _ -> :ok end
          )
      end
    end

    defp limited(pages, nil), do: pages

    defp limited(pages, limit) do
      Stream.transform(pages, limit, fn
        _records, 0 -> {:halt, 0}
        records, left -> {[Enum.take(records, left)], max(left - length(records), 0)}
      end)
    end
  end
end
