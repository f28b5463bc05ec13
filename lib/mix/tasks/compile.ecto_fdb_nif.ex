defmodule Mix.Tasks.Compile.EctoFdbNif do
  @shortdoc "Builds the NIF with cargo"

  @moduledoc """
  Builds `native/ecto_fdb` with `cargo build --release` and installs it as
  `priv/native/libecto_fdb.so`. It runs as part of `mix compile`, here and in every project that
  depends on this one.

  Nothing is done while no Rust source has changed; `--force` asks cargo all the same. Cargo's
  target directory is `target/` of this project, for all its users and Mix environments, or
  `CARGO_TARGET_DIR`.
  """

  use Mix.Task.Compiler

  @crate "ecto_fdb"
  @sources [
    "Cargo.toml",
    ".cargo/config.toml",
    "rust-toolchain{,.toml}",
    "native/**/*.{rs,toml}"
  ]

  @impl true
  def run(args) do
    # In a dependency's compilation, too, this is the directory of the project that has the task.
    root = File.cwd!()
    sources = digest(root, @sources)

    if "--force" not in args and up_to_date?(root, sources) do
      {:noop, []}
    else
      check_tools!(root)
      artifact = build!(root)
      install!(artifact, library(root))

      # Cargo may have written its lock file; a source that changed meanwhile is for the next time.
      File.write!(manifest(root), contents(root, sources))
      # Links priv/ into _build, which could not be done while there was none.
      Mix.Project.build_structure()
      {:ok, []}
    end
  end

  @impl true
  def manifests, do: [manifest(File.cwd!())]

  @impl true
  def clean do
    root = File.cwd!()
    File.rm(manifest(root))
    File.rm(library(root))
    :ok
  end

  defp up_to_date?(root, sources) do
    File.exists?(library(root)) and File.read(manifest(root)) == {:ok, contents(root, sources)}
  end

  defp contents(root, sources), do: sources <> digest(root, ["Cargo.lock"])

  # Contents, not times: a fresh checkout of the same sources is no change.
  defp digest(root, patterns) do
    patterns
    |> Enum.flat_map(&Path.wildcard(Path.join(root, &1), match_dot: true))
    |> Enum.sort()
    |> Enum.map(&[Path.relative_to(&1, root), 0, :erlang.md5(File.read!(&1))])
    |> :erlang.md5()
    |> Base.encode16(case: :lower)
  end

  defp check_tools!(root) do
    wanted = rust_version(root)

    for tool <- ["cargo", "rustc"], System.find_executable(tool) == nil do
      Mix.raise("""
      #{tool} was not found, and the NIF of ecto_fdb_sync is built with it. \
      Install Rust #{wanted} or newer with rustup (https://rustup.rs), and see that #{tool} is in PATH.
      """)
    end

    {output, status} = System.cmd("rustc", ["--version"], cd: root, stderr_to_stdout: true)

    case Regex.run(~r/^rustc (\d+)\.(\d+)/m, output) do
      [_all, major, minor] when status == 0 ->
        found = "#{major}.#{minor}"

        if Version.compare(found <> ".0", wanted <> ".0") == :lt do
          Mix.raise("""
          Rust #{wanted} or newer is needed to build the NIF of ecto_fdb_sync, but this is \
          Rust #{found}. Update it with `rustup update stable`; where Rust came from the \
          system's packages, install rustup first (https://rustup.rs).
          """)
        end

      _else ->
        Mix.raise("""
        `rustc --version` did not tell its version, so the NIF of ecto_fdb_sync can't be built. \
        Install Rust #{wanted} or newer with rustup (https://rustup.rs). It said:
        #{output}
        """)
    end
  end

  defp rust_version(root) do
    manifest = File.read!(Path.join(root, "Cargo.toml"))
    [_all, version] = Regex.run(~r/^rust-version = "(\d+\.\d+)"/m, manifest)
    version
  end

  defp build!(root) do
    target = System.get_env("CARGO_TARGET_DIR", "") |> non_empty() || Path.join(root, "target")
    args = ["build", "--release", "--package", @crate, "--target-dir", target]
    Mix.shell().info("Building the NIF: cargo #{Enum.join(Enum.take(args, 4), " ")}")

    # Cargo reports on stderr, which is inherited: its progress is seen as it happens.
    case System.cmd("cargo", args, cd: root) do
      {_output, 0} ->
        :ok

      {output, status} ->
        Mix.raise("""
        cargo could not build the NIF of ecto_fdb_sync (exit status #{status}); its messages are \
        above. #{output}
        """)
    end

    Enum.find_value([".so", ".dylib"], fn extension ->
      path = Path.expand(Path.join([target, "release", "lib" <> @crate <> extension]), root)
      File.exists?(path) && path
    end) ||
      Mix.raise(
        "cargo has built the NIF, but it is not in #{Path.join(target, "release")}: if Cargo is " <>
          "configured to build for another target or directory, undo that for this project"
      )
  end

  defp non_empty(""), do: nil
  defp non_empty(string), do: string

  # Another VM may have the library open: the new one gets a file of its own, put in place by a
  # rename. An equal one stays as it is.
  defp install!(artifact, library) do
    File.mkdir_p!(Path.dirname(library))

    if File.read(library) != File.read(artifact) do
      temporary = "#{library}.#{System.pid()}"
      File.cp!(artifact, temporary)
      File.rename!(temporary, library)
    end
  end

  defp library(root), do: Path.join(root, "priv/native/lib#{@crate}.so")
  defp manifest(root), do: Path.join(root, "priv/native/lib#{@crate}.sources")
end
