if Code.ensure_loaded?(Ecto.Adapter) do
  defmodule Ecto.Adapters.FoundationDB.Expression do
    @moduledoc false
    # The values of a planned query's expressions, computed from records that were read. As in SQL, nil is
    # unknown: what is compared with it is neither true nor false.

    alias EctoFoundationDB.Exception.Unsupported
    alias EctoFoundationDB.Layer.Order

    @typedoc "The parameters as a tuple, and the fields of each binding's record by its number; nil for none."
    @type env :: %{params: tuple(), records: %{non_neg_integer() => map() | nil}}

    defguard is_field(expr)
             when is_tuple(expr) and tuple_size(expr) == 3 and is_tuple(elem(expr, 0)) and
                    elem(elem(expr, 0), 0) == :.

    @doc "The environment of parameters alone."
    @spec env([term()]) :: env()
    def env(params), do: %{params: List.to_tuple(params), records: %{}}

    @doc """
    The environment of parameters that expressions refer to: of a query within another operation the first has the
    number of those before.
    """
    @spec env([term()], term()) :: env()
    def env(params, exprs) do
      first = exprs |> indexes([]) |> Enum.min(fn -> 0 end)
      env(List.duplicate(nil, first) ++ params)
    end

    defp indexes({:^, _, [index | _]}, found), do: [index | found]
    defp indexes(list, found) when is_list(list), do: Enum.reduce(list, found, &indexes/2)
    defp indexes(%Ecto.Query.Tagged{value: value}, found), do: indexes(value, found)

    defp indexes(tuple, found) when is_tuple(tuple),
      do: tuple |> Tuple.to_list() |> indexes(found)

    defp indexes(_other, found), do: found

    @doc "The same with records."
    @spec with_records(env(), %{non_neg_integer() => map() | nil}) :: env()
    def with_records(env, records), do: %{env | records: records}

    @doc "Whether an expression is true."
    @spec true?(term(), env()) :: boolean()
    def true?(expr, env), do: value(expr, env) == true

    @doc "Binding and stored name of a field."
    @spec field(term()) :: {non_neg_integer(), atom()} | nil
    def field({{:., _, [{:&, _, [binding]}, name]}, _, []}) when is_atom(name),
      do: {binding, name}

    def field(_expr), do: nil

    @doc "The numbers of the bindings that an expression is about."
    @spec bindings(term()) :: [non_neg_integer()]
    def bindings(expr), do: expr |> collect([]) |> Enum.uniq()

    defp collect({{:., _, [{:&, _, [binding]}, _name]}, _, _}, found), do: [binding | found]
    defp collect({:&, _, [binding]}, found), do: [binding | found]

    defp collect({name, _, args}, found) when is_atom(name) and is_list(args),
      do: collect(args, found)

    defp collect(list, found) when is_list(list), do: Enum.reduce(list, found, &collect/2)
    defp collect(%Ecto.Query.Tagged{value: value}, found), do: collect(value, found)
    defp collect({a, b}, found), do: collect(b, collect(a, found))
    defp collect(_other, found), do: found

    @doc "The value of an expression."
    @spec value(term(), env()) :: term()
    def value({{:., _, [{:&, _, [binding]}, name]}, _, []}, %{records: records}) do
      case records do
        %{^binding => %{^name => value}} -> value
        %{^binding => _none} -> nil
      end
    end

    def value({:^, _, [index]}, %{params: params}), do: elem(params, index)

    def value({:^, _, [first, count]}, %{params: params}),
      do: for(index <- first..(first + count - 1)//1, do: elem(params, index))

    def value(%Ecto.Query.Tagged{value: value, type: type}, env),
      do: typed(value(value, env), type)

    def value({:type, _, [expr, type]}, env), do: typed(value(expr, env), type)

    def value({:and, _, [a, b]}, env) do
      case {value(a, env), value(b, env)} do
        {true, true} -> true
        {a, b} when a == false or b == false -> false
        _unknown -> nil
      end
    end

    def value({:or, _, [a, b]}, env) do
      case {value(a, env), value(b, env)} do
        {a, b} when a == true or b == true -> true
        {false, false} -> false
        _unknown -> nil
      end
    end

    def value({:not, _, [a]}, env), do: with(a when not is_nil(a) <- value(a, env), do: not a)
    def value({:is_nil, _, [a]}, env), do: is_nil(value(a, env))
    def value({:==, _, [a, b]}, env), do: compare(a, b, env, [:eq])
    def value({:!=, _, [a, b]}, env), do: compare(a, b, env, [:lt, :gt])
    def value({:<, _, [a, b]}, env), do: compare(a, b, env, [:lt])
    def value({:>, _, [a, b]}, env), do: compare(a, b, env, [:gt])
    def value({:<=, _, [a, b]}, env), do: compare(a, b, env, [:lt, :eq])
    def value({:>=, _, [a, b]}, env), do: compare(a, b, env, [:gt, :eq])

    def value({:in, _, [a, list]}, env) do
      list = value(list, env)

      with a when not is_nil(a) <- value(a, env) do
        if is_list(list),
          do: Enum.any?(list, &(Order.compare(a, like(&1, a)) == :eq)),
          else: unsupported("in #{inspect(list)}")
      end
    end

    def value({operator, _, [a, b]}, env) when operator in [:+, :-, :*, :/] do
      with a when not is_nil(a) <- value(a, env),
           b when not is_nil(b) <- value(b, env),
           do: calculate(operator, a, b)
    end

    # What `ago` has for a count that is no literal.
    def value({:-, _, [a]}, env),
      do: with(a when not is_nil(a) <- value(a, env), do: calculate(:-, 0, a))

    def value({:coalesce, _, [a, b]}, env),
      do: with(nil <- value(a, env), do: value(b, env))

    def value({operator, _, [a, pattern]}, env) when operator in [:like, :ilike] do
      with a when is_binary(a) <- value(a, env),
           pattern when is_binary(pattern) <- value(pattern, env),
           do: Regex.match?(pattern(pattern, operator), a)
    end

    def value({:datetime_add, _, [time, count, interval]}, env) do
      with time when not is_nil(time) <- value(time, env),
           do: add(time, value(count, env), value(interval, env))
    end

    def value({:date_add, _, [date, count, interval]}, env) do
      with date when not is_nil(date) <- value(date, env) do
        date
        |> DateTime.new!(~T[00:00:00])
        |> add(value(count, env), value(interval, env))
        |> DateTime.to_date()
      end
    end

    def value({:json_extract_path, _, [json, path]}, env) do
      Enum.reduce(value(path, env), value(json, env), fn
        _key, nil -> nil
        index, list when is_list(list) and is_integer(index) -> Enum.at(list, index)
        key, %{} = map -> Map.get_lazy(map, key, fn -> atom_key(map, key) end)
        _key, _value -> nil
      end)
    end

    def value(list, env) when is_list(list), do: Enum.map(list, &value(&1, env))

    def value(literal, _env)
        when is_binary(literal) or is_number(literal) or is_atom(literal) or is_struct(literal),
        do: literal

    def value({name, _, _}, _env) when is_atom(name), do: unsupported("#{name}")
    def value(expr, _env), do: unsupported(inspect(expr))

    defp atom_key(map, key),
      do: Enum.find_value(map, fn {k, v} -> if is_atom(k) and "#{k}" == key, do: v end)

    @doc "Raises: an expression is of what only the database itself could compute."
    @spec unsupported(String.t()) :: no_return()
    def unsupported(what) do
      raise Unsupported,
            "FoundationDB Adapter has not implemented support for your query: #{what}. FoundationDB computes " <>
              "nothing; read the records, and compute in Elixir"
    end

    defp compare(a, b, env, results) do
      with a when not is_nil(a) <- value(a, env),
           b when not is_nil(b) <- value(b, env),
           do: Order.compare(a, like(b, a)) in results
    end

    @doc "A time as the kind of another value, with which it is compared; other values as they are."
    @spec like(term(), term()) :: term()
    def like(%DateTime{} = time, %NaiveDateTime{}), do: DateTime.to_naive(time)
    def like(%NaiveDateTime{} = time, %DateTime{}), do: DateTime.from_naive!(time, "Etc/UTC")
    def like(%DateTime{} = time, %Date{}), do: DateTime.to_date(time)
    def like(%NaiveDateTime{} = time, %Date{}), do: NaiveDateTime.to_date(time)
    def like(number, %Decimal{}) when is_number(number), do: decimal(number)
    def like(%Decimal{} = number, other) when is_number(other), do: Decimal.to_float(number)
    def like(value, _other), do: value

    @doc "A time as a field of this type has it."
    @spec typed(term(), term()) :: term()
    def typed(%DateTime{} = time, type) when type in [:naive_datetime, :naive_datetime_usec],
      do: DateTime.to_naive(time)

    def typed(%NaiveDateTime{} = time, type) when type in [:utc_datetime, :utc_datetime_usec],
      do: DateTime.from_naive!(time, "Etc/UTC")

    def typed(%{calendar: _, hour: _, day: _} = time, :date),
      do: Date.new!(time.year, time.month, time.day)

    def typed(value, type) when is_integer(value) and type == :float, do: value * 1.0
    def typed(value, type) when is_number(value) and type in [:string, :binary], do: "#{value}"

    def typed(%Decimal{} = value, type) when type in [:integer, :id],
      do: value |> Decimal.round() |> Decimal.to_integer()

    def typed(%Decimal{} = value, :float), do: Decimal.to_float(value)
    def typed(value, :decimal) when is_number(value), do: decimal(value)
    def typed(value, _type), do: value

    defp calculate(operator, a, b) when is_struct(a, Decimal) or is_struct(b, Decimal) do
      {a, b} = {decimal(a), decimal(b)}

      case operator do
        :+ -> Decimal.add(a, b)
        :- -> Decimal.sub(a, b)
        :* -> Decimal.mult(a, b)
        :/ -> Decimal.div(a, b)
      end
    end

    defp calculate(:+, a, b), do: a + b
    defp calculate(:-, a, b), do: a - b
    defp calculate(:*, a, b), do: a * b
    defp calculate(:/, a, b) when is_integer(a) and is_integer(b), do: div(a, b)
    defp calculate(:/, a, b), do: a / b

    @doc "A number as a decimal."
    @spec decimal(number() | Decimal.t()) :: Decimal.t()
    def decimal(%Decimal{} = decimal), do: decimal
    def decimal(integer) when is_integer(integer), do: Decimal.new(integer)
    def decimal(float) when is_float(float), do: Decimal.from_float(float)

    defp pattern(pattern, operator) do
      source =
        Regex.replace(~r/[\\].|[%_]|[^\\%_]+/s, pattern, fn
          "%" -> ".*"
          "_" -> "."
          "\\" <> escaped -> Regex.escape(escaped)
          text -> Regex.escape(text)
        end)

      Regex.compile!("\\A#{source}\\z", if(operator == :ilike, do: "sui", else: "su"))
    end

    @seconds %{"second" => 1, "minute" => 60, "hour" => 3600, "day" => 86_400, "week" => 604_800}

    defp add(time, count, interval) do
      count = number(count)

      case interval do
        "year" -> add_months(time, count * 12)
        "month" -> add_months(time, count)
        "millisecond" -> time.__struct__.add(time, round(count), :millisecond)
        "microsecond" -> time.__struct__.add(time, round(count), :microsecond)
        _ -> add_seconds(time, count * Map.fetch!(@seconds, interval))
      end
    end

    defp add_seconds(time, seconds) when is_integer(seconds),
      do: time.__struct__.add(time, seconds, :second)

    defp add_seconds(time, seconds),
      do: time.__struct__.add(time, round(seconds * 1_000_000), :microsecond)

    defp add_months(time, months) do
      index = time.year * 12 + time.month - 1 + round(months)
      {year, month} = {Integer.floor_div(index, 12), Integer.mod(index, 12) + 1}
      day = min(time.day, Calendar.ISO.days_in_month(year, month))
      %{time | year: year, month: month, day: day}
    end

    defp number(%Decimal{} = decimal), do: Decimal.to_float(decimal)
    defp number(number), do: number
  end
end
