defmodule EctoFoundationDB.MetadataTest do
  # A node's cache of tenants' indexes, and the cost of validating it.
  use ExUnit.Case, async: true

  alias EctoFoundationDB.{Embedded, LayerCase, Tenant, Transaction}
  alias EctoFoundationDB.Layer.{Keys, Metadata, Tenants}
  alias EctoFoundationDB.SyncUser, as: User

  @moduletag :embedded

  defmodule Repo do
    use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
    use EctoFoundationDB.Migrator
    @impl true
    def migrations, do: EctoFoundationDB.SyncRepo.migrations()
  end

  defmodule Another do
    use EctoFoundationDB.Migration
    use EctoFoundationDB.Migrator

    @impl EctoFoundationDB.Migrator
    def migrations, do: EctoFoundationDB.SyncRepo.migrations() ++ [{1, __MODULE__}]

    @impl EctoFoundationDB.Migration
    def change do
      [
        drop(index(EctoFoundationDB.SyncUser, [:name])),
        create(index(EctoFoundationDB.SyncUser, [:name, :team]))
      ]
    end
  end

  setup do
    start_supervised!(
      {Repo, embedded: true, log: false, storage_id: "#{System.unique_integer()}"}
    )

    tenant = Tenant.open!(Repo, "here")
    other = Tenant.open!(Repo, "other")
    for i <- 1..3, do: Repo.insert!(%User{id: "u#{i}", name: "n#{i}", team: "t"}, prefix: tenant)
    named(tenant)
    {:ok, tenant: tenant, other: other}
  end

  defp named(tenant, name \\ "n1"), do: Repo.all(User, where: [name: name], prefix: tenant)
  defp bump(tenant), do: LayerCase.operations(tenant, [Metadata.changed()])

  defp reads(fun) do
    before = Embedded.stats(Repo).reads
    fun.()
    Embedded.stats(Repo).reads - before
  end

  test "a version change by others costs a source one check, and the cache stays", context do
    %{tenant: tenant, other: other} = context

    for use <- [
          fn -> named(tenant) end,
          fn -> Repo.update!(%User{id: "u1"}, [team: "u"], prefix: tenant) end
        ] do
      use.()
      usual = reads(use)
      {version, metadata} = Metadata.cached(tenant, "users")
      bump(other)

      # Of the tenant: its entry, its latest migration. Of the source: the index descriptions, the claim.
      assert reads(use) == usual + 4
      assert {newer, ^metadata} = Metadata.cached(tenant, "users")
      assert newer > version
      for _ <- 1..3, do: assert(reads(use) == usual)
    end
  end

  test "a known version change is checked beside the transaction's own reads", context do
    %{tenant: tenant, other: other} = context
    one_call = fn fun -> LayerCase.assert_calls([:run], fn _ -> fun.() end) end

    for _ <- 1..3 do
      bump(other)
      # Sees it.
      Repo.get(User, "u1", prefix: other)
      one_call.(fn -> named(tenant) end)
      one_call.(fn -> named(tenant) end)
    end
  end

  test "a real change is read, and planned again", %{tenant: tenant} do
    {_, %{fingerprint: before}} = Metadata.cached(tenant, "users")
    # By another node: this one does not know of it.
    known = Metadata.cached(tenant, "users")
    Tenant.open!(Repo, "here", migrator: Another)
    Tenants.delete(Repo, {tenant.prefix, "users"}, Metadata.cached(tenant, "users") || known)
    Tenants.put(Repo, {tenant.prefix, "users"}, known)

    assert [%User{id: "u1"}] = named(tenant)
    {_, %{fingerprint: now, indexes: indexes}} = Metadata.cached(tenant, "users")
    assert now != before
    assert :users_name_team_index in Enum.map(indexes, & &1.name)

    Tenants.delete(Repo, {tenant.prefix, "users"}, Metadata.cached(tenant, "users"))
    Tenants.put(Repo, {tenant.prefix, "users"}, known)
    Repo.insert!(%User{id: "u4", name: "n1", team: "t"}, prefix: tenant)
    assert LayerCase.stray_entries(tenant, User) == []
    assert [%User{id: "u1"}, %User{id: "u4"}] = named(tenant)
  end

  test "the fingerprint covers the source's keys as they are stored", %{tenant: tenant} do
    {first, last} = Keys.range(Keys.indexes(tenant, "users"))

    [rows] = Transaction.run(tenant, fn -> Transaction.read([{:get_range, first, last, %{}}]) end)

    assert length(rows) == 4
    {_, metadata} = Metadata.cached(tenant, "users")

    bytes =
      for {k, v} <- rows,
          into: "",
          do: <<byte_size(k)::32, k::binary, byte_size(v)::32, v::binary>>

    assert metadata.fingerprint == :crypto.hash(:sha256, bytes <> <<0>>)
    assert Metadata.fingerprint(rows, nil) == metadata.fingerprint
    assert Metadata.fingerprint(rows, "claim") == :crypto.hash(:sha256, bytes <> <<1>> <> "claim")
    assert Metadata.fingerprint(rows, "") != metadata.fingerprint
    assert Metadata.fingerprint([{"a", "bc"}], nil) != Metadata.fingerprint([{"ab", "c"}], nil)
  end

  test "a wrong entry is dropped, but not one that was learnt since", context do
    %{tenant: tenant, other: other} = context
    {_, metadata} = wrong = Metadata.cached(tenant, "users")
    bump(other)
    named(tenant)
    learnt = Metadata.cached(tenant, "users")
    assert learnt != wrong

    Metadata.forget(tenant, "users", wrong)
    assert Metadata.cached(tenant, "users") == learnt
    Metadata.forget(tenant, "users", :crypto.hash(:sha256, "another"))
    assert Metadata.cached(tenant, "users") == learnt
    Metadata.forget(tenant, "users", metadata.fingerprint)
    assert Metadata.cached(tenant, "users") == nil
    named(tenant)
    Metadata.forget(tenant, "users", Metadata.cached(tenant, "users"))
    assert Metadata.cached(tenant, "users") == nil

    # An earlier read never replaces the result of a later one.
    named(tenant)
    {version, metadata} = Metadata.cached(tenant, "users")
    older = {<<0::80>>, %{metadata | indexes: []}}
    Tenants.put(Repo, {tenant.prefix, "users"}, older)
    assert Metadata.cached(tenant, "users") == {version, metadata}

    # The same for tenants.
    known = Tenants.find(tenant)
    Tenants.learn(Repo, "here", {<<0::80>>, "other", "entry", -1})
    assert Tenants.find(tenant) == known
    Tenant.forget(%{tenant | prefix: "other"})
    assert Tenants.find(tenant) == known
    Tenant.forget(tenant)
    assert Tenants.find(tenant) == nil
  end

  test "concurrent readers learn while the metadata version changes all the time", context do
    %{tenant: tenant, other: other} = context
    bumper = Task.async(fn -> for _ <- 1..200, do: bump(other) end)

    workers =
      for w <- 1..8 do
        Task.async(fn ->
          for i <- 1..50 do
            assert [%User{id: "u1"}] = named(tenant)
            id = "w#{w}-#{i}"
            Repo.insert!(%User{id: id, name: id, team: "t"}, prefix: tenant)
            assert [%User{id: ^id}] = named(tenant, id)
          end
        end)
      end

    Task.await_many([bumper | workers], 60_000)
    named(tenant)
    {version, %{indexes: indexes}} = Metadata.cached(tenant, "users")
    assert version == Transaction.run(tenant, &Transaction.version/0)
    assert length(indexes) == 4
    assert LayerCase.stray_entries(tenant, User) == []
  end

  test "a transaction's own writes are not cached", %{tenant: tenant} do
    known = Metadata.cached(tenant, "users")
    key = Keys.index_description(tenant, "users", "users_name_index")
    Metadata.forget(tenant, "users", known)

    catch_throw(
      Transaction.run(tenant, fn ->
        Transaction.write([{:clear, {:pack, key}}])
        assert length(Metadata.load(tenant, "users").indexes) == 3
        throw(:away)
      end)
    )

    assert Metadata.cached(tenant, "users") == nil
    assert [%User{id: "u1"}] = named(tenant)
  end
end
