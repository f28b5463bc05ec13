if Code.ensure_loaded?(Phoenix.LiveViewTest) do
  defmodule EctoFoundationDB.LiveViewStreamApp do
    # An application of Phoenix whose pages show streams.

    defmodule Page do
      use Phoenix.LiveView
      alias EctoFoundationDB.{Sync, SyncRepo, SyncUser, Tenant}

      @impl true
      def mount(%{"tenant" => tenant} = params, _session, socket),
        do:
          {:ok, socket |> put_tenant(tenant) |> assign(nested: params["nested"]) |> sync(params)}

      defp put_tenant(socket, tenant),
        do: put_private(socket, :tenant, Tenant.open!(SyncRepo, tenant))

      defp sync(socket, params) do
        opts =
          for {name, atom} <- [{"limit", :limit}, {"max", :max}, {"at", :at}],
              value = params[name],
              do: {atom, String.to_integer(value)}

        opts = if params["desc"], do: [{:order_by, [desc: :id]} | opts], else: opts
        opts = if params["by_name"], do: [{:order_by, [asc: :name]} | opts], else: opts
        opts = if params["async"], do: [{:async, true} | opts], else: opts

        socket =
          if params["own_ids"] && !socket.assigns[:streams],
            do: stream_configure(socket, :users, dom_id: &"own-#{&1.id}"),
            else: socket

        case params["team"] do
          nil -> Sync.sync_stream(socket, SyncRepo, :users, SyncUser, opts)
          team -> Sync.sync_stream_by(socket, SyncRepo, :users, SyncUser, [team: team], opts)
        end
      end

      @impl true
      def handle_params(%{"then" => team}, _uri, socket),
        do: {:noreply, sync(socket, %{"team" => team})}

      def handle_params(_params, _uri, socket), do: {:noreply, socket}

      @impl true
      def handle_event("more", %{"n" => n}, socket),
        do: {:noreply, Sync.more(socket, SyncRepo, :users, n)}

      def handle_event("more twice", %{"n" => n}, socket) do
        socket = Sync.more(socket, SyncRepo, :users, n)
        {:noreply, Sync.more(socket, SyncRepo, :users, n)}
      end

      def handle_event("sync", params, socket), do: {:noreply, sync(socket, params)}
      def handle_event("cancel", _, socket), do: {:noreply, Sync.cancel(socket, SyncRepo, :users)}

      @impl true
      def render(assigns) do
        ~H"""
        <p :if={is_struct(assigns[:users])}><%= if @users.ok?, do: "there", else: "loading" %></p>
        <ul id="users" phx-update="stream">
          <li :for={{dom_id, user} <- @streams.users} id={dom_id}>[<%= user.id %>:<%= user.name %>]</li>
        </ul>
        <div :if={@nested}>
          <%= live_render(@socket, EctoFoundationDB.LiveViewStreamApp.Nested, id: "nested", session: %{"tenant" => @nested}) %>
        </div>
        """
      end
    end

    defmodule Nested do
      use Phoenix.LiveView
      alias EctoFoundationDB.{Sync, SyncRepo, SyncUser, Tenant}

      @impl true
      def mount(_params, %{"tenant" => tenant}, socket) do
        socket = put_private(socket, :tenant, Tenant.open!(SyncRepo, tenant))
        {:ok, Sync.sync_stream(socket, SyncRepo, :people, SyncUser, order_by: [desc: :id])}
      end

      @impl true
      def render(assigns) do
        ~H"""
        <ul id="inner" phx-update="stream">
          <li :for={{dom_id, user} <- @streams.people} id={dom_id}>[<%= user.id %>:<%= user.name %>]</li>
        </ul>
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
        live("/:tenant/users", Page)
      end
    end

    defmodule Endpoint, do: use(EctoFoundationDB.TestEndpoint, router: Router)

    def start, do: EctoFoundationDB.TestEndpoint.start(Endpoint)
  end

  defmodule EctoFoundationDB.LiveViewStreamTest do
    use ExUnit.Case, async: true
    import Phoenix.ConnTest, except: [delete: 2]
    import Phoenix.LiveViewTest

    alias EctoFoundationDB.Sync
    alias EctoFoundationDB.SyncRepo, as: Repo
    alias EctoFoundationDB.SyncUser, as: User

    @endpoint EctoFoundationDB.LiveViewStreamApp.Endpoint

    setup_all do
      EctoFoundationDB.LiveViewStreamApp.start()
      :ok
    end

    setup do
      tenant = Repo.tenant()
      for id <- ~w(b d f h), do: insert(tenant, id, "name #{id}")
      %{tenant: tenant, path: "/#{tenant.id}/users"}
    end

    defp insert(tenant, id, name, team \\ "red") do
      user = %User{id: id, name: name, team: team}
      Repo.insert!(user, prefix: tenant, on_conflict: :replace_all)
    end

    defp delete(tenant, id), do: Repo.delete_all(User, where: [id: id], prefix: tenant)

    defp rows(html),
      do: for([_, id, name] <- Regex.scan(~r/\[(\w+):(.*?)\]/, html), do: {id, name})

    defp ids(html), do: for({id, _name} <- rows(html), do: id)

    # What the page shows now.
    defp shown(view) do
      Sync.settle(Repo)
      view |> render() |> ids()
    end

    test "both renders show the list, and the page follows it", %{tenant: tenant, path: path} do
      assert build_conn() |> get(path) |> html_response(200) |> ids() == ~w(b d f h)
      {:ok, view, html} = live(build_conn(), path)
      assert ids(html) == ~w(b d f h)
      insert(tenant, "a", "new")
      insert(tenant, "e", "new")
      insert(tenant, "z", "new")
      assert shown(view) == ~w(a b d e f h z)
      insert(tenant, "d", "changed")
      delete(tenant, "a")
      delete(tenant, "f")
      assert shown(view) == ~w(b d e h z)
      assert {"d", "changed"} in rows(render(view))

      # A page that connects again begins again.
      {:ok, again, _html} = live(build_conn(), path)
      assert shown(again) == ~w(b d e h z)
      Repo.delete_all(User, prefix: tenant)
      assert shown(again) == []
      assert shown(view) == []
    end

    test "the page keeps no record", %{tenant: tenant, path: path} do
      insert(tenant, "c", "only in the database")
      {:ok, view, html} = live(build_conn(), path)
      assert html =~ "only in the database"
      insert(tenant, "c", "still in the database")
      assert shown(view) == ~w(b c d f h)
      state = inspect(:sys.get_state(view.pid), limit: :infinity, printable_limit: :infinity)
      refute state =~ "in the database"
      refute state =~ "name b"
    end

    test "in the order of an index records move", %{tenant: tenant, path: path} do
      {:ok, view, _html} = live(build_conn(), path <> "?by_name=yes")
      assert shown(view) == ~w(b d f h)
      insert(tenant, "b", "name i")
      assert shown(view) == ~w(d f h b)
      insert(tenant, "h", "name a")
      insert(tenant, "d", "name z")
      assert shown(view) == ~w(h f b d)
    end

    test "a window, from both ends", %{tenant: tenant, path: path} do
      {:ok, view, _html} = live(build_conn(), path <> "?limit=3")
      insert(tenant, "c", "c")
      assert shown(view) == ~w(b c d)
      delete(tenant, "b")
      assert shown(view) == ~w(c d f)
      insert(tenant, "a", "a")
      insert(tenant, "aa", "a")
      assert shown(view) == ~w(a aa c)

      {:ok, view, _html} = live(build_conn(), path <> "?limit=3&desc=yes&at=0")
      assert shown(view) == ~w(d f h)
      insert(tenant, "i", "i")
      assert shown(view) == ~w(f h i)
      delete(tenant, "h")
      assert shown(view) == ~w(d f i)
      render_hook(view, "more", %{n: 2})
      assert shown(view) == ~w(aa c d f i)
    end

    test "more, in both directions, with bounded rows", %{tenant: tenant, path: path} do
      for n <- 10..40, do: insert(tenant, "n#{n}", "#{n}")
      {:ok, view, _html} = live(build_conn(), path <> "?limit=4&max=6")
      assert shown(view) == ~w(b d f h)
      assert view |> render_hook("more", %{n: 4}) |> ids() == ~w(f h n10 n11 n12 n13)
      assert view |> render_hook("more", %{n: 4}) |> ids() == ~w(n12 n13 n14 n15 n16 n17)
      delete(tenant, "b")
      insert(tenant, "n14", "changed")
      assert shown(view) == ~w(n13 n14 n15 n16 n17 n18)
      assert {"n14", "changed"} in rows(render(view))
      assert view |> render_hook("more", %{n: -2}) |> ids() == ~w(n11 n12 n13 n14 n15 n16)
      assert view |> render_hook("more", %{n: -100}) |> ids() == ~w(d f h n10 n11 n12)
      assert view |> render_hook("more", %{n: -1}) |> ids() == ~w(d f h n10 n11 n12)
      # Twice before the client hears of it.
      assert view |> render_hook("more twice", %{n: 2}) |> ids() == ~w(n11 n12 n13 n14 n15 n16)
      insert(tenant, "a", "a")
      assert shown(view) == ~w(n10 n11 n12 n13 n14 n15)
    end

    test "synced again before the first render, and later", %{tenant: tenant, path: path} do
      insert(tenant, "c", "c", "blue")
      insert(tenant, "e", "e", "blue")
      {:ok, view, html} = live(build_conn(), path <> "?then=blue")
      assert ids(html) == ~w(c e)
      assert shown(view) == ~w(c e)
      insert(tenant, "b", "b", "blue")
      assert shown(view) == ~w(b c e)
      assert view |> render_hook("sync", %{team: "red"}) |> ids() == ~w(d f h)
      assert view |> render_hook("sync", %{team: "red", limit: "2"}) |> ids() == ~w(d f)
      assert view |> render_hook("sync", %{}) |> ids() == ~w(b c d e f h)
      insert(tenant, "a", "a")
      assert shown(view) == ~w(a b c d e f h)
      assert view |> render_hook("cancel", %{}) |> ids() == []
      insert(tenant, "c", "changed")
      assert shown(view) == []
      assert view |> render_hook("sync", %{limit: "1"}) |> ids() == ~w(a)
    end

    test "what is not rendered yet is told once, with what comes then", %{tenant: tenant} do
      socket =
        %Phoenix.LiveView.Socket{transport_pid: self()}
        |> put_in([Access.key!(:private), :lifecycle], struct(Phoenix.LiveView.Lifecycle))
        |> Phoenix.LiveView.put_private(:tenant, tenant)
        |> Sync.sync_stream(Repo, :users, User, limit: 3)

      delete(tenant, "d")
      Sync.settle(Repo)
      assert_received {_ref, :ready} = message
      {:halt, socket} = Sync.handle_ready(Repo, message, socket)
      assert %{reset?: true, deletes: [], inserts: inserts} = socket.assigns.streams.users
      ids = for insert <- inserts, do: elem(insert, 0)
      assert Enum.sort(ids) == ~w(users-b users-f users-h)
    end

    test "callbacks of the page get the changes", %{tenant: tenant, path: path} do
      test = self()
      {:ok, view, _html} = live(build_conn(), path)

      attach = fn state ->
        tell = fn socket, changes ->
          send(test, changes)
          {:cont, socket}
        end

        %{state | socket: Sync.attach_callback(state.socket, Repo, :handle_assigns, tell)}
      end

      :sys.replace_state(view.pid, attach)
      insert(tenant, "e", "e")
      assert shown(view) == ~w(b d e f h)
      assert_received %{users: %Sync.Stream.Changes{placed: [{:insert, 2, %User{id: "e"}}]}}
    end

    test "with DOM ids of its own", %{tenant: tenant, path: path} do
      {:ok, view, _html} = live(build_conn(), path <> "?own_ids=yes&limit=3")
      assert has_element?(view, "#own-b")
      insert(tenant, "a", "a")
      assert shown(view) == ~w(a b d)
      refute has_element?(view, "#own-f")
    end

    test "in nested views, each by itself", %{tenant: tenant, path: path} do
      {:ok, view, _html} = live(build_conn(), path <> "?nested=#{tenant.id}&limit=2")
      nested = find_live_child(view, "nested")
      assert shown(nested) == ~w(h f d b)
      insert(tenant, "a", "a")
      assert shown(nested) == ~w(h f d b a)
      assert shown(view) == ~w(a b h f d b a)
      delete(tenant, "b")
      assert shown(nested) == ~w(h f d a)
      assert shown(view) == ~w(a d h f d a)
    end

    test "async", %{tenant: tenant, path: path} do
      html = build_conn() |> get(path <> "?async=yes") |> html_response(200)
      assert html =~ "loading"
      assert ids(html) == []
      {:ok, view, _html} = live(build_conn(), path <> "?async=yes")
      assert shown(view) == ~w(b d f h)
      assert render(view) =~ "there"
      delete(tenant, "d")
      assert shown(view) == ~w(b f h)
      assert render(view) =~ "there"
    end

    test "whatever is written, by several at once, the page shows the list", context do
      %{tenant: tenant, path: path} = context

      views =
        for query <- ["", "limit=5", "limit=5&desc=yes&at=0", "by_name=yes", "team=red"] do
          {:ok, view, _html} = live(build_conn(), path <> "?" <> query)
          view
        end

      for _round <- 1..60 do
        1..3
        |> Enum.map(fn _writer ->
          Task.async(fn -> for _ <- 1..:rand.uniform(3), do: write(tenant) end)
        end)
        |> Task.await_many(60_000)

        Sync.settle(Repo)
        [all, window, last, by_name, reds] = for view <- views, do: rows(render(view))
        users = Repo.all(User, prefix: tenant)
        expected = for user <- users, do: {user.id, user.name}
        assert all == expected
        assert window == Enum.take(expected, 5)
        assert last == Enum.take(expected, -5)
        assert by_name == Enum.sort_by(expected, fn {id, name} -> {name, id} end)
        assert reds == for(%{team: "red"} = user <- users, do: {user.id, user.name})
      end
    end

    defp write(tenant) do
      id = "n#{Enum.random(10..30)}"

      case :rand.uniform(3) do
        1 -> delete(tenant, id)
        _more -> insert(tenant, id, "#{Enum.random(10..99)}", Enum.random(~w(red blue)))
      end
    end
  end
end
