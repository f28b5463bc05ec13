defmodule EctoFoundationDB.StreamClient do
  @moduledoc "A client of streams, which knows nothing but what it is told."

  import ExUnit.Assertions
  alias EctoFoundationDB.Sync.Stream.Changes

  @doc "An `:assign` function: changes the lists in the assigns, and fails where that is not possible."
  def assign(state, new) do
    update_in(state.assigns, fn assigns ->
      Enum.reduce(new, assigns, fn {label, changes}, assigns ->
        Map.put(assigns, label, apply_changes(changes, assigns[label] || []))
      end)
    end)
  end

  defp apply_changes(%Changes{} = changes, shown) do
    shown = if changes.reset?, do: [], else: shown
    moved = for {:move, _place, record} <- changes.placed, do: record
    gone = for record <- changes.deleted ++ moved, do: record.id
    assert gone -- Enum.map(shown, & &1.id) == []
    shown = Enum.reject(shown, &(&1.id in gone))

    Enum.reduce(changes.placed, shown, fn
      {:update, place, record}, shown ->
        assert record.id in Enum.map(shown, & &1.id)
        shown = Enum.map(shown, &if(&1.id == record.id, do: record, else: &1))
        assert is_integer(place)
        shown

      {_insert_or_move, place, record}, shown ->
        refute record.id in Enum.map(shown, & &1.id)
        assert place in 0..length(shown)
        List.insert_at(shown, place, record)
    end)
  end
end
