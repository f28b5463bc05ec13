# From a commit until the last of many LiveViews has sent its diff, beside a Phoenix.PubSub broadcast in the same run,
# and the memory of one of them. These are LiveView's own processes, with a transport that counts their diffs.
#
#     ECTO_FDB_DEPS=folder mix run bench/liveview.exs [--pages 1000] [--times 15] [--only NAME,NAME] [--cluster FILE]

unless Code.ensure_loaded?(Phoenix.LiveView) do
  IO.puts(
    "This one needs Phoenix LiveView: Hex has it; or ECTO_FDB_DEPS=folder takes it from source trees."
  )

  System.halt(1)
end

Code.require_file("support.exs", __DIR__)

defmodule Bench.Live do
  use Phoenix.LiveView
  alias Bench.{Repo, User}
  alias EctoFoundationDB.Sync

  @impl true
  def mount(%{"kind" => kind, "tenant" => tenant}, _session, socket) do
    tenant = EctoFoundationDB.Tenant.open!(Repo, tenant)
    {:ok, socket |> put_private(:tenant, tenant) |> assign(kind: kind) |> show(kind, tenant)}
  end

  defp show(socket, "empty", _tenant), do: socket
  defp show(socket, "sync_one", _tenant), do: Sync.sync_one(socket, Repo, :user, User, "u00100")

  defp show(socket, "pubsub_one", tenant) do
    if connected?(socket), do: Phoenix.PubSub.subscribe(Bench.PubSub, "users")
    assign(socket, user: Repo.get!(User, "u00100", prefix: tenant))
  end

  defp show(socket, "sync_all", _tenant), do: Sync.sync_all(socket, Repo, :users, User)
  defp show(socket, "sync_stream", _tenant), do: Sync.sync_stream(socket, Repo, :users, User)

  defp show(socket, "sync_window", _tenant),
    do: Sync.sync_stream(socket, Repo, :users, User, limit: 50)

  defp show(socket, "pubsub_stream", tenant),
    do: subscribe(socket, Repo.all(User, prefix: tenant))

  defp show(socket, "pubsub_window", tenant),
    do: subscribe(socket, Repo.all(User, limit: 50, prefix: tenant))

  defp subscribe(socket, users) do
    if connected?(socket), do: Phoenix.PubSub.subscribe(Bench.PubSub, "users")
    stream(socket, :users, users)
  end

  @impl true
  def handle_info({:changed, user}, %{assigns: %{kind: "pubsub_one"}} = socket),
    do: {:noreply, assign(socket, user: user)}

  def handle_info({:changed, user}, socket), do: {:noreply, stream_insert(socket, :users, user)}

  @impl true
  def render(%{kind: "empty"} = assigns) do
    ~H"<p>nothing</p>"
  end

  def render(%{user: _} = assigns) do
    ~H"<p><%= @user.name %></p>"
  end

  def render(%{streams: _} = assigns) do
    ~H"""
    <ul id="users" phx-update="stream">
      <li :for={{id, user} <- @streams.users} id={id}><b><%= user.name %></b> <%= user.team %></li>
    </ul>
    """
  end

  def render(assigns) do
    ~H"""
    <ul id="users">
      <li :for={user <- @users} id={user.id}><b><%= user.name %></b> <%= user.team %></li>
    </ul>
    """
  end
end

defmodule Bench.Router do
  use Phoenix.Router
  import Phoenix.LiveView.Router

  pipeline :browser do
    plug(:fetch_session)
    plug(:fetch_query_params)
  end

  scope "/" do
    pipe_through(:browser)
    live("/:tenant/:kind", Bench.Live)
  end
end

defmodule Bench.Endpoint do
  use Phoenix.Endpoint, otp_app: :ecto_fdb_sync
  @session [store: :cookie, key: "_bench", signing_salt: "of the bench"]
  socket("/live", Phoenix.LiveView.Socket, websocket: [connect_info: [session: @session]])
  plug(Plug.Session, @session)
  plug(Bench.Router)
end

