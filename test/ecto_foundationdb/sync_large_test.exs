defmodule EctoFoundationDB.SyncLargeTest do
  # More than is decoded or encoded on a scheduler at once: the same NIF functions on dirty ones.
  use ExUnit.Case, async: true

  alias EctoFoundationDB.Sync
  alias EctoFoundationDB.SyncRepo, as: Repo
  alias EctoFoundationDB.SyncUser, as: User

  @many 3_000

  setup do
    tenant = Repo.tenant()
    ids = for i <- 1..@many, do: "u#{10_000 + i}"

    {@many, nil} =
      Repo.insert_all(User, for(id <- ids, do: %User{id: id, name: id}), prefix: tenant)

    %{tenant: tenant, ids: ids, state: %{assigns: %{}, private: %{tenant: tenant}}}
  end

  defp handle_next(state) do
    assert_receive {ref, :ready} = message when is_reference(ref), 10_000
    assert {:halt, state} = Sync.handle_ready(Repo, message, state)
    state
  end

  defp same_term?(a, b), do: :erts_debug.same(a, b)

  test "a list of thousands: all of it, then what changed", context do
    %{tenant: tenant, ids: ids, state: state} = context
    state = Sync.sync_all(state, Repo, :users, User)
    assert Enum.map(state.assigns.users, & &1.id) == ids

    [first, second | rest] = state.assigns.users
    Repo.update!(second, [name: "new"], prefix: tenant)
    state = handle_next(state)
    assert [same, %{name: "new"} | others] = state.assigns.users
    assert same_term?(same, first)
    assert Enum.zip_with(others, rest, &same_term?/2) |> Enum.all?()
  end

  test "a list that changes altogether", %{tenant: tenant, ids: ids, state: state} do
    state = Sync.sync_all(state, Repo, :users, User)
    Repo.update_all(User, [set: [name: "all"]], prefix: tenant)
    state = handle_next(state)
    assert Enum.map(state.assigns.users, &{&1.id, &1.name}) == Enum.map(ids, &{&1, "all"})
  end

  test "thousands of ids, synced again with one more: only that one is read", context do
    %{tenant: tenant, ids: ids, state: state} = context
    state = Sync.sync_many(state, Repo, :users, User, ids)
    assert Enum.map(state.assigns.users, & &1.id) == ids
    before = state.assigns.users

    Repo.insert!(%User{id: "one more", name: "x"}, prefix: tenant)
    state = Sync.sync_many(state, Repo, :users, User, ids ++ ["one more"])
    {kept, [added]} = Enum.split(state.assigns.users, @many)
    assert added.id == "one more"
    assert Enum.zip_with(kept, before, &same_term?/2) |> Enum.all?()

    Repo.update!(added, [name: "y"], prefix: tenant)
    state = handle_next(state)
    assert List.last(state.assigns.users).name == "y"
  end

  test "thousands of ids, cancelled: no message comes, and nothing is watched", context do
    %{tenant: tenant, ids: ids, state: state} = context
    state = Sync.sync_many(state, Repo, :users, User, ids)
    before = Repo.stats().live_queries
    # Other tests have some of their own.
    state = Sync.cancel(state, Repo, :users)
    assert state.assigns.users == []
    Repo.eventually(fn -> Repo.stats().live_queries end, &(&1 < before - div(@many, 2)))

    Repo.update_all(User, [set: [name: "late"]], prefix: tenant)
    refute_received {_ref, :ready}
  end
end
