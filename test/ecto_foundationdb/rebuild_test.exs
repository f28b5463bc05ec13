defmodule EctoFoundationDB.RebuildTest do
  use EctoFoundationDB.LayerCase, async: true

  import ExUnit.CaptureIO

  alias EctoFoundationDB.{Migrator, Rebuild}
  alias EctoFoundationDB.Layer.Keys

  defmodule TaskRepo do
    use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
    use EctoFoundationDB.Migrator
    @impl EctoFoundationDB.Migrator
    def migrations, do: [{1, EctoFoundationDB.Recording.M1}]
  end

  setup context do
    # Separate tenants, because these tasks visit all of them.
    config = TestRepo.test_config() ++ [storage_id: inspect(TaskRepo)]
    start_supervised!({TaskRepo, config})
    Application.put_env(:ecto_fdb_sync, TaskRepo, config)
    for id <- Tenant.list(TaskRepo), do: Tenant.clear_delete!(TaskRepo, id)
    {:ok, tenant: Tenant.open!(TaskRepo, tenant_id(context))}
  end

  defp damage(tenant) do
    for i <- 1..20,
        do: TaskRepo.insert!(%TestUser{id: "u#{i}", name: "n#{rem(i, 3)}"}, prefix: tenant)

    entry = fn id, name ->
      {:pack, Keys.index_entry(tenant, "users", "users_name_index", [name], id)}
    end

    record = fn id -> {:pack, Keys.record(tenant, "users", id)} end

    operations(tenant, [
      {:clear, entry.("u3", "n0")},
      {:clear, entry.("u4", "n1")},
      {:set, entry.("gone", "n1"), record.("gone")},
      {:set, entry.("u5", "other"), record.("u5")},
      {:set, entry.(true, "n2"), record.("u5")}
    ])
  end

  test "adds missing entries and clears wrong ones", %{tenant: tenant} do
    damage(tenant)
    assert [_, _, _, _, _] = stray_entries(tenant, TestUser)
    assert Rebuild.index(tenant, TestUser, :users_name_index, step: 3) == %{missing: 2, wrong: 3}
    assert stray_entries(tenant, TestUser) == []
    assert Rebuild.index(tenant, TestUser, "users_name_index") == %{missing: 0, wrong: 0}
  end

  test "has clear errors", %{tenant: tenant} do
    assert_raise ArgumentError, ~r/has no index :nope.*users_name_index/s, fn ->
      Rebuild.index(tenant, TestUser, :nope)
    end

    assert_raise EctoFoundationDB.Exception.Unsupported, ~r/only default indexes/, fn ->
      Rebuild.index(tenant, TestUser, :users_metadata)
    end
  end

  test "is a Mix task", %{tenant: tenant} do
    damage(tenant)
    args = ["-r", inspect(TaskRepo), "--schema", inspect(TestUser), "--index", "users_name_index"]

    assert capture_io(fn -> Mix.Tasks.EctoFoundationdb.Rebuild.run(args) end) =~
             "2 entries were missing, 3 were wrong"

    assert capture_io(fn ->
             Mix.Tasks.EctoFoundationdb.Rebuild.run(args ++ ["--tenant", tenant.id])
           end) == "#{tenant.id}: 0 entries were missing, 0 were wrong\n"

    assert_raise Mix.Error, ~r/expected a Repo/, fn ->
      Mix.Tasks.EctoFoundationdb.Rebuild.run(["--schema", "X", "--index", "y"])
    end

    assert_raise Mix.Error, ~r/expected options, got: --schemas X/, fn ->
      Mix.Tasks.EctoFoundationdb.Rebuild.run(["--schemas", "X"])
    end

    assert_raise Mix.Error, ~r/is not a Repo/, fn ->
      Mix.Tasks.EctoFoundationdb.Migrate.run(["-r", "String"])
    end

    assert_raise Mix.Error, ~r/expected options/, fn ->
      Mix.Tasks.EctoFoundationdb.Migrate.run(["what"])
    end
  end

  test "all tenants are migrated by a Mix task", %{tenant: tenant} do
    for i <- 1..5, do: Tenant.create(TaskRepo, "t#{i}")

    output =
      capture_io(fn -> Mix.Tasks.EctoFoundationdb.Migrate.run(["-r", inspect(TaskRepo)]) end)

    assert output =~ "6/6 tenants migrated"

    args = ["-r", inspect(TaskRepo), "--tenant", "t1", "--tenant", "t2", "--concurrency", "1"]
    output = capture_io(fn -> Mix.Tasks.EctoFoundationdb.Migrate.run(args) end)
    assert output =~ "2/2 tenants migrated"

    for id <- ["t1", "t5", tenant.id] do
      assert Migrator.pending_versions(TaskRepo, Tenant.open(TaskRepo, id, migrator: Migrator)) ==
               []
    end
  end
end
