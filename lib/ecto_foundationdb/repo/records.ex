defmodule EctoFoundationDB.Repo.Records do
  @moduledoc false
  # The write functions of the plain Repo: between structs and the records of `EctoFoundationDB.Layer`.

  alias EctoFoundationDB.{Future, Schema, StaleEntryError, Transaction, Values, Versionstamp}
  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.{Bulk, Conflicts, Record, Records, Source, Writer}
  alias EctoFoundationDB.Repo.{Changes, Options, Queries}

  @insert [:on_conflict, :conflict_target, :returning]

  def insert(repo, %schema{} = struct, opts) do
    {opts, on_conflict, target} = insert_options!(schema, opts, @insert)
    tenant = Options.tenant!(repo, opts, struct)
    random? = Changes.random_id?(struct)
    # Every attempt of the transaction has the same generated id.
    struct = Changes.generate_id(struct, tenant)
    {data, generated} = Changes.insert(struct)
    source = Source.of(schema)
    new = if random?, do: [Record.get(data, source.id)], else: []

    Transaction.run(
      tenant,
      fn ->
        writer = Writer.new(tenant, source)

        with {:ok, [{_outcome, stored}]} <-
               Conflicts.put_all(writer, [data], on_conflict, target, new) do
          inserted = struct |> Map.merge(generated) |> Schema.put_meta(tenant)
          {:ok, returning(inserted, stored, tenant, opts)}
        end
      end,
      opts
    )
  end

  def insert(_repo, other, _opts), do: Options.plain!(other)

  def insert!(repo, struct, opts), do: bang(insert(repo, struct, opts))

  defp bang({:ok, result}), do: result
  defp bang({:error, error}), do: raise(error)

  # Validates the conflict options of an insert, before anything is written.
  defp insert_options!(schema, opts, known) do
    Options.plain!(schema)
    opts = Options.validate!(opts, known)
    check_returning!(schema, opts)
    on_conflict = on_conflict!(schema, Keyword.get(opts, :on_conflict, :raise))
    target = Keyword.get(opts, :conflict_target)

    cond do
      target == [] and on_conflict in [:raise, :replace_all] ->
        {opts, :blind, []}

      target == [] or not Source.of(schema).write_primary? ->
        if on_conflict not in [:raise, :replace_all] do
          raise Unsupported,
                "on_conflict: #{inspect(on_conflict)} requires reading the existing record, but with `conflict_target: []`, " <>
                  "and with a schema's `write_primary: false`, records are written without reading"
        end

        {opts, on_conflict, []}

      true ->
        fields = List.wrap(target)
        Changes.known!(schema, "conflict_target", fields)
        {opts, on_conflict, Enum.map(fields, &Schema.field_source(schema, &1))}
    end
  end

  defp on_conflict!(_schema, simple) when simple in [:raise, :nothing, :replace_all], do: simple

  defp on_conflict!(schema, {action, fields})
       when action in [:replace, :replace_all_except] and is_list(fields) do
    Changes.known!(schema, "on_conflict", fields)
    {action, Enum.map(fields, &Schema.field_source(schema, &1))}
  end

  defp on_conflict!(_schema, other) do
    raise ArgumentError,
          "on_conflict: expected :raise, :nothing, :replace_all, {:replace, fields} or " <>
            "{:replace_all_except, fields}, got: #{inspect(other)}"
  end

  def update(repo, %schema{} = struct, changes, opts) do
    Options.plain!(struct)
    changes = Changes.check!(schema, changes)
    opts = Options.validate!(opts, [:returning])
    check_returning!(schema, opts)
    tenant = Options.tenant!(repo, opts, struct)
    id = Schema.id!(struct)

    case Changes.update(schema, changes) do
      {[], _} ->
        {:ok, struct}

      {data, values} ->
        # The record that an earlier attempt would have written, except for timestamps.
        own = Values.dump(schema, :update, changes)

        Transaction.run(
          tenant,
          fn ->
            tenant
            |> Writer.new(Source.of(schema))
            |> Records.update(id, data, [], own)
            |> result(
              struct |> Map.merge(values) |> Schema.put_meta(tenant),
              :update,
              {tenant, opts}
            )
          end,
          opts
        )
    end
  end

  def update(_repo, other, _changes, _opts), do: Options.plain!(other)

  def update!(repo, struct, changes, opts), do: bang(update(repo, struct, changes, opts))

  def delete(repo, %schema{} = struct, opts) do
    Options.plain!(struct)
    opts = Options.validate!(opts, [:returning])
    check_returning!(schema, opts)
    tenant = Options.tenant!(repo, opts, struct)
    id = Schema.id!(struct)

    Transaction.run(
      tenant,
      fn ->
        tenant
        |> Writer.new(Source.of(schema))
        |> Records.delete(id)
        |> result(Schema.put_meta(struct, tenant, :deleted), :delete, {tenant, opts})
      end,
      opts
    )
  end

  def delete(_repo, other, _opts), do: Options.plain!(other)

  def delete!(repo, struct, opts), do: bang(delete(repo, struct, opts))

  defp result({:ok, stored}, struct, _action, {tenant, opts}),
    do: {:ok, returning(struct, stored, tenant, opts)}

  defp result({:error, :stale}, %schema{} = struct, action, _returning),
    do: {:error, %StaleEntryError{schema: schema, id: Schema.id!(struct), action: action}}

  defp result({:error, error}, _struct, _action, _returning), do: {:error, error}

  defp check_returning!(schema, opts) do
    case Keyword.get(opts, :returning, false) do
      returning when is_boolean(returning) ->
        :ok

      fields when is_list(fields) ->
        Changes.known!(schema, "returning", fields)

      other ->
        raise ArgumentError, "returning: expected true, false or fields, got: #{inspect(other)}"
    end
  end

  # The struct with the stored values in place of its own, in the fields of `returning:`. An id that the commit
  # creates stays as it is.
  defp returning(%schema{} = struct, stored, tenant, opts) do
    case Keyword.get(opts, :returning, false) do
      false ->
        struct

      _ when stored == [] ->
        struct

      returning ->
        fields = if returning == true, do: Schema.fields(schema), else: returning
        loaded = Values.load(Values.loader(schema, tenant), stored)
        Map.merge(struct, Map.take(loaded, fields))
    end
  end

  def insert_all(repo, schema, rows, opts) do
    {opts, on_conflict, target} = insert_options!(schema, opts, @insert)
    tenant = Options.tenant!(repo, opts)

    unless is_list(rows) do
      raise ArgumentError, "insert_all: expected a list of rows, got: #{inspect(rows)}"
    end

    {rows, new} = rows |> Enum.map(&Changes.row(schema, &1, tenant)) |> Enum.unzip()
    new = Enum.concat(new)

    Transaction.run(
      tenant,
      fn ->
        writer = Writer.new(tenant, Source.of(schema))

        case Conflicts.put_all(writer, rows, on_conflict, target, new) do
          {:error, error} ->
            raise error

          {:ok, outcomes} ->
            stored = for {outcome, data} <- outcomes, outcome != :nothing, do: data

            loader = if Keyword.get(opts, :returning, false), do: Values.loader(schema, tenant)
            # The whole records, even if only some fields are named.
            {length(stored), loader && Enum.map(stored, &Values.load(loader, &1))}
        end
      end,
      opts
    )
  end

  def update_all(repo, queryable, updates, opts) do
    {query, opts} = Queries.query(repo, queryable, opts, [:step])
    schema = query.source.schema

    set =
      case updates do
        [set: set] when is_list(set) or is_map(set) ->
          set

        _ ->
          raise ArgumentError,
                "update_all: expected `set: [field: value]`, got: #{inspect(updates)}"
      end

    fields = schema |> Changes.check!(set) |> Map.keys()

    with [_ | _] = twice <- Enum.map(set, &elem(&1, 0)) -- fields do
      raise ArgumentError, "update_all: #{inspect(twice)} is set more than once"
    end

    # In the given order.
    set = Values.dump(schema, :update_all, set)

    case Keyword.pop(opts, :step) do
      {nil, opts} ->
        update = fn -> Bulk.update([query], fn _data -> set end) end
        {length(Transaction.run(query.tenant, update, opts)), nil}

      {step, opts} ->
        {Bulk.update_in_steps(query, step, set, opts), nil}
    end
  end

  def delete_all(repo, queryable, opts) do
    {query, opts} = Queries.query(repo, queryable, opts, [:step])

    case Keyword.pop(opts, :step) do
      {nil, opts} ->
        {length(Transaction.run(query.tenant, fn -> Bulk.delete([query]) end, opts)), nil}

      {step, opts} ->
        {Bulk.delete_in_steps(query, step, opts), nil}
    end
  end

  def async_insert_all!(repo, schema, structs, opts) do
    insert_options!(schema, opts, @insert)
    async_insert_all(schema, structs, opts, &insert!(repo, &1, opts))
  end

  @doc """
  Inserts structs whose ids the commit creates, with `insert`. Returns a future of the structs with their ids.
  """
  def async_insert_all(schema, structs, opts, insert) do
    unless Transaction.in?() do
      raise Unsupported,
            "async_insert_all! must be called inside a transaction, whose commit creates the ids: " <>
              "future = Repo.transactional(tenant, fn -> Repo.async_insert_all!(…) end)"
    end

    id_field = Schema.primary_key(schema)
    structs = for struct <- structs, do: with_id(schema, id_field, struct, opts)
    tenant = Transaction.tenant!()
    inserted = for struct <- structs, do: struct |> insert.() |> Schema.put_tenant(tenant)

    Future.apply(Versionstamp.get(), fn stamp ->
      for struct <- inserted do
        id = Map.get(struct, id_field)

        if Versionstamp.incomplete?(id),
          do: Map.put(struct, id_field, Versionstamp.resolve(id, stamp)),
          else: struct
      end
    end)
  end

  defp with_id(schema, id_field, struct, opts) do
    unless is_struct(struct, schema) do
      raise ArgumentError,
            "async_insert_all!: expected structs of #{inspect(schema)}, got: #{inspect(struct)}"
    end

    case Map.get(struct, id_field) do
      nil ->
        if Source.versionstamps?(Source.of(schema)),
          do: Map.put(struct, id_field, Versionstamp.next(:current)),
          else: refuse_id(id_field, opts, struct)

      id ->
        if Versionstamp.incomplete?(id), do: struct, else: refuse_id(id_field, opts, struct)
    end
  end

  defp refuse_id(id_field, opts, struct) do
    unless Keyword.get(opts, :conflict_target) == [] or
             not Source.of(struct.__struct__).write_primary? do
      raise Unsupported,
            "async_insert_all! takes structs whose #{inspect(id_field)} is nil and of type " <>
              "EctoFoundationDB.Versionstamp, or the option `conflict_target: []`, which " <>
              "overwrites without checking for an existing record"
    end

    struct
  end
end
