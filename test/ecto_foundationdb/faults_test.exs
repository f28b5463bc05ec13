defmodule EctoFoundationDB.FaultsTest do
  # A database on a bad day. It is one of its own: faults are for all who use it.
  use ExUnit.Case, async: true

  alias EctoFoundationDB.{Connection, Embedded, Native, Sync, SyncRepo, Tenant}
  alias EctoFoundationDB.SyncPage, as: Page
  alias EctoFoundationDB.SyncUser, as: User

  @moduletag :embedded

  defmodule Repo do
    use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
    use EctoFoundationDB.Migrator

    @impl true
    def migrations, do: EctoFoundationDB.SyncRepo.migrations()
  end

  @faults [
    not_committed: 0.1,
    commit_unknown_result: 0.1,
    transaction_too_old: 0.05,
    future_version: 0.05,
    process_behind: 0.05,
    watch_failure: 0.2,
    slow_read: 0.1,
    read_delay_ms: 5,
    slow_watch: 0.2,
    watch_delay_ms: 20
  ]

  setup do
    start_supervised!({Repo, embedded: true, log: false, timeout: 30_000})
    tenant = Tenant.open!(Repo, "faults-#{System.unique_integer([:positive])}")
    {:ok, tenant: tenant}
  end

  test "pages end on the truth, and nothing is left over", %{tenant: tenant} do
    seed = ExUnit.configuration()[:seed]
    ids = for i <- 1..8, do: "u#{i}"
    Embedded.faults(Repo, [seed: seed] ++ @faults)

    pages =
      for i <- 1..20 do
        Page.start(Repo, tenant, fn state ->
          Sync.sync(state, Repo, [
            %Sync.One{label: :user, schema: User, id: Enum.at(ids, rem(i, 8))},
            %Sync.Many{label: :some, schema: User, ids: Enum.take(ids, rem(i, 8))},
            %Sync.All{label: :all, queryable: User},
            %Sync.All{label: :team, queryable: User, by: [team: "a"]}
          ])
        end)
      end

    writers =
      for w <- 1..3 do
        Task.async(fn ->
          :rand.seed(:exsss, {seed, w, 1})
          for i <- 1..60, do: write(tenant, Enum.random(ids), "#{w}-#{i}")
        end)
      end

    # Some pages die, and others come, meanwhile.
    {killed, left} = Enum.split(pages, 5)
    for page <- killed, do: Process.exit(page, :kill)
    Task.await_many(writers, 120_000)
    Embedded.faults(Repo, nil)

    truth = Repo.all(User, prefix: tenant)
    team = for user <- truth, user.team == "a", do: user
    by_id = Map.new(truth, &{&1.id, &1})

    for {page, i} <- Enum.with_index(left, 6) do
      some = for id <- Enum.take(ids, rem(i, 8)), user = by_id[id], do: user

      expected = %{
        user: by_id[Enum.at(ids, rem(i, 8))],
        some: some,
        all: truth,
        team: team
      }

      assert Page.await(
               page,
               &(Map.update!(&1, :team, fn t -> Enum.sort(t) end) == sorted(expected))
             )
    end

    # An empty list of ids has no subscription.
    subscribed = for(i <- 6..20, do: if(rem(i, 8) == 0, do: 3, else: 4)) |> Enum.sum()
    assert %{subscriptions: ^subscribed, retries: retries} = stats()
    assert retries > 0
    assert Sync.stats(Repo).watches_failed > 0
    for page <- left, do: Process.exit(page, :kill)

    nothing_left!()
  end

  # The database outlives the Repo, and the tests.
  defp nothing_left! do
    SyncRepo.eventually(
      fn -> {stats(), Embedded.stats(Repo)} end,
      &match?(
        {%{subscriptions: 0, live_queries: 0, pending_watches: 0}, %{pending_watches: 0}},
        &1
      )
    )
  end

  defp sorted(expected), do: Map.update!(expected, :team, &Enum.sort/1)

  defp write(tenant, id, name) do
    user = %User{id: id, name: name, team: Enum.random(["a", "b"])}

    case :rand.uniform(4) do
      1 -> Repo.delete(user, prefix: tenant)
      _ -> Repo.insert!(user, prefix: tenant, on_conflict: :replace_all)
    end
  end

  defp stats, do: Native.stats(Connection.fetch!(Repo).database)

  test "a read that keeps failing makes the data stale, until it succeeds", %{tenant: tenant} do
    :ok = Native.stale_after(Connection.fetch!(Repo).database, 300)
    Repo.insert!(%User{id: "u1", name: "before"}, prefix: tenant)

    page =
      Page.start(Repo, tenant, fn state ->
        state
        |> Sync.attach_callback(Repo, :handle_stale, fn state, stale ->
          {:cont, %{state | assigns: Map.put(state.assigns, :stale, stale)}}
        end)
        |> Sync.sync_one(Repo, :user, User, "u1")
      end)

    # Reads take longer than the database may be silent.
    Embedded.faults(Repo, seed: 1, slow_read: 1, read_delay_ms: 3_600_000)
    assert %{user: %{name: "before"}} = Page.await(page, &match?(%{stale: %{user: %{}}}, &1))
    assert %EctoFoundationDB.Error{} = Page.assigns(page).stale.user
    assert %{stale: 1, live_queries: 1} = Sync.stats(Repo)

    Embedded.faults(Repo, nil)
    assert %{user: %{name: "before"}} = Page.await(page, &(&1.stale == %{user: nil}))
    assert %{stale: 0} = Sync.stats(Repo)
    Repo.update!(%User{id: "u1"}, [name: "after"], prefix: tenant)
    Page.await(page, &(&1.user.name == "after"))
    Process.exit(page, :kill)
    nothing_left!()
  end

  test "faults are checked" do
    assert_raise ArgumentError, ~r/a keyword list of numbers/, fn ->
      Embedded.faults(Repo, :many)
    end

    assert_raise ArgumentError, ~r/not_committed.*got "not_commited=0.1"/s, fn ->
      Embedded.faults(Repo, not_commited: 0.1)
    end

    assert_raise ArgumentError, ~r/a probability from 0 to 1/, fn ->
      Embedded.faults(Repo, not_committed: 2)
    end
  end
end
