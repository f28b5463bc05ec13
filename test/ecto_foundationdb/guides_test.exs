defmodule EctoFoundationDB.GuidesTest do
  # The guides' examples, run.
  use ExUnit.Case, async: true

  alias EctoFoundationDB.{Guides, Migrator, Sync, Tenant}
  alias EctoFoundationDB.Exception.Unsupported

  # What an application has that the guides do not show.
  @schemas """
  defmodule MyApp.Account do
    use EctoFoundationDB.TestSchema, source: "accounts", fields: [id: :id, balance: :integer]
  end

  defmodule MyApp.Post do
    use EctoFoundationDB.TestSchema, source: "posts", fields: [id: :string, title: :string]
  end
  """

  @user """
  defmodule MyApp.User do
    use EctoFoundationDB.TestSchema,
      source: "users",
      fields: [id: :string, name: :string, dept: :string, age: :integer, active: :boolean],
      autogenerate_id: {:id, :id, :binary_id}
  end
  """

  @repo """
  defmodule MyApp.Repo do
    use EctoFoundationDB.Repo, otp_app: :my_app
  end
  """

  @tenant ~S|tenant = Tenant.open!(Repo, "default")|

  test "getting started" do
    %{binding: binding, modules: modules, namespace: namespace} =
      Guides.run("guides/getting_started.md", MyApp.GettingStarted, [
        {nil, @schemas},
        {"from = Repo.get!(Account, 1)",
         "for id <- 1..2, do: Repo.insert!(%Account{id: id, balance: 10}, prefix: tenant)"},
        {"Repo.async_get(User",
         ~S|Repo.insert!(%User{id: "u1", name: "Ada", dept: "eng"}, prefix: tenant)|},
        {"Sync.sync_all(socket", "socket = %{assigns: %{}, private: %{tenant: tenant}}"}
      ])

    repo = Module.concat(namespace, Repo)
    user = Module.concat(namespace, User)
    tenant = binding[:tenant]

    assert [%{balance: 0}, %{balance: 20}] =
             repo.all(Module.concat(namespace, Account), prefix: tenant)

    [_deps, page, list] = modules
    socket = %{assigns: %{}, private: %{}}
    {:ok, page} = page.mount(%{"id" => "u1"}, %{}, socket)
    assert page.assigns.user.dept == "eng"
    Sync.cancel_all(page, repo)

    {:ok, list} = list.mount(%{}, %{}, socket)
    assert [%{id: "u1"}] = list.private.streams.users

    list =
      for {change, ids} <- [
            {&repo.insert!(struct!(user, id: &1), prefix: tenant), ["u0", "u1"]},
            {&repo.update!(struct!(user, id: &1), [name: "Ada"], prefix: tenant), ["u0", "u1"]},
            {&repo.delete!(struct!(user, id: &1), prefix: tenant), ["u1"]}
          ],
          reduce: list do
        list ->
          change.("u0")
          list = follow(repo, list)
          assert for(user <- list.private.streams.users, do: user.id) == ids
          assert list.private.streams.users == list.assigns.users
          list
      end

    Sync.cancel_all(list, repo)
  end

  # The list of the guide that is no stream has messages, too.
  defp follow(repo, list) do
    assert_receive {ref, :ready} when is_reference(ref), 60_000

    case Sync.handle_ready(repo, {ref, :ready}, list) do
      {:halt, list} -> list
      {:cont, list} -> follow(repo, list)
    end
  end

  test "the README" do
    %{modules: [page], namespace: namespace} =
      Guides.run("README.md", MyApp.Readme, [{nil, @user}])

    repo = Module.concat(namespace, Repo)
    user = Module.concat(namespace, User)
    repo.insert!(struct!(user, id: "u1", dept: "eng"), prefix: Tenant.open!(repo, "acme"))

    {:ok, page} = page.mount(%{"id" => "u1"}, %{}, %{assigns: %{}, private: %{}})
    assert page.assigns.user.dept == "eng"

    page =
      page
      |> Sync.sync_many(repo, :users, user, ["u1", "u2"])
      |> Sync.sync_all(repo, :all, user)
      |> Sync.sync_all_by(repo, :engineers, user, dept: "eng")

    assert %{users: [%{}], all: [%{}], engineers: [%{id: "u1"}]} = page.assigns
    Sync.cancel_all(page, repo)
  end

  test "tenants" do
    %{binding: binding, namespace: namespace} =
      Guides.run("guides/tenants.md", MyApp.Tenants, [
        {nil, @user},
        {nil, @repo},
        {"put_tenant(nil)",
         ~S|user = Repo.insert!(%User{id: "u1"}, prefix: tenant); other = Tenant.open!(Repo, "other")|}
      ])

    repo = Module.concat(namespace, Repo)
    assert Enum.sort(Tenant.list(repo)) == ["acme", "other"]
    assert [%{id: "u1"}] = repo.all(Module.concat(namespace, User), prefix: binding[:other])
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
        {"Repo.all(User, where: [dept: \"eng\"]",
         ~S|Repo.insert!(%User{id: "u1", dept: "eng", age: 36}, prefix: tenant)|},
        {"Repo.all(Reading",
         """
         readings = for i <- 1..3, do: %Reading{sensor: "s1", value: 1.0 * i}
         Repo.transactional(tenant, fn -> Repo.async_insert_all!(Reading, readings) end)
         socket = %{assigns: %{}, private: %{tenant: tenant}}
         """},
        {"Repo.delete_all(User, step: 1000",
         "Repo.insert!(%User{dept: \"old\"}, prefix: tenant)"},
        {"Indexer.all(", ~S|Repo.insert!(%Post{id: "p1", title: "Hello, world"}, prefix: tenant)|}
      ])

    assert [%{id: "p1", title: "Hello, world"}] = posts
    repo = Module.concat(namespace, Repo)
    tenant = binding[:tenant]

    for schema <- [User, Reading],
        do: assert(repo.all(Module.concat(namespace, schema), prefix: tenant) == [])
  end

  test "migrations in production" do
    %{namespace: namespace} =
      Guides.run("guides/migrations_in_production.md", MyApp.Migrations, [
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
    repo.insert!(struct!(user, id: "u1"), prefix: tenant)
    assert EctoFoundationDB.Indexer.SchemaMetadata.inserts(user, prefix: tenant) == 1
    assert Migrator.pending_versions(repo, tenant) == []

    assert_raise Unsupported, fn -> repo.all(user, where: [name: "Ada"], prefix: tenant) end
  end

  test "moving from ecto_foundationdb: the Repo is declared as it says" do
    [{code, line}] = Guides.blocks("guides/moving_from_ecto_foundationdb.md")
    [_before, uses] = String.split(code, "# after\n")
    assert uses =~ "use EctoFoundationDB.Repo"
    repo = Module.concat(MyApp.Moving, Repo)
    Code.eval_string("defmodule #{inspect(repo)} do\n#{uses}end", [], line: line)
    assert {:ok, _pid} = repo.start_link(Guides.config(MyApp.Moving))
    assert %Tenant{} = Tenant.open!(repo, "default")
  end

  test "testing: the settings are a Repo's" do
    assert %{modules: []} = Guides.run("guides/testing.md", MyApp.Testing, [])
  end

  # The tests in the guide are tests of this suite. Faults are for all who use a Repo: those who cope with
  # them have another.
  @indexed """
  defmodule MyApp.Repo do
    use EctoFoundationDB.Repo, otp_app: :my_app
    use EctoFoundationDB.Migrator
    use EctoFoundationDB.Migration

    @impl EctoFoundationDB.Migrator
    def migrations, do: [{0, __MODULE__}]

    @impl EctoFoundationDB.Migration
    def change, do: [create(index(MyApp.User, [:name]))]
  end
  """

  given = [@schemas, @user, @indexed]
  Guides.tests("guides/testing.md", MyApp.Tests, given, &(not (&1 =~ "faults(")))

  goes_on = ~S"""
  @moduletag :embedded

  test "on a bad day everything goes on", %{tenant: tenant} do
    for i <- 1..20, do: MyApp.Repo.insert!(%MyApp.User{id: "#{i}"}, prefix: tenant)
    assert length(MyApp.Repo.all(MyApp.User, prefix: tenant)) == 20
  end
  """

  faulty? = &(&1 =~ "CaseTemplate" or &1 =~ "faults(")
  Guides.tests("guides/testing.md", MyApp.FaultyTests, given, faulty?, goes_on)
end
