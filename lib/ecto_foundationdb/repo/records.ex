defmodule EctoFoundationDB.Repo.Records do
  @moduledoc false
  # The Repo's functions that write.

  alias EctoFoundationDB.{
    ConflictError,
    Future,
    Schema,
    StaleEntryError,
    Transaction,
    Versionstamp
  }

  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.{Keys, Metadata, Reader, Record, Writer}
  alias EctoFoundationDB.Repo.{Changeset, Options, Queries}

  def insert(repo, struct_or_changeset, opts) do
    with {:ok, %schema{} = struct, given} <- Changeset.check(repo, :insert, struct_or_changeset) do
      opts = Options.validate!(opts, [:on_conflict, :conflict_target, :returning])
      tenant = Options.tenant!(repo, opts, struct)
      # Every attempt of the transaction has the same generated id.
      struct = Schema.generate_id(struct, given)

      transaction(tenant, given, opts, fn given ->
        {changes, virtual} = Changeset.changes(given)
        {data, values} = Schema.insert_data(struct, changes)
        id = stored_id!(schema, data)

        fn ->
          with {:ok, _} <- put(writer(tenant, schema), id, data, opts) do
            {:ok, struct |> Map.merge(virtual) |> Map.merge(values) |> Schema.put_meta(tenant)}
          end
        end
      end)
    end
  end

  # Runs what `plan` gives in a transaction. Where the changeset has functions to be called in it,
  # the plan is made after them; else before, once for all attempts.
  defp transaction(tenant, given, opts, plan) do
    run =
      if Changeset.prepared?(given) do
        fn ->
          with {:ok, given} <- Changeset.prepare(given), do: plan.(given).()
        end
      else
        plan.(given)
      end

    Transaction.run(
      tenant,
      fn ->
        # What those functions have written is not to be committed without it.
        with {:error, error} <- run.(), do: throw({__MODULE__, error})
      end,
      opts
    )
  catch
    {__MODULE__, error} -> {:error, error}
  end

  def insert!(repo, struct_or_changeset, opts),
    do: Changeset.bang(insert(repo, struct_or_changeset, opts), :insert)

  def insert_all(repo, schema, rows, opts) do
    opts = Options.validate!(opts, [:on_conflict, :conflict_target, :returning])
    tenant = Options.tenant!(repo, opts)

    rows =
      for row <- rows do
        row =
          if is_struct(row), do: row |> Map.take(Schema.fields(schema)) |> drop_nils(), else: row

        {data, values} = Schema.row_data(schema, row)
        {stored_id!(schema, data), data, values}
      end

    Transaction.run(
      tenant,
      fn ->
        case put_all(writer(tenant, schema), rows, opts) do
          {:error, error} ->
            raise error

          count ->
            structs =
              if opts[:returning],
                do: Enum.map(rows, fn {_, data, _} -> Schema.loader(schema, tenant).(data) end)

            {count, structs}
        end
      end,
      opts
    )
  end

  defp drop_nils(fields),
    do: fields |> Enum.reject(fn {_, value} -> is_nil(value) end) |> Map.new()

  # One call reads what all rows need to know of what is there.
  defp put_all(writer, rows, opts) do
    {known, unknown} =
      Enum.split_with(rows, fn {id, _, _} -> Versionstamp.incomplete?(id) or blind?(opts) end)

    duplicate =
      unknown
      |> Enum.frequencies_by(fn {id, _, _} -> Keys.encode_id(id) end)
      |> Enum.find(fn {_, count} -> count > 1 end)

    if duplicate do
      # Rows with the same id must see each other.
      Enum.reduce_while(rows, 0, fn {id, data, _}, count ->
        case put(writer, id, data, opts) do
          {:ok, :nothing} -> {:cont, count}
          {:ok, _} -> {:cont, count + 1}
          {:error, _} = error -> {:halt, error}
        end
      end)
    else
      reads =
        for {id, _, _} <- unknown do
          {first, last} = Keys.record_range(writer.tenant, writer.source, id)
          Record.read(first, last)
        end

      {metadata, answers} = Metadata.read_for_write(writer.tenant, writer.source, reads)
      writer = %{writer | metadata: metadata}
      Enum.each(known, fn {_, data, _} -> Writer.insert(writer, data) end)

      unknown
      |> Enum.zip(answers)
      |> Enum.reduce_while(length(known), fn {{id, data, _}, answer}, count ->
        case put(writer, id, data, answer, opts) do
          {:ok, :nothing} -> {:cont, count}
          {:ok, _} -> {:cont, count + 1}
          {:error, _} = error -> {:halt, error}
        end
      end)
    end
  end

  defp blind?(opts), do: Keyword.get(opts, :conflict_target) == []

  defp put(writer, id, data, opts) do
    if Versionstamp.incomplete?(id) or blind?(opts) do
      {metadata, []} = Metadata.read_for_write(writer.tenant, writer.source, [])
      Writer.insert(%{writer | metadata: metadata}, data)
      {:ok, :inserted}
    else
      {first, last} = Keys.record_range(writer.tenant, writer.source, id)
      reads = [Record.read(first, last)]
      {metadata, [rows]} = Metadata.read_for_write(writer.tenant, writer.source, reads)
      put(%{writer | metadata: metadata}, id, data, rows, opts)
    end
  end

  defp put(writer, id, data, rows, opts) do
    case Record.decode(rows, writer.schema) do
      [] ->
        Writer.insert(writer, data)
        {:ok, :inserted}

      [existing] ->
        replace(writer, id, existing, data, Keyword.get(opts, :on_conflict, :raise))
    end
  end

  defp replace(writer, id, existing, data, on_conflict) do
    case on_conflict do
      :nothing ->
        {:ok, :nothing}

      :replace_all ->
        Writer.update(writer, existing, data)
        {:ok, :replaced}

      {:replace, fields} when is_list(fields) ->
        Writer.update(writer, existing, Keyword.take(data, sources(writer, fields)))
        {:ok, :replaced}

      {:replace_all_except, fields} when is_list(fields) ->
        Writer.update(writer, existing, Keyword.drop(data, sources(writer, fields)))
        {:ok, :replaced}

      :raise ->
        # An earlier attempt of this very transaction, whose result never came back.
        if Transaction.maybe_committed?() and existing.data == data,
          do: {:ok, :inserted},
          else: {:error, %ConflictError{schema: writer.schema, id: id}}

      other ->
        raise ArgumentError,
              "on_conflict: expected :raise, :nothing, :replace_all, {:replace, fields} or " <>
                "{:replace_all_except, fields}, got: #{inspect(other)}"
    end
  end

  defp sources(writer, fields), do: Enum.map(fields, &Schema.field_source(writer.schema, &1))

  def update(repo, %{__struct__: Ecto.Changeset} = changeset, opts) do
    with {:ok, struct, given} <- Changeset.check(repo, :update, changeset),
         do: update_with(repo, struct, given, opts)
  end

  def update(_repo, other, _opts) do
    raise ArgumentError,
          "expected a changeset, or a struct and its changes (`update(struct, name: \"Ada\")`), " <>
            "got: #{inspect(other)}"
  end

  def update(repo, %schema{} = struct, changes, opts) do
    {:ok, struct, _given} = Changeset.check(repo, :update, struct)
    update_with(repo, struct, changes!(schema, changes), opts)
  end

  # Given are changes, or a changeset.
  defp update_with(repo, %schema{} = struct, given, opts) do
    opts = Options.validate!(opts, [:force, :returning])
    tenant = Options.tenant!(repo, opts, struct)
    id = Schema.id!(struct)

    if nothing?(given) and not Keyword.get(opts, :force, false) do
      {:ok, struct}
    else
      transaction(tenant, given, opts, fn given ->
        {changes, virtual} = if is_struct(given), do: Changeset.changes(given), else: {given, %{}}
        changes = changes!(schema, changes)
        {data, values} = Schema.update_data(schema, changes, Keyword.get(opts, :force, false))
        filters = Changeset.filters(given, :update)

        updated =
          {:ok, struct |> Map.merge(virtual) |> Map.merge(values) |> Schema.put_meta(tenant)}

        fn ->
          if data == [] do
            updated
          else
            with_record(writer(tenant, schema), id, filters, :update, fn writer, record ->
              Writer.update(writer, record, data)
              updated
            end)
          end
        end
      end)
    end
  end

  defp nothing?(%{__struct__: Ecto.Changeset, changes: changes}), do: changes == %{}
  defp nothing?(changes), do: changes == %{}

  def update!(repo, struct, changes, opts),
    do: Changeset.bang(update(repo, struct, changes, opts), :update)

  def update!(repo, changeset, opts), do: Changeset.bang(update(repo, changeset, opts), :update)

  defp changes!(schema, changes) when is_map(changes) or is_list(changes) do
    changes = Map.new(changes)
    id = Schema.primary_key(schema)
    known = Schema.fields(schema)

    for {field, _} <- changes do
      cond do
        field == id ->
          raise ArgumentError,
                "the primary key #{inspect(id)} cannot be changed: delete the record, and insert it anew"

        field not in known ->
          raise ArgumentError,
                "#{inspect(schema)} has no field #{inspect(field)}; it has #{inspect(known)}"

        true ->
          :ok
      end
    end

    changes
  end

  def delete(repo, struct_or_changeset, opts) do
    with {:ok, %schema{} = struct, given} <- Changeset.check(repo, :delete, struct_or_changeset) do
      opts = Options.validate!(opts, [:returning])
      tenant = Options.tenant!(repo, opts, struct)
      id = Schema.id!(struct)

      transaction(tenant, given, opts, fn given ->
        filters = Changeset.filters(given, :delete)
        deleted = {:ok, Schema.put_meta(struct, tenant, :deleted)}

        fn ->
          result =
            with_record(writer(tenant, schema), id, filters, :delete, fn writer, record ->
              Writer.delete(writer, record)
              deleted
            end)

          # An earlier attempt of this very transaction may have deleted it.
          if Transaction.maybe_committed?() and filters == [], do: deleted, else: result
        end
      end)
    end
  end

  def delete!(repo, struct, opts), do: Changeset.bang(delete(repo, struct, opts), :delete)

  defp with_record(%{schema: schema} = writer, id, filters, action, fun) do
    id = Schema.dump_value(schema, action, Schema.primary_key(schema), id)
    {first, last} = Keys.record_range(writer.tenant, writer.source, id)
    reads = [Record.read(first, last)]
    {metadata, [rows]} = Metadata.read_for_write(writer.tenant, writer.source, reads)

    case Record.decode(rows, schema) do
      [record] ->
        if Enum.all?(filters, fn {name, value} -> Record.get(record.data, name) == value end),
          do: fun.(%{writer | metadata: metadata}, record),
          else:
            {:error, %StaleEntryError{schema: schema, id: id, action: action, filters: filters}}

      [] ->
        {:error, %StaleEntryError{schema: schema, id: id, action: action}}
    end
  end

  def update_all(repo, queryable, updates, opts) do
    {query, opts} = Queries.query(repo, queryable, opts)

    set =
      case updates do
        [set: set] when is_list(set) or is_map(set) ->
          set

        _ ->
          raise ArgumentError,
                "update_all: expected `set: [field: value]`, got: #{inspect(updates)}"
      end

    changes!(query.schema, set)
    # In the order in which they are given.
    set = Schema.dump(query.schema, :update_all, set)

    Transaction.run(
      query.tenant,
      fn ->
        {writer, records} = records(query)
        Enum.each(records, &Writer.update(writer, &1, set))
        {length(records), nil}
      end,
      opts
    )
  end

  def delete_all(repo, queryable, opts) do
    {query, opts} = Queries.query(repo, queryable, opts)

    Transaction.run(
      query.tenant,
      fn ->
        {writer, records} = records(query)

        if query.where == [] and is_nil(query.limit) and is_nil(query.key_limit),
          do: Writer.delete_all(writer, records),
          else: Enum.each(records, &Writer.delete(writer, &1))

        {length(records), nil}
      end,
      opts
    )
  end

  defp records(query) do
    {metadata, []} = Metadata.read_for_write(query.tenant, query.source, [])
    writer = %{writer(query.tenant, query.schema) | metadata: metadata}

    {writer, Reader.run(query)}
  end

  def async_insert_all!(repo, schema, structs, opts) do
    opts = Options.validate!(opts, [:on_conflict, :conflict_target, :returning])
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
            unless Versionstamp.incomplete?(id) or blind?(opts) do
              raise Unsupported,
                    "async_insert_all! takes structs whose #{inspect(id_field)} is nil and of type " <>
                      "EctoFoundationDB.Versionstamp, or the option `conflict_target: []`, which " <>
                      "overwrites without looking what is there"
            end

            struct
        end
      end

    inserted =
      for struct <- structs, do: insert!(repo, struct, Keyword.put(opts, :prefix, tenant))

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

  defp writer(tenant, schema) do
    %Writer{
      tenant: tenant,
      schema: schema,
      source: Schema.source(schema),
      metadata: nil,
      options: Options.layout(tenant)
    }
  end

  defp stored_id!(schema, data) do
    name = Schema.field_source(schema, Schema.primary_key(schema))

    case Record.get(data, name) do
      nil ->
        raise ArgumentError,
              "the primary key #{inspect(name)} of this #{inspect(schema)} is nil, and a record is " <>
                "stored under its primary key. Set it, or let the schema autogenerate it"

      id ->
        id
    end
  end
end
