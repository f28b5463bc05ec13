defmodule EctoFoundationDB.RepoTest do
  use EctoFoundationDB.LayerCase, async: true

  alias EctoFoundationDB.{ConflictError, NoResultsError, StaleEntryError}
  alias EctoFoundationDB.Exception.{IncorrectTenancy, Unsupported}
  alias EctoFoundationDB.TestNoKey

  describe "records" do
    test "are inserted, read, updated and deleted", %{tenant: tenant} do
      user = TestRepo.insert!(%TestUser{id: "u1", name: "Ada"}, prefix: tenant)
      assert user.__meta__.prefix == tenant
      assert TestRepo.get(TestUser, "u1", prefix: tenant) == user

      assert {:ok, %TestUser{name: "Bob", dept: "eng"}} =
               TestRepo.update(user, name: "Bob", dept: "eng")

      assert %TestUser{name: "Bob", dept: "eng"} = TestRepo.get!(TestUser, "u1", prefix: tenant)

      assert {:ok, %TestUser{}} = TestRepo.delete(user)
      assert TestRepo.get(TestUser, "u1", prefix: tenant) == nil
      assert dump(tenant) == []
    end

    test "can be set to nil", %{tenant: tenant} do
      user = TestRepo.insert!(%TestUser{id: "u1", name: "Ada"}, prefix: tenant)
      TestRepo.update!(user, name: nil)
      assert %TestUser{name: nil} = TestRepo.get(TestUser, "u1", prefix: tenant)
    end

    test "an update with no changes writes nothing", %{tenant: tenant} do
      assert {:ok, %TestUser{id: "none"}} =
               TestRepo.update(%TestUser{id: "none"}, %{}, prefix: tenant)
    end

    test "are visible only in their tenant", %{tenant: tenant, id: id} do
      other = Tenant.open!(TestRepo, id <> "-other")
      TestRepo.insert!(%TestUser{id: "u1", name: "Ada"}, prefix: tenant)
      assert TestRepo.all(TestUser, prefix: other) == []
    end

    test "a second insert is a conflict", %{tenant: tenant} do
      TestRepo.insert!(%TestUser{id: "u1", name: "Ada"}, prefix: tenant)

      assert {:error, %ConflictError{schema: TestUser, id: "u1"}} =
               TestRepo.insert(%TestUser{id: "u1", name: "Ada"}, prefix: tenant)

      assert_raise ConflictError, ~r/primary key "u1" exists already.*on_conflict/s, fn ->
        TestRepo.insert!(%TestUser{id: "u1"}, prefix: tenant)
      end
    end

    test "update and delete of a missing record are errors", %{tenant: tenant} do
      user = %TestUser{id: "gone"}
      assert {:error, %StaleEntryError{}} = TestRepo.update(user, [name: "x"], prefix: tenant)
      assert {:error, %StaleEntryError{}} = TestRepo.delete(user, prefix: tenant)

      assert_raise StaleEntryError, ~r/cannot update.*"gone": there is no such record/, fn ->
        TestRepo.update!(user, [name: "x"], prefix: tenant)
      end

      assert_raise StaleEntryError, ~r/cannot delete/, fn ->
        TestRepo.delete!(user, prefix: tenant)
      end
    end

    test "generate ids and timestamps", %{tenant: tenant} do
      post = TestRepo.insert!(%TestPost{title: "one"}, prefix: tenant)
      assert post.id =~ ~r/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/
      assert %NaiveDateTime{} = post.inserted_at
      assert TestRepo.get!(TestPost, post.id, prefix: tenant) == post

      old = ~N[2000-01-01 00:00:00]
      TestRepo.update!(post, updated_at: old)
      assert %{updated_at: ^old} = TestRepo.get!(TestPost, post.id, prefix: tenant)
      updated = TestRepo.update!(post, title: "two")
      assert NaiveDateTime.compare(updated.updated_at, old) == :gt
    end

    for {name, id} <- [
          {"unicode", "ünï-日本"},
          {"an empty string", ""},
          {"zero bytes", <<0, 1, 0, 0xFF, 0>>},
          {"a huge integer", 123_456_789_012_345_678_901_234_567_890},
          {"a negative huge integer", -123_456_789_012_345_678_901_234_567_890},
          {"a float", -1.5},
          {"an atom", :someone},
          {"a tuple", {"a", 1, :b}},
          {"a struct", ~D[2024-02-29]},
          {"a list", ["a", %{b: 1}]}
        ] do
      test "have #{name} as primary key and as value", %{tenant: tenant} do
        id = unquote(Macro.escape(id))
        thing = TestRepo.insert!(%TestThing{id: id, value: id}, prefix: tenant)
        assert TestRepo.get(TestThing, id, prefix: tenant) == thing
        assert TestRepo.all(TestThing, prefix: tenant) == [thing]
        assert %{value: {:new, ^id}} = TestRepo.update!(thing, value: {:new, id})
        assert %{value: {:new, ^id}} = TestRepo.get(TestThing, id, prefix: tenant)
        TestRepo.delete!(thing)
        assert dump(tenant) == []
      end
    end

    test "whose keys have a common prefix are distinguished", %{tenant: tenant} do
      ids = ["a", "a\0", "a\0b", "ab", "", "\0", <<0xFF>>]
      for id <- ids, do: TestRepo.insert!(%TestThing{id: id, value: id}, prefix: tenant)
      for id <- ids, do: assert(%{value: ^id} = TestRepo.get(TestThing, id, prefix: tenant))
      TestRepo.delete!(%TestThing{id: "a"}, prefix: tenant)

      for id <- ids -- ["a"],
          do: assert(%{value: ^id} = TestRepo.get(TestThing, id, prefix: tenant))
    end

    test "of a megabyte are kept in parts", %{tenant: tenant} do
      value = :crypto.strong_rand_bytes(1_000_000)
      thing = TestRepo.insert!(%TestThing{id: "big", value: value}, prefix: tenant)
      assert length(dump(tenant)) == 12
      assert TestRepo.get(TestThing, "big", prefix: tenant) == thing
      TestRepo.insert!(%TestThing{id: "c", value: 1}, prefix: tenant)
      assert [%{id: "big", value: ^value}, %{id: "c"}] = TestRepo.all(TestThing, prefix: tenant)

      TestRepo.update!(thing, value: "small")
      assert length(dump(tenant)) == 2
      TestRepo.update!(thing, value: value)
      TestRepo.delete!(thing)
      assert [{_, _}] = dump(tenant)
    end

    test "that are torn are an error that names the key", %{tenant: tenant} do
      TestRepo.insert!(%TestThing{id: "big", value: String.duplicate("x", 250_000)},
        prefix: tenant
      )

      [_, _, {tuple, _} | _] = dump(tenant)
      key = Tenant.pack(tenant, tuple)
      operations(tenant, [{:clear, key}])

      assert_raise EctoFoundationDB.DecodeError, ~r/big.*torn value/s, fn ->
        TestRepo.get(TestThing, "big", prefix: tenant)
      end

      operations(tenant, [{:set, key, "other bytes"}])

      assert_raise EctoFoundationDB.DecodeError, ~r/checksum/, fn ->
        TestRepo.get(TestThing, "big", prefix: tenant)
      end
    end
  end

  describe "on_conflict" do
    setup %{tenant: tenant} do
      TestRepo.insert!(%TestUser{id: "u1", name: "Ada", dept: "eng", age: 36}, prefix: tenant)
      :ok
    end

    test ":nothing keeps the record", %{tenant: tenant} do
      assert {:ok, _} =
               TestRepo.insert(%TestUser{id: "u1", name: "Bob"},
                 prefix: tenant,
                 on_conflict: :nothing
               )

      assert %{name: "Ada"} = TestRepo.get(TestUser, "u1", prefix: tenant)
    end

    test ":replace_all replaces the struct's fields", %{tenant: tenant} do
      bob = %TestUser{id: "u1", name: "Bob"}
      TestRepo.insert!(bob, prefix: tenant, on_conflict: :replace_all)

      assert %{name: "Bob", dept: "eng", age: 36} = TestRepo.get(TestUser, "u1", prefix: tenant)
    end

    test "{:replace, fields} and {:replace_all_except, fields}", %{tenant: tenant} do
      new = %TestUser{id: "u1", name: "Bob", dept: "ops", age: 1}
      TestRepo.insert!(new, prefix: tenant, on_conflict: {:replace, [:name]})
      assert %{name: "Bob", dept: "eng", age: 36} = TestRepo.get(TestUser, "u1", prefix: tenant)
      TestRepo.insert!(new, prefix: tenant, on_conflict: {:replace_all_except, [:age]})
      assert %{name: "Bob", dept: "ops", age: 36} = TestRepo.get(TestUser, "u1", prefix: tenant)
    end

    test "the primary key may be the target, and [] overwrites", %{tenant: tenant} do
      for target <- [:id, [:id]] do
        assert {:error, %ConflictError{}} =
                 TestRepo.insert(%TestUser{id: "u1"}, prefix: tenant, conflict_target: target)
      end

      TestRepo.insert!(%TestUser{id: "u1", name: "Bob"}, prefix: tenant, conflict_target: [])
      assert %{name: "Bob", age: nil} = TestRepo.get(TestUser, "u1", prefix: tenant)
    end

    test "[] leaves nothing of an existing large record", %{tenant: tenant} do
      large = %TestNote{id: "a", text: String.duplicate("x", 250_000)}
      larger = %{large | text: large.text <> "y"}
      small = %{large | text: "small"}

      for note <- [large, larger, small, large] do
        TestRepo.insert!(note, prefix: tenant, conflict_target: [])
        assert [%{text: text}] = TestRepo.all(TestNote, prefix: tenant)
        assert text == note.text

        fields = [id: "a", text: "row"]
        TestRepo.insert_all(TestNote, [fields], prefix: tenant, conflict_target: [])
        assert [%{text: "row"}] = TestRepo.all(TestNote, prefix: tenant)
      end
    end

    test "of many rows: a conflict leaves none of them, also if the transaction continues",
         %{tenant: tenant} do
      rows = fn ids -> for id <- ids, do: [id: id, name: "Bob"] end

      TestRepo.transactional(tenant, fn ->
        for ids <- [["u0", "u1"], ["u2", "u3", "u2"]] do
          assert_raise ConflictError, fn -> TestRepo.insert_all(TestUser, rows.(ids)) end
        end
      end)

      assert [%{id: "u1"}] = TestRepo.all(TestUser, prefix: tenant)

      assert {1, [%{id: "u2", name: "Bob"}]} =
               TestRepo.insert_all(TestUser, rows.(["u1", "u2"]),
                 on_conflict: :nothing,
                 returning: true,
                 prefix: tenant
               )

      assert {3, nil} =
               TestRepo.insert_all(TestUser, rows.(["u1", "u4", "u4"]),
                 on_conflict: :replace_all,
                 prefix: tenant
               )

      assert {1, [%{id: "u5", active: false}]} =
               TestRepo.insert_all(TestUser, [%TestUser{id: "u5", active: false}],
                 returning: [:id, :active],
                 prefix: tenant
               )
    end
  end

  describe "transactional/2" do
    test "is all or nothing", %{tenant: tenant} do
      assert_raise RuntimeError, "no", fn ->
        TestRepo.transactional(tenant, fn ->
          TestRepo.insert!(%TestUser{id: "u1"})
          assert %TestUser{} = TestRepo.get(TestUser, "u1")
          raise "no"
        end)
      end

      assert TestRepo.get(TestUser, "u1", prefix: tenant) == nil
      assert catch_throw(TestRepo.transactional(tenant, fn -> throw(:out) end)) == :out
      refute TestRepo.in_transaction?()
    end

    test "nested joins the outer one", %{tenant: tenant} do
      assert_raise RuntimeError, fn ->
        TestRepo.transactional(tenant, fn ->
          TestRepo.transactional(tenant, fn -> TestRepo.insert!(%TestUser{id: "u1"}) end)
          raise "no"
        end)
      end

      assert TestRepo.get(TestUser, "u1", prefix: tenant) == nil
    end

    test "of another tenant inside is an error", %{tenant: tenant, id: id} do
      other = Tenant.open!(TestRepo, id <> "-other")

      assert_raise IncorrectTenancy,
                   ~r/this is a transaction of tenant .*A transaction belongs to one tenant/s,
                   fn ->
                     TestRepo.transactional(tenant, fn ->
                       TestRepo.get(TestUser, "u1", prefix: other)
                     end)
                   end
    end

    test "runs again after a conflict, with the right result", %{tenant: tenant} do
      TestRepo.insert!(%TestAccount{id: 1, balance: 0}, prefix: tenant)

      tasks =
        for _ <- 1..8 do
          Task.async(fn ->
            for _ <- 1..25 do
              TestRepo.transactional(tenant, fn ->
                account = TestRepo.get!(TestAccount, 1)
                TestRepo.update!(account, balance: account.balance + 1)
              end)
            end
          end)
        end

      Task.await_many(tasks, :infinity)
      assert TestRepo.get!(TestAccount, 1, prefix: tenant).balance == 200
    end

    test "of two that conflict, exactly one commits at first", %{tenant: tenant} do
      TestRepo.insert!(%TestAccount{id: 1, balance: 0}, prefix: tenant)
      parent = self()

      task =
        Task.async(fn ->
          TestRepo.transactional(tenant, fn ->
            account = TestRepo.get!(TestAccount, 1)
            send(parent, {:read, self(), account.balance})

            receive do
              :go -> :ok
            end

            TestRepo.update!(account, balance: account.balance + 10)
          end)
        end)

      assert_receive {:read, pid, 0}, 5_000
      TestRepo.update!(%TestAccount{id: 1}, [balance: 5], prefix: tenant)
      send(pid, :go)
      # It conflicted, and reads again.
      assert_receive {:read, ^pid, 5}, 5_000
      send(pid, :go)
      assert Task.await(task).balance == 15
      assert TestRepo.get!(TestAccount, 1, prefix: tenant).balance == 15
    end

    test "of a killed process leaves nothing", %{tenant: tenant} do
      parent = self()

      pid =
        spawn(fn ->
          TestRepo.transactional(tenant, fn ->
            TestRepo.insert!(%TestUser{id: "u1"})
            TestRepo.get(TestUser, "u2")
            send(parent, :there)
            Process.sleep(:infinity)
          end)
        end)

      assert_receive :there, 5_000
      monitor = Process.monitor(pid)
      Process.exit(pid, :kill)
      assert_receive {:DOWN, ^monitor, _, _, _}
      assert dump(tenant) == []
    end
  end

  describe "errors" do
    test "without a tenant" do
      assert_raise IncorrectTenancy,
                   ~r/no tenant is given.* Pass a tenant, `prefix: tenant`/,
                   fn ->
                     TestRepo.get(TestUser, "u1")
                   end

      assert_raise IncorrectTenancy, ~r/prefix: expected a tenant .*got: "acme"/, fn ->
        TestRepo.get(TestUser, "u1", prefix: "acme")
      end
    end

    test "of schemas and arguments", %{tenant: tenant} do
      assert_raise ArgumentError, ~r/TestNoKey has no primary key/, fn ->
        TestRepo.insert(%TestNoKey{name: "x"}, prefix: tenant)
      end

      assert_raise ArgumentError, ~r/primary key :id of this .* is nil/, fn ->
        TestRepo.insert(%TestUser{name: "x"}, prefix: tenant)
      end

      assert_raise ArgumentError, ~r/String is not a schema/, fn ->
        TestRepo.all(String, prefix: tenant)
      end

      assert_raise ArgumentError, ~r/expected a struct or a schema/, fn ->
        TestRepo.insert(%{a: 1}, prefix: tenant)
      end

      assert_raise ArgumentError, ~r/no fields \[:nope\]/, fn ->
        TestRepo.update(%TestUser{id: "u"}, [nope: 1], prefix: tenant)
      end

      assert_raise ArgumentError, ~r/cannot be changed/, fn ->
        TestRepo.update(%TestUser{id: "u"}, [id: 1], prefix: tenant)
      end

      assert_raise ArgumentError, ~r/unknown options \[:prefex\]/, fn ->
        TestRepo.all(TestUser, prefex: tenant)
      end

      assert_raise ArgumentError, ~r/primary key is nil/, fn ->
        TestRepo.get(TestUser, nil, prefix: tenant)
      end
    end

    test "a key that is too large is an error of the database", %{tenant: tenant} do
      assert_raise EctoFoundationDB.Error, ~r/2102/, fn ->
        TestRepo.insert!(%TestThing{id: String.duplicate("k", 20_000)}, prefix: tenant)
      end
    end
  end

  test "an insert is one call and a commit", %{tenant: tenant} do
    user = fn n -> %TestUser{id: "u#{System.unique_integer()}-#{n}", name: "Ada"} end
    # The guess of the cache is confirmed by the read that the insert makes anyway.
    assert_calls([:run, :commit], &TestRepo.insert!(user.(&1), prefix: tenant))

    # Writes travel with the next read.
    assert_calls([:run, :run, :commit], fn n ->
      TestRepo.transactional(tenant, fn -> for _ <- 1..2, do: TestRepo.insert!(user.(n)) end)
    end)

    assert_calls([:run, :commit], fn n ->
      TestRepo.insert_all(TestUser, for(_ <- 1..100, do: user.(n)), prefix: tenant)
    end)

    [%{id: id} | _] = users = TestRepo.all(TestUser, prefix: tenant)
    assert_calls([:run], fn _ -> TestRepo.get!(TestUser, id, prefix: tenant) end)
    assert_calls([:run, :commit], &TestRepo.delete(Enum.at(users, &1)))
  end

  describe "reload" do
    test "returns structs as they are now", %{tenant: tenant} do
      [a, b] =
        for id <- ["a", "b"], do: TestRepo.insert!(%TestUser{id: id, name: "1"}, prefix: tenant)

      TestRepo.update!(a, name: "2")
      assert %{name: "2"} = TestRepo.reload(a)
      assert %{name: "2"} = TestRepo.reload!(a)
      TestRepo.delete!(b)
      assert TestRepo.reload(b) == nil
      assert [nil, %{name: "2"}, nil] = TestRepo.reload([b, a, nil])
      assert TestRepo.reload([]) == []
      assert TestRepo.reload(nil) == nil
      assert TestRepo.reload([nil]) == [nil]

      for gone <- [b, [a, b]] do
        assert_raise NoResultsError, ~r/could not reload .*TestUser.*no such record/, fn ->
          TestRepo.reload!(gone)
        end
      end

      assert_raise ArgumentError, ~r/reload: expected a struct.*got: 1/, fn ->
        TestRepo.reload([a, 1])
      end
    end

    test "reads in the surrounding transaction", %{tenant: tenant} do
      user = TestRepo.insert!(%TestUser{id: "a", name: "1"}, prefix: tenant)

      TestRepo.transactional(tenant, fn ->
        TestRepo.update!(user, name: "2")
        assert %{name: "2"} = TestRepo.reload!(user)
      end)
    end
  end

  test "aggregate counts, and its error names what it does not support", %{tenant: tenant} do
    for i <- 1..3, do: TestRepo.insert!(%TestUser{id: "u#{i}"}, prefix: tenant)
    assert TestRepo.aggregate(TestUser, :count, prefix: tenant) == 3
    assert TestRepo.aggregate(TestUser, :count, where: [id: {:>, "u1"}], prefix: tenant) == 2

    for aggregate <- [
          fn -> TestRepo.aggregate(TestUser, :sum, :age) end,
          fn -> TestRepo.aggregate(TestUser, :count, :id) end
        ] do
      assert_raise Unsupported, ~r/aggregate: .*only :count.*compute in Elixir/, aggregate
    end
  end

  defmodule Defaults do
    use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync

    @impl true
    def default_options(operation) when operation in [:all, :aggregate], do: [limit: 1]
    def default_options(_operation), do: []
  end

  test "options override the Repo's defaults", context do
    start_supervised!({Defaults, TestRepo.test_config()})
    tenant = Tenant.open!(Defaults, tenant_id(context))
    for i <- 1..3, do: Defaults.insert!(%TestUser{id: "u#{i}"}, prefix: tenant)
    assert [%{id: "u1"}] = Defaults.all(TestUser, prefix: tenant)
    assert [_, _] = Defaults.all(TestUser, prefix: tenant, limit: 2)
    assert Defaults.aggregate(TestUser, :count, prefix: tenant) == 1
    assert Defaults.aggregate(TestUser, :count, prefix: tenant, limit: 2) == 2
  end

  defmodule OfEcto do
    defstruct [:id]
    # The function that identifies an Ecto schema.
    def __changeset__, do: %{}
    def __schema__(:source), do: "of_ecto"
    def __schema__(:primary_key), do: [:id]
    def __schema__(:fields), do: [:id]
  end

  test "its error for an Ecto schema names the adapter", %{tenant: tenant} do
    for call <- [
          fn -> TestRepo.insert(%OfEcto{id: 1}, prefix: tenant) end,
          fn -> TestRepo.update(%OfEcto{id: 1}, [], prefix: tenant) end,
          fn -> TestRepo.delete(%OfEcto{id: 1}, prefix: tenant) end,
          fn -> TestRepo.insert_all(OfEcto, [[id: 1]], prefix: tenant) end,
          fn -> TestRepo.get(OfEcto, 1, prefix: tenant) end,
          fn -> TestRepo.all(OfEcto, prefix: tenant) end,
          fn -> TestRepo.delete_all(OfEcto, prefix: tenant) end
        ] do
      assert_raise ArgumentError,
                   ~r/OfEcto belongs to Ecto.*adapter: Ecto.Adapters.FoundationDB/,
                   call
    end
  end

  test "integer ids are generated, unique and rising", %{tenant: tenant} do
    insert = fn -> TestRepo.insert!(%TestSerial{name: "n"}, prefix: tenant).id end
    assert 1 = insert.()

    ids =
      1..8
      |> Enum.map(fn _ -> Task.async(fn -> for _ <- 1..40, do: insert.() end) end)
      |> Task.await_many(60_000)

    for ids <- ids, do: assert(ids == Enum.sort(ids))
    assert ids |> List.flatten() |> Enum.uniq() |> length() == 320

    # Ids of records that existed before the first generated one are not reused.
    other = Tenant.open!(TestRepo, tenant.id <> "-other")
    TestRepo.insert!(%TestSerial{id: 1000, name: "given"}, prefix: other)
    assert TestRepo.insert!(%TestSerial{name: "n"}, prefix: other).id == 1001
    assert {2, nil} = TestRepo.insert_all(TestSerial, [[name: "a"], [name: "b"]], prefix: other)
    assert length(TestRepo.all(TestSerial, prefix: other)) == 4
  end

  test "returning: returns the stored values, whatever was given", %{tenant: tenant} do
    TestRepo.insert!(%TestUser{id: "u1", name: "Ada", dept: "eng", age: 1}, prefix: tenant)
    opts = fn more -> [prefix: tenant, returning: true] ++ more end

    assert %{name: "Eve", dept: "eng", age: 1} =
             TestRepo.insert!(
               %TestUser{id: "u1", name: "Eve", age: 9},
               opts.(on_conflict: {:replace, [:name]})
             )

    assert %{name: "Eve", dept: "eng", age: 2, __meta__: %{prefix: ^tenant, state: :loaded}} =
             TestRepo.insert!(%TestUser{id: "u1", age: 2}, opts.(on_conflict: :replace_all))

    assert %{name: "Eve", dept: "eng", age: 3} =
             TestRepo.insert!(
               %TestUser{id: "u1", name: "Bob", age: 3},
               opts.(on_conflict: {:replace_all_except, [:name]})
             )

    # A record exists: its values are the stored ones.
    assert %{name: "Eve", dept: "eng", age: 3} =
             TestRepo.insert!(%TestUser{id: "u1", name: "Bob"}, opts.(on_conflict: :nothing))

    # Only the named fields, or no fields without the option.
    assert %{name: nil, dept: "eng", age: 4} =
             TestRepo.insert!(
               %TestUser{id: "u1", age: 4},
               prefix: tenant,
               on_conflict: :replace_all,
               returning: [:dept]
             )

    assert %{name: nil, dept: nil, age: 5} =
             TestRepo.insert!(%TestUser{id: "u1", age: 5},
               prefix: tenant,
               on_conflict: :replace_all
             )

    assert {2,
            [%{id: "u1", name: "Eve", dept: "ops", age: 5}, %{id: "u2", name: nil, dept: "ops"}]} =
             TestRepo.insert_all(
               TestUser,
               [[id: "u1", dept: "ops"], [id: "u2", dept: "ops"]],
               opts.(on_conflict: :replace_all)
             )

    # Also if one row conflicts with another, and if a row is left out.
    assert {2, [%{name: "a", dept: "x"}, %{name: "b", dept: "x"}]} =
             TestRepo.insert_all(
               TestUser,
               [[id: "u3", name: "a", dept: "x"], [id: "u3", name: "b"]],
               opts.(on_conflict: :replace_all)
             )

    assert {1, [%{id: "u4"}]} =
             TestRepo.insert_all(
               TestUser,
               [[id: "u3", name: "c"], [id: "u4"]],
               opts.(on_conflict: :nothing)
             )

    assert %{name: "Eve", dept: "ops", age: 6} =
             TestRepo.update!(%TestUser{id: "u1"}, [age: 6], opts.([]))

    assert %{name: nil, dept: nil, age: 7} =
             TestRepo.update!(%TestUser{id: "u1"}, [age: 7], prefix: tenant)

    assert %{name: "Eve", age: 7, __meta__: %{state: :deleted}} =
             TestRepo.delete!(%TestUser{id: "u1"}, opts.([]))

    for write <- [
          &TestRepo.update!(%TestUser{id: "u3"}, [age: 1], &1),
          &TestRepo.delete!(%TestUser{id: "u3"}, &1)
        ] do
      assert_raise ArgumentError, ~r/returning: .*TestUser has no fields \[:nope\]/, fn ->
        write.(prefix: tenant, returning: [:nope])
      end
    end
  end
end
