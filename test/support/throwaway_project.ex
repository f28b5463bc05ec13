defmodule EctoFdbSync.ThrowawayProject do
  @moduledoc false
  # A Mix project in a separate folder, for tests that run `mix` as a user does.

  @doc "A new folder; the test removes it at its end."
  def new do
    name = "ecto_fdb_throwaway_#{System.unique_integer([:positive])}_#{System.pid()}"
    directory = Path.join(System.tmp_dir!(), name)
    File.mkdir_p!(directory)
    ExUnit.Callbacks.on_exit(fn -> File.rm_rf!(directory) end)
    directory
  end

  @doc "Writes a file, with the folders it needs."
  def write(directory, file, contents) do
    path = Path.join(directory, file)
    File.mkdir_p!(Path.dirname(path))
    File.write!(path, contents)
    path
  end

  @doc """
  A folder for `PATH` that has what Mix needs, and these scripts (`{name, body}`), but no Rust.
  """
  def path_with(directory, scripts) do
    bin = Path.join(directory, "bin")
    File.mkdir_p!(bin)

    for tool <- ~w(mix elixir erl sh env basename dirname readlink sed cat uname) do
      if found = System.find_executable(tool), do: File.ln_s!(found, Path.join(bin, tool))
    end

    for {name, body} <- scripts do
      script = Path.join(bin, name)
      File.write!(script, "#!/bin/sh\n#{body}\n")
      File.chmod!(script, 0o755)
    end

    bin
  end

  @doc "Runs `mix` as a user without Hex does: with nothing of this run's environment, and an empty home."
  def mix(directory, args, env \\ []) do
    home = Path.join(directory, "home")
    File.mkdir_p!(home)
    user_home = System.user_home!()

    env =
      [
        {"MIX_ENV", nil},
        {"MIX_HOME", nil},
        {"MIX_BUILD_PATH", nil},
        {"CARGO_TARGET_DIR", nil},
        {"ECTO_FDB_DEPS", nil},
        {"ECTO_FDB_NIF", nil},
        {"HOME", home},
        {"CARGO_HOME", System.get_env("CARGO_HOME") || Path.join(user_home, ".cargo")},
        {"RUSTUP_HOME", System.get_env("RUSTUP_HOME") || Path.join(user_home, ".rustup")}
      ] ++ env

    System.cmd("mix", args, cd: directory, env: env, stderr_to_stdout: true)
  end
end
