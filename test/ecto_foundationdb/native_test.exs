defmodule EctoFoundationDB.NativeTest do
  use ExUnit.Case, async: true

  alias EctoFoundationDB.Native

  describe "the tuple layer" do
    # Keys written by ecto_foundationdb 0.6.1: test/format.
    test "packs the bytes that other clients pack" do
      for {tuple, hex} <- [
            {{<<0x15, 0x15>>, <<0xFD>>, "users", "d", "u1"},
             "0115150001fd000175736572730001640001753100"},
            {{<<0x15, 0x15>>, <<0xFD>>, "accounts", "d", -7},
             "0115150001fd00016163636f756e74730001640013f8"},
            {{"accounts_balance_index", 1, -12_345_678_901, 300},
             "016163636f756e74735f62616c616e63655f696e6465780015010ffd2023e3ca16012c"},
            {{"i", nil, {:utf8, "true"}}, "01690000" <> "027472756500"},
            {{"big", {3, 0, 2_382_775_079}}, "0162696700" <> "05150314188e06432700"}
          ] do
        assert Base.encode16(Native.pack(tuple), case: :lower) == hex
      end
    end

    test "round-trips every element" do
      for element <- [
            nil,
            true,
            false,
            "",
            <<0, 255, 0>>,
            {:utf8, "zero\0 and ünïcödé"},
            0,
            -1,
            9_223_372_036_854_775_807,
            -9_223_372_036_854_775_808,
            Integer.pow(2, 64),
            -Integer.pow(2, 2000) + 1,
            1.5,
            -0.0,
            {:float, 0.5},
            {:uuid, <<1::128>>},
            {:versionstamp, 5, 6, 7},
            {},
            {nil, {"nested", nil}, "after"}
          ] do
        assert Native.unpack(Native.pack({element, "next"})) == {element, "next"}
      end
    end

    test "keeps the order of integers, floats and strings" do
      for ordered <- [
            [-Integer.pow(2, 70), -256, -255, -1, 0, 1, 255, 256, Integer.pow(2, 70)],
            [-1.0e300, -1.5, -0.0, 0.0, 1.0e-300, 1.5, 1.0e300],
            ["", <<0>>, <<0, 0>>, <<0, 1>>, <<1>>, "a", "a\0", "aa", <<255>>]
          ] do
        packed = Enum.map(ordered, &Native.pack({&1}))
        assert packed == Enum.sort(packed)
      end
    end

    test "appends the offset of an incomplete versionstamp" do
      packed = Native.pack({"p", {:versionstamp, 0xFFFFFFFFFFFFFFFF, 0xFFFF, 1}})
      assert <<1, "p", 0, 0x33, -1::80, 1::16, 4::little-32>> == packed
    end

    test "reports terms that it can't pack or unpack" do
      assert_raise ErlangError, ~r/expected an element of a tuple, got: surprise/, fn ->
        Native.pack({:surprise})
      end

      assert_raise ErlangError, ~r/at most 255 bytes, got: an integer of 2101 bits/, fn ->
        Native.pack({Integer.pow(2, 2100)})
      end

      assert_raise ErlangError, ~r/valid UTF-8/, fn -> Native.pack({{:utf8, <<255>>}}) end
      assert_raise ErlangError, ~r/a packed tuple/, fn -> Native.unpack(<<1, 2, 3>>) end
    end
  end

  describe "a transaction" do
    @tag :embedded
    test "answers although its handle was garbage collected" do
      :ok = Native.client_start(%{library: :embedded, options: []})
      {:ok, db} = Native.database_open("collected", {:memory, "collected"}, [])
      parent = self()
      collector = spawn_link(fn -> collect(parent) end)

      for n <- 1..300 do
        {:ok, transaction} = Native.transaction_new(db)
        {read, commit} = {make_ref(), make_ref()}
        Native.transaction_run(transaction, read, [{:set, "k", "#{n}"}, {:get, "k", false}])
        Native.transaction_commit(transaction, commit, [], nil)
        value = "#{n}"
        assert_receive {^read, {:ok, [:ok, ^value]}}, 5000
        assert_receive {^commit, {:ok, version, stamp}}, 5000
        assert version > 0 and byte_size(stamp) == 10
      end

      Process.unlink(collector)
      Process.exit(collector, :kill)
    end

    @tag :embedded
    test "that is cancelled sends no more answers" do
      :ok = Native.client_start(%{library: :embedded, options: []})
      {:ok, db} = Native.database_open("cancelled", {:memory, "cancelled"}, [])

      late =
        for n <- 1..3000 do
          {:ok, transaction} = Native.transaction_new(db)
          ref = make_ref()
          Native.transaction_run(transaction, ref, [{:set, "k", "#{n}"}, {:get, "k", false}])
          Native.transaction_commit(transaction, ref, [], nil)
          for _ <- 1..rem(n, 40)//1, do: :erlang.yield()
          :ok = Native.transaction_cancel(transaction)
          flush(ref)
          ref
        end

      Process.sleep(100)
      refute Enum.any?(late, fn ref -> flush(ref) > 0 end)

      {:ok, transaction} = Native.transaction_new(db)
      :ok = Native.transaction_cancel(transaction)
      ref = make_ref()
      Native.transaction_run(transaction, ref, [{:get, "k", false}])
      assert_receive {^ref, {:error, {:fdb, 1025, _message}}}, 5000
    end
  end

  defp flush(ref, flushed \\ 0) do
    receive do
      message when elem(message, 0) == ref -> flush(ref, flushed + 1)
    after
      0 -> flushed
    end
  end

  defp collect(pid) do
    :erlang.garbage_collect(pid)
    collect(pid)
  end
end
