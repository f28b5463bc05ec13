defmodule EctoFoundationDB.FormatTest do
  # Compares what ecto_foundationdb wrote with what this library writes. See test/format/README.md.
  use EctoFoundationDB.LayerCase, async: true

  alias EctoFoundationDB.{Native, Recording, Transaction}
  alias EctoFoundationDB.Indexer.SchemaMetadata
  alias EctoFoundationDB.Layer.Metadata
  alias EctoFoundationDB.Recording.{Migrator1, Migrator2}

  defmodule FormatRepo do
    use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
  end

  # The entries that the recorded library got wrong end in a field other than the id.
  @wrong {:utf8, "true"}

  describe "keys and values" do
    test "equal the recording's after every step", %{id: id} do
      tenant = Tenant.open!(TestRepo, id <> "-format", migrator: Migrator1, log: false)

      Enum.reduce(Recording.steps(), %{}, fn step, expected ->
        expected = expected(expected, step)
        run(step.step, tenant)

        if step.step != "empty" do
          actual = Map.new(dump(tenant))

          assert {step.step, Enum.sort(Map.keys(actual))} ==
                   {step.step, Enum.sort(Map.keys(expected))}

          for {key, value} <- expected, do: assert_value(step.step, key, actual[key], value)
        end

        expected
      end)
    end

    # The recording's state of tenant acme, with the expected differences.
    defp expected(state, step) do
      for_acme = fn keys, get ->
        for key <- keys, {<<0x15, 0x15>>, tuple} <- [Recording.key(get.(key))], do: {tuple, key}
      end

      cleared =
        for {tuple, _} <- for_acme.(step.cleared, & &1),
            counter?(tuple) == false,
            do: corrected(tuple)

      set =
        for {tuple, {_, value}} <- for_acme.(step.set, &elem(&1, 0)),
            into: %{},
            do: {corrected(tuple), value}

      state = state |> Map.drop(cleared) |> Map.merge(set)
      if step.step == "delete_all", do: after_delete_all(state), else: state
    end

    # Counters never go back: ours count the four deleted records.
    defp after_delete_all(state) do
      gone = [{"eng", 3}, {"ops", 1}]

      adds =
        for signal <- ["deletes", "collection", "changes"] do
          [{{<<0xFD>>, "users", "m", signal}, 4}] ++
            for {dept, n} <- gone,
                do: {{<<0xFD>>, "users", "m", "users_dept_metadata", 1, dept, signal}, n}
        end

      adds
      |> List.flatten()
      |> Enum.reduce(state, fn {key, n}, state ->
        <<count::little-64>> = Map.get(state, key, <<0::64>>)
        Map.put(state, key, <<count + n::little-64>>)
      end)
    end

    defp counter?(tuple), do: elem(tuple, 2) == "m"

    defp corrected(tuple) do
      if elem(tuple, tuple_size(tuple) - 1) == @wrong,
        do: put_elem(tuple, tuple_size(tuple) - 1, "u1"),
        else: tuple
    end

    defp run("empty", _tenant), do: :ok
    defp run("open_tenant", _tenant), do: :ok

    defp run("insert_user", tenant) do
      TestRepo.insert!(
        %TestUser{
          id: "u1",
          active: true,
          age: 36,
          dept: "eng",
          joined: ~D[2024-03-01],
          name: "Ada",
          score: 1.5,
          seen_at: ~U[2024-03-01 12:34:56.000007Z]
        },
        prefix: tenant
      )
    end

    defp run("insert_user_nils", tenant) do
      notes = "zero\0byte, ünïcödé"

      TestRepo.insert!(%TestUser{id: "u2", active: false, age: -5, notes: notes, score: -0.0},
        prefix: tenant
      )
    end

    defp run("update_user", tenant), do: update(tenant, "u1", name: "Ada L.", notes: "x")
    defp run("update_user_index_field", tenant), do: update(tenant, "u1", dept: "ops")
    defp run("delete_user", tenant), do: TestRepo.delete!(%TestUser{id: "u2"}, prefix: tenant)

    defp run("insert_accounts", tenant) do
      for {id, balance} <- [{1, 100}, {-7, 0}, {300, -12_345_678_901}, {9_000_000_000, 5}],
          do:
            TestRepo.insert!(%TestAccount{id: id, balance: balance, owner: "o#{id}"},
              prefix: tenant
            )
    end

    defp run("insert_large", tenant) do
      notes = String.duplicate("0123456789", 25_000)

      TestRepo.insert!(%TestUser{id: "big", name: "Big", dept: "eng", notes: notes},
        prefix: tenant
      )
    end

    defp run("update_large_to_small", tenant), do: update(tenant, "big", notes: "small now")

    defp run("upsert_replace_all", tenant) do
      user = %TestUser{id: "u1", name: "Ada3", dept: "ops"}
      TestRepo.insert!(user, prefix: tenant, on_conflict: :replace_all)
    end

    defp run("upsert_nothing", tenant),
      do: TestRepo.insert!(%TestUser{id: "u1"}, prefix: tenant, on_conflict: :nothing)

    defp run("insert_all", tenant) do
      rows = [[id: "m1", name: "M1", dept: "eng"], [id: "m2", name: "M2", dept: "eng"]]
      assert {2, nil} = TestRepo.insert_all(TestUser, rows, prefix: tenant)
    end

    defp run("second_tenant", _tenant), do: :ok

    defp run("migrate_2", tenant),
      do: Tenant.open!(TestRepo, tenant.id, migrator: Migrator2, log: false)

    defp run("delete_all", tenant),
      do: assert({4, nil} = TestRepo.delete_all(TestUser, prefix: tenant))

    defp run("clear_delete_tenant", _tenant), do: :ok

    defp update(tenant, id, changes),
      do: TestRepo.update!(TestRepo.get!(TestUser, id, prefix: tenant), changes)

    defp assert_value(_step, _key, actual, {:large, size, sha}) do
      assert byte_size(actual) == size
      # The external term format differs from OTP 26 on.
      if :erlang.system_info(:otp_release) == ~c"25",
        do: assert(:crypto.hash(:sha256, actual) == sha)
    end

    defp assert_value(step, key, actual, expected) do
      case expected do
        <<131, _::binary>> ->
          assert {step, key, at_no_time(:erlang.binary_to_term(actual))} ==
                   {step, key, at_no_time(:erlang.binary_to_term(expected))}

        # An entry's value is the record's key.
        <<1, _::binary>> when elem(key, 2) == "i" ->
          assert {step, key, Tuple.delete_at(Native.unpack(actual), 0)} ==
                   {step, key, Tuple.delete_at(Native.unpack(expected), 0)}

        _ ->
          assert {step, key, actual} == {step, key, expected}
      end
    end

    defp at_no_time(version: version, inserted_at: %NaiveDateTime{microsecond: microsecond}),
      do: {version, microsecond}

    defp at_no_time(term), do: term
  end

  describe "the recording's data" do
    @describetag :embedded

    setup do
      start_supervised!({FormatRepo, embedded: true, log: false})
      :ok
    end

    test "open unchanged: tenants, structs, indexes and counters" do
      load_until("migrate_2")
      assert Enum.sort(Tenant.list(FormatRepo)) == ["acme", "beta/ünï"]
      assert Tenant.exists?(FormatRepo, "beta/ünï")
      refute Tenant.exists?(FormatRepo, "gamma")

      before = all_keys()
      tenant = Tenant.open!(FormatRepo, "acme", migrator: Migrator2)
      assert tenant.prefix == <<0x15, 0x15>>
      assert all_keys() == before

      assert ["big", "m1", "m2", "u1"] = ids(TestUser, tenant)

      assert %TestUser{
               id: "u1",
               active: true,
               age: 36,
               dept: "ops",
               joined: ~D[2024-03-01],
               name: "Ada3",
               notes: "x",
               score: 1.5,
               seen_at: ~U[2024-03-01 12:34:56.000007Z]
             } = FormatRepo.get!(TestUser, "u1", prefix: tenant)

      assert ids(TestAccount, tenant) == [-7, 1, 300, 9_000_000_000]
      assert ids(TestAccount, tenant, where: [balance: {:<, 10}]) == [300, -7, 9_000_000_000]
      assert ids(TestUser, tenant, where: [dept: "eng"]) == ["big", "m1", "m2"]
      # With an entry of the recorded error.
      assert ids(TestUser, tenant, where: [dept: "ops"]) == ["u1"]

      assert ids(TestUser, tenant, where: [seen_at: {:>, ~U[2024-01-01 00:00:00.000000Z]}]) == [
               "u1"
             ]

      assert SchemaMetadata.inserts(TestUser, prefix: tenant) == 5
      assert SchemaMetadata.updates_by(TestUser, [dept: "ops"], prefix: tenant) == 2

      beta = Tenant.open!(FormatRepo, "beta/ünï", migrator: Migrator1)

      assert %{name: "Other tenant"} =
               FormatRepo.get_by!(TestUser, [name: "Other tenant"], prefix: beta)
    end

    test "have the same directories as ours" do
      Transaction.run_database(FormatRepo, fn ->
        Transaction.write([{:clear_range, "", <<0xFF>>}])
      end)

      tenant = Tenant.open!(FormatRepo, "acme")
      ours = for {<<0xFE, _::binary>> = key, value} <- hd(all_keys()), do: {key, value}
      {_, root} = Enum.find(ours, fn {key, _} -> key =~ "Ecto.Adapters.FoundationDB" end)

      recorded =
        for {<<0xFE, _::binary>> = key, value} <-
              Enum.find(Recording.steps(), &(&1.step == "open_tenant")).set do
          swap = fn bytes ->
            bytes
            |> String.split(<<0x15, 0x10>>)
            |> Enum.map_join(root, &String.replace(&1, <<0x15, 0x15>>, tenant.prefix))
          end

          {swap.(key), swap.(value)}
        end

      assert Enum.sort(recorded) == Enum.sort(ours)
    end

    test "stay right under our writes: no entry is left behind, right or wrong" do
      for write <- [
            fn tenant ->
              FormatRepo.update!(%TestUser{id: "u1"}, [name: "Ada4"], prefix: tenant)
            end,
            fn tenant ->
              FormatRepo.update!(%TestUser{id: "u1"}, [notes: "y"], prefix: tenant)
            end,
            fn tenant -> FormatRepo.update!(%TestUser{id: "u1"}, [dept: nil], prefix: tenant) end,
            fn tenant ->
              user = %TestUser{id: "u1", name: "new", active: false}
              FormatRepo.insert!(user, prefix: tenant, on_conflict: :replace_all)
            end,
            fn tenant -> FormatRepo.delete!(%TestUser{id: "u1"}, prefix: tenant) end,
            fn tenant ->
              FormatRepo.delete_all(TestUser, where: [dept: "ops"], prefix: tenant)
            end,
            fn tenant ->
              FormatRepo.update_all(TestUser, [set: [age: 1]],
                where: [dept: "ops"],
                prefix: tenant
              )
            end
          ],
          until <- ["upsert_replace_all", "migrate_2"] do
        load_until(until)

        tenant =
          Tenant.open!(FormatRepo, "acme",
            migrator: if(until == "migrate_2", do: Migrator2, else: Migrator1)
          )

        write.(tenant)
        assert stray_entries(tenant, TestUser) == []
      end
    end

    test "are migrated from where the recorded library stopped" do
      load_until("insert_all")
      tenant = Tenant.open!(FormatRepo, "acme", migrator: Migrator2, log: false)
      assert ids(TestUser, tenant, where: [seen_at: nil]) == ["big", "m1", "m2"]

      assert_raise EctoFoundationDB.Exception.Unsupported,
                   ~r/create index\(.*TestUser, \[:name\]\)/,
                   fn ->
                     ids(TestUser, tenant, where: [name: "M1"])
                   end
    end

    test "entries whose record is gone, or has other values, are not results" do
      load_until("migrate_2")
      tenant = Tenant.open!(FormatRepo, "acme", migrator: Migrator2)
      entry = {<<0xFD>>, "users", "i", "users_dept_joined_index", 2, "ops", nil}
      record = fn id -> Tenant.pack(tenant, {<<0xFD>>, "users", "d", id}) end
      key = fn id -> Tenant.pack(tenant, Tuple.insert_at(entry, tuple_size(entry), id)) end

      operations(tenant, [
        {:set, key.("gone"), record.("gone")},
        {:set, key.("m1"), record.("m1")}
      ])

      assert ids(TestUser, tenant, where: [dept: "ops"]) == ["u1"]
      assert ids(TestUser, tenant, where: [dept: "ops"], limit: 1) == ["u1"]
    end

    defp ids(schema, tenant, opts \\ []),
      do: for(record <- FormatRepo.all(schema, [prefix: tenant] ++ opts), do: record.id)

    # The state after a step, in an otherwise empty database.
    defp load_until(step) do
      steps = Recording.steps()
      last = Enum.find_index(steps, &(&1.step == step))

      state =
        steps
        |> Enum.take(last + 1)
        |> Enum.reduce(%{}, fn step, state ->
          state |> Map.drop(step.cleared) |> Map.merge(Map.new(step.set))
        end)

      Transaction.run_database(FormatRepo, fn ->
        Transaction.write([{:clear_range, "", <<0xFF>>}])
        Transaction.write(for {key, value} <- state, do: {:set, key, value})
        Transaction.write([Metadata.changed()])
      end)
    end

    defp all_keys do
      Transaction.run_database(FormatRepo, fn ->
        Transaction.read([{:get_range, "", <<0xFF>>, %{}}])
      end)
    end
  end
end
