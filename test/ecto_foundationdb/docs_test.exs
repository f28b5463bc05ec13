defmodule EctoFoundationDB.DocsTest do
  # The examples in the documentation.
  use ExUnit.Case, async: true

  alias EctoFoundationDB.{Future, Indexer, Migration, Migrator, Rebuild, Schema}
  alias EctoFoundationDB.{Sync, Tenant, Versionstamp}
  alias EctoFoundationDB.Indexer.SchemaMetadata
  alias MyApp.{Repo, User}

  setup do: Repo.start_for_docs()

  doctest EctoFoundationDB
  doctest EctoFoundationDB.Repo
  doctest Future
  doctest Indexer
  doctest Migration
  doctest Migrator
  doctest Rebuild
  doctest Schema
  doctest SchemaMetadata
  doctest Tenant
  doctest Versionstamp
  doctest Sync
  doctest Sync.One
  doctest Sync.Many
  doctest Sync.All
  doctest Sync.Stream
  doctest Sync.Stream.Changes
end

defmodule EctoFoundationDB.EmbeddedDocsTest do
  # Not concurrently: faults affect all users of the database.
  use ExUnit.Case, async: false

  alias EctoFoundationDB.Tenant
  alias MyApp.{Repo, User}

  @moduletag :embedded

  setup do: Repo.start_for_docs()

  doctest EctoFoundationDB.Embedded
end
