defmodule Mix.Tasks.Compile.EctoFdbNif do
  @shortdoc "Builds the NIF with cargo, or installs a ready-built one"

  @moduledoc """
  Installs the NIF's library as `priv/native/libecto_fdb.so`. It runs as part of `mix compile`, here and
  in every project that depends on this one.

  **With cargo**, by default: builds `native/ecto_fdb` with `cargo build --release`. The task does nothing
  while no Rust source has changed; `--force` runs cargo anyway. Cargo's target directory is `target/`
  of this project, for all its users and Mix environments, or `CARGO_TARGET_DIR`.

  **Without cargo**: copies a library that `mix ecto_fdb.nif.build` made elsewhere. Name its absolute path in
  the environment variable `ECTO_FDB_NIF`, or in the application's configuration (the variable wins):

      # config/config.exs
      config :ecto_fdb_sync, nif: "/opt/nif/libecto_fdb-v0.1.0-nif-2.15-x86_64-unknown-linux-gnu.so"

  The library must be of this version, which is checked here and when the VM loads it. If a `.sha256`
  file lies beside it, its checksum is verified.
  """

  use Mix.Task.Compiler

  alias Mix.EctoFoundationDB.Nif

  @sources [
    "Cargo.toml",
    ".cargo/config.toml",
    "rust-toolchain{,.toml}",
    "native/**/*.{rs,toml}"
  ]

  @impl true
  def run(args) do
    # This is the directory of the project that has the task, also when it is compiled as a dependency.
    root = File.cwd!()

    case ready_built() do
      nil -> from_sources(root, "--force" in args)
      path -> from_file(root, path)
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

  defp ready_built do
    {name, path} =
      case System.get_env("ECTO_FDB_NIF", "") do
        "" -> {"`config :ecto_fdb_sync, nif:`", Application.get_env(:ecto_fdb_sync, :nif)}
        path -> {"ECTO_FDB_NIF", path}
      end

    unless path == nil or (is_binary(path) and Path.type(path) == :absolute) do
      Mix.raise("#{name} must be the absolute path of a NIF library, got: #{inspect(path)}")
    end

    path
  end

  defp from_file(root, path) do
    Nif.check!(path)
    Nif.verify_checksum!(path)

    # The installed library is not built from the sources: without the setting, cargo builds again.
    File.rm(manifest(root))
    if Nif.install!(path, library(root)), do: installed(), else: {:noop, []}
  end

  defp from_sources(root, force?) do
    sources = digest(root, @sources)

    if not force? and up_to_date?(root, sources) do
      {:noop, []}
    else
      artifact = Nif.build!(root, nil)
      Nif.check!(artifact)
      Nif.install!(artifact, library(root))

      # Cargo may have written its lock file. A source that changed meanwhile is built the next time.
      File.write!(manifest(root), contents(root, sources))
      installed()
    end
  end

  # Mix links priv/ into _build, or copies it if there are no symbolic links.
  defp installed do
    Mix.Project.build_structure()
    {:ok, []}
  end

  defp up_to_date?(root, sources) do
    File.exists?(library(root)) and File.read(manifest(root)) == {:ok, contents(root, sources)}
  end

  defp contents(root, sources), do: sources <> digest(root, ["Cargo.lock"])

  # Compares contents, not times: a fresh checkout of the same sources is not a change.
  defp digest(root, patterns) do
    patterns
    |> Enum.flat_map(&Path.wildcard(Path.join(root, &1), match_dot: true))
    |> Enum.sort()
    |> Enum.map(&[Path.relative_to(&1, root), 0, :erlang.md5(File.read!(&1))])
    |> :erlang.md5()
    |> Base.encode16(case: :lower)
  end

  defp library(root), do: Path.join(root, "priv/native/libecto_fdb.so")
  defp manifest(root), do: Path.join(root, "priv/native/libecto_fdb.sources")
end
