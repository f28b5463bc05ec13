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

  # All of them are optional, and found at run time. A machine without Hex could not fetch them, and
  # Mix would ask to install it: there the library compiles and runs without.
  defp deps do
    if Code.ensure_loaded?(Hex) do
      [
        {:ecto, "~> 3.10", optional: true},
        {:phoenix_live_view, "~> 0.20 or ~> 1.0", optional: true},
        {:telemetry, "~> 1.0", optional: true}
      ]
    else
      []
    end
  end

  defp package do
    [
      licenses: ["Apache-2.0"],
      files: ~w(lib native guides Cargo.toml Cargo.lock .cargo mix.exs .formatter.exs
                README.md ARCHITECTURE.md CHANGELOG.md LICENSE)
    ]
  end
end
