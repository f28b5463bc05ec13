# What the benchmarks share: a Repo, schemas, pages, counters.

defmodule Bench.User do
  defstruct [:id, :name, :team, __meta__: %{prefix: nil, state: :built}]

  def __schema__(:source), do: "users"
  def __schema__(:fields), do: [:id, :name, :team]
  def __schema__(:primary_key), do: [:id]
  def __schema__(:autogenerate_id), do: {:id, :id, :binary_id}
  def __schema__(:type, _field), do: :string
end

defmodule Bench.Migration do
  use EctoFoundationDB.Migration

  @impl true
  def change, do: [create(metadata(Bench.User))]
end

defmodule Bench.Repo do
  use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
  use EctoFoundationDB.Migrator

  @impl true
  def migrations, do: [{1, Bench.Migration}]
end

defmodule Bench do
  alias EctoFoundationDB.{Connection, Embedded, Native, Tenant}

  @mounted 1
  @updated 2

  @doc "Parses the options, starts the Repo, opens a new tenant: for a benchmark that is run by itself."
  def start(switches) do
    {opts, rest} = OptionParser.parse!(System.argv(), strict: switches ++ [cluster: :string])
    if rest != [], do: raise(ArgumentError, "unknown arguments: #{Enum.join(rest, " ")}")
    {:ok, _} = Bench.Repo.start_link(config(opts))
    where = if opts[:cluster], do: "the cluster of #{opts[:cluster]}", else: "the embedded engine"
    IO.puts("#{System.schedulers_online()} schedulers, OTP #{System.otp_release()}, #{where}")
    {opts, Tenant.open!(Bench.Repo, "bench-#{System.os_time()}")}
  end

  @doc "The configuration of a Repo."
  def config(opts) do
    database =
      if opts[:cluster],
        do: [cluster_file: opts[:cluster]] ++ Keyword.take(opts, [:library]),
        else: [embedded: true]

    database ++ [log: false, timeout: 60_000]
  end

  def stats, do: Native.stats(Connection.fetch!(Bench.Repo).database)

  @doc """
  What was asked of the database while a function ran, and its result. `:reads` and `:transactions` are
  those of the engine where it answers, all work included, and those of live queries on a cluster. `:beam` and
  `:other` are microseconds of processor time, of the VM's schedulers and of all other threads.
  """
  def counted(repo \\ Bench.Repo, fun) do
    before = counters(repo)
    result = fun.()
    {Map.new(counters(repo), fn {name, value} -> {name, value - before[name]} end), result}
  end

  @doc """
  Reads, watches and transactions of each of `n` changes that `pages` saw. The classic way has a watch for each
  page, which nobody counts, and what it reads is counted by the engine alone.
  """
  def each_change_costs(bench, kind, counts, n, pages \\ 1)

  def each_change_costs(%{cluster: nil}, :classic, counts, n, pages),
    do: [counts.reads / n, pages * 1.0, counts.transactions / n]

  def each_change_costs(_on_a_cluster, :classic, _counts, _n, pages), do: [nil, pages * 1.0, nil]

  def each_change_costs(_bench, :ours, counts, n, _pages),
    do: for(what <- [:reads, :watches, :transactions], do: counts[what] / n)

  defp counters(repo) do
    live = Native.stats(Connection.fetch!(repo).database)
    counters = %{reads: live.reads, watches: live.watches_armed, transactions: live.batches}
    counters = Map.merge(counters, processor_time())

    case Embedded.stats(repo) do
      nil ->
        counters

      engine ->
        # A transaction that writes without reading has a read version, too.
        %{counters | reads: engine.reads, transactions: engine.read_versions}
        |> Map.put(:commits, engine.commits)
    end
  end

  # Of each thread that there is now; those that have ended are missing.
  defp processor_time do
    for thread <- File.ls!("/proc/self/task"),
        {:ok, name} <- [File.read("/proc/self/task/#{thread}/comm")],
        {:ok, times} <- [File.read("/proc/self/task/#{thread}/schedstat")],
        reduce: %{beam: 0.0, other: 0.0} do
      sums ->
        [nanoseconds | _] = String.split(times)
        whose = if name =~ "scheduler", do: :beam, else: :other
        Map.update!(sums, whose, &(&1 + String.to_integer(nanoseconds) / 1000))
    end
  end

  @doc "Starts processes that run `page` and say when they are mounted, and with each update."
  def pages(n, page) do
    # Counting costs the pages as little as possible, and the last of them reports.
    arrived = :atomics.new(2, [])
    bench = self()

    tell = fn what ->
      if :atomics.add_get(arrived, what, 1) == n, do: send(bench, {:all, what})
    end

    mounted = fn -> tell.(@mounted) end
    updated = fn -> tell.(@updated) end
    before = memory()

    {time, pids} =
      :timer.tc(fn ->
        pids = for i <- 1..n, do: spawn(fn -> page.(i, mounted, updated) end)
        wait(@mounted)
        pids
      end)

    Enum.each(pids, &:erlang.garbage_collect/1)
    used = Enum.zip_with([memory(), before], fn [now, before] -> div(now - before, n) end)
    %{pids: pids, arrived: arrived, mount_ms: time / 1000, used: used}
  end

  @doc "Milliseconds from before the change until every page has seen it: the median of some."
  def changes(pages, times, change), do: pages |> each_change(times, change) |> percentile(0.5)

  @doc "Milliseconds from before each change until every page has seen it."
  def each_change(pages, times, change) do
    for i <- 1..times do
      :atomics.put(pages.arrived, @updated, 0)
      start = System.monotonic_time(:microsecond)
      change.(i)
      wait(@updated)
      (System.monotonic_time(:microsecond) - start) / 1000
    end
  end

  defp wait(what) do
    receive do
      {:all, ^what} -> :ok
    end
  end

  def stop(pages) do
    for pid <- pages.pids, do: Process.exit(pid, :kill)
    for pid <- pages.pids, do: wait_for_exit(pid)
    :erlang.garbage_collect()
  end

  defp wait_for_exit(pid) do
    ref = Process.monitor(pid)

    receive do
      {:DOWN, ^ref, _, _, _} -> :ok
    end
  end

  @doc "Bytes: of the BEAM, and of the operating system process."
  def memory do
    [rss] =
      Regex.run(~r/VmRSS:\s+(\d+) kB/, File.read!("/proc/self/status"), capture: :all_but_first)

    [:erlang.memory(:total), String.to_integer(rss) * 1024]
  end

  @doc "An error that says why there is not memory enough for `n` pages of so many bytes; else nothing."
  def check_memory!(n, bytes) do
    [available] =
      Regex.run(~r/MemAvailable:\s+(\d+) kB/, File.read!("/proc/meminfo"), capture: :all_but_first)

    {needed, available} = {div(n * bytes, 1_000_000), div(String.to_integer(available), 1_000)}

    if needed > available do
      raise Bench.LeftOut,
            "#{n} pages take about #{needed} MB, and #{available} MB are available: close other programs, or " <>
              "measure on a machine with more memory"
    end
  end

  def percentile(values, q), do: values |> Enum.sort() |> Enum.at(trunc(length(values) * q))

  @doc "The median, the 99th percentile and the greatest."
  def spread(values) do
    sorted = values |> Enum.sort() |> List.to_tuple()
    size = tuple_size(sorted)
    [elem(sorted, div(size, 2)), elem(sorted, trunc(size * 0.99)), elem(sorted, size - 1)]
  end

  def row(columns, widths) do
    columns
    |> Enum.zip(widths)
    |> Enum.map_join("  ", fn {column, width} -> String.pad_leading(to_text(column), width) end)
    |> IO.puts()
  end

  defp to_text(number) when is_float(number), do: :erlang.float_to_binary(number, decimals: 1)
  defp to_text(other), do: to_string(other)
end

defmodule Bench.LeftOut do
  # A part of a scenario that cannot be measured here.
  defexception [:message]
end
