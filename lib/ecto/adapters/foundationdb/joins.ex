if Code.ensure_loaded?(Ecto.Adapter) do
  defmodule Ecto.Adapters.FoundationDB.Joins do
    @moduledoc false
    # Joins: the records of one binding are read first, those of the others for each of them, by a primary key or
    # an index that the join's condition gives the values of. Reads of one binding are in flight together. What
    # else is asked of joined records is judged after they have been read.
    #
    # Inner joins may be read in any order: the first is the binding whose own conditions an index answers.

    alias Ecto.Adapters.FoundationDB.{Conditions, Expression}
    alias EctoFoundationDB.{Future, Tenant}
    alias EctoFoundationDB.Exception.Unsupported
    alias EctoFoundationDB.Layer.{Query, Reader, Record, Source}

    @typep found :: %{non_neg_integer() => Record.t() | nil}

    @doc "The records that fit together, by the numbers of their bindings."
    @spec run(Ecto.Adapters.FoundationDB.Prepared.t(), Tenant.t(), Expression.env()) :: [found()]
    def run(prepared, tenant, env) do
      job = %{tenant: tenant, env: env, sources: prepared.sources}
      left = for {number, :left, condition} <- prepared.joins, do: {number, condition}
      left_numbers = Enum.map(left, &elem(&1, 0))

      inner =
        for {_number, :inner, condition} <- prepared.joins,
            Enum.all?(Expression.bindings(condition), &(&1 not in left_numbers)),
            do: condition

      # Joins that follow a left join, and depend on it, are read in their place.
      late =
        for {number, :inner, condition} <- prepared.joins,
            Enum.any?(Expression.bindings(condition), &(&1 in left_numbers)),
            do: {number, condition}

      prepared.wheres
      |> Conditions.alternatives(env)
      |> Enum.flat_map(&alternative(&1, inner, left, late, job))
      |> Enum.uniq_by(fn found ->
        for {number, record} <- found, do: {number, record && record.key}
      end)
    end

    defp alternative(wheres, inner, left, late, job) do
      outer = Enum.map(left ++ late, &elem(&1, 0))

      {about_outer, wheres} =
        Enum.split_with(wheres, &(Expression.bindings(&1) -- outer != Expression.bindings(&1)))

      for conditions <-
            Conditions.normal(Enum.reduce(inner, true, &{:and, [], [&1, &2]}), job.env),
          found <-
            inner(
              wheres ++ conditions,
              Map.keys(job.sources) -- outer,
              left,
              late,
              about_outer,
              job
            ),
          do: found
    end

    defp inner(conditions, numbers, left, late, about_outer, job) do
      {number, queries, used} = first(conditions, numbers, job)

      found =
        case queries do
          [] ->
            []

          queries ->
            for record <- queries |> Reader.start() |> Future.result(), do: %{number => record}
        end

      found
      |> filter(used, [number], job)
      |> more(conditions, numbers -- [number], job)
      |> outer(left, :left, job)
      |> outer(late, :inner, job)
      |> judge(about_outer, job)
    end

    # The binding to begin with: of those whose own conditions a get or a range answers, that of the most
    # promising ones; else the first, of which the error is then.
    defp first(conditions, numbers, job) do
      candidates =
        for number <- numbers,
            own = Enum.filter(conditions, &(Expression.bindings(&1) == [number])),
            rank = rank(own, number, job),
            rank < 3 or number == 0,
            do: {rank, number, own}

      starts = for {_rank, number, own} <- Enum.sort(candidates), do: start(own, number, job)

      Enum.find(starts, fn {_number, queries, _used} -> Enum.all?(queries, &Reader.answers?/1) end) ||
        Enum.find(starts, fn {number, _queries, _used} -> number == 0 end)
    end

    # 0: a get, 1: an equality, 2: a range, 3: all records.
    defp rank(own, number, job) do
      source = job.sources[number]

      case Conditions.constraints(own, number, source, job.env) do
        :none ->
          0

        {constraints, _others} ->
          constraints
          |> Enum.map(fn
            {name, {kind, _}} when kind in [:eq, :in] -> if name == source.id, do: 0, else: 1
            _range -> 2
          end)
          |> Enum.min(fn -> 3 end)
      end
    end

    # Conditions that its records can be found by; others are judged by them.
    defp start(own, number, job) do
      source = job.sources[number]
      query = Query.new(job.tenant, source)

      usable =
        Enum.filter(own, fn expr ->
          match?({[_], []}, Conditions.constraints([expr], number, source, job.env)) or
            Conditions.constraints([expr], number, source, job.env) == :none
        end)

      {number, Conditions.queries(usable, number, query, job.env), own -- usable}
    end

    # The other bindings, each when what it is joined by has been read.
    defp more(found, _conditions, [], _job), do: found
    defp more([], _conditions, _numbers, _job), do: []

    defp more(found, conditions, numbers, job) do
      done = found |> hd() |> Map.keys()

      number =
        Enum.find(numbers, fn number -> links(conditions, number, done, job) != [] end) ||
          not_linked!(job.sources[hd(numbers)])

      found
      |> join(number, conditions, :inner, job)
      |> more(conditions, numbers -- [number], job)
    end

    # The conditions that give a field of a binding the value of one that has been read:
    # `{stored name, expression}`.
    defp links(conditions, number, done, _job) do
      for {:==, _, [a, b]} <- conditions,
          {field, other} <- [{a, b}, {b, a}],
          {^number, name} <- [Expression.field(field)],
          Expression.bindings(other) != [],
          Expression.bindings(other) -- done == [],
          do: {name, other}
    end

    defp join(found, number, conditions, qual, job) do
      source = job.sources[number]
      done = found |> hd() |> Map.keys()
      links = best(links(conditions, number, done, job), source)
      if links == [], do: not_linked!(source)
      known = [number | done]

      judged =
        for expr <- conditions,
            number in Expression.bindings(expr),
            Expression.bindings(expr) -- known == [],
            do: expr

      # Each value is read once.
      values = for records <- found, do: link_values(links, records, source, job)

      futures =
        for value <- Enum.uniq(values), nil not in value, into: %{} do
          where = for {{name, _}, value} <- Enum.zip(links, value), do: {name, {:eq, value}}
          {value, Reader.start(Query.new(job.tenant, source, where))}
        end

      results = Map.new(futures, fn {value, future} -> {value, Future.result(future)} end)

      Enum.flat_map(Enum.zip(found, values), fn {records, value} ->
        joined = for record <- Map.get(results, value, []), do: Map.put(records, number, record)

        case {filter(joined, judged, known, job), qual} do
          {[], :left} -> [Map.put(records, number, nil)]
          {joined, _} -> joined
        end
      end)
    end

    # By the primary key alone, where that is one of them; each field once.
    defp best(links, source) do
      case Enum.find(links, fn {name, _} -> name == source.id end) do
        nil -> Enum.uniq_by(links, &elem(&1, 0))
        link -> [link]
      end
    end

    defp link_values(links, records, source, job) do
      env = env(records, job)

      for {name, expr} <- links,
          do: Expression.typed(Expression.value(expr, env), Source.type(source, name))
    end

    defp outer([], _joins, _qual, _job), do: []

    defp outer(found, joins, qual, job) do
      Enum.reduce(joins, found, fn
        _join, [] ->
          []

        {number, condition}, found ->
          [conditions] = Conditions.normal(condition, job.env)
          join(found, number, conditions, qual, job)
      end)
    end

    defp judge(found, conditions, job),
      do: Enum.filter(found, fn records -> all?(conditions, records, job) end)

    # Judges by the conditions that are of these bindings alone.
    defp filter(found, conditions, known, job) do
      conditions = Enum.filter(conditions, &(Expression.bindings(&1) -- known == []))
      judge(found, conditions, job)
    end

    defp all?(conditions, records, job) do
      env = env(records, job)
      Enum.all?(conditions, &Expression.true?(&1, env))
    end

    defp env(records, job) do
      Expression.with_records(
        job.env,
        Map.new(records, fn {number, record} -> {number, record && Map.new(record.data)} end)
      )
    end

    defp not_linked!(source) do
      raise Unsupported,
            "FoundationDB Adapter has not implemented support for your query: #{Source.describe(source)} is joined by " <>
              "a condition that gives none of its fields a value. A join is by a primary key or by an index, " <>
              "`on: c.post_id == p.id`; else read both, in one transaction, and join in Elixir"
    end
  end
end
