if Code.ensure_loaded?(Phoenix.LiveDashboard.PageBuilder) and
     Code.ensure_loaded?(Phoenix.LiveViewTest) do
  defmodule EctoFoundationDB.DashboardApp do
    # The smallest application of Phoenix that has a dashboard.

    defmodule Router do
      use Phoenix.Router
      import Phoenix.LiveDashboard.Router

      pipeline :browser do
        plug(:fetch_session)
        plug(:fetch_query_params)
      end

      scope "/" do
        pipe_through(:browser)

        live_dashboard("/dashboard",
          metrics: EctoFoundationDB.Telemetry,
          additional_pages: [
            foundationdb:
              {EctoFoundationDB.DashboardPage,
               repos: [EctoFoundationDB.SyncRepo, EctoFoundationDB.NoRepo]}
          ]
        )
      end
    end

    defmodule Endpoint, do: use(EctoFoundationDB.TestEndpoint, router: Router)

    def start do
      {:ok, _apps} = Application.ensure_all_started(:phoenix_live_dashboard)
      pubsub = EctoFoundationDB.DashboardApp.PubSub
      EctoFoundationDB.TestEndpoint.start(Endpoint, pubsub_server: pubsub)
    end
  end

  defmodule EctoFoundationDB.DashboardPageTest do
    use ExUnit.Case, async: false
    import Phoenix.ConnTest
    import Phoenix.LiveViewTest

    alias EctoFoundationDB.{DashboardPage, Embedded, Sync, SyncPage}
    alias EctoFoundationDB.SyncRepo, as: Repo
    alias EctoFoundationDB.SyncUser, as: User

    @endpoint EctoFoundationDB.DashboardApp.Endpoint
    @path "/dashboard/foundationdb"

    setup_all do
      EctoFoundationDB.DashboardApp.start()
      :ok
    end

    setup do
      tenant = Repo.tenant()
      Repo.insert!(%User{id: "1", name: "Ada", team: "red"}, prefix: tenant)
      Repo.insert!(%User{id: "2", name: "Eva", team: "blue"}, prefix: tenant)
      %{tenant: tenant}
    end

    defp page(tenant, sync), do: SyncPage.start(Repo, tenant, sync)

    defp rows(view) do
      Regex.scan(~r/<tr[^>]*>.*?<\/tr>/s, view |> element("#live-queries tbody") |> render())
    end

    test "shows the database, transactions and live queries", %{tenant: tenant} do
      for _ <- 1..2, do: page(tenant, &Sync.sync_one(&1, Repo, :user, User, "1"))
      page(tenant, &Sync.sync_one(&1, Repo, :user, User, "2"))
      page(tenant, &Sync.sync_all(&1, Repo, :users, User))
      {:ok, view, html} = live(build_conn(), @path <> "?search=#{tenant.id}&limit=50")

      assert html =~ "answers in"
      assert html =~ "Conflicts (1020)"
      assert html =~ "Watches"
      assert [[most] | _] = rows = rows(view)
      assert length(rows) == 3
      assert most =~ ~s(record &quot;1&quot;)
      assert Enum.any?(rows, fn [row] -> row =~ "all" and row =~ "users" end)

      refute html =~ "give no answer"
    end

    test "is sorted, searched and refreshed", %{tenant: tenant} do
      page(tenant, &Sync.sync_one(&1, Repo, :user, User, "1"))
      {:ok, view, _html} = live(build_conn(), @path <> "?search=#{tenant.id}&limit=50")
      assert [_] = rows(view)

      page(tenant, &Sync.sync_all(&1, Repo, :users, User))
      send(view.pid, :refresh)
      assert [_, _] = rows(view)

      {:ok, view, _html} =
        live(build_conn(), @path <> "?search=#{tenant.id}&limit=50&sort_by=records&sort_dir=desc")

      assert [[first], [_second]] = rows(view)
      assert first =~ "all"

      {:ok, view, _html} = live(build_conn(), @path <> "?search=no-such-tenant&limit=50")
      assert rows(view) == []
    end

    @tag :embedded
    test "a database that is away is shown as that", %{tenant: tenant} do
      page(tenant, &Sync.sync_one(&1, Repo, :user, User, "1"))
      on_exit(fn -> Embedded.outage(Repo, nil) end)
      Embedded.outage(Repo, all: true)
      {:ok, _view, html} = live(build_conn(), @path)
      assert html =~ "unreachable since"
    end

    test "a Repo that does not run is no crash" do
      {:ok, _view, html} = live(build_conn(), @path <> "?nav=EctoFoundationDB.NoRepo")
      assert html =~ "No answer"
      assert html =~ "EctoFoundationDB.NoRepo"
    end

    test "its options are checked" do
      assert_raise ArgumentError, ~r/expects repos: \[MyApp.Repo\], got: nil/, fn ->
        DashboardPage.init([])
      end
    end

    test "metrics are of events that there are" do
      events =
        for metric <- EctoFoundationDB.Telemetry.metrics(), uniq: true, do: metric.event_name

      assert [:ecto_foundationdb, :transaction] in events
      {:docs_v1, _, _, _, %{"en" => doc}, _, _} = Code.fetch_docs(EctoFoundationDB.Telemetry)
      for event <- events, do: assert(doc =~ "`#{inspect(event)}`")
    end
  end
end
