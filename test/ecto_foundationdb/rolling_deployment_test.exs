defmodule EctoFoundationDB.RollingDeploymentTest do
  # Nodes of an older and of a newer version of the application migrate the same tenant.
  use EctoFoundationDB.LayerCase, async: true

  alias EctoFoundationDB.Layer.Keys

  @told [indexer: TestIndexer]

  # The migrations up to 1 belong to the older version.
  versions([
    {1,
     [
       create(index(TestUser, [:name])),
       create(index(TestUser, [:dept], options: [indexer: TestIndexer]))
     ]},
    {2, EctoFoundationDB.RollingDeploymentTest.accounts()}
  ])

  def accounts do
    # Runs another node's steps after this one has read the remaining work.
    Process.get(:meanwhile, fn -> :ok end).()

    import EctoFoundationDB.Migration
    [create(index(TestAccount, [:owner], options: @told)), create(index(TestUser, [:age]))]
  end

  defp fill(tenant) do
    users = for i <- 1..200, do: [id: "u#{i + 10}", name: "n#{rem(i, 3)}", dept: "d", age: i]
    accounts = for i <- 1..200, do: [id: i, owner: "o#{rem(i, 3)}"]
    tenant.repo.insert_all(TestUser, users, prefix: tenant)
    tenant.repo.insert_all(TestAccount, accounts, prefix: tenant)
  end

  defp claims(tenant),
    do:
      for({{_, "schema_migrations", "claim", source}, claim} <- dump(tenant), do: {source, claim})

  defp indexes(tenant), do: for({{_, "indexes", _, name}, _} <- dump(tenant), do: name)

  defp wrong_entries(tenant),
    do: stray_entries(tenant, TestUser) ++ stray_entries(tenant, TestAccount)

  test "steps that another node has done meanwhile are not repeated", %{tenant: tenant} do
    fill(tenant)
    # An entry that only building the index again would clear.
    mark = Keys.index_entry(tenant, "users", "users_name_index", ["mark"], "mark")

    Process.put(:meanwhile, fn ->
      Task.await(Task.async(fn -> migrate(tenant, 1) end))
      operations(tenant, [{:set, {:pack, mark}, "mark"}])
    end)

    migrate(tenant, 2)
    assert [{:stray, {_, "mark"}}] = wrong_entries(tenant)
    assert claims(tenant) == []

    assert indexes(tenant) ==
             ~w(accounts_owner_index users_age_index users_dept_index users_name_index)
  end

  defmodule FaultyRepo do
    use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
  end

  @tag :embedded
  test "nodes of both versions and writers, all at once, with faults", %{id: id} do
    start_supervised!({FaultyRepo, embedded: true, log: false})
    tenant = Tenant.open!(FaultyRepo, id)
    fill(tenant)
    seed = System.os_time()
    faults = [not_committed: 0.1, commit_unknown_result: 0.1, future_version: 0.02]
    EctoFoundationDB.Embedded.faults(FaultyRepo, [seed: seed] ++ faults)

    writers = for n <- 1..2, do: Task.async(fn -> write_until_told({seed, n, 0}, tenant) end)

    for(last <- [1, 2, 1, 2], do: Task.async(fn -> migrate(tenant, last, migration_step: 5) end))
    |> Task.await_many(:infinity)

    for writer <- writers, do: send(writer.pid, :stop)
    Task.await_many(writers, :infinity)
    EctoFoundationDB.Embedded.faults(FaultyRepo, nil)
    assert claims(tenant) == []
    assert {seed, wrong_entries(tenant)} == {seed, []}
    assert length(indexes(tenant)) == 4
  end

  defp write_until_told(seed, tenant) do
    :rand.seed(:exsss, seed)

    Stream.repeatedly(fn ->
      i = :rand.uniform(250)
      value = "v#{:rand.uniform(5)}"
      user = %TestUser{id: "u#{i + 10}", name: value, dept: value, age: i}

      for record <- [user, %TestAccount{id: i, owner: value}] do
        if :rand.uniform(3) == 1,
          do: FaultyRepo.delete(record, prefix: tenant),
          else: FaultyRepo.insert!(record, prefix: tenant, on_conflict: :replace_all)
      end

      receive do
        :stop -> :stopped
      after
        0 -> :goes_on
      end
    end)
    |> Enum.find(&(&1 == :stopped))
  end

  test "the older version finishes its part of a newer one's work, and leaves the rest to it",
       %{tenant: tenant} do
    fill(tenant)
    TestIndexer.die_at("u150", fn -> migrate(tenant, 2, migration_step: 7) end)
    assert [{"accounts", claim}, {"users", claim}] = claims(tenant)

    migrate(tenant, 1)
    assert claims(tenant) == []
    assert indexes(tenant) == ~w(users_dept_index users_name_index)
    write(tenant)
    assert wrong_entries(tenant) == []

    migrate(tenant, 2)
    assert wrong_entries(tenant) == []
  end

  test "writers of either version maintain an index that a dead node of the newer one was building",
       %{tenant: tenant} do
    fill(tenant)
    write(tenant)
    TestIndexer.die_at(150, fn -> migrate(tenant, 2, migration_step: 7) end)
    assert [{"accounts", claim}, {"users", claim}] = claims(tenant)

    # It has nothing left to do.
    migrate(tenant, 1)
    write(tenant)

    migrate(tenant, 2)
    assert claims(tenant) == []
    assert wrong_entries(tenant) == []
  end

  test "unreadable commands in a newer version's claim do not stop the older version",
       %{tenant: tenant} do
    fill(tenant)
    TestIndexer.die_at("u150", fn -> migrate(tenant, 2, migration_step: 7) end)

    # The state if this version has no such schema.
    for {source, claim} <- claims(tenant) do
      unknown = :binary.replace(claim, "DB.TestAccount", "DB.TestUnknown")
      assert byte_size(unknown) == byte_size(claim)
      operations(tenant, [{:set, {:pack, Keys.claim(tenant, source)}, unknown}])
    end

    migrate(tenant, 1)
    assert claims(tenant) == []
    assert wrong_entries(tenant) == []
    assert indexes(tenant) == ~w(users_dept_index users_name_index)
  end

  defp write(tenant) do
    for i <- [1, 150, 300],
        schema <- [TestUser, TestAccount],
        changes = if(schema == TestUser, do: [dept: "new", name: "new"], else: [owner: "new"]) do
      id = if schema == TestUser, do: "u#{i + 10}", else: i
      struct = struct!(schema, [id: id] ++ changes)
      TestRepo.insert!(struct, prefix: tenant, on_conflict: :replace_all)
      TestRepo.delete(struct!(schema, id: id), prefix: tenant)
      TestRepo.insert!(struct, prefix: tenant)
    end
  end
end
