defmodule EctoFoundationDB.PlainGuideTest do
  # Runs the examples of the guide to the plain Repo.
  use ExUnit.Case, async: true

  import ExUnit.CaptureIO, only: [with_io: 1]

  alias EctoFoundationDB.{Guides, Sync}

  test "the plain Repo" do
    %{value: state, namespace: namespace} =
      Guides.run("guides/plain_repo.md", MyApp.PlainRepo, [])

    assert ["Ada", "Cy"] = state.assigns.users |> Enum.map(& &1.name) |> Enum.sort()
    Sync.cancel_all(state, Module.concat(namespace, Repo))
  end

  # The notebook's database is embedded.
  @tag :embedded
  test "the notebook" do
    {values, output} = with_io(fn -> Guides.notebook("guides/sync.livemd") end)
    assert ["London", "Paris"] = for(city <- values, city in ["London", "Paris"], do: city)
    assert ["Ada", "Bea", "Cid", "Eva"] in values
    assert "Lima" in values
    assert List.last(values) == false
    assert output =~ "Ada in Paris, Bea in Madrid, Cid in Oslo, Eva in Oslo\n"
  end
end

if Code.ensure_loaded?(Ecto.Adapter) do
  defmodule EctoFoundationDB.GuidesTest do
    # Runs the examples of the guides.
    use ExUnit.Case, async: true

    alias EctoFoundationDB.{Guides, Migrator, Sync, Tenant}
    alias EctoFoundationDB.Exception.Unsupported

    # Parts of an application that the guides do not show.
    @schemas """
    defmodule MyApp.Account do
      use Ecto.Schema
      schema "accounts" do
        field :balance, :integer
      end
    end

    defmodule MyApp.Post do
      use Ecto.Schema
      schema "posts" do
        field :title, :string
        belongs_to :user, MyApp.User
        timestamps()
      end
    end
    """

    @user """
    defmodule MyApp.User do
      use Ecto.Schema
      schema "users" do
        field :name, :string
        field :email, :string
        field :dept, :string
        field :age, :integer
        field :active, :boolean
        has_many :posts, MyApp.Post
      end

      def changeset(user, params) do
        user |> Ecto.Changeset.cast(params, [:name, :email, :dept, :age]) |> Ecto.Changeset.unique_constraint(:email)
      end
    end
    """

    @repo """
    defmodule MyApp.Repo do
      use Ecto.Repo, otp_app: :my_app, adapter: Ecto.Adapters.FoundationDB
    end
    """

    @tenant ~S|tenant = Tenant.open!(Repo, "default")|

    test "getting started" do
      %{binding: binding, modules: modules, namespace: namespace} =
        Guides.run("guides/getting_started.md", MyApp.GettingStarted, [
          {nil, @schemas},
          {"Sync.sync_all(socket", "socket = %{assigns: %{}, private: %{tenant: tenant}}"}
        ])

      [repo, user, post] = for name <- [Repo, User, Post], do: Module.concat(namespace, name)
      tenant = binding[:tenant]
      assert %{age: 37, name: "Ada"} = repo.get!(user, binding[:user].id, prefix: tenant)

      assert ["Birthday", "Hello"] =
               post |> repo.all(prefix: tenant) |> Enum.map(& &1.title) |> Enum.sort()

      [_deps, page, list] = modules
      socket = %{assigns: %{}, private: %{}}
      {:ok, page} = page.mount(%{"id" => "#{binding[:user].id}"}, %{}, socket)
      assert page.assigns.user.dept == "eng"
      Sync.cancel_all(page, repo)

      {:ok, shown} = list.mount(%{}, %{}, socket)
      assert %{count: 1, limit: 50} = Sync.window(shown, repo, :users)
      for id <- 100..159, do: repo.insert!(struct!(user, id: id), prefix: tenant)
      shown = follow(repo, shown)
      {:noreply, shown} = list.handle_event("older", %{}, shown)
      assert %{first: 0, count: 61, limit: 100} = Sync.window(shown, repo, :users)
      {:noreply, shown} = list.handle_event("newer", %{}, shown)
      assert %{first: 0, count: 61} = Sync.window(shown, repo, :users)
      Sync.cancel_all(shown, repo)
    end

    # Until all that was committed is shown. The list of the guide that is no stream has messages, too.
    defp follow(repo, list) do
      Sync.settle(repo)
      handle(repo, list)
    end

    defp handle(repo, list) do
      receive do
        {ref, :ready} when is_reference(ref) ->
          {_halt_or_cont, list} = Sync.handle_ready(repo, {ref, :ready}, list)
          handle(repo, list)
      after
        0 -> list
      end
    end

    test "the README" do
      %{modules: [page], namespace: namespace} =
        Guides.run("README.md", MyApp.Readme, [{nil, @schemas}, {nil, @user}])

      repo = Module.concat(namespace, Repo)
      user = Module.concat(namespace, User)
      repo.insert!(struct!(user, id: 1, dept: "eng"), prefix: Tenant.open!(repo, "acme"))

      {:ok, page} = page.mount(%{"id" => "1"}, %{}, %{assigns: %{}, private: %{}})
      assert page.assigns.user.dept == "eng"

      page =
        page
        |> Sync.sync_many(repo, :users, user, [1, 2])
        |> Sync.sync_all(repo, :all, user)
        |> Sync.sync_all_by(repo, :engineers, user, dept: "eng")

      assert %{users: [%{}], all: [%{}], engineers: [%{id: 1}]} = page.assigns
      Sync.cancel_all(page, repo)
    end

    test "tenants" do
      %{binding: binding, namespace: namespace} =
        Guides.run("guides/tenants.md", MyApp.Tenants, [
          {nil, @schemas},
          {nil, @user},
          {nil, @repo},
          {"put_tenant(nil)",
           ~S|user = Repo.insert!(%User{id: 7}, prefix: tenant); other = Tenant.open!(Repo, "other")|}
        ])

      repo = Module.concat(namespace, Repo)
      assert Enum.sort(Tenant.list(repo)) == ["acme", "other"]
      assert [%{id: 7}] = repo.all(Module.concat(namespace, User), prefix: binding[:other])
      assert Tenant.pack(binding[:tenant], {"my_app", "cursor", 7}) == binding[:key]
      assert binding[:first] < binding[:key] and binding[:key] < binding[:last]
    end

    test "indexes and queries" do
      %{value: posts, binding: binding, namespace: namespace} =
        Guides.run("guides/indexes_and_queries.md", MyApp.Indexes, [
          {nil, @schemas},
          {nil, @user},
          {nil, @repo},
          {nil, @tenant},
          {"u.age == 36), prefix",
           ~S|Repo.insert!(%User{dept: "eng", age: 36, name: "E"}, prefix: tenant)|},
          {"readings = from(r",
           """
           readings = for i <- 1..3, do: %Reading{sensor: "s1", value: 1.0 * i}
           Repo.transactional(tenant, fn -> Repo.async_insert_all!(Reading, readings) end)
           socket = %{assigns: %{}, private: %{tenant: tenant}}
           """},
          {"Repo.delete_all(User, step: 1000",
           "Repo.insert!(%User{dept: \"old\"}, prefix: tenant)"},
          {"Indexer.all(", ~S|Repo.insert!(%Post{title: "Hello, world"}, prefix: tenant)|}
        ])

      assert [%{title: "Hello, world"}] = posts
      repo = Module.concat(namespace, Repo)
      tenant = binding[:tenant]

      for schema <- [User, Reading],
          do: assert(repo.all(Module.concat(namespace, schema), prefix: tenant) == [])
    end

    test "live functions" do
      %{value: socket, namespace: namespace} =
        Guides.run("guides/live_functions.md", MyApp.LiveFunctions, [
          {nil, @schemas},
          {nil, @user},
          {nil, @repo},
          {nil, @tenant},
          {nil,
           """
           defmodule MyApp.IndexPosts do
             use EctoFoundationDB.Migration
             @impl true
             def change, do: [create(index(MyApp.Post, [:user_id])), create(metadata(MyApp.Post))]
           end
           """},
          {nil,
           """
           user = Repo.insert!(%User{name: "Ada"}, prefix: tenant)
           post = Repo.insert!(%Post{title: "Hello", user_id: user.id}, prefix: tenant)
           socket = %{assigns: %{}, private: %{tenant: tenant}}
           """}
        ])

      repo = Module.concat(namespace, Repo)
      assert %{board: %{name: "Ada", titles: ["Hello"]}, count: 1} = socket.assigns
      assert %{post: %{user: %{name: "Ada"}}, posts: [%{user: %{name: "Ada"}}]} = socket.assigns
      Sync.cancel_all(socket, repo)
    end

    test "migrations in production" do
      %{namespace: namespace} =
        Guides.run("guides/migrations_in_production.md", MyApp.Migrations, [
          {nil, @schemas},
          {nil, @user},
          {"CountUsers do",
           """
           defmodule MyApp.IndexUsers do
             use EctoFoundationDB.Migration
             @impl true
             def change, do: [create(index(MyApp.User, [:name]))]
           end
           """}
        ])

      repo = Module.concat(namespace, Repo)
      user = Module.concat(namespace, User)
      tenant = Tenant.open!(repo, "default")
      repo.insert!(struct!(user, id: 1), prefix: tenant)
      assert EctoFoundationDB.Indexer.SchemaMetadata.inserts(user, prefix: tenant) == 1
      assert Migrator.pending_versions(repo, tenant) == []

      assert_raise Unsupported, fn -> repo.all_by(user, [name: "Ada"], prefix: tenant) end
    end

    test "moving from ecto_foundationdb" do
      %{namespace: namespace} =
        Guides.run("guides/moving_from_ecto_foundationdb.md", MyApp.Moving, [])

      assert %Tenant{} = Tenant.open!(Module.concat(namespace, Repo), "default")
    end

    test "Phoenix's generators: the indexes" do
      given = """
      defmodule MyApp.Accounts.User do
        use Ecto.Schema
        schema "users" do
          field :email, :string
        end
      end

      defmodule MyApp.Accounts.UserToken do
        use Ecto.Schema
        schema "users_tokens" do
          field :token, :binary
          field :context, :string
          belongs_to :user, MyApp.Accounts.User
          timestamps(type: :utc_datetime, updated_at: false)
        end
      end

      defmodule MyApp.Blog.Post do
        use Ecto.Schema
        schema "posts" do
          belongs_to :user, MyApp.Accounts.User
        end
      end
      """

      assert %{migrations: [_, _]} =
               Guides.run("guides/phoenix_generators.md", MyApp.Generators, [
                 {nil, given},
                 {nil, @repo}
               ])
    end

    test "testing: the settings are a Repo's" do
      assert %{modules: []} = Guides.run("guides/testing.md", MyApp.Testing, [])
    end

    # The tests in the guide become tests of this suite. Faults affect all users of a Repo, so the tests that expect
    # them use another Repo.
    @indexed """
    defmodule MyApp.Repo do
      use Ecto.Repo, otp_app: :my_app, adapter: Ecto.Adapters.FoundationDB
      use EctoFoundationDB.Migrator
      use EctoFoundationDB.Migration

      @impl EctoFoundationDB.Migrator
      def migrations, do: [{0, __MODULE__}]

      @impl EctoFoundationDB.Migration
      def change, do: [create(index(MyApp.User, [:name]))]
    end
    """

    given = [@schemas, @user, @indexed]
    # A page's test needs a Phoenix application: test/live_view has it.
    runs? = &(not (&1 =~ "faults(" or &1 =~ "Phoenix.LiveViewTest"))
    Guides.tests("guides/testing.md", MyApp.Tests, given, runs?)

    goes_on = ~S"""
    @moduletag :embedded

    test "everything continues despite faults", %{tenant: tenant} do
      for i <- 1..20, do: MyApp.Repo.insert!(%MyApp.User{id: i}, prefix: tenant)
      assert length(MyApp.Repo.all(MyApp.User, prefix: tenant)) == 20
    end
    """

    faulty? = &(&1 =~ "CaseTemplate" or &1 =~ "faults(")
    Guides.tests("guides/testing.md", MyApp.FaultyTests, given, faulty?, goes_on)
  end
end
