defmodule EctoFoundationDB.Repo.Records do
  @moduledoc false
  # The Repo's functions that write one record.

  alias EctoFoundationDB.{Schema, StaleEntryError, Transaction}
  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.{Changes, Keys, Metadata, Record, Values, Writer}
  alias EctoFoundationDB.Repo.{Changeset, Conflicts, Options}

  def insert(repo, struct_or_changeset, opts) do
    with {:ok, %schema{} = struct, given} <- Changeset.check(repo, :insert, struct_or_changeset) do
      opts = Options.validate!(opts, [:on_conflict, :conflict_target, :returning])
      Conflicts.check!(schema, opts)
      tenant = Options.tenant!(repo, opts, struct)
      # Every attempt of the transaction has the same generated id.
      struct = Changes.generate_id(struct, given)

      transaction(tenant, given, opts, fn given ->
        {changes, virtual} = Changeset.changes(given)
        {data, values} = Changes.insert(struct, changes)
        id = Changes.stored_id!(schema, data)

        fn ->
          with {:ok, {_how, stored}} <- Conflicts.put(Writer.new(tenant, schema), id, data, opts) do
            inserted =
              struct |> Map.merge(virtual) |> Map.merge(values) |> Schema.put_meta(tenant)

            {:ok, Conflicts.returning(inserted, stored, tenant, opts)}
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

  def update(repo, %{__struct__: Ecto.Changeset} = changeset, opts) do
    with {:ok, struct, given} <- Changeset.check(repo, :update, changeset),
         do: update_with(repo, struct, given, opts)
  end

  def update(_repo, other, _opts), do: no_changes!(other)

  def update(repo, %schema{} = struct, changes, opts) do
    {:ok, struct, _given} = Changeset.check(repo, :update, struct)
    update_with(repo, struct, Changes.check!(schema, changes), opts)
  end

  def update(_repo, other, _changes, _opts), do: no_changes!(other)

  defp no_changes!(other) do
    raise ArgumentError,
          "update: expected a changeset, or a struct and its changes (`update(struct, name: \"Ada\")`), " <>
            "got: #{inspect(other)}"
  end

  # Given are changes that were checked, or a changeset.
  defp update_with(repo, %schema{} = struct, given, opts) do
    opts = Options.validate!(opts, [:force, :returning])
    Conflicts.check_returning!(schema, opts)
    tenant = Options.tenant!(repo, opts, struct)
    id = Schema.id!(struct)

    if nothing?(given) and not Keyword.get(opts, :force, false) do
      {:ok, struct}
    else
      transaction(tenant, given, opts, fn given ->
        {changes, virtual} = changes(schema, given)
        {data, values} = Changes.update(struct, changes, Keyword.get(opts, :force, false))
        filters = Changeset.filters(given, :update)
        # What an earlier attempt would have written, timestamps aside.
        own =
          Keyword.take(data, for({field, _} <- changes, do: Schema.field_source(schema, field)))

        updated = struct |> Map.merge(virtual) |> Map.merge(values) |> Schema.put_meta(tenant)

        fn ->
          update = fn writer, record ->
            Writer.update(writer, record, data)
            {:ok, Conflicts.returning(updated, Record.merge(record.data, data), tenant, opts)}
          end

          if data == [],
            do: {:ok, updated},
            else: with_record(Writer.new(tenant, schema), id, filters, :update, own, update)
        end
      end)
    end
  end

  defp changes(schema, %{__struct__: Ecto.Changeset} = changeset) do
    {changes, virtual} = Changeset.changes(changeset)
    {Changes.check!(schema, changes), virtual}
  end

  defp changes(_schema, checked), do: {checked, %{}}

  defp nothing?(%{__struct__: Ecto.Changeset, changes: changes}), do: changes == %{}
  defp nothing?(changes), do: changes == %{}

  def update!(repo, struct, changes, opts),
    do: Changeset.bang(update(repo, struct, changes, opts), :update)

  def update!(repo, changeset, opts), do: Changeset.bang(update(repo, changeset, opts), :update)

  def delete(repo, struct_or_changeset, opts) do
    with {:ok, %schema{} = struct, given} <- Changeset.check(repo, :delete, struct_or_changeset) do
      opts = Options.validate!(opts, [:returning])
      Conflicts.check_returning!(schema, opts)
      tenant = Options.tenant!(repo, opts, struct)
      id = Schema.id!(struct)

      transaction(tenant, given, opts, fn given ->
        filters = Changeset.filters(given, :delete)
        deleted = Schema.put_meta(struct, tenant, :deleted)

        fn ->
          writer = Writer.new(tenant, schema)

          delete = fn writer, record ->
            Writer.delete(writer, record)
            {:ok, Conflicts.returning(deleted, record.data, tenant, opts)}
          end

          case with_record(writer, id, filters, :delete, [], delete) do
            # Gone already: an earlier attempt of this very transaction may have deleted it.
            {:error, %StaleEntryError{filters: []}} = error ->
              if Transaction.maybe_committed?(), do: {:ok, deleted}, else: error

            result ->
              result
          end
        end
      end)
    end
  end

  def delete!(repo, struct, opts), do: Changeset.bang(delete(repo, struct, opts), :delete)

  # `fun` is given the stored record, if it is there with the filters' values; or with its `own`, where
  # an earlier attempt of this very transaction may have written those.
  defp with_record(%{schema: schema} = writer, id, filters, action, own, fun) do
    unless Schema.write_primary?(schema) do
      raise Unsupported,
            "#{action}: #{inspect(schema)} has `write_primary: false`, so no record is found by its " <>
              "primary key. Use #{action}_all with a `where:` that its index answers"
    end

    id = Values.dump_value(schema, action, Schema.primary_key(schema), id)
    {first, last} = Keys.record_range(writer.tenant, writer.source, id)
    reads = [Record.read(first, last)]
    {metadata, [rows]} = Metadata.read_for_write(writer.tenant, writer.source, reads)

    case Record.decode(rows, schema) do
      [record] ->
        if has?(record, filters) or
             (own != [] and Transaction.maybe_committed?() and has?(record, own)),
           do: fun.(%{writer | metadata: metadata}, record),
           else:
             {:error, %StaleEntryError{schema: schema, id: id, action: action, filters: filters}}

      [] ->
        {:error, %StaleEntryError{schema: schema, id: id, action: action}}
    end
  end

  defp has?(record, values),
    do: Enum.all?(values, fn {name, value} -> Record.get(record.data, name) == value end)
end
