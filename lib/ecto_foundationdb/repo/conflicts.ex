defmodule EctoFoundationDB.Repo.Conflicts do
  @moduledoc false
  # Inserting where there may be a record with the same primary key: the option `on_conflict:`.

  alias EctoFoundationDB.{ConflictError, Schema, Transaction, Versionstamp}
  alias EctoFoundationDB.Layer.{Keys, Metadata, Record, Writer}

  @doc """
  Stores rows `{id, data}` in the current transaction; the number of those stored. One call reads what
  all rows need to know of what is there.
  """
  @spec put_all(Writer.t(), [{term(), Schema.data()}], keyword()) ::
          non_neg_integer() | {:error, Exception.t()}
  def put_all(writer, rows, opts) do
    {known, unknown} =
      Enum.split_with(rows, fn {id, _} ->
        Versionstamp.incomplete?(id) or blind?(writer.schema, opts)
      end)

    duplicate =
      unknown
      |> Enum.frequencies_by(fn {id, _} -> Keys.encode_id(id) end)
      |> Enum.find(fn {_, count} -> count > 1 end)

    if duplicate do
      # Rows with the same id must see each other.
      store(rows, 0, fn {id, data} -> put(writer, id, data, opts) end)
    else
      reads =
        for {id, _} <- unknown do
          {first, last} = Keys.record_range(writer.tenant, writer.source, id)
          Record.read(first, last)
        end

      {metadata, answers} = Metadata.read_for_write(writer.tenant, writer.source, reads)
      writer = %{writer | metadata: metadata}
      Enum.each(known, fn {_, data} -> Writer.insert(writer, data) end)

      unknown
      |> Enum.zip(answers)
      |> store(length(known), fn {{id, data}, answer} -> put(writer, id, data, answer, opts) end)
    end
  end

  # Counts the rows that were stored; the first error ends it.
  defp store(rows, count, put) do
    Enum.reduce_while(rows, count, fn row, count ->
      case put.(row) do
        {:ok, :nothing} -> {:cont, count}
        {:ok, _} -> {:cont, count + 1}
        {:error, _} = error -> {:halt, error}
      end
    end)
  end

  @doc """
  Whether `conflict_target: []` says to write without looking. Records that are not stored under their
  primary key cannot be looked for.
  """
  @spec blind?(Schema.t(), keyword()) :: boolean()
  def blind?(schema, opts),
    do: Keyword.get(opts, :conflict_target) == [] or not Schema.write_primary?(schema)

  @doc "Stores a record in the current transaction, as `on_conflict:` says."
  @spec put(Writer.t(), term(), Schema.data(), keyword()) ::
          {:ok, :inserted | :replaced | :nothing} | {:error, Exception.t()}
  def put(writer, id, data, opts) do
    if Versionstamp.incomplete?(id) or blind?(writer.schema, opts) do
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
end
