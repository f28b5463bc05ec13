defmodule EctoFdbSync.ReleaseTest do
  # The package as it would be published, a ready-built NIF, and a release of an application that uses both:
  # built and started with no cargo in PATH.
  use ExUnit.Case, async: true

  import EctoFdbSync.ThrowawayProject

  @moduletag :release
  @moduletag timeout: 600_000

  @root File.cwd!()

  @application """
  defmodule Throwaway do
    use Application

    defmodule Repo do
      use EctoFoundationDB.Repo, otp_app: :throwaway
      use EctoFoundationDB.Migrator

      @impl EctoFoundationDB.Migrator
      def migrations, do: []
    end

    defmodule Start do
      defstruct [:id, :number, __meta__: %{prefix: nil}]

      def __schema__(:source), do: "starts"
      def __schema__(:primary_key), do: [:id]
      def __schema__(:fields), do: [:id, :number]
      def __schema__(:type, :number), do: :integer
      def __schema__(:type, :id), do: :string
    end

    # Follows a record, counts this start in it, and shuts down the VM.
    defmodule Work do
      use Task, restart: :temporary

      alias EctoFoundationDB.{Sync, Tenant}

      def start_link(_arg), do: Task.start_link(&run/0)

      defp run do
        tenant = Tenant.open!(Repo, "default")
        state = %{assigns: %{}, private: %{tenant: tenant}}
        state = Sync.sync_one(state, Repo, :start, Start, "the one")
        before = state.assigns.start

        number = if before, do: before.number + 1, else: 1
        start = %Start{id: "the one", number: number}
        Repo.insert!(start, prefix: tenant, on_conflict: :replace_all)

        receive do
          {ref, :ready} = message when is_reference(ref) ->
            {:halt, state} = Sync.handle_ready(Repo, message, state)
            IO.puts("followed \#{inspect(before && before.number)} -> \#{state.assigns.start.number}")
        end

        System.stop(0)
      end
    end

    @impl true
    def start(_type, _args),
      do: Supervisor.start_link([Repo, Work], strategy: :one_for_one)
  end
  """

  test "an application with the package and a ready-built NIF is released, and starts elsewhere" do
    directory = new()
    bin = path_with(directory, [])
    refute File.exists?(Path.join(bin, "cargo"))

    # Only the files that the package lists: a missing one shows here.
    package = Path.join(directory, "ecto_fdb_sync")
    for file <- Mix.Project.config()[:package][:files], do: copy(file, package)
    refute File.exists?(Path.join(package, "priv/native"))

    library = Path.join(directory, "ready_built.so")
    File.cp!(Application.app_dir(:ecto_fdb_sync, "priv/native/libecto_fdb.so"), library)

    project = Path.join(directory, "throwaway")
    file = Path.join(directory, "throwaway.fdb")

    write(project, "mix.exs", """
    defmodule Throwaway.MixProject do
      use Mix.Project

      def project,
        do: [app: :throwaway, version: "0.1.0", deps: [{:ecto_fdb_sync, path: #{inspect(package)}}]]

      def application, do: [mod: {Throwaway, []}]
    end
    """)

    write(project, "lib/throwaway.ex", @application)

    write(project, "config/config.exs", """
    import Config
    config :ecto_fdb_sync, nif: #{inspect(library)}
    config :throwaway, Throwaway.Repo, embedded: #{inspect(file)}
    """)

    env = [{"MIX_ENV", "prod"}, {"PATH", bin}]
    assert {output, 0} = mix(project, ["release"], env)
    assert output =~ "Release created"
    refute output =~ "cargo"
    refute output =~ "warning"

    # In a different place, with nothing left of the build.
    release = Path.join(directory, "elsewhere")
    File.rename!(Path.join(project, "_build/prod/rel/throwaway"), release)
    for built_from <- [project, package, library], do: File.rm_rf!(built_from)

    assert start(release, directory) =~ "followed nil -> 1"
    # The shutdown closed the database's file, with every acknowledged commit.
    assert start(release, directory) =~ "followed 1 -> 2"

    # A NIF of another version, as after a deployment that replaced only half of the files.
    [installed] =
      Path.wildcard(Path.join(release, "lib/ecto_fdb_sync-*/priv/native/libecto_fdb.so"))

    version = "<ecto_fdb_sync NIF #{EctoFoundationDB.NifFile.version()}>"
    other = String.replace(version, ~r/\d+>/, "9>")
    File.write!(installed, String.replace(File.read!(installed), version, other))
    {output, status} = run(release, directory)
    assert status != 0
    assert output =~ "#{installed} is the NIF of ecto_fdb_sync"
    assert output =~ "but this is ecto_fdb_sync #{EctoFoundationDB.NifFile.version()}"
  end

  defp start(release, directory) do
    assert {output, 0} = run(release, directory)
    output
  end

  # The commands that the release's script needs; its own Erlang runs.
  defp run(release, directory) do
    bin = Path.join(directory, "system")
    File.mkdir_p!(bin)

    for tool <-
          ~w(sh env basename dirname readlink sed cat uname cut grep mkdir od tr awk date rm),
        found = System.find_executable(tool),
        link = Path.join(bin, tool),
        not File.exists?(link),
        do: File.ln_s!(found, link)

    env = [
      {"PATH", bin},
      {"HOME", directory},
      {"RELEASE_DISTRIBUTION", "none"},
      {"RELEASE_TMP", Path.join(directory, "tmp")},
      {"ERL_CRASH_DUMP_SECONDS", "0"},
      {"ECTO_FDB_NIF", nil},
      {"MIX_ENV", nil},
      {"ROOTDIR", nil},
      {"BINDIR", nil},
      {"ERL_LIBS", nil}
    ]

    System.cmd(Path.join(release, "bin/throwaway"), ["start"],
      cd: directory,
      env: env,
      stderr_to_stdout: true
    )
  end

  defp copy(file, package) do
    target = Path.join(package, file)
    File.mkdir_p!(Path.dirname(target))
    File.cp_r!(Path.join(@root, file), target)
  end
end
