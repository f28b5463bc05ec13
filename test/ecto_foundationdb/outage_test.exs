defmodule EctoFoundationDB.OutageTest do
  # Servers that do not answer, through the Repo. A separate database, because an outage affects all users.
  use ExUnit.Case, async: true

  alias EctoFoundationDB.{Embedded, Future, SyncRepo, Tenant, TimeoutError}
  alias EctoFoundationDB.SyncUser, as: User

  @moduletag :embedded

  defmodule Repo do
    use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
    use EctoFoundationDB.Migrator

    @impl true
    def migrations, do: SyncRepo.migrations()
  end

  setup do
    start_supervised!({Repo, embedded: true, log: false})
    Embedded.outage(Repo, nil)
    tenant = Tenant.open!(Repo, "outage-#{System.unique_integer([:positive])}")
    for id <- ~w(a b c), do: Repo.insert!(%User{id: id, name: id, team: "x"}, prefix: tenant)
    {:ok, tenant: tenant}
  end

  # The call waits for an answer: it continues when the outage ends.
  defp waits!(fun) do
    task = Task.async(fun)
    assert Task.yield(task, 50) == nil
    task
  end

  test "a record on silent servers waits, its neighbours do not", %{
    tenant: tenant
  } do
    Embedded.outage(Repo, reads: [{tenant, User, "b"}])
    assert Repo.get!(User, "a", prefix: tenant).name == "a"
    get = waits!(fn -> Repo.get!(User, "b", prefix: tenant) end)
    all = waits!(fn -> Repo.all(User, prefix: tenant) end)
    Repo.insert!(%User{id: "d", name: "d"}, prefix: tenant)

    assert_raise TimeoutError, fn -> Repo.get!(User, "b", prefix: tenant, timeout: 50) end

    Embedded.outage(Repo, nil)
    # It reads at the version at which it began.
    assert Task.await(get).name == "b"
    assert Enum.map(Task.await(all), & &1.name) == ~w(a b c)
    assert Repo.aggregate(User, :count, prefix: tenant) == 4
  end

  test "outages of a schema, of a tenant and of a range of keys", %{tenant: tenant} do
    other = Tenant.open!(Repo, tenant.id <> "-other")

    for keys <- [{tenant, User}, tenant, {"", <<0xFF>>}] do
      Embedded.outage(Repo, reads: [keys])
      task = waits!(fn -> Repo.get(User, "a", prefix: tenant) end)
      unless keys == {"", <<0xFF>>}, do: assert(Repo.get(User, "a", prefix: other) == nil)
      Embedded.outage(Repo, nil)
      assert Task.await(task).id == "a"
    end
  end

  test "a silent watch fires at the end of the outage if its record has changed", context do
    %{tenant: tenant} = context
    user = Repo.get!(User, "a", prefix: tenant)
    # An update writes the same bytes as a later one.
    kept = Repo.update!(Repo.get!(User, "b", prefix: tenant), name: "new")
    kept = Repo.update!(kept, name: "b")
    changed = Future.ref(Repo.watch(user))
    unchanged = Future.ref(Repo.watch(kept))

    Embedded.outage(Repo, watches: [{tenant, User}])
    Repo.update!(user, name: "new")
    kept |> Repo.update!(name: "new") |> Repo.update!(name: "b")
    refute_receive {^changed, :ready}, 50
    Embedded.outage(Repo, [])
    assert_receive {^changed, :ready}, 60_000
    refute_received {^unchanged, :ready}
    assert Embedded.stats(Repo).pending_watches == 1
  end

  test "a locked database answers when it is unlocked", %{tenant: tenant} do
    Embedded.outage(Repo, locked: true)
    get = waits!(fn -> Repo.get!(User, "a", prefix: tenant) end)
    insert = waits!(fn -> Repo.insert!(%User{id: "d"}, prefix: tenant) end)
    Embedded.outage(Repo, nil)
    assert Task.await(get).name == "a"
    assert Task.await(insert).id == "d"
  end

  test "a silent database answers when it is back", %{tenant: tenant} do
    Embedded.outage(Repo, all: true)
    get = waits!(fn -> Repo.get!(User, "a", prefix: tenant) end)
    insert = waits!(fn -> Repo.insert!(%User{id: "d"}, prefix: tenant) end)
    assert_raise TimeoutError, fn -> Repo.get!(User, "a", prefix: tenant, timeout: 50) end
    Embedded.outage(Repo, nil)
    assert Task.await(get).name == "a"
    assert Task.await(insert).id == "d"
  end

  test "invalid outages are refused" do
    for {wrong, said} <- [
          {[all: 1], "an outage as a keyword list"},
          {[silent: true], "an outage as a keyword list"},
          {:all, "an outage as a keyword list"},
          {[reads: "a"], "an outage as a keyword list"},
          {[reads: ["a"]], "keys as {first, after_last}"},
          {[watches: [{"a", 1}]], "keys as {first, after_last}"}
        ] do
      error = assert_raise ArgumentError, fn -> Embedded.outage(Repo, wrong) end
      assert error.message =~ said
    end
  end
end
