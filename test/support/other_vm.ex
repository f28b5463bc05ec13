defmodule EctoFoundationDB.OtherVM do
  @moduledoc false
  # Repos in separate VMs: a VM has one client library, and only one VM can have a file open.

  @doc """
  Starts `Away.Repo` with this configuration in another VM and runs code there. Gives what that gave,
  inspected, or the error's message.
  """
  @spec run(keyword(), [{String.t(), String.t()}], String.t()) ::
          {:ok, String.t()} | {:error, String.t()}
  def run(config, env \\ [], code \\ ":ok") do
    script = """
    #{repo(config)}
    answer =
      try do
        case Away.Repo.start_link() do
          {:ok, _pid} -> {:ok, inspect((fn -> #{code} end).())}
          {:error, error} -> {:error, Exception.message(error)}
        end
      rescue
        error -> {:error, Exception.message(error)}
      end

    IO.puts("answer:" <> Base.encode64(:erlang.term_to_binary(answer)))
    """

    {output, status} = System.cmd("elixir", args(script), env: env, stderr_to_stdout: true)

    case Regex.run(~r/^answer:(.*)$/m, output) do
      [_all, answer] when status == 0 -> answer |> Base.decode64!() |> :erlang.binary_to_term()
      _crashed -> raise "the other VM ended with status #{status}, and said:\n#{output}"
    end
  end

  @doc """
  Starts `Away.Repo` in another VM and runs code there, whose lines come to this process as
  `{port, {:data, {:eol, line}}}`. Gives the port and the operating system's pid.
  """
  @spec open(keyword(), String.t()) :: {port(), pos_integer()}
  def open(config, code) do
    script = """
    #{repo(config)}
    {:ok, _pid} = Away.Repo.start_link()
    #{code}
    """

    port =
      Port.open(
        {:spawn_executable, System.find_executable("elixir")},
        [:binary, :stderr_to_stdout, :exit_status, line: 1000, args: args(script)]
      )

    {port, pid(port, [])}
  end

  defp pid(port, said) do
    receive do
      {^port, {:data, {:eol, "pid " <> pid}}} -> String.to_integer(pid)
      {^port, {:data, {_eol, line}}} -> pid(port, [said, line, ?\n])
      {^port, {:exit_status, _status}} -> raise "the other VM said:\n#{said}"
    end
  end

  defp repo(config) do
    """
    defmodule Away.Repo do
      use EctoFoundationDB.Repo, otp_app: :away
    end

    defmodule Away.User do
      use EctoFoundationDB.TestSchema, source: "users", fields: [id: :string]
    end

    IO.puts("pid \#{System.pid()}")
    Process.flag(:trap_exit, true)
    Application.put_env(:away, Away.Repo, #{inspect(config)})
    """
  end

  defp args(script) do
    paths = Enum.flat_map(:code.get_path(), fn path -> ["-pa", to_string(path)] end)
    paths ++ ["-e", script]
  end
end
