defmodule EctoFoundationDB.RoundTripsTest do
  # What each operation asks of the database: the engine counts read versions, reads and commits. Reads of one
  # call travel together, so the calls are counted, too.
  use ExUnit.Case, async: true

  import EctoFoundationDB.LayerCase, only: [assert_calls: 2]

  alias EctoFoundationDB.{ConflictError, Embedded, LayerCase, Tenant, Transaction, UniqueError}
  alias EctoFoundationDB.Exception.{TenantGone, Unsupported}
  alias EctoFoundationDB.Layer.{Metadata, Tenants}

  @moduletag :embedded

  defmodule Note do
    use EctoFoundationDB.TestSchema,
      source: "notes",
      fields: [id: :binary_id, title: :string, author: :string],
      autogenerate_id: {:id, :id, :binary_id}
  end

  defmodule Member do
    use EctoFoundationDB.TestSchema,
      source: "members",
      fields: [id: :binary_id, email: :string],
      autogenerate_id: {:id, :id, :binary_id}
  end

  defmodule Indexes do
    use EctoFoundationDB.Migration
    @impl true
    def change do
      [
        create(metadata(Note)),
        create(index(Note, [:author])),
        create(index(Member, [:email], unique: true))
      ]
    end
  end

  defmodule OneMore do
    use EctoFoundationDB.Migration
    @impl true
    def change, do: [create(index(Note, [:title]))]
  end

  defmodule UniqueTitles do
    use EctoFoundationDB.Migration
    @impl true
    def change, do: [create(index(Note, [:title], unique: true))]
  end

  # Two nodes: Repos of one file, each with its own cache.
  for node <- [Here, There] do
    defmodule Module.concat(__MODULE__, node) do
      use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
      use EctoFoundationDB.Migrator
      @impl true
      def migrations, do: [{1, Indexes}]
    end
  end

  for {name, migration} <- [Later: OneMore, Uniquely: UniqueTitles] do
    defmodule Module.concat(__MODULE__, name) do
      use EctoFoundationDB.Migrator
      @migration migration
      @impl true
      def migrations, do: [{1, Indexes}, {2, @migration}]
    end
  end

  alias __MODULE__.{Here, Later, There, Uniquely}

  setup do
    name = "round_trips-#{System.os_time()}-#{System.unique_integer([:positive])}.fdb"
    file = Path.join(System.tmp_dir!(), name)
    on_exit(fn -> File.rm(file) end)
    for node <- [Here, There], do: start_supervised!({node, embedded: file, log: false})
    tenant = Tenant.open!(Here, "mine")

    # The node has seen all indexes.
    for record <- [%Note{id: "n1", title: "One", author: "Ada"}, %Member{id: "m1", email: "m1"}],
        do: Here.insert!(record, prefix: tenant)

    {:ok, tenant: tenant}
  end

  # Read versions, reads and commits, and what the function gives.
  defp asked(fun) do
    before = Embedded.stats(Here)
    result = fun.()
    now = Embedded.stats(Here)
    {for(name <- [:read_versions, :reads, :commits], do: now[name] - before[name]), result}
  end

  defp cost(fun), do: fun |> asked() |> elem(0)

  describe "an insert" do
    test "with an id that is generated reads nothing", %{tenant: tenant} do
      insert = fn -> Here.insert!(%Note{title: "Two", author: "Ada"}, prefix: tenant) end
      assert {[1, 0, 1], note} = asked(insert)
      assert Here.get!(Note, note.id, prefix: tenant).title == "Two"
      assert_calls([:commit], fn _ -> insert.() end)
      assert LayerCase.stray_entries(tenant, Note) == []
    end

    test "reads nothing for many ids, and in a transaction of several", %{tenant: tenant} do
      rows = for n <- 1..20, do: %{title: "Title #{n}", author: "Bea"}
      assert [1, 0, 1] = cost(fn -> Here.insert_all(Note, rows, prefix: tenant) end)

      assert [1, 0, 1] =
               cost(fn ->
                 Here.transactional(tenant, fn ->
                   for n <- 1..3, do: Here.insert!(%Note{title: "#{n}", author: "Cy"})
                 end)
               end)

      assert length(Here.all(Note, where: [author: "Bea"], prefix: tenant)) == 20
      assert length(Here.all(Note, where: [author: "Cy"], prefix: tenant)) == 3
    end

    test "with a given id looks for it, once", %{tenant: tenant} do
      insert = fn id -> Here.insert(%Note{id: id, author: "Ada"}, prefix: tenant) end
      assert {[1, 1, 1], {:ok, _}} = asked(fn -> insert.("n2") end)
      assert {[1, 1, 0], {:error, %ConflictError{}}} = asked(fn -> insert.("n2") end)
      assert_calls([:run, :commit], &insert.("x#{&1}"))
    end

    test "that overwrites reads nothing", %{tenant: tenant} do
      note = %Note{id: "n1", title: "Other", author: "Bea"}
      overwrite = fn -> Here.insert!(note, prefix: tenant, conflict_target: []) end
      assert cost(overwrite) == [1, 0, 1]
    end

    test "looks into unique indexes, whatever the id is", %{tenant: tenant} do
      insert = fn email -> Here.insert(%Member{email: email}, prefix: tenant) end
      assert {[1, 1, 1], {:ok, _}} = asked(fn -> insert.("m2") end)
      assert {:error, %UniqueError{}} = insert.("m2")
    end
  end

  test "an update and a delete are one read and one commit", %{tenant: tenant} do
    note = Here.get!(Note, "n1", prefix: tenant)
    assert cost(fn -> Here.update!(note, title: "Changed", author: "Bea") end) == [1, 1, 1]
    assert_calls([:run, :commit], &Here.update!(note, title: "#{&1}"))
    assert cost(fn -> Here.delete!(note) end) == [1, 1, 1]
    assert LayerCase.stray_entries(tenant, Note) == []
  end

  test "an index query is one mapped range, and gets are one read each", %{tenant: tenant} do
    rows = for n <- 1..20, do: %{id: "r#{n}", title: "Title #{n}", author: "Bea"}
    Here.insert_all(Note, rows, prefix: tenant)
    query = fn -> Here.all(Note, where: [author: "Bea"], prefix: tenant) end
    assert {[1, 1, 0], [_ | _]} = asked(query)
    assert_calls([:run], fn _ -> query.() end)
    assert cost(fn -> Here.get!(Note, "n1", prefix: tenant) end) == [1, 1, 0]
    assert cost(fn -> Here.all(Note, prefix: tenant) end) == [1, 1, 0]

    gets = fn ->
      Here.transactional(tenant, fn ->
        Here.await(for n <- 1..20, do: Here.async_get(Note, "r#{n}"))
      end)
    end

    assert {[1, 20, 0], notes} = asked(gets)
    assert Enum.map(notes, & &1.id) == Enum.map(rows, & &1.id)
  end

  describe "what the node presumes is confirmed by the commit" do
    test "a new index of another node gets its entry", %{tenant: tenant} do
      Tenant.open!(There, "mine", migrator: Later, log: false)
      note = Here.insert!(%Note{title: "New", author: "Ada"}, prefix: tenant)
      assert LayerCase.stray_entries(tenant, Note) == []
      again = Tenant.open!(There, "mine", migrator: Later, log: false)
      assert [found] = There.all(Note, where: [title: "New"], prefix: again)
      assert found.id == note.id
      # One attempt that learns of it, and one that reads.
      assert cost(fn -> Here.insert!(%Note{title: "Next"}, prefix: tenant) end) == [1, 0, 1]
    end

    test "a new unique index of another node is looked into", %{tenant: tenant} do
      Tenant.open!(There, "mine", migrator: Uniquely, log: false)
      assert {:error, %UniqueError{}} = Here.insert(%Note{title: "One"}, prefix: tenant)
    end

    test "a conflict target that another node has made an index for is found", %{tenant: tenant} do
      insert = fn ->
        Here.insert!(%Note{title: "One", author: "Bea"},
          prefix: tenant,
          on_conflict: {:replace, [:author]},
          conflict_target: [:title]
        )
      end

      assert_raise Unsupported, ~r/conflict_target: \[:title\]/, insert
      Tenant.open!(There, "mine", migrator: Uniquely, log: false)
      insert.()
      assert [%{id: "n1", author: "Bea"}] = Here.all(Note, prefix: tenant)
    end

    test "a tenant that another node has deleted is gone", %{tenant: tenant} do
      Tenant.clear_delete!(There, "mine")
      insert = fn -> Here.insert!(%Note{title: "Lost"}, prefix: tenant) end
      assert_raise TenantGone, insert
      assert_raise TenantGone, insert
      assert LayerCase.dump(tenant) == []
    end

    test "another tenant's migration costs one attempt more, once", %{tenant: tenant} do
      other = Tenant.open!(There, "other")
      insert = fn -> Here.insert!(%Note{title: "Two"}, prefix: tenant) end
      insert.()
      LayerCase.operations(other, [Metadata.changed()])
      [2, _confirming, 1] = cost(insert)
      assert cost(insert) == [1, 0, 1]
      assert Tenant.confirmed_version(tenant) == Tenants.seen(Here)
    end

    test "an application's transaction runs again", %{tenant: tenant} do
      LayerCase.operations(Tenant.open!(There, "other"), [Metadata.changed()])

      ids =
        Here.transactional(tenant, fn ->
          send(self(), :attempt)
          # It has no say in it.
          try do
            for _ <- 1..2, do: Here.insert!(%Note{title: "Twice"}).id
          catch
            thrown -> thrown
          end
        end)

      assert_received :attempt
      assert_received :attempt
      refute_received :attempt
      notes = Here.all(Note, prefix: tenant)
      assert Enum.sort(for note <- notes, note.title == "Twice", do: note.id) == Enum.sort(ids)
    end
  end

  test "an insert whose commit's result got lost is done once", %{tenant: tenant} do
    Embedded.faults(Here, seed: 5, commit_unknown_result: 0.5)
    notes = for n <- 1..30, do: Here.insert!(%Note{title: "#{n}", author: "Ada"}, prefix: tenant)
    Embedded.faults(Here, nil)
    stored = Here.all(Note, where: [author: "Ada"], prefix: tenant)
    assert length(stored) == 31

    assert Enum.sort(["n1" | for(note <- notes, do: note.id)]) ==
             Enum.sort(for n <- stored, do: n.id)

    assert Transaction.in?() == false
  end
end
