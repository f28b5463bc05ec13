defmodule Mix.Tasks.EctoFoundationdb.Migrate do
  @shortdoc "Migrates all tenants of a Repo"

  @moduledoc """
  Runs the migrations of a Repo in all its tenants, with a progress bar.

      mix ecto_foundationdb.migrate -r MyApp.Repo
      mix ecto_foundationdb.migrate -r MyApp.Repo --tenant acme --tenant beta --concurrency 4

  Tenants are also migrated when they are opened; this task migrates them before. The application may run
  meanwhile. Interrupting it is safe; the next run continues where it stopped.
  """
  use Mix.Task

  @switches [repo: :string, tenant: :keep, concurrency: :integer]

  @impl true
  def run(args) do
    {opts, rest, invalid} = OptionParser.parse(args, strict: @switches, aliases: [r: :repo])

    if rest != [] or invalid != [],
      do: Mix.raise("expected options, got: #{Enum.join(args, " ")}")

    repo = Mix.EctoFoundationDB.start_repo!(opts[:repo])

    options =
      [progress: &Mix.EctoFoundationDB.progress("tenants migrated", &1, &2)] ++
        case Keyword.get_values(opts, :tenant) do
          [] -> []
          tenants -> [tenants: tenants]
        end ++ Keyword.take(opts, [:concurrency])

    EctoFoundationDB.Migrator.migrate_all(repo, options)
  end
end
