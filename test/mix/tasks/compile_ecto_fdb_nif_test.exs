defmodule Mix.Tasks.Compile.EctoFdbNifTest do
  use ExUnit.Case, async: true

  import EctoFdbSync.ThrowawayProject

  alias EctoFoundationDB.NifFile

  @root File.cwd!()
  @moduletag timeout: 300_000

  setup do
    %{directory: new()}
  end

  test "a project that has this one as a path dependency compiles and loads the NIF, without hex",
       %{directory: directory} do
    write(directory, "mix.exs", """
    defmodule Throwaway.MixProject do
      use Mix.Project

      def project do
        [app: :throwaway, version: "0.1.0", deps: [{:ecto_fdb_sync, path: #{inspect(@root)}}]]
      end
    end
    """)

    write(directory, "lib/throwaway.ex", """
    defmodule Throwaway do
      def pack, do: EctoFoundationDB.Native.pack({"a"})
    end
    """)

    assert {output, 0} = mix(directory, ["run", "-e", "IO.inspect(Throwaway.pack())"])
    assert output =~ ~S(<<1, 97, 0>>)
    refute output =~ "Hex"

    assert {"", 0} = mix(directory, ["compile"])

    # It also has the dependency's tasks.
    assert {_output, 0} = mix(directory, ["ecto_fdb.nif.build"])
    assert [library, _checksum] = Path.wildcard(Path.join(directory, "nif/*"))
    assert NifFile.check(library) == :ok
  end

  describe "in a project with a small crate" do
    setup %{directory: directory} do
      write(directory, "mix.exs", """
      defmodule Small.MixProject do
        use Mix.Project

        def project do
          [app: :small, version: "#{NifFile.version()}", compilers: Mix.compilers() ++ [:ecto_fdb_nif]]
        end
      end
      """)

      for file <- ~w(lib/mix/tasks/compile.ecto_fdb_nif.ex lib/mix/tasks/ecto_fdb.nif.build.ex
                     lib/mix/nif.ex lib/ecto_foundationdb/nif_file.ex),
          do: write(directory, file, File.read!(Path.join(@root, file)))

      write(directory, "Cargo.toml", """
      [workspace]
      resolver = "2"
      members = ["native/ecto_fdb"]

      [workspace.package]
      rust-version = "1.91"
      """)

      write(directory, "native/ecto_fdb/Cargo.toml", """
      [package]
      name = "ecto_fdb"
      version = "#{NifFile.version()}"
      edition = "2021"

      [lib]
      crate-type = ["cdylib"]
      """)

      write(directory, "native/ecto_fdb/src/lib.rs", source(1))
      :ok
    end

    test "builds, does nothing when nothing changed, and builds again after a change",
         %{directory: directory} do
      library = Path.join(directory, "priv/native/libecto_fdb.so")

      assert {output, 0} = mix(directory, ["compile"])
      assert output =~ "Compiling ecto_fdb"
      assert output =~ "Finished"
      first = File.read!(library)
      linked = Path.join(directory, "_build/dev/lib/small/priv/native/libecto_fdb.so")
      assert File.read!(linked) == first

      %{inode: inode} = File.stat!(library)
      assert {"", 0} = mix(directory, ["compile"])
      # A newer time with the same contents is not a change.
      File.touch!(Path.join(directory, "native/ecto_fdb/src/lib.rs"))
      assert {"", 0} = mix(directory, ["compile"])
      assert %{inode: ^inode} = File.stat!(library)

      write(directory, "native/ecto_fdb/src/lib.rs", source(2))
      assert {output, 0} = mix(directory, ["compile"])
      assert output =~ "Compiling ecto_fdb"
      assert File.read!(library) != first
      assert %{inode: other} = File.stat!(library)
      assert other != inode
      assert ["libecto_fdb.so", "libecto_fdb.sources"] = files(directory)

      File.rm!(library)
      assert {_output, 0} = mix(directory, ["compile"])
      assert File.exists?(library)

      assert {_output, 0} = mix(directory, ["clean"])
      assert [] = files(directory)
    end

    test "a failed build shows the compiler's message and leaves the library as it was",
         %{directory: directory} do
      assert {_output, 0} = mix(directory, ["compile"])
      before = File.read!(Path.join(directory, "priv/native/libecto_fdb.so"))

      write(directory, "native/ecto_fdb/src/lib.rs", "not rust")
      assert {output, 1} = mix(directory, ["compile"])
      assert output =~ "native/ecto_fdb/src/lib.rs:1"
      assert output =~ "cargo could not build the NIF"
      assert File.read!(Path.join(directory, "priv/native/libecto_fdb.so")) == before
      # And it does not count as up to date.
      assert {_output, 1} = mix(directory, ["compile"])
    end

    test "without cargo the message names it and rustup", %{directory: directory} do
      assert {output, 1} = mix(directory, ["compile"], [{"PATH", path_with(directory, [])}])
      assert output =~ "cargo was not found"
      assert output =~ "rustup"
      refute File.exists?(Path.join(directory, "priv"))
    end

    test "a crate of another version is refused", %{directory: directory} do
      write(directory, "native/ecto_fdb/src/lib.rs", source(1, "9.9.9"))
      assert {output, 1} = mix(directory, ["compile"])
      assert output =~ "is the NIF of ecto_fdb_sync 9.9.9, but this is ecto_fdb_sync"
      assert [] = files(directory)
    end

    test "an old Rust is named, with the version needed and rustup", %{directory: directory} do
      tools = [{"cargo", "exit 1"}, {"rustc", "echo 'rustc 1.63.0 (4b91a6ea7 2022-08-08)'"}]
      assert {output, 1} = mix(directory, ["compile"], [{"PATH", path_with(directory, tools)}])
      assert output =~ "Rust 1.91 or newer is needed"
      assert output =~ "this is Rust 1.63"
      assert output =~ "rustup"
    end

    test "mix ecto_fdb.nif.build makes a library that another project uses without cargo",
         %{directory: directory} do
      assert {output, 0} = mix(directory, ["ecto_fdb.nif.build", "--output", "made"])
      assert [library, checksum] = directory |> Path.join("made/*") |> Path.wildcard()
      assert output =~ Path.relative_to(library, directory)
      name = Path.basename(library)
      version = Regex.escape(NifFile.version())
      assert name =~ ~r/^libecto_fdb-v#{version}-nif-2\.15-\w+-\w+-\w+(-\w+)?\.so$/
      digest = :crypto.hash(:sha256, File.read!(library)) |> Base.encode16(case: :lower)
      assert File.read!(checksum) == "#{digest}  #{name}\n"

      # The same for an explicit target: this machine's.
      [triple] = Regex.run(~r/2\.15-(.*)\.so/, name, capture: :all_but_first)

      assert {_, 0} =
               mix(directory, ["ecto_fdb.nif.build", "--target", triple, "--output", "named"])

      assert File.exists?(Path.join([directory, "named", name]))

      assert {_, 0} = mix(directory, ["clean"])
      without_cargo = [{"PATH", path_with(directory, [])}]
      env = [{"ECTO_FDB_NIF", library} | without_cargo]
      installed = Path.join(directory, "priv/native/libecto_fdb.so")
      assert {_, 0} = mix(directory, ["compile"], env)
      assert File.read!(installed) == File.read!(library)
      %{inode: inode} = File.stat!(installed)
      assert {"", 0} = mix(directory, ["compile"], env)
      assert %{inode: ^inode} = File.stat!(installed)

      # The same in the configuration.
      assert {_, 0} = mix(directory, ["clean"], env)

      write(directory, "config/config.exs", """
      import Config
      config :ecto_fdb_sync, nif: #{inspect(library)}
      """)

      assert {_, 0} = mix(directory, ["compile"], without_cargo)
      assert File.read!(installed) == File.read!(library)

      # Without the setting the sources count again.
      File.rm!(Path.join(directory, "config/config.exs"))
      assert {output, 1} = mix(directory, ["compile"], without_cargo)
      assert output =~ "cargo was not found"
      assert output =~ "ECTO_FDB_NIF"

      # A library that was damaged in transit.
      File.write!(library, "more", [:append])
      assert {output, 1} = mix(directory, ["compile"], env)
      assert output =~ "has the SHA-256 checksum"
      assert output =~ digest
      assert File.read!(installed) != File.read!(library)
    end

    test "a ready-built library that does not match is refused, without falling back to cargo",
         %{directory: directory} do
      refused = fn path ->
        assert {output, 1} = mix(directory, ["compile"], [{"ECTO_FDB_NIF", path}])
        refute output =~ "Building the NIF"
        assert [] = files(directory)
        output
      end

      missing = Path.join(directory, "missing.so")
      assert refused.(missing) =~ "#{missing} can't be read: no such file or directory"

      other = write(directory, "other.so", "...<ecto_fdb_sync NIF 9.9.9>...")

      assert refused.(other) =~
               "#{other} is the NIF of ecto_fdb_sync 9.9.9, but this is ecto_fdb_sync"

      text = write(directory, "text.so", "no library")
      assert refused.(text) =~ "#{text} is not a NIF of ecto_fdb_sync"

      assert refused.("relative.so") =~
               ~s(ECTO_FDB_NIF must be the absolute path of a NIF library, got: "relative.so")
    end
  end

  defp source(number, version \\ NifFile.version()) do
    """
    #[no_mangle]
    pub static ECTO_FDB_NIF: &str = "<ecto_fdb_sync NIF #{version}>";
    #[no_mangle]
    pub extern "C" fn answer() -> i32 {
        #{number}
    }
    """
  end

  defp files(directory) do
    case directory |> Path.join("priv/native") |> File.ls() do
      {:ok, files} -> Enum.sort(files)
      {:error, :enoent} -> []
    end
  end
end
