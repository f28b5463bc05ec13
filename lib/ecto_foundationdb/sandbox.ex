defmodule EctoFoundationDB.Sandbox do
  @moduledoc """
  Tenants for tests.

      setup do
        tenant = EctoFoundationDB.Sandbox.checkout(MyApp.Repo, "test-\#{System.unique_integer()}")
        on_exit(fn -> EctoFoundationDB.Sandbox.checkin(MyApp.Repo, tenant.id) end)
        {:ok, tenant: tenant}
      end

  A separate tenant for each test lets tests run at the same time. The Repo may be embedded (`embedded: true`), or
  use a cluster. ecto_foundationdb's option `open_db: &EctoFoundationDB.Sandbox.open_db/1` means the same as
  `embedded: true`; together with `cluster_file:` it means that cluster.
  """

  alias EctoFoundationDB.{Connection, Tenant}

  @doc "The database of a running Repo. As the value of `open_db:` it means that the Repo is embedded."
  @spec open_db(module()) :: reference()
  def open_db(repo),
    do: repo |> Connection.instance() |> Connection.fetch!() |> Map.fetch!(:database)

  @doc """
  Opens an empty tenant; options as in `EctoFoundationDB.Tenant.open!/3`.

      iex> EctoFoundationDB.Sandbox.checkout(Repo, "docs").id
      "docs"
  """
  @spec checkout(module(), Tenant.id(), keyword()) :: Tenant.t()
  def checkout(repo, id, options \\ []), do: Tenant.open_empty!(repo, id, options)

  @doc """
  Deletes a tenant with everything in it.

      iex> EctoFoundationDB.Sandbox.checkout(Repo, "short-lived")
      iex> EctoFoundationDB.Sandbox.checkin(Repo, "short-lived")
      :ok
  """
  @spec checkin(module(), Tenant.id()) :: :ok
  def checkin(repo, id), do: Tenant.clear_delete!(repo, id)
end
