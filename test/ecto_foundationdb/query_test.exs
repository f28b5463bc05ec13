defmodule EctoFoundationDB.QueryTest do
  use EctoFoundationDB.LayerCase, async: true

  alias EctoFoundationDB.{MultipleResultsError, Native, NoResultsError, Versionstamp}
  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.Keys

  defmodule Priced do
    use EctoFoundationDB.TestSchema,
      source: "priced",
      fields: [id: :string, price: {:array, :integer}]
  end

  migration do
    [
      create(index(TestUser, [:name])),
      create(index(TestUser, [:dept, :age])),
      create(index(TestUser, [:joined], options: [mapped?: false])),
      create(index(TestUser, [:seen_at])),
      create(index(TestEvent, [:kind])),
      create(index(TestNote, [:tag])),
      create(index(TestThing, [:value])),
      create(index(TestUser, [:active, :id])),
      create(index(EctoFoundationDB.QueryTest.Priced, [:price]))
    ]
  end

  defp ids(tenant, opts),
    do: for(user <- TestRepo.all(TestUser, [prefix: tenant] ++ opts), do: user.id)

  defp users(%{tenant: tenant}) do
    users = [
      [id: "a", name: "Ada", dept: "eng", age: 30, joined: ~D[2024-01-01], active: true],
      [id: "b", name: "Bob", dept: "eng", age: 20, joined: ~D[2023-01-01], active: false],
      [id: "c", name: "Cy", dept: "eng", age: nil, joined: ~D[2022-01-01], active: true],
      [id: "d", name: "Di", dept: "ops", age: 40, joined: nil, active: true],
      [id: "e", name: "Ada", dept: nil, age: 25, joined: ~D[2025-01-01], active: nil]
    ]

    assert {5, nil} = TestRepo.insert_all(TestUser, users, prefix: tenant)
    :ok
  end

  describe "queries" do
    setup :users

    test "by the primary key", %{tenant: tenant} do
      assert ids(tenant, []) == ~w(a b c d e)
      assert ids(tenant, where: [id: "b"]) == ["b"]
      assert ids(tenant, where: [id: "b", dept: "eng"]) == ["b"]
      assert ids(tenant, where: [id: "b", dept: "ops"]) == []
      assert ids(tenant, where: [id: {:between, "b", "d"}]) == ~w(b c d)
      assert ids(tenant, where: [id: {:>, "b"}]) == ~w(c d e)
      assert ids(tenant, where: [id: [>=: "b", <: "d"]]) == ~w(b c)
      assert ids(tenant, where: [id: {:<=, "b"}], order_by: [desc: :id]) == ~w(b a)
      assert ids(tenant, limit: 2) == ~w(a b)
      assert ids(tenant, order_by: [desc: :id], limit: 2) == ~w(e d)
      assert ids(tenant, where: [id: {:between, "d", "b"}]) == []
      assert for(u <- TestRepo.all_range(TestUser, "b", "d", prefix: tenant), do: u.id) == ~w(b c)

      assert for(
               u <-
                 TestRepo.all_range(TestUser, nil, "b", prefix: tenant, inclusive_right?: true),
               do: u.id
             ) == ~w(a b)
    end

    test "by an index", %{tenant: tenant} do
      assert ids(tenant, where: [name: "Ada"]) == ~w(a e)
      assert ids(tenant, where: [dept: "eng"]) == ~w(c b a)
      assert ids(tenant, where: [dept: nil]) == ["e"]
      assert ids(tenant, where: [dept: "eng", age: 20]) == ["b"]
      assert ids(tenant, where: [age: 20, dept: "eng"]) == ["b"]
      assert ids(tenant, where: [dept: "eng", age: nil]) == ["c"]
      # Nothing is less than, or greater than, nil.
      assert ids(tenant, where: [dept: "eng", age: {:<, 30}]) == ["b"]
      assert ids(tenant, where: [dept: "eng", age: {:<=, 30}]) == ~w(b a)
      assert ids(tenant, where: [dept: "eng", age: {:>, 20}]) == ["a"]
      assert ids(tenant, where: [dept: "eng", age: 20..30]) == ~w(b a)
      assert ids(tenant, where: [name: {:>=, "B"}]) == ~w(b c d)
      # The primary key follows an index's fields.
      assert ids(tenant, where: [name: "Ada", id: {:>, "a"}]) == ["e"]
      assert ids(tenant, where: [active: true]) == ~w(a c d)
      assert ids(tenant, where: [active: true, id: {:>=, "c"}]) == ~w(c d)
    end

    test "by an index whose entries contain the records", %{tenant: tenant} do
      assert ids(tenant, where: [joined: ~D[2023-01-01]]) == ["b"]
      assert ids(tenant, where: [joined: {:>, ~D[2023-01-01]}]) == ~w(a e)
      TestRepo.update!(%TestUser{id: "b"}, [name: "Bobby"], prefix: tenant)

      assert [%{name: "Bobby"}] =
               TestRepo.all(TestUser, where: [joined: ~D[2023-01-01]], prefix: tenant)

      assert stray_entries(tenant, TestUser)
             |> Enum.reject(fn {_, {tuple, _}} -> elem(tuple, 3) == "users_joined_index" end) ==
               []
    end

    test "in order", %{tenant: tenant} do
      assert ids(tenant, order_by: :age) == ~w(c b e a d)
      assert ids(tenant, order_by: [desc: :age]) == ~w(d a e b c)
      assert ids(tenant, order_by: [asc: :name, desc: :id]) == ~w(e a b c d)
      assert ids(tenant, order_by: [desc: :joined]) == ~w(e a b c d)
      assert ids(tenant, order_by: [:name], limit: 3) == ~w(a e b)
      assert ids(tenant, order_by: [desc: :name], limit: 2) == ~w(d c)
      assert ids(tenant, where: [dept: "eng"], order_by: [desc: :age], limit: 1) == ["a"]
      assert ids(tenant, where: [dept: "eng"], order_by: [:dept, :age, :id], limit: 2) == ~w(c b)
      assert ids(tenant, where: [dept: "eng"], order_by: :name) == ~w(a b c)
    end

    test "with a limit on the keys read", %{tenant: tenant} do
      assert ids(tenant, key_limit: 2) == ~w(a b)
      assert ids(tenant, where: [dept: "eng"], key_limit: 2) == ~w(c b)
      assert ids(tenant, key_limit: 3, limit: 1) == ["a"]
    end

    test "that no range answers are refused, and the error names an index that would", %{
      tenant: tenant
    } do
      for {opts, message} <- [
            {[where: [notes: "x"]], ~r/create index\(.*TestUser, \[:notes\]\)/},
            {[where: [age: 1]], ~r/create index\(.*TestUser, \[:age\]\)/},
            {[where: [dept: "eng", name: "Ada"]], ~r/\[:dept, :name\]/},
            {[where: [dept: {:>, "a"}, age: 3]], ~r/\[:age, :dept\]/},
            {[order_by: :score, limit: 1], ~r/\[:score\]/},
            {[where: [dept: "eng"], order_by: :name, limit: 1], ~r/\[:dept, :name\]/},
            {[order_by: [asc: :name, desc: :id], limit: 1], ~r/one direction/},
            {[where: [dept: {:>, "a"}, age: {:>, 1}]], ~r/ranges on .*, but only one is possible/}
          ] do
        assert_raise Unsupported, message, fn -> ids(tenant, opts) end
      end

      assert_raise ArgumentError, ~r/no field :nope/, fn -> ids(tenant, where: [nope: 1]) end
      assert_raise ArgumentError, ~r/limit: expected a positive/, fn -> ids(tenant, limit: 0) end

      assert_raise ArgumentError, ~r/compared with nil/, fn ->
        ids(tenant, where: [id: {:>, nil}])
      end

      assert_raise ArgumentError, ~r/order_by: expected/, fn -> ids(tenant, order_by: ["x"]) end
    end

    test "with several conditions on a field fulfil all of them", %{tenant: tenant} do
      assert ids(tenant, where: [id: "a", id: "b"]) == []
      assert ids(tenant, where: [id: {:>, "a"}, id: "b"]) == ["b"]
      assert ids(tenant, where: [id: {:>, "b"}, id: "b"]) == []
      assert ids(tenant, where: [id: [>: "a", >=: "b"], id: {:<, "c"}]) == ["b"]
    end

    test "by a range with bounds in either order, or one bound", %{tenant: tenant} do
      for age <- [[<: 40, >=: 25], [>=: 25, <: 40], {:between, 25, 30}, 25..30] do
        assert ids(tenant, where: [dept: "eng", age: age]) == ["a"]
      end

      assert ids(tenant, where: [dept: "eng", age: [>: 20]]) == ["a"]
    end

    test "one, get_by, exists?", %{tenant: tenant} do
      assert %{id: "b"} = TestRepo.get_by(TestUser, [name: "Bob"], prefix: tenant)
      assert TestRepo.get_by(TestUser, [name: "Nobody"], prefix: tenant) == nil
      assert %{id: "b"} = TestRepo.one(TestUser, where: [name: "Bob"], prefix: tenant)
      assert [_, _] = TestRepo.all_by(TestUser, [name: "Ada"], prefix: tenant)
      assert TestRepo.exists?(TestUser, prefix: tenant)
      refute TestRepo.exists?(TestUser, where: [name: "Nobody"], prefix: tenant)

      assert_raise MultipleResultsError, fn ->
        TestRepo.get_by(TestUser, [name: "Ada"], prefix: tenant)
      end

      assert_raise MultipleResultsError, fn -> TestRepo.one(TestUser, prefix: tenant) end

      assert_raise NoResultsError, ~r/primary key "zz", found none/, fn ->
        TestRepo.get!(TestUser, "zz", prefix: tenant)
      end

      assert_raise NoResultsError, ~r/where \[name: "zz"\]/, fn ->
        TestRepo.get_by!(TestUser, [name: "zz"], prefix: tenant)
      end

      assert_raise NoResultsError, fn ->
        TestRepo.one!(TestUser, where: [name: "zz"], prefix: tenant)
      end
    end

    test "after writes in the same transaction, where FoundationDB refuses mapped ranges", %{
      tenant: tenant
    } do
      TestRepo.transactional(tenant, fn ->
        TestRepo.insert!(%TestUser{id: "f", name: "Flo", dept: "eng", age: 1})
        TestRepo.delete!(%TestUser{id: "a"})
        assert for(u <- TestRepo.all(TestUser, where: [dept: "eng"]), do: u.id) == ~w(c f b)

        assert for(u <- TestRepo.all(TestUser, where: [dept: "eng"], limit: 2), do: u.id) ==
                 ~w(c f)
      end)
    end

    test "update_all and delete_all", %{tenant: tenant} do
      assert TestRepo.update_all(TestUser, [set: [dept: "new"]],
               where: [dept: "eng"],
               prefix: tenant
             ) == {3, nil}

      assert ids(tenant, where: [dept: "new"]) == ~w(c b a)
      assert TestRepo.delete_all(TestUser, where: [dept: "new"], prefix: tenant) == {3, nil}
      assert ids(tenant, []) == ~w(d e)
      assert TestRepo.delete_all(TestUser, prefix: tenant) == {2, nil}
      assert for({tuple, _} <- dump(tenant), elem(tuple, 1) == "users", do: tuple) == []

      assert_raise ArgumentError, ~r/update_all: expected `set:/, fn ->
        TestRepo.update_all(TestUser, [inc: [age: 1]], prefix: tenant)
      end
    end

    test "futures are in flight together", %{tenant: tenant} do
      assert [%{id: "a"}, nil, ["a", "e"], %{id: "b"}] =
               TestRepo.transactional(tenant, fn ->
                 [
                   TestRepo.async_get(TestUser, "a"),
                   TestRepo.async_get(TestUser, "zz"),
                   TestRepo.async_all_by(TestUser, name: "Ada"),
                   TestRepo.async_get_by(TestUser, name: "Bob")
                 ]
                 |> TestRepo.await()
                 |> Enum.map(&if(is_list(&1), do: Enum.map(&1, fn u -> u.id end), else: &1))
               end)

      future = TestRepo.transactional(tenant, fn -> TestRepo.async_get(TestUser, "a") end)
      assert_raise Unsupported, ~r/await it inside/, fn -> TestRepo.await(future) end
      refute_received _
      assert %{id: "a"} = TestRepo.await(TestRepo.async_get(TestUser, "a", prefix: tenant))
    end
  end

  test "an index that contains the records refuses large ones", %{tenant: tenant} do
    assert_raise ArgumentError, ~r/users_joined_index holds the records themselves/, fn ->
      TestRepo.insert!(%TestUser{id: "a", notes: String.duplicate("x", 100_000)}, prefix: tenant)
    end
  end

  test "large records are read with limits and in reverse", %{tenant: tenant} do
    big = String.duplicate("x", 250_000)

    for {id, value} <- [{"a", "1"}, {"b", big}, {"c", "2"}, {"d", big}],
        do: TestRepo.insert!(%TestNote{id: id, tag: "n", text: value}, prefix: tenant)

    for {opts, expected} <- [
          {[limit: 1], ["a"]},
          {[limit: 2], ["a", "b"]},
          {[limit: 3], ["a", "b", "c"]},
          {[limit: 10], ["a", "b", "c", "d"]},
          {[limit: 1, order_by: [desc: :id]], ["d"]},
          {[limit: 2, order_by: [desc: :id]], ["d", "c"]},
          {[limit: 3, order_by: [desc: :id]], ["d", "c", "b"]},
          {[where: [id: {:>, "a"}], limit: 1], ["b"]},
          {[where: [tag: "n"]], ["a", "b", "c", "d"]},
          {[where: [tag: "n"], limit: 2], ["a", "b"]}
        ] do
      assert {opts, for(a <- TestRepo.all(TestNote, [prefix: tenant] ++ opts), do: a.id)} ==
               {opts, expected}
    end

    assert for(u <- TestRepo.stream(TestNote, max_rows: 1, prefix: tenant), do: u.id) ==
             ~w(a b c d)

    assert for(u <- TestRepo.stream(TestNote, max_rows: 3, prefix: tenant), do: u.id) ==
             ~w(a b c d)
  end

  test "index entries whose values are not keys, which FoundationDB cannot follow, are not results",
       %{tenant: tenant} do
    for {value, tag} <- [{"no key", "a"}, {Native.pack({"short"}), "b"}] do
      TestRepo.insert!(%TestNote{id: tag, tag: tag}, prefix: tenant)
      entry = Keys.index_entry(tenant, "notes", "notes_tag_index", [tag], "0")
      operations(tenant, [{:set, {:pack, entry}, value}])
      attempts = :counters.new(1, [])

      assert [%{id: ^tag}] =
               TestRepo.transactional(tenant, fn ->
                 :counters.add(attempts, 1, 1)
                 TestRepo.all(TestNote, where: [tag: tag])
               end)

      # Without mapped ranges the second time.
      assert :counters.get(attempts, 1) == 2
    end
  end

  test "an entry of a type without an order counts only if its record has the value",
       %{tenant: tenant} do
    old = [1]
    TestRepo.insert!(%Priced{id: "p", price: [2]}, prefix: tenant)

    # Written by a version of the application that does not know the field's type.
    key =
      Keys.index_entry(tenant, "priced", "priced_price_index", [:erlang.term_to_binary(old)], "p")

    operations(tenant, [{:set, {:pack, key}, Native.pack(Keys.record(tenant, "priced", "p"))}])

    assert TestRepo.all(Priced, where: [price: {:==, old}], prefix: tenant) == []

    assert [%{id: "p"}] = TestRepo.all(Priced, where: [price: {:==, [2]}], prefix: tenant)
  end

  test "a type whose keys are unordered is sorted by its values, and can have no limit",
       %{tenant: tenant} do
    amounts = for n <- [-1, 300, 2, 70_000, -5], do: [n]
    rows = for [n] = amount <- amounts, do: [id: "#{n}", price: amount]
    TestRepo.insert_all(Priced, rows, prefix: tenant)
    sorted = Enum.sort(amounts)
    prices = fn opts -> for p <- TestRepo.all(Priced, [prefix: tenant] ++ opts), do: p.price end

    assert prices.(order_by: :price) == sorted
    assert prices.(order_by: [desc: :price]) == Enum.reverse(sorted)
    assert prices.(where: [price: {:==, [2]}], order_by: :price, limit: 1) == [[2]]

    for order <- [:price, [desc: :price], [:price, :id]] do
      assert_raise Unsupported,
                   ~r/\[:price\] are not in the order of the values.*without a limit/,
                   fn ->
                     prices.(order_by: order, limit: 2)
                   end
    end
  end

  test "an index distinguishes records whose ids continue with a zero byte", %{tenant: tenant} do
    ids = ["u1", "u1\0", "u1\0\0", "u1\0x"]
    for id <- ids, do: TestRepo.insert!(%TestNote{id: id, tag: "n"}, prefix: tenant)
    tagged = &for(note <- TestRepo.all(TestNote, where: [tag: &1], prefix: tenant), do: note.id)
    large = String.duplicate("x", 150_000)

    for changed <- [nil | ids] do
      if changed, do: TestRepo.update!(%TestNote{id: changed}, [text: large], prefix: tenant)
      assert tagged.("n") == ids
    end

    TestRepo.delete!(%TestNote{id: "u1"}, prefix: tenant)
    assert tagged.("n") == tl(ids)

    # An entry whose record is gone leads to no other record.
    entry = Keys.index_entry(tenant, "notes", "notes_tag_index", ["m"], "u1")
    operations(tenant, [{:set, {:pack, entry}, Native.pack(Keys.record(tenant, "notes", "u1"))}])
    assert tagged.("m") == []
  end

  test "by the primary key alone: streams and steps have at most one record", %{tenant: tenant} do
    for id <- ["u1", "u2"], do: TestRepo.insert!(%TestUser{id: id}, prefix: tenant)
    stream = &Enum.to_list(TestRepo.stream(TestUser, where: [id: &1], prefix: tenant))
    assert [%{id: "u1"}] = stream.("u1")
    assert [] = stream.({:==, nil})
    assert TestRepo.all(TestUser, where: [id: {:==, nil}], prefix: tenant) == []

    assert {1, nil} = TestRepo.delete_all(TestUser, where: [id: "u2"], step: 1, prefix: tenant)
    assert {0, nil} = TestRepo.delete_all(TestUser, where: [id: "u2"], step: 1, prefix: tenant)
    assert [%{id: "u1"}] = TestRepo.all(TestUser, prefix: tenant)
  end

  test "a limit in reverse continues beyond a large record", %{tenant: tenant} do
    for {id, size} <- [{"a", 1}, {"b", 250_000}, {"c", 1}],
        do: TestRepo.insert!(%TestNote{id: id, text: String.duplicate("x", size)}, prefix: tenant)

    for limit <- 1..4 do
      notes = TestRepo.all(TestNote, order_by: [desc: :id], limit: limit, prefix: tenant)
      assert for(note <- notes, do: note.id) == Enum.take(["c", "b", "a"], limit)
    end
  end

  test "streams read pages", %{tenant: tenant} do
    rows = for i <- 1..50, do: [id: String.pad_leading("#{i}", 3, "0"), name: "n#{rem(i, 2)}"]
    TestRepo.insert_all(TestUser, rows, prefix: tenant)
    all = Enum.map(rows, & &1[:id])
    assert for(u <- TestRepo.stream(TestUser, max_rows: 7, prefix: tenant), do: u.id) == all

    assert for(
             u <- TestRepo.stream(TestUser, where: [name: "n1"], max_rows: 7, prefix: tenant),
             do: u.id
           ) == Enum.take_every(all, 2)

    assert [_, _] = Enum.take(TestRepo.stream(TestUser, prefix: tenant), 2)

    assert length(Enum.to_list(TestRepo.stream(TestUser, prefix: tenant, limit: 9, max_rows: 4))) ==
             9

    TestRepo.transactional(tenant, fn ->
      TestRepo.insert!(%TestUser{id: "999"})
      assert length(Enum.to_list(TestRepo.stream(TestUser, max_rows: 20))) == 51
    end)
  end

  describe "values in index keys" do
    test "of any type are found by equality", %{tenant: tenant} do
      values = [
        nil,
        "",
        "a",
        "a\0",
        <<0xFF>>,
        0,
        -1,
        1.5,
        true,
        false,
        :atom,
        {1, "x"},
        [1],
        ~D[2024-01-01],
        ~T[01:02:03],
        ~N[2024-01-01 01:02:03],
        ~U[2024-01-01 01:02:03Z],
        2 ** 70,
        %{a: 1}
      ]

      for {value, i} <- Enum.with_index(values),
          do: TestRepo.insert!(%TestThing{id: i, value: value}, prefix: tenant)

      for {value, i} <- Enum.with_index(values) do
        found = TestRepo.all(TestThing, where: [value: {:==, value}], prefix: tenant)
        assert {value, for(thing <- found, do: thing.id)} == {value, [i]}
      end

      assert stray_entries(tenant, TestThing) == []
    end

    test "of date-times are ordered, with any precision", %{tenant: tenant} do
      times = [
        ~U[2024-01-01 00:00:00.000000Z],
        ~U[2024-01-01 00:00:00.000001Z],
        ~U[2024-01-01 00:00:01.000000Z]
      ]

      for {time, i} <- Enum.with_index(times),
          do: TestRepo.insert!(%TestUser{id: "#{i}", seen_at: time}, prefix: tenant)

      assert ids(tenant, where: [seen_at: {:>, hd(times)}]) == ~w(1 2)
      assert ids(tenant, where: [seen_at: {:between, hd(times), Enum.at(times, 1)}]) == ~w(0 1)
    end
  end

  describe "versionstamp ids" do
    test "are created by the commit", %{tenant: tenant} do
      future =
        TestRepo.transactional(tenant, fn ->
          future =
            TestRepo.async_insert_all!(TestEvent, [
              %TestEvent{kind: "x", data: "a"},
              %TestEvent{kind: "x", data: "b"}
            ])

          assert_raise Unsupported, ~r/after the transaction/, fn -> TestRepo.await(future) end
          future
        end)

      assert [%TestEvent{id: a, data: "a"} = event, %TestEvent{id: b, data: "b"}] =
               TestRepo.await(future)

      assert Versionstamp.to_integer(b) == Versionstamp.to_integer(a) + 1
      assert Versionstamp.from_integer(Versionstamp.to_integer(a)) == a
      assert TestRepo.get(TestEvent, a, prefix: tenant) == event
      assert [^event, %{id: ^b}] = TestRepo.all(TestEvent, prefix: tenant)
      assert [^event, %{id: ^b}] = TestRepo.all(TestEvent, where: [kind: "x"], prefix: tenant)
      assert [%{id: ^b}] = TestRepo.all(TestEvent, where: [id: {:>, a}], prefix: tenant)

      TestRepo.update!(event, kind: "y")
      assert [%{id: ^a}] = TestRepo.all(TestEvent, where: [kind: "y"], prefix: tenant)
      TestRepo.delete!(event)
      assert [%{id: ^b}] = TestRepo.all(TestEvent, prefix: tenant)
      assert [] = TestRepo.all(TestEvent, where: [kind: "y"], prefix: tenant)
    end

    test "in large records", %{tenant: tenant} do
      data = String.duplicate("x", 250_000)

      future =
        TestRepo.transactional(tenant, fn ->
          TestRepo.async_insert_all!(TestEvent, [%TestEvent{kind: "x", data: data}])
        end)

      assert [%{id: id}] = TestRepo.await(future)
      assert %{data: ^data} = TestRepo.get(TestEvent, id, prefix: tenant)
      assert [%{data: ^data}] = TestRepo.all(TestEvent, where: [kind: "x"], prefix: tenant)
    end

    test "lead from index entries to records, also after writes in the same transaction", %{
      tenant: tenant
    } do
      event = %TestEvent{kind: "x", data: "a"}

      future =
        TestRepo.transactional(tenant, fn -> TestRepo.async_insert_all!(TestEvent, [event]) end)

      [event] = TestRepo.await(future)

      TestRepo.transactional(tenant, fn ->
        TestRepo.update!(event, data: "b")
        assert [%{data: "b"}] = TestRepo.all(TestEvent, where: [kind: "x"])
      end)
    end

    test "of a transaction are available from the handle passed to its function", %{
      tenant: tenant
    } do
      {id, stamp} =
        TestRepo.transactional(tenant, fn transaction ->
          id = Versionstamp.next(transaction)
          TestRepo.insert!(%TestEvent{id: id, kind: "own"})
          {id, Versionstamp.get(transaction)}
        end)

      id = Versionstamp.resolve(id, TestRepo.await(stamp))
      assert [%{id: ^id}] = TestRepo.all(TestEvent, prefix: tenant)
    end

    test "may be set by the application if it asks to write without checking",
         %{tenant: tenant} do
      users = [%TestUser{id: "a"}, %TestUser{id: "b"}]

      future =
        TestRepo.transactional(tenant, fn ->
          TestRepo.async_insert_all!(TestUser, users, conflict_target: [])
        end)

      assert [%{id: "a"}, %{id: "b"}] = TestRepo.await(future)
      assert ids(tenant, []) == ["a", "b"]
    end

    test "have errors", %{tenant: tenant} do
      assert_raise Unsupported, ~r/inside a transaction/, fn ->
        TestRepo.async_insert_all!(TestEvent, [%TestEvent{}], prefix: tenant)
      end

      TestRepo.transactional(tenant, fn ->
        assert_raise Unsupported, ~r/conflict_target/, fn ->
          TestRepo.async_insert_all!(TestUser, [%TestUser{id: "u"}])
        end

        assert_raise ArgumentError, ~r/expected structs/, fn ->
          TestRepo.async_insert_all!(TestEvent, [%TestUser{id: "u"}])
        end
      end)

      assert_raise Unsupported, ~r/the commit completes it/, fn ->
        Versionstamp.to_integer(Versionstamp.incomplete(0))
      end

      assert_raise ArgumentError, fn -> Versionstamp.from_integer(-1) end
    end
  end

  test "an index query is one read, and so is a page of a stream", %{tenant: tenant} do
    users(%{tenant: tenant})
    eng = [where: [dept: "eng"], prefix: tenant]
    assert_calls([:run], fn _ -> TestRepo.all(TestUser, eng) end)
    assert_calls([:run], fn _ -> TestRepo.aggregate(TestUser, :count, eng) end)
    stream = TestRepo.stream(TestUser, [max_rows: 2] ++ eng)
    assert_calls([:run, :run], fn _ -> Enum.to_list(stream) end)
  end
end
