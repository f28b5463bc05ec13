defmodule EctoFoundationDB.SyncFunTest do
  # Live functions. The Repo's counters are exact: nothing else uses it.
  use ExUnit.Case, async: true

  alias EctoFoundationDB.{Indexer, Sync, SyncUser, Tenant, TestRepo}
  alias EctoFoundationDB.Exception.{IncorrectTenancy, TenantGone, Unsupported}
  alias EctoFoundationDB.Indexer.SchemaMetadata
  alias EctoFoundationDB.SyncPage, as: Page
  alias EctoFoundationDB.SyncRepo, as: Support
  alias EctoFoundationDB.SyncUser, as: User

  defmodule Note do
    use EctoFoundationDB.TestSchema,
      source: "notes",
      fields: [id: :id, text: :string],
      autogenerate_id: {:id, :id, :id}
  end

  defmodule Repo do
    use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
    use EctoFoundationDB.Migrator

    @impl true
    def migrations, do: EctoFoundationDB.SyncRepo.migrations()
  end

  defmodule Finer do
    use EctoFoundationDB.Migrator

    defmodule Change do
      use EctoFoundationDB.Migration

      @impl true
      def change, do: [create(metadata(SyncUser, [:name]))]
    end

    @impl true
    def migrations, do: EctoFoundationDB.SyncRepo.migrations() ++ [{1, Change}]
  end

  defmodule NoCounter do
    use EctoFoundationDB.Migrator

    defmodule Change do
      use EctoFoundationDB.Migration

      @impl true
      def change, do: [drop(metadata(SyncUser)), drop(metadata(SyncUser, [:team]))]
    end

    @impl true
    def migrations, do: EctoFoundationDB.SyncRepo.migrations() ++ [{1, Change}]
  end

  setup do
    # An evaluation may take as long as any call: here that is short, for those that never return.
    start_supervised!({Repo, TestRepo.test_config() ++ [stale_after: 400, timeout: 2_000]})
    id = "fun-#{System.unique_integer([:positive])}-#{System.os_time()}"
    tenant = Tenant.open!(Repo, id)
    Process.put(:evaluations, Sync.stats(Repo).evaluations)
    %{tenant: tenant}
  end

  defp user(tenant, id, name \\ "Ada", team \\ "red"),
    do: Repo.insert!(%User{id: id, name: name, team: team}, prefix: tenant)

  defp state(tenant), do: %{assigns: %{}, private: %{tenant: tenant}}

  defp sync(tenant, fun, opts \\ []), do: Sync.sync_fun(state(tenant), Repo, :it, fun, opts)

  # The state after the next message.
  defp next(state), do: Page.next(Repo, state)

  # The state once it shows this.
  defp shows(state, it),
    do: if(state.assigns.it === it, do: state, else: state |> next() |> shows(it))

  defp quiet do
    Sync.settle(Repo)
    refute_received {_ref, :ready}
  end

  defp evaluations, do: Sync.stats(Repo).evaluations - Process.get(:evaluations)

  # Now, and what was done since the test began.
  defp stats, do: %{Sync.stats(Repo) | evaluations: evaluations()}

  defp page(tenant, mount) do
    page = Page.start(Repo, tenant, mount)
    on_exit(fn -> Process.exit(page, :kill) end)
    page
  end

  # Functions that are given by their names.
  def get(id), do: Repo.get(User, id)
  def names(team), do: for(user <- Repo.all_by(User, team: team), do: user.name)
  def raises(message), do: raise(message)

  def all_of(ids) do
    users = ids |> Enum.map(&Repo.async_get!(User, &1)) |> Repo.await()
    users |> Enum.map(& &1.name) |> Enum.uniq() |> Enum.sort()
  end

  def checked(id) do
    name = Repo.get!(User, id).name
    if name == "bad", do: raise("the name is bad"), else: name
  end

  describe "what a function reads is followed:" do
    for {what, fun, before, now} <- [
          {"get!", quote(do: Repo.get!(User, "u1").name), "Ada", "Eva"},
          {"get_by", quote(do: Repo.get_by(User, name: "Eva") == nil), true, false},
          {"all", quote(do: for(user <- Repo.all(User), do: user.name)), ["Ada"], ["Eva"]},
          {"all_by", quote(do: for(user <- Repo.all_by(User, team: "red"), do: user.name)),
           ["Ada"], ["Eva"]},
          {"one", quote(do: Repo.one(User, where: [name: "Ada"]) == nil), false, true},
          {"exists?", quote(do: Repo.exists?(User, where: [name: "Ada"])), true, false},
          {"aggregate", quote(do: Repo.aggregate(User, :count, where: [name: "Ada"])), 1, 0},
          {"stream", quote(do: User |> Repo.stream(max_rows: 1) |> Enum.map(& &1.name)), ["Ada"],
           ["Eva"]},
          {"all_range", quote(do: for(user <- Repo.all_range(User, "u", "v"), do: user.name)),
           ["Ada"], ["Eva"]},
          {"async_get and await", quote(do: Repo.await(Repo.async_get(User, "u1")).name), "Ada",
           "Eva"},
          {"async_all_by and await",
           quote(do: hd(Repo.await(Repo.async_all_by(User, team: "red"))).name), "Ada", "Eva"},
          {"reload", quote(do: Repo.reload(%User{id: "u1"}).name), "Ada", "Eva"},
          {"a counter", quote(do: SchemaMetadata.updates(User)), 0, 1}
        ] do
      test "#{what}", %{tenant: tenant} do
        user = user(tenant, "u1")
        state = sync(tenant, fn -> unquote(fun) end)
        assert state.assigns.it == unquote(before)
        Repo.update!(user, name: "Eva")
        assert next(state).assigns.it == unquote(now)
        quiet()
      end
    end

    test "a record that is not there yet", %{tenant: tenant} do
      state = sync(tenant, fn -> Repo.get(User, "u1") end)
      assert state.assigns == %{it: nil}
      user = user(tenant, "u1")
      assert next(state).assigns.it.name == user.name
    end

    test "records that their own index leads to", %{tenant: tenant} do
      user = user(tenant, "u1", "Ada")

      fun = fn ->
        tenant
        |> Indexer.all(User, :users_name_index, [1, "Ada"])
        |> Enum.map(& &1.team)
      end

      state = sync(tenant, fun)
      assert state.assigns.it == ["red"]
      Repo.update!(user, team: "blue")
      assert next(state).assigns.it == ["blue"]
    end

    test "what was read depends on what was read before", %{tenant: tenant} do
      one = user(tenant, "u1", "u2")
      two = user(tenant, "u2", "Bea")
      three = user(tenant, "u3", "Cy")
      fun = fn -> Repo.get!(User, Repo.get!(User, "u1").name).name end
      state = sync(tenant, fun)
      assert state.assigns.it == "Bea"
      assert Sync.stats(Repo).live_queries == 1
      Support.eventually(fn -> Sync.stats(Repo) end, &(&1.pending_watches == 2))

      Repo.update!(three, name: "nobody looks")
      quiet()
      one = Repo.update!(one, name: "u3")
      state = next(state)
      assert state.assigns.it == "nobody looks"
      Support.eventually(fn -> Sync.stats(Repo) end, &(&1.pending_watches == 2))

      Repo.update!(two, name: "nobody looks any more")
      quiet()
      Repo.update!(three, name: "Cyd")
      state = next(state)
      assert state.assigns.it == "Cyd"
      Repo.update!(one, name: "u2")
      assert next(state).assigns.it == "nobody looks any more"
    end

    test "a list of ids, then their records", %{tenant: tenant} do
      user(tenant, "u1", "Ada")
      user(tenant, "u2", "Bea", "blue")

      fun = fn ->
        ids = for user <- Repo.all_by(User, team: "red"), do: user.id
        for user <- Repo.await(Enum.map(ids, &Repo.async_get!(User, &1))), do: user.name
      end

      state = sync(tenant, fun)
      assert state.assigns.it == ["Ada"]
      Repo.update!(Repo.get!(User, "u2", prefix: tenant), team: "red")
      state = next(state)
      assert state.assigns.it == ["Ada", "Bea"]
      Repo.delete!(Repo.get!(User, "u1", prefix: tenant))
      assert next(state).assigns.it == ["Bea"]
    end

    test "A, B, A", %{tenant: tenant} do
      user = user(tenant, "u1", "A")
      state = sync(tenant, {__MODULE__, :checked, ["u1"]})
      for name <- ["B", "A", "B", "A", "C"], do: Repo.update!(user, name: name)
      shows(state, "C")
    end

    test "nothing, if nothing is read", %{tenant: tenant} do
      state = sync(tenant, fn -> :constant end)
      assert state.assigns.it == :constant
      user(tenant, "u1")
      quiet()
    end
  end

  describe "the finest counter is watched" do
    test "that the equalities fix", %{tenant: tenant} do
      user(tenant, "u1", "Ada")
      state = sync(tenant, {__MODULE__, :names, ["red"]})
      before = evaluations()
      user(tenant, "u2", "Bea", "blue")
      quiet()
      assert evaluations() == before
      user(tenant, "u3", "Cy")
      assert next(state).assigns.it == ["Ada", "Cy"]
      assert evaluations() == before + 1
    end

    test "else the schema's", %{tenant: tenant} do
      user(tenant, "u1", "Ada")
      sync(tenant, fn -> Repo.all(User, where: [name: "Ada"]) end)
      before = evaluations()
      user(tenant, "u2", "Bea")
      quiet()
      assert evaluations() == before + 1
    end

    test "and a migration that makes a finer one is followed", %{tenant: tenant} do
      user(tenant, "u1", "Ada")
      fun = fn -> for(user <- Repo.all(User, where: [name: "Ada"]), do: user.id) end
      state = sync(tenant, fun)
      Tenant.open!(Repo, tenant.id, migrator: Finer, log: false)
      Sync.settle(Repo)
      before = evaluations()
      user(tenant, "u2", "Bea")
      quiet()
      assert evaluations() == before
      user(tenant, "u3", "Ada")
      assert next(state).assigns.it == ["u1", "u3"]
    end

    test "and one that drops them is told as the reason of staleness", %{tenant: tenant} do
      user(tenant, "u1", "Ada")
      state = sync(tenant, {__MODULE__, :names, ["red"]})
      Tenant.open!(Repo, tenant.id, migrator: NoCounter, log: false)
      state = next(state)
      assert Sync.stale?(state, Repo, :it)
      assert state.assigns.it == ["Ada"]
    end

    test "and where there is none the error shows the migration", %{tenant: tenant} do
      tenant = Tenant.open!(Repo, tenant.id, migrator: NoCounter, log: false)

      error = assert_raise Unsupported, fn -> sync(tenant, {__MODULE__, :names, ["red"]}) end

      assert error.message =~ "create metadata(EctoFoundationDB.SyncUser)"
      assert error.message =~ "create metadata(EctoFoundationDB.SyncUser, [:team])"
    end
  end

  describe "it is evaluated" do
    test "once for all pages with the same module, function and arguments", %{tenant: tenant} do
      user = user(tenant, "u1")
      mount = &Sync.sync_fun(&1, Repo, :it, {__MODULE__, :get, ["u1"]})
      pages = for _ <- 1..50, do: page(tenant, mount)
      assert %{subscriptions: 50, live_queries: 1, evaluations: 1} = stats()
      Support.eventually(fn -> Sync.stats(Repo) end, &(&1.pending_watches == 1))

      for n <- 1..5 do
        before = Sync.stats(Repo)
        Repo.update!(user, name: "#{n}")
        for page <- pages, do: Page.await(page, &(&1.it.name == "#{n}"))
        now = Sync.stats(Repo)
        assert now.evaluations == before.evaluations + 1
        assert now.messages == before.messages + 50
        assert now.watches_armed == before.watches_armed + 1
      end

      for page <- pages, do: Page.update(page, &Sync.cancel(&1, Repo, :it))
      assert %{subscriptions: 0, live_queries: 0, pending_watches: 0} = Sync.stats(Repo)
    end

    test "once for 10,000 pages that mount at once, with one watch for each of 50 reads",
         context do
      %{tenant: tenant} = context
      ids = for n <- 1..50, do: "u#{n}"
      [user | _] = for id <- ids, do: user(tenant, id, "A")
      test = self()

      pages =
        for _ <- 1..10_000 do
          spawn_link(fn ->
            state = sync(tenant, {__MODULE__, :all_of, [ids]}, timeout: 60_000)
            send(test, {:mounted, state.assigns.it})
            send(test, {:updated, next(state).assigns.it})
            Process.sleep(:infinity)
          end)
        end

      mounted = ["A"]
      for _ <- pages, do: assert_receive({:mounted, ^mounted}, 60_000)
      assert %{subscriptions: 10_000, live_queries: 1, evaluations: 1} = stats()
      Support.eventually(fn -> Sync.stats(Repo) end, &(&1.pending_watches == 50))
      Repo.update!(user, name: "B")
      updated = ["A", "B"]
      for _ <- pages, do: assert_receive({:updated, ^updated}, 60_000)
      assert evaluations() == 2
      Support.eventually(fn -> Sync.stats(Repo) end, &(&1.pending_watches == 50))
    end

    test "for each page, of anonymous functions without a key", %{tenant: tenant} do
      user(tenant, "u1")
      for _ <- 1..3, do: page(tenant, &Sync.sync_fun(&1, Repo, :it, fn -> get("u1") end))
      assert %{live_queries: 3, evaluations: 3} = stats()
    end

    test "once for all pages with the same key", %{tenant: tenant} do
      user = user(tenant, "u1")

      pages =
        for _ <- 1..3,
            do: page(tenant, &Sync.sync_fun(&1, Repo, :it, fn -> get("u1") end, key: {:user, 1}))

      assert %{live_queries: 1, evaluations: 1} = stats()
      Repo.update!(user, name: "Eva")
      for page <- pages, do: Page.await(page, &(&1.it.name == "Eva"))
      assert evaluations() == 2
      page(tenant, &Sync.sync_fun(&1, Repo, :it, fn -> get("u1") end, key: {:user, 2}))
      assert Sync.stats(Repo).live_queries == 2
    end

    test "and equal results wake nobody", %{tenant: tenant} do
      user = user(tenant, "u1")
      state = sync(tenant, fn -> Repo.get!(User, "u1").team end)
      Repo.update!(user, name: "Eva")
      quiet()
      assert evaluations() == 2
      Repo.update!(user, team: "blue")
      assert next(state).assigns.it == "blue"
    end

    test "again once in `every` ms at most, and the last state comes", %{tenant: tenant} do
      user = user(tenant, "u1")
      state = sync(tenant, {__MODULE__, :checked, ["u1"]}, every: 300)
      for n <- 1..100, do: Repo.update!(user, name: "#{n}")
      shows(state, "100")
      assert evaluations() <= 4
    end

    test "a page with another version of what was deployed runs that", %{tenant: tenant} do
      define = fn version ->
        Code.compile_string("""
        defmodule #{inspect(__MODULE__)}.Deployed do
          def version, do: {#{version}, #{inspect(Repo)}.get!(#{inspect(User)}, "u1").name}
          def fun, do: fn -> version() end
        end
        """)
      end

      Code.put_compiler_option(:ignore_module_conflict, true)
      define.(1)
      module = Module.concat(__MODULE__, Deployed)
      user = user(tenant, "u1", "A")
      state = sync(tenant, {module, :version, []})
      state = Sync.sync_fun(state, Repo, :own, module.fun())
      state = Sync.sync_fun(state, Repo, :shared, module.fun(), key: :shared)
      assert %{it: {1, "A"}, own: {1, "A"}, shared: {1, "A"}} = state.assigns

      :code.purge(module)
      define.(2)
      # Nothing of this process holds code of the old version.
      :erlang.garbage_collect()
      assert :code.soft_purge(module)
      other = page(tenant, &Sync.sync_fun(&1, Repo, :shared, module.fun(), key: :shared))
      Repo.update!(user, name: "B")
      state = shows(state, {2, "B"})
      Page.await(other, &(&1.shared == {2, "B"}))
      state = if state.assigns.shared == {2, "B"}, do: state, else: next(state)
      assert state.assigns.shared == {2, "B"}

      # An anonymous function is of the version that has made it.
      state = if Sync.stale?(state, Repo, :own), do: state, else: next(state)
      assert Sync.stale?(state, Repo, :own)
      assert state.assigns.own == {1, "A"}
    end
  end

  describe "it only reads:" do
    for {what, fun} <- [
          {"insert!", quote(do: Repo.insert!(%User{id: "u9"}))},
          {"insert! with a generated id", quote(do: Repo.insert!(%Note{text: "new"}))},
          {"update!", quote(do: Repo.update!(Repo.get!(User, "u1"), name: "B"))},
          {"delete!", quote(do: Repo.delete!(Repo.get!(User, "u1")))},
          {"update_all",
           quote(do: Repo.update_all(User, [set: [name: "B"]], where: [team: "red"]))},
          {"delete_all", quote(do: Repo.delete_all(User, where: [team: "red"]))},
          {"watch", quote(do: Repo.watch(Repo.get!(User, "u1")))},
          {"a watched counter", quote(do: SchemaMetadata.watch_changes(User))}
        ] do
      test "#{what} is refused", %{tenant: tenant} do
        user(tenant, "u1")

        assert_raise Unsupported, ~r/a live function only reads/, fn ->
          sync(tenant, fn -> unquote(fun) end)
        end

        assert [%{name: "Ada"}] = Repo.all(User, prefix: tenant)
      end
    end

    test "of another tenant nothing", %{tenant: tenant} do
      other = Tenant.open!(Repo, tenant.id <> "-other")

      assert_raise IncorrectTenancy, fn ->
        sync(tenant, fn -> Repo.all(User, prefix: other) end)
      end

      assert_raise IncorrectTenancy, fn ->
        sync(tenant, fn -> Repo.transactional(other, fn -> Repo.all(User) end) end)
      end

      assert_raise IncorrectTenancy, fn -> sync(tenant, fn -> Tenant.open!(Repo, "third") end) end
      assert_raise IncorrectTenancy, fn -> sync(tenant, fn -> Support.get(User, "u1") end) end
      assert sync(tenant, fn -> Repo.transactional(tenant, fn -> Repo.all(User) end) end)
    end

    test "no more than max_reads", %{tenant: tenant} do
      ids = for n <- 1..11, do: "u#{n}"
      fun = fn -> Repo.await(Enum.map(ids, &Repo.async_get(User, &1))) end
      assert_raise Unsupported, ~r/max_reads/, fn -> sync(tenant, fun, max_reads: 10) end
      assert sync(tenant, fun, max_reads: 11).assigns.it == List.duplicate(nil, 11)
    end
  end

  describe "an error" do
    test "of the first evaluation is raised, with the function's stacktrace", %{tenant: tenant} do
      sync(tenant, {__MODULE__, :raises, ["no"]})
      flunk("it was not raised")
    rescue
      error in RuntimeError ->
        assert error.message == "no"
        assert Enum.any?(__STACKTRACE__, &match?({__MODULE__, :raises, 1, _}, &1))
        assert %{subscriptions: 0, live_queries: 0} = Sync.stats(Repo)
    end

    test "may be an exit or a throw", %{tenant: tenant} do
      assert catch_throw(sync(tenant, fn -> throw(:ball) end)) == :ball
      assert catch_exit(sync(tenant, fn -> exit(:out) end)) == :out
      assert catch_exit(sync(tenant, fn -> Process.exit(self(), :kill) end)) == :killed
    end

    test "of a later one keeps the result, is told, and ends with the next change", %{
      tenant: tenant
    } do
      user = user(tenant, "u1", "good")
      test = self()

      state =
        tenant
        |> state()
        |> Sync.attach_callback(Repo, :handle_stale, fn state, reasons ->
          send(test, {:stale, reasons})
          {:cont, state}
        end)
        |> Sync.sync_fun(Repo, :it, {__MODULE__, :checked, ["u1"]})

      user = Repo.update!(user, name: "bad")
      state = next(state)
      assert_received {:stale, %{it: %RuntimeError{message: "the name is bad"}}}
      assert state.assigns.it == "good"
      assert Sync.stale?(state, Repo, :it)
      # A page that mounts now gets the error.
      assert_raise RuntimeError, fn -> sync(tenant, {__MODULE__, :checked, ["u1"]}) end

      Repo.update!(user, name: "better")
      state = shows(state, "better")
      state = if Sync.stale?(state, Repo, :it), do: next(state), else: state
      refute Sync.stale?(state, Repo, :it)
      assert_received {:stale, %{it: nil}}
    end

    test "does not harm others, whose processes are killed neither", %{tenant: tenant} do
      user = user(tenant, "u1", "A")
      state = sync(tenant, {__MODULE__, :checked, ["u1"]})

      for _ <- 1..20 do
        assert catch_exit(sync(tenant, fn -> Process.exit(self(), :kill) end)) == :killed
      end

      Repo.update!(user, name: "B")
      shows(state, "B")
    end

    test "is a function that never returns", %{tenant: tenant} do
      user = user(tenant, "u1", "A")
      state = sync(tenant, {__MODULE__, :checked, ["u1"]})
      schedulers = System.schedulers_online()
      test = self()

      for _ <- 1..(schedulers * 2) do
        spawn_link(fn ->
          error = catch_error(sync(tenant, fn -> Process.sleep(:infinity) end, timeout: 60_000))
          send(test, {:never, error})
        end)
      end

      Repo.update!(user, name: "B")
      shows(state, "B")

      for _ <- 1..(schedulers * 2) do
        assert_receive {:never, %EctoFoundationDB.Error{message: message}}, 30_000
        assert message =~ "has not returned for 2000 ms"
      end

      assert %{waiting: 0, subscriptions: 1} = Sync.stats(Repo)
    end

    test "is what cannot be a function", %{tenant: tenant} do
      for fun <- [:no, fn _argument -> 1 end, {__MODULE__, :unknown, []}, {__MODULE__, :get, []}] do
        assert_raise ArgumentError, ~r/expected a function of no arguments/, fn ->
          sync(tenant, fun)
        end
      end

      assert_raise ArgumentError, ~r/:every/, fn -> sync(tenant, fn -> 1 end, every: -1) end

      assert_raise ArgumentError, ~r/:max_reads/, fn ->
        sync(tenant, fn -> 1 end, max_reads: 0)
      end

      assert_raise ArgumentError, ~r/sync_fun/, fn ->
        Sync.sync_one(state(tenant), Repo, :it, User, "u1", preload: :team)
      end
    end
  end

  test "several labels of a call are of one version, and each follows by itself", %{
    tenant: tenant
  } do
    user = user(tenant, "u1", "A")

    state =
      Sync.sync(state(tenant), Repo, [
        %Sync.Fun{label: :it, fun: {__MODULE__, :checked, ["u1"]}},
        %Sync.Fun{label: :names, fun: {__MODULE__, :names, ["red"]}},
        %Sync.One{label: :user, schema: User, id: "u1"},
        %Sync.All{label: :users, queryable: User}
      ])

    assert %{it: "A", names: ["A"], user: %{name: "A"}, users: [_]} = state.assigns
    Repo.update!(user, name: "B")
    Sync.settle(Repo)

    state =
      for _ <- 1..4, reduce: state do
        state -> next(state)
      end

    assert %{it: "B", names: ["B"], user: %{name: "B"}, users: [%{name: "B"}]} = state.assigns
    state = Sync.cancel_all(state, Repo)
    assert state.assigns == %{it: nil, names: nil, user: nil, users: []}
    assert %{subscriptions: 0, live_queries: 0, pending_watches: 0} = Sync.stats(Repo)
  end

  test "a label that is synced again follows the other function", %{tenant: tenant} do
    user = user(tenant, "u1", "A")
    state = sync(tenant, {__MODULE__, :checked, ["u1"]})
    state = Sync.sync_fun(state, Repo, :it, fn -> Repo.get(User, "u2") end)
    assert state.assigns.it == nil
    Repo.update!(user, name: "B")
    quiet()
    user(tenant, "u2", "C")
    assert next(state).assigns.it.name == "C"
  end

  test "large results, by many pages", %{tenant: tenant} do
    user = user(tenant, "u1", "A")
    mount = &Sync.sync_fun(&1, Repo, :it, {__MODULE__, :large, ["u1"]})
    pages = for _ <- 1..10, do: page(tenant, mount)
    for page <- pages, do: assert(length(Page.assigns(page).it) == 100_000)
    Repo.update!(user, name: "B")
    for page <- pages, do: Page.await(page, &(hd(&1.it) == {"B", 1}))
  end

  def large(id) do
    name = Repo.get!(User, id).name
    for n <- 1..100_000, do: {name, n}
  end

  test "a tenant that is gone is told, and the result with it", %{tenant: tenant} do
    user(tenant, "u1", "A")
    state = sync(tenant, {__MODULE__, :names, ["red"]})
    Tenant.clear_delete!(Repo, tenant.id)
    state = state |> next()
    state = if state.assigns.it == nil, do: state, else: next(state)
    assert state.assigns.it == nil
    state = if Sync.stale?(state, Repo, :it), do: state, else: next(state)
    assert Sync.stale?(state, Repo, :it)
    assert_raise TenantGone, fn -> sync(tenant, {__MODULE__, :names, ["red"]}) end
  end

  test "operators see it among the live queries", %{tenant: tenant} do
    user(tenant, "u1", "A")
    state = sync(tenant, {__MODULE__, :names, ["red"]})
    assert {[live], 1} = EctoFoundationDB.live_queries(Repo, search: "SyncFunTest")
    assert %{query: {:function, {__MODULE__, :names, ["red"]}}, source: nil, records: 0} = live
    assert live.tenant == tenant.id and live.bytes > 0 and live.stale == nil
    Sync.cancel(state, Repo, :it)
    assert {[], 0} = EctoFoundationDB.live_queries(Repo)
  end

  test "pages that die while it is evaluated leave nothing", %{tenant: tenant} do
    for _ <- 1..20 do
      page = spawn(fn -> sync(tenant, fn -> Process.sleep(200) end) end)
      Process.sleep(5)
      Process.exit(page, :kill)
    end

    Support.eventually(
      fn -> Sync.stats(Repo) end,
      &match?(%{subscriptions: 0, live_queries: 0, pending_watches: 0, waiting: 0}, &1)
    )

    assert sync(tenant, fn -> 1 end).assigns.it == 1
  end
end
