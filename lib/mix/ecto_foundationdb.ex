defmodule Mix.EctoFoundationDB do
  @moduledoc false
  # Shared by the Mix tasks.

  @doc "The Repo named on the command line, started."
  def start_repo!(nil), do: Mix.raise("expected a Repo: -r MyApp.Repo")

  def start_repo!(name) do
    Mix.Task.run("app.config")
    repo = Module.concat([name])

    unless EctoFoundationDB.Connection.repo?(repo) do
      Mix.raise(
        "#{name} is not a Repo: expected a module with `use Ecto.Repo` and " <>
          "`adapter: Ecto.Adapters.FoundationDB`, or with `use EctoFoundationDB.Repo`"
      )
    end

    {:ok, _} = Application.ensure_all_started(:ecto_fdb_sync)
    if Code.ensure_loaded?(Ecto), do: {:ok, _} = Application.ensure_all_started(:ecto)

    case repo.start_link() do
      {:ok, _} -> repo
      {:error, {:already_started, _}} -> repo
      {:error, error} when is_exception(error) -> Mix.raise(Exception.message(error))
    end
  end

  @doc "A progress bar on one line."
  def progress(what, done, all) do
    width = 40
    filled = if all == 0, do: width, else: div(done * width, all)
    bar = String.duplicate("#", filled) <> String.duplicate(".", width - filled)
    IO.write("\r[#{bar}] #{done}/#{all} #{what}")
    if done == all, do: IO.write("\n")
  end
end
