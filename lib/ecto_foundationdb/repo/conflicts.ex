defmodule EctoFoundationDB.Repo.Conflicts do
  @moduledoc false
  # Inserting where there may be a record with the same primary key: the option `on_conflict:`.

  alias EctoFoundationDB.{ConflictError, Schema, Tenant, Transaction, Versionstamp}
  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.{Keys, Metadata, Record, Values, Writer}

  @doc """
  Checks what an insert is told to do about conflicts, and to return: errors come before anything is
  written, not with the first conflict.
  """
  @spec check!(Schema.t(), keyword()) :: :ok
  def check!(schema, opts) do
    primary_key = Schema.primary_key(schema)
    on_conflict = Keyword.get(opts, :on_conflict, :raise)

    case on_conflict do
      simple when simple in [:raise, :nothing, :replace_all] ->
        :ok

      {action, fields} when action in [:replace, :replace_all_except] and is_list(fields) ->
        known!(schema, "on_conflict", fields)

      other ->
        raise ArgumentError,
              "on_conflict: expected :raise, :nothing, :replace_all, {:replace, fields} or " <>
                "{:replace_all_except, fields}, got: #{inspect(other)}"
    end

    unless Keyword.get(opts, :conflict_target) in [nil, [], primary_key, [primary_key]] do
      raise Unsupported,
            "conflict_target: #{inspect(opts[:conflict_target])}; records conflict by their primary key " <>
              "alone. Expected #{inspect(primary_key)}, or [], which writes without looking at what is there"
    end

    if blind?(schema, opts) and on_conflict not in [:raise, :replace_all] do
      raise Unsupported,
            "on_conflict: #{inspect(on_conflict)} needs to know what is there; with `conflict_target: []`, " <>
              "and with a schema's `write_primary: false`, records are written without looking"
    end

    check_returning!(schema, opts)
  end

  @doc "Checks the option `returning:`."
  @spec check_returning!(Schema.t(), keyword()) :: :ok
  def check_returning!(schema, opts) do
    case Keyword.get(opts, :returning, false) do
      returning when is_boolean(returning) ->
        :ok

      fields when is_list(fields) ->
        known!(schema, "returning", fields)

      other ->
        raise ArgumentError, "returning: expected true, false or fields, got: #{inspect(other)}"
    end
  end

  @doc """
  A struct with the values that are stored in place of its own, in the fields that `returning:` names. An
  id that the commit makes stays as it is.
  """
  @spec returning(struct(), Schema.data(), Tenant.t(), keyword()) :: struct()
  def returning(%schema{} = struct, stored, tenant, opts) do
    case Keyword.get(opts, :returning, false) do
      false ->
        struct

      returning ->
        fields = if returning == true, do: Schema.fields(schema), else: returning
        loaded = Values.load(Values.loader(schema, tenant), stored)
        Map.merge(struct, Map.take(loaded, fields))
    end
  end

  defp known!(schema, option, fields) do
    known = Schema.fields(schema)

    with [_ | _] = unknown <- fields -- known do
      raise ArgumentError,
            "#{option}: #{inspect(schema)} has no fields #{inspect(unknown)}; it has #{inspect(known)}"
    end

    :ok
  end

  @doc """
  Stores rows `{id, data}` in the current transaction; gives what is stored of those that were. One call
  reads what all rows need to know of what is there, and an error comes before any of them is written.
  """
  @spec put_all(Writer.t(), [{term(), Schema.data()}], keyword()) ::
          {:ok, [Schema.data()]} | {:error, Exception.t()}
  def put_all(writer, rows, opts) do
    on_conflict = on_conflict(opts)
    blind? = fn {id, _} -> Versionstamp.incomplete?(id) or blind?(writer.schema, opts) end
    seen = for {id, _} = row <- rows, not blind?.(row), do: id

    case {repeated(seen), on_conflict} do
      {nil, _} ->
        reads = for id <- seen, do: read(writer, id)
        {metadata, answers} = Metadata.read_for_write(writer.tenant, writer.source, reads)
        answers = for answer <- answers, do: Record.decode(answer, writer.schema)

        {rows, []} =
          Enum.map_reduce(rows, answers, fn row, answers ->
            if blind?.(row), do: {{row, :blind}, answers}, else: {{row, hd(answers)}, tl(answers)}
          end)

        put_distinct(%{writer | metadata: metadata}, rows, on_conflict)

      {id, :raise} ->
        {:error, %ConflictError{schema: writer.schema, id: id}}

      # Rows with the same id must see each other.
      {_id, _on_conflict} ->
        {:ok, for({id, data} <- rows, stored = stored(put(writer, id, data, opts)), do: stored)}
    end
  end

  # An id that is there twice.
  defp repeated(ids) do
    encoded = Enum.map(ids, &Keys.encode_id/1)

    with [again | _] <- encoded -- Enum.uniq(encoded),
         do: Enum.find(ids, &(Keys.encode_id(&1) == again)),
         else: ([] -> nil)
  end

  defp put_distinct(writer, rows, on_conflict) do
    with :ok <- conflicts(writer, rows, on_conflict) do
      {:ok,
       for(
         {{id, data}, found} <- rows,
         stored = stored(put(writer, id, data, found, on_conflict)),
         do: stored
       )}
    end
  end

  defp conflicts(writer, rows, :raise) do
    Enum.find_value(rows, :ok, fn {{id, data}, found} ->
      with {:ok, _} <- may_insert(writer, id, data, found), do: nil
    end)
  end

  defp conflicts(_writer, _rows, _on_conflict), do: :ok

  defp stored({:ok, {:nothing, _data}}), do: nil
  defp stored({:ok, {_inserted_or_replaced, data}}), do: data

  @doc """
  Whether `conflict_target: []` says to write without looking. Records that are not stored under their
  primary key cannot be looked for.
  """
  @spec blind?(Schema.t(), keyword()) :: boolean()
  def blind?(schema, opts),
    do: Keyword.get(opts, :conflict_target) == [] or not Schema.write_primary?(schema)

  @doc "Stores a record in the current transaction, as `on_conflict:` says; gives what is there then."
  @spec put(Writer.t(), term(), Schema.data(), keyword()) ::
          {:ok, {:inserted | :replaced | :nothing, Schema.data()}} | {:error, Exception.t()}
  def put(writer, id, data, opts) do
    if Versionstamp.incomplete?(id) or blind?(writer.schema, opts) do
      {metadata, []} = Metadata.read_for_write(writer.tenant, writer.source, [])
      Writer.overwrite(%{writer | metadata: metadata}, data)
      {:ok, {:inserted, data}}
    else
      reads = [read(writer, id)]
      {metadata, [rows]} = Metadata.read_for_write(writer.tenant, writer.source, reads)
      found = Record.decode(rows, writer.schema)
      put(%{writer | metadata: metadata}, id, data, found, on_conflict(opts))
    end
  end

  defp put(writer, _id, data, :blind, _on_conflict) do
    Writer.overwrite(writer, data)
    {:ok, {:inserted, data}}
  end

  defp put(writer, _id, data, [], _on_conflict) do
    Writer.insert(writer, data)
    {:ok, {:inserted, data}}
  end

  defp put(writer, id, data, [existing], on_conflict) do
    case on_conflict do
      :nothing ->
        {:ok, {:nothing, existing.data}}

      :replace_all ->
        replace(writer, existing, data)

      {:replace, fields} ->
        replace(writer, existing, Keyword.take(data, sources(writer, fields)))

      {:replace_all_except, fields} ->
        replace(writer, existing, Keyword.drop(data, sources(writer, fields)))

      :raise ->
        may_insert(writer, id, data, [existing])
    end
  end

  defp replace(writer, existing, changes) do
    Writer.update(writer, existing, changes)
    {:ok, {:replaced, Record.merge(existing.data, changes)}}
  end

  # Where a conflict is an error: none, or an earlier attempt of this very transaction, whose result
  # never came back.
  defp may_insert(_writer, _id, data, none) when none in [[], :blind],
    do: {:ok, {:inserted, data}}

  defp may_insert(writer, id, data, [existing]) do
    if Transaction.maybe_committed?() and existing.data == data,
      do: {:ok, {:inserted, data}},
      else: {:error, %ConflictError{schema: writer.schema, id: id}}
  end

  defp on_conflict(opts), do: Keyword.get(opts, :on_conflict, :raise)

  defp read(writer, id) do
    {first, last} = Keys.record_range(writer.tenant, writer.source, id)
    Record.read(first, last)
  end

  defp sources(writer, fields), do: Enum.map(fields, &Schema.field_source(writer.schema, &1))
end
