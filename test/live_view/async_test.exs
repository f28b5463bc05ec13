if Code.ensure_loaded?(Phoenix.LiveViewTest) do
  defmodule EctoFoundationDB.LiveViewApp do
    # The smallest application of Phoenix that has a page.

    defmodule UserLive do
      use Phoenix.LiveView
      alias EctoFoundationDB.{Sync, SyncRepo, SyncUser, Tenant}

      @impl true
      def mount(%{"tenant" => tenant, "id" => id} = params, _session, socket) do
        opts = if params["on_missing"], do: [on_missing: :raise], else: []
        async = if params["wait"], do: [], else: [async: true]

        {:ok,
         socket
         |> put_private(:tenant, Tenant.open!(SyncRepo, tenant))
         |> Sync.sync_one(SyncRepo, :user, SyncUser, id, opts ++ async)
         |> Sync.sync_all(SyncRepo, :users, SyncUser, async: true)}
      end

      @impl true
      def handle_params(_params, _uri, socket), do: {:noreply, socket}

      @impl true
      def handle_event("show", %{"id" => id}, socket),
        do: {:noreply, Sync.sync_one(socket, SyncRepo, :user, SyncUser, id, async: true)}

      @impl true
      def render(assigns) do
        ~H"""
        <div id="user">
          <%= if is_struct(@user, SyncUser) do %>
            waited for <%= @user.name %>
          <% else %>
            <.async_result :let={user} assign={@user}>
              <:loading>Loading the user</:loading>
              <:failed :let={error}>Failed: <%= Exception.message(error) %></:failed>
              <%= if user, do: "user: " <> user.name, else: "no user" %>
            </.async_result>
          <% end %>
        </div>
        <div id="users">
          <.async_result :let={users} assign={@users}>
            <:loading>Loading all</:loading>
            users: <%= Enum.map_join(users, ", ", & &1.name) %>
          </.async_result>
        </div>
        """
      end
    end

    defmodule Router do
      use Phoenix.Router
      import Phoenix.LiveView.Router

      pipeline :browser do
        plug(:fetch_session)
        plug(:fetch_query_params)
      end

      scope "/" do
        pipe_through(:browser)
        live("/:tenant/users/:id", UserLive)
      end
    end

    defmodule Endpoint, do: use(EctoFoundationDB.TestEndpoint, router: Router)

    def start, do: EctoFoundationDB.TestEndpoint.start(Endpoint)
  end

  defmodule EctoFoundationDB.LiveViewAsyncTest do
    # Not beside others: an outage is of the whole database.
    use ExUnit.Case, async: false
    import Phoenix.ConnTest
    import Phoenix.LiveViewTest

    alias EctoFoundationDB.{Embedded, NoResultsError, Sync, SyncPage, TimeoutError}
    alias EctoFoundationDB.SyncRepo, as: Repo
    alias EctoFoundationDB.SyncUser, as: User
    alias Phoenix.LiveView.AsyncResult

    @endpoint EctoFoundationDB.LiveViewApp.Endpoint

    setup_all do
      EctoFoundationDB.LiveViewApp.start()
      :ok
    end

    setup do
      tenant = Repo.tenant()
      Repo.insert!(%User{id: "1", name: "Ada", team: "red"}, prefix: tenant)
      %{tenant: tenant, path: "/#{tenant.id}/users/1", state: state(tenant)}
    end

    defp state(tenant), do: %{assigns: %{}, private: %{tenant: tenant}}

    # Handles messages until the assigns are such.
    defp until(state, such) do
      if such.(state.assigns) do
        state
      else
        assert_receive message
        {_, state} = Sync.handle_ready(Repo, message, state)
        until(state, such)
      end
    end

    defp ok?(label), do: &match?(%AsyncResult{ok?: true, loading: nil}, &1[label])

    defp async(state, id, opts \\ []),
      do: Sync.sync_one(state, Repo, :user, User, id, [async: true] ++ opts)

    describe "a LiveView" do
      test "is loading on both renders, then has the record, then its changes", context do
        %{path: path, tenant: tenant} = context
        disconnected = build_conn() |> get(path) |> html_response(200)
        assert disconnected =~ "Loading the user"
        assert disconnected =~ "Loading all"

        {:ok, view, _html} = live(build_conn(), path)
        Sync.settle(Repo)
        assert render(view) =~ "user: Ada"
        assert render(view) =~ "users: Ada"

        for n <- 1..200 do
          Repo.update!(%User{id: "1", team: "red"}, [name: "name #{n}."], prefix: tenant)
          Sync.settle(Repo)
          html = render(view)
          assert html =~ "user: name #{n}."
          assert html =~ "users: name #{n}."
        end
      end

      @tag :embedded
      test "mounts while the database does not answer", %{path: path} do
        on_exit(fn -> Embedded.outage(Repo, nil) end)
        Embedded.outage(Repo, all: true)
        {:ok, view, html} = live(build_conn(), path)
        assert html =~ "Loading the user"
        assert render(view) =~ "Loading all"

        Embedded.outage(Repo, nil)
        Sync.settle(Repo)
        assert render(view) =~ "user: Ada"
        assert render(view) =~ "users: Ada"
      end

      test "keeps the last result while the next one loads", %{path: path, tenant: tenant} do
        Repo.insert!(%User{id: "2", name: "Bea"}, prefix: tenant)
        {:ok, view, _html} = live(build_conn(), path)
        Sync.settle(Repo)
        assert render(view) =~ "user: Ada"
        render_hook(view, "show", %{"id" => "2"})
        Sync.settle(Repo)
        assert render(view) =~ "user: Bea"
      end

      test "says why it has failed", %{tenant: tenant} do
        {:ok, view, _html} = live(build_conn(), "/#{tenant.id}/users/9?on_missing=raise")
        Sync.settle(Repo)
        assert render(view) =~ "Failed: there is no EctoFoundationDB.SyncUser"
      end

      test "answers 404 where it waits for a record that is missing", %{tenant: tenant} do
        path = "/#{tenant.id}/users/9?on_missing=raise&wait=yes"

        assert {404, _headers, _body} = assert_error_sent(404, fn -> get(build_conn(), path) end)
      end
    end

    describe "async: true in any process" do
      test "is loading, then ok, later values too", %{state: state} do
        state = async(state, "1")
        assert state.assigns.user == AsyncResult.loading()
        assert Sync.watching?(state, Repo, :user)
        state = until(state, ok?(:user))
        assert %AsyncResult{result: %User{name: "Ada"} = user, failed: nil} = state.assigns.user

        Repo.update!(user, name: "Bea")
        state = until(state, &(&1.user.result.name == "Bea"))
        assert state.assigns.user == AsyncResult.ok(%{user | name: "Bea"})
        assert Sync.cancel(state, Repo, :user).assigns.user == AsyncResult.ok(nil)
      end

      test "in every sync function", %{state: state} do
        state =
          state
          |> Sync.sync_many(Repo, :many, User, ["1"], async: true)
          |> Sync.sync_many(Repo, :none, User, [], async: true)
          |> Sync.sync_all(Repo, :all, User, async: true)
          |> Sync.sync_all_by(Repo, :by, User, [team: "red"], async: true)
          |> Sync.sync(Repo, [%Sync.One{label: :one, schema: User, id: "1"}], async: true)

        assert state.assigns.none == AsyncResult.ok([])
        labels = [:many, :all, :by, :one]
        state = Enum.reduce(labels, state, &until(&2, ok?(&1)))
        ada = state.assigns.one.result
        assert ada.name == "Ada"
        for label <- [:many, :all, :by], do: assert(state.assigns[label].result == [ada])
        assert Sync.cancel_all(state, Repo).assigns.all == AsyncResult.ok([])
      end

      test "an :assign function and callbacks get the results", %{state: state} do
        test = self()
        assign = fn state, new -> update_in(state.assigns, &Map.merge(&1, new)) end

        heard = fn state, old ->
          send(test, {:heard, old, state.assigns})
          {:cont, state}
        end

        state =
          state
          |> Sync.attach_callback(Repo, :handle_assigns, heard)
          |> async("1", assign: assign)

        refute_received {:heard, _old, _assigns}
        state = until(state, ok?(:user))
        loading = AsyncResult.loading()
        ada = state.assigns.user
        assert_received {:heard, %{user: ^loading}, %{user: ^ada}}

        Repo.update!(ada.result, name: "Bea")
        until(state, &(&1.user.result.name == "Bea"))
        assert_received {:heard, %{user: ^ada}, %{user: %AsyncResult{result: %{name: "Bea"}}}}
      end

      test "a missing record is nil, or a failure with on_missing: :raise", %{state: state} do
        assert until(async(state, "9"), ok?(:user)).assigns.user == AsyncResult.ok(nil)
        state = async(state, "8", on_missing: :raise)
        state = until(state, & &1.user.failed)
        assert %AsyncResult{ok?: false, failed: %NoResultsError{}} = state.assigns.user
        refute Sync.watching?(state, Repo, :user)
        # Another attempt is not in the way of it.
        assert until(async(state, "1"), ok?(:user)).assigns.user.result.name == "Ada"
      end

      test "a label is cancelled, or synced again, before its results are there", context do
        %{state: state} = context
        cancelled = state |> async("1") |> Sync.cancel(Repo, :user)
        assert cancelled.assigns.user == AsyncResult.ok(nil)
        refute Sync.watching?(cancelled, Repo, :user)

        again = state |> async("9") |> async("1")
        assert until(again, ok?(:user)).assigns.user.result.name == "Ada"

        waiting = state |> async("9") |> Sync.sync_one(Repo, :user, User, "1")
        assert %User{name: "Ada"} = waiting.assigns.user
        Sync.settle(Repo)
        refute_received _anything
      end

      test "a synced label loads with its last result", %{state: state} do
        state = state |> async("1") |> until(ok?(:user))
        ada = state.assigns.user
        state = async(state, "9")
        assert state.assigns.user == AsyncResult.loading(ada)
        assert until(state, &(&1.user == AsyncResult.ok(nil)))
      end

      @tag :embedded
      test "fails after the timeout, and is ok when the database answers after all", context do
        %{state: state} = context
        on_exit(fn -> Embedded.outage(Repo, nil) end)
        Embedded.outage(Repo, all: true)
        state = async(state, "1", timeout: 50)
        state = until(state, & &1.user.failed)
        assert %AsyncResult{failed: %TimeoutError{timeout: 50}, ok?: false} = state.assigns.user
        Embedded.outage(Repo, nil)

        assert until(state, ok?(:user)).assigns.user ==
                 AsyncResult.ok(Repo.get(User, "1", prefix: state.private.tenant))
      end

      test "a list whose indexes are not known yet", %{state: state, tenant: tenant} do
        EctoFoundationDB.Layer.Tenants.forget_all(Repo)
        state = Sync.sync_all(state, Repo, :all, User, async: true)
        assert state.assigns.all == AsyncResult.loading()
        assert [%User{name: "Ada"}] = until(state, ok?(:all)).assigns.all.result
        assert tenant == state.private.tenant
      end

      test "a list without an index fails, and says what is missing", %{state: state} do
        state = Sync.sync_all_by(state, Repo, :all, User, [name: "Ada"], async: true)
        state = until(state, & &1.all.failed)
        assert Exception.message(state.assigns.all.failed) =~ "metadata"
        refute Sync.watching?(state, Repo, :all)
      end

      test "where a callback raises, the result comes again", %{tenant: tenant} do
        bad = :counters.new(1, [])

        sometimes = fn state, _old ->
          :counters.add(bad, 1, 1)
          if :counters.get(bad, 1) == 1, do: raise("once")
          {:cont, state}
        end

        state = tenant |> state() |> Sync.attach_callback(Repo, :handle_assigns, sometimes)
        state = async(state, "1")
        assert_receive message
        assert_raise RuntimeError, "once", fn -> Sync.handle_ready(Repo, message, state) end
        assert until(state, ok?(:user)).assigns.user.result.name == "Ada"
      end

      test "1,000 pages at once", %{tenant: tenant} do
        pages = for _ <- 1..1_000, do: SyncPage.start(Repo, tenant, &async(&1, "1"))
        Sync.settle(Repo)
        for page <- pages, do: assert(SyncPage.assigns(page).user.result.name == "Ada")
        for page <- pages, do: GenServer.stop(page)
      end
    end

    test "async: is true or false", %{state: state} do
      assert_raise ArgumentError, ~r/:async to be true or false/, fn ->
        async(state, "1", async: 1)
      end

      assert %{assigns: %{user: %User{}}} =
               Sync.sync_one(state, Repo, :user, User, "1", async: false)
    end
  end
end
