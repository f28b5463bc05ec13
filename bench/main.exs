# bin/bench runs this: the scenarios that are named, or all of them, one after the other.

for file <- ~w(support results floor), do: Code.require_file("#{file}.exs", __DIR__)

defmodule Bench.Main do
  alias Bench.{Chart, LeftOut, Repo, Table}
  alias EctoFoundationDB.Tenant

  # In this order: what an application does all day, then pages, then what takes long.
  @scenarios ~w(transactions layer latency fanout mounts records churn)

  def run(argv) do
    {opts, names} = options!(argv)
    names = if names == [], do: @scenarios, else: names

    with [_ | _] = unknown <- names -- @scenarios do
      stop("""
      Unknown scenario: #{Enum.join(unknown, ", ")}. There are:
        #{Enum.join(@scenarios, ", ")}
      """)
    end

    for name <- names, do: Code.require_file("scenarios/#{name}.exs", __DIR__)
    start!(opts)
    bench = Map.merge(%{cluster: nil, library: nil, quick: false}, Map.new(opts))
    IO.puts(machine(bench))

    results =
      for {name, place} <- Enum.with_index(names, 1) do
        IO.puts("\n[#{place}/#{length(names)}] #{name}")
        {time, result} = :timer.tc(fn -> scenario(name, bench) end)
        IO.puts("  (#{Float.round(time / 1_000_000, 1)} s)")
        {name, result}
      end

    written = write(results, bench, opts[:out] || Path.join(__DIR__, "results"))
    IO.puts("\n#{written}")
    failed = for {name, {:failed, _}} <- results, do: name
    if failed != [], do: stop("Not measured: #{Enum.join(failed, ", ")}")
  end

  defp options!(argv) do
    switches = [quick: :boolean, cluster: :string, library: :string, out: :string, help: :boolean]

    case OptionParser.parse(argv, strict: switches) do
      {opts, names, []} ->
        if opts[:help], do: stop(usage(), 0)
        {opts, names}

      {_opts, _names, [{option, _} | _]} ->
        stop("Unknown option, or one without its value: #{option}\n\n#{usage()}")
    end
  end

  defp usage do
    """
    bin/bench [--quick] [--cluster FILE [--library LIBFDB_C]] [--out FOLDER] [SCENARIO ...]

      --quick     less of everything: about two minutes
      --cluster   measures on the cluster of this file, instead of the embedded engine
      --library   the libfdb_c.so of its client, where the system doesn't find it
      --out       where the tables and charts go; bench/results by default

    Scenarios: #{Enum.join(@scenarios, ", ")}
    """
  end

  defp start!(opts) do
    with file when is_binary(file) <- opts[:cluster],
         false <- File.regular?(file),
         do:
           stop(
             "There is no cluster file #{file}. A FoundationDB client has it at /etc/foundationdb/fdb.cluster"
           )

    Process.flag(:trap_exit, true)

    case Repo.start_link(Bench.config(opts)) do
      {:ok, _} -> :ok
      {:error, reason} -> stop("The Repo does not start: #{message(reason)}")
    end

    Process.flag(:trap_exit, false)
    flush_exits()
    tenant = Tenant.open!(Repo, "bench-#{System.os_time()}", timeout: 10_000)
    Tenant.clear_delete!(Repo, tenant.id)
  rescue
    error ->
      stop("""
      The database does not answer: #{Exception.message(error)}

      Is the cluster of #{opts[:cluster]} running, and reachable from here? `fdbcli -C #{opts[:cluster]} --exec status` tells.
      """)
  end

  # Pages tell this process when they are through: nothing else may be in its mailbox.
  defp flush_exits do
    receive do
      {:EXIT, _pid, _reason} -> flush_exits()
    after
      0 -> :ok
    end
  end

  defp message(%{__exception__: true} = error), do: Exception.message(error)
  defp message({%{__exception__: true} = error, _stack}), do: Exception.message(error)
  defp message({:shutdown, reason}), do: message(reason)
  defp message({:failed_to_start_child, _child, reason}), do: message(reason)
  defp message(other), do: inspect(other)

  # Each has a tenant of its own, and leaves nothing behind.
  defp scenario(name, bench) do
    module = Module.concat(Bench, Macro.camelize(name))
    id = "bench-#{name}-#{System.os_time()}"

    opts =
      if function_exported?(module, :migrator, 0), do: [migrator: module.migrator()], else: []

    tenant = Tenant.open!(Repo, id, opts)

    try do
      {:ok, module.run(Map.put(bench, :tenant, tenant))}
    rescue
      error in LeftOut ->
        IO.puts("  left out: #{error.message}")
        {:failed, error.message}

      error ->
        IO.puts(Exception.format(:error, error, __STACKTRACE__))
        {:failed, Exception.message(error)}
    after
      Tenant.clear_delete!(Repo, id)
    end
  end

  defp machine(bench) do
    [cpu] =
      Regex.run(~r/model name\s*: (.+)/, File.read!("/proc/cpuinfo"), capture: :all_but_first) ||
        ["unknown"]

    where = if bench.cluster, do: "a cluster", else: "the embedded engine, in memory"

    "#{System.schedulers_online()} schedulers on #{cpu}, OTP #{System.otp_release()}, " <>
      "Elixir #{System.version()}; #{where}; #{Date.utc_today()}"
  end

  defp write(results, bench, folder) do
    place = if bench.cluster, do: "cluster", else: "embedded"
    place = if bench.quick, do: place <> "-quick", else: place
    File.mkdir_p!(folder)

    parts =
      for {name, result} <- results do
        module = Module.concat(Bench, Macro.camelize(name))

        body =
          case result do
            {:failed, reason} ->
              "Not measured: #{reason}"

            {:ok, {tables, charts}} ->
              images =
                for %Chart{} = chart <- charts, chart.bars != [] do
                  file = "#{place}-#{chart.name}.svg"
                  File.write!(Path.join(folder, file), Chart.svg(chart))
                  "![#{chart.title}](#{file})"
                end

              Enum.join(images ++ Enum.map(tables, &Table.markdown/1), "\n\n")
          end

        "## #{name}\n\n#{module.about()}\n\n#{body}"
      end

    file = Path.join(folder, "#{place}.md")

    File.write!(file, """
    # bin/bench#{if bench.quick, do: " --quick"}, #{if bench.cluster, do: "on a cluster", else: "embedded"}

    #{machine(bench)}. Every figure was measured in this run; ../README.md says what they mean.

    #{Enum.join(parts, "\n\n")}
    """)

    "Written: #{Path.relative_to_cwd(file)}"
  end

  defp stop(text, status \\ 1) do
    IO.puts(if(status == 0, do: :stdio, else: :stderr), String.trim_trailing(text))
    System.halt(status)
  end
end

Bench.Main.run(System.argv())
