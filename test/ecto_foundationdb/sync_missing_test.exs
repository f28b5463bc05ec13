defmodule EctoFoundationDB.SyncMissingTest do
  # Records that are not there, labels that are stale, tenants by `prefix:`.
  use ExUnit.Case, async: true

  alias EctoFoundationDB.{NoResultsError, Sync, TestRepo}
  alias EctoFoundationDB.Exception.IncorrectTenancy
  alias EctoFoundationDB.SyncRepo, as: Repo
  alias EctoFoundationDB.SyncUser, as: User

  setup do
    tenant = Repo.tenant()
    %{tenant: tenant, state: %{assigns: %{}, private: %{tenant: tenant}}}
  end

  # Handles the next message of this repo's syncs.
  defp follow(state) do
    assert_receive {ref, :ready} when is_reference(ref)
    {:halt, state} = Sync.handle_ready(Repo, {ref, :ready}, state)
    state
  end

  describe "on_missing: :raise" do
    test "raises what is answered with 404, and nothing is synced", %{state: state} do
      error =
        assert_raise NoResultsError, fn ->
          Sync.sync_one(state, Repo, :user, User, "1", on_missing: :raise)
        end

      assert error.plug_status == 404
      assert error.message =~ ~s(there is no EctoFoundationDB.SyncUser with the primary key "1")
    end

    test "what was synced before goes on", %{state: state, tenant: tenant} do
      user = Repo.insert!(%User{id: "1", name: "Ada"}, prefix: tenant)
      state = Sync.sync_one(state, Repo, :user, User, "1", on_missing: :raise)
      assert state.assigns.user.name == "Ada"

      assert_raise NoResultsError, fn ->
        Sync.sync_one(state, Repo, :user, User, "2", on_missing: :raise)
      end

      Repo.update!(user, name: "Bea")
      assert follow(state).assigns.user.name == "Bea"
    end

    test "later deletion assigns nil, and a callback hears of it", context do
      %{state: state, tenant: tenant} = context
      user = Repo.insert!(%User{id: "1", name: "Ada"}, prefix: tenant)

      gone = fn state, %{user: old} ->
        {:cont, put_in(state.private[:seen], {old && old.name, state.assigns.user})}
      end

      state =
        state
        |> Sync.attach_callback(Repo, :handle_assigns, gone)
        |> Sync.sync_one(Repo, :user, User, "1", on_missing: :raise)

      Repo.delete!(user)
      state = follow(state)
      assert state.assigns.user == nil
      assert state.private.seen == {"Ada", nil}

      Repo.insert!(%User{id: "1", name: "Cy"}, prefix: tenant)
      assert follow(state).assigns.user.name == "Cy"
    end

    test "in a request, and nowhere else", %{state: state} do
      one = %Sync.One{label: :user, schema: User, id: "1", on_missing: :raise}
      assert_raise NoResultsError, fn -> Sync.sync(state, Repo, [one]) end

      assert_raise ArgumentError, ~r/:on_missing to be :raise, or nil, got: :nil_please/, fn ->
        Sync.sync_one(state, Repo, :user, User, "1", on_missing: :nil_please)
      end

      assert_raise ArgumentError, ~r/unknown option :on_missing/, fn ->
        Sync.sync_all(state, Repo, :users, User, on_missing: :raise)
      end
    end
  end

  describe "prefix:" do
    test "wins over the state's tenant, in every sync function", %{state: state} do
      other = Repo.tenant()
      Repo.insert!(%User{id: "1", name: "Ada", team: "red"}, prefix: other)

      state =
        state
        |> Sync.sync_one(Repo, :one, User, "1", prefix: other)
        |> Sync.sync_many(Repo, :many, User, ["1"], prefix: other)
        |> Sync.sync_all(Repo, :all, User, prefix: other)
        |> Sync.sync_all_by(Repo, :by, User, [team: "red"], prefix: other)
        |> Sync.sync(Repo, [%Sync.One{label: :sync, schema: User, id: "1"}], prefix: other)
        |> Sync.sync_one(Repo, :mine, User, "1")

      assert %{one: ada, many: [ada], all: [ada], by: [ada], sync: ada, mine: nil} = state.assigns
      assert ada.name == "Ada"

      # And it keeps following that tenant.
      state = Enum.reduce([:mine, :many, :all, :by, :sync], state, &Sync.cancel(&2, Repo, &1))
      Repo.update!(ada, name: "Bea")
      assert follow(state).assigns.one.name == "Bea"
    end

    test "needs no tenant in the state", %{tenant: tenant} do
      Repo.insert!(%User{id: "1", name: "Ada"}, prefix: tenant)
      state = %{assigns: %{}, private: %{}}

      assert_raise ArgumentError, ~r/or pass it as prefix: tenant/, fn ->
        Sync.sync_one(state, Repo, :user, User, "1")
      end

      state = Sync.sync_one(state, Repo, :user, User, "1", prefix: tenant)
      assert state.assigns.user.name == "Ada"
    end

    test "of another repo, or no tenant, is an error", %{state: state, tenant: tenant} do
      other = %{tenant | repo: TestRepo}

      assert_raise IncorrectTenancy, ~r/was opened with EctoFoundationDB.TestRepo/, fn ->
        Sync.sync_one(state, Repo, :user, User, "1", prefix: other)
      end

      assert_raise IncorrectTenancy, ~r/expected a tenant/, fn ->
        Sync.sync_one(state, Repo, :user, User, "1", prefix: "acme")
      end
    end

    test "is of syncs alone", %{state: state, tenant: tenant} do
      assert_raise ArgumentError, ~r/unknown option :prefix/, fn ->
        Sync.cancel(state, Repo, :user, prefix: tenant)
      end
    end
  end
end

defmodule EctoFoundationDB.SyncStaleTest do
  # Not beside others: an outage is of the whole database.
  use ExUnit.Case, async: false

  alias EctoFoundationDB.{Embedded, Native, Sync}
  alias EctoFoundationDB.SyncRepo, as: Repo
  alias EctoFoundationDB.SyncUser, as: User

  @moduletag :embedded

  test "stale? is true from the message that says so to the one that ends it" do
    state = %{assigns: %{}, private: %{tenant: Repo.tenant()}}
    on_exit(fn -> Native.stale_after(Repo.database(), 10_000) end)
    on_exit(fn -> Embedded.outage(Repo, nil) end)
    :ok = Native.stale_after(Repo.database(), 100)

    state = Sync.sync_one(state, Repo, :user, User, "1")
    refute Sync.stale?(state, Repo, :user)
    refute Sync.stale?(state, Repo, :unknown)

    Embedded.outage(Repo, all: true)
    state = until(state, &Sync.stale?(&1, Repo, :user))
    assert state.assigns.user == nil

    Embedded.outage(Repo, nil)
    state = until(state, &(not Sync.stale?(&1, Repo, :user)))
    refute Sync.stale?(Sync.cancel(state, Repo, :user), Repo, :user)
  end

  defp until(state, such) do
    if such.(state) do
      state
    else
      assert_receive {ref, :ready} when is_reference(ref), 60_000
      {:halt, state} = Sync.handle_ready(Repo, {ref, :ready}, state)
      until(state, such)
    end
  end
end
