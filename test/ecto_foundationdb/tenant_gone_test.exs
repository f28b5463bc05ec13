defmodule EctoFoundationDB.TenantGoneTest do
  # Tenants that are cleared, deleted and created again, by this node and by others. Nodes are Repos on the
  # same file: each has its own cache.
  use ExUnit.Case, async: true

  alias EctoFoundationDB.{
    Embedded,
    Future,
    LayerCase,
    Migrator,
    Native,
    Rebuild,
    Tenant,
    Transaction
  }

  alias EctoFoundationDB.Exception.{IncorrectTenancy, TenantGone}
  alias EctoFoundationDB.Indexer.SchemaMetadata
  alias EctoFoundationDB.Layer.{Keys, Metadata, Tenants}
  alias EctoFoundationDB.SyncUser, as: User

  @moduletag :embedded

  for node <- [Here, There, Single] do
    defmodule Module.concat(__MODULE__, node) do
      use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
      use EctoFoundationDB.Migrator
      @impl true
      def migrations, do: EctoFoundationDB.SyncRepo.migrations()
    end
  end

  alias __MODULE__.{Here, Single, There}

  setup do
    file = Path.join(System.tmp_dir!(), "tenant_gone-#{System.unique_integer([:positive])}.fdb")
    on_exit(fn -> File.rm(file) end)
    for node <- [Here, There], do: start_supervised!({node, embedded: file, log: false})
    {:ok, database: file}
  end

  defp user(id, name \\ "Ada"), do: %User{id: id, name: name, team: "red"}

  # The functions of a Repo for a tenant.
  defp uses(tenant) do
    repo = tenant.repo

    [
      fn -> repo.get(User, "u1", prefix: tenant) end,
      fn -> repo.all(User, prefix: tenant) end,
      fn -> repo.all(User, where: [team: "red"], prefix: tenant) end,
      fn -> repo.aggregate(User, :count, prefix: tenant) end,
      fn -> repo.reload(%{user("u1") | __meta__: %{prefix: tenant}}) end,
      fn -> Enum.to_list(repo.stream(User, prefix: tenant)) end,
      fn -> SchemaMetadata.changes(User, prefix: tenant) end,
      fn -> repo.insert(user("u2"), prefix: tenant) end,
      fn -> repo.insert!(user("u2"), prefix: tenant, conflict_target: []) end,
      fn -> repo.insert_all(User, [[id: "u2"]], prefix: tenant) end,
      fn -> repo.update(user("u1"), [name: "Bea"], prefix: tenant) end,
      fn -> repo.update_all(User, [set: [name: "Bea"]], prefix: tenant) end,
      fn -> repo.delete(user("u1"), prefix: tenant) end,
      fn -> repo.delete_all(User, prefix: tenant) end,
      fn -> repo.delete_all(User, prefix: tenant, step: 1) end,
      fn -> repo.watch(user("u1"), prefix: tenant) end,
      fn -> repo.transactional(tenant, fn -> repo.insert!(user("u2")) end) end,
      fn -> repo.transactional(tenant, fn -> repo.async_get(User, "u1") end) end,
      fn -> LayerCase.operations(tenant, [{:set, Tenant.pack(tenant, {"mine"}), "1"}]) end,
      fn -> Migrator.pending_versions(repo, tenant) end,
      fn -> Rebuild.index(tenant, User, :users_team_index) end
    ]
  end

  for {what, again?} <- [{"deleted", false}, {"deleted and created again", true}] do
    test "every use of a tenant that was #{what} is an error, and writes nothing" do
      for node <- [Here, There] do
        id = "gone-#{inspect(node)}"
        tenant = Tenant.open!(Here, id)
        Here.insert!(user("u1"), prefix: tenant)
        Tenant.clear_delete!(node, id)
        if unquote(again?), do: assert(Tenant.open!(node, id).prefix != tenant.prefix)

        for use <- uses(tenant) do
          error = assert_raise TenantGone, use
          assert error.tenant == tenant

          assert Exception.message(error) ==
                   "the tenant #{inspect(id)} of #{inspect(Here)} was deleted, or deleted and created again, " <>
                     "after it was opened. Open it again: Tenant.open!(#{inspect(Here)}, #{inspect(id)})"
        end

        assert LayerCase.dump(tenant) == []

        # Opening it again is all that is needed.
        again = Tenant.open!(Here, id)
        Here.insert!(user("u1"), prefix: again)
        assert [%User{id: "u1"}] = Here.all(User, where: [team: "red"], prefix: again)
        assert_raise TenantGone, fn -> Here.get(User, "u1", prefix: tenant) end
      end
    end
  end

  test "nothing is committed if the application rescues the error" do
    tenant = Tenant.open!(Here, "rescued")
    Tenant.clear_delete!(There, "rescued")

    assert_raise TenantGone, fn ->
      Here.transactional(tenant, fn ->
        try do
          Here.get(User, "u1")
        rescue
          TenantGone -> Transaction.write([{:set, Tenant.pack(tenant, {"mine"}), "1"}])
        end
      end)
    end

    assert LayerCase.dump(tenant) == []
  end

  test "no answer comes before the tenant is confirmed, in any order of awaiting" do
    tenant = Tenant.open!(Here, "order")
    for i <- 1..3, do: Here.insert!(user("u#{i}"), prefix: tenant)
    test = self()

    read = fn ->
      Here.transactional(tenant, fn ->
        futures = for i <- 1..3, do: Here.async_get(User, "u#{i}")

        for future <- Enum.reverse(futures) do
          %User{id: id} = Future.result(future)
          send(test, id)
          id
        end
      end)
    end

    assert read.() == ["u3", "u2", "u1"]
    for id <- ["u3", "u2", "u1"], do: assert_received(^id)

    Tenant.clear_delete!(There, "order")
    assert_raise TenantGone, read
    refute_received _
  end

  # Runs `meanwhile` in another process after the first attempt of the transaction has read.
  defp interrupted(tenant, meanwhile, write) do
    attempts = :counters.new(1, [])

    result =
      tenant.repo.transactional(tenant, fn ->
        :counters.add(attempts, 1, 1)
        Transaction.version()
        if :counters.get(attempts, 1) == 1, do: Task.await(Task.async(meanwhile), 60_000)
        write.()
      end)

    {result, :counters.get(attempts, 1)}
  end

  test "a writer conflicts with a transaction that deletes its tenant, and then finds that it is gone" do
    for {name, write} <- [
          insert: fn -> Here.insert!(user("u2")) end,
          blind: fn -> Here.insert!(user("u2"), conflict_target: []) end,
          own: fn -> Transaction.write([{:set, "not-in-the-tenant-#{node()}", "1"}]) end
        ] do
      id = "writer-#{name}"
      tenant = Tenant.open!(Here, id)
      # From now on the metadata version suffices: the transaction does not read the entry.
      Here.get(User, "u1", prefix: tenant)
      assert Tenant.confirmed_version(tenant) == Tenants.seen(Here)

      meanwhile = fn ->
        Tenant.clear_delete!(There, id)
        Tenant.open!(There, id)
      end

      assert_raise TenantGone, fn -> interrupted(tenant, meanwhile, write) end
      assert LayerCase.dump(tenant) == []
    end
  end

  test "changes of other tenants cause no conflicts" do
    tenant = Tenant.open!(Here, "calm")
    Here.insert!(user("u1"), prefix: tenant)

    meanwhile = fn ->
      for node <- [Here, There] do
        other = Tenant.open!(node, "other")
        node.insert!(user("u1"), prefix: other)
        Tenant.clear(node, "other")
        :ok = Tenant.create(node, "created")
        :ok = Tenant.delete(node, "created")
        Tenant.clear_delete!(node, "other")
      end
    end

    assert {%User{}, 1} = interrupted(tenant, meanwhile, fn -> Here.insert!(user("u2")) end)
  end

  test "a cleared tenant is migrated by its next use, of any kind" do
    names = fn tenant -> for {{_, "indexes", _, name}, _} <- LayerCase.dump(tenant), do: name end

    for node <- [Here, There],
        {n, use} <- [
          {1, &Here.insert!(user("u1"), prefix: &1)},
          {2, &SchemaMetadata.changes(User, prefix: &1)},
          {3, &Here.all(User, where: [name: "Ada"], prefix: &1)},
          {4, fn _tenant -> Tenant.open!(Here, "cleared") end}
        ],
        # Opening reads nothing; the next operation does.
        not (node == There and n == 4) do
      tenant = Tenant.open!(Here, "cleared")
      Here.insert!(user("u1"), prefix: tenant)
      assert length(names.(tenant)) == 4
      Tenant.clear(node, "cleared")
      assert {n, node, LayerCase.dump(tenant)} == {n, node, []}
      use.(tenant)
      assert length(names.(tenant)) == 4
      Tenant.clear_delete!(Here, "cleared")
    end

    # Pending migrations are listed, but not run.
    tenant = Tenant.open!(Here, "cleared")
    Tenant.clear(There, "cleared")
    assert Migrator.pending_versions(Here, tenant) == [0]
    assert LayerCase.dump(tenant) == []
  end

  test "a tenant that is cleared under writers and readers ends up right" do
    tenant = Tenant.open!(Here, "busy")

    workers =
      for node <- [Here, There], w <- 1..3 do
        tenant = Tenant.open!(node, "busy")

        Task.async(fn ->
          for i <- 1..40 do
            node.insert!(user("#{w}-#{i}"), prefix: tenant, on_conflict: :replace_all)
            node.all(User, where: [team: "red"], prefix: tenant)
          end
        end)
      end

    for _ <- 1..5, node <- [Here, There], do: Tenant.clear(node, "busy")
    Task.await_many(workers, 60_000)
    Here.insert!(user("last"), prefix: tenant)
    all = Here.all(User, prefix: tenant)
    assert Enum.sort(all) == Enum.sort(Here.all(User, where: [team: "red"], prefix: tenant))
    assert LayerCase.stray_entries(tenant, User) == []
  end

  test "opening a known tenant costs nothing, and its first use one call" do
    tenant = Tenant.open!(Here, "known")
    Here.insert!(user("u1"), prefix: tenant)
    cost = fn -> Map.take(Embedded.stats(Here), [:reads, :read_versions, :commits]) end
    before = cost.()
    opened = for _ <- 1..1000, do: Tenant.open!(Here, "known")
    assert cost.() == before
    assert Enum.uniq(opened) == [tenant]
    assert Tenant.open(Here, "known") == tenant
    assert Tenant.open!(Here, "known", max_value_size: 10).options == [max_value_size: 10]

    # Also after another node has created other tenants: the entry is read beside the record.
    Tenant.open!(There, "another")
    Here.get(User, "u1", prefix: Tenant.open!(Here, "another"))

    calls = fn ->
      LayerCase.assert_calls([:run], fn _ -> Here.get(User, "u1", prefix: tenant) end)
    end

    calls.()
    calls.()
    assert Tenant.confirmed_version(tenant) == Tenants.seen(Here)
  end

  test "a metadata version changed by others costs a tenant one check of its entry" do
    tenant = Tenant.open!(Here, "looks")
    other = Tenant.open!(There, "bumps")
    Here.insert!(user("u1"), prefix: tenant)
    get = fn -> reads(fn -> Here.get(User, "u1", prefix: tenant) end) end
    get.()
    usual = get.()
    LayerCase.operations(other, [Metadata.changed()])
    # The entry and the latest migration.
    assert get.() == usual + 2
    assert get.() == usual
    assert get.() == usual
  end

  defp reads(fun) do
    before = Embedded.stats(Here).reads
    fun.()
    Embedded.stats(Here).reads - before
  end

  test "creating, clearing or deleting a tenant sets the metadata version", context do
    database = fn ->
      Transaction.run_database(Here, fn -> Transaction.read([Metadata.version_op()]) end)
    end

    for {name, change} <- [
          create: fn -> Tenant.create(Here, "a") end,
          clear: fn -> Tenant.clear(Here, "a") end,
          delete: fn -> Tenant.delete(Here, "a") end,
          open!: fn -> Tenant.open!(Here, "a", migrator: String) end,
          clear_delete!: fn -> Tenant.clear_delete!(Here, "a") end
        ] do
      before = database.()
      change.()
      assert {name, database.() > before} == {name, true}
    end

    # Opening an existing one does not.
    start_supervised!({Single, embedded: context.database, log: false})
    Tenant.open!(Here, "b")
    before = database.()
    Tenant.open!(Single, "b")
    assert database.() == before
  end

  test "a Repo with one tenant finds the new one by itself, and opens no other", context do
    start_supervised!({Single, embedded: context.database, log: false, tenant_id: "main"})
    Single.insert!(user("u1"))

    for node <- [Single, There] do
      Tenant.clear_delete!(node, "main")
      assert Single.all(User) == []
      Tenant.clear_delete!(node, "main")
      assert %User{} = Single.insert!(user("u1"))
      Tenant.clear_delete!(node, "main")
      tenant = Tenant.open!(There, "main")
      There.insert!(user("u2"), prefix: tenant)
      assert [%User{id: "u2"}] = Single.all(User, where: [team: "red"])
      Tenant.clear_delete!(node, "main")
      assert {1, nil} = Single.insert_all(User, [[id: "u1"]])
      Tenant.clear_delete!(node, "main")
      assert Single.transactional(nil, fn -> Single.insert!(user("u3")).id end) == "u3"
      assert [%User{id: "u3"}] = Single.all(User)
    end

    for open <- [&Tenant.open!(Single, &1), &Tenant.open(Single, &1), &Tenant.create(Single, &1)] do
      assert_raise IncorrectTenancy,
                   ~r/Single has one tenant, "main".*can.t open "other"/,
                   fn ->
                     open.("other")
                   end
    end

    Tenant.open!(There, "other")
    assert Migrator.migrate_all(Single) == 1
  end

  test "a tenant in a partition of the directory layer", context do
    storage = "partition"
    config = [embedded: context.database, log: false, storage_id: storage]

    [prefix] =
      Transaction.run_database(There, fn ->
        answers = Transaction.read([{:directory, :create_or_open, [storage]}])
        Transaction.written()
        answers
      end)

    # As another client of the directory layer creates one.
    layer = <<0xFE>> <> Native.pack({prefix}) <> Native.pack({"layer"})
    Transaction.run_database(There, fn -> Transaction.write([{:set, layer, "partition"}]) end)
    start_supervised!({Single, config})
    tenant = Tenant.open!(Single, "inside")
    assert String.starts_with?(tenant.entry, prefix)
    Single.insert!(user("u1"), prefix: tenant)
    LayerCase.operations(Tenant.open!(There, "bumps"), [Metadata.changed()])
    assert [%User{id: "u1"}] = Single.all(User, prefix: tenant)
    Tenant.clear_delete!(Single, "inside")
    assert_raise TenantGone, fn -> Single.all(User, prefix: tenant) end
  end

  test "the cache ends with the Repo, but values of tenants do not", context do
    tenant = Tenant.open!(Here, "outlives")
    Here.insert!(user("u1"), prefix: tenant)
    stop_supervised!(Here)
    start_supervised!({Here, embedded: context.database, log: false})
    assert Tenant.confirmed_version(tenant) == nil
    assert [%User{id: "u1"}] = Here.all(User, prefix: tenant)
    assert Tenant.confirmed_version(tenant) != nil

    # Without a cache every transaction checks.
    stop_supervised!(Here)
    start_supervised!({Here, embedded: context.database, log: false, metadata_cache: :disabled})
    assert Tenant.open!(Here, "outlives") == tenant
    assert [%User{id: "u1"}] = Here.all(User, where: [team: "red"], prefix: tenant)
    assert Tenant.confirmed_version(tenant) == nil
    Tenant.clear_delete!(There, "outlives")
    assert_raise TenantGone, fn -> Here.all(User, prefix: tenant) end

    stop_supervised!(Here)
    assert Tenant.confirmed_version(tenant) == nil
    assert Tenant.forget(tenant) == :ok
  end

  # As a library that does not know the metadata version does.
  defp delete_in_silence(tenant) do
    {first, last} = Keys.range({tenant.prefix})

    Transaction.run_database(There, fn ->
      path = [There.config()[:storage_id], tenant.id]
      Transaction.read([{:clear_range, first, last}, {:directory, :remove, path}])
      Transaction.written()
    end)
  end

  test "a deletion that does not set the metadata version is noticed when something else does",
       context do
    for again? <- [false, true] do
      tenant = Tenant.open!(Here, "silent")
      other = Tenant.open!(There, "bumps")
      Here.insert!(user("u1"), prefix: tenant, on_conflict: :replace_all)
      delete_in_silence(tenant)

      if again?,
        do:
          Transaction.run_database(There, fn ->
            Transaction.read([{:directory, :create, [There.config()[:storage_id], "silent"]}])
            Transaction.written()
          end)

      LayerCase.operations(other, [Metadata.changed()])
      assert_raise TenantGone, fn -> Here.insert!(user("u2"), prefix: tenant) end
      Here.insert!(user("u1"), prefix: Tenant.open!(Here, "silent"))
    end

    # Without a cache it is noticed immediately.
    stop_supervised!(Here)
    start_supervised!({Here, embedded: context.database, log: false, metadata_cache: :disabled})
    tenant = Tenant.open!(Here, "silent")
    delete_in_silence(tenant)
    assert_raise TenantGone, fn -> Here.insert!(user("u2"), prefix: tenant) end
  end
end
