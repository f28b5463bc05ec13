if Code.ensure_loaded?(Ecto.Adapter) do
  defmodule Ecto.Adapters.FoundationDB.Rows do
    @moduledoc false
    # The rows that a query selects: lists of values, in the order that Ecto wants them in.

    alias Ecto.Adapters.FoundationDB.Expression
    alias EctoFoundationDB.Exception.Unsupported
    alias EctoFoundationDB.Layer.Order

    @doc "A row for each environment."
    @spec rows([Expression.env()], [term()]) :: [[term()]]
    def rows(envs, fields) do
      names = for field <- fields, do: Expression.field(field)

      if Enum.all?(names, &match?({0, _}, &1)) do
        names = for {0, name} <- names, do: name
        for %{records: %{0 => record}} <- envs, do: for(name <- names, do: Map.get(record, name))
      else
        for env <- envs, do: Enum.map(fields, &Expression.value(&1, env))
      end
    end

    @doc "The one row of a query that selects aggregates."
    @spec aggregate([term()], [Expression.env()], Expression.env()) :: [term()]
    def aggregate(fields, envs, env), do: Enum.map(fields, &total(&1, envs, env))

    defp total({:count, _, []}, envs, _env), do: length(envs)

    defp total({:count, _, [expr, :distinct]}, envs, _env),
      do: expr |> values(envs) |> Enum.uniq() |> length()

    defp total({:count, _, [expr]}, envs, _env), do: expr |> values(envs) |> length()
    defp total({:sum, _, [expr]}, envs, _env), do: expr |> values(envs) |> sum()

    defp total({:avg, _, [expr]}, envs, _env) do
      values = values(expr, envs)

      case sum(values) do
        nil -> nil
        float when is_float(float) -> float / length(values)
        number -> Decimal.div(Expression.decimal(number), length(values))
      end
    end

    defp total({:min, _, [expr]}, envs, _env), do: expr |> values(envs) |> extreme(:lt)
    defp total({:max, _, [expr]}, envs, _env), do: expr |> values(envs) |> extreme(:gt)

    defp total({:filter, _, [aggregate, condition]}, envs, env),
      do: total(aggregate, Enum.filter(envs, &Expression.true?(condition, &1)), env)

    defp total(%Ecto.Query.Tagged{value: value, type: type}, envs, env),
      do: Expression.typed(total(value, envs, env), type)

    defp total({name, meta, args} = expr, envs, env) when is_atom(name) and is_list(args) do
      if Expression.bindings(expr) == [],
        do: Expression.value(expr, env),
        else: Expression.value({name, meta, Enum.map(args, &total(&1, envs, env))}, env)
    end

    defp total(expr, _envs, env) do
      if Expression.bindings(expr) != [] do
        raise Unsupported,
              "a select of aggregates and of fields beside them needs group_by, which is not supported: read the " <>
                "records, and use Enum.group_by/2"
      end

      Expression.value(expr, env)
    end

    defp values(expr, envs),
      do:
        for(
          env <- envs,
          value = {Expression.value(expr, env)},
          value != {nil},
          do: elem(value, 0)
        )

    defp sum([]), do: nil

    defp sum(values) do
      if Enum.any?(values, &is_struct(&1, Decimal)),
        do: Enum.reduce(values, Decimal.new(0), &Decimal.add(Expression.decimal(&1), &2)),
        else: Enum.sum(values)
    end

    defp extreme([], _order), do: nil

    defp extreme(values, order),
      do: Enum.reduce(values, fn a, b -> if Order.compare(a, b) == order, do: a, else: b end)
  end
end
