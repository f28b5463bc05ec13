defmodule EctoFoundationDB.LiveQueriesTest do
  # The NIF's live queries alone, without the layer: the tests make keys and values.
  use ExUnit.Case, async: true

  alias EctoFoundationDB.Native

  @moduletag :embedded

  setup context do
    :ok = Native.client_start(%{library: :embedded, options: []})
    name = inspect({context.module, context.test})
    {:ok, db} = Native.database_open(name, {:memory, name}, [])
    {:ok, db: db}
  end

  describe "records of a range" do
    test "come record by record, with the parts of split values", %{db: db} do
      write(db, [
        {:set, key(["r", 1]), "one"},
        {:set, key(["r", 2]), "head"},
        {:set, key(["r", 2, {3, 0, 7}]), "part 0"},
        {:set, key(["r", 2, {3, 1, 7}]), "part 1"},
        {:set, key(["r", 3]), "three"}
      ])

      sub = subscribe(db, all(db, "r"))
      assert [{:rows, [one, two, three]}] = take(sub)
      assert one == [{key(["r", 1]), "one"}]
      assert Enum.map(two, &elem(&1, 1)) == ["head", "part 0", "part 1"]
      assert three == [{key(["r", 3]), "three"}]
    end

    test "a key with a zero byte is not a part of the key before it", %{db: db} do
      write(db, [{:set, key(["r", "a"]), "1"}, {:set, key(["r", "a\0"]), "2"}])
      sub = subscribe(db, all(db, "r"))
      assert [{:rows, [[{_, "1"}], [{_, "2"}]]}] = take(sub)
    end

    test "a limit counts records, from either end", %{db: db} do
      ops =
        for id <- 1..9, part <- [[], [{3, 0, 1}], [{3, 1, 1}]] do
          {:set, key(["r", id | part]), "#{id}"}
        end

      write(db, ops)

      for {limit, reverse, ids} <- [
            {2, false, [1, 2]},
            {3, true, [9, 8, 7]},
            {20, true, Enum.to_list(9..1//-1)},
            {0, false, Enum.to_list(1..9)}
          ] do
        sub = subscribe(db, all(db, "r", {limit, reverse}))
        assert [{:rows, records}] = take(sub)

        assert Enum.map(records, fn [{_, id} | parts] -> {id, length(parts)} end) ==
                 Enum.map(ids, &{"#{&1}", 2})
      end
    end

    test "a change returns only the changed records", %{db: db} do
      write(db, for(id <- 1..1000, do: {:set, key(["r", id]), "#{id}"}))
      sub = subscribe(db, all(db, "r"))
      assert [{:rows, records}] = take(sub)
      assert length(records) == 1000

      write(db, [{:set, key(["r", 500]), "new"}, touch()])
      assert_receive {^sub, :ready}, 5000

      assert [{:rows, [{:keep, 0, 499}, [{_, "new"}], {:keep, 500, 500}]}] = take(sub)
      assert [:unchanged] = take(sub)

      write(db, [
        {:clear, key(["r", 1])},
        {:set, key(["r", 0]), "zero"},
        {:set, key(["r", 1001]), "last"},
        touch()
      ])

      assert_receive {^sub, :ready}, 5000
      assert [{:rows, [[{_, "zero"}], {:keep, 1, 999}, [{_, "last"}]]}] = take(sub)
    end

    test "a change that leaves the records as they were notifies nobody", %{db: db} do
      write(db, [{:set, key(["r", 1]), "one"}])
      sub = subscribe(db, all(db, "r"))
      take(sub)
      reads = Native.stats(db).reads
      write(db, [touch()])

      eventually(fn ->
        Native.stats(db).reads > reads and Native.stats(db).pending_watches == 1
      end)

      refute_received {^sub, :ready}

      # The new watch is armed with the counter's new value.
      write(db, [{:set, key(["r", 1]), "two"}, touch()])
      assert_receive {^sub, :ready}, 5000
    end
  end

  test "many subscribers take what one would: all of it, and its changes" do
    unknown = <<131, 108, 0, 0, 0, 1, 104, 2, 119, 9, "atom x!y.", 97, 1, 106>>
    assert_raise ArgumentError, fn -> :erlang.binary_to_term(unknown, [:safe]) end
    many_fields = for i <- 1..40, do: {:"field_#{i}", i}

    values = [
      data(name: "short", long: String.duplicate("l", 100), nested: %{list: [1, 2.5, nil]}),
      data(many_fields),
      data(name: String.duplicate("x", 3000)),
      data(name: 1, name: 2),
      "no term",
      unknown
    ]

    rows = for {value, id} <- Enum.with_index(values), do: {:set, key(["r", id]), value}
    split = {:set, key(["r", 0, {3, 0, 7}]), "part"}

    turned =
      for {value, id} <- Enum.with_index(Enum.reverse(values)), do: {:set, key(["r", id]), value}

    [alone, many] =
      for n <- [1, 100] do
        {:ok, db} = Native.database_open("many", {:memory, "many #{n}"}, [])
        write(db, rows)
        ref = make_ref()
        subs = Native.subscribe(db, ref, for(_ <- 1..n, do: {nil, [all(db, "r")], nil}))
        assert_receive {^ref, :ok}, 5000
        first = Enum.map(subs, &take/1)

        changes =
          for ops <- [[split], turned, [{:clear, key(["r", 3])}]] do
            write(db, [touch() | ops])
            for sub <- subs, do: assert_receive({^sub, :ready}, 5000)
            Enum.map(subs, &take/1)
          end

        for each <- [first | changes], do: assert([_the_same] = Enum.uniq(each))
        Enum.map([first | changes], &hd/1)
      end

    assert alone == many
    assert [[{:rows, [[{:data, %{name: "short"} = map}], [{:data, fields}] | _]}] | _] = alone
    assert map.nested == %{list: [1, 2.5, nil]}
    assert fields == Map.new(many_fields)
    assert [[{:rows, [[_, {_, "part"}], {:keep, 1, 5}]}] | _] = tl(alone)
  end

  defp data(fields), do: :erlang.term_to_binary(fields)

  describe "records of an index" do
    test "come in order; an entry without a record is not a result", %{db: db} do
      write(db, [
        {:set, key(["d", 1]), "b"},
        {:set, key(["d", 2]), "a"},
        {:set, key(["d", 2, {3, 0, 1}]), "part"},
        {:set, key(["i", "a", 2]), {:pack, ["d", 2]}},
        {:set, key(["i", "b", 1]), {:pack, ["d", 1]}},
        {:set, key(["i", "c", 3]), {:pack, ["d", 3]}}
      ])

      prefix = key(["i"])
      sub = subscribe(db, indexed(prefix, {0, false}))
      assert [{:rows, [[{_, "a"}, {_, "part"}], [{_, "b"}]]}] = take(sub)

      write(db, [
        {:set, key(["i", "0", 1]), {:pack, ["d", 1]}},
        {:clear, key(["i", "b", 1])},
        touch()
      ])

      assert_receive {^sub, :ready}, 5000
      assert [{:rows, [{:keep, 1, 1}, {:keep, 0, 1}]}] = take(sub)
    end
  end

  describe "a limit on entries" do
    # Every third entry's record is gone, and one also has an outdated entry.
    setup %{db: db} do
      ops =
        for i <- 1..300, rem(i, 3) > 0 or i == 300 do
          {:set, key(["d", i]), "#{i}"}
        end

      entries = for i <- 1..300, do: {:set, key(["i", i]), {:pack, ["d", i]}}
      write(db, ops ++ entries ++ [{:set, key(["i", 0]), {:pack, ["d", 2]}}])
      {:ok, prefix: key(["i"])}
    end

    test "counts the records found, from either end", %{db: db, prefix: prefix} do
      all = for i <- 1..300, rem(i, 3) > 0, do: "#{i}"

      for {limit, reverse, ids} <- [
            {3, false, ["1", "2", "4"]},
            {2, true, ["300", "299"]},
            {0, false, all ++ ["300"]},
            {0, true, Enum.reverse(all ++ ["300"])}
          ] do
        sub = subscribe(db, indexed(prefix, {limit, reverse}))
        assert [{:rows, records}] = take(sub)
        assert for([{_key, value}] <- records, do: value) == ids
      end
    end

    test "does not count entries whose values are not keys", %{db: db, prefix: prefix} do
      write(db, [{:set, key(["i", 1, "odd"]), "no tuple"}])

      for {limit, reverse, ids} <- [{3, false, ["1", "2", "4"]}, {2, true, ["300", "299"]}] do
        sub = subscribe(db, indexed(prefix, {limit, reverse}))
        assert [{:rows, records}] = take(sub)
        assert for([{_key, value}] <- records, do: value) == ids
      end

      sub = subscribe(db, indexed(prefix, {0, false}))
      assert [{:rows, records}] = take(sub)
      assert length(records) == 201
    end

    test "does not confuse a record with one whose key it continues", %{db: db} do
      write(db, [
        {:set, key(["d", "a\0b"]), "another"},
        {:set, key(["j", 1]), {:pack, ["d", "a"]}},
        {:set, key(["j", 2]), {:pack, ["d", "a\0b"]}}
      ])

      sub = subscribe(db, indexed(key(["j"]), {0, false}))
      assert [{:rows, [[{_key, "another"}]]}] = take(sub)
    end
  end

  describe "a subscription that takes over" do
    test "neither reads nor watches queries again that both have", %{db: db} do
      write(db, for(id <- 1..3, do: {:set, key(["r", id]), "#{id}"}))
      ref = make_ref()
      [old] = Native.subscribe(db, ref, [{nil, [one(1), one(2)], nil}])
      assert_receive {^ref, :ok}, 5000
      assert [{:rows, [[{_, "1"}]]}, {:rows, [[{_, "2"}]]}] = take(old)
      before = Native.stats(db)

      ref = make_ref()
      [new] = Native.subscribe(db, ref, [{nil, [one(2), one(3)], old}])
      assert_receive {^ref, :ok}, 5000
      assert [:unchanged, {:rows, [[{_, "3"}]]}] = take(new)
      Native.unsubscribe(old)
      now = Native.stats(db)
      assert {now.reads - before.reads, now.watches_armed - before.watches_armed} == {1, 1}
      assert %{subscriptions: 1, live_queries: 2} = now

      write(db, [{:set, key(["r", 2]), "two"}, {:set, key(["r", 1]), "gone"}])
      assert_receive {^new, :ready}, 5000
      assert {:news, [{0, {:rows, [[{_, "two"}]]}}]} = Native.take(new)
      refute_received {^old, :ready}
    end
  end

  describe "a subscription" do
    test "that has taken over has one message waiting, also before its first results are taken",
         %{
           db: db
         } do
      write(db, [{:set, key(["r", 1]), "1"}])
      old = subscribe(db, one(1))
      take(old)
      ref = make_ref()
      [new] = Native.subscribe(db, ref, [{nil, [one(1)], old}])
      assert_receive {^ref, :ok}, 5000
      Native.unsubscribe(old)

      reads = Native.stats(db).reads
      write(db, [{:set, key(["r", 1]), "2"}])
      eventually(fn -> Native.stats(db).reads > reads and armed?(db) end)
      delivered(db)
      assert [{:rows, [[{_, "2"}]]}] = take(new)
      reads = Native.stats(db).reads
      write(db, [{:set, key(["r", 1]), "3"}])
      eventually(fn -> Native.stats(db).reads > reads and armed?(db) end)
      delivered(db)
      assert_received {^new, :ready}
      assert [{:rows, [[{_, "3"}]]}] = take(new)
      refute_received {^new, :ready}
    end

    test "returns everything again if the last results were lost", %{db: db} do
      write(db, for(id <- 1..3, do: {:set, key(["r", id]), "#{id}"}))
      sub = subscribe(db, all(db, "r"))
      assert [{:rows, [_, _, _] = rows}] = take(sub)
      assert [:unchanged] = take(sub)
      Native.untake(sub)
      assert [{:rows, ^rows}] = take(sub)
      assert [:unchanged] = take(sub)
      refute_received {^sub, :ready}
    end

    test "counts and ends with its live query, however many begin at once", %{db: db} do
      test = self()
      # Several read at the same time, and all of them are the first.
      :ok = Native.engine_faults(db, "seed=1,slow_read=0.5,read_delay_ms=2")

      for round <- 1..50 do
        pages =
          for _ <- 1..8 do
            spawn_link(fn ->
              receive do: (:go -> :ok)
              ref = make_ref()
              [sub] = Native.subscribe(db, ref, [{nil, [one(round)], nil}])
              receive do: ({^ref, :ok} -> take(sub))
              send(test, :subscribed)
              receive do: (:stop -> :ok)
              send(test, :unsubscribed)
            end)
          end

        Enum.each(pages, &send(&1, :go))
        for _ <- pages, do: assert_receive(:subscribed, 5000)
        assert %{live_queries: 1, subscriptions: 8} = Native.stats(db)
        Enum.each(pages, &send(&1, :stop))
        for _ <- pages, do: assert_receive(:unsubscribed, 5000)
        eventually(fn -> match?(%{live_queries: 0, subscriptions: 0}, Native.stats(db)) end)
      end
    end
  end

  describe "a plan" do
    setup %{db: db} do
      Native.planner(db)
      write(db, [{:set, key(["a", 1]), "a"}, {:set, key(["b", 1]), "b"}])
      :ok
    end

    test "made from outdated indexes is refused at the beginning", %{db: db} do
      basis = indexes(db, "one")
      outdated = indexes(db, "two")
      ref = make_ref()
      Native.subscribe(db, ref, [{basis, [{:planned, one(1), :question}], nil}])
      assert_receive {^ref, :replan}, 5000

      sub = subscribe(db, {:planned, one(1), :question}, outdated)
      assert [{:rows, []}] = take(sub)
    end

    test "is valid while its indexes are the same, whatever the metadata version", %{db: db} do
      basis = indexes(db, "one")
      sub = subscribe(db, {:planned, all(db, "a"), :question}, basis)
      assert [{:rows, [[{_, "a"}]]}] = take(sub)
      before = Native.stats(db)

      for n <- 1..5 do
        stamp(db)
        write(db, [{:set, key(["a", 1]), "a#{n}"}, touch()])
        value = "a#{n}"
        assert_receive {^sub, :ready}, 5000
        assert [{:rows, [[{_, ^value}]]}] = take(sub)
      end

      # Another process subscribes with a basis that was right five metadata versions ago.
      other = subscribe(db, {:planned, all(db, "a"), :question}, basis)
      assert [{:rows, [[{_, "a5"}]]}] = take(other)
      refute_received {:replan, _, _}
      now = Native.stats(db)
      # At most one check for each change of the version.
      assert now.basis_checks - before.basis_checks <= 5
      assert now.live_queries == 1
    end

    test "is made again by the planner when the indexes change", %{db: db} do
      sub = subscribe(db, {:planned, all(db, "a"), :question}, indexes(db, "one"))
      assert [{:rows, [[{_, "a"}]]}] = take(sub)

      # The index is emptied and dropped: no subscriber may see that.
      basis = indexes(db, "two", [{:clear, key(["a", 1])}, touch()])
      assert_receive {:replan, request, :question}, 20_000
      refute_received {^sub, :ready}
      Native.replanned(db, request, {:ok, {:planned, all(db, "b"), :question}}, basis)
      assert_receive {^sub, :ready}, 5000
      assert [{:rows, [[{_, "b"}]]}] = take(sub)

      # And now it follows the new one.
      write(db, [{:set, key(["b", 1]), "b2"}, touch()])
      assert_receive {^sub, :ready}, 5000
      assert [{:rows, [[{_, "b2"}]]}] = take(sub)

      # Without a plan the data stay, and are stale.
      basis = indexes(db, "three", [touch()])
      assert_receive {:replan, request, :question}, 20_000
      Native.replanned(db, request, {:error, "no index"}, basis)
      assert_receive {^sub, :ready}, 5000
      assert [{:stale, {:fdb, 0, "no index"}}] = take(sub)

      # Until there is one again.
      write(db, [{:set, key(["b", 1]), "b3"}])
      basis = indexes(db, "four", [touch()])
      assert_receive {:replan, request, :question}, 20_000
      Native.replanned(db, request, {:ok, {:planned, all(db, "b"), :question}}, basis)
      assert_receive {^sub, :ready}, 5000
      assert {:news, [{0, {:rows, [[{_, "b3"}]]}}]} = Native.take(sub)
      assert_receive {^sub, :ready}, 5000
      assert {:news, [{0, :fresh}]} = Native.take(sub)
      assert %{subscriptions: 1, live_queries: 1, pending_watches: 1} = Native.stats(db)
    end

    test "that is missing is not replaced by a read in progress", %{db: db} do
      sub = subscribe(db, {:planned, all(db, "a"), :question}, indexes(db, "one"))
      assert [{:rows, [[{_, "a"}]]}] = take(sub)
      basis = indexes(db, "two", [touch()])
      assert_receive {:replan, request, :question}, 20_000
      Native.replanned(db, request, {:ok, {:planned, all(db, "a"), :question}}, basis)
      eventually(fn -> armed?(db) end)

      # The answer comes while the emptied index is read.
      :ok = Native.engine_faults(db, "seed=1,slow_read=1,read_delay_ms=50")
      reads = Native.stats(db).reads
      basis = indexes(db, "three", [{:clear, key(["a", 1])}, touch()])
      eventually(fn -> Native.stats(db).reads > reads end)
      Native.replanned(db, request, {:error, "no index"}, basis)
      assert_receive {^sub, :ready}, 5000
      assert [{:stale, {:fdb, 0, "no index"}}] = take(sub)
      refute_receive {^sub, :ready}, 500
    end

    test "of a tenant that is gone is an error, and the end of the data shown", %{db: db} do
      write(db, [{:set, "entry", "prefix"}])
      {nil, source, version} = indexes(db, "one")
      basis = {{"entry", "prefix", "acme"}, source, version}
      sub = subscribe(db, {:planned, all(db, "a"), :question}, basis)
      assert [{:rows, [[{_, "a"}]]}] = take(sub)

      # Created again under the same name: it has a different prefix.
      stamp(db, [{:set, "entry", "another prefix"}])
      assert_receive {^sub, :ready}, 20_000
      assert [{:rows, []}] = take(sub)
      assert_receive {^sub, :ready}, 5000
      assert [{:stale, {:tenant_gone, "acme"}}] = take(sub)

      ref = make_ref()
      Native.subscribe(db, ref, [{basis, [{:planned, all(db, "b"), :question}], nil}])
      assert_receive {^ref, {:error, {:tenant_gone, "acme"}}}, 5000
      assert %{subscriptions: 1, pending_watches: 0} = Native.stats(db)
    end
  end

  # Changes the index descriptions of a source; returns the basis of plans made from them.
  defp indexes(db, description, ops \\ []) do
    index = key(["indexes", 1])
    version = stamp(db, [{:set, index, description} | ops])

    rows = for bytes <- [index, description], do: [<<byte_size(bytes)::32>>, bytes]
    fingerprint = :crypto.hash(:sha256, [rows, <<0>>])
    first = key(["indexes"])
    {nil, [{first, first <> <<0xFF>>, key(["claim"]), fingerprint}], version}
  end

  defp key(elements), do: Native.pack(elements)

  defp indexed(prefix, limit) do
    {{:index, :value, key(["d"])}, prefix, prefix <> <<0xFF>>, key(["counter"]), limit}
  end

  defp one(id) do
    key = key(["r", id])
    {:records, key, key <> <<0xFF>>, key, {0, false}}
  end

  defp all(_db, prefix, limit \\ {0, false}) do
    prefix = key([prefix])
    {:records, prefix, prefix <> <<0xFF>>, key(["counter"]), limit}
  end

  # What the layer's counters do with every change.
  defp touch, do: {:atomic, :add, key(["counter"]), <<1::little-64>>}

  defp subscribe(db, query, basis \\ nil) do
    ref = make_ref()
    [sub] = Native.subscribe(db, ref, [{basis, [query], nil}])
    assert_receive {^ref, :ok}, 5000
    sub
  end

  # Changes the metadata version; returns its new value.
  defp stamp(db, ops \\ []) do
    bump = {:atomic, :set_versionstamped_value, "\xff/metadataVersion", <<0::112>>}
    write(db, [bump | ops])
  end

  # The commit's versionstamp.
  defp write(db, ops) do
    {:ok, tx} = Native.transaction_new(db)
    {:ok, _} = answer(&Native.transaction_run(tx, &1, ops))
    {:ok, _version, stamp} = answer(&Native.transaction_commit(tx, &1, [], nil))
    stamp
  end

  defp answer(call) do
    ref = make_ref()
    :ok = call.(ref)
    assert_receive {^ref, answer}, 5000
    answer
  end

  # The results of each live query, in order, first ones or news.
  defp take(sub) do
    case Native.take(sub) do
      {:first, taken} -> taken
      {:news, []} -> [:unchanged]
      {:news, news} -> for {_place, taken} <- Enum.sort(news), do: taken
    end
  end

  defp armed?(db), do: match?(%{pending_watches: n, live_queries: n}, Native.stats(db))

  # Until every due message has been sent: a message of a later change comes after them.
  defp delivered(db) do
    other = subscribe(db, one("other"))
    take(other)
    write(db, [{:set, key(["r", "other"]), "#{System.unique_integer()}"}])
    assert_receive {^other, :ready}, 5000
    Native.unsubscribe(other)
  end

  defp eventually(check, attempts \\ 500) do
    cond do
      check.() -> :ok
      attempts == 0 -> flunk("did not become true")
      true -> Process.sleep(10) && eventually(check, attempts - 1)
    end
  end
end
