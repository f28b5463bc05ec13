defmodule EctoFoundationDB.Sync.Arguments do
  @moduledoc false
  # What Sync's functions are given, in the orders that are documented.

  alias EctoFoundationDB.{Queryable, Schema}
  alias EctoFoundationDB.Sync.{All, Fun, Many, One, Stream}

  @watch_actions [:inserts, :deletes, :collection, :updates, :changes]

  @doc "Label and queryable. Given the other way round they are told by which of them is queryable."
  @spec order(term(), term()) :: {label :: term(), queryable :: term()}
  def order(label, queryable) do
    if swapped?(label, queryable), do: {queryable, label}, else: {label, queryable}
  end

  @doc "Whether the queryable stands where the label is expected: where both could be one, it does not."
  @spec swapped?(label :: term(), queryable :: term()) :: boolean()
  def swapped?(label, queryable), do: not queryable?(queryable) and queryable?(label)

  # Whether records can be asked for by this.
  defp queryable?({schema, options}), do: Keyword.keyword?(options) and schema?(schema)
  defp queryable?(%{__struct__: Ecto.Query}), do: true
  defp queryable?(schema), do: schema?(schema)

  defp schema?(module),
    do: is_atom(module) and loaded?(module) and function_exported?(module, :__schema__, 1)

  # The code server would search the disk for a label's name, each time.
  defp loaded?(module) do
    :erlang.module_loaded(module) or
      (String.starts_with?(Atom.to_string(module), "Elixir.") and Code.ensure_loaded?(module))
  end

  @doc "The label of a list that is given none: its schema's source. There are no more of them than schemas."
  @spec label(EctoFoundationDB.Sync.queryable()) :: atom()
  def label({queryable, options}) when is_list(options), do: label(queryable)

  def label(queryable) do
    queryable |> Queryable.schema!() |> Schema.source() |> String.to_atom()
  end

  @doc "Whether these are values to sync by."
  @spec by?(term()) :: boolean()
  def by?(by),
    do: (is_list(by) and by != [] and Keyword.keyword?(by)) or (is_map(by) and not is_struct(by))

  @doc "Raises unless these are values to sync by, or none."
  @spec by!(term()) :: :ok
  def by!(by) do
    unless by == [] or by?(by) do
      raise ArgumentError,
            "expected the values to sync by, as in [department: \"engineering\"], got: #{inspect(by)}"
    end

    :ok
  end

  @doc "Raises unless these can be synced together."
  @spec requests!(term()) :: :ok
  def requests!(requests) do
    unless is_list(requests) and
             Enum.all?(
               requests,
               &(is_struct(&1) and &1.__struct__ in [One, Many, All, Stream, Fun])
             ) do
      raise ArgumentError,
            "expected a list of EctoFoundationDB.Sync.One, .Many, .All, .Stream and .Fun, got: #{inspect(requests)}"
    end

    Enum.each(requests, &with(%Stream{} <- &1, do: Stream.check!(&1)))

    for %module{watch_action: action} when module in [All, Stream] <- requests,
        action not in @watch_actions do
      raise ArgumentError,
            "expected :watch_action to be one of #{inspect(@watch_actions)}, got: #{inspect(action)}"
    end

    for %Fun{} = fun <- requests, do: Fun.check!(fun)

    for %One{on_missing: on_missing} <- requests, on_missing not in [:raise, nil] do
      raise ArgumentError,
            "expected :on_missing to be :raise, or nil, got: #{inspect(on_missing)}"
    end

    for %Many{ids: ids} <- requests, not (is_list(ids) or is_nil(ids)) do
      raise ArgumentError, "expected a list of primary keys, or nil, got: #{inspect(ids)}"
    end

    labels = Enum.map(requests, & &1.label)

    if labels != Enum.uniq(labels) do
      raise ArgumentError,
            "expected different labels, got #{inspect(labels -- Enum.uniq(labels))} more than once"
    end

    :ok
  end
end
