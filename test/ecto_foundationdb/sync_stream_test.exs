defmodule EctoFoundationDB.SyncStreamTest do
  # Streams in any process: what has changed, and where. The LiveView is in test/live_view.
  use ExUnit.Case, async: true

  alias EctoFoundationDB.StreamClient
  alias EctoFoundationDB.Sync
  alias EctoFoundationDB.Sync.Stream.Changes
  alias EctoFoundationDB.SyncPage
  alias EctoFoundationDB.SyncRepo, as: Repo
  alias EctoFoundationDB.SyncUser, as: User

  defmodule Newer do
    use EctoFoundationDB.TestSchema,
      source: "users",
      fields: [id: :string, name: :string, team: :integer]
  end

  setup do
    tenant = Repo.tenant()
    %{tenant: tenant, state: %{assigns: %{}, private: %{tenant: tenant}}}
  end

  defp stream(state, queryable, opts),
    do: Sync.sync_stream(state, Repo, :users, queryable, [assign: &StreamClient.assign/2] ++ opts)

  defp follow(state) do
    Sync.settle(Repo)
    handle(state)
  end

  defp handle(state) do
    receive do
      {_ref, :ready} = message ->
        {:halt, state} = Sync.handle_ready(Repo, message, state)
        handle(state)
    after
      0 -> state
    end
  end

  defp insert(tenant, id, name, team \\ "red"),
    do:
      Repo.insert!(%User{id: id, name: name, team: team},
        prefix: tenant,
        on_conflict: :replace_all
      )

  defp ids(state), do: Enum.map(state.assigns.users, & &1.id)

  test "what is inserted, changed and deleted", %{tenant: tenant, state: state} do
    for id <- ~w(a c e), do: insert(tenant, id, id)
    state = stream(state, User, [])
    assert ids(state) == ~w(a c e)
    assert Sync.window(state, Repo, :users) == %{first: 0, count: 3, limit: nil, more?: false}

    insert(tenant, "b", "b")
    insert(tenant, "f", "f")
    state = follow(state)
    assert ids(state) == ~w(a b c e f)

    insert(tenant, "c", "changed")
    Repo.delete!(%User{id: "a"}, prefix: tenant)
    state = follow(state)
    assert ids(state) == ~w(b c e f)
    assert Enum.at(state.assigns.users, 1).name == "changed"
    assert state.assigns.users == Repo.all(User, prefix: tenant)
  end

  test "callbacks get the changes", %{tenant: tenant, state: state} do
    insert(tenant, "a", "a")
    test = self()

    tell = fn state, changes ->
      send(test, {:changes, changes})
      {:cont, state}
    end

    state = Sync.attach_callback(state, Repo, :handle_assigns, tell)
    state = Sync.sync_stream(state, Repo, :users, User)
    assert state.assigns == %{}

    assert_received {:changes,
                     %{users: %Changes{reset?: true, placed: [{:insert, 0, %User{id: "a"}}]}}}

    insert(tenant, "a", "b")
    state = follow(state)

    assert_received {:changes,
                     %{
                       users: %Changes{
                         reset?: false,
                         deleted: [],
                         placed: [{:update, 0, %User{name: "b"}}]
                       }
                     }}

    Sync.cancel(state, Repo, :users)
    assert_received {:changes, %{users: %Changes{reset?: true, placed: []}}}
    refute Sync.watching?(Sync.cancel(state, Repo, :users), Repo, :users)
  end

  test "a page keeps no record", %{tenant: tenant, state: state} do
    for n <- 1..100, do: insert(tenant, "user #{n}", String.duplicate("x", 50))
    few = state |> Sync.sync_stream(Repo, :users, User, limit: 1) |> :erts_debug.flat_size()
    state = Sync.sync_stream(state, Repo, :users, User, limit: 100)
    assert_in_delta :erts_debug.flat_size(state), few, 10
    insert(tenant, "user 7", "changed")
    assert_in_delta :erts_debug.flat_size(follow(state)), few, 10
  end

  test "records move where the order is that of an index", %{tenant: tenant, state: state} do
    for {id, name} <- [{"1", "a"}, {"2", "b"}, {"3", "c"}, {"4", "d"}],
        do: insert(tenant, id, name)

    state = stream(state, User, order_by: [asc: :name])
    assert ids(state) == ~w(1 2 3 4)
    insert(tenant, "1", "e")
    state = follow(state)
    assert ids(state) == ~w(2 3 4 1)
    insert(tenant, "4", "b2")
    insert(tenant, "3", "a")
    assert ids(follow(state)) == ~w(3 2 4 1)
  end

  test "in a window records come in and leave", %{tenant: tenant, state: state} do
    for id <- ~w(b d f h), do: insert(tenant, id, id)
    state = stream(state, User, limit: 3)
    assert ids(state) == ~w(b d f)
    assert %{more?: true} = Sync.window(state, Repo, :users)
    insert(tenant, "a", "a")
    state = follow(state)
    assert ids(state) == ~w(a b d)
    Repo.delete!(%User{id: "b"}, prefix: tenant)
    Repo.delete!(%User{id: "d"}, prefix: tenant)
    state = follow(state)
    assert ids(state) == ~w(a f h)
    insert(tenant, "z", "z")
    state = follow(state)
    assert ids(state) == ~w(a f h)
    Repo.delete_all(User, prefix: tenant)
    state = follow(state)
    assert ids(state) == []
    assert %{count: 0, more?: false} = Sync.window(state, Repo, :users)
  end

  test "more tells the difference alone", %{tenant: tenant, state: state} do
    for n <- 10..40, do: insert(tenant, "#{n}", "#{n}")
    state = stream(state, User, order_by: [desc: :id], limit: 5)
    assert ids(state) == ~w(40 39 38 37 36)
    insert(tenant, "38", "changed")
    # Not even heard of it, when more is wanted.
    state = Sync.more(state, Repo, :users, 3)
    assert ids(state) == ~w(40 39 38 37 36 35 34 33)
    assert Enum.at(state.assigns.users, 2).name == "changed"
    insert(tenant, "41", "41")
    state = follow(state)
    assert ids(state) == ~w(41 40 39 38 37 36 35 34)
    state = Sync.more(state, Repo, :users, 1_000)
    assert length(ids(state)) == 32
    assert Sync.more(state, Repo, :users, 10) == state
    assert Repo.stats().subscriptions > 0
    assert ids(follow(state)) == Enum.map(41..10, &to_string/1)
  end

  test "with max the rows are bounded, in both directions", %{tenant: tenant, state: state} do
    for n <- 10..40, do: insert(tenant, "#{n}", "#{n}")
    state = stream(state, User, limit: 4, max: 6)
    state = Sync.more(state, Repo, :users, 4)
    assert ids(state) == ~w(12 13 14 15 16 17)
    assert %{first: 2, count: 6, limit: 6, more?: true} = Sync.window(state, Repo, :users)
    state = Sync.more(state, Repo, :users, 2)
    assert ids(state) == ~w(14 15 16 17 18 19)
    # One comes in before what is shown.
    insert(tenant, "05", "05")
    state = follow(state)
    assert ids(state) == ~w(13 14 15 16 17 18)
    Repo.delete!(%User{id: "15"}, prefix: tenant)
    state = follow(state)
    assert ids(state) == ~w(13 14 16 17 18 19)
    state = Sync.more(state, Repo, :users, -3)
    assert ids(state) == ~w(10 11 12 13 14 16)
    state = Sync.more(state, Repo, :users, -100)
    assert ids(state) == ~w(05 10 11 12 13 14)
    assert Sync.more(state, Repo, :users, -1) == state
  end

  test "a deleted tenant's stream is empty", %{state: state} do
    other = Repo.tenant()
    for id <- ~w(a b), do: insert(other, id, id)
    state = stream(put_in(state.private.tenant, other), User, [])
    assert ids(state) == ~w(a b)
    EctoFoundationDB.Tenant.clear_delete!(Repo, other.id)
    assert_receive message
    {:halt, state} = Sync.handle_ready(Repo, message, state)
    assert ids(state) == []
  end

  test "1,000 pages are told the same", %{tenant: tenant} do
    for n <- 10..30, do: insert(tenant, "#{n}", "#{n}")

    pages =
      for n <- 1..1_000 do
        opts = if rem(n, 2) == 0, do: [limit: 5], else: []
        SyncPage.start(Repo, tenant, &stream(&1, User, opts))
      end

    for round <- 1..3 do
      insert(tenant, "#{10 + round}", "changed #{round}")
      Repo.delete!(%User{id: "#{20 + round}"}, prefix: tenant)
      insert(tenant, "0#{round}", "new")
      all = Repo.all(User, prefix: tenant)
      Sync.settle(Repo)

      for [odd, even] <- Enum.chunk_every(pages, 2) do
        assert SyncPage.assigns(odd).users == all
        assert SyncPage.assigns(even).users == Enum.take(all, 5)
      end
    end

    for page <- pages, do: GenServer.stop(page)
  end

  test "from the bottom up", %{tenant: tenant, state: state} do
    for n <- 1..6, do: insert(tenant, "#{n}", "#{n}")
    state = stream(state, User, order_by: [desc: :id], limit: 3, at: 0)
    assert ids(state) == ~w(4 5 6)
    insert(tenant, "7", "7")
    state = follow(state)
    assert ids(state) == ~w(5 6 7)
    assert ids(Sync.more(state, Repo, :users, 2)) == ~w(3 4 5 6 7)
  end

  test "synced again it begins again, or tells the difference", %{tenant: tenant, state: state} do
    for id <- ~w(a b c), do: insert(tenant, id, id, if(id == "b", do: "blue", else: "red"))
    test = self()

    tell = fn state, %{users: changes} ->
      send(test, changes)
      state
    end

    state = Sync.sync_stream(state, Repo, :users, User, assign: tell)
    assert_received %Changes{reset?: true}
    state = Sync.sync_stream(state, Repo, :users, User, assign: tell)
    assert_received %Changes{reset?: false, deleted: [], placed: []}
    state = Sync.sync_stream(state, Repo, :users, User, assign: tell, limit: 2)
    assert_received %Changes{reset?: false, deleted: [%{id: "c"}], placed: []}
    state = Sync.sync_stream_by(state, Repo, :users, User, [team: "red"], assign: tell)

    assert_received %Changes{
      reset?: true,
      placed: [{:insert, 0, %{id: "a"}}, {:insert, 1, %{id: "c"}}]
    }

    insert(tenant, "b", "b", "red")
    state = follow(state)
    assert_received %Changes{reset?: false, placed: [{:insert, 1, %{id: "b"}}]}
    Sync.sync_stream_by(state, Repo, :users, User, [team: "red"], assign: tell, reset: true)
    assert_received %Changes{reset?: true, placed: [_, _, _]}
  end

  test "where a callback raises, nothing is lost", %{tenant: tenant, state: state} do
    for id <- ~w(a b), do: insert(tenant, id, id)
    bad = :counters.new(1, [])

    sometimes = fn state, changes ->
      :counters.add(bad, 1, 1)

      if :counters.get(bad, 1) in [2, 4],
        do: raise("now"),
        else: StreamClient.assign(state, changes)
    end

    state = Sync.sync_stream(state, Repo, :users, User, assign: sometimes, limit: 2)
    insert(tenant, "a", "changed")
    Sync.settle(Repo)
    assert_received message
    assert_raise RuntimeError, "now", fn -> Sync.handle_ready(Repo, message, state) end
    insert(tenant, "0", "0")
    state = follow(state)
    assert ids(state) == ~w(0 a)
    assert_raise RuntimeError, "now", fn -> Sync.more(state, Repo, :users, 1) end
    insert(tenant, "1", "1")
    state = follow(state)
    assert ids(state) == ~w(0 1)
    assert ids(Sync.more(state, Repo, :users, 1)) == ~w(0 1 a)
  end

  test "a record that can't be loaded stays as it was", %{tenant: tenant, state: state} do
    for id <- ~w(a b c), do: insert(tenant, id, id)
    state = stream(state, User, limit: 5)
    newer(tenant, "b")
    state = follow(state)
    assert names(state) == ~w(a b c)
    assert Sync.stale?(state, Repo, :users)
    insert(tenant, "aa", "aa")
    insert(tenant, "d", "d")
    state = follow(state)
    assert names(state) == ~w(a aa b c d)

    # One that was not shown appears when it can be loaded.
    newer(tenant, "bb")
    state = follow(state)
    assert names(state) == ~w(a aa b c)
    assert %{count: 4} = Sync.window(state, Repo, :users)
    insert(tenant, "bb", "bb")
    insert(tenant, "b", "better")
    state = follow(state)
    assert names(state) == ~w(a aa better bb c)
    refute Sync.stale?(state, Repo, :users)

    # What was shown of one that is gone is not known: all is told again.
    newer(tenant, "bb")
    state = follow(state)
    assert names(state) == ~w(a aa better bb c)
    Repo.delete!(%Newer{id: "bb"}, prefix: tenant)
    state = follow(state)
    assert names(state) == ~w(a aa better c d)
    refute Sync.stale?(state, Repo, :users)

    newer(tenant, "c")

    assert_raise EctoFoundationDB.DecodeError, fn ->
      stream(%{state | assigns: %{}, private: %{tenant: tenant}}, User, [])
    end
  end

  defp newer(tenant, id),
    do: Repo.insert!(%Newer{id: id, team: 1}, prefix: tenant, on_conflict: :replace_all)

  defp names(state), do: Enum.map(state.assigns.users, & &1.name)

  test "an order that no index has is refused, and so are bad arguments", %{state: state} do
    for {opts, message} <- [
          {[order_by: [:team, :name]], ~r/This index would answer it/},
          {[limit: 0], ~r/expected :limit to be a positive integer, got: 0/},
          {[max: 10], ~r/expected a :limit beside max: 10/},
          {[at: 1], ~r/expected :at to be -1/},
          {[reset: nil], ~r/expected :reset to be true or false/},
          {[limits: 1], ~r/unknown option :limits/}
        ] do
      error = catch_error(stream(state, User, opts))
      assert Exception.message(error) =~ message
    end

    for fun <- [&Sync.more(&1, Repo, :users, 1), &Sync.window(&1, Repo, :users)] do
      assert_raise ArgumentError, ~r/expected the name of a stream/, fn -> fun.(state) end
    end

    state = stream(state, User, [])

    assert_raise ArgumentError, ~r/how many records more/, fn ->
      Sync.more(state, Repo, :users, :a)
    end

    assert_raise ArgumentError, ~r/values to sync by/, fn ->
      Sync.sync_stream_by(state, Repo, :users, User, :team)
    end
  end

  test "what a client is told, whatever is written, is the list", %{tenant: tenant, state: state} do
    views = [
      all: [],
      by_name: [order_by: [asc: :name]],
      backwards: [order_by: [desc: :name]],
      window: [limit: 7],
      last: [order_by: [desc: :name], limit: 5, at: 0],
      middle: [limit: 4, max: 6]
    ]

    state =
      for {label, opts} <- views, reduce: state do
        state ->
          Sync.sync_stream(state, Repo, label, User, [assign: &StreamClient.assign/2] ++ opts)
      end

    state =
      Sync.sync_stream_by(state, Repo, :reds, User, [team: "red"], assign: &StreamClient.assign/2)

    for round <- 1..150, reduce: state do
      state ->
        1..:rand.uniform(3)
        |> Enum.map(fn _writer ->
          Task.async(fn -> for _ <- 1..:rand.uniform(3), do: write(tenant) end)
        end)
        |> Task.await_many(60_000)

        state = if rem(round, 3) == 0, do: state, else: follow(state)

        state =
          if rem(round, 7) == 0,
            do: Sync.more(state, Repo, :middle, Enum.random([-3, 2, 5])),
            else: state

        state = if rem(round, 20) == 0, do: Sync.more(state, Repo, :last, 1), else: state
        if rem(round, 3) == 0, do: state, else: check(state, tenant)
    end
  end

  defp write(tenant) do
    id = "#{Enum.random(10..40)}"

    case :rand.uniform(4) do
      1 -> Repo.delete_all(User, where: [id: id], prefix: tenant)
      2 -> insert(tenant, id, "#{:rand.uniform(100)}", Enum.random(~w(red blue)))
      _more -> insert(tenant, id, "#{:rand.uniform(100)}", Enum.random(~w(red blue)))
    end
  end

  defp check(state, tenant) do
    all = Repo.all(User, prefix: tenant)
    by_name = Repo.all(User, order_by: [asc: :name], prefix: tenant)
    assert state.assigns.all == all
    assert state.assigns.by_name == by_name
    assert state.assigns.backwards == Enum.reverse(by_name)
    assert state.assigns.window == Enum.take(all, 7)
    %{limit: limit} = Sync.window(state, Repo, :last)
    assert state.assigns.last == Enum.take(by_name, -limit)
    %{first: first, limit: limit} = Sync.window(state, Repo, :middle)
    assert state.assigns.middle == Enum.slice(all, first, limit)
    assert state.assigns.reds == Enum.filter(all, &(&1.team == "red"))
    state
  end
end
