defmodule EctoFoundationDB.Sync.Callbacks do
  @moduledoc false
  # The application's functions for Sync's events.

  alias EctoFoundationDB.Sync.State

  @events [:handle_assigns, :handle_stale]

  def attach(state, repo, name, event, callback, opts) do
    State.check!(state)
    check_event!(event)

    unless is_function(callback, 2) do
      raise ArgumentError,
            "expected a callback for #{inspect(event)} to be a function of two arguments, the " <>
              "state and a map by label, got: #{inspect(callback)}"
    end

    opts = Keyword.validate!(opts, replace: false)
    data = State.get(state, repo)
    place = Enum.find_index(data.callbacks, &match?({^event, ^name, _callback}, &1))

    callbacks =
      cond do
        place == nil ->
          data.callbacks ++ [{event, name, callback}]

        opts[:replace] ->
          List.replace_at(data.callbacks, place, {event, name, callback})

        true ->
          raise ArgumentError,
                "a callback #{inspect(name)} is attached to #{inspect(event)} of " <>
                  "#{inspect(repo)} already: give this one another name, or replace: true"
      end

    State.put(state, repo, %{data | callbacks: callbacks})
  end

  def detach(state, repo, name, event, opts) do
    State.check!(state)
    check_event!(event)
    Keyword.validate!(opts, [])
    data = State.get(state, repo)
    callbacks = Enum.reject(data.callbacks, &match?({^event, ^name, _callback}, &1))
    State.put(state, repo, %{data | callbacks: callbacks})
  end

  @doc """
  Calls the event's callbacks with `argument`, a map by label, in order of attachment until one says
  `:halt`. What they may not sync meanwhile, see `check_labels!/2`.
  """
  def run(state, repo, event, argument) do
    case State.get(state, repo) do
      %State{callbacks: []} ->
        state

      %State{callbacks: callbacks, notifying: notifying} = data ->
        state = State.put(state, repo, %{data | notifying: [Map.keys(argument) | notifying]})
        state = call(callbacks, event, state, argument)
        State.put(state, repo, %{State.get(state, repo) | notifying: notifying})
    end
  end

  defp call([], _event, state, _argument), do: state

  defp call([{event, name, callback} | callbacks], event, state, argument) do
    case callback.(state, argument) do
      {:cont, state} ->
        call(callbacks, event, state, argument)

      {:halt, state} ->
        state

      other ->
        raise ArgumentError,
              "expected the callback #{inspect(name)} to return {:cont, state} or " <>
                "{:halt, state}, got: #{inspect(other)}"
    end
  end

  defp call([_other_event | callbacks], event, state, argument),
    do: call(callbacks, event, state, argument)

  @doc """
  Raises for a label that the running callbacks were called for: syncing it would call them for ever.
  Where they were called for several labels that have changed together, syncing one of those because of
  another is right; in the calls that this brings about it is not any more.
  """
  def check_labels!(%State{notifying: notifying}, labels) do
    refused =
      case List.pop_at(notifying, -1) do
        {[_, _ | _] = _several, nested} -> Enum.concat(nested)
        _one_or_none -> Enum.concat(notifying)
      end

    for label <- labels, label in refused do
      raise ArgumentError,
            "a callback that was called because #{inspect(label)} changed can't sync " <>
              "#{inspect(label)}, it would be called for it again and again. " <>
              "Sync another label in it, or sync #{inspect(label)} outside of the callback"
    end

    :ok
  end

  defp check_event!(event) when event in @events, do: :ok

  defp check_event!(event) do
    raise ArgumentError,
          "expected an event of #{inspect(@events)} to attach a callback to, got: #{inspect(event)}"
  end
end
