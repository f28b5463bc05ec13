defmodule EctoFoundationDB.SyncRepo do
  @moduledoc "Sync's own Repo: its tests count what the database does."
  use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
  use EctoFoundationDB.Migrator

  alias EctoFoundationDB.{Tenant, TestRepo}

  defmodule Indexes do
    use EctoFoundationDB.Migration
    alias EctoFoundationDB.SyncUser

    @impl true
    def change do
      [
        create(metadata(SyncUser)),
        create(metadata(SyncUser, [:team])),
        create(index(SyncUser, [:team])),
        create(index(SyncUser, [:name]))
      ]
    end
  end

  @impl true
  def migrations, do: [{0, Indexes}]

  def start do
    Application.put_env(:ecto_fdb_sync, __MODULE__, TestRepo.test_config())
    {:ok, _pid} = start_link()
  end

  @doc "A tenant for one test, deleted at its end."
  def tenant do
    id = "sync-#{System.unique_integer([:positive])}-#{System.os_time()}"
    ExUnit.Callbacks.on_exit(fn -> Tenant.clear_delete!(__MODULE__, id) end)
    Tenant.open!(__MODULE__, id)
  end

  def database, do: EctoFoundationDB.Connection.fetch!(__MODULE__).database
  def stats, do: EctoFoundationDB.Sync.stats(__MODULE__)

  @doc "Waits until `such` is true of what `fun` gives, and gives that; fails after a minute."
  def eventually(fun, such, tries \\ 6_000) do
    value = fun.()

    cond do
      such.(value) ->
        value

      tries == 0 ->
        raise ExUnit.AssertionError, message: "still not so after a minute: #{inspect(value)}"

      true ->
        Process.sleep(10)
        eventually(fun, such, tries - 1)
    end
  end
end

defmodule EctoFoundationDB.SyncUser do
  @moduledoc false
  use EctoFoundationDB.TestSchema,
    source: "users",
    fields: [id: :string, name: :string, team: :string]
end
