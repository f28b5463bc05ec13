if Code.ensure_loaded?(Ecto.Adapter) do
  defmodule Ecto.Adapters.FoundationDB.Writes do
    @moduledoc false
    # Inserting, updating and deleting the records of structs: `Ecto.Adapter.Schema`.

    alias Ecto.Adapters.FoundationDB.{Expression, Prepared, Queries}
    alias EctoFoundationDB.{ConflictError, Future, Tenant, Transaction, UniqueError}
    alias EctoFoundationDB.Exception.Unsupported
    alias EctoFoundationDB.Layer.{Conflicts, Ids, Record, Records, Source, Writer}

    defp layout(opts), do: Keyword.take(opts, [:max_single_value_size, :max_value_size])

    @doc "The source of a schema's metadata."
    @spec source(map()) :: Source.t()
    def source(%{schema: schema, source: name}), do: Source.of(schema, name)

    @doc "Inserts one record."
    def insert(tenant, schema_meta, fields, on_conflict, returning, opts) do
      source = source(schema_meta)
      {[data], new} = with_ids([fields], [], source, schema_meta, tenant)
      {on_conflict, target} = on_conflict(on_conflict, source, opts)

      result =
        run(tenant, opts, fn ->
          tenant
          |> Writer.new(source, layout(opts))
          |> Conflicts.put_all([data], on_conflict, target, new)
        end)

      case result do
        # A conflict that the query of `on_conflict:` leaves as it is.
        {:ok, [{:nothing, _data}]} when is_tuple(on_conflict) -> {:error, :stale}
        {:ok, [{:nothing, _data}]} -> {:ok, []}
        {:ok, [{_outcome, data}]} -> {:ok, returning(data, returning)}
        {:error, %UniqueError{} = error} -> invalid(error)
        {:error, error} -> raise exists(error)
      end
    end

    @doc "Inserts many; `placeholders` are values that rows refer to."
    def insert_all(tenant, schema_meta, header, rows, on_conflict, returning, placeholders, opts) do
      source = source(schema_meta)
      {on_conflict, target} = on_conflict(on_conflict, source, opts)
      placeholders = List.to_tuple(placeholders)

      # Every attempt of the transaction has the same ids; how many the rows of a query take is not known yet.
      ids =
        if is_list(rows),
          do: generate(missing(rows, source), source, schema_meta, tenant),
          else: []

      outcomes =
        run(tenant, opts, fn ->
          rows = rows |> rows(header, tenant) |> Enum.map(&filled(&1, placeholders, tenant))
          {rows, new} = with_ids(rows, ids, source, schema_meta, tenant)

          case tenant
               |> Writer.new(source, layout(opts))
               |> Conflicts.put_all(rows, on_conflict, target, new) do
            {:ok, outcomes} -> outcomes
            {:error, %ConflictError{} = error} -> raise exists(error)
            {:error, error} -> raise error
          end
        end)

      stored = for {outcome, data} <- outcomes, outcome != :nothing, do: data
      {length(stored), if(returning != [], do: for(data <- stored, do: values(data, returning)))}
    end

    # The rows of a query, which become records.
    defp rows({%Ecto.Query{} = query, params}, header, tenant) do
      rows = :all |> Prepared.new(query) |> Queries.start(tenant, params, []) |> Future.result()
      for row <- rows, do: Enum.zip(header, row)
    end

    defp rows(rows, _header, _tenant), do: rows

    defp filled(row, placeholders, tenant) do
      for {name, value} <- row do
        case value do
          {:placeholder, index} ->
            {name, elem(placeholders, index - 1)}

          {%Ecto.Query{} = query, params} ->
            rows =
              :all
              |> Prepared.new(query)
              |> Queries.start(tenant, params, offset_params: true)
              |> Future.result()

            {name, rows |> List.first([nil]) |> hd()}

          value ->
            {name, value}
        end
      end
    end

    # The rows with ids, generated where a schema says so, and those of them that are random; all records need
    # one. What is nil is not stored.
    defp with_ids(rows, ids, %{id: id} = source, schema_meta, tenant) do
      more = max(missing(rows, source) - length(ids), 0)
      ids = ids ++ generate(more, source, schema_meta, tenant)

      {rows, _unused} =
        Enum.map_reduce(rows, ids, fn row, ids ->
          {own, row} = Keyword.pop(row, id)
          row = for {name, value} <- row, value != nil, do: {name, value}

          case {own, ids} do
            {nil, [next | ids]} -> {[{id, next} | row], ids}
            {nil, []} -> no_id!(source)
            {own, ids} -> {[{id, own} | row], ids}
          end
        end)

      # Integers may be taken by ids that were given.
      {rows, Enum.reject(ids, &is_integer/1)}
    end

    defp missing(rows, source), do: Enum.count(rows, &is_nil(&1[source.id]))

    defp generate(0, _source, _schema_meta, _tenant), do: []

    defp generate(count, %{id: id} = source, schema_meta, tenant) do
      case Map.get(schema_meta, :autogenerate_id) do
        {_field, ^id, type} ->
          case Ecto.Type.type(type) do
            :id -> Ids.take(tenant, source.name, count)
            :binary_id -> for _ <- 1..count, do: Ecto.UUID.generate()
            _ -> []
          end

        _ ->
          []
      end
    end

    defp no_id!(source) do
      raise Unsupported,
            "FoundationDB Adapter does not support inserting records with nil primary keys, and this record of " <>
              "#{Source.describe(source)} has none, #{inspect(source.id)}. Set it, or let the schema generate it: `autogenerate: true` of :id or :binary_id"
    end

    # What Ecto has made of `on_conflict:` and `conflict_target:`.
    defp on_conflict({action, _params, {:unsafe_fragment, _}}, _source, _opts)
         when action != :raise,
         do:
           raise(
             Unsupported,
             "conflict_target: a fragment; expected fields of a unique index, or the primary key"
           )

    defp on_conflict({action, params, target}, source, opts) do
      blind? = opts[:conflict_target] == []

      case {action, opts[:on_conflict]} do
        {:raise, _} ->
          {if(blind?, do: :blind, else: :raise), []}

        {:nothing, _} ->
          check_blind!(blind?, :nothing)
          {:nothing, target}

        {_fields, :replace_all} ->
          {if(blind?, do: :blind, else: :replace_all), target}

        {_fields, {:replace_all_except, fields}} ->
          check_blind!(blind?, :replace_all_except)
          {{:replace_all_except, Enum.map(fields, &Source.stored(source, &1))}, target}

        {fields, _} when is_list(fields) ->
          check_blind!(blind?, :replace)
          {{:replace, fields}, target}

        {%Ecto.Query{} = query, _} ->
          check_blind!(blind?, query)
          {{:update, update(query, params)}, target}
      end
    end

    defp check_blind!(false, _what), do: :ok

    defp check_blind!(true, what) do
      raise Unsupported,
            "on_conflict: #{inspect(what)} needs to know what is there; with `conflict_target: []` records are written " <>
              "without looking"
    end

    defp update(query, params) do
      prepared = Prepared.new(:update_all, query)

      env =
        Expression.env(params, [prepared.updates, for(where <- prepared.wheres, do: where.expr)])

      change = Queries.change(prepared.updates, env)

      fn data ->
        record = Expression.with_records(env, %{0 => Map.new(data)})
        if Enum.all?(prepared.wheres, &Expression.true?(&1.expr, record)), do: change.(data)
      end
    end

    @doc "Updates one record."
    def update(tenant, schema_meta, fields, filters, returning, opts) do
      {source, id, filters} = find(schema_meta, filters)

      tenant
      |> run(opts, fn ->
        tenant
        |> Writer.new(source)
        |> Records.update(id, fields, filters, own(fields, schema_meta))
      end)
      |> result(returning)
    end

    # What an earlier attempt would have written, timestamps aside.
    defp own(fields, %{schema: nil}), do: fields

    defp own(fields, %{schema: schema}) do
      generated =
        for {names, _} <- schema.__schema__(:autoupdate),
            name <- names,
            do: schema.__schema__(:field_source, name)

      Keyword.drop(fields, generated)
    end

    @doc "Deletes one record."
    def delete(tenant, schema_meta, filters, returning, opts) do
      {source, id, filters} = find(schema_meta, filters)

      tenant
      |> run(opts, fn ->
        tenant |> Writer.new(source, layout(opts)) |> Records.delete(id, filters)
      end)
      |> result(returning)
    end

    defp find(schema_meta, filters) do
      %{id: name} = source = source(schema_meta)
      {ids, filters} = Keyword.split(filters, [name])

      case ids do
        [{^name, id}] ->
          {source, id, filters}

        _ ->
          raise Unsupported,
                "a record of #{Source.describe(source)} is found by its primary key, #{inspect(name)}, alone"
      end
    end

    defp result({:ok, data}, returning), do: {:ok, returning(data, returning)}

    defp result({:error, stale}, _returning) when stale in [:stale, {:stale, :filters}],
      do: {:error, :stale}

    defp result({:error, %UniqueError{} = error}, _returning), do: invalid(error)

    defp invalid(%UniqueError{index: index}), do: {:invalid, [unique: to_string(index)]}

    # Ecto has no exception for this that could be raised without a constraint's name.
    defp exists(%ConflictError{} = error),
      do: Unsupported.exception("Key exists: " <> Exception.message(error))

    defp exists(error), do: error

    defp returning(data, names), do: for(name <- names, do: {name, Record.get(data, name)})
    defp values(data, names), do: for(name <- names, do: Record.get(data, name))

    # An error leaves nothing of what this operation has written, in a transaction of its own.
    @spec run(Tenant.t(), keyword(), (() -> result)) :: result when result: term()
    defp run(tenant, opts, fun),
      do: Transaction.run(tenant, fun, Keyword.take(opts, Transaction.options()))
  end
end
