defmodule EctoFoundationDB.Sync.State do
  @moduledoc false
  # What Sync remembers in a state's `private.ecto_fdb_sync_data`, for each repo. The terms last
  # assigned are kept here, not looked up in assigns, which the application may rewrite.

  alias EctoFoundationDB.Native
  alias EctoFoundationDB.Sync.Async

  @key :ecto_fdb_sync_data

  # Every page has this on its heap, and goes through it with every message: it is kept flat and small.
  #
  # labels:    label => subscription
  # synced:    subscription => %{request, tenant, assign, results, value, stale}; `results` is a tuple that
  #            has, for each live query, the structs it last gave, and why they are stale, or nil; `value`
  #            is what was assigned of them, by the function `assign` where that is not nil; `stale` is why
  #            one of the results is stale, or nil
  # callbacks: [{event, name, fun}] in order of attachment
  # notifying: the labels that the running callbacks were called for; innermost call first
  # pending:   ref => what is synced with `async: true` and has no results yet (`Sync.Async`)
  # hook:      the container functions it was attached with, or nil where there is none
  defstruct labels: %{}, synced: %{}, callbacks: [], notifying: [], pending: %{}, hook: nil

  @type t :: %__MODULE__{}

  @doc "Raises unless Sync can work with this state."
  @spec check!(term()) :: :ok
  def check!(%{assigns: assigns, private: private}) when is_map(assigns) and is_map(private) do
    :ok
  end

  def check!(state) do
    raise ArgumentError,
          "expected a state with :assigns and :private, both maps: a Phoenix.LiveView.Socket, or a " <>
            "map such as %{assigns: %{}, private: %{tenant: tenant}}, got: #{inspect(state)}"
  end

  @spec get(map(), module()) :: t()
  def get(%{private: %{@key => all}}, repo) when is_map_key(all, repo),
    do: :erlang.map_get(repo, all)

  def get(_state, _repo), do: %__MODULE__{}

  @spec put(map(), module(), t()) :: map()
  def put(%{private: %{@key => %{} = all} = private} = state, repo, data),
    do: %{state | private: %{private | @key => Map.put(all, repo, data)}}

  def put(%{private: private} = state, repo, data),
    do: %{state | private: Map.put(private, @key, %{repo => data})}

  @doc "A label's subscription and sync, or nil."
  @spec find_label(t(), term()) :: {Native.subscription(), map()} | nil
  def find_label(%__MODULE__{labels: labels, synced: synced}, label) do
    case labels do
      %{^label => subscription} -> {subscription, Map.fetch!(synced, subscription)}
      _none -> nil
    end
  end

  @doc "Records a label's sync; returns the one it replaces, or nil."
  @spec put_label(t(), term(), {Native.subscription(), map()}) ::
          {{Native.subscription(), map()} | nil, t()}
  def put_label(data, label, {subscription, synced}) do
    {replaced, data} = pop_label(data, label)

    {replaced,
     %{
       data
       | labels: Map.put(data.labels, label, subscription),
         synced: Map.put(data.synced, subscription, synced)
     }}
  end

  @spec pop_label(t(), term()) :: {{Native.subscription(), map()} | nil, t()}
  def pop_label(data, label) do
    case find_label(data, label) do
      nil ->
        {nil, data}

      {subscription, _synced} = found ->
        {found,
         %{
           data
           | labels: Map.delete(data.labels, label),
             synced: Map.delete(data.synced, subscription)
         }}
    end
  end

  @doc "Whether nothing is synced."
  @spec idle?(t()) :: boolean()
  def idle?(%__MODULE__{labels: labels, pending: pending}), do: labels == %{} and pending == %{}

  @doc "What is awaited for a label, or nil."
  @spec find_pending(t(), term()) :: Async.t() | nil
  def find_pending(%__MODULE__{pending: pending}, _label) when pending == %{}, do: nil

  def find_pending(%__MODULE__{pending: pending}, label),
    do: Enum.find_value(pending, fn {_ref, one} -> if one.request.label == label, do: one end)

  @spec put_pending(t(), Async.t()) :: t()
  def put_pending(data, %Async{ref: ref} = one),
    do: %{data | pending: Map.put(data.pending, ref, one)}

  @spec pop_pending(t(), term()) :: {Async.t() | nil, t()}
  def pop_pending(data, label) do
    case find_pending(data, label) do
      nil -> {nil, data}
      one -> {one, %{data | pending: Map.delete(data.pending, one.ref)}}
    end
  end
end
