defmodule EctoFoundationDB.LayerCase do
  @moduledoc false
  # One tenant per test: they run at the same time.
  use ExUnit.CaseTemplate

  alias EctoFoundationDB.{Native, Tenant, TestRepo}
  alias EctoFoundationDB.Layer.Keys

  using do
    quote do
      import EctoFoundationDB.LayerCase

      alias EctoFoundationDB.{
        Tenant,
        TestAccount,
        TestEvent,
        TestPost,
        TestRepo,
        TestThing,
        TestUser
      }
    end
  end

  setup context do
    start_repo()

    {:ok,
     id: tenant_id(context),
     tenant: Tenant.open!(TestRepo, tenant_id(context), Map.get(context, :tenant_options, []))}
  end

  @doc "Starts the Repo of all tests, once."
  def start_repo do
    case Process.whereis(TestRepo) do
      nil ->
        # Not linked: it outlives the test that comes first.
        spawn(fn ->
          TestRepo.start_link(TestRepo.test_config())
          Process.sleep(:infinity)
        end)

        wait_for_repo(200)

      _ ->
        wait_for_repo(200)
    end
  end

  defp wait_for_repo(0), do: raise("the test Repo does not start")

  defp wait_for_repo(n) do
    EctoFoundationDB.Connection.fetch!(TestRepo)
    :ok
  rescue
    ArgumentError ->
      Process.sleep(20)
      wait_for_repo(n - 1)
  end

  def tenant_id(context),
    do:
      "#{inspect(context.module)}-#{context.test}-#{System.unique_integer([:positive])}-#{System.os_time()}"

  @doc "Everything a tenant holds, as `{tuple without the tenant's prefix, value}`."
  def dump(tenant) do
    {first, last} = Keys.range({tenant.prefix})

    rows =
      EctoFoundationDB.Transaction.run(tenant, fn ->
        [rows] = EctoFoundationDB.Transaction.read([{:get_range, first, last, %{}}])
        rows
      end)

    for {key, value} <- rows, do: {Tuple.delete_at(Native.unpack(key), 0), value}
  end

  @doc "Runs operations in a transaction of the tenant: what other clients would write."
  def operations(tenant, operations) do
    EctoFoundationDB.Transaction.run(tenant, fn ->
      EctoFoundationDB.Transaction.write(operations)
    end)
  end
end
