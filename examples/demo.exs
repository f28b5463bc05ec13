# Pages that follow the database: run by bin/demo.
#
# Processes sync records and lists of an embedded database while a writer changes them. The demo prints each
# write, and each page's assigns as they change with the time since the write began; then it measures 5,000
# pages on one list, and the cost for the database.

defmodule Demo.User do
  # With Ecto this is `use Ecto.Schema`; the library only needs these functions.
  defstruct [:id, :name, :city, __meta__: %{prefix: nil}]

  def __schema__(:source), do: "users"
  def __schema__(:primary_key), do: [:id]
  def __schema__(:fields), do: [:id, :name, :city]
  def __schema__(:type, _field), do: :string
end

defmodule Demo.Team do
  defstruct [:id, :members, __meta__: %{prefix: nil}]

  def __schema__(:source), do: "teams"
  def __schema__(:primary_key), do: [:id]
  def __schema__(:fields), do: [:id, :members]
  def __schema__(:type, :members), do: {:array, :string}
  def __schema__(:type, :id), do: :string
end

defmodule Demo.Indexes do
  use EctoFoundationDB.Migration

  # Counters that notify about user lists, and an index to query by city.
  @impl true
  def change do
    [
      create(metadata(Demo.User)),
      create(metadata(Demo.User, [:city])),
      create(index(Demo.User, [:city]))
    ]
  end
end

defmodule Demo.Repo do
  use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
  use EctoFoundationDB.Migrator

  @impl true
  def migrations, do: [{0, Demo.Indexes}]
end

defmodule Demo.Page do
  # A LiveView only needs the call of Sync in `mount`, because Sync attaches a hook. Other processes pass on
  # their messages.
  use GenServer

  alias EctoFoundationDB.Sync

  def start_link(args), do: GenServer.start_link(__MODULE__, args)

  @impl true
  def init({number, label, tenant, demo, mount}) do
    state = mount.(%{assigns: %{}, private: %{tenant: tenant}})
    {:ok, Map.merge(state, %{number: number, label: label, demo: demo})}
  end

  @impl true
  def handle_info(message, before) do
    {_cont_or_halt, state} = Sync.handle_ready(Demo.Repo, message, before)
    now = System.monotonic_time()
    send(state.demo, {:assigned, state.number, shown(before), shown(state), now})
    {:noreply, state}
  end

  defp shown(state), do: state.assigns[state.label]
end

