defmodule EctoFoundationDB.Sync.State do
  @moduledoc false
  # What Sync remembers in a state's `private.ecto_fdb_sync_data`, for each repo. The terms last
  # assigned are kept here, not looked up in assigns, which the application may rewrite.

  @key :ecto_fdb_sync_data

  # labels:        label => %{request, tenant, decode, subscription, results, value}; `results` has, for
  #                each live query, the structs it last gave, and why they are stale, or nil; `value` is
  #                what was assigned of them
  # subscriptions: subscription => label
  # callbacks:     [{event, name, fun}] in order of attachment
  # notifying:     the labels whose callbacks are running
  # hook:          the options the container hook was attached with, or nil
  defstruct labels: %{}, subscriptions: %{}, callbacks: [], notifying: [], hook: nil

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
  def get(%{private: %{@key => %{} = data}}, repo), do: Map.get(data, repo, %__MODULE__{})
  def get(_state, _repo), do: %__MODULE__{}

  @spec put(map(), module(), t()) :: map()
  def put(%{private: private} = state, repo, data) do
    all =
      case private do
        %{@key => all} -> Map.put(all, repo, data)
        _none -> %{repo => data}
      end

    %{state | private: Map.put(private, @key, all)}
  end

  @doc "Records a label's sync; returns the one it replaces, or nil."
  @spec put_label(t(), term(), map()) :: {map() | nil, t()}
  def put_label(data, label, %{subscription: subscription} = synced) do
    {replaced, data} = pop_label(data, label)

    {replaced,
     %{
       data
       | labels: Map.put(data.labels, label, synced),
         subscriptions: Map.put(data.subscriptions, subscription, label)
     }}
  end

  @spec pop_label(t(), term()) :: {map() | nil, t()}
  def pop_label(data, label) do
    case Map.pop(data.labels, label) do
      {nil, _labels} ->
        {nil, data}

      {%{subscription: subscription} = synced, labels} ->
        {synced,
         %{data | labels: labels, subscriptions: Map.delete(data.subscriptions, subscription)}}
    end
  end
end
