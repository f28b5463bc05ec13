defmodule EctoFoundationDB.Layer.Records do
  @moduledoc false
  # Updates and deletes one record by its primary key.

  alias EctoFoundationDB.{Schema, Transaction}
  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.{Keys, Record, Source, Unique, Writer}

  @doc """
  Sets fields of the record with this id, if it has the values of `filters`. Returns its new fields. `own` are the
  changes that show whether an earlier attempt of this transaction has made them already.
  """
  @spec update(Writer.t(), term(), Schema.data(), Schema.data(), Schema.data()) ::
          {:ok, Schema.data()} | {:error, :stale | {:stale, :filters} | Exception.t()}
  def update(writer, id, changes, filters \\ [], own \\ []) do
    with {:ok, writer, record} <- find(writer, :update, id, filters, own) do
      changed = Record.merge(record.data, changes)

      with :ok <- Unique.check(writer, [{record.data, changed}]) do
        Writer.update(writer, record, changes)
        {:ok, changed}
      end
    end
  end

  @doc "Deletes the record with this id, if it has the values of `filters`. Returns its fields."
  @spec delete(Writer.t(), term(), Schema.data()) ::
          {:ok, Schema.data()} | {:error, :stale | {:stale, :filters}}
  def delete(writer, id, filters \\ []) do
    case find(writer, :delete, id, filters, []) do
      {:ok, writer, record} ->
        Writer.delete(writer, record)
        {:ok, record.data}

      # Gone already: an earlier attempt of this transaction may have deleted it.
      {:error, :stale} ->
        if Transaction.maybe_committed?(), do: {:ok, []}, else: {:error, :stale}

      error ->
        error
    end
  end

  # The record, if it exists with the values of `filters`; or with those of `own`, which an earlier attempt of
  # this transaction may have written.
  defp find(%{source: source} = writer, action, id, filters, own) do
    check_found!(source, action)
    {first, last} = Keys.record_range(writer.tenant, source.name, id)
    {writer, [rows]} = Writer.read(writer, [Record.read(first, last)])

    case Record.decode(rows, source) do
      [record] ->
        if has?(record, filters) or
             (own != [] and Transaction.maybe_committed?() and has?(record, own)),
           do: {:ok, writer, record},
           else: {:error, {:stale, :filters}}

      [] ->
        {:error, :stale}
    end
  end

  defp check_found!(%{write_primary?: false} = source, action) do
    raise Unsupported,
          "#{action}: #{Source.describe(source)} has `write_primary: false`, so its records can't be found by " <>
            "primary key. Use #{action}_all with a `where:` that its index answers"
  end

  defp check_found!(%{partition_by: field} = source, action) when field != nil do
    raise Unsupported,
          "Repo.#{action} is not supported for #{Source.describe(source)}, whose records lie by the values of " <>
            "#{inspect(field)}, which the call does not have. Use Repo.#{action}_all with a query of the pair: " <>
            "from(s in #{Source.describe(source)}, where: s.#{source.id} == ^{#{field}, id})"
  end

  defp check_found!(_source, _action), do: :ok

  defp has?(record, values),
    do: Enum.all?(values, fn {name, value} -> Record.get(record.data, name) == value end)
end
