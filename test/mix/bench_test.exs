defmodule EctoFoundationDB.BenchTest do
  # bin/bench measures, and says what is wrong. The floor, which is a Rust program, is built by bin/bench alone.
  use ExUnit.Case, async: true

  defp bench(args) do
    args = ["run", "--no-compile", "--no-deps-check", "bench/main.exs" | args]
    System.cmd("mix", args, stderr_to_stdout: true, env: [{"MIX_ENV", "test"}])
  end

  test "a scenario that there isn't is refused with those that there are" do
    assert {output, 1} = bench(["fanuot"])
    assert output =~ "Unknown scenario: fanuot"
    assert output =~ "fanout"
    assert {output, 1} = bench(["--qick"])
    assert output =~ "Unknown option, or one without its value: --qick"
    assert output =~ "--quick"
  end

  test "a cluster file that there isn't is refused" do
    assert {output, 1} = bench(["--cluster", "/nowhere/fdb.cluster"])
    assert output =~ "There is no cluster file /nowhere/fdb.cluster"
  end

  @tag timeout: 600_000
  test "tables and charts are written" do
    floor = ["build", "--quiet", "--release", "-p", "bench_floor"]
    assert {_output, 0} = System.cmd("cargo", floor, stderr_to_stdout: true)
    folder = Path.join(System.tmp_dir!(), "bench-#{System.os_time()}")
    on_exit(fn -> File.rm_rf!(folder) end)
    assert {output, 0} = bench(["--quick", "--out", folder, "latency"])
    assert output =~ "sync_one"
    tables = File.read!(Path.join(folder, "embedded-quick.md"))
    assert tables =~ "| sync_one | 300 |"
    assert tables =~ "![Commit → assign, one page, p50](embedded-quick-latency.svg)"
    assert File.read!(Path.join(folder, "embedded-quick-latency.svg")) =~ ~r/^<svg.*<\/svg>\n$/s
  end
end
