defmodule EctoFoundationDB.Sync.Stream do
  @moduledoc """
  The records of a schema, or those with the values `by`, as a LiveView stream: `label` is its name. See
  `EctoFoundationDB.Sync.sync_stream/5`, where the options are explained that are fields here.

  `queryable`, `by` and `watch_action` are those of `EctoFoundationDB.Sync.All`.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> state = %{assigns: %{}, private: %{tenant: tenant}}
      iex> stream = %Sync.Stream{label: :users, queryable: User, limit: 1}
      iex> state = Sync.sync(state, Repo, [stream])
      iex> Sync.window(state, Repo, :users)
      %{first: 0, count: 1, limit: 1, more?: true}
  """

  alias EctoFoundationDB.LiveQuery
  alias EctoFoundationDB.Native
  alias EctoFoundationDB.Sync.All
  alias EctoFoundationDB.Sync.Stream.Changes
  alias EctoFoundationDB.Sync.Stream.Rows
  alias EctoFoundationDB.Sync.Subscription

  @enforce_keys [:label, :queryable]
  # first:   how many records are skipped, after `Sync.more/5` with `max`
  # query:   once it is prepared
  # earlier: the subscription by whose rows the page shows the stream so far, while the next one begins
  defstruct [
    :label,
    :queryable,
    :order_by,
    :limit,
    :max,
    :query,
    :earlier,
    by: [],
    watch_action: :changes,
    at: -1,
    reset: false,
    first: 0
  ]

  @type t :: %__MODULE__{
          label: term(),
          queryable: EctoFoundationDB.Sync.queryable(),
          by: keyword() | map(),
          watch_action: :inserts | :deletes | :collection | :updates | :changes,
          order_by: term(),
          limit: pos_integer() | nil,
          max: pos_integer() | nil,
          at: -1 | 0,
          reset: boolean()
        }

  @doc false
  def check!(%__MODULE__{} = stream) do
    for {name, value} <- [limit: stream.limit, max: stream.max],
        not (is_nil(value) or (is_integer(value) and value > 0)) do
      raise ArgumentError,
            "expected #{inspect(name)} to be a positive integer, got: #{inspect(value)}"
    end

    unless stream.at in [-1, 0] do
      raise ArgumentError,
            "expected :at to be -1, for the query's order from the top down, or 0, from the bottom up, " <>
              "got: #{inspect(stream.at)}"
    end

    unless is_boolean(stream.reset) do
      raise ArgumentError, "expected :reset to be true or false, got: #{inspect(stream.reset)}"
    end

    :ok
  end

  @doc false
  def prepare(%__MODULE__{} = stream, tenant) do
    %All{query: query} = stream |> list() |> All.prepare(tenant)
    limit = stream.limit || query.limit

    if stream.max && limit == nil do
      raise ArgumentError,
            "expected a :limit beside max: #{stream.max}: how many records are shown at first"
    end

    # Places are those of the records that are read: their order must be that of the keys.
    query = %{query | limit: limit && stream.first + limit, ordered?: true}
    %{stream | query: query, limit: limit}
  end

  # The list that the stream shows.
  defp list(%__MODULE__{order_by: order_by} = stream) do
    queryable =
      case stream.queryable do
        queryable when order_by == nil -> queryable
        {queryable, options} -> {queryable, [{:order_by, order_by} | options]}
        queryable -> {queryable, order_by: order_by}
      end

    %All{
      label: stream.label,
      queryable: queryable,
      query: stream.query,
      by: stream.by,
      watch_action: stream.watch_action
    }
  end

  @doc false
  def live_queries(%__MODULE__{} = stream, tenant), do: All.live_queries(list(stream), tenant)

  @doc false
  def known_live_queries(%__MODULE__{} = stream, tenant),
    do: All.known_live_queries(list(stream), tenant)

  @doc false
  def empty(_stream), do: %Changes{reset?: true}

  @doc false
  # What the label's stream so far has, if this one shows the same records and need not begin again.
  def follow(
        %__MODULE__{reset: false} = stream,
        {subscription, %{request: %__MODULE__{} = so_far}}
      ) do
    if showing(stream) == showing(so_far), do: subscription
  end

  def follow(_stream, _other), do: nil

  defp showing(stream),
    do: {stream.queryable, stream.by, stream.order_by, stream.at}

  @doc false
  # Takes what has changed: what is synced now, with the changes as its value.
  def take(subscription, %{request: stream, results: {{rows, stale}}} = synced) do
    taken =
      case Native.take_stream(subscription, stream.first, stream.earlier) do
        {:first, [taken]} -> taken
        {:news, [{0, taken}]} -> taken
        {:news, []} -> :unchanged
      end

    case taken(taken, rows, stream) do
      :unknown ->
        # The next take gives everything.
        Subscription.untake(subscription)
        take(subscription, synced)

      {:told, told} ->
        put(synced, rows, told || undecodable(rows), %Changes{})

      {rows, changes} ->
        changes = Rows.arrange(changes, rows, stream.query, stream.at)
        stale = if match?({:told, _error}, stale), do: stale, else: undecodable(rows)
        put(synced, rows, stale, changes)
    end
  end

  defp taken({:rows, items}, _rows, %{query: query, limit: limit}),
    do: Rows.all(items, LiveQuery.decoder(query), query, limit)

  defp taken({:changed, removed, items}, rows, %{query: query}),
    do: Rows.change(rows, removed, items, LiveQuery.decoder(query))

  defp taken(:unchanged, rows, _stream), do: {rows, %Changes{}}
  defp taken({:stale, error}, _rows, _stream), do: {:told, {:told, error}}
  defp taken(:fresh, _rows, _stream), do: {:told, nil}

  defp put(%{request: stream} = synced, rows, stale, changes),
    do: %{
      synced
      | request: %{stream | earlier: nil},
        results: {{rows, stale}},
        value: changes,
        stale: stale
    }

  defp undecodable(rows) do
    with error when error != nil <- Rows.undecodable(rows), do: {:undecodable, error}
  end

  @doc false
  def window(%__MODULE__{first: first, limit: limit}, %Rows{count: count}),
    do: %{first: first, count: count, limit: limit, more?: count == limit}

  @doc false
  # The stream with `n` records more, at the end, or at the beginning where `n` is negative; nil where there are none.
  def more(%__MODULE__{} = stream, rows, n) do
    %{first: first, limit: limit, more?: more?} = window(stream, rows)

    cond do
      limit == nil or (n > 0 and not more?) or (n < 0 and first == 0) ->
        nil

      n > 0 ->
        last = first + limit + n
        limit = min(limit + n, stream.max || limit + n)
        %{stream | first: last - limit, limit: limit, reset: false}

      true ->
        {last, first} = {first + limit, max(first + n, 0)}
        limit = min(last - first, stream.max)
        %{stream | first: first, limit: limit, reset: false}
    end
  end
end
