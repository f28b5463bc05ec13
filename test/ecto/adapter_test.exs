if Code.ensure_loaded?(Ecto.Adapter) do
  defmodule EctoFoundationDB.EctoAdapterTest do
    # Transactions, tenants, configuration, and the functions that the adapter adds to a Repo.
    use EctoFoundationDB.EctoCase, async: true

    alias Ecto.{Changeset, Multi}
    alias EctoFoundationDB.{CLI, Connection, Embedded, Future, Sandbox, Sync, TestRepo}
    alias EctoFoundationDB.Indexer.SchemaMetadata

    defmodule OtherRepo do
      use Ecto.Repo, otp_app: :ecto_fdb_sync, adapter: Ecto.Adapters.FoundationDB
    end

    defmodule SingleRepo do
      use Ecto.Repo, otp_app: :ecto_fdb_sync, adapter: Ecto.Adapters.FoundationDB
      use EctoFoundationDB.Migrator

      @impl EctoFoundationDB.Migrator
      def migrations, do: Repo.migrations()
    end

    test "inserts with generated ids read nothing before their commit", %{tenant: tenant} do
      rows = for n <- 1..3, do: %{text: "text #{n}"}
      Repo.insert!(%Comment{text: "Ada"}, prefix: tenant)
      assert_calls([:commit], &Repo.insert!(%Comment{text: "#{&1}"}, prefix: tenant))
      assert_calls([:commit], fn _n -> Repo.insert_all(Comment, rows, prefix: tenant) end)

      assert {3, [%{id: id} | _]} =
               Repo.insert_all(Comment, rows, prefix: tenant, returning: true)

      assert Repo.get!(Comment, id, prefix: tenant).text == "text 1"
    end

    describe "transactions" do
      test "transact cancels when the function returns an error; transactional commits", %{
        tenant: tenant
      } do
        insert = fn result -> fn -> {result, Repo.insert!(%Group{name: "#{result}"})} end end

        if function_exported?(Repo, :transact, 2) do
          assert {:error, %Group{}} = Repo.transact(insert.(:error), prefix: tenant)
          assert Repo.all(Group, prefix: tenant) == []
          assert {:ok, %Group{}} = Repo.transact(insert.(:ok), prefix: tenant)
          Repo.delete_all(Group, prefix: tenant)
        end

        assert {:error, %Group{}} = Repo.transactional(tenant, insert.(:error))
        assert names(Group, tenant) == ["error"]
      end

      test "rollback cancels, including an outer transaction", %{tenant: tenant} do
        roll = fn ->
          Repo.transaction(fn -> Repo.insert!(%Group{name: "x"}) && Repo.rollback(:no) end,
            prefix: tenant
          )
        end

        assert roll.() == {:error, :no}

        assert Repo.transaction(
                 fn ->
                   Repo.insert!(%Group{name: "outer"})

                   assert {:ok, _} =
                            Repo.transaction(fn -> Repo.insert!(%Group{name: "inner"}) end)

                   assert roll.() == {:error, :no}
                   :done
                 end,
                 prefix: tenant
               ) == {:error, :rollback}

        assert Repo.all(Group, prefix: tenant) == []
        assert_raise RuntimeError, ~r/outside of transaction/, fn -> Repo.rollback(:no) end
        refute Repo.in_transaction?()
      end

      test "an exception cancels", %{tenant: tenant} do
        assert_raise RuntimeError, "no", fn ->
          Repo.transaction(fn -> Repo.insert!(%Group{name: "x"}) && raise("no") end,
            prefix: tenant
          )
        end

        assert Repo.all(Group, prefix: tenant) == []
      end

      test "Ecto.Multi", %{tenant: tenant} do
        multi =
          Multi.new()
          |> Multi.insert(:user, %User{name: "Ada"})
          |> Multi.insert(:post, fn %{user: user} ->
            Ecto.build_assoc(user, :posts, title: "p")
          end)
          |> Multi.update_all(:all, from(g in Group, where: g.id == 0), set: [name: "z"])
          |> Multi.run(:check, fn repo, %{post: post} -> {:ok, repo.get!(Post, post.id).title} end)

        assert {:ok, %{check: "p", all: {0, nil}, user: %{id: id}, post: %{user_id: id}}} =
                 Repo.transaction(multi, prefix: tenant)

        failing =
          Multi.insert(multi, :again, %User{name: "B"})
          |> Multi.run(:stop, fn _, _ -> {:error, :no} end)

        assert {:error, :stop, :no, %{user: %User{}}} = Repo.transaction(failing, prefix: tenant)
        assert names(User, tenant) == ["Ada"]
      end

      test "concurrent increments of a counter are all counted", %{tenant: tenant} do
        user = Repo.insert!(%User{name: "n", age: 0}, prefix: tenant)

        add = fn ->
          {:ok, _} =
            Repo.transaction(
              fn ->
                user = Repo.get!(User, user.id)
                Repo.update!(Changeset.change(user, age: user.age + 1))
              end,
              prefix: tenant
            )
        end

        1..4
        |> Enum.map(fn _ -> Task.async(fn -> for _ <- 1..10, do: add.() end) end)
        |> Task.await_many(60_000)

        assert Repo.get!(User, user.id, prefix: tenant).age == 40
      end

      test "of two tenants, or of none", %{tenant: tenant} do
        other = Sandbox.checkout(Repo, tenant.id <> "-other", log: false)
        user = Repo.insert!(%User{name: "n"}, prefix: tenant)

        assert_raise IncorrectTenancy, ~r/did not match/, fn ->
          Repo.transactional(other, fn -> Repo.update!(Changeset.change(user, name: "x")) end)
        end

        # Without a tenant, the first one that is used becomes the transaction's.
        assert {:ok, _} =
                 Repo.transaction(fn -> Repo.update!(Changeset.change(user, name: "y")) end)

        assert_raise IncorrectTenancy, ~r/did not match/, fn ->
          Repo.transaction(fn -> {Repo.reload!(user), Repo.all(User, prefix: other)} end)
        end

        for call <- [fn -> Repo.all(User) end, fn -> Repo.insert(%User{name: "x"}) end],
            do: assert_raise(IncorrectTenancy, ~r/a nil prefix was provided/, call)

        assert_raise IncorrectTenancy, ~r/expected a tenant.*got: "acme"/, fn ->
          Repo.all(User, prefix: "acme")
        end

        assert_raise IncorrectTenancy, ~r/single-tenant/, fn ->
          Repo.transactional(fn -> :ok end)
        end

        moved = user |> FoundationDB.usetenant(other) |> Map.put(:id, nil) |> Repo.insert!()
        assert moved.__meta__.prefix.id == other.id
        Sandbox.checkin(Repo, other.id)
      end
    end

    describe "unique indexes" do
      test "a violation is a changeset error, and nil never conflicts", %{tenant: tenant} do
        insert = fn params -> Repo.insert(User.changeset(%User{}, params), prefix: tenant) end
        assert {:ok, ada} = insert.(%{name: "Ada", email: "a@x"})
        assert {:error, changeset} = insert.(%{name: "B", email: "a@x"})

        assert {"has already been taken",
                [constraint: :unique, constraint_name: "users_email_index"]} =
                 changeset.errors[:email]

        assert {:ok, _} = insert.(%{name: "C"})
        assert {:ok, d} = insert.(%{name: "D"})
        assert {:error, %{errors: [email: _]}} = Repo.update(User.changeset(d, %{email: "a@x"}))
        assert {:ok, _} = Repo.update(User.changeset(ada, %{name: "Ada 2", email: "a@x"}))

        assert_raise Ecto.ConstraintError, fn ->
          Repo.insert(%User{name: "E", email: "a@x"}, prefix: tenant)
        end

        Repo.delete!(ada)
        assert {:ok, _} = insert.(%{name: "E", email: "a@x"})

        assert_raise EctoFoundationDB.UniqueError, ~r/users_email_index/, fn ->
          Repo.insert_all(User, [%{name: "f", email: "f@x"}, %{name: "g", email: "f@x"}],
            prefix: tenant
          )
        end

        assert_raise EctoFoundationDB.UniqueError, fn ->
          Repo.update_all(User, [set: [email: "same"]], prefix: tenant)
        end

        assert names(User, tenant) == ["C", "D", "E"]
      end

      test "of two concurrent writers one succeeds", %{tenant: tenant} do
        results =
          1..8
          |> Enum.map(fn i ->
            Task.async(fn ->
              Repo.insert(User.changeset(%User{}, %{name: "#{i}", email: "same"}), prefix: tenant)
            end)
          end)
          |> Task.await_many(60_000)

        assert [{:ok, _}] = Enum.filter(results, &match?({:ok, _}, &1))
        assert length(Repo.all(User, prefix: tenant)) == 1
      end

      defmodule Late do
        use EctoFoundationDB.Migration
        @impl true
        def change,
          do: [create(index(EctoFoundationDB.EctoCase.Group, [:name], options: [unique: true]))]
      end

      defmodule LateMigrator do
        use EctoFoundationDB.Migrator
        @impl true
        def migrations, do: EctoFoundationDB.EctoCase.Repo.migrations() ++ [{1, Late}]
      end

      test "is not created from duplicates; the error names some", %{tenant: tenant} do
        for name <- ["a", "b", "b"], do: Repo.insert!(%Group{name: name}, prefix: tenant)
        migrate = fn -> Tenant.open!(Repo, tenant.id, migrator: LateMigrator, log: false) end
        error = assert_raise EctoFoundationDB.UniqueError, migrate
        assert error.ids == [2] and Exception.message(error) =~ "groups_name_index"
      end

      test "is created from data without duplicates, and enforced from then on", %{tenant: tenant} do
        for name <- ["a", "b"], do: Repo.insert!(%Group{name: name}, prefix: tenant)
        tenant = Tenant.open!(Repo, tenant.id, migrator: LateMigrator, log: false)

        assert_raise Ecto.ConstraintError, fn ->
          Repo.insert(%Group{name: "b"}, prefix: tenant)
        end

        assert {:ok, _} = Repo.insert(%Group{name: "c"}, prefix: tenant)
      end
    end

    test "watches", %{tenant: tenant} do
      user = Repo.insert!(%User{name: "Ada"}, prefix: tenant)
      watch = Repo.watch(user, label: :user)

      list =
        SchemaMetadata.watch_changes(from(u in User, select: u.name),
          prefix: tenant,
          label: :names
        )

      Repo.update!(Changeset.change(user, name: "Bea"))
      for future <- [watch, list], ref = Future.ref(future), do: assert_receive({^ref, :ready})
      refs = [Future.ref(watch), Future.ref(list)]

      assert {assigns, [_, _] = new, []} =
               Repo.assign_ready([watch, list], refs, watch?: true, prefix: tenant)

      assert %{user: %User{name: "Bea"}, names: ["Bea"]} = Map.new(assigns)
      Enum.each(new, &Future.cancel/1)
    end

    test "Sync accepts the Repo and its queries", %{tenant: tenant} do
      user = Repo.insert!(%User{name: "Ada", role: :admin, secret: "s"}, prefix: tenant)
      Repo.insert!(%User{name: "Bea"}, prefix: tenant)

      state =
        %{assigns: %{}, private: %{tenant: tenant}}
        |> Sync.sync_one(Repo, :user, User, user.id)
        |> Sync.sync_all(Repo, :users, from(u in User, where: u.name == "Ada"))
        |> Sync.sync_all(
          Repo,
          :names,
          from(u in User, order_by: [desc: u.name], select: {u.name, u.role})
        )
        |> Sync.sync_all_by(Repo, :by, User, name: "Ada")

      assert state.assigns.user == Repo.reload!(user)

      assert state.assigns.users == [state.assigns.user] and
               state.assigns.by == [state.assigns.user]

      assert state.assigns.names == [{"Bea", nil}, {"Ada", :admin}]

      Repo.update!(Changeset.change(user, role: :user))
      state = handle(state, 4)
      assert %{role: :user} = state.assigns.user
      assert [%{role: :user}] = state.assigns.users
      assert state.assigns.names == [{"Bea", nil}, {"Ada", :user}]

      for {query, words} <- [
            {from(u in User, preload: :posts), ~r/preload: a list that is synced/},
            {from(u in User, join: p in assoc(u, :posts)), ~r/a join/},
            {from(u in User, where: u.name in ["a", "b"]), ~r/more than one range/},
            {from(u in User, select: count()), ~r/an aggregate/}
          ],
          do: assert_raise(Unsupported, words, fn -> Sync.sync_all(state, Repo, :x, query) end)
    end

    test "Sync streams its queries", %{tenant: tenant} do
      [ada, _bea] =
        for name <- ["Ada", "Bea"],
            do: Repo.insert!(%User{name: name, role: :user}, prefix: tenant)

      # Without LiveView the changes are all that there is of a stream.
      assign = fn state, changes -> update_in(state.assigns, &Map.merge(&1, changes)) end
      names = from(u in User, order_by: [desc: u.name], limit: 2, select: %{id: u.id, n: u.name})

      state =
        Sync.sync_stream(%{assigns: %{}, private: %{tenant: tenant}}, Repo, :names, names,
          assign: assign
        )

      assert [{:insert, 0, %{n: "Bea"}}, {:insert, 1, %{n: "Ada"}}] = state.assigns.names.placed
      Repo.insert!(%User{name: "Cy"}, prefix: tenant)
      state = handle(state, 1)
      assert %{reset?: false, deleted: [gone], placed: [new]} = state.assigns.names
      assert gone == %{id: ada.id, n: "Ada"}
      assert {:insert, 0, %{n: "Cy"}} = new
    end

    defp handle(state, 0), do: state

    defp handle(state, n) do
      assert_receive {ref, :ready} when is_reference(ref)
      {:halt, state} = Sync.handle_ready(Repo, {ref, :ready}, state)
      handle(state, n - 1)
    end

    test "telemetry and log", %{tenant: tenant} do
      event = [:ecto_foundation_db, :ecto_case, :repo, :query]
      test = self()

      :telemetry.attach(
        tenant.id,
        event,
        fn _, measured, metadata, _ -> send(test, {measured, metadata}) end,
        nil
      )

      options = [id: tenant.id]
      Repo.insert!(%User{name: "Ada"}, prefix: tenant, telemetry_options: options)

      assert_receive {%{total_time: total, query_time: _},
                      %{options: ^options, query: "INSERT users"} = metadata}

      assert is_integer(total)

      assert %{source: "users", repo: Repo, type: :ecto_fdb_query, result: {:ok, {:ok, _}}} =
               metadata

      Repo.all(User, prefix: tenant, telemetry_options: options)

      assert_receive {%{decode_time: _},
                      %{options: ^options, query: "SELECT users", result: {:ok, {1, _}}}}

      :telemetry.detach(tenant.id)

      log =
        ExUnit.CaptureLog.capture_log(fn ->
          Repo.all(from(u in User, where: u.name == ^"Ada"), prefix: tenant, log: :error)
        end)

      assert log =~ "QUERY OK" and log =~ ~s(source="users") and log =~ "SELECT users WHERE" and
               log =~ ~s(["Ada"])

      assert ExUnit.CaptureLog.capture_log(fn -> Repo.all(User, prefix: tenant, log: false) end) ==
               ""
    end

    describe "a configuration" do
      test "with unknown options is refused, and the error suggests the nearest known one" do
        for {config, words} <- [
              {[clusterfile: "x"],
               ~r/unknown option :clusterfile \(did you mean :cluster_file\?\)/},
              {[migration_steps: 1], ~r/did you mean :migration_step\?/},
              {[embedded: 1], ~r/embedded: expected/},
              {[open_db: fn _ -> :ok end], ~r/open_db: is not supported/}
            ] do
          Process.flag(:trap_exit, true)
          assert {:error, error} = OtherRepo.start_link(config)
          assert inspect(error) =~ words
        end
      end

      test "from mix ecto.gen.repo works, and warns about options without effect" do
        config =
          [username: "u", password: "p", hostname: "localhost", database: "db", pool_size: 10] ++
            TestRepo.test_config()

        level = Logger.level()
        Logger.configure(level: :info)
        log = ExUnit.CaptureLog.capture_log(fn -> start_supervised!({OtherRepo, config}) end)
        Logger.configure(level: level)
        assert log =~ ":hostname" and log =~ "do nothing with FoundationDB"
        assert Connection.fetch!(OtherRepo).repo == OtherRepo
      end

      @tag :embedded
      test "of the sandbox is embedded" do
        start_supervised!(
          {OtherRepo,
           open_db: &Sandbox.open_db/1, storage_id: EctoFoundationDB.Sandbox, log: false}
        )

        assert Connection.fetch!(OtherRepo).config[:embedded]
        assert is_reference(Sandbox.open_db(OtherRepo))
      end
    end

    test "a Repo with one tenant needs no prefix", %{tenant: tenant} do
      start_supervised!(
        {SingleRepo, [tenant_id: tenant.id <> "-single"] ++ TestRepo.test_config()}
      )

      assert {:ok, user} = SingleRepo.insert(%User{name: "Ada", posts: [%Post{title: "p"}]})
      assert [%{posts: [%{title: "p"}]}] = SingleRepo.all(from(u in User, preload: :posts))

      assert {:error, :no} =
               SingleRepo.transaction(fn ->
                 SingleRepo.delete!(user) && SingleRepo.rollback(:no)
               end)

      assert SingleRepo.transactional(fn -> SingleRepo.get!(User, user.id).name end) == "Ada"

      assert %{assigns: %{user: %{name: "Ada"}}} =
               Sync.sync_one(%{assigns: %{}, private: %{}}, SingleRepo, :user, User, user.id)

      Tenant.clear_delete!(SingleRepo, tenant.id <> "-single")
    end

    @tag :embedded
    test "several instances of a Repo, named and unnamed", context do
      start = fn name -> OtherRepo.start_link([name: name] ++ TestRepo.test_config()) end
      {:ok, named} = start.(:another_instance)
      {:ok, unnamed} = start.(nil)

      for {instance, name} <- [{:another_instance, "a"}, {unnamed, "b"}] do
        OtherRepo.put_dynamic_repo(instance)
        tenant = Tenant.open!(OtherRepo, "t")
        OtherRepo.insert!(%Group{name: name}, prefix: tenant)
        assert [%{name: ^name}] = OtherRepo.all(Group, prefix: tenant)

        assert_raise IncorrectTenancy, ~r/was opened with/, fn ->
          OtherRepo.all(Group, prefix: context.tenant)
        end
      end

      OtherRepo.put_dynamic_repo(OtherRepo)
      for pid <- [named, unnamed], do: Supervisor.stop(pid)
    end

    @tag :embedded
    test "mix ecto.create and ecto.drop: the directory of the tenants" do
      path = Path.join(System.tmp_dir!(), "ecto-storage-#{System.unique_integer([:positive])}")
      config = [repo: OtherRepo, otp_app: :ecto_fdb_sync, embedded: path, log: false]
      adapter = Ecto.Adapters.FoundationDB
      assert adapter.storage_status(config) == :down
      assert adapter.storage_up(config) == :ok
      assert adapter.storage_up(config) == {:error, :already_up}
      start_supervised!({OtherRepo, embedded: path, log: false})
      tenant = Tenant.open!(OtherRepo, "t")
      OtherRepo.insert!(%Group{name: "g"}, prefix: tenant)
      stop_supervised!(OtherRepo)
      assert adapter.storage_down(config) == :ok
      assert adapter.storage_down(config) == {:error, :already_down}
      File.rm(path)
    end

    @tag :embedded
    test "each process of a Repo may crash, and the Repo continues", %{tenant: tenant} do
      start_supervised!({OtherRepo, embedded: true, log: false})
      other = Tenant.open!(OtherRepo, "t")
      OtherRepo.insert!(%Group{name: "g"}, prefix: other)
      [{_, supervisor, _, _}] = Supervisor.which_children(OtherRepo)

      for id <- [EctoFoundationDB.Layer.Ids, EctoFoundationDB.Planner] do
        {^id, pid, _, _} = supervisor |> Supervisor.which_children() |> List.keyfind(id, 0)
        monitor = Process.monitor(pid)
        Process.exit(pid, :kill)
        assert_receive {:DOWN, ^monitor, _, _, _}

        insert = fn ->
          try do
            OtherRepo.insert!(%Group{name: "h"}, prefix: other)
          catch
            _, _ -> nil
          end
        end

        assert EctoFoundationDB.SyncRepo.eventually(insert, & &1)
      end

      assert is_list(Repo.all(Group, prefix: tenant))
    end

    @tag :embedded
    test "commits whose results get lost", %{tenant: %{id: id}} do
      start_supervised!({OtherRepo, embedded: true, migrator: Repo, log: false})
      tenant = Tenant.open!(OtherRepo, id)
      Embedded.faults(OtherRepo, seed: ExUnit.configuration()[:seed], commit_unknown_result: 0.4)
      user = OtherRepo.insert!(%User{name: "0"}, prefix: tenant)

      last =
        Enum.reduce(1..40, user, fn i, user ->
          {:ok, user} =
            user
            |> Changeset.change(name: "#{i}")
            |> Changeset.optimistic_lock(:lock)
            |> OtherRepo.update()

          assert {:ok, _} = OtherRepo.insert(%Group{name: "#{i}"}, prefix: tenant)
          user
        end)

      assert {:ok, _} = OtherRepo.delete(last, allow_stale: true)
      Embedded.faults(OtherRepo, nil)
      assert last.lock == 41
      assert length(OtherRepo.all(Group, prefix: tenant)) == 40
    end

    test "fields are copied and removed in all tenants", %{tenant: tenant} do
      defmodule Renamed do
        use Ecto.Schema

        schema "groups" do
          field(:name, :string)
          field(:title, :string)
        end
      end

      for name <- ["a", "b", nil], do: Repo.insert!(%Group{name: name}, prefix: tenant)
      assert CLI.copy_field!(Repo, Renamed, :name, :title, prefix: tenant, max_rows: 1) == 2
      assert names(Renamed, tenant, :title) == ["a", "b", nil] |> Enum.sort()

      assert_raise ArgumentError, ~r/must both exist/, fn ->
        CLI.copy_field!(Repo, Renamed, :name, :nope, prefix: tenant)
      end

      assert_raise ArgumentError, ~r/must not exist/, fn ->
        CLI.delete_field!(Repo, Renamed, :name, prefix: tenant)
      end

      assert CLI.delete_field!(Repo, Group, :title, prefix: tenant) == 2
      assert [%{title: nil} | _] = Repo.all(Renamed, prefix: tenant)

      assert_raise ArgumentError, ~r/was found on indexes of tenant/, fn ->
        CLI.delete_field!(Repo, Post, :user_id, prefix: tenant, skip_schema_assertions: true)
      end

      assert CLI.migrate!(Repo, prefix: tenant) == :ok
    end

    defmodule PlainRepo do
      use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
      use EctoFoundationDB.Migrator

      @impl EctoFoundationDB.Migrator
      def migrations, do: [{0, EctoFoundationDB.EctoAdapterTest.PlainIndexes}]
    end

    defmodule PlainGroup do
      use EctoFoundationDB.TestSchema, source: "groups", fields: [id: :id, name: :string]
    end

    defmodule PlainIndexes do
      use EctoFoundationDB.Migration
      @impl true
      def change, do: [create(index(EctoFoundationDB.EctoAdapterTest.PlainGroup, [:name]))]
    end

    @tag :embedded
    test "each kind of Repo reads what the other has written" do
      path = Path.join(System.tmp_dir!(), "ecto-both-#{System.unique_integer([:positive])}")

      for repo <- [OtherRepo, PlainRepo],
          do: start_supervised!({repo, embedded: path, log: false})

      plain = Tenant.open!(PlainRepo, "t")
      ecto = Tenant.open!(OtherRepo, "t")

      OtherRepo.insert!(%Group{id: 7, name: "of Ecto"}, prefix: ecto)
      PlainRepo.insert!(%PlainGroup{id: 8, name: "plain"}, prefix: plain)

      assert [%PlainGroup{id: 7}] =
               PlainRepo.all(PlainGroup, where: [name: "of Ecto"], prefix: plain)

      assert %Group{name: "plain"} = OtherRepo.get!(Group, 8, prefix: ecto)

      assert [%Group{id: 8}] =
               OtherRepo.all(from(g in Group, where: g.name == "plain"), prefix: ecto)

      assert OtherRepo.insert!(%Group{name: "next"}, prefix: ecto).id == 9
      for repo <- [OtherRepo, PlainRepo], do: stop_supervised!(repo)
      File.rm(path)
    end
  end
end
