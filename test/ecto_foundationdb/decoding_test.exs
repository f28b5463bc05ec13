defmodule EctoFoundationDB.DecodingTest do
  # Stored bytes are not trusted. Not async: it counts atoms.
  use EctoFoundationDB.LayerCase, async: false

  alias EctoFoundationDB.{DecodeError, LiveQuery, Sync, Versionstamp}
  alias EctoFoundationDB.Layer.{Keys, Term}

  defp store(tenant, id, value),
    do: operations(tenant, [{:set, {:pack, Keys.record(tenant, "things", id)}, value}])

  defp atom(name), do: <<119, byte_size(name), name::binary>>
  defp etf(term), do: with(<<131, etf::binary>> <- :erlang.term_to_binary(term), do: etf)
  defp field(name, etf), do: <<104, 2, atom(name)::binary, etf::binary>>
  defp record(fields), do: IO.iodata_to_binary([<<131, 108, length(fields)::32>>, fields, 106])

  test "functions, processes, ports, references and unknown atoms are errors that name the key",
       %{tenant: tenant} do
    port = hd(Port.list())

    for {bad, reason} <- [
          {etf(fn -> :x end), "function"},
          {etf(&String.length/1), "function"},
          {etf(self()), "pid"},
          {etf(port), "port"},
          {etf(make_ref()), "reference"},
          {etf([%{a: {1, [make_ref()]}}]), "reference"},
          {atom("never_seen_atom_#{System.unique_integer([:positive])}"), "atom"},
          {<<109, 255, 255, 255, 255, "short">>, "damaged"},
          {<<98, 1>>, "damaged"},
          {:erlang.term_to_binary(String.duplicate("x", 1000), compressed: 9)
           |> binary_part(1, 20), "compressed"}
        ] do
      store(tenant, "bad", record([field("id", etf("bad")), field("value", bad)]))
      store(tenant, "good", record([field("id", etf("good")), field("value", etf(1))]))

      assert_raise DecodeError, ~r/bad.*cannot be decoded: .*#{reason}/s, fn ->
        TestRepo.get(TestThing, "bad", prefix: tenant)
      end

      # Other records are not affected.
      assert %TestThing{value: 1} = TestRepo.get(TestThing, "good", prefix: tenant)
      {first, _} = Keys.record_range(tenant, "things", "bad")

      assert_raise DecodeError, fn ->
        tenant
        |> LiveQuery.decoder(TestThing)
        |> LiveQuery.decode([{first, record([field("value", bad)])}])
      end
    end

    for value <- [
          "",
          "not a term",
          :erlang.term_to_binary(:atom),
          :erlang.term_to_binary(%{a: 1}),
          <<131>>,
          record([]) <> "rest",
          :erlang.term_to_binary(["list"])
        ] do
      store(tenant, "bad", value)
      assert_raise DecodeError, fn -> TestRepo.get(TestThing, "bad", prefix: tenant) end
    end
  end

  test "reading creates no atoms, however many are stored", %{tenant: tenant} do
    names =
      for i <- 1..1000 do
        name = "novel_#{i}_#{System.unique_integer([:positive])}"

        store(
          tenant,
          "#{i}",
          record([field("id", etf("#{i}")), field(name, etf(1)), field("value", etf(2))])
        )

        name
      end

    assert [_ | _] = TestRepo.all(TestThing, prefix: tenant)
    for i <- 1..1000, do: assert(%{value: 2} = TestRepo.get(TestThing, "#{i}", prefix: tenant))
    for i <- 1..1000, do: TestRepo.update!(%TestThing{id: "#{i}"}, [value: 3], prefix: tenant)
    for name <- names, do: assert_raise(ArgumentError, fn -> String.to_existing_atom(name) end)
  end

  test "an unknown field is kept, whatever it contains", %{tenant: tenant} do
    future = "from_the_future_#{System.unique_integer([:positive])}"

    kept =
      etf(
        {self(), make_ref(), fn -> :x end, hd(Port.list()), &String.length/1, :ok, 2 ** 100, 1.5,
         %{}}
      )

    store(
      tenant,
      "u",
      record([field("id", etf("u")), field(future, kept), field("value", etf(1))])
    )

    assert %{value: 1} = thing = TestRepo.get(TestThing, "u", prefix: tenant)
    TestRepo.update!(thing, value: 2)
    {_, value} = List.keyfind(dump(tenant), {<<0xFD>>, "things", "d", "u"}, 0)
    assert {:ok, [{"id", _}, {^future, ^kept}, {"value", two}]} = Term.fields(value)
    assert two == etf(2)
    assert %{value: 2} = TestRepo.get(TestThing, "u", prefix: tenant)
  end

  test "stored bytes do not decide what is a struct", %{tenant: tenant} do
    fields = [id: "s", __struct__: String, __meta__: nil, value: 1]
    store(tenant, "s", :erlang.term_to_binary(fields))

    assert %TestThing{id: "s", value: 1, __meta__: %{prefix: ^tenant}} =
             TestRepo.get(TestThing, "s", prefix: tenant)

    # Nor whose code enumerates their fields, if these have other names.
    for struct <- [String, File.Stream, MapSet] do
      member = :erlang.term_to_binary(__struct__: struct, id: "m", path: "/chosen", t: "blue")
      operations(tenant, [{:set, {:pack, Keys.record(tenant, "members", "m")}, member}])
      state = %{assigns: %{}, private: %{tenant: tenant}}
      state = Sync.sync_one(state, TestRepo, :member, TestMember, "m")
      assert %TestMember{id: "m", team: "blue"} = member = state.assigns.member
      assert member == TestRepo.get(TestMember, "m", prefix: tenant)
      Sync.cancel_all(state, TestRepo)
    end
  end

  test "the walk accepts every term that is data, and stops where it ends" do
    :rand.seed(:exsss, {1, 2, 3})

    for _ <- 1..500 do
      term = random(4)
      binary = :erlang.term_to_binary(term, minor_version: :rand.uniform(2))
      assert Term.decode(binary) == {:ok, term}
      assert Term.skip(binary <> "rest", 1) == {:ok, byte_size(binary)}
      assert Term.decode_foreign(binary) == {:ok, term}
      cut = binary_part(binary, 0, :rand.uniform(byte_size(binary)) - 1)
      assert {:error, _} = Term.decode(cut)
    end
  end

  test "however deep or wide a term is", %{tenant: tenant} do
    deep = Enum.reduce(1..100_000, [], fn _, inner -> [inner] end)
    wide = List.duplicate([], 100_000)

    for value <- [deep, wide] do
      TestRepo.insert!(%TestThing{id: "x", value: value},
        prefix: tenant,
        on_conflict: :replace_all
      )

      assert TestRepo.get(TestThing, "x", prefix: tenant).value == value
    end

    # Bytes that begin 100,000 nested pids, or claim more elements than there are bytes.
    for bytes <- [
          String.duplicate(<<103>>, 100_000),
          <<108, 0xFFFFFFFF::32, 106>>,
          String.duplicate(<<105, 0xFFFFFFFF::32>>, 1000)
        ] do
      assert {:error, _} = Term.decode(<<131, bytes::binary>>)
      assert {:error, _} = Term.skip(<<131, bytes::binary>>, 1, :anything)
      assert {:error, _} = Term.decode_foreign(<<131, bytes::binary>>)
    end

    assert {:error, "the bytes are damaged or cut off"} = Term.skip("abc", 4)
  end

  @tag tenant_options: [max_single_value_size: 100]
  test "a part of a record's value that looks like a whole one is not one", %{tenant: tenant} do
    # The last part: the value's last byte, and the end of the list of fields.
    empty = :erlang.term_to_binary(id: "p", value: "")
    value = String.duplicate(<<131>>, 302 - byte_size(empty))
    assert <<131, 106>> = binary_part(:erlang.term_to_binary(id: "p", value: value), 300, 2)

    TestRepo.insert!(%TestThing{id: "p", value: value}, prefix: tenant)
    assert {_, <<131, 106>>} = List.last(dump(tenant))
    assert TestRepo.get(TestThing, "p", prefix: tenant).value == value
    assert [%{value: ^value}] = TestRepo.all(TestThing, prefix: tenant)

    assert [%{value: ^value}] =
             TestRepo.all(TestThing, order_by: [desc: :id], limit: 1, prefix: tenant)

    state = %{assigns: %{}, private: %{tenant: tenant}}
    state = Sync.sync_one(state, TestRepo, :thing, TestThing, "p")
    assert state.assigns.thing.value == value
    Sync.cancel_all(state, TestRepo)
  end

  test "tuples that are versionstamps, complete or not", %{tenant: tenant} do
    incomplete = Versionstamp.incomplete(3)

    for value <- [{:versionstamp, 1, 2, 3}, {:versionstamp}, {:ok, incomplete}, [incomplete]] do
      store(tenant, "v", :erlang.term_to_binary(id: "v", value: value))
      assert TestRepo.get(TestThing, "v", prefix: tenant).value == value
    end

    # The commit completed it in the key.
    store(tenant, "v", :erlang.term_to_binary(id: incomplete, value: 1))
    assert %{id: "v", value: 1} = TestRepo.get(TestThing, "v", prefix: tenant)
  end

  defp random(0),
    do:
      Enum.random([
        nil,
        1,
        -1,
        300,
        2 ** 40,
        -(2 ** 80),
        2 ** 3000,
        1.5,
        "",
        "x",
        :ok,
        :ünï,
        <<5::3>>,
        []
      ])

  defp random(depth) do
    case :rand.uniform(5) do
      1 -> random(0)
      2 -> for _ <- 1..3, do: random(depth - 1)
      3 -> {random(depth - 1), random(depth - 1)}
      4 -> %{random(0) => random(depth - 1)}
      5 -> [random(depth - 1) | random(0)]
    end
  end
end
