defmodule EctoFoundationDB.PagesTest do
  # Streams, and operations in steps, while indexes change. Each page is a transaction.
  use EctoFoundationDB.LayerCase, async: true

  alias EctoFoundationDB.Exception.Unsupported

  versions([
    {1,
     [
       create(index(TestUser, [:dept])),
       create(index(TestUser, [:id], options: [indexer: TestIndexer]))
     ]},
    {2, [create(index(TestUser, [:dept, :age])), drop(index(TestUser, [:dept]))]},
    {3, [create(index(TestUser, [:dept, :name])), drop(index(TestUser, [:dept, :age]))]},
    {4, [create(index(TestUser, [:dept]))]},
    {5, [drop(index(TestUser, [:dept])), drop(index(TestUser, [:dept, :name]))]}
  ])

  # Each index has the records in a different order.
  defp fill(tenant) do
    rows =
      for i <- 10..39 do
        [id: "u#{i}", dept: "eng", age: 100 - i, name: "n#{rem(i * 7, 30)}"]
      end

    TestRepo.insert_all(TestUser, rows, prefix: tenant)
    for row <- rows, do: row[:id]
  end

  # Changes the indexes after this many records of a stream.
  defp ids(tenant, events) do
    TestRepo.stream(TestUser, where: [dept: "eng"], max_rows: 3, prefix: tenant)
    |> Stream.with_index(1)
    |> Enum.map(fn {user, n} ->
      with last when is_integer(last) <- events[n], do: migrate(tenant, last)
      user.id
    end)
  end

  test "a stream continues when its index is dropped, and another answers its query",
       %{tenant: tenant} do
    all = fill(tenant)
    migrate(tenant, 1)
    ids = ids(tenant, %{5 => 2, 14 => 3})
    assert length(ids) == 30
    assert Enum.sort(ids) == all
    assert Enum.take(ids, 6) == Enum.take(all, 6)
    assert ids != all
  end

  test "a stream stays on its index if another would be planned now", %{tenant: tenant} do
    all = fill(tenant)
    migrate(tenant, 3)

    by_name =
      for user <- TestRepo.all(TestUser, where: [dept: "eng"], prefix: tenant), do: user.id

    assert Enum.sort(by_name) == all and by_name != all
    assert ids(tenant, %{4 => 4}) == by_name
    # A new one is planned again.
    assert ids(tenant, %{}) == all
  end

  test "a large record that is rewritten between two pages is returned once", %{tenant: tenant} do
    note = fn id, text -> %TestNote{id: id, text: String.duplicate(text, 150_000)} end
    for id <- ["a", "b"], do: TestRepo.insert!(note.(id, "x"), prefix: tenant)

    # The names of its parts contain a checksum, and a page may end with one of them.
    for rows <- 1..6, letter <- ["k", "l", "m", "n"] do
      ids =
        TestRepo.stream(TestNote, max_rows: rows, prefix: tenant)
        |> Enum.map(fn %{id: id} ->
          if id == "a",
            do:
              TestRepo.update!(note.(id, "x"), [text: String.duplicate(letter, 150_001)],
                prefix: tenant
              )

          id
        end)

      assert ids == ["a", "b"]
    end
  end

  test "a stream whose query no index answers any more raises an error that says so", %{
    tenant: tenant
  } do
    fill(tenant)
    migrate(tenant, 4)

    assert_raise Unsupported, ~r/would answer it: create index\(.*TestUser, \[:dept\]\)/, fn ->
      ids(tenant, %{4 => 5})
    end
  end

  test "steps continue when their index is dropped, and process every record once", %{
    tenant: tenant
  } do
    fill(tenant)
    migrate(tenant, 1)
    # While the second step updates its third record, another node migrates.
    TestIndexer.tell(fn data ->
      if data[:id] == "u15" and Process.get(:migrated) == nil do
        Process.put(:migrated, true)
        Task.await(Task.async(fn -> migrate(tenant, 2) end))
      end
    end)

    assert {30, nil} =
             TestRepo.update_all(TestUser, [set: [notes: "x"]],
               where: [dept: "eng"],
               step: 3,
               prefix: tenant
             )

    assert Process.get(:migrated)
    users = TestRepo.all(TestUser, prefix: tenant)
    assert length(users) == 30 and Enum.all?(users, &(&1.notes == "x"))
    assert stray_entries(tenant, TestUser) == []

    assert {30, nil} =
             TestRepo.delete_all(TestUser, where: [dept: "eng"], step: 7, prefix: tenant)
  end
end
