# The struct of a changeset, for machines without Ecto: what a Repo does with one needs no more.
unless Code.ensure_loaded?(Ecto.Changeset) do
  defmodule Ecto.Changeset do
    @moduledoc false
    defstruct valid?: true,
              data: nil,
              changes: %{},
              action: nil,
              repo: nil,
              prepare: [],
              filters: %{},
              types: %{},
              errors: []

    def apply_changes(%__MODULE__{data: data, changes: changes}), do: Map.merge(data, changes)
  end
end
