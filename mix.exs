deps_folder = System.get_env("ECTO_FDB_DEPS", "")

if deps_folder != "" do
  Code.require_file("test/folder_deps.exs", __DIR__)
  EctoFdbSync.FolderDeps.use(deps_folder)
end

defmodule EctoFdbSync.MixProject do
  use Mix.Project

  @version "0.1.0"

  def project do
    [
      app: :ecto_fdb_sync,
      version: @version,
      elixir: "~> 1.14",
      elixirc_paths: elixirc_paths(Mix.env()),
      # After Elixir's own compilers: the task that builds the NIF is one of the modules they build.
      compilers: Mix.compilers() ++ [:ecto_fdb_nif],
      # What is compiled depends on the packages that are there.
      build_path: if(deps_folder?(), do: "_build/deps_folder", else: "_build"),
      start_permanent: Mix.env() == :prod,
      deps: deps(),
      description: "LiveView assigns, and any process's state, kept up to date with FoundationDB",
      package: package()
    ]
  end

  def application do
    [extra_applications: [:crypto, :logger, :public_key]]
  end

  defp elixirc_paths(:test), do: ["lib", "test/support"]
  defp elixirc_paths(_env), do: ["lib"]

  @optional [
    {:ecto, "~> 3.10", optional: true},
    {:phoenix_live_view, "~> 0.20 or ~> 1.0", optional: true},
    {:telemetry, "~> 1.0", optional: true}
  ]

  # What LiveView's own tests read pages with: LiveView 1.1 the first, earlier ones the second.
  @parsers [
    {:lazy_html, ">= 0.1.0", only: :test},
    {:floki, ">= 0.30.0", only: :test}
  ]

  # All of them are optional. A machine without Hex can't fetch them, and Mix would ask to install it: there
  # the library compiles and runs without them, or with those in the folder that ECTO_FDB_DEPS names.
  defp deps do
    cond do
      deps_folder?() -> EctoFdbSync.FolderDeps.deps(@optional ++ @parsers)
      Code.ensure_loaded?(Hex) -> @optional ++ @parsers
      true -> []
    end
  end

  defp deps_folder?, do: System.get_env("ECTO_FDB_DEPS", "") != ""

  defp package do
    [
      licenses: ["Apache-2.0"],
      files: ~w(lib native guides Cargo.toml Cargo.lock .cargo mix.exs .formatter.exs
                README.md ARCHITECTURE.md CHANGELOG.md LICENSE)
    ]
  end
end