defmodule Bench.Serializer do
  @moduledoc "Encodes messages to clients: as JSON with Jason where that is present, else as Erlang's own format."

  if Code.ensure_loaded?(Jason) do
    defdelegate encode!(message), to: Phoenix.Socket.V2.JSONSerializer
  else
    def encode!(message), do: {:socket_push, :binary, :erlang.term_to_iovec(message)}
  end
end

defmodule Bench.LiveViews do
  @moduledoc "LiveViews without browsers: they are rendered once, joined by each, and their diffs are counted."

  def start(n, tenant, kind) do
    path = "/#{tenant.id}/#{kind}"
    conn = Bench.Endpoint.call(Plug.Test.conn(:get, path), [])
    200 = conn.status
    [session] = Regex.run(~r/data-phx-session="([^"]+)"/, conn.resp_body, capture: :all_but_first)
    [static] = Regex.run(~r/data-phx-static="([^"]+)"/, conn.resp_body, capture: :all_but_first)
    [id] = Regex.run(~r/id="(phx-[^"]+)"/, conn.resp_body, capture: :all_but_first)
    bench = self()
    counter = spawn_link(fn -> count(bench, n, 0) end)

    payload = %{
      "session" => session,
      "static" => static,
      "params" => %{"_mounts" => 0},
      "url" => "http://localhost" <> path,
      "caller" => nil
    }

    socket = %Phoenix.Socket{
      transport_pid: counter,
      serializer: Bench.Serializer,
      channel: Phoenix.LiveView.Channel,
      endpoint: Bench.Endpoint,
      private: %{connect_info: %{session: %{}}},
      topic: "lv:" <> id,
      join_ref: "1"
    }

    {time, pids} = :timer.tc(fn -> for _ <- 1..n, do: join(payload, socket) end)
    %{pids: pids, counter: counter, mount_ms: time / 1000}
  end

  defp join(payload, socket) do
    from = {self(), make_ref()}
    {:ok, pid} = Phoenix.LiveView.Channel.start_link({Bench.Endpoint, from})
    send(pid, {Phoenix.Channel, payload, from, socket})
    {_, ref} = from

    receive do
      {^ref, {:ok, _rendered}} -> pid
      {^ref, other} -> raise "not joined: #{inspect(other)}"
    after
      60_000 -> raise "not joined in a minute"
    end
  end

  # Encoded pushes come as the transport's own message.
  defp count(bench, n, counted) do
    receive do
      {:socket_push, _opcode, _iodata} when counted + 1 == n ->
        send(bench, :all_diffs)
        count(bench, n, 0)

      {:socket_push, _opcode, _iodata} ->
        count(bench, n, counted + 1)
    end
  end

  @doc """
  Milliseconds from before the change until the last diff: the median of some, and the fastest. The third is the CPU time of a
  change, of all threads together, which depends less on what else the machine does.
  """
  def changes(times, change) do
    :erlang.statistics(:runtime)

    durations =
      for i <- 1..times do
        start = System.monotonic_time(:microsecond)
        change.(i)

        receive do
          :all_diffs -> (System.monotonic_time(:microsecond) - start) / 1000
        after
          60_000 -> raise "no diff from each page in a minute"
        end
      end

    {_total, cpu} = :erlang.statistics(:runtime)
    {Bench.percentile(durations, 0.5), Enum.min(durations), cpu / times}
  end

  # How many ms after its last message a LiveView hibernates; by default that is 15 s.
  @hibernate_after 1_000
  def hibernate_after, do: @hibernate_after

  @doc "KB of a process: after a garbage collection, and when it has hibernated, as idle LiveViews do."
  def memory(views) do
    Enum.each(views.pids, &:erlang.garbage_collect/1)
    collected = kilobytes(views)
    Process.sleep(3 * @hibernate_after)
    {collected, kilobytes(views)}
  end

  defp kilobytes(%{pids: pids}) do
    bytes = for pid <- pids, do: pid |> Process.info(:memory) |> elem(1)
    Enum.sum(bytes) / length(bytes) / 1000
  end

  def stop(%{pids: pids, counter: counter}) do
    for pid <- pids do
      Process.unlink(pid)
      ref = Process.monitor(pid)
      Process.exit(pid, :kill)
      receive do: ({:DOWN, ^ref, _, _, _} -> :ok)
    end

    Process.unlink(counter)
    Process.exit(counter, :kill)
    :erlang.garbage_collect()
  end
