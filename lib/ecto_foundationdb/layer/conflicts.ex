defmodule EctoFoundationDB.Layer.Conflicts do
  @moduledoc false
  # Inserting where there may be a record with the same primary key, or with the same values in a unique
  # index.

  alias EctoFoundationDB.{ConflictError, Schema, Transaction, UniqueError, Versionstamp}
  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.{Keys, Record, Source, Unique, Writer}

  @typedoc """
  What becomes of a record that is there: an error, nothing, some of its fields get the new record's values,
  or what a function of its fields gives is set, unless that is nil. With `:blind` nothing is looked for.
  """
  @type on_conflict ::
          :blind
          | :raise
          | :nothing
          | :replace_all
          | {:replace, [atom()]}
          | {:replace_all_except, [atom()]}
          | {:update, (Schema.data() -> Schema.data() | nil)}

  @typedoc "The stored fields by which records conflict: the primary key, those of a unique index, or [] for any."
  @type target :: [atom()]

  @typedoc "What was done, and the record's fields now."
  @type outcome :: {:inserted | :updated | :nothing, Schema.data()}

  @doc """
  Stores records in the current transaction. One call reads what all of them need to know of what is there, and
  an error comes before any of them is written. `new` are primary keys that were made at random for these records:
  they are not looked for, unless an earlier attempt of this transaction may have written them.
  """
  @spec put_all(Writer.t(), [Schema.data()], on_conflict(), target(), new :: [term()]) ::
          {:ok, [outcome()]} | {:error, Exception.t()}
  def put_all(writer, rows, on_conflict, target \\ [], new \\ []) do
    new = if Transaction.maybe_committed?(), do: MapSet.new(), else: MapSet.new(new)
    ids = for data <- rows, id <- to_find(writer, data, on_conflict, new), do: id
    {writer, found} = find(writer, ids)
    check_target!(writer, target)

    cond do
      on_conflict in [:raise, :blind] ->
        insert_all(writer, rows, found, on_conflict)

      repeated(ids) == nil and not Unique.any?(writer.metadata) ->
        each(writer, rows, found, on_conflict, target)

      # Records with the same id, or the same values, must see each other.
      true ->
        one_by_one(writer, rows, on_conflict, target, new)
    end
  end

  # The id by which a record with the same is looked for, if one may be there.
  defp to_find(writer, data, on_conflict, new) do
    if blind?(writer, data, on_conflict) or Record.get(data, writer.source.id) in new,
      do: [],
      else: [Record.id(data, writer.source)]
  end

  @doc """
  Whether a record is written without looking whether it is there: its id is unique, or it is stored where it
  can't be looked for.
  """
  @spec blind?(Writer.t(), Schema.data(), on_conflict()) :: boolean()
  def blind?(%Writer{source: source}, data, on_conflict) do
    on_conflict == :blind or not source.write_primary? or
      Versionstamp.incomplete?(Record.get(data, source.id))
  end

  # An id that is there twice.
  defp repeated(ids) do
    keys = Enum.map(ids, &Keys.id_elements/1)

    with [again | _] <- keys -- Enum.uniq(keys),
         do: Enum.find(ids, &(Keys.id_elements(&1) == again)),
         else: ([] -> nil)
  end

  # The records with these ids, by their ids.
  defp find(writer, ids) do
    reads =
      for id <- ids do
        {first, last} = Keys.record_range(writer.tenant, writer.source.name, id)
        Record.read(first, last)
      end

    {writer, answers} = Writer.read(writer, reads)

    found =
      for {id, rows} <- Enum.zip(ids, answers),
          [record] <- [Record.decode(rows, writer.source)],
          into: %{},
          do: {id, record}

    {writer, found}
  end

  defp check_target!(_writer, []), do: :ok

  defp check_target!(%{source: source} = writer, target) do
    unless target == [source.id] or Unique.find(writer, target) do
      # Indexes that were only presumed are confirmed before anything is said of them.
      Transaction.version()

      raise Unsupported,
            "conflict_target: #{inspect(target)}; records conflict by their primary key, #{inspect(source.id)}, or " <>
              "by the fields of a unique index. This migration makes one: " <>
              "create index(#{Source.describe(source)}, #{inspect(target)}, unique: true)"
    end
  end

  # No record may be there.
  defp insert_all(writer, rows, found, on_conflict) do
    ids =
      for data <- rows, not blind?(writer, data, on_conflict), do: Record.id(data, writer.source)

    new = Enum.reject(rows, &own?(writer, &1, found))

    with nil <- repeated(ids) || Enum.find_value(new, &taken(writer, &1, found)),
         :ok <- Unique.check(writer, for(data <- new, do: {nil, data})) do
      for data <- new, do: write(writer, data, on_conflict)
      # What an earlier attempt of this transaction has written is there already.
      {:ok, for(data <- rows, do: {:inserted, data})}
    else
      {:error, error} -> {:error, error}
      id -> {:error, %ConflictError{schema: writer.source.schema || writer.source.name, id: id}}
    end
  end

  # Whether an earlier attempt of this very transaction has written this, whose result never came back.
  defp own?(writer, data, found) do
    Transaction.maybe_committed?() and
      match?(%{data: ^data}, found[Record.id(data, writer.source)])
  end

  defp taken(writer, data, found) do
    id = Record.id(data, writer.source)
    if is_map_key(found, id), do: id
  end

  defp write(writer, data, on_conflict) do
    if blind?(writer, data, on_conflict),
      do: Writer.overwrite(writer, data),
      else: Writer.insert(writer, data)
  end

  defp one_by_one(writer, rows, on_conflict, target, new) do
    Enum.reduce_while(rows, {:ok, []}, fn data, {:ok, outcomes} ->
      {writer, found} = find(writer, to_find(writer, data, on_conflict, new))

      case each(writer, [data], found, on_conflict, target) do
        {:ok, [outcome]} -> {:cont, {:ok, [outcome | outcomes]}}
        error -> {:halt, error}
      end
    end)
    |> case do
      {:ok, outcomes} -> {:ok, Enum.reverse(outcomes)}
      error -> error
    end
  end

  defp each(writer, rows, found, on_conflict, target) do
    Enum.reduce_while(rows, {:ok, []}, fn data, {:ok, outcomes} ->
      case put(writer, data, found, on_conflict, target) do
        {:error, error} -> {:halt, {:error, error}}
        outcome -> {:cont, {:ok, [outcome | outcomes]}}
      end
    end)
    |> case do
      {:ok, outcomes} -> {:ok, Enum.reverse(outcomes)}
      error -> error
    end
  end

  defp put(%{source: source} = writer, data, found, on_conflict, target) do
    existing = found[Record.id(data, source)]
    rivals = Unique.rivals(writer, [{existing && existing.data, data}])

    cond do
      existing && target in [[], [source.id]] ->
        resolve(writer, data, existing, on_conflict)

      existing ->
        {:error,
         %ConflictError{schema: source.schema || source.name, id: Record.get(data, source.id)}}

      rivals == [] ->
        write(writer, data, on_conflict)
        {:inserted, data}

      true ->
        [{_change, index, [rival | _] = records}] = Enum.take(rivals, 1)

        if target == [] or index == Unique.find(writer, target),
          do: resolve(writer, data, rival, on_conflict),
          else: {:error, unique_error(writer, index, records)}
    end
  end

  defp unique_error(writer, index, records) do
    %UniqueError{
      index: index.name,
      schema: writer.source.schema || writer.source.name,
      fields: index.fields,
      ids: for(record <- records, do: Record.get(record.data, writer.source.id))
    }
  end

  defp resolve(writer, data, existing, on_conflict) do
    case changes(data, existing, on_conflict) do
      nil ->
        {:nothing, existing.data}

      changes ->
        merged = Record.merge(existing.data, changes)

        with :ok <- Unique.check(writer, [{existing.data, merged}]) do
          write_over(writer, existing, changes, merged)
          {:updated, merged}
        end
    end
  end

  # A record that was found by a unique index may get another primary key.
  defp write_over(%{source: source} = writer, existing, changes, merged) do
    if Record.id(merged, source) == Record.id(existing.data, source) do
      Writer.update(writer, existing, changes)
    else
      Writer.delete(writer, existing)
      Writer.insert(writer, merged)
    end
  end

  defp changes(_data, _existing, :nothing), do: nil
  defp changes(data, _existing, :replace_all), do: data
  defp changes(data, _existing, {:replace, names}), do: Keyword.take(data, names)
  defp changes(data, _existing, {:replace_all_except, names}), do: Keyword.drop(data, names)
  defp changes(_data, existing, {:update, fun}), do: fun.(existing.data)
end
