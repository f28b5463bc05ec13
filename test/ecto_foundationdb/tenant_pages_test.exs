defmodule EctoFoundationDB.TenantPagesTest do
  # Pages whose tenant is cleared, deleted, or deleted and created again, by their node and by another one:
  # a Repo on the same file, with a separate cache.
  use ExUnit.Case, async: true

  alias EctoFoundationDB.{Embedded, Sync, SyncRepo, Tenant}
  alias EctoFoundationDB.Exception.TenantGone
  alias EctoFoundationDB.SyncPage, as: Page
  alias EctoFoundationDB.SyncUser, as: User

  @moduletag :embedded

  for node <- [Here, There, Single] do
    defmodule Module.concat(__MODULE__, node) do
      use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
      use EctoFoundationDB.Migrator
      @impl true
      def migrations, do: EctoFoundationDB.SyncRepo.migrations()
    end
  end

  alias __MODULE__.{Here, Single, There}

  setup do
    file = Path.join(System.tmp_dir!(), "tenant_pages-#{System.unique_integer([:positive])}.fdb")
    on_exit(fn -> File.rm(file) end)
    for node <- [Here, There], do: start_supervised!({node, embedded: file, log: false})
    {:ok, database: file}
  end

  defp user(id, name \\ "Ada"), do: %User{id: id, name: name, team: "red"}

  # A page that syncs a record, records, a list of all and a list by an index, and reports stale labels.
  defp page(repo, tenant) do
    test = self()

    Page.start(repo, tenant, fn state ->
      state
      |> Sync.attach_callback(repo, :told, :handle_stale, fn state, reasons ->
        send(test, {:stale, self(), reasons})
        {:cont, state}
      end)
      |> Sync.sync_one(repo, :one, User, "u1")
      |> Sync.sync_many(repo, :many, User, ["u1", "u2"])
      |> Sync.sync_all(repo, :all, User)
      |> Sync.sync_all_by(repo, :team, User, team: "red")
    end)
  end

  defp empty?(assigns), do: match?(%{one: nil, many: [], all: [], team: []}, assigns)

  defp shows?(assigns, name),
    do:
      match?(
        %{one: %{name: ^name}, many: [%{name: ^name}], all: [%{name: ^name}], team: [_]},
        assigns
      )

  for {node, who} <- [{Here, "its node"}, {There, "another node"}] do
    test "a page of a tenant that #{who} clears is empty, not stale, and continues" do
      tenant = Tenant.open!(Here, "cleared")
      Here.insert!(user("u1"), prefix: tenant)
      page = page(Here, tenant)
      assert shows?(Page.assigns(page), "Ada")

      for name <- ["Bea", "Cy"] do
        Tenant.clear(unquote(node), "cleared")
        assert Page.await(page, &empty?/1)
        Here.insert!(user("u1", name), prefix: tenant)
        assert Page.await(page, &shows?(&1, name))
      end

      refute_received {:stale, ^page, _reasons}
    end

    test "a page of a tenant that #{who} deletes is empty, and gets the reason" do
      node = unquote(node)
      tenant = Tenant.open!(Here, "deleted")
      Here.insert!(user("u1"), prefix: tenant)
      page = page(Here, tenant)
      assert shows?(Page.assigns(page), "Ada")

      Tenant.clear_delete!(node, "deleted")
      assert Page.await(page, &empty?/1)
      labels = told(page, %{})
      assert Enum.sort(Map.keys(labels)) == [:all, :many, :one, :team]
      for {_label, reason} <- labels, do: assert(%TenantGone{tenant: ^tenant} = reason)

      # A new one of the same name is a different one: a page that opens it follows that.
      again = Tenant.open!(node, "deleted")
      node.insert!(user("u1", "Bea"), prefix: again)
      another = page(Here, Tenant.open!(Here, "deleted"))
      assert shows?(Page.assigns(another), "Bea")
      node.update!(user("u1", "Bea"), [name: "Cy"], prefix: again)
      assert Page.await(another, &shows?(&1, "Cy"))
      assert empty?(Page.assigns(page))
      assert_raise TenantGone, fn -> sync(Here, tenant) end
    end
  end

  # The reasons that a page gets, until there is one for each of its labels.
  defp told(_page, labels) when map_size(labels) == 4, do: labels

  defp told(page, labels) do
    assert_receive {:stale, ^page, reasons}
    told(page, Map.merge(labels, Map.reject(reasons, fn {_label, reason} -> is_nil(reason) end)))
  end

  defp sync(repo, tenant),
    do: Sync.sync_all(%{assigns: %{}, private: %{tenant: tenant}}, repo, :all, User)

  test "a page of a Repo with one tenant finds the new one when it mounts", context do
    start_supervised!({Single, embedded: context.database, log: false, tenant_id: "main"})
    Single.insert!(user("u1"))
    assert shows?(Page.assigns(page(Single, nil)), "Ada")

    for node <- [Single, There] do
      Tenant.clear_delete!(node, "main")
      assert empty?(Page.assigns(page(Single, nil)))
      Single.insert!(user("u1", "Bea"))
      assert shows?(Page.assigns(page(Single, nil)), "Bea")
    end
  end

  test "pages that open their tenant when they mount share the reads" do
    tenant = Tenant.open!(Here, "mounted")
    for i <- 1..20, do: Here.insert!(user("u#{i}"), prefix: tenant)
    cost = fn -> Map.take(Embedded.stats(Here), [:reads, :read_versions, :commits]) end
    before = cost.()
    test = self()

    pages =
      for _ <- 1..2_000 do
        spawn_link(fn ->
          sync(Here, Tenant.open!(Here, "mounted"))
          send(test, :up)
          receive do: (:stop -> :ok)
        end)
      end

    for _ <- pages, do: assert_receive(:up, 60_000)
    now = cost.()
    assert now.reads - before.reads <= 100
    assert now.read_versions - before.read_versions <= 100
    assert now.commits == before.commits
    for page <- pages, do: send(page, :stop)
    SyncRepo.eventually(fn -> Sync.stats(Here).subscriptions end, &(&1 == 0))
  end
end
