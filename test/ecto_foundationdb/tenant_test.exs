defmodule EctoFoundationDB.TenantTest do
  use EctoFoundationDB.LayerCase, async: true

  alias EctoFoundationDB.Exception.IncorrectTenancy

  test "are created, listed, cleared and deleted", %{id: id} do
    id = id <> "-ünï/x"
    refute Tenant.exists?(TestRepo, id)
    assert :ok = Tenant.create(TestRepo, id)
    assert {:error, :tenant_already_exists} = Tenant.create(TestRepo, id)
    assert Tenant.exists?(TestRepo, id)
    assert id in Tenant.list(TestRepo)

    tenant = Tenant.open(TestRepo, id)
    assert Tenant.open!(TestRepo, id) == tenant
    TestRepo.insert!(%TestUser{id: "u1"}, prefix: tenant)
    assert {:error, :tenant_nonempty} = Tenant.delete(TestRepo, id)
    assert :ok = Tenant.clear(TestRepo, id)
    assert dump(tenant) == []
    assert :ok = Tenant.delete(TestRepo, id)
    assert {:error, :tenant_does_not_exist} = Tenant.delete(TestRepo, id)
    refute Tenant.exists?(TestRepo, id)

    tenant = Tenant.open!(TestRepo, id)
    TestRepo.insert!(%TestUser{id: "u1"}, prefix: tenant)
    assert :ok = Tenant.clear_delete!(TestRepo, id)
    assert :ok = Tenant.clear_delete!(TestRepo, id)
    assert dump(tenant) == []
    # A new one is a different one.
    assert TestRepo.all(TestUser, prefix: Tenant.open!(TestRepo, id)) == []
    Tenant.clear_delete!(TestRepo, id)
  end

  test "open_empty! keeps the migrations", %{tenant: tenant} do
    defmodule Migrator do
      use EctoFoundationDB.Migrator
      @impl true
      def migrations, do: [{1, EctoFoundationDB.Recording.M1}]
    end

    tenant = Tenant.open!(TestRepo, tenant.id, migrator: Migrator, log: false)
    TestRepo.insert!(%TestUser{id: "u1", name: "x"}, prefix: tenant)
    tenant = Tenant.open_empty!(TestRepo, tenant.id, migrator: Migrator)
    assert TestRepo.all(TestUser, where: [name: "x"], prefix: tenant) == []
    assert TestRepo.all(TestUser, prefix: tenant) == []
  end

  test "opened at once by many processes are one", %{id: id} do
    tenants =
      1..20
      |> Enum.map(fn _ -> Task.async(fn -> Tenant.open!(TestRepo, id <> "-many") end) end)
      |> Task.await_many(60_000)

    assert [_] = Enum.uniq(Enum.map(tenants, & &1.prefix))
  end

  test "contain keys of the application", %{tenant: tenant, id: id} do
    key = Tenant.pack(tenant, {"app", 1})
    assert Tenant.unpack(tenant, key) == {"app", 1}
    {first, last} = Tenant.range(tenant, {"app"})
    assert first < key and key < last
    other = Tenant.open!(TestRepo, id <> "-other")
    assert_raise ArgumentError, ~r/is not a key of/, fn -> Tenant.unpack(other, key) end
  end

  test "have clear errors", %{id: id, tenant: tenant} do
    assert_raise EctoFoundationDB.Error, ~r/does not exist. Create it with Tenant.create/, fn ->
      Tenant.open(TestRepo, id <> "-none")
    end

    assert_raise ArgumentError, ~r/must be a string that is not empty, got: ""/, fn ->
      Tenant.open!(TestRepo, "")
    end

    assert_raise ArgumentError, ~r/got: :acme/, fn -> Tenant.open!(TestRepo, :acme) end
    assert_raise ArgumentError, ~r/valid UTF-8/, fn -> Tenant.open!(TestRepo, <<0xFF>>) end

    assert_raise IncorrectTenancy, ~r/inside a transaction/, fn ->
      TestRepo.transactional(tenant, fn -> Tenant.open!(TestRepo, "x") end)
    end
  end
end
