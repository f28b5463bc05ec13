# The floor: the same work in Rust with the `foundationdb` crate alone (native/bench_floor), in this run.

defmodule Bench.Floor do
  @program Path.expand("../target/release/bench_floor", __DIR__)

  @doc """
  Measures some work for so many seconds with so many tasks: operations a second, and p50, p99 and max in
  microseconds.
  """
  def measure(bench, work, seconds, tasks) do
    place = if bench.cluster, do: Enum.reject([bench.cluster, bench.library], &is_nil/1), else: []

    case System.cmd(@program, [work, "#{seconds}", "#{tasks}" | place], stderr_to_stdout: true) do
      {line, 0} ->
        [count | times] = String.split(line)
        [all, p50, p99, max] = Enum.map(times, &String.to_float/1)
        {String.to_integer(count) / all, [p50, p99, max]}

      {message, _} ->
        raise Bench.LeftOut, "the floor was not measured: #{String.trim(message)}"
    end
  end
end
