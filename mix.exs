deps_folder = System.get_env("ECTO_FDB_DEPS", "")

if deps_folder != "" do
  Code.require_file("test/folder_deps.exs", __DIR__)
  EctoFdbSync.FolderDeps.use(deps_folder)
end

defmodule EctoFdbSync.MixProject do
  use Mix.Project

  # The same as in Cargo.toml.
  @version "0.1.0"

  # The repository's address. If set, documentation and package link to it.
  @source_url nil

  @inside ["ARCHITECTURE.md", "CONTRIBUTING.md"]

  def project do
    [
      app: :ecto_fdb_sync,
      version: @version,
      elixir: "~> 1.14",
      elixirc_paths: elixirc_paths(Mix.env()),
      # After Elixir's own compilers, because they build the task that builds the NIF.
      compilers: Mix.compilers() ++ [:ecto_fdb_nif],
      # The available packages determine what is compiled.
      build_path: if(deps_folder?(), do: "_build/deps_folder", else: "_build"),
      start_permanent: Mix.env() == :prod,
      deps: deps(),
      description: "LiveView assigns, and any process's state, kept up to date with FoundationDB",
      package: package(),
      name: "ecto_fdb_sync",
      source_url: @source_url,
      docs: docs()
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
    {:phoenix_live_dashboard, "~> 0.8", optional: true},
    {:telemetry, "~> 1.0", optional: true},
    {:telemetry_metrics, "~> 0.6 or ~> 1.0", optional: true}
  ]

  # LiveView's test helpers parse pages with these: LiveView 1.1 with the first, earlier ones with the second.
  @parsers [
    {:lazy_html, ">= 0.1.0", only: :test},
    {:floki, ">= 0.30.0", only: :test}
  ]

  # For maintainers: documentation and style. dialyxir comes with Hex only; see CONTRIBUTING.md.
  @tools [
    {:ex_doc, "~> 0.34", only: :dev, runtime: false},
    {:credo, "~> 1.7", only: :dev, runtime: false}
  ]

  # All of them are optional. Without Hex they can't be fetched, and Mix would ask to install it. Then
  # the library compiles and runs without them, or with those in the folder that ECTO_FDB_DEPS names.
  defp deps do
    cond do
      deps_folder?() ->
        EctoFdbSync.FolderDeps.deps(@optional ++ @parsers ++ @tools)

      Code.ensure_loaded?(Hex) ->
        @optional ++ @parsers ++ @tools ++ [{:dialyxir, "~> 1.4", only: :dev, runtime: false}]

      true ->
        []
    end
  end

  defp deps_folder?, do: System.get_env("ECTO_FDB_DEPS", "") != ""

  defp package do
    [
      licenses: ["Apache-2.0"],
      links: if(@source_url, do: %{"Source" => @source_url}, else: %{}),
      files:
        ~w(lib native guides priv/README.md Cargo.toml Cargo.lock .cargo mix.exs .formatter.exs
                README.md ARCHITECTURE.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE),
      # The engine's checks need other packages; cargo builds without them.
      exclude_patterns: [~r"native/embedded_fdb/(check|checks/.*|fuzz/.*)$"]
    ]
  end

  defp docs do
    [
      main: "readme",
      assets: %{"guides/assets" => "guides/assets"},
      source_ref: "v#{@version}",
      assets: %{"guides/assets" => "assets"},
      # They explain the inside, which has no pages.
      skip_undefined_reference_warnings_on: @inside,
      extras: [
        "README.md",
        "guides/getting_started.md",
        "guides/sync.livemd",
        "guides/tenants.md",
        "guides/indexes_and_queries.md",
        "guides/live_functions.md",
        "guides/plain_repo.md",
        "guides/phoenix_generators.md",
        "guides/testing.md",
        "guides/moving_from_ecto_foundationdb.md",
        "guides/deployment.md",
        "guides/migrations_in_production.md",
        "guides/operations.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "LICENSE"
      ],
      groups_for_extras: [
        "Developing with it":
          ~r"guides/(sync|getting|tenants|indexes|live|plain|phoenix|testing|moving)",
        "Running it": ~r"guides/(deployment|migrations|operations)",
        "The project": ~r"^(ARCHITECTURE|CONTRIBUTING|SECURITY|CHANGELOG|LICENSE)"
      ],
      groups_for_modules: [
        Sync: [EctoFoundationDB.Sync, ~r/^EctoFoundationDB\.Sync\./],
        Repositories: [
          EctoFoundationDB,
          Ecto.Adapters.FoundationDB,
          EctoFoundationDB.Repo,
          EctoFoundationDB.Schema,
          EctoFoundationDB.Tenant,
          EctoFoundationDB.Future,
          EctoFoundationDB.Versionstamp
        ],
        "Indexes and migrations": [
          EctoFoundationDB.Index,
          EctoFoundationDB.Indexer,
          ~r/^EctoFoundationDB\.Indexer\./,
          EctoFoundationDB.Migration,
          EctoFoundationDB.Migrator,
          EctoFoundationDB.Rebuild
        ],
        "Tests and operations": [
          EctoFoundationDB.CLI,
          EctoFoundationDB.DashboardPage,
          EctoFoundationDB.Embedded,
          EctoFoundationDB.Sandbox,
          EctoFoundationDB.Telemetry
        ],
        Errors: ~r/Error$|^EctoFoundationDB\.Exception\./
      ]
    ]
  end
end
