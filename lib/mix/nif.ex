defmodule Mix.EctoFoundationDB.Nif do
  @moduledoc false
  # Shared by the Mix tasks that build the NIF's library.

  alias EctoFoundationDB.NifFile

  @crate "ecto_fdb"

  @doc """
  Builds the library with cargo in release mode, for a target triple or, with `nil`, for this machine. Returns its
  path.
  """
  @spec build!(Path.t(), String.t() | nil) :: Path.t()
  def build!(root, triple) do
    check_tools!(root)
    directory = Path.expand(non_empty(System.get_env("CARGO_TARGET_DIR")) || "target", root)

    args =
      ["build", "--release", "--package", @crate] ++
        if(triple, do: ["--target", triple], else: [])

    Mix.shell().info("Building the NIF: cargo #{Enum.join(args, " ")}")

    # Cargo reports progress on stderr, which is inherited.
    case System.cmd("cargo", args ++ ["--target-dir", directory], cd: root) do
      {_output, 0} ->
        :ok

      {output, status} ->
        Mix.raise("""
        cargo could not build the NIF of ecto_fdb_sync (exit status #{status}); its messages are \
        above.#{advice(triple)} #{output}
        """)
    end

    built = Path.join([directory, triple || "", "release"])

    Enum.find_value([".so", ".dylib"], fn extension ->
      path = Path.join(built, "lib#{@crate}#{extension}")
      File.exists?(path) && path
    end) ||
      Mix.raise(
        "cargo has built the NIF, but it is not in #{built}: if Cargo is configured to build for a " <>
          "different target or directory, undo that for this project"
      )
  end

  defp advice(nil), do: ""

  defp advice(triple) do
    " Building for another machine requires its standard library (`rustup target add #{triple}`) and a linker " <>
      "(CARGO_TARGET_#{triple |> String.upcase() |> String.replace("-", "_")}_LINKER)."
  end

  @doc "Raises unless the file is the NIF of this version."
  @spec check!(Path.t()) :: :ok
  def check!(path) do
    with {:error, reason} <- NifFile.check(path) do
      Mix.raise("#{reason}. `mix ecto_fdb.nif.build` of this version builds a matching one.")
    end
  end

  @doc "The line of a `.sha256` file, as `sha256sum` writes it."
  @spec checksum(Path.t()) :: String.t()
  def checksum(path), do: "#{sha256(path)}  #{Path.basename(path)}\n"

  @doc "Raises if a file `path.sha256` lies beside the library and has a different checksum."
  @spec verify_checksum!(Path.t()) :: :ok
  def verify_checksum!(path) do
    with {:ok, line} <- File.read(path <> ".sha256"),
         wanted = line |> String.split() |> List.first(),
         found = sha256(path),
         true <- wanted != found do
      Mix.raise(
        "#{path} has the SHA-256 checksum #{found}, but #{path}.sha256 says #{wanted}: the library is " <>
          "damaged, or the checksum belongs to a different one. Copy both again."
      )
    else
      _ -> :ok
    end
  end

  defp sha256(path), do: :crypto.hash(:sha256, File.read!(path)) |> Base.encode16(case: :lower)

  @doc """
  Installs the library by a rename, because another VM may have the earlier file open. An equal file stays as it is.
  Returns whether the file has changed.
  """
  @spec install!(Path.t(), Path.t()) :: boolean()
  def install!(source, library) do
    File.mkdir_p!(Path.dirname(library))
    changed? = File.read(library) != File.read(source)

    if changed? do
      temporary = "#{library}.#{System.pid()}"
      File.cp!(source, temporary)
      File.rename!(temporary, library)
    end

    changed?
  end

  defp check_tools!(root) do
    wanted = rust_version(root)

    for tool <- ["cargo", "rustc"], System.find_executable(tool) == nil do
      Mix.raise("""
      #{tool} was not found, but it is needed to build the NIF of ecto_fdb_sync. \
      Install Rust #{wanted} or newer with rustup (https://rustup.rs), and check that #{tool} is in PATH; \
      or name a ready-built library in ECTO_FDB_NIF (see guides/deployment.md).
      """)
    end

    {output, status} = System.cmd("rustc", ["--version"], cd: root, stderr_to_stdout: true)

    case Regex.run(~r/^rustc (\d+)\.(\d+)/m, output) do
      [_all, major, minor] when status == 0 ->
        found = "#{major}.#{minor}"

        if Version.compare(found <> ".0", wanted <> ".0") == :lt do
          Mix.raise("""
          Rust #{wanted} or newer is needed to build the NIF of ecto_fdb_sync, but this is \
          Rust #{found}. Update it with `rustup update stable`; if Rust is installed from the \
          system's packages, install rustup first (https://rustup.rs).
          """)
        end

      _else ->
        Mix.raise("""
        `rustc --version` did not print a version, so the NIF of ecto_fdb_sync can't be built. \
        Install Rust #{wanted} or newer with rustup (https://rustup.rs). It printed:
        #{output}
        """)
    end
  end

  defp rust_version(root) do
    manifest = File.read!(Path.join(root, "Cargo.toml"))
    [_all, version] = Regex.run(~r/^rust-version = "(\d+\.\d+)"/m, manifest)
    version
  end

  defp non_empty(""), do: nil
  defp non_empty(string), do: string
end
