if Code.ensure_loaded?(Ecto.Adapter) do
  defmodule Ecto.Adapters.FoundationDB.Conditions do
    @moduledoc false
    # What a query asks of its records, as alternatives, each of which is answered by itself: conditions of which
    # all hold. An `or` makes alternatives, and so does `in`, one for each member.

    alias Ecto.Adapters.FoundationDB.Expression
    alias EctoFoundationDB.Layer.{Query, Source}

    import Ecto.Adapters.FoundationDB.Expression, only: [is_field: 1]

    @typedoc "Planned expressions of which all must be true."
    @type conjunction :: [term()]

    # More alternatives than this are no query that anybody has written.
    @most 10_000

    @doc "The alternatives of a query's `where`s."
    @spec alternatives([struct()], Expression.env()) :: [conjunction()]
    def alternatives(wheres, env) do
      wheres
      |> Enum.reduce(true, fn
        %{expr: expr}, true -> expr
        %{op: op, expr: expr}, all -> {op, [], [all, expr]}
      end)
      |> normal(env)
    end

    @doc "The alternatives of an expression."
    @spec normal(term(), Expression.env()) :: [conjunction()]
    def normal({:and, _, [a, b]}, env) do
      {left, right} = {normal(a, env), normal(b, env)}

      if length(left) * length(right) > @most,
        do: Expression.unsupported("more than #{@most} alternatives")

      for a <- left, b <- right, do: a ++ b
    end

    def normal({:or, _, [a, b]}, env), do: normal(a, env) ++ normal(b, env)
    def normal({:not, _, [{:and, _, [a, b]}]}, env), do: normal({:or, [], [no(a), no(b)]}, env)
    def normal({:not, _, [{:or, _, [a, b]}]}, env), do: normal({:and, [], [no(a), no(b)]}, env)
    def normal({:not, _, [{:not, _, [a]}]}, env), do: normal(a, env)
    def normal({:not, _, [field]}, _env) when is_field(field), do: [[{:==, [], [field, false]}]]
    def normal(field, _env) when is_field(field), do: [[{:==, [], [field, true]}]]

    def normal({:not, _, [{:in, _, [_field, list]}]} = expr, env) do
      if Expression.bindings(list) == [] and Expression.value(list, env) == [],
        do: [[]],
        else: [[expr]]
    end

    def normal(%Ecto.Query.Tagged{value: value}, env), do: normal(value, env)
    def normal(true, _env), do: [[]]
    def normal(false, _env), do: []
    def normal({:^, _, _} = param, env), do: normal(Expression.value(param, env), env)
    def normal(expr, _env), do: [[expr]]

    defp no(expr), do: {:not, [], [expr]}

    @doc """
    The conditions on one binding's fields that an index or the primary key can answer, and the others. What is
    compared with a field may not be of another binding.
    """
    @spec constraints(conjunction(), non_neg_integer(), Source.t(), Expression.env()) ::
            {[{atom(), Query.constraint() | {:in, [term()]}}], conjunction()} | :none
    def constraints(conjunction, binding, source, env) do
      Enum.reduce_while(conjunction, {[], []}, fn expr, {constraints, others} ->
        case constraint(expr, binding, source, env) do
          :none -> {:halt, :none}
          nil -> {:cont, {constraints, others ++ [expr]}}
          constraint -> {:cont, {constraints ++ [constraint], others}}
        end
      end)
    end

    @flipped %{:== => :==, :< => :>, :> => :<, :<= => :>=, :>= => :<=}
    @operators Map.keys(@flipped)

    defp constraint({operator, _, [a, b]}, binding, source, env) when operator in @operators do
      case {Expression.field(a), Expression.field(b)} do
        {{^binding, name}, _} -> compare(operator, name, b, source, env)
        {_, {^binding, name}} -> compare(@flipped[operator], name, a, source, env)
        _ -> nil
      end
    end

    defp constraint({:is_nil, _, [a]}, binding, _source, _env) do
      with {^binding, name} <- Expression.field(a), do: {name, {:eq, nil}}, else: (_ -> nil)
    end

    defp constraint({:not, _, [{:is_nil, _, [a]}]}, binding, _source, _env) do
      with {^binding, name} <- Expression.field(a),
           do: {name, {:range, nil, nil}},
           else: (_ -> nil)
    end

    defp constraint({:in, _, [a, list]}, binding, source, env) do
      with {^binding, name} <- Expression.field(a),
           true <- Expression.bindings(list) == [],
           list when is_list(list) <- Expression.value(list, env) do
        type = Source.type(source, name)
        values = for value <- Enum.uniq(list), value != nil, do: Expression.typed(value, type)
        if values == [], do: :none, else: {name, {:in, values}}
      else
        _ -> nil
      end
    end

    defp constraint(_expr, _binding, _source, _env), do: nil

    defp compare(operator, name, expr, source, env) do
      if Expression.bindings(expr) == [] do
        case Expression.typed(Expression.value(expr, env), Source.type(source, name)) do
          nil -> :none
          value -> {name, range(operator, value)}
        end
      end
    end

    defp range(:==, value), do: {:eq, value}
    defp range(:>, value), do: {:range, {value, false}, nil}
    defp range(:>=, value), do: {:range, {value, true}, nil}
    defp range(:<, value), do: {:range, nil, {value, false}}
    defp range(:<=, value), do: {:range, nil, {value, true}}

    @doc """
    The layer's queries of a conjunction, of one binding: several where a field may have several values. With the
    primary key given, all else is judged by the record.
    """
    @spec queries(conjunction(), non_neg_integer(), Query.t(), Expression.env()) :: [Query.t()]
    def queries(conjunction, binding, %Query{source: source} = query, env) do
      case constraints(conjunction, binding, source, env) do
        :none ->
          []

        {constraints, others} ->
          {by_id, by_fields} = Enum.split_with(constraints, &id?(&1, source))

          if by_id != [] do
            rest =
              for expr <- conjunction, not id_condition?(expr, binding, source, env), do: expr

            for where <- product(by_id), do: query(query, where, rest, binding, env)
          else
            for where <- product(by_fields), do: query(query, where, others, binding, env)
          end
      end
    end

    # Conditions of which each is of one value.
    defp id?({name, {kind, _}}, %{id: id}), do: name == id and kind in [:eq, :in]
    defp id?(_range, _source), do: false

    defp id_condition?(expr, binding, source, env) do
      case constraint(expr, binding, source, env) do
        {_, _} = constraint -> id?(constraint, source)
        _ -> false
      end
    end

    defp product([]), do: [[]]

    defp product([{name, {:in, values}} | rest]),
      do: for(value <- values, more <- product(rest), do: [{name, {:eq, value}} | more])

    defp product([constraint | rest]), do: for(more <- product(rest), do: [constraint | more])

    defp query(query, where, others, binding, env) do
      filter = if others != [], do: {describe(others), &all?(others, binding, &1, env)}

      Query.new(query.tenant, query.source, where,
        order_by: query.order_by,
        limit: query.limit,
        key_limit: query.key_limit,
        filter: filter
      )
    end

    defp all?(exprs, binding, data, env) do
      env = Expression.with_records(env, %{binding => Map.new(data)})
      Enum.all?(exprs, &Expression.true?(&1, env))
    end

    defp describe(exprs), do: Enum.map_join(exprs, " and ", &describe_one/1)

    defp describe_one({operator, _, [a, _b]})
         when operator in [:==, :!=, :<, :>, :<=, :>=, :in, :like, :ilike],
         do: "#{operator} on #{describe_field(a)}"

    defp describe_one({operator, _, _}) when is_atom(operator), do: "#{operator}"
    defp describe_one(_expr), do: "of several fields"

    defp describe_field(expr) do
      case Expression.field(expr) do
        {_binding, name} -> inspect(name)
        nil -> "an expression"
      end
    end
  end
end
