defmodule Mix.Tasks.EctoFdb.Nif.Build do
  @shortdoc "Builds the NIF for machines without cargo"

  @moduledoc """
  Builds the NIF's library and writes it, with its SHA-256 checksum, to a directory, for machines that
  have no cargo.

      mix ecto_fdb.nif.build
      mix ecto_fdb.nif.build --target aarch64-unknown-linux-musl --output /opt/nif

    * `--target`: a Rust target triple, by default this machine's. Another machine's needs
      `rustup target add` and a linker, as for every build with cargo.
    * `--output`: a directory, `nif` in the current one by default.

  The files are `libecto_fdb-v0.1.0-nif-2.15-TARGET.so` (the package's version and the NIF version, which
  every OTP from 22 on has) and the same with `.sha256`, as `sha256sum -c` reads it. To use them, set
  `ECTO_FDB_NIF` to the library's path when you compile: `mix help compile.ecto_fdb_nif`.
  """

  use Mix.Task

  alias EctoFoundationDB.NifFile
  alias Mix.EctoFoundationDB.Nif

  @switches [target: :string, output: :string]

  # Rustler's feature `nif_version_2_15`, its default.
  @nif_version "2.15"

  @impl true
  def run(args) do
    {opts, rest, invalid} = OptionParser.parse(args, strict: @switches)

    if rest != [] or invalid != [] do
      Mix.raise("expected --target and --output, got: #{Enum.join(args, " ")}")
    end

    # The package's own directory, as the project or as a dependency.
    root = Map.get(Mix.Project.deps_paths(), :ecto_fdb_sync, File.cwd!())
    artifact = Nif.build!(root, opts[:target])
    Nif.check!(artifact)

    name = "libecto_fdb-v#{NifFile.version()}-nif-#{@nif_version}-#{opts[:target] || host()}.so"
    library = Path.join(opts[:output] || "nif", name)
    Nif.install!(artifact, library)
    File.write!(library <> ".sha256", Nif.checksum(library))
    Mix.shell().info("#{library}\n#{library}.sha256")
  end

  defp host do
    {output, 0} = System.cmd("rustc", ["-vV"])
    [_all, host] = Regex.run(~r/^host: (\S+)$/m, output)
    host
  end
end
