if Code.ensure_loaded?(Phoenix.LiveView.AsyncResult) do
  defmodule EctoFoundationDB.LiveView.FunctionsTest do
    # Live functions that mounts do not wait for.
    use ExUnit.Case, async: true

    alias EctoFoundationDB.{Sync, SyncRepo, SyncUser}
    alias Phoenix.LiveView.AsyncResult

    setup do
      tenant = SyncRepo.tenant()
      user = SyncRepo.insert!(%SyncUser{id: "u1", name: "Ada"}, prefix: tenant)
      %{user: user, state: %{assigns: %{}, private: %{tenant: tenant}}}
    end

    def name(id), do: SyncRepo.get!(SyncUser, id).name

    defp next(state) do
      receive do
        message ->
          case Sync.handle_ready(SyncRepo, message, state) do
            {:halt, state} -> state
            {:cont, state} -> next(state)
          end
      after
        10_000 -> flunk("no message has come")
      end
    end

    test "async: true", %{state: state, user: user} do
      state = Sync.sync_fun(state, SyncRepo, :name, {__MODULE__, :name, ["u1"]}, async: true)
      assert %AsyncResult{ok?: false, loading: loading} = state.assigns.name
      assert loading
      state = next(state)
      assert %AsyncResult{ok?: true, loading: nil, result: "Ada"} = state.assigns.name
      SyncRepo.update!(user, name: "Eva")
      state = next(state)
      assert %AsyncResult{ok?: true, result: "Eva"} = state.assigns.name
      Sync.cancel_all(state, SyncRepo)
    end

    test "async: true, and an error of the first evaluation", %{state: state} do
      fun = fn -> raise "no" end
      state = state |> Sync.sync_fun(SyncRepo, :name, fun, async: true) |> next()
      assert %AsyncResult{ok?: false, failed: %RuntimeError{message: "no"}} = state.assigns.name
      refute Sync.watching?(state, SyncRepo, :name)
    end
  end
end
