if Code.ensure_loaded?(Ecto.Adapter) do
  defmodule Ecto.Adapters.FoundationDB.Prepared do
    @moduledoc false
    # A planned query, taken apart once: what it reads, in which order it gives it, and what it selects. What no
    # get or range can answer is refused here.

    alias Ecto.Adapters.FoundationDB.Expression
    alias EctoFoundationDB.Exception.Unsupported
    alias EctoFoundationDB.Layer.Source

    defstruct [
      :operation,
      # The sources of all bindings, by their numbers.
      :sources,
      # The tenant that the query names, or nil.
      :prefix,
      # `{number, :inner | :left, condition}`
      :joins,
      :wheres,
      # `[{direction, expression}]`
      :order,
      :limit,
      :distinct,
      # The expressions of a row; nil where no rows are asked for.
      :fields,
      :aggregate?,
      :updates,
      # The planned query, for logs.
      :query
    ]

    @type t :: %__MODULE__{}

    @aggregates [:count, :sum, :avg, :min, :max]

    @doc "Takes a normalized query apart."
    @spec new(:all | :update_all | :delete_all, Ecto.Query.t()) :: t()
    def new(operation, query) do
      refuse(query)
      fields = query.select && query.select.fields

      %__MODULE__{
        operation: operation,
        sources: sources(query),
        prefix: prefix(query),
        joins: Enum.map(query.joins, &join/1),
        wheres: query.wheres,
        order: order(query),
        limit: query.limit && query.limit.expr,
        distinct: query.distinct && query.distinct.expr,
        fields: fields,
        aggregate?: fields != nil and Enum.any?(fields, &aggregate?/1),
        updates: for(%{expr: expr} <- query.updates, update <- expr, do: update),
        query: query
      }
    end

    @refused [
      group_bys: "group_by: read the records, and use Enum.group_by/2",
      havings: "having: read the records, and filter what Enum.group_by/2 gives",
      offset:
        "offset: FoundationDB would read all that is left out. Begin after the last record of the page before: " <>
          "`where: x.id > ^last_id, limit: ^n`",
      combinations: "union, except, intersect: run the queries, and combine their results",
      lock: "lock: transactions are serializable without; leave it out",
      windows: "windows: read the records, and compute in Elixir",
      with_ctes: "with_cte: run the queries one after the other, in one transaction"
    ]

    defp refuse(query) do
      for {name, what} <- @refused, Map.get(query, name) not in [nil, []] do
        raise Unsupported,
              "FoundationDB Adapter has not implemented support for your query: #{what}"
      end

      if query.limit && Map.get(query.limit, :with_ties) do
        raise Unsupported, "with_ties: read without a limit, and take what you need in Elixir"
      end

      for %{subqueries: [_ | _]} <- query.wheres, do: subquery!()
    end

    defp subquery! do
      raise Unsupported,
            "FoundationDB Adapter has not implemented support for your query: it has a sub-query. Run it first, and " <>
              "give its result to the other, in one transaction: `where: x.id in ^ids`"
    end

    defp sources(query) do
      for %{source: source} = from_or_join <- [query.from | query.joins], into: %{} do
        {Map.get(from_or_join, :ix) || 0, source(source)}
      end
    end

    defp source({name, schema}) when is_binary(name), do: Source.of(schema, name)
    defp source(%Ecto.SubQuery{}), do: subquery!()
    defp source({:fragment, _, _}), do: Expression.unsupported("a fragment as a source")
    defp source(_other), do: Expression.unsupported("a source that is no schema")

    defp prefix(query) do
      query.sources
      |> Tuple.to_list()
      |> Enum.flat_map(fn
        {_source, _schema, prefix} -> List.wrap(prefix)
        _other -> []
      end)
      |> Enum.uniq_by(&identity/1)
      |> case do
        [] ->
          nil

        [prefix] ->
          prefix

        _several ->
          raise EctoFoundationDB.Exception.IncorrectTenancy, "the query is of several tenants"
      end
    end

    defp identity(%{id: id, repo: repo}), do: {id, repo}
    defp identity(other), do: other

    defp join(%{qual: qual, ix: number, on: %{expr: condition} = on})
         when qual in [:inner, :left] do
      if Map.get(on, :subqueries, []) != [], do: subquery!()
      {number, qual, condition}
    end

    defp join(%{qual: qual}) do
      raise Unsupported,
            "FoundationDB Adapter has not implemented support for your query: a #{qual} join. An inner or a left join " <>
              "by a primary key or an index is supported; else read both, in one transaction, and join in Elixir"
    end

    defp order(query) do
      for %{expr: exprs} <- query.order_bys, {direction, expr} <- exprs do
        case expr do
          {:selected_as, _, _} ->
            Expression.unsupported("order_by selected_as; order by the field")

          _ ->
            {direction, expr}
        end
      end
    end

    defp aggregate?({name, _, _}) when name in @aggregates, do: true
    defp aggregate?({:filter, _, _}), do: true
    defp aggregate?({_name, _, args}) when is_list(args), do: Enum.any?(args, &aggregate?/1)
    defp aggregate?(%Ecto.Query.Tagged{value: value}), do: aggregate?(value)
    defp aggregate?(_other), do: false

    @verbs %{all: "SELECT", update_all: "UPDATE", delete_all: "DELETE"}

    @doc "A query in words, for logs: made where somebody reads them only, since that takes longer than a get."
    @spec text(t()) :: String.t()
    def text(%__MODULE__{operation: operation, query: query}) do
      names =
        for %{source: {name, _}} when is_binary(name) <- [query.from | query.joins], do: name

      conditions = for %{expr: expr} <- query.wheres, do: Macro.to_string(readable(expr))
      where = if conditions == [], do: "", else: " WHERE #{Enum.join(conditions, " AND ")}"
      "#{@verbs[operation]} #{Enum.join(names, ", ")}#{where}"
    end

    # Bindings as `&0`, without what the planner knows of fields.
    defp readable(%Ecto.Query.Tagged{value: value}), do: readable(value)
    defp readable({:., _, args}), do: {:., [], readable(args)}

    defp readable({name, _meta, args}) when is_list(args),
      do: {readable(name), [no_parens: true], readable(args)}

    defp readable(list) when is_list(list), do: Enum.map(list, &readable/1)
    defp readable(literal) when is_struct(literal), do: inspect(literal)
    defp readable(other), do: other
  end
end
