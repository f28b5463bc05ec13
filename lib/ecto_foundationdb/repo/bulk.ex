defmodule EctoFoundationDB.Repo.Bulk do
  @moduledoc false
  # The Repo's functions that write many records.

  alias EctoFoundationDB.{Future, Schema, Transaction, Versionstamp}
  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.{Changes, Metadata, Query, Reader, Record, Values, Writer}
  alias EctoFoundationDB.Repo.{Conflicts, Options, Queries, Records}

  @insert_options [:on_conflict, :conflict_target, :returning]

  def insert_all(repo, schema, rows, opts) do
    opts = Options.validate!(opts, @insert_options)
    Conflicts.check!(schema, opts)
    tenant = Options.tenant!(repo, opts)

    unless is_list(rows) do
      raise ArgumentError, "insert_all: expected a list of rows, got: #{inspect(rows)}"
    end

    rows =
      for row <- rows do
        {data, _values} = Changes.row(schema, row)
        {Changes.stored_id!(schema, data), data}
      end

    Transaction.run(
      tenant,
      fn ->
        case Conflicts.put_all(Writer.new(tenant, schema), rows, opts) do
          {:error, error} ->
            raise error

          {:ok, stored} ->
            {length(stored), returned(schema, stored, tenant, opts)}
        end
      end,
      opts
    )
  end

  # The whole records, also where fields are named.
  defp returned(schema, stored, tenant, opts) do
    if Keyword.get(opts, :returning, false) do
      loader = Values.loader(schema, tenant)
      Enum.map(stored, &Values.load(loader, &1))
    end
  end

  def update_all(repo, queryable, updates, opts) do
    {query, opts} = Queries.query(repo, queryable, opts, [:step])

    set =
      case updates do
        [set: set] when is_list(set) or is_map(set) ->
          set

        _ ->
          raise ArgumentError,
                "update_all: expected `set: [field: value]`, got: #{inspect(updates)}"
      end

    fields = query.schema |> Changes.check!(set) |> Map.keys()

    with [_ | _] = twice <- Enum.map(set, &elem(&1, 0)) -- fields do
      raise ArgumentError, "update_all: #{inspect(twice)} is set more than once"
    end

    # In the order in which they are given.
    set = Values.dump(query.schema, :update_all, set)

    change = fn writer, records, _all? ->
      Enum.each(records, &Writer.update(writer, &1, set))
    end

    run(query, opts, change, fn opts -> rounds(query, fields, set, opts) end)
  end

  # A record that moves on in the index it is found by would be met again. So those that are already what
  # they are to be come first, for they do not move, and then those that are not.
  defp rounds(query, fields, set, opts) do
    index_fields = Transaction.run(query.tenant, fn -> Reader.index_fields(query) end, opts)

    done? = fn %{data: data} ->
      Enum.all?(set, fn {name, value} -> Record.get(data, name) === value end)
    end

    if Enum.any?(fields, &(&1 in index_fields)),
      do: [done?, &(not done?.(&1))],
      else: [fn _record -> true end]
  end

  def delete_all(repo, queryable, opts) do
    {query, opts} = Queries.query(repo, queryable, opts, [:step])

    run(query, opts, fn writer, records, all? ->
      if all?,
        do: Writer.delete_all(writer, records),
        else: Enum.each(records, &Writer.delete(writer, &1))
    end)
  end

  # Has records of a query changed: all of them in one transaction, or with `step:` so many in each, in
  # rounds, of which each takes the records that fulfil its condition.
  defp run(query, opts, change, rounds \\ fn _opts -> [fn _record -> true end] end)

  defp run(%{select: select}, _opts, _change, _rounds) when not is_nil(select) do
    raise Unsupported,
          "select: update_all and delete_all give no records. Read them first, in the same " <>
            "Repo.transactional(tenant, fn -> … end)"
  end

  defp run(query, opts, change, rounds) do
    case Keyword.pop(opts, :step) do
      {nil, opts} ->
        all? = query.where == [] and not Query.limited?(query)

        Transaction.run(
          query.tenant,
          fn ->
            records = Reader.run(query)
            change.(writer(query), records, all?)
            {length(records), nil}
          end,
          opts
        )

      {step, opts} ->
        check_step!(query, step)

        counts =
          for round <- rounds.(opts), do: in_steps(query, step, nil, 0, opts, {round, change})

        {Enum.sum(counts), nil}
    end
  end

  defp in_steps(query, step, position, count, opts, {round, change}) do
    {{changed, next}, step} =
      Transaction.step(
        query.tenant,
        step,
        fn step ->
          {records, next} = Reader.page(query, position, step)
          records = Enum.filter(records, round)
          change.(writer(query), records, false)
          {length(records), next}
        end,
        opts
      )

    if next,
      do: in_steps(query, step, next, count + changed, opts, {round, change}),
      else: count + changed
  end

  defp check_step!(query, step) do
    Options.positive!(:step, step)

    if Query.limited?(query) or query.order_by != [] do
      raise ArgumentError,
            "step: goes through all records of a query; leave `limit:`, `key_limit:` and `order_by:` out"
    end

    if Transaction.in?() do
      raise Unsupported,
            "step: makes a transaction of each step, and this call is inside one: make it outside, or " <>
              "leave `step:` out"
    end
  end

  defp writer(query) do
    {metadata, []} = Metadata.read_for_write(query.tenant, query.source, [])
    %{Writer.new(query.tenant, query.schema) | metadata: metadata}
  end

  def async_insert_all!(repo, schema, structs, opts) do
    opts = Options.validate!(opts, @insert_options)
    Conflicts.check!(schema, opts)
    tenant = Options.tenant!(repo, opts)

    unless Transaction.in?() do
      raise Unsupported,
            "async_insert_all! must be called inside a transaction, whose commit makes the ids: " <>
              "future = Repo.transactional(tenant, fn -> Repo.async_insert_all!(…) end)"
    end

    id_field = Schema.primary_key(schema)
    versionstamps? = Schema.type(schema, id_field) == Versionstamp

    structs =
      for struct <- structs do
        unless is_struct(struct, schema) do
          raise ArgumentError,
                "async_insert_all!: expected structs of #{inspect(schema)}, got: #{inspect(struct)}"
        end

        case Map.get(struct, id_field) do
          nil when versionstamps? ->
            Map.put(struct, id_field, Versionstamp.next())

          id ->
            unless Versionstamp.incomplete?(id) or Conflicts.blind?(schema, opts) do
              raise Unsupported,
                    "async_insert_all! takes structs whose #{inspect(id_field)} is nil and of type " <>
                      "EctoFoundationDB.Versionstamp, or the option `conflict_target: []`, which " <>
                      "overwrites without looking what is there"
            end

            struct
        end
      end

    inserted =
      for struct <- structs, do: Records.insert!(repo, struct, Keyword.put(opts, :prefix, tenant))

    stamp = Versionstamp.get()

    Future.apply(stamp, fn stamp ->
      for struct <- inserted do
        id = Map.get(struct, id_field)

        if Versionstamp.incomplete?(id),
          do: Map.put(struct, id_field, Versionstamp.resolve(id, stamp)),
          else: struct
      end
    end)
  end
end
