defmodule EctoFoundationDB.RollingDeploymentTest do
  # Nodes of an older and of a newer version of the application migrate the same tenant.
  use EctoFoundationDB.LayerCase, async: true

  alias EctoFoundationDB.Layer.Keys
  alias EctoFoundationDB.Transaction

  defmodule Users do
    use EctoFoundationDB.Migration
    @impl true
    def change, do: [create(index(TestUser, [:name])), create(index(TestUser, [:dept]))]
  end

  defmodule Accounts do
    use EctoFoundationDB.Migration

    @impl true
    def change do
      # What another node does after this one has seen what is left to do.
      Process.get(:meanwhile, fn -> :ok end).()
      [create(index(TestAccount, [:owner])), create(index(TestUser, [:age]))]
    end
  end

  defmodule Old do
    use EctoFoundationDB.Migrator
    @impl true
    def migrations, do: [{1, Users}]
  end

  defmodule New do
    use EctoFoundationDB.Migrator
    @impl true
    def migrations, do: [{1, Users}, {2, Accounts}]
  end

  defp open(tenant, migrator, opts \\ []),
    do: Tenant.open!(TestRepo, tenant.id, [migrator: migrator, log: false] ++ opts)

  defp fill(tenant) do
    users = for i <- 1..200, do: [id: "u#{i + 10}", name: "n#{rem(i, 3)}", dept: "d", age: i]
    accounts = for i <- 1..200, do: [id: i, owner: "o#{rem(i, 3)}"]
    TestRepo.insert_all(TestUser, users, prefix: tenant)
    TestRepo.insert_all(TestAccount, accounts, prefix: tenant)
  end

  defp claims(tenant),
    do:
      for({{_, "schema_migrations", "claim", source}, claim} <- dump(tenant), do: {source, claim})

  defp indexes(tenant), do: for({{_, "indexes", _, name}, _} <- dump(tenant), do: name)

  defp wrong_entries(tenant),
    do: stray_entries(tenant, TestUser) ++ stray_entries(tenant, TestAccount)

  # A node of the newer version that dies while it builds this index.
  defp die_building(tenant, index) do
    {pid, monitor} = spawn_monitor(fn -> open(tenant, New, migration_step: 1) end)
    wait_for_claim(tenant, index)
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^monitor, _, _, _}
  end

  defp wait_for_claim(tenant, index) do
    {first, last} = Keys.range(Keys.claims(tenant))

    [claims] =
      Transaction.run(tenant, fn -> Transaction.read([{:get_range, first, last, %{}}]) end)

    building =
      for {_, claim} <- claims,
          {_owner, steps} = :erlang.binary_to_term(claim),
          {{{:create, %{name: name}}, _}, {start, cursor, _}} <- [next(steps)],
          cursor > start,
          do: name

    unless index in building, do: wait_for_claim(tenant, index)
  end

  defp next([{_version, []} | steps]), do: next(steps)
  defp next([{_version, [command | _]} | _]), do: command

  test "what another node has done meanwhile is not done again", %{tenant: tenant} do
    fill(tenant)
    # An entry that only building the index anew would clear.
    mark = Keys.index_entry(tenant, "users", "users_name_index", ["mark"], "mark")

    Process.put(:meanwhile, fn ->
      Task.await(Task.async(fn -> open(tenant, Old) end))
      operations(tenant, [{:set, {:pack, mark}, "mark"}])
    end)

    open(tenant, New)
    assert [{:stray, {_, "mark"}}] = wrong_entries(tenant)
    assert claims(tenant) == []

    assert indexes(tenant) ==
             ~w(accounts_owner_index users_age_index users_dept_index users_name_index)
  end

  test "the older version ends its part of what a newer one began, and leaves the rest to it",
       %{tenant: tenant} do
    fill(tenant)
    die_building(tenant, :users_dept_index)
    assert [{"accounts", claim}, {"users", claim}] = claims(tenant)

    open(tenant, Old)
    assert claims(tenant) == []
    assert indexes(tenant) == ~w(users_dept_index users_name_index)
    write(tenant)
    assert wrong_entries(tenant) == []

    open(tenant, New)
    assert wrong_entries(tenant) == []
    assert [_ | _] = TestRepo.all(TestAccount, where: [owner: "new"], prefix: tenant)
  end

  test "writers of either version keep up what a dead node of the newer one was building",
       %{tenant: tenant} do
    fill(tenant)
    write(tenant)
    die_building(tenant, :accounts_owner_index)
    assert [{"accounts", claim}, {"users", claim}] = claims(tenant)

    # It has nothing left to do.
    open(tenant, Old)
    write(tenant)

    open(tenant, New)
    assert claims(tenant) == []
    assert wrong_entries(tenant) == []
    assert [_ | _] = TestRepo.all(TestAccount, where: [owner: "new"], prefix: tenant)
  end

  test "what the older version cannot read of a newer one's claim does not stop it",
       %{tenant: tenant} do
    fill(tenant)
    die_building(tenant, :users_dept_index)

    # As it is where this version has no such schema.
    for {source, claim} <- claims(tenant) do
      unknown = :binary.replace(claim, "DB.TestAccount", "DB.TestUnknown")
      assert byte_size(unknown) == byte_size(claim)
      operations(tenant, [{:set, {:pack, Keys.claim(tenant, source)}, unknown}])
    end

    open(tenant, Old)
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
