defmodule EctoFoundationDB.Layer.Bulk do
  @moduledoc false
  # Updates and deletes the records of a query, or of several (`Layer.Reader.start/1`).

  alias EctoFoundationDB.{Schema, Transaction}
  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.{Query, Reader, Record, Unique, Writer}
  alias EctoFoundationDB.Repo.Options

  @doc """
  Sets the fields that `change` returns for each record, in the current transaction. Returns the new fields of all.
  """
  @spec update([Query.t()], (Schema.data() -> Schema.data())) :: [Schema.data()]
  def update([query | _] = queries, change) do
    records = queries |> Reader.start() |> EctoFoundationDB.Future.result()
    update_records(query, records, change)
  end

  @doc "The same for records that were read."
  @spec update_records(Query.t(), [Record.t()], (Schema.data() -> Schema.data())) :: [
          Schema.data()
        ]
  def update_records(query, records, change) do
    writer = writer(query)

    changed =
      for %Record{data: data} = record <- records do
        changes = change.(data)
        {record, changes, Record.merge(data, changes)}
      end

    with {:error, error} <- Unique.check(writer, for({r, _, new} <- changed, do: {r.data, new})),
         do: raise(error)

    for {record, changes, new} <- changed do
      if changes != [], do: Writer.update(writer, record, changes)
      new
    end
  end

  @doc "Deletes the records, in the current transaction. Returns their fields."
  @spec delete([Query.t()]) :: [Schema.data()]
  def delete([query | _] = queries) do
    all? = match?([%Query{where: [], filter: nil}], queries) and not Query.limited?(query)
    records = queries |> Reader.start() |> EctoFoundationDB.Future.result()
    delete_records(query, records, all?)
  end

  @doc "The same for records that were read, possibly all of the source."
  @spec delete_records(Query.t(), [Record.t()], boolean()) :: [Schema.data()]
  def delete_records(query, records, all? \\ false) do
    writer = writer(query)

    if all?,
      do: Writer.delete_all(writer, records),
      else: Enum.each(records, &Writer.delete(writer, &1))

    for record <- records, do: record.data
  end

  defp writer(query) do
    {writer, []} = Writer.read(Writer.new(query.tenant, query.source), [])
    writer
  end

  @doc """
  Updates the records of a query in steps, each in its own transaction. Returns their number. `set` are the
  fields that get the same values in all records.
  """
  @spec update_in_steps(Query.t(), pos_integer(), Schema.data(), keyword()) :: non_neg_integer()
  def update_in_steps(query, step, set, opts) do
    check_step!(query, step)
    index_fields = Transaction.run(query.tenant, fn -> Reader.index_fields(query) end, opts)

    done? = fn %{data: data} ->
      Enum.all?(set, fn {name, value} -> Record.get(data, name) === value end)
    end

    # A record that moves in the index it is found by would be visited again. So records that already have the
    # new values come first, because they don't move, and then those that don't have them.
    rounds =
      if Enum.any?(set, fn {name, _} -> name in index_fields end),
        do: [done?, &(not done?.(&1))],
        else: [fn _record -> true end]

    Enum.sum(
      for round <- rounds do
        in_steps(query, step, nil, 0, opts, fn records ->
          update_records(query, Enum.filter(records, round), fn _data -> set end)
        end)
      end
    )
  end

  @doc "Deletes the records of a query in steps, each in its own transaction. Returns their number."
  @spec delete_in_steps(Query.t(), pos_integer(), keyword()) :: non_neg_integer()
  def delete_in_steps(query, step, opts) do
    check_step!(query, step)
    in_steps(query, step, nil, 0, opts, &delete_records(query, &1))
  end

  defp in_steps(query, step, position, count, opts, change) do
    {{changed, next}, step} =
      Transaction.step(
        query.tenant,
        step,
        fn step ->
          {records, next} = Reader.page(query, position, step)
          {length(change.(records)), next}
        end,
        opts
      )

    if next,
      do: in_steps(query, step, next, count + changed, opts, change),
      else: count + changed
  end

  defp check_step!(query, step) do
    Options.positive!(:step, step)

    if Query.limited?(query) or query.order_by != [] do
      raise ArgumentError,
            "step: visits all records of a query; leave out `limit:`, `key_limit:` and `order_by:`"
    end

    if Transaction.in?() do
      raise Unsupported,
            "step: makes a transaction of each step, and this call is inside one: make it outside, or " <>
              "leave `step:` out"
    end
  end
end
