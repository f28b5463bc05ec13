# Pages that follow the database: run by bin/demo.
#
# Three processes sync one user, a fourth one syncs another; a writer inserts, updates, deletes and
# re-creates the two. Shown live: each write, each page's assigns as they change, and how long after
# the beginning of the write that was.

defmodule Demo.Repo do
  use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
end

defmodule Demo.User do
  # With Ecto this is `use Ecto.Schema`; the library needs only these functions of it.
  defstruct [:id, :name, :city, __meta__: %{prefix: nil}]

  def __schema__(:source), do: "users"
  def __schema__(:primary_key), do: [:id]
  def __schema__(:fields), do: [:id, :name, :city]
  def __schema__(:type, _field), do: :string
end

defmodule Demo.Page do
  # A LiveView does no more than the one line in `init`; other processes pass their messages on.
  use GenServer

  alias EctoFoundationDB.Sync

  def start(number, tenant, id, demo) do
    GenServer.start_link(__MODULE__, {number, tenant, id, demo})
  end

  @impl true
  def init({number, tenant, id, demo}) do
    state = %{assigns: %{}, private: %{tenant: tenant}, number: number, demo: demo}
    {:ok, Sync.sync_one(state, Demo.Repo, :user, Demo.User, id)}
  end

  @impl true
  def handle_info(message, before) do
    {_cont_or_halt, state} = Sync.handle_ready(Demo.Repo, message, before)
    now = System.monotonic_time()
    send(state.demo, {:assigned, state.number, before.assigns.user, state.assigns.user, now})
    {:noreply, state}
  end
end

defmodule Demo do
  alias Demo.{Page, Repo, User}
  alias EctoFoundationDB.{Native, Tenant}

  @pages [{1, "u1"}, {2, "u1"}, {3, "u1"}, {4, "u2"}]
  # Between two changes, so that they can be watched.
  @pause 500
  @burst 1_000

  def run do
    Application.put_env(:ecto_fdb_sync, Repo, embedded: true, log: false)
    {:ok, _pid} = Repo.start_link()
    load_code()
    tenant = Tenant.open!(Repo, "demo")

    say([
      [:bright, "Pages that follow the database"],
      "",
      "A FoundationDB is running inside this process, in memory. Four pages have each said, once,",
      ["    ", :cyan, "Sync.sync_one(state, Repo, :user, User, id)"],
      "and do nothing else. Below, somebody writes to the database; nobody tells the pages.",
      ""
    ])

    for {number, id} <- @pages do
      {:ok, _pid} = Page.start(number, tenant, id, self())
      say([["  page #{number} syncs #{id}   @user = ", :faint, "nil"]])
    end

    ada = %User{id: "u1", name: "Ada", city: "London"}
    bea = %User{id: "u2", name: "Bea", city: "Rome"}

    shown =
      for change <- [
            {:insert!, ada},
            {:insert!, bea},
            {:update!, ada, city: "Paris"},
            {:update!, ada, name: "Ada L."},
            {:update!, bea, city: "Oslo"},
            {:delete!, bea},
            {:delete!, ada},
            {:insert!, %{ada | city: "Turin"}},
            {:insert!, bea}
          ] do
        Process.sleep(@pause)
        show(change, tenant)
      end

    Process.sleep(@pause)
    summary(shown ++ burst(tenant, ada))
  end

  # A release has its code loaded when it starts; here the first change would pay for that.
  defp load_code do
    {:ok, modules} = :application.get_key(:ecto_fdb_sync, :modules)
    Enum.each(modules, &Code.ensure_loaded/1)
  end

  # One change: the write, and each page that shows the record as its assigns change.
  defp show(change, tenant) do
    started = System.monotonic_time()
    write(change, tenant)
    say(["", [:bright, "Repo.#{elem(change, 0)}", :reset, "  ", described(change)]])

    for _page <- showing(elem(change, 1).id) do
      {number, before, user, time} = assigned()
      before = String.pad_leading(shown(before), 13)
      user = String.pad_trailing(shown(user), 13)
      took = String.pad_leading(ms(time - started), 8)

      say([
        ["  page #{number}   @user = ", :faint, before, :reset, " → ", :green, user] ++
          [:reset, took, " ms"]
      ])

      {number, time - started}
    end
  end

  defp write({:insert!, user}, tenant), do: Repo.insert!(user, prefix: tenant)
  defp write({:update!, user, changes}, tenant), do: Repo.update!(user, changes, prefix: tenant)
  defp write({:delete!, user}, tenant), do: Repo.delete!(user, prefix: tenant)

  defp described({:insert!, user}), do: "#{user.id}: #{shown(user)}"

  defp described({:update!, user, [{field, value}]}),
    do: "#{user.id}, #{field}: #{inspect(value)}"

  defp described({:delete!, user}), do: user.id

  defp showing(id), do: for({number, ^id} <- @pages, do: number)

  # The same again and again, without a pause and without showing it.
  defp burst(tenant, user) do
    say(["", [:bright, "Repo.update!", :reset, " u1, #{@burst} times, each seen by 3 pages …"]])

    for i <- 1..@burst do
      started = System.monotonic_time()
      write({:update!, user, [city: "City #{i}"]}, tenant)

      for _page <- showing(user.id) do
        {number, _before, %User{city: city}, time} = assigned()
        ^city = "City #{i}"
        {number, time - started}
      end
    end
  end

  defp assigned do
    receive do
      {:assigned, number, before, user, time} -> {number, before, user, time}
    after
      10_000 -> raise "a page did not see the change within 10 s"
    end
  end

  defp summary(changes) do
    seen = Enum.concat(changes)
    times = seen |> Enum.map(fn {_number, time} -> time end) |> Enum.sort()
    by_page = Enum.frequencies_by(seen, fn {number, _time} -> number end)
    database = EctoFoundationDB.Connection.fetch!(Repo).database
    stats = Native.stats(database)
    pending = Native.engine_stats(database).pending_watches

    say([
      "",
      [:bright, "Summary"],
      "  changes made              #{length(changes)}",
      "  updates seen              " <>
        Enum.map_join(@pages, ", ", fn {number, _id} -> "page #{number}: #{by_page[number]}" end),
      "  watches armed             #{pending}, for #{stats.subscriptions} pages",
      "  reads for the pages       #{stats.reads}",
      "  write → assign            p50 #{ms(percentile(times, 50))} ms, " <>
        "p99 #{ms(percentile(times, 99))} ms, from the call of Repo on, commit included",
      ""
    ])
  end

  defp percentile(sorted, percent), do: Enum.at(sorted, div(length(sorted) * percent, 100))

  defp ms(time) do
    microseconds = System.convert_time_unit(time, :native, :microsecond)
    :erlang.float_to_binary(microseconds / 1000, decimals: 2)
  end

  defp shown(nil), do: "nil"
  defp shown(%User{name: name, city: city}), do: "#{name}, #{city}"

  defp say(lines) do
    for line <- lines, do: line |> List.wrap() |> IO.ANSI.format() |> IO.puts()
  end
end

Demo.run()
