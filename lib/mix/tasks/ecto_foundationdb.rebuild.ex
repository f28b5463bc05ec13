defmodule Mix.Tasks.EctoFoundationdb.Rebuild do
  @shortdoc "Rebuilds an index from its records"

  @moduledoc """
  Rebuilds a default index in all tenants of a Repo: adds missing entries, and clears those that match no
  record. See `EctoFoundationDB.Rebuild`.

      mix ecto_foundationdb.rebuild -r MyApp.Repo --schema MyApp.User --index users_name_index
      mix ecto_foundationdb.rebuild -r MyApp.Repo --schema MyApp.User --index users_name_index --tenant acme

  The application may run meanwhile.
  """
  use Mix.Task

  alias EctoFoundationDB.{Rebuild, Tenant}

  @switches [repo: :string, schema: :string, index: :string, tenant: :keep]

  @impl true
  def run(args) do
    {opts, rest, invalid} = OptionParser.parse(args, strict: @switches, aliases: [r: :repo])

    if rest != [] or invalid != [],
      do: Mix.raise("expected options, got: #{Enum.join(args, " ")}")

    unless opts[:schema] && opts[:index],
      do: Mix.raise("expected --schema MyApp.User and --index name")

    repo = Mix.EctoFoundationDB.start_repo!(opts[:repo])
    schema = Module.concat([opts[:schema]])

    ids =
      case Keyword.get_values(opts, :tenant) do
        [] -> Tenant.list(repo)
        ids -> ids
      end

    for id <- ids do
      %{missing: missing, wrong: wrong} =
        Rebuild.index(Tenant.open(repo, id), schema, opts[:index])

      Mix.shell().info("#{id}: #{missing} entries were missing, #{wrong} were wrong")
    end
  end
end
