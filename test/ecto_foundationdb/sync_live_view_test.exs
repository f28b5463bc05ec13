defmodule EctoFoundationDB.SyncLiveViewTest do
  use ExUnit.Case, async: true

  alias EctoFoundationDB.Sync
  alias EctoFoundationDB.SyncRepo, as: Repo
  alias EctoFoundationDB.SyncUser, as: User
  alias Phoenix.LiveView.Socket

  defmodule Nested do
    use GenServer
    @impl true
    def init(mount), do: {:ok, mount.()}
  end

  setup do
    tenant = Repo.tenant()
    Repo.insert!(%User{id: "1", name: "Ada"}, prefix: tenant)
    %{tenant: tenant, socket: socket(tenant)}
  end

  defp socket(tenant, transport_pid \\ self()) do
    Phoenix.LiveView.put_private(new_socket(transport_pid), :tenant, tenant)
  end

  # With a place for hooks, as LiveView gives it to a socket before it is mounted.
  defp new_socket(transport_pid) do
    socket = %Socket{transport_pid: transport_pid}

    if Code.ensure_loaded?(Phoenix.LiveView.Lifecycle),
      do: put_in(socket.private[:lifecycle], struct(Phoenix.LiveView.Lifecycle)),
      else: socket
  end

  defp hooks(socket), do: socket.private.lifecycle.handle_info

  # As LiveView does with a message: through the hooks.
  defp deliver(socket, message) do
    Enum.reduce_while(hooks(socket), socket, fn hook, socket ->
      case hook.function.(message, socket) do
        {:halt, socket} -> {:halt, socket}
        {:cont, socket} -> {:cont, socket}
      end
    end)
  end

  test "a socket is assigned and hooked, and its hook follows the database", context do
    %{tenant: tenant, socket: socket} = context
    socket = Sync.sync_one(socket, Repo, :user, User, "1")
    assert %User{name: "Ada"} = socket.assigns.user
    assert socket.assigns.__changed__.user
    assert [%{id: {:ecto_fdb_sync_hook, Repo}, stage: :handle_info}] = hooks(socket)

    Repo.update!(socket.assigns.user, name: "Grace")
    assert_receive {ref, :ready} = message when is_reference(ref), 10_000
    socket = deliver(socket, message)
    assert %User{name: "Grace"} = socket.assigns.user
    assert deliver(socket, :something_else) == socket
    assert tenant == socket.private.tenant
  end

  test "a task of the page's is told that the page would not follow", %{socket: socket} do
    sync = fn socket ->
      fn -> Sync.sync_one(socket, Repo, :user, User, "1") end
    end

    refused = fn socket ->
      fn -> assert_raise ArgumentError, sync.(socket) end |> Task.async() |> Task.await()
    end

    root = %{socket | root_pid: self(), parent_pid: nil}
    message = Exception.message(refused.(root))
    assert message =~ "expected to be called in the LiveView's process"
    assert message =~ "assign_async or start_async"
    assert message =~ "in the task, read with the Repo"
    assert %User{} = sync.(root).().assigns.user

    # A LiveView in another one has the root's pid in its socket.
    nested = %{root | parent_pid: self()}
    assert Exception.message(refused.(nested)) =~ "assign_async"
    {:ok, server} = GenServer.start_link(Nested, sync.(nested))
    assert %User{} = :sys.get_state(server).assigns.user

    # The first render reads, wherever that is done.
    first = %{root | transport_pid: nil}
    assert %User{} = (sync.(first) |> Task.async() |> Task.await()).assigns.user
  end

  test "one hook for all labels of a repo, detached with the last", %{socket: socket} do
    socket =
      socket
      |> Sync.sync_one(Repo, :user, User, "1")
      |> Sync.sync_many(Repo, :users, User, ["1", "2"])

    assert [_hook] = hooks(socket)
    socket = Sync.cancel(socket, Repo, :user)
    assert [_hook] = hooks(socket)
    socket = Sync.cancel(socket, Repo, :users)
    assert [] = hooks(socket)
    assert %{user: nil, users: []} = socket.assigns
  end

  test "the hook stays where it is among the page's own", %{socket: socket} do
    mine = fn _message, socket -> {:cont, socket} end
    assign = fn socket, new -> Phoenix.Component.assign(socket, Map.new(new)) end

    socket =
      socket
      |> Sync.sync_one(Repo, :user, User, "1")
      |> Phoenix.LiveView.attach_hook(:mine, :handle_info, mine)
      |> Sync.sync_one(Repo, :other, User, "2", timeout: 10_000)
      |> Sync.sync_one(Repo, :again, User, "1", assign: assign)

    assert [{:ecto_fdb_sync_hook, Repo}, :mine] = Enum.map(hooks(socket), & &1.id)
  end

  test "the disconnected render reads and assigns, and subscribes nothing", context do
    %{tenant: tenant} = context
    socket = Sync.sync_one(socket(tenant, nil), Repo, :user, User, "1")
    assert %User{name: "Ada"} = socket.assigns.user
    refute Sync.watching?(socket, Repo, :user)
    assert [] = hooks(socket)

    Repo.update!(socket.assigns.user, name: "Grace")
    refute_receive {_ref, :ready}, 50
  end

  test "in a stateful component the error says to sync in the parent", %{socket: socket} do
    component = %{socket | assigns: Map.put(socket.assigns, :myself, cid(1))}

    assert_raise ArgumentError, ~r/Sync in the parent LiveView/, fn ->
      Sync.sync_one(component, Repo, :user, User, "1")
    end
  end

  defp cid(number), do: struct(Phoenix.LiveComponent.CID, cid: number)

  unless Code.ensure_loaded?(Phoenix.LiveViewTest) do
    test "async: true without LiveView is an error that names it", %{socket: socket} do
      assert_raise ArgumentError, ~r/LiveView is not there. Add {:phoenix_live_view/, fn ->
        Sync.sync_one(socket, Repo, :user, User, "1", async: true)
      end
    end
  end

  test "a plain map is assigned by Map.put, also where Phoenix is loaded", %{tenant: tenant} do
    assert Code.ensure_loaded?(Phoenix.LiveView)
    state = %{assigns: %{}, private: %{tenant: tenant}}
    assert %{assigns: %{"user" => %User{}}} = Sync.sync_one(state, Repo, "user", User, "1")
  end

  # The quick examples of the documentation, as they stand there but for the modules' names.
  describe "the documented example of" do
    import Phoenix.LiveView, only: [put_private: 3]

    defp open_tenant(socket), do: socket.private.opened

    setup %{tenant: tenant} do
      %{socket: put_private(new_socket(self()), :opened, tenant)}
    end

    test "a single record", %{socket: socket} do
      user_id = "1"

      {:ok, socket} =
        {:ok,
         socket
         |> put_private(:tenant, open_tenant(socket))
         |> Sync.sync_one(Repo, User, :user, user_id)}

      assert %{user: %User{id: "1"}} = socket.assigns
    end

    test "a list of records", %{socket: socket} do
      {:ok, socket} =
        {:ok,
         socket
         |> put_private(:tenant, open_tenant(socket))
         |> Sync.sync_all(Repo, User)}

      assert %{users: [%User{id: "1"}]} = socket.assigns
    end

    test "a group of records", %{socket: socket} do
      user_ids = ["1", "2", "3"]

      {:ok, socket} =
        {:ok,
         socket
         |> put_private(:tenant, open_tenant(socket))
         |> Sync.sync_many(Repo, User, :users, user_ids)}

      assert %{users: [%User{id: "1"}]} = socket.assigns
    end
  end
end
