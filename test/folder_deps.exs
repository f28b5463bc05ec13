defmodule EctoFdbSync.FolderDeps do
  @moduledoc false
  # Takes packages and their dependencies from source trees in a folder, one per package, for machines that
  # can't reach Hex. mix.exs requires this file if ECTO_FDB_DEPS names such a folder.

  @behaviour Mix.SCM

  def use(folder) do
    :persistent_term.put(__MODULE__, Path.expand(folder))
    Mix.SCM.prepend(__MODULE__)
  end

  @doc "Those of the dependencies that the folder has."
  def deps(deps) do
    for {name, _version, opts} <- deps, File.dir?(path(name)) do
      {name, opts |> Keyword.take([:only, :runtime]) |> Keyword.put(:override, true)}
    end
  end

  defp path(name), do: Path.join(:persistent_term.get(__MODULE__), "#{name}")

  @impl true
  def accepts_options(name, opts) do
    cond do
      opts[:in_umbrella] -> nil
      opts[:path] && Path.expand(opts[:path]) != path(name) -> nil
      true -> opts |> Keyword.delete(:git) |> Keyword.merge(path: path(name), dest: path(name))
    end
  end

  @impl true
  defdelegate fetchable?, to: Mix.SCM.Path
  @impl true
  defdelegate format(opts), to: Mix.SCM.Path
  @impl true
  defdelegate format_lock(opts), to: Mix.SCM.Path
  @impl true
  defdelegate checked_out?(opts), to: Mix.SCM.Path
  @impl true
  defdelegate lock_status(opts), to: Mix.SCM.Path
  @impl true
  defdelegate equal?(opts1, opts2), to: Mix.SCM.Path
  @impl true
  defdelegate managers(opts), to: Mix.SCM.Path
  @impl true
  defdelegate checkout(opts), to: Mix.SCM.Path
  @impl true
  defdelegate update(opts), to: Mix.SCM.Path
end
