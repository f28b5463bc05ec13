defmodule EctoFoundationDB.BulkTest do
  # Operations on many records.
  use EctoFoundationDB.LayerCase, async: true

  alias EctoFoundationDB.{Error, Transaction}
  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Indexer.SchemaMetadata

  migration do
    [
      create(metadata(TestUser)),
      create(index(TestUser, [:name])),
      create(index(TestUser, [:dept, :age]))
    ]
  end

  defp insert(tenant, n) do
    for ids <- Enum.chunk_every(1..n, 2000) do
      rows = for i <- ids, do: [id: "u#{i}", name: "n#{rem(i, 3)}", dept: "d", age: i]
      TestRepo.insert_all(TestUser, rows, prefix: tenant, conflict_target: [])
    end
  end

  defp count(tenant, opts \\ []),
    do: TestRepo.aggregate(TestUser, :count, [prefix: tenant] ++ opts)

  test "update_all and delete_all in steps", %{tenant: tenant} do
    insert(tenant, 25)

    assert {8, nil} =
             TestRepo.update_all(TestUser, [set: [notes: "x"]],
               where: [name: "n0"],
               step: 3,
               prefix: tenant
             )

    assert for(u <- TestRepo.all(TestUser, prefix: tenant), u.notes == "x", do: u.id)
           |> length() == 8

    # A field of the index that finds the records: each record moves in it only once.
    TestRepo.insert!(%TestUser{id: "v", name: "n9", dept: "d"}, prefix: tenant)
    updates = SchemaMetadata.updates(TestUser, prefix: tenant)

    assert {18, nil} =
             TestRepo.update_all(TestUser, [set: [name: "n9"]],
               where: [name: {:>=, "n1"}],
               step: 4,
               prefix: tenant
             )

    assert SchemaMetadata.updates(TestUser, prefix: tenant) == updates + 18
    TestRepo.delete!(%TestUser{id: "v"}, prefix: tenant)
    assert count(tenant, where: [name: "n9"]) == 17
    assert stray_entries(tenant, TestUser) == []

    assert TestRepo.delete_all(TestUser, where: [name: "n9"], step: 5, prefix: tenant) ==
             {17, nil}

    assert TestRepo.delete_all(TestUser, step: 5, prefix: tenant) == {8, nil}
    assert count(tenant) == 0
    assert stray_entries(tenant, TestUser) == []
    assert SchemaMetadata.deletes(TestUser, prefix: tenant) == 26
    assert TestRepo.delete_all(TestUser, step: 5, prefix: tenant) == {0, nil}
  end

  test "wrong arguments for step: raise", %{tenant: tenant} do
    assert_raise ArgumentError, ~r/step: expected a positive integer, got: 0/, fn ->
      TestRepo.delete_all(TestUser, step: 0, prefix: tenant)
    end

    for options <- [[limit: 1], [key_limit: 1], [order_by: :id]] do
      assert_raise ArgumentError, ~r/step: visits all records/, fn ->
        TestRepo.delete_all(TestUser, [step: 1, prefix: tenant] ++ options)
      end
    end

    TestRepo.transactional(tenant, fn ->
      assert_raise Unsupported, ~r/step: makes a transaction of each step/, fn ->
        TestRepo.update_all(TestUser, [set: [age: 1]], step: 1)
      end
    end)
  end

  test "exceeding the size of a transaction is an error that says so, and changes nothing", %{
    tenant: tenant
  } do
    insert(tenant, 3000)

    message = ~r/10 MB at most.*`step: 1000`/

    error =
      assert_raise Error, message, fn ->
        TestRepo.update_all(TestUser, [set: [notes: String.duplicate("x", 4000)]], prefix: tenant)
      end

    assert error.code == 2101
    assert TestRepo.get(TestUser, "u1", prefix: tenant).notes == nil

    assert {3000, nil} =
             TestRepo.update_all(TestUser, [set: [notes: String.duplicate("x", 4000)]],
               step: 1000,
               prefix: tenant
             )

    # Deleting everything takes a few ranges and counter sums, for any number of records.
    assert TestRepo.delete_all(TestUser, prefix: tenant) == {3000, nil}
    assert count(tenant) == 0
    assert SchemaMetadata.deletes(TestUser, prefix: tenant) == 3000
    assert SchemaMetadata.changes(TestUser, prefix: tenant) == 9000
  end

  # An idle cluster answers reads somewhat longer than it promises.
  @tag :embedded
  test "a transaction that is too long each time ends with an error that says so", %{
    tenant: tenant
  } do
    attempts = :counters.new(1, [])

    error =
      assert_raise Error, ~r/last 5 seconds at most.*Repo.stream/, fn ->
        TestRepo.transactional(tenant, fn ->
          :counters.add(attempts, 1, 1)
          TestRepo.get(TestUser, "u1")
          Process.sleep(5_100)
          TestRepo.get(TestUser, "u2")
        end)
      end

    assert error.code == 1007
    assert :counters.get(attempts, 1) == 2
    refute Transaction.in?()
  end
end