end

alias Bench.{LiveViews, Repo, User}

{opts, tenant} = Bench.start(pages: :integer, times: :integer, only: :string)
n = opts[:pages] || 1000
times = opts[:times] || 15
only = opts[:only] && String.split(opts[:only], ",")
Logger.configure(level: :warning)

Application.put_env(:ecto_fdb_sync, Bench.Endpoint,
  secret_key_base: String.duplicate("x", 64),
  live_view: [signing_salt: "of the bench", hibernate_after: LiveViews.hibernate_after()],
  pubsub_server: Bench.PubSub,
  server: false
)

{:ok, _} = Application.ensure_all_started(:phoenix_live_view)

{:ok, _} =
  Supervisor.start_link([{Phoenix.PubSub, name: Bench.PubSub}, Bench.Endpoint],
    strategy: :one_for_one
  )

version = Application.spec(:phoenix_live_view, :vsn)
IO.puts("Elixir #{System.version()}, LiveView #{version}, #{n} LiveViews\n")
widths = [34, 11, 11, 11, 9, 9, 9]
Bench.row(["", "join all ms", "change ms", "fastest ms", "CPU ms", "KB", "KB idle"], widths)

fill = fn count ->
  Repo.delete_all(User, prefix: tenant)

  for ids <- Enum.chunk_every(1..count, 2_000) do
    ids = for i <- ids, do: {i, "u" <> String.pad_leading("#{i}", 5, "0")}
    rows = for {i, id} <- ids, do: %{id: id, name: "User #{id}", team: "team #{rem(i, 7)}"}
    Repo.insert_all(User, rows, prefix: tenant)
  end
end

update = fn id, i ->
  Repo.update!(
    struct(User, id: id, team: "team 1"),
    [name: "User #{i} #{System.unique_integer()}"],
    prefix: tenant
  )
end

broadcast = fn id, i ->
  Phoenix.PubSub.broadcast(Bench.PubSub, "users", {:changed, update.(id, i)})
end

measure = fn name, kind, change ->
  if only == nil or kind in only do
    views = LiveViews.start(n, tenant, kind)

    {median, fastest, cpu} = if change, do: LiveViews.changes(times, change), else: {"", "", ""}

    {collected, idle} = LiveViews.memory(views)
    Bench.row([name, views.mount_ms, median, fastest, cpu, collected, idle], widths)
    LiveViews.stop(views)
    {median, cpu}
  end
end

ratio = fn
  {time, cpu}, {broadcast, broadcast_cpu} ->
    [time, cpu] =
      for {a, b} <- [{time, broadcast}, {cpu, broadcast_cpu}], do: Float.round(a / b, 2)

    IO.puts("    #{time} times the broadcast, #{cpu} times its CPU time\n")

  _left_out, _broadcast ->
    :ok
end

measure.("an empty page", "empty", nil)
fill.(200)
pubsub = measure.("a record, PubSub and assign", "pubsub_one", &broadcast.("u00100", &1))
ratio.(measure.("a record, sync_one", "sync_one", &update.("u00100", &1)), pubsub)
pubsub = measure.("a list of 200, PubSub and stream", "pubsub_stream", &broadcast.("u00100", &1))
ratio.(measure.("a list of 200, sync_stream", "sync_stream", &update.("u00100", &1)), pubsub)
ratio.(measure.("a list of 200, sync_all", "sync_all", &update.("u00100", &1)), pubsub)
fill.(10_000)
pubsub = measure.("50 of 10,000, PubSub and stream", "pubsub_window", &broadcast.("u00025", &1))
ratio.(measure.("50 of 10,000, sync_stream", "sync_window", &update.("u00025", &1)), pubsub)
