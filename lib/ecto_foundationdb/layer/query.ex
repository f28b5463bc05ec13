defmodule EctoFoundationDB.Layer.Query do
  @moduledoc false
  # The records of a source that fulfil conditions, in an order, up to a limit. Fields are given by their
  # stored names, values as they are stored. `Layer.Plan` decides how to answer a query, `Layer.Reader` reads
  # it.

  alias EctoFoundationDB.{Indexer, Tenant}
  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.{Order, Source}

  @enforce_keys [:tenant, :source]
  defstruct [
    :tenant,
    :source,
    :limit,
    :key_limit,
    # Conditions that no range can answer: `{description, function of a record's fields}`, or nil.
    :filter,
    # The caller's: makes results of the records.
    :select,
    # Whether records must be read in the order of `order_by`: sorting them afterwards would not do.
    ordered?: false,
    where: [],
    order_by: []
  ]

  @typedoc "`{value, inclusive?}`, or `nil` for no bound."
  @type bound :: {term(), boolean()} | nil
  @typedoc "A range without bounds contains all values but `nil`."
  @type constraint :: {:eq, term()} | {:range, bound(), bound()}
  @type t :: %__MODULE__{
          tenant: Tenant.t(),
          source: Source.t(),
          where: [{atom(), constraint()}],
          order_by: [{:asc | :desc, atom()}],
          limit: nil | non_neg_integer(),
          key_limit: nil | pos_integer(),
          filter: {String.t(), (EctoFoundationDB.Schema.data() -> boolean())} | nil,
          select: term(),
          ordered?: boolean()
        }

  @doc "A query with these conditions, all of which must hold, and options for the other fields."
  @spec new(Tenant.t(), Source.t(), [{atom(), constraint()}], keyword()) :: t()
  def new(tenant, source, where \\ [], opts \\ []) do
    query = struct!(%__MODULE__{tenant: tenant, source: source}, opts)
    for {field, {:range, _, _} = range} <- where, do: check_range!(source, field, range)

    case merge(where) do
      :none -> %{query | limit: 0}
      where -> %{query | where: where}
    end
  end

  # Any value can be distinguished from nil.
  defp check_range!(_source, _field, {:range, nil, nil}), do: :ok

  defp check_range!(source, field, _range) do
    type = Source.type(source, field)

    unless Indexer.Default.ordered?(type) or EctoFoundationDB.Versionstamp.type?(type) do
      raise Unsupported,
            "a range on #{inspect(field)} of type #{inspect(type)}: the keys of this type are not " <>
              "in the order of its values. Compare with equality, or index another field"
    end
  end

  # One condition for each field, or `:none` if no value fulfils all.
  defp merge(where) do
    Enum.reduce_while(where, [], fn {field, constraint}, merged ->
      case both(merged[field], constraint) do
        :none -> {:halt, :none}
        both -> {:cont, Keyword.delete(merged, field) ++ [{field, both}]}
      end
    end)
  end

  defp both(nil, constraint), do: constraint

  defp both({:eq, value} = eq, other),
    do: if(Order.fulfils?(value, other), do: eq, else: :none)

  defp both({:range, _, _} = range, {:eq, _} = eq), do: both(eq, range)

  defp both({:range, low1, high1}, {:range, low2, high2}),
    do: {:range, tighter(low1, low2, :gt), tighter(high1, high2, :lt)}

  defp tighter(nil, bound, _direction), do: bound
  defp tighter(bound, nil, _direction), do: bound

  defp tighter({one, inclusive1}, {other, inclusive2}, direction) do
    case Order.compare(one, other) do
      :eq -> {one, inclusive1 and inclusive2}
      ^direction -> {one, inclusive1}
      _other -> {other, inclusive2}
    end
  end

  @doc "Whether the number of records, or of keys read, is limited."
  @spec limited?(t()) :: boolean()
  def limited?(%__MODULE__{limit: limit, key_limit: key_limit}),
    do: limit != nil or key_limit != nil

  @doc "Whether records must be read in the query's order, because it says so or because it is limited."
  @spec ordered?(t()) :: boolean()
  def ordered?(%__MODULE__{ordered?: ordered?} = query), do: ordered? or limited?(query)
end
