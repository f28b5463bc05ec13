defmodule EctoFoundationDB.DocsTest do
  # The examples in the documentation.
  use ExUnit.Case, async: true

  alias EctoFoundationDB.{Sync, Tenant}
  alias MyApp.{Repo, User}

  setup do: Repo.start_for_docs()

  doctest Sync
  doctest Sync.One
  doctest Sync.Many
  doctest Sync.All
end
