# The environment of the documentation's examples: a Repo, a schema, a tenant with two users.
defmodule MyApp.User do
  @moduledoc false
  use EctoFoundationDB.TestSchema,
    source: "users",
    fields: [id: :string, name: :string, team: :string]
end

defmodule MyApp.Repo do
  @moduledoc false
  use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
  use EctoFoundationDB.Migrator
  use EctoFoundationDB.Migration

  alias EctoFoundationDB.{Sync, SyncRepo, Tenant, TestRepo}
  alias MyApp.User

  @tenant "docs"

  @impl EctoFoundationDB.Migrator
  def migrations, do: [{0, __MODULE__}]

  @impl EctoFoundationDB.Migration
  def change do
    [create(metadata(User)), create(metadata(User, [:team])), create(index(User, [:team]))]
  end

  @doc "Starts it, with nothing in the tenant but the users."
  def start_for_docs do
    ExUnit.Callbacks.start_supervised!({__MODULE__, TestRepo.test_config()})
    tenant = Tenant.open_empty!(__MODULE__, @tenant)
    insert!(%User{id: "u1", name: "Ada", team: "red"}, prefix: tenant)
    insert!(%User{id: "u2", name: "Bea", team: "blue"}, prefix: tenant)
    # The process of the previous example may only just have ended.
    SyncRepo.eventually(fn -> Sync.stats(__MODULE__) end, &(&1.subscriptions == 0))
    :ok
  end
end
