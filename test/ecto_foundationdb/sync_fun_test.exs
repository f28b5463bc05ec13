defmodule EctoFoundationDB.SyncFunTest do
  @moduledoc false
  use ExUnit.Case

  alias EctoFoundationDB.{Sync, SyncPage, SyncRepo, SyncUser, Tenant}
  alias EctoFoundationDB.Exception.{IncorrectTenancy, Unsupported}
  alias EctoFoundationDB.Indexer.SchemaMetadata

  setup do
    %{tenant: SyncRepo.tenant()}
  end

  defp user(tenant, id, name, team \\ "red"),
    do: SyncRepo.insert!(%SyncUser{id: id, name: name, team: team}, prefix: tenant)

  defp state(tenant), do: %{assigns: %{}, private: %{tenant: tenant}}
  defp page(tenant, mount), do: SyncPage.start(SyncRepo, tenant, mount)

  defp ready(state) do
    receive do
      {_ref, :ready} = message ->
        {:halt, state} = Sync.handle_ready(SyncRepo, message, state)
        state
    after
      10_000 -> flunk("no message has come")
    end
  end

  def names(team),
    do: for(user <- SyncRepo.all_by(SyncUser, team: team), do: user.name)

  def counted(counter, id) do
    :counters.add(counter, 1, 1)
    SyncRepo.get(SyncUser, id)
  end

  describe "what a function has read is watched:" do
    test "a record", %{tenant: tenant} do
      user = user(tenant, "u1", "Ada")

      state =
        Sync.sync_fun(state(tenant), SyncRepo, :name, fn -> SyncRepo.get!(SyncUser, "u1").name end)

      assert state.assigns.name == "Ada"
      SyncRepo.update!(user, name: "Eva")
      assert ready(state).assigns.name == "Eva"
    end

    test "a record that does not exist yet", %{tenant: tenant} do
      state =
        Sync.sync_fun(state(tenant), SyncRepo, :user, fn -> SyncRepo.get(SyncUser, "u1") end)

      assert state.assigns == %{user: nil}
      user(tenant, "u1", "Ada")
      assert ready(state).assigns.user.name == "Ada"
    end

    test "a list", %{tenant: tenant} do
      user(tenant, "u1", "Ada")
      state = Sync.sync_fun(state(tenant), SyncRepo, :reds, {__MODULE__, :names, ["red"]})
      assert state.assigns.reds == ["Ada"]
      user(tenant, "u2", "Bea", "blue")
      user(tenant, "u3", "Cy")
      assert ready(state).assigns.reds == ["Ada", "Cy"]
    end
  end

  test "an error is raised where it is synced, with the function's stacktrace", %{tenant: tenant} do
    error =
      assert_raise RuntimeError, "no", fn ->
        Sync.sync_fun(state(tenant), SyncRepo, :user, {__MODULE__, :fails, ["no"]})
      end

    _ = error

    try do
      Sync.sync_fun(state(tenant), SyncRepo, :user, {__MODULE__, :fails, ["no"]})
    rescue
      _error -> assert Enum.any?(__STACKTRACE__, &match?({__MODULE__, :fails, _, _}, &1))
    end
  end

  def fails(message), do: raise(message)
end
