defmodule Mix.Tasks.Compile.EctoFdbNifTest do
  use ExUnit.Case, async: true

  @root File.cwd!()
  @moduletag timeout: 300_000

  setup do
    directory = Path.join(System.tmp_dir!(), "ecto_fdb_nif_#{System.unique_integer([:positive])}")
    File.mkdir_p!(directory)
    on_exit(fn -> File.rm_rf!(directory) end)
    %{directory: directory}
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
  end

  describe "in a project with a small crate" do
    setup %{directory: directory} do
      write(directory, "mix.exs", """
      defmodule Small.MixProject do
        use Mix.Project

        def project do
          [app: :small, version: "0.1.0", compilers: Mix.compilers() ++ [:ecto_fdb_nif]]
        end
      end
      """)

      task = "lib/mix/tasks/compile.ecto_fdb_nif.ex"
      write(directory, task, File.read!(Path.join(@root, task)))

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
      version = "0.1.0"
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
      # A newer time with the same contents is no change.
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

    test "a build that fails shows the compiler's message and leaves the library as it was",
         %{directory: directory} do
      assert {_output, 0} = mix(directory, ["compile"])
      before = File.read!(Path.join(directory, "priv/native/libecto_fdb.so"))

      write(directory, "native/ecto_fdb/src/lib.rs", "not rust")
      assert {output, 1} = mix(directory, ["compile"])
      assert output =~ "native/ecto_fdb/src/lib.rs:1"
      assert output =~ "cargo could not build the NIF"
      assert File.read!(Path.join(directory, "priv/native/libecto_fdb.so")) == before
      # And it is not taken for up to date.
      assert {_output, 1} = mix(directory, ["compile"])
    end

    test "without cargo the message names it and rustup", %{directory: directory} do
      assert {output, 1} = mix(directory, ["compile"], path_with(directory, []))
      assert output =~ "cargo was not found"
      assert output =~ "rustup"
      refute File.exists?(Path.join(directory, "priv"))
    end

    test "an old Rust is named, with the version needed and rustup", %{directory: directory} do
      tools = [{"cargo", "exit 1"}, {"rustc", "echo 'rustc 1.63.0 (4b91a6ea7 2022-08-08)'"}]
      assert {output, 1} = mix(directory, ["compile"], path_with(directory, tools))
      assert output =~ "Rust 1.91 or newer is needed"
      assert output =~ "this is Rust 1.63"
      assert output =~ "rustup"
    end
  end

  defp source(number) do
    "#[no_mangle]\npub extern \"C\" fn answer() -> i32 {\n    #{number}\n}\n"
  end

  defp write(directory, file, contents) do
    path = Path.join(directory, file)
    File.mkdir_p!(Path.dirname(path))
    File.write!(path, contents)
  end

  defp files(directory), do: directory |> Path.join("priv/native") |> File.ls!() |> Enum.sort()

  # A PATH that has what mix itself needs, and these tools, but no Rust.
  defp path_with(directory, tools) do
    bin = Path.join(directory, "bin")
    File.mkdir_p!(bin)

    for tool <- ~w(mix elixir erl sh env basename dirname readlink sed cat uname) do
      if found = System.find_executable(tool), do: File.ln_s!(found, Path.join(bin, tool))
    end

    for {name, body} <- tools do
      script = Path.join(bin, name)
      File.write!(script, "#!/bin/sh\n#{body}\n")
      File.chmod!(script, 0o755)
    end

    [{"PATH", bin}]
  end

  # Runs mix as a user without hex does: nothing of this run's environment, and an empty home.
  defp mix(directory, args, env \\ []) do
    home = Path.join(directory, "home")
    File.mkdir_p!(home)

    env =
      [
        {"MIX_ENV", nil},
        {"MIX_HOME", nil},
        {"CARGO_TARGET_DIR", nil},
        {"HOME", home},
        {"MIX_BUILD_PATH", nil},
        {"CARGO_HOME", System.get_env("CARGO_HOME") || Path.join(System.user_home!(), ".cargo")},
        {"RUSTUP_HOME",
         System.get_env("RUSTUP_HOME") || Path.join(System.user_home!(), ".rustup")}
      ] ++ env

    System.cmd("mix", args, cd: directory, env: env, stderr_to_stdout: true)
  end
end