defmodule Demo do
  alias Demo.{Page, Repo, Team, User}
  alias EctoFoundationDB.{Sync, Tenant}

  # The pause between two changes, so that you can follow them.
  @pause 500
  @burst 1_000
  @many 5_000

  @labels %{
    1 => :user,
    2 => :user,
    3 => :user,
    4 => :user,
    5 => :users,
    6 => :romans,
    7 => :members
  }

  def run do
    Application.put_env(:ecto_fdb_sync, Repo, embedded: true, log: false)
    {:ok, _pid} = Repo.start_link()
    load_code()
    tenant = Tenant.open!(Repo, "demo")
    {:ok, _pid} = DynamicSupervisor.start_link(name: Demo.Pages, strategy: :one_for_one)

    say([
      [:bright, "Pages that follow the database"],
      "",
      "A FoundationDB is running inside this process, in memory. Each page says once what it shows,",
      "and does nothing else. Somebody writes to the database; nobody tells the pages."
    ])

    shown = records(tenant) ++ lists(tenant)
    burst = burst(tenant)
    summary(shown ++ burst, many(tenant))
  end

  # A release loads its code when it starts. Here, loading would delay the first change.
  defp load_code do
    {:ok, modules} = :application.get_key(:ecto_fdb_sync, :modules)
    Enum.each(modules, &Code.ensure_loaded/1)
  end

  defp records(tenant) do
    heading("Records", "Sync.sync_one(state, Repo, :user, User, id)")

    for {number, id} <- [{1, "u1"}, {2, "u1"}, {3, "u1"}, {4, "u2"}] do
      page(number, tenant, &Sync.sync_one(&1, Repo, :user, User, id))
      say("  page #{number} syncs #{id}")
    end

    ada = %User{id: "u1", name: "Ada", city: "London"}
    bea = %User{id: "u2", name: "Bea", city: "Rome"}

    show(tenant, [
      {{:insert!, ada}, [1, 2, 3]},
      {{:insert!, bea}, [4]},
      {{:update!, ada, city: "Paris"}, [1, 2, 3]},
      {{:update!, bea, city: "Oslo"}, [4]},
      {{:delete!, ada}, [1, 2, 3]},
      {{:delete!, bea}, [4]},
      {{:insert!, %{ada | city: "Turin"}}, [1, 2, 3]},
      {{:insert!, bea}, [4]}
    ])
  end

  defp lists(tenant) do
    Repo.insert!(%Team{id: "t1", members: ["u1"]}, prefix: tenant)
    heading("Lists", "Sync.sync_all(state, Repo, :users, User)")
    page(5, tenant, &Sync.sync_all(&1, Repo, :users, User))
    code("Sync.sync_all_by(state, Repo, :romans, User, city: \"Rome\")")
    page(6, tenant, &Sync.sync_all_by(&1, Repo, :romans, User, city: "Rome"))
    code("Sync.sync_one(state, Repo, :team, Team, \"t1\"), and a callback that syncs its members")
    page(7, tenant, &team/1)
    cid = %User{id: "u3", name: "Cid", city: "Rome"}

    show(tenant, [
      {{:insert!, cid}, [5, 6]},
      {{:update!, %Team{id: "t1"}, members: ["u1", "u3"]}, [7]},
      {{:update!, cid, name: "Sid"}, [5, 6, 7]},
      {{:update!, %User{id: "u2"}, city: "Oslo"}, [4, 5, 6]},
      {{:delete!, cid}, [5, 6, 7]}
    ])
  end

  # Dependent syncing: a record refers to others.
  defp team(state) do
    state
    |> Sync.attach_callback(Repo, :handle_assigns, fn
      state, %{team: _old} ->
        {:cont, Sync.sync_many(state, Repo, :members, User, state.assigns.team.members)}

      state, _old ->
        {:cont, state}
    end)
    |> Sync.sync_one(Repo, :team, Team, "t1")
  end

  defp page(number, tenant, mount) do
    page = {Page, {number, @labels[number], tenant, self(), mount}}
    {:ok, _pid} = DynamicSupervisor.start_child(Demo.Pages, page)
  end

  # Changes, each with the pages that show it: prints the write, and the pages as they change.
  defp show(tenant, changes) do
    for {change, pages} <- changes do
      Process.sleep(@pause)
      started = System.monotonic_time()
      write(change, tenant)
      say(["", [:bright, "Repo.#{elem(change, 0)}", :reset, "  ", described(change)]])
      for _page <- pages, do: started |> assigned(pages) |> show_page()
    end
  end

  defp show_page({number, before, now, time}) do
    say([
      ["  page #{number}  ", String.pad_leading("@#{@labels[number]} = ", 11), :faint] ++
        [String.pad_leading(shown(before), 24), :reset, " → ", :green] ++
        [String.pad_trailing(shown(now), 24), :reset, String.pad_leading(ms(time), 8), " ms"]
    ])

    {number, time}
  end

  # The next page's change, with its time since `started`.
  defp assigned(started, pages) do
    receive do
      {:assigned, number, before, now, time} ->
        true = number in pages
        {number, before, now, time - started}
    after
      10_000 -> raise "a page did not see the change within 10 s"
    end
  end

  defp write({:insert!, record}, tenant), do: Repo.insert!(record, prefix: tenant)

  defp write({:update!, record, changes}, tenant),
    do: Repo.update!(record, changes, prefix: tenant)

  defp write({:delete!, record}, tenant), do: Repo.delete!(record, prefix: tenant)

  defp described({:insert!, record}), do: "#{record.id}: #{shown(record)}"

  defp described({:update!, record, [{field, new}]}),
    do: "#{record.id}, #{field}: #{inspect(new)}"

  defp described({:delete!, record}), do: record.id

  # Repeats the change without a pause and without printing.
  defp burst(tenant) do
    Process.sleep(@pause)
    say(["", [:bright, "Repo.update!", :reset, "  u1, #{@burst} times, seen by 5 pages …"]])

    for i <- 1..@burst do
      started = System.monotonic_time()
      write({:update!, %User{id: "u1"}, [city: "City #{i}"]}, tenant)
      pages = [1, 2, 3, 5, 7]

      for _page <- pages do
        {number, _before, _now, time} = assigned(started, pages)
        {number, time}
      end
    end
  end

  # Many lightweight pages on one list.
  defp many(tenant) do
    for i <- 1..98, do: write({:insert!, %User{id: "v#{i}", name: "V#{i}", city: "Bern"}}, tenant)
    heading("#{@many} pages on one list of 100 users", "Sync.sync_all(state, Repo, :users, User)")
    # Pages that end leave nothing behind.
    Supervisor.stop(Demo.Pages)
    demo = self()
    for _ <- 1..@many, do: spawn_link(fn -> follow_list(mount_list(tenant, demo), demo) end)
    for _ <- 1..@many, do: receive(do: (:mounted -> :ok))
    before = Sync.stats(Repo)

    times =
      for i <- 1..5 do
        started = System.monotonic_time()
        write({:update!, %User{id: "u1"}, [city: "Town #{i}"]}, tenant)
        for _ <- 1..@many, do: receive(do: (:assigned -> :ok))
        System.monotonic_time() - started
      end

    Process.sleep(@pause)
    for time <- times, do: say("  a change, seen by all of them after #{ms(time)} ms")
    now = Sync.stats(Repo)

    %{
      pages: now.subscriptions,
      watches: now.pending_watches,
      reads: div(now.reads - before.reads, length(times)),
      slowest: Enum.max(times)
    }
  end

  defp mount_list(tenant, demo) do
    state = %{assigns: %{}, private: %{tenant: tenant}}
    state = Sync.sync_all(state, Repo, :users, User)
    send(demo, :mounted)
    state
  end

  defp follow_list(state, demo) do
    receive do
      message ->
        {:halt, state} = Sync.handle_ready(Repo, message, state)
        send(demo, :assigned)
        follow_list(state, demo)
    end
  end

  defp summary(changes, many) do
    seen = Enum.concat(changes)
    times = seen |> Enum.map(fn {_number, time} -> time end) |> Enum.sort()
    by_page = seen |> Enum.frequencies_by(fn {number, _time} -> number end) |> Enum.sort()

    say([
      "",
      [:bright, "Summary"],
      "  changes made       #{length(changes)}",
      "  updates seen       " <>
        Enum.map_join(by_page, ", ", fn {page, n} -> "page #{page}: #{n}" end),
      "  write → assign     p50 #{ms(percentile(times, 50))} ms, p99 #{ms(percentile(times, 99))} ms" <>
        ", from the call of Repo on, commit included",
      "  #{many.pages} pages         " <>
        "watches armed: #{many.watches}, reads per change: #{many.reads}, " <>
        "last page after #{ms(many.slowest)} ms at most",
      ""
    ])
  end

  defp percentile(sorted, percent), do: Enum.at(sorted, div(length(sorted) * percent, 100))

  defp ms(time) do
    microseconds = System.convert_time_unit(time, :native, :microsecond)
    :erlang.float_to_binary(microseconds / 1000, decimals: 2)
  end

  defp shown(nil), do: "nil"
  defp shown([]), do: "[]"
  defp shown(users) when is_list(users), do: Enum.map_join(users, ", ", & &1.name)
  defp shown(%User{name: name, city: city}), do: "#{name}, #{city}"
  defp shown(%Team{members: members}), do: inspect(members)

  defp heading(title, code) do
    say(["", "", [:bright, title], ""])
    code(code)
  end

  defp code(code), do: say([["    ", :cyan, code]])

  defp say(lines),
    do: for(line <- List.wrap(lines), do: line |> List.wrap() |> IO.ANSI.format() |> IO.puts())
end

Demo.run()
