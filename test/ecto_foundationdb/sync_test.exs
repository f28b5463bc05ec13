defmodule EctoFoundationDB.SyncTest do
  use ExUnit.Case, async: true

  alias EctoFoundationDB.{LayerCase, Native, Rebuild, Sync, Tenant, Transaction}
  alias EctoFoundationDB.Layer.Keys
  alias EctoFoundationDB.SyncRepo, as: Repo
  alias EctoFoundationDB.SyncUser, as: User

  defmodule State do
    defstruct assigns: %{}, private: %{}, socket: nil
  end

  setup do
    tenant = Repo.tenant()
    %{tenant: tenant, state: %{assigns: %{}, private: %{tenant: tenant}}}
  end

  defp insert!(tenant, id, name), do: Repo.insert!(%User{id: id, name: name}, prefix: tenant)
  defp rename!(user, name), do: Repo.update!(user, name: name)
  defp names(users), do: Enum.map(users, & &1.name)

  defp rows(tenant, key) do
    {first, last} = {{:pack, key}, Native.pack(key) <> <<0xFF>>}
    Transaction.run(tenant, fn -> Transaction.read([{:get_range, first, last, %{}}]) end)
  end

  # The next message, handled: {its ref, the new state}.
  defp handle_next(state, opts \\ []) do
    assert_receive {ref, :ready} = message when is_reference(ref), 10_000
    assert {:halt, state} = Sync.handle_ready(Repo, message, state, opts)
    state
  end

  # Handles messages until the assigns are such.
  defp handle_until(state, such) do
    if such.(state.assigns), do: state, else: state |> handle_next() |> handle_until(such)
  end

  describe "sync_one" do
    test "assigns the record, and follows updates, deletion and re-creation", context do
      %{tenant: tenant, state: state} = context
      user = insert!(tenant, "u1", "Ada")

      state = Sync.sync_one(state, Repo, :user, User, "u1")
      assert %User{id: "u1", name: "Ada"} = state.assigns.user
      assert state.assigns.user == Repo.get(User, "u1", prefix: tenant)

      user = rename!(user, "Grace")
      state = handle_until(state, &(&1.user.name == "Grace"))
      assert state.assigns.user == Repo.get(User, "u1", prefix: tenant)

      Repo.delete!(user)
      state = handle_until(state, &(&1.user == nil))

      insert!(tenant, "u1", "Katherine")
      state = handle_until(state, &match?(%User{name: "Katherine"}, &1.user))

      rename!(state.assigns.user, "Hedy")
      handle_until(state, &(&1.user.name == "Hedy"))
    end

    test "syncs an absent record as nil, and sees it created", %{tenant: tenant, state: state} do
      state = Sync.sync_one(state, Repo, :user, User, "u1")
      assert %{user: nil} = state.assigns
      assert Sync.watching?(state, Repo, :user)

      insert!(tenant, "u1", "Ada")
      state = handle_until(state, &(&1.user != nil))
      assert %User{name: "Ada"} = state.assigns.user
    end

    test "gives the new struct where the schema's code was loaded anew", context do
      %{tenant: tenant, state: state} = context
      define_reloaded([:id, :name])
      Repo.insert!(reloaded(id: "r1", name: "a"), prefix: tenant)
      state = Sync.sync_one(state, Repo, :record, __MODULE__.Reloaded, "r1")
      refute is_map_key(state.assigns.record, :age)

      define_reloaded([:id, :name, :age])
      Repo.update!(reloaded(id: "r1"), [age: 3], prefix: tenant)
      state = handle_until(state, &is_map_key(&1.record, :age))
      assert state.assigns.record == Repo.get(__MODULE__.Reloaded, "r1", prefix: tenant)
      assert state.assigns.record.age == 3
    end

    defp reloaded(fields), do: struct!(__MODULE__.Reloaded, fields)

    defp define_reloaded(fields) do
      :code.purge(__MODULE__.Reloaded)
      :code.delete(__MODULE__.Reloaded)

      Module.create(
        __MODULE__.Reloaded,
        quote do
          use EctoFoundationDB.TestSchema,
            source: "reloaded",
            fields: unquote(for field <- fields, do: {field, :any})
        end,
        __ENV__
      )
    end

    test "takes label and schema in either order", %{tenant: tenant, state: state} do
      insert!(tenant, "u1", "Ada")
      assert %{user: %User{}} = Sync.sync_one(state, Repo, :user, User, "u1").assigns
      assert %{user: %User{}} = Sync.sync_one(state, Repo, User, :user, "u1").assigns
      # Where both are schemas, the signature's order wins.
      assert %{User => %User{}} = Sync.sync_one(state, Repo, User, User, "u1").assigns
    end

    test "takes any term as a label", %{tenant: tenant, state: state} do
      insert!(tenant, "u1", "Ada")
      state = Sync.sync_one(state, Repo, {:user, 1}, User, "u1")
      assert %{{:user, 1} => %User{name: "Ada"}} = state.assigns
    end

    test "many changes leave one message and the newest state", %{tenant: tenant, state: state} do
      user = insert!(tenant, "u1", "0")
      state = Sync.sync_one(state, Repo, :user, User, "u1")
      for i <- 1..1000, do: rename!(user, "#{i}")

      {:messages, messages} = Process.info(self(), :messages)
      assert Enum.count(messages, &match?({_ref, :ready}, &1)) <= 1
      handle_until(state, &(&1.user.name == "1000"))
    end
  end

  describe "sync_many" do
    test "assigns those that exist, in the order of the ids, each once", context do
      %{tenant: tenant, state: state} = context
      for {id, name} <- [{"a", "Ada"}, {"b", "Bea"}, {"c", "Cleo"}], do: insert!(tenant, id, name)

      state = Sync.sync_many(state, Repo, :users, User, ["c", "missing", "a", "c"])
      assert names(state.assigns.users) == ["Cleo", "Ada"]

      # It appears in its place once created.
      insert!(tenant, "missing", "Mia")
      state = handle_until(state, &(length(&1.users) == 3))
      assert names(state.assigns.users) == ["Cleo", "Mia", "Ada"]

      Repo.delete!(hd(state.assigns.users))
      state = handle_until(state, &(length(&1.users) == 2))
      assert names(state.assigns.users) == ["Mia", "Ada"]
    end

    test "a change replaces that element only; the others stay the same terms", context do
      %{tenant: tenant, state: state} = context
      users = for i <- 1..50, do: insert!(tenant, "u#{i}", "#{i}")
      state = Sync.sync_many(state, Repo, :users, User, Enum.map(users, & &1.id))
      before = state.assigns.users

      rename!(Enum.at(users, 20), "changed")
      state = handle_until(state, &(Enum.at(&1.users, 20).name == "changed"))

      for {{old, new}, i} <- Enum.with_index(Enum.zip(before, state.assigns.users)) do
        assert :erts_debug.same(old, new) == (i != 20)
      end
    end

    test "synced again with other ids follows exactly those", %{tenant: tenant, state: state} do
      [a, b, c] = for id <- ["a", "b", "c"], do: insert!(tenant, id, id)

      state = Sync.sync_many(state, Repo, :users, User, ["a", "b"])
      [_a, kept] = state.assigns.users
      state = Sync.sync_many(state, Repo, :users, User, ["b", "c"])
      assert names(state.assigns.users) == ["b", "c"]
      assert :erts_debug.same(kept, hd(state.assigns.users))

      rename!(a, "A")
      rename!(b, "B")
      rename!(c, "C")
      state = handle_until(state, &(names(&1.users) == ["B", "C"]))
      assert map_size(state.assigns) == 1
    end

    test "nil and [] cancel, and assign []", %{tenant: tenant, state: state} do
      insert!(tenant, "a", "Ada")
      assert %{users: []} = Sync.sync_many(state, Repo, :users, User, []).assigns

      for none <- [nil, []] do
        state = Sync.sync_many(state, Repo, :users, User, ["a"])
        assert Sync.watching?(state, Repo, :users)
        state = Sync.sync_many(state, Repo, :users, User, none)
        assert state.assigns.users == []
        refute Sync.watching?(state, Repo, :users)
      end
    end

    test "synced again after a record could not be decoded for a while", context do
      %{tenant: tenant, state: state} = context
      insert!(tenant, "a", "Ada")
      key = Keys.record(tenant, "users", "a")
      [[{_key, value}]] = rows(tenant, key)
      state = Sync.sync_many(state, Repo, :users, User, ["a", "b"])

      LayerCase.operations(tenant, [{:set, {:pack, key}, "damaged"}])
      state = handle_next(state)
      assert names(state.assigns.users) == ["Ada"]

      LayerCase.operations(tenant, [{:set, {:pack, key}, value}])
      insert!(tenant, "b", "Bea")
      state = Sync.sync_many(state, Repo, :users, User, ["a", "b"])
      handle_until(state, &(names(&1.users) == ["Ada", "Bea"]))
    end

    test "has one message for several changes", %{tenant: tenant, state: state} do
      users = for i <- 1..20, do: insert!(tenant, "u#{i}", "#{i}")
      state = Sync.sync_many(state, Repo, :users, User, Enum.map(users, & &1.id))

      for user <- users, do: rename!(user, "new")
      state = handle_until(state, fn %{users: users} -> Enum.all?(users, &(&1.name == "new")) end)
      assert [%{name: "new"} | _] = state.assigns.users
      refute_received {_ref, :ready}
    end
  end

  describe "sync_all" do
    test "assigns the records of a schema, and follows inserts, updates and deletes", context do
      %{tenant: tenant, state: state} = context
      ada = insert!(tenant, "u1", "Ada")
      state = Sync.sync_all(state, Repo, :users, User)
      assert names(state.assigns.users) == ["Ada"]

      insert!(tenant, "u0", "Bea")
      state = handle_until(state, &(names(&1.users) == ["Bea", "Ada"]))
      rename!(ada, "Ada L.")
      state = handle_until(state, &(names(&1.users) == ["Bea", "Ada L."]))
      Repo.delete!(ada)
      state = handle_until(state, &(names(&1.users) == ["Bea"]))
      assert state.assigns.users == Repo.all(User, prefix: tenant)
    end

    test "decodes what changed only: the other 999 terms stay", context do
      %{tenant: tenant, state: state} = context
      rows = for i <- 1..1000, do: [id: "u#{i + 1000}", name: "#{i}"]
      Repo.insert_all(User, rows, prefix: tenant)
      users = Repo.all(User, prefix: tenant)
      state = Sync.sync_all(state, Repo, :users, User)
      before = state.assigns.users

      rename!(Enum.at(users, 50), "changed")
      state = handle_until(state, &(Enum.at(&1.users, 50).name == "changed"))

      for {{old, new}, i} <- Enum.with_index(Enum.zip(before, state.assigns.users)) do
        assert :erts_debug.same(old, new) == (i != 50)
      end
    end

    test "takes the layer's options with the schema", %{tenant: tenant, state: state} do
      for {id, name} <- [{"1", "C"}, {"2", "A"}, {"3", "B"}], do: insert!(tenant, id, name)
      state = Sync.sync_all(state, Repo, :first, {User, order_by: :name, limit: 2})
      assert names(state.assigns.first) == ["A", "B"]
      insert!(tenant, "4", "AA")
      handle_until(state, &(names(&1.first) == ["A", "AA"]))
    end

    test "watches what watch_action says", %{tenant: tenant, state: state} do
      ada = insert!(tenant, "u1", "Ada")
      state = Sync.sync_all(state, Repo, :users, User, watch_action: :collection)
      rename!(ada, "Ada L.")
      refute_receive {_ref, :ready}, 50
      insert!(tenant, "u2", "Bea")
      handle_until(state, &(names(&1.users) == ["Ada L.", "Bea"]))
    end

    test "watches each of the actions, and nothing else", %{state: state} do
      undisturbed(fn tenant ->
        watches_each_action(tenant, put_in(state.private.tenant, tenant))
      end)
    end

    # All lists are read again after a migration, of another test's tenant, too.
    defp undisturbed(scenario) do
      tenant = Repo.tenant()
      version = fn -> Transaction.run(tenant, &Transaction.version/0) end
      before = version.()

      try do
        scenario.(tenant)
      rescue
        error in ExUnit.AssertionError ->
          if version.() == before,
            do: reraise(error, __STACKTRACE__),
            else: undisturbed(scenario)
      end
    end

    defp watches_each_action(tenant, state) do
      bea = insert!(tenant, "u0", "Bea")
      opts = fn action -> [watch_action: action] end
      actions = [:inserts, :deletes, :collection, :updates, :changes]

      state = Enum.reduce(actions, state, &Sync.sync_all(&2, Repo, &1, User, opts.(&1)))

      # The lists that are read again after a change, each with a message of its own.
      followed = fn state, count, change ->
        before = state.assigns
        change.()
        state = Enum.reduce(1..count, state, fn _i, state -> handle_next(state) end)
        refute_receive {_ref, :ready}, 50
        now = Repo.all(User, prefix: tenant)
        lists = for action <- actions, state.assigns[action] != before[action], do: action
        for list <- lists, do: assert(state.assigns[list] == now)
        {state, lists}
      end

      ada = %User{id: "u1", name: "Ada"}
      {state, lists} = followed.(state, 3, fn -> Repo.insert!(ada, prefix: tenant) end)
      assert lists == [:inserts, :collection, :changes]
      update = fn -> Repo.update!(ada, [name: "Ada L."], prefix: tenant) end
      {state, lists} = followed.(state, 2, update)
      assert lists == [:updates, :changes]
      {_state, lists} = followed.(state, 3, fn -> Repo.delete!(bea) end)
      assert lists == [:deletes, :collection, :changes]
    end

    test "follows what a list that is rewritten in the assigns really is", context do
      %{tenant: tenant, state: state} = context
      users = for i <- 1..20, do: insert!(tenant, "u#{i + 10}", "#{i}")
      state = Sync.sync_all(state, Repo, :all, User)
      state = Sync.sync_many(state, Repo, :many, User, Enum.map(users, & &1.id))
      # As LiveView does with temporary assigns, or a callback might.
      state = %{state | assigns: %{all: [], many: nil}}
      rename!(hd(users), "new")
      now = Repo.all(User, prefix: tenant)
      handle_until(state, &(&1.all == now and &1.many == now))
    end

    test "a change that leaves the records as they were wakes nobody", context do
      %{tenant: tenant, state: state} = context
      ada = insert!(tenant, "u1", "Ada")
      state = Sync.sync_one(state, Repo, :ada, User, "u1")
      Sync.sync_all(state, Repo, :users, User)
      Repo.update!(ada, %{name: "Ada"})
      Repo.insert!(ada, prefix: tenant, on_conflict: :replace_all)
      refute_receive {_ref, :ready}, 100
    end

    defmodule OtherIndex do
      use EctoFoundationDB.Migrator
      use EctoFoundationDB.Migration

      @impl EctoFoundationDB.Migrator
      def migrations, do: Repo.migrations() ++ [{1, __MODULE__}]
      @impl EctoFoundationDB.Migration
      def change, do: [create(index(User, [:team, :name])), drop(index(User, [:team]))]
    end

    test "goes on while its index is dropped for another one, and rebuilt", context do
      %{tenant: tenant, state: state} = context

      [ada, bea] =
        for {id, name} <- [{"1", "Ada"}, {"2", "Bea"}],
            do: Repo.insert!(%User{id: id, name: name, team: "red"}, prefix: tenant)

      state =
        state
        |> Sync.attach_callback(Repo, :handle_stale, fn _state, stale -> raise inspect(stale) end)
        |> Sync.attach_callback(Repo, :handle_assigns, fn state, %{reds: old} ->
          # Never seen without its records.
          true = length(state.assigns.reds) >= length(old)
          {:cont, state}
        end)
        |> Sync.sync_all_by(Repo, :reds, User, team: "red")

      reds? = fn expected -> &(Enum.sort(names(&1.reds)) == expected) end
      Tenant.open!(Repo, tenant.id, migrator: OtherIndex)
      rename!(ada, "Zoe")
      state = handle_until(state, reds?.(["Bea", "Zoe"]))

      # An entry is lost.
      state = Sync.detach_callback(state, Repo, :handle_assigns)
      values = ["red", "Zoe"]
      entry = Keys.index_entry(tenant, "users", "users_team_name_index", values, "1")
      LayerCase.operations(tenant, [{:clear, {:pack, entry}}])
      rename!(bea, "Bo")
      state = handle_until(state, reds?.(["Bo"]))
      assert %{missing: 1} = Rebuild.index(tenant, User, :users_team_name_index)
      handle_until(state, reds?.(["Bo", "Zoe"]))
    end

    test "follows records that change places without being changed, however many", context do
      for n <- 1..5 do
        tenant = Tenant.open!(Repo, "#{context.tenant.id}-#{n}")
        state = %{assigns: %{}, private: %{tenant: tenant}}

        # The last by id is the first by name.
        for i <- 1..n,
            do: Repo.insert!(%User{id: "#{i}", name: "#{9 - i}", team: "red"}, prefix: tenant)

        state = Sync.sync_all_by(state, Repo, :reds, User, team: "red")
        by_id = state.assigns.reds
        assert for(user <- by_id, do: user.id) == for(i <- 1..n, do: "#{i}")

        Tenant.open!(Repo, tenant.id, migrator: OtherIndex)
        last = Repo.insert!(%User{id: "0", name: "9", team: "red"}, prefix: tenant)
        state = handle_until(state, &(&1.reds == Enum.reverse(by_id) ++ [last]))
        Sync.cancel_all(state, Repo)
      end
    end

    test "takes its arguments in every documented order", %{state: state} do
      assert %{users: []} = Sync.sync_all(state, Repo, User).assigns
      assert %{users: []} = Sync.sync_all(state, Repo, User, watch_action: :inserts).assigns
      assert %{users: []} = Sync.sync_all(state, Repo, {User, limit: 1}).assigns
      assert %{all: []} = Sync.sync_all(state, Repo, :all, User).assigns
      assert %{all: []} = Sync.sync_all(state, Repo, User, :all).assigns
      assert %{all: []} = Sync.sync_all(state, Repo, User, :all, watch_action: :inserts).assigns
      by = [team: "a"]
      assert %{users: []} = Sync.sync_all_by(state, Repo, User, by).assigns

      assert %{users: []} =
               Sync.sync_all_by(state, Repo, User, by, watch_action: :inserts).assigns

      assert %{all: []} = Sync.sync_all_by(state, Repo, :all, User, by).assigns
      assert %{all: []} = Sync.sync_all_by(state, Repo, User, :all, by).assigns
      assert %{all: []} = Sync.sync_all_by(state, Repo, :all, User, %{team: "a"}, []).assigns
    end

    test "synced again with other options assigns what those say", context do
      %{tenant: tenant, state: state} = context
      for i <- 1..3, do: insert!(tenant, "u#{i}", "#{i}")
      state = Sync.sync_all(state, Repo, :users, User)
      state = Sync.sync_all(state, Repo, :users, {User, limit: 1})
      assert names(state.assigns.users) == ["1"]
      state = Sync.sync_all(state, Repo, :users, {User, limit: 1})
      assert names(state.assigns.users) == ["1"]
      state = Sync.sync_all(state, Repo, :users, User)
      assert names(state.assigns.users) == ["1", "2", "3"]
      state = Sync.sync_all(state, Repo, :users, User)
      assert names(state.assigns.users) == ["1", "2", "3"]
      insert!(tenant, "u4", "4")
      handle_until(state, &(names(&1.users) == ["1", "2", "3", "4"]))
    end

    test "dependent syncing: the records that a list names", %{tenant: tenant, state: state} do
      [a, b] = for id <- ["a", "b"], do: insert!(tenant, id, id)

      state =
        state
        |> Sync.attach_callback(Repo, :handle_assigns, fn
          state, %{ids: _old} ->
            ids = Enum.map(state.assigns.ids, & &1.id)
            {:cont, Sync.sync_many(state, Repo, :users, User, ids)}

          state, _old ->
            {:cont, state}
        end)
        |> Sync.sync_all(Repo, :ids, User, watch_action: :collection)

      assert names(state.assigns.users) == ["a", "b"]
      insert!(tenant, "c", "c")
      state = handle_until(state, &(length(&1.users) == 3))
      rename!(b, "B")
      Repo.delete!(a)
      handle_until(state, &(names(&1.users) == ["B", "c"]))
    end
  end

  describe "sync_all_by" do
    test "assigns those with the value, and follows who comes and goes", context do
      %{tenant: tenant, state: state} = context
      a = Repo.insert!(%User{id: "1", name: "A", team: "red"}, prefix: tenant)
      b = Repo.insert!(%User{id: "2", name: "B", team: "blue"}, prefix: tenant)
      state = Sync.sync_all_by(state, Repo, :red, User, team: "red")
      assert names(state.assigns.red) == ["A"]

      Repo.update!(b, team: "red")
      state = handle_until(state, &(names(&1.red) == ["A", "B"]))
      Repo.update!(a, team: "blue")
      state = handle_until(state, &(names(&1.red) == ["B"]))

      # Of another value's records nobody is told.
      rename!(a, "A2")
      refute_receive {_ref, :ready}, 50
      assert names(state.assigns.red) == ["B"]
    end
  end

  describe "sync" do
    test "reads several labels at one version", %{tenant: tenant, state: state} do
      # A writer moves one coin between two records; a state in between would show 0 or 2.
      insert!(tenant, "a", "1")
      insert!(tenant, "b", "0")

      writer =
        Task.async(fn ->
          for i <- 1..200 do
            Repo.transactional(tenant, fn ->
              for {id, name} <- [{"a", rem(i, 2)}, {"b", rem(i + 1, 2)}] do
                Repo.update!(%User{id: id}, [name: "#{1 - name}"], prefix: tenant)
              end
            end)
          end
        end)

      for _ <- 1..50 do
        state =
          Sync.sync(state, Repo, [
            %Sync.One{label: :a, schema: User, id: "a"},
            %Sync.Many{label: :b, schema: User, ids: ["b"]}
          ])

        [b] = state.assigns.b
        assert String.to_integer(state.assigns.a.name) + String.to_integer(b.name) == 1
        Sync.cancel_all(state, Repo)
      end

      Task.await(writer, 60_000)
    end

    test "a re-sync that raises leaves the old one running", %{tenant: tenant, state: state} do
      user = insert!(tenant, "u1", "Ada")
      state = Sync.sync_one(state, Repo, :user, User, "u1")

      assert_raise ArgumentError, fn ->
        Sync.sync(state, Repo, [
          %Sync.One{label: :user, schema: User, id: "u2"},
          %Sync.One{label: :other, schema: NoSchema, id: "u1"}
        ])
      end

      rename!(user, "Grace")
      handle_until(state, &(&1.user.name == "Grace"))
    end

    test "a label synced to another record follows only that one", context do
      %{tenant: tenant, state: state} = context
      [one, two] = for id <- ["u1", "u2"], do: insert!(tenant, id, id)
      state = Sync.sync_one(state, Repo, :user, User, "u1")
      state = Sync.sync_one(state, Repo, :user, User, "u2")
      assert state.assigns.user.id == "u2"

      rename!(one, "one")
      rename!(two, "two")
      state = handle_until(state, &(&1.user.name == "two"))
      refute_received {_ref, :ready}
      assert map_size(state.private.ecto_fdb_sync_data[Repo].synced) == 1
    end
  end

  describe "a record that cannot be decoded" do
    test "breaks neither a running sync nor other records", %{tenant: tenant, state: state} do
      for id <- ["u1", "u2"], do: Repo.insert!(%User{id: id, name: id}, prefix: tenant)

      state =
        state
        |> Sync.attach_callback(Repo, :handle_stale, fn state, stale ->
          {:cont, %{state | assigns: Map.put(state.assigns, :stale, stale)}}
        end)
        |> Sync.sync_many(Repo, :users, User, ["u1", "u2"])

      # What another application might have written.
      {key, _end} = EctoFoundationDB.Layer.Keys.record_range(tenant, "users", "u1")
      function = :erlang.term_to_binary(id: "u1", name: &Function.identity/1)
      EctoFoundationDB.LayerCase.operations(tenant, [{:set, key, function}])

      state = handle_next(state)
      assert [%{name: "u1"}, %{name: "u2"}] = state.assigns.users
      assert %{users: %EctoFoundationDB.DecodeError{}} = state.assigns.stale
      assert Exception.message(state.assigns.stale.users) =~ "u1"

      Repo.update!(%User{id: "u2"}, %{name: "new"}, prefix: tenant)
      state = handle_next(state)
      assert [%{name: "u1"}, %{name: "new"}] = state.assigns.users

      # Syncing goes on; beginning with it raises.
      state = Sync.sync_many(state, Repo, :users, User, ["u2", "u1"])
      assert [%{name: "new"}, %{name: "u1"}] = state.assigns.users

      assert_raise EctoFoundationDB.DecodeError, fn ->
        Sync.sync_one(state, Repo, :user, User, "u1")
      end

      value = :erlang.term_to_binary(id: "u1", name: "mended")
      EctoFoundationDB.LayerCase.operations(tenant, [{:set, key, value}])
      state = handle_next(state)
      assert [%{name: "new"}, %{name: "mended"}] = state.assigns.users
      assert state.assigns.stale == %{users: nil}
    end
  end

  describe "handle_ready" do
    test "leaves alone what is not this repo's", %{state: state} do
      state = Sync.sync_one(state, Repo, :user, User, "u1")

      for message <- [
            :hello,
            {make_ref(), :ready},
            {make_ref(), :other},
            [],
            [{make_ref(), :ready}],
            [:improper | :list]
          ] do
        assert Sync.handle_ready(Repo, message, state) == {:cont, state}
      end

      assert Sync.handle_ready(Repo, :hello, %{never: :synced}) == {:cont, %{never: :synced}}
    end

    test "handles a list of messages with one assign", %{tenant: tenant, state: state} do
      [one, two] = for id <- ["u1", "u2"], do: insert!(tenant, id, id)
      state = Sync.sync_one(state, Repo, :one, User, "u1")
      state = Sync.sync_one(state, Repo, :two, User, "u2")
      rename!(one, "one")
      rename!(two, "two")
      assert_receive {ref1, :ready} = first when is_reference(ref1), 10_000
      assert_receive {ref2, :ready} = second when is_reference(ref2), 10_000
      test = self()

      assign = fn state, new ->
        send(test, {:assigned, Map.keys(new)})
        %{state | assigns: Map.merge(state.assigns, new)}
      end

      messages = [first, {make_ref(), :ready}, second, first]
      assert {:halt, state} = Sync.handle_ready(Repo, messages, state, assign: assign)
      assert_received {:assigned, [:one, :two]}
      refute_received {:assigned, _labels}
      assert %{one: %{name: "one"}, two: %{name: "two"}} = state.assigns
    end
  end

  describe "cancel" do
    test "assigns nil or [], and the label is followed no longer", context do
      %{tenant: tenant, state: state} = context
      user = insert!(tenant, "u1", "Ada")
      state = Sync.sync_one(state, Repo, :user, User, "u1")
      state = Sync.sync_many(state, Repo, :users, User, ["u1"])

      state = Sync.cancel(state, Repo, :user)
      assert %{user: nil, users: [_]} = state.assigns
      refute Sync.watching?(state, Repo, :user)
      assert Sync.watching?(state, Repo, :users)

      state = Sync.cancel_all(state, Repo)
      assert %{user: nil, users: []} = state.assigns
      rename!(user, "Grace")
      refute_receive {_ref, :ready}, 50
    end

    test "leaves assigns with assign: false, and what is not synced", context do
      %{tenant: tenant, state: state} = context
      insert!(tenant, "u1", "Ada")
      synced = Sync.sync_one(state, Repo, :user, User, "u1")
      assert %{user: %{name: "Ada"}} = Sync.cancel(synced, Repo, :user, assign: false).assigns
      assert Sync.cancel(state, Repo, :user).assigns == %{}
      assert Sync.cancel_all(state, Repo).assigns == %{}
    end

    test "is exact when a change races with it", %{tenant: tenant, state: state} do
      user = insert!(tenant, "u1", "0")
      test = self()

      writer =
        spawn_link(fn ->
          Enum.reduce_while(Stream.iterate(1, &(&1 + 1)), nil, fn i, _ ->
            receive do
              :stop -> {:halt, send(test, :stopped)}
            after
              0 -> {:cont, rename!(user, "#{i}")}
            end
          end)
        end)

      for _ <- 1..3000 do
        state = Sync.sync_one(state, Repo, :user, User, "u1")
        Sync.cancel(state, Repo, :user)
        refute_received {_ref, :ready}
      end

      send(writer, :stop)
      assert_receive :stopped, 10_000
      # Nothing was under way either.
      assert Process.info(self(), :messages) == {:messages, []}
    end
  end

  describe "callbacks" do
    test "are called with the old values of what changed, in order of attachment", context do
      %{tenant: tenant, state: state} = context
      user = insert!(tenant, "u1", "Ada")
      test = self()

      note = fn name ->
        fn state, old ->
          send(test, {name, old, state.assigns})
          {:cont, state}
        end
      end

      state =
        state
        |> Sync.attach_callback(Repo, :handle_assigns, note.(:first))
        |> Sync.attach_callback(Repo, :other, :handle_assigns, note.(:second))
        |> Sync.sync_one(Repo, :user, User, "u1")

      assert_received {:first, %{user: nil} = old, %{user: %{name: "Ada"}}}
      assert map_size(old) == 1
      assert_received {:second, %{user: nil}, _assigns}

      state = Sync.sync_one(state, Repo, :absent, User, "u2")
      assert_received {:first, %{absent: nil} = old, _assigns}
      assert map_size(old) == 1

      rename!(user, "Grace")
      state = handle_until(state, &(&1.user.name == "Grace"))
      assert_received {:first, %{user: %{name: "Ada"}}, %{user: %{name: "Grace"}}}
      assert_received {:second, %{user: %{name: "Ada"}}, _assigns}

      state = Sync.detach_callback(state, Repo, :handle_assigns)
      state = Sync.cancel(state, Repo, :absent)
      Sync.cancel(state, Repo, :user)
      assert_received {:second, %{user: %{name: "Grace"}}, %{user: nil}}
      refute_received {:first, %{user: _}, _assigns}
    end

    test "get the old values where the assigns have been reset since", context do
      %{tenant: tenant, state: state} = context
      [user, _other] = for id <- ["u1", "u2"], do: insert!(tenant, id, id)
      test = self()

      state =
        state
        |> Sync.attach_callback(Repo, :handle_assigns, fn state, old ->
          send(test, {:old, old})
          {:cont, state}
        end)
        |> Sync.sync_all(Repo, :users, User)
        |> Sync.sync_one(Repo, :user, User, "u1")

      for _label <- 1..2, do: assert_received({:old, _at_first})

      # As LiveView does with temporary assigns.
      reset = fn state -> %{state | assigns: %{users: [], user: nil}} end
      Repo.delete!(user)
      state = state |> reset.() |> handle_next() |> reset.() |> handle_next()
      assert_received {:old, %{users: [%{id: "u1"}, %{id: "u2"}]}}
      assert_received {:old, %{user: %{id: "u1"}}}

      state = state |> reset.() |> Sync.sync_many(Repo, :users, User, ["u2"])
      assert_received {:old, %{users: [%{id: "u2"}]}}
      state = state |> reset.() |> Sync.sync_many(Repo, :users, User, [])
      assert_received {:old, %{users: [%{id: "u2"}]}}
      state = state |> reset.() |> Sync.sync_one(Repo, :user, User, "u2")
      assert_received {:old, %{user: nil}}
      state |> reset.() |> Sync.cancel_all(Repo)
      assert_received {:old, %{user: %{id: "u2"}}}
    end

    test "sync a label because of another one, also where both have changed", context do
      %{tenant: tenant, state: state} = context
      user = Repo.insert!(%User{id: "u1", name: "Ada", team: "red"}, prefix: tenant)
      Repo.insert!(%User{id: "u2", name: "Bea", team: "blue"}, prefix: tenant)

      state =
        state
        |> Sync.attach_callback(Repo, :handle_assigns, fn
          %{assigns: %{user: %User{team: team}}} = state, %{user: _old_user} ->
            {:cont, Sync.sync_all_by(state, Repo, :team, User, team: team)}

          state, _old ->
            {:cont, state}
        end)
        |> Sync.sync(Repo, [
          %Sync.One{label: :user, schema: User, id: "u1"},
          %Sync.All{label: :team, queryable: User, by: [team: "blue"]}
        ])

      assert names(state.assigns.team) == ["Ada"]
      Repo.update!(user, team: "blue")
      messages = for _label <- 1..2, do: assert_receive({_ref, :ready}, 10_000)
      {:halt, state} = Sync.handle_ready(Repo, messages, state)
      assert names(state.assigns.team) == ["Ada", "Bea"]
      assert %{user: nil, team: []} = Sync.cancel_all(state, Repo).assigns
    end

    test "that would be called for ever because of each other are an error", %{state: state} do
      loop = fn state, _old ->
        {:cont,
         Sync.sync(
           state,
           Repo,
           for(l <- [:a, :b], do: %Sync.One{label: l, schema: User, id: "u1"})
         )}
      end

      state = Sync.attach_callback(state, Repo, :handle_assigns, loop)
      both = for label <- [:a, :b], do: %Sync.One{label: label, schema: User, id: "u1"}

      for requests <- [both, tl(both)] do
        assert_raise ArgumentError, ~r/again and again/, fn ->
          Sync.sync(state, Repo, requests)
        end
      end
    end

    test "that sync each other's label are called once, and then it is an error", context do
      %{tenant: tenant, state: state} = context
      insert!(tenant, "u1", "Ada")
      test = self()

      other = fn state, old ->
        [label] = Map.keys(old)
        send(test, {:called, label})
        {:cont, Sync.sync_one(state, Repo, if(label == :a, do: :b, else: :a), User, "u1")}
      end

      state = Sync.attach_callback(state, Repo, :handle_assigns, other)

      assert_raise ArgumentError, ~r/because :a changed can't sync :a/, fn ->
        Sync.sync_one(state, Repo, :a, User, "u1")
      end

      assert_received {:called, :a}
      assert_received {:called, :b}
      refute_received {:called, _label}
    end

    test "hear of no stale label that a callback for the assigns has cancelled", context do
      %{tenant: tenant, state: state} = context
      insert!(tenant, "u1", "Ada")
      test = self()

      state =
        state
        |> Sync.attach_callback(Repo, :handle_stale, fn state, stale ->
          send(test, {:stale, Map.keys(stale)})
          {:cont, state}
        end)
        |> Sync.sync(
          Repo,
          for(label <- [:one, :two], do: %Sync.One{label: label, schema: User, id: "u1"})
        )

      stored = fn state, bytes ->
        {first, _last} = Keys.record_range(tenant, "users", "u1")
        LayerCase.operations(tenant, [{:set, first, bytes}])
        messages = for _label <- 1..2, do: assert_receive({_ref, :ready}, 10_000)
        {:halt, state} = Sync.handle_ready(Repo, messages, state)
        state
      end

      state = stored.(state, "no term")
      assert_received {:stale, [:one, :two]}

      # Fresh again, and a callback that wants the second one no more.
      state =
        Sync.attach_callback(state, Repo, :cancels, :handle_assigns, fn state, _old ->
          {:cont, Sync.cancel(state, Repo, :two, assign: false)}
        end)

      state = stored.(state, :erlang.term_to_binary(id: "u1", name: "Eve"))
      assert_received {:stale, [:one]}
      assert state.assigns.one.name == "Eve"
    end

    test "stop at :halt, and are replaced in their place", %{state: state} do
      test = self()

      note = fn name, answer ->
        fn state, _old ->
          send(test, name)
          {answer, state}
        end
      end

      state =
        state
        |> Sync.attach_callback(Repo, :a, :handle_assigns, note.(:a, :cont))
        |> Sync.attach_callback(Repo, :b, :handle_assigns, note.(:b, :halt))
        |> Sync.attach_callback(Repo, :c, :handle_assigns, note.(:c, :cont))
        |> Sync.attach_callback(Repo, :a, :handle_assigns, note.(:new_a, :cont), replace: true)

      Sync.sync_one(state, Repo, :user, User, "u1")
      assert {:messages, [:new_a, :b]} = Process.info(self(), :messages)

      assert_raise ArgumentError, ~r/:a is attached .* already/, fn ->
        Sync.attach_callback(state, Repo, :a, :handle_assigns, note.(:a, :cont))
      end

      assert_raise ArgumentError, ~r/expected an event of/, fn ->
        Sync.attach_callback(state, Repo, :handle_nothing, note.(:a, :cont))
      end

      assert_raise ArgumentError, ~r/function of two arguments/, fn ->
        Sync.attach_callback(state, Repo, :handle_assigns, fn -> :ok end)
      end
    end

    test "may sync other labels, and are called for those", %{tenant: tenant, state: state} do
      for id <- ["u1", "u2"], do: insert!(tenant, id, id)
      leader = insert!(tenant, "leader", "u1")
      test = self()

      follow = fn
        state, %{leader: _old} = old ->
          send(test, {:called, Map.keys(old)})
          {:cont, Sync.sync_one(state, Repo, :follower, User, state.assigns.leader.name)}

        state, old ->
          send(test, {:called, Map.keys(old)})
          {:cont, state}
      end

      state =
        state
        |> Sync.attach_callback(Repo, :handle_assigns, follow)
        |> Sync.sync_one(Repo, :leader, User, "leader")

      assert %{leader: %{name: "u1"}, follower: %{id: "u1"}} = state.assigns

      assert {:messages, [called: [:leader], called: [:follower]]} =
               Process.info(self(), :messages)

      rename!(leader, "u2")
      state = handle_until(state, &(&1.follower.id == "u2"))
      assert state.assigns.leader.name == "u2"
    end

    test "that sync the label they are called for raise", %{state: state} do
      again = fn state, _old -> {:cont, Sync.sync_one(state, Repo, :user, User, "u1")} end
      state = Sync.attach_callback(state, Repo, :handle_assigns, again)

      assert_raise ArgumentError, ~r/because :user changed can't sync :user/, fn ->
        Sync.sync_one(state, Repo, :user, User, "u1")
      end
    end

    test "that answer something else raise", %{state: state} do
      state = Sync.attach_callback(state, Repo, :handle_assigns, fn state, _old -> state end)

      assert_raise ArgumentError, ~r/:default to return {:cont, state} or {:halt, state}/, fn ->
        Sync.sync_one(state, Repo, :user, User, "u1")
      end
    end
  end

  describe "options" do
    test "assign: a function of two arguments", %{tenant: tenant, state: state} do
      user = insert!(tenant, "u1", "Ada")
      assign = fn state, new -> %{state | assigns: Map.put(state.assigns, :synced, new)} end
      opts = [assign: assign]
      state = Sync.sync_one(state, Repo, :user, User, "u1", opts)
      assert %{synced: %{user: %User{name: "Ada"}}} = state.assigns
      rename!(user, "Grace")
      assert %{synced: %{user: %User{name: "Grace"}}} = handle_next(state, opts).assigns
    end

    test "assign: each label by the function of its own sync", context do
      %{tenant: tenant, state: state} = context
      users = for id <- ["u1", "u2", "u3"], do: insert!(tenant, id, id)
      test = self()

      assign = fn name ->
        fn state, new ->
          send(test, {name, Map.keys(new)})
          %{state | assigns: Map.merge(state.assigns, new)}
        end
      end

      one = &%Sync.One{label: :"#{&1}", schema: User, id: &1}
      a = assign.(:a)

      state =
        state
        |> Sync.sync(Repo, [one.("u1"), one.("u2")], assign: a)
        |> Sync.sync_one(Repo, :plain, User, "u1")
        |> Sync.sync_one(Repo, :u3, User, "u3", assign: assign.(:b))

      assert_received {:a, [:u1, :u2]}
      assert_received {:b, [:u3]}

      for user <- users, do: rename!(user, "new")
      messages = for _label <- 1..4, do: assert_receive({_ref, :ready}, 10_000)
      {:halt, handled} = Sync.handle_ready(Repo, messages, state)
      assert_received {:a, [:u1, :u2]}
      assert_received {:b, [:u3]}
      refute_received {_name, [_ | _]}
      assert [%{name: "new"}] = handled.assigns |> Map.values() |> Enum.uniq_by(& &1.name)

      # Those who handle the messages may assign all of them.
      for user <- users, do: rename!(user, "newer")
      messages = for _label <- 1..4, do: assert_receive({_ref, :ready}, 10_000)
      {:halt, handled} = Sync.handle_ready(Repo, messages, handled, assign: assign.(:all))
      assert_received {:all, [:plain, :u1, :u2, :u3]}
      refute_received {_name, [_ | _]}

      # As it was assigned, so it is when it is cancelled.
      assert %{u3: nil, plain: nil} = Sync.cancel_all(handled, Repo).assigns
      assert_received {:a, [:u1, :u2]}
      assert_received {:b, [:u3]}
    end

    test "assign: a function that attaches a callback, which hears of it", context do
      %{tenant: tenant, state: state} = context
      insert!(tenant, "u1", "Ada")
      test = self()

      assign = fn state, new ->
        state = %{state | assigns: Map.merge(state.assigns, new)}

        Sync.attach_callback(state, Repo, :handle_assigns, fn state, old ->
          send(test, {:old, old})
          {:cont, state}
        end)
      end

      Sync.sync_one(state, Repo, :user, User, "u1", assign: assign)
      assert_received {:old, %{user: nil}}
    end

    test "assign: also where a list of no ids cancels", %{tenant: tenant, state: state} do
      insert!(tenant, "u1", "Ada")
      assign = fn state, new -> %{state | assigns: Map.put(state.assigns, :streamed, new)} end
      state = Sync.sync_many(state, Repo, :users, User, ["u1"], assign: assign)
      assert %{streamed: %{users: [%User{}]}} = state.assigns
      state = Sync.sync_many(state, Repo, :users, User, [])
      assert state.assigns == %{streamed: %{users: []}}
    end

    test "assign: a function that syncs, and then raises, changes nothing", context do
      %{tenant: tenant, state: state} = context
      user = insert!(tenant, "u1", "Ada")
      state = Sync.sync_one(state, Repo, :other, User, "u1")

      assign = fn state, new ->
        if new.user.name == "raise" do
          Sync.sync_one(state, Repo, :other, User, "u2")
          raise "in the application"
        end

        %{state | assigns: Map.merge(state.assigns, new)}
      end

      state = Sync.sync_one(state, Repo, :user, User, "u1", assign: assign)
      rename!(user, "raise")
      messages = for _label <- 1..2, do: assert_receive({_ref, :ready}, 10_000)
      assert_raise RuntimeError, fn -> Sync.handle_ready(Repo, messages, state) end
      rename!(user, "Eve")
      handle_until(state, &(&1.user.name == "Eve" and &1.other.name == "Eve"))
    end

    test "hooks stay those of the sync that brought them", %{state: state} do
      test = self()

      hook = fn what ->
        fn state, _name, _repo, _opts ->
          send(test, what)
          state
        end
      end

      attach = hook.(:attach)
      opts = [attach_container_hook: attach, detach_container_hook: hook.(:detach)]
      state = Sync.sync_one(state, Repo, :one, User, "u1", opts)
      assert_received :attach
      state = Sync.sync_one(state, Repo, :two, User, "u2")
      same = [attach_container_hook: attach, detach_container_hook: nil, assign: nil]
      state = Sync.sync_one(state, Repo, :three, User, "u3", same)
      refute_received :attach
      state = Sync.sync_one(state, Repo, :four, User, "u4", attach_container_hook: hook.(:other))
      assert_received :other
      refute_received :detach
      Sync.cancel_all(state, Repo, detach_container_hook: nil)
      assert_received :detach
    end

    test "assign: a function of four arguments, with assign_map", context do
      %{tenant: tenant, state: state} = context
      for id <- ["a", "b"], do: insert!(tenant, id, id)
      test = self()

      assign = fn state, std, idlist, opts ->
        send(test, {:assign, std, idlist})
        new = Sync.assign_map(state.assigns, std, idlist, opts)
        %{state | assigns: Map.merge(state.assigns, new)}
      end

      one = %Sync.One{label: :user, schema: User, id: "a"}
      many = %Sync.Many{label: :users, schema: User, ids: ["a", "b"]}
      state = Sync.sync(state, Repo, [one, many], assign: assign)
      assert_received {:assign, [user: %User{}], [users: [%User{}, %User{}]]}
      assert %{user: %{id: "a"}, users: [%{id: "a"}, %{id: "b"}]} = state.assigns

      state = Sync.sync(state, Repo, [%{many | ids: ["b"]}], assign: assign)
      assert [%{id: "b"}] = state.assigns.users
    end

    test "hooks are attached once, and detached when nothing is left", %{state: state} do
      test = self()

      opts = [
        attach_container_hook: fn state, name, repo, _opts ->
          send(test, {:attach, name, repo})
          state
        end,
        detach_container_hook: fn state, name, repo, _opts ->
          send(test, {:detach, name, repo})
          state
        end
      ]

      state = Sync.sync_one(state, Repo, :one, User, "u1", opts)
      state = Sync.sync_one(state, Repo, :two, User, "u2", opts)
      assert_received {:attach, name, Repo}
      refute_received {:attach, _name, _repo}

      state = Sync.cancel(state, Repo, :one)
      refute_received {:detach, _name, _repo}
      Sync.cancel(state, Repo, :two)
      assert_received {:detach, ^name, Repo}
    end

    test "are checked", %{state: state} do
      assert_raise ArgumentError, ~r/unknown option :asign: expected one of/, fn ->
        Sync.sync_one(state, Repo, :user, User, "u1", asign: fn state, _ -> state end)
      end

      for hook <- [:attach_container_hook, :detach_container_hook] do
        assert_raise ArgumentError,
                     ~r/expected #{inspect(hook)} to be a function of 4 arguments/,
                     fn ->
                       Sync.sync_all(state, Repo, :users, User, [{hook, :none}])
                     end
      end

      assert_raise ArgumentError, ~r/expected :assign to be a function of 2 or 4 arguments/, fn ->
        Sync.sync_one(state, Repo, :user, User, "u1", assign: fn state -> state end)
      end

      assert_raise ArgumentError, ~r/expected :timeout to be milliseconds/, fn ->
        Sync.sync_one(state, Repo, :user, User, "u1", timeout: "5s")
      end

      assert_raise ArgumentError, ~r/expected options as a keyword list/, fn ->
        Sync.cancel(state, Repo, :user, %{assign: false})
      end
    end
  end

  describe "errors" do
    test "a state without :private or :assigns", %{tenant: tenant} do
      for state <- [
            %{assigns: %{}},
            %{private: %{tenant: tenant}},
            %{assigns: [], private: %{}},
            nil
          ] do
        error =
          assert_raise ArgumentError, fn -> Sync.sync_one(state, Repo, :user, User, "u1") end

        assert error.message =~ "expected a state with :assigns and :private"
        assert error.message =~ inspect(state)
        assert_raise ArgumentError, fn -> Sync.cancel(state, Repo, :user) end
        assert_raise ArgumentError, fn -> Sync.cancel_all(state, Repo) end
      end
    end

    test "a state without a tenant" do
      state = %{assigns: %{}, private: %{}}
      error = assert_raise ArgumentError, fn -> Sync.sync_one(state, Repo, :user, User, "u1") end
      assert error.message =~ "no tenant to sync from"
      assert error.message =~ "put_private(socket, :tenant,"
    end

    test "a schema without a primary key, and no schema", %{state: state} do
      assert_raise ArgumentError, ~r/TestNoKey has no primary key/, fn ->
        Sync.sync_one(state, Repo, :user, EctoFoundationDB.TestNoKey, "u1")
      end

      error =
        assert_raise ArgumentError, fn -> Sync.sync_one(state, Repo, :user, String, "u1") end

      assert error.message =~ "String"
    end

    defmodule NoCounter do
      use EctoFoundationDB.TestSchema, source: "no_counters", fields: [id: :string, team: :string]
    end

    test "a list without the index that counts its changes", %{state: state} do
      error =
        assert_raise EctoFoundationDB.Exception.Unsupported, fn ->
          Sync.sync_all(state, Repo, :all, NoCounter)
        end

      assert error.message =~ "create(metadata(" or error.message =~ "create metadata("

      assert_raise EctoFoundationDB.Exception.Unsupported, fn ->
        Sync.sync_all_by(state, Repo, :users, User, name: "Ada")
      end
    end

    test "an action that is none, values that are none", %{state: state} do
      assert_raise ArgumentError, ~r/expected :watch_action to be one of .*got: :change$/, fn ->
        Sync.sync_all(state, Repo, :users, User, watch_action: :change)
      end

      assert_raise ArgumentError, ~r/expected the values to sync by/, fn ->
        Sync.sync_all_by(state, Repo, :users, User, :team)
      end

      assert_raise ArgumentError, ~r/is not a schema/, fn ->
        Sync.sync_all(state, Repo, :users)
      end

      assert_raise ArgumentError, ~r/is not a schema/, fn ->
        Sync.sync_all(state, Repo, :users, :everybody)
      end
    end

    test "requests that are none, labels that are equal", %{state: state} do
      one = %Sync.One{label: :user, schema: User, id: "u1"}

      assert_raise ArgumentError, ~r/expected different labels, got \[:user\]/, fn ->
        Sync.sync(state, Repo, [one, one])
      end

      assert_raise ArgumentError, ~r/expected a list of EctoFoundationDB.Sync.One/, fn ->
        Sync.sync(state, Repo, [User])
      end

      assert_raise ArgumentError, ~r/expected a list of primary keys, or nil, got: "u1"/, fn ->
        Sync.sync_many(state, Repo, :users, User, "u1")
      end
    end

    test "a timeout of its own, which leaves nothing behind", %{state: state} do
      # The answer may be there when the process looks.
      assert Enum.find_value(1..1000, fn _ ->
               try do
                 state
                 |> Sync.sync_one(Repo, :user, User, "u1", timeout: 0)
                 |> Sync.cancel(Repo, :user)

                 nil
               rescue
                 error in EctoFoundationDB.TimeoutError -> Exception.message(error)
               end
             end) =~ "within 0 ms while syncing :user"

      # However close the answer was.
      for i <- 1..2000 do
        try do
          state
          |> Sync.sync_one(Repo, :user, User, "u1", timeout: rem(i, 2))
          |> Sync.cancel(Repo, :user)
        rescue
          EctoFoundationDB.TimeoutError -> :late
        end
      end

      refute_receive _anything, 50
    end
  end

  describe "where a function of the application raises" do
    setup %{tenant: tenant} do
      %{ada: insert!(tenant, "u1", "Ada"), bea: insert!(tenant, "u2", "Bea")}
    end

    # How a call is made to raise: what is done to its state before, and its options.
    defp ways_to_raise do
      fail = fn _state, _new -> raise "no" end
      throw = fn _state, _new -> throw(:no) end
      fail4 = fn _state, _name, _repo, _opts -> raise "no" end
      attach = fn name, cb -> &Sync.attach_callback(&1, Repo, name, :handle_assigns, cb) end

      sync_more = fn
        state, %{more: _} -> {:cont, state}
        state, _old -> {:cont, Sync.sync_one(state, Repo, :more, User, "u2")}
      end

      fail_later = fn
        state, %{more: _} -> {:cont, state}
        _state, _old -> raise "no"
      end

      [
        {& &1, [assign: fail]},
        {& &1, [assign: throw]},
        {& &1, [attach_container_hook: fail4]},
        {attach.(:default, fail), []},
        {attach.(:default, fn state, _old -> state end), []},
        # After a callback that has synced.
        {&(&1 |> attach.(:first, sync_more).() |> attach.(:second, fail_later).()), []}
      ]
    end

    defp raises(fun) do
      fun.()
      flunk("did not raise")
    rescue
      _error in [RuntimeError, ArgumentError] -> :ok
    catch
      :throw, :no -> :ok
    end

    test "a first sync leaves nothing", %{state: state, ada: ada, bea: bea} do
      one = %Sync.One{label: :user, schema: User, id: "u1"}
      many = %Sync.Many{label: :users, schema: User, ids: ["u1", "u2"]}
      all = %Sync.All{label: :all, queryable: User}

      for {prepare, opts} <- ways_to_raise() do
        state = prepare.(state)
        raises(fn -> Sync.sync_one(state, Repo, :user, User, "u1", opts) end)
        raises(fn -> Sync.sync(state, Repo, [one, many, all], opts) end)
      end

      # A page that follows the same records hears of it, and nobody else in this process.
      state = Sync.sync(state, Repo, [one, many, all])
      rename!(ada, "Ada 2")
      rename!(bea, "Bea 2")

      state = handle_until(state, &(&1.user.name == "Ada 2"))
      state = handle_until(state, &(names(&1.users) == ["Ada 2", "Bea 2"]))
      state = handle_until(state, &(names(&1.all) == ["Ada 2", "Bea 2"]))
      Sync.cancel_all(state, Repo)
      refute_receive _any, 50
    end

    test "a label synced again goes on as before", %{state: state, ada: ada, bea: bea} do
      state = Sync.sync_one(state, Repo, :user, User, "u1")
      state = Sync.sync_many(state, Repo, :users, User, ["u1", "u2"])
      state = Sync.sync_one(state, Repo, :more, User, "u1")

      for {prepare, opts} <- ways_to_raise() do
        state = prepare.(state)

        raises(fn ->
          Sync.sync(
            state,
            Repo,
            [
              %Sync.One{label: :user, schema: User, id: "u2"},
              %Sync.Many{label: :users, schema: User, ids: ["u2"]}
            ],
            opts
          )
        end)
      end

      rename!(ada, "Ada 2")
      rename!(bea, "Bea 2")
      state = handle_until(state, &(&1.user.name == "Ada 2" and &1.more.name == "Ada 2"))
      state = handle_until(state, &(names(&1.users) == ["Ada 2", "Bea 2"]))
      Sync.cancel_all(state, Repo)
      refute_receive _any, 50
    end

    test "a cancelled label goes on as before", %{state: state, ada: ada} do
      state = Sync.sync_one(state, Repo, :user, User, "u1")
      fail = fn _state, _new -> raise "no" end
      fail4 = fn _state, _name, _repo, _opts -> raise "no" end
      raises(fn -> Sync.cancel(state, Repo, :user, assign: fail) end)
      raises(fn -> Sync.cancel_all(state, Repo, assign: fail) end)

      hooked = Sync.sync_one(state, Repo, :user, User, "u1", attach_container_hook: &keep/4)
      raises(fn -> Sync.cancel(hooked, Repo, :user, detach_container_hook: fail4) end)

      rename!(ada, "Ada 2")
      hooked = handle_until(hooked, &(&1.user.name == "Ada 2"))
      Sync.cancel_all(hooked, Repo)
      refute_receive _any, 50
    end

    defp keep(state, _name, _repo, _opts), do: state

    test "handling a message can be done again, and misses nothing", context do
      %{tenant: tenant, state: state, ada: ada} = context
      for i <- 3..20, do: insert!(tenant, "u#{i}", "#{i}")
      state = Sync.sync_all(state, Repo, :all, User)
      rename!(ada, "Ada 2")
      assert_receive {ref, :ready} = message when is_reference(ref), 10_000
      fail = fn _state, _new -> raise "no" end
      raises(fn -> Sync.handle_ready(Repo, message, state, assign: fail) end)

      # The state of before, and a later change.
      Repo.delete!(%User{id: "u2"}, prefix: tenant)
      state = handle_next(state)
      assert state.assigns.all == Repo.all(User, prefix: tenant)
      Repo.delete!(ada)
      state = handle_until(state, &(length(&1.all) == 18))
      assert state.assigns.all == Repo.all(User, prefix: tenant)
    end
  end

  test "a state may be a struct of one's own", %{tenant: tenant} do
    insert!(tenant, "u1", "Ada")
    state = %__MODULE__.State{private: %{tenant: tenant, mine: 1}, socket: :other}
    state = Sync.sync_one(state, Repo, :user, User, "u1")
    assert %__MODULE__.State{assigns: %{user: %{name: "Ada"}}, socket: :other} = state
    assert %{mine: 1, tenant: ^tenant} = state.private
  end

  test "another tenant in the state is that of the syncs to come", context do
    %{tenant: tenant, state: state} = context
    other = Repo.tenant()
    [one, two] = for tenant <- [tenant, other], do: insert!(tenant, "u1", inspect(tenant.id))
    state = Sync.sync_one(state, Repo, :user, User, "u1")
    state = Sync.sync_many(state, Repo, :users, User, ["u1"])

    state = put_in(state.private.tenant, other)
    state = Sync.sync_many(state, Repo, :users, User, ["u1"])
    assert names(state.assigns.users) == [inspect(other.id)]
    rename!(two, "two")
    state = handle_until(state, &(names(&1.users) == ["two"]))
    assert state.assigns.user.name == inspect(tenant.id)
    rename!(one, "one")
    state = handle_until(state, &(&1.user.name == "one"))
    assert names(state.assigns.users) == ["two"]
  end

  describe "several repos" do
    defmodule OtherRepo do
      use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
    end

    setup do
      id = "single-#{System.unique_integer([:positive])}-#{System.os_time()}"
      config = EctoFoundationDB.TestRepo.test_config() ++ [tenant_id: id]
      start_supervised!({OtherRepo, config})
      on_exit(fn -> if Repo.config()[:cluster_file], do: Tenant.clear_delete!(Repo, id) end)
    end

    test "in one state keep apart; a single-tenant repo needs no tenant in it", context do
      %{tenant: tenant, state: state} = context
      mine = insert!(tenant, "u1", "mine")
      other = OtherRepo.insert!(%User{id: "u1", name: "other"})
      alone = Sync.sync_one(%{assigns: %{}, private: %{}}, OtherRepo, :user, User, "u1")
      assert %{user: %{name: "other"}} = alone.assigns
      Sync.cancel_all(alone, OtherRepo)

      # The state's tenant is the other repo's.
      state = Sync.sync_one(state, Repo, :user, User, "u1")
      state = Sync.sync_one(state, OtherRepo, :other, User, "u1")
      assert %{user: %{name: "mine"}, other: %{name: "other"}} = state.assigns
      assert Sync.watching?(state, OtherRepo, :other)
      refute Sync.watching?(state, OtherRepo, :user)

      rename!(mine, "mine 2")
      assert_receive {ref, :ready} = message when is_reference(ref), 10_000
      assert {:cont, ^state} = Sync.handle_ready(OtherRepo, message, state)
      assert {:halt, state} = Sync.handle_ready(Repo, message, state)
      OtherRepo.update!(other, name: "other 2")
      assert_receive {ref, :ready} = message when is_reference(ref), 10_000
      assert {:cont, ^state} = Sync.handle_ready(Repo, message, state)
      assert {:halt, state} = Sync.handle_ready(OtherRepo, [message], state)
      assert %{user: %{name: "mine 2"}, other: %{name: "other 2"}} = state.assigns

      state = Sync.cancel_all(state, Repo)
      assert %{user: nil, other: %{name: "other 2"}} = state.assigns
      assert Sync.watching?(state, OtherRepo, :other)
    end
  end
end
