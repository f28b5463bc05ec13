if Code.ensure_loaded?(Ecto.Adapter) do
  defmodule Ecto.Adapters.FoundationDB.Storage do
    @moduledoc false
    # `mix ecto.create` and `mix ecto.drop`: the directory of a Repo's tenants. FoundationDB has no databases to
    # create in a cluster.

    alias EctoFoundationDB.{Connection, Tenant}

    @spec storage_up(keyword()) :: :ok | {:error, term()}
    def storage_up(config) do
      with_repo(config, fn repo ->
        if Tenant.storage?(repo), do: {:error, :already_up}, else: Tenant.create_storage(repo)
      end)
    end

    @spec storage_down(keyword()) :: :ok | {:error, term()}
    def storage_down(config) do
      with_repo(config, fn repo ->
        if Tenant.storage?(repo) do
          for id <- Tenant.list(repo), do: Tenant.clear_delete!(repo, id)
          Tenant.delete_storage(repo)
        else
          {:error, :already_down}
        end
      end)
    end

    @spec storage_status(keyword()) :: :up | :down | {:error, term()}
    def storage_status(config),
      do: with_repo(config, fn repo -> if Tenant.storage?(repo), do: :up, else: :down end)

    # An instance of its own, which ends.
    defp with_repo(config, fun) do
      module = Keyword.fetch!(config, :repo)
      name = Module.concat(module, "Storage")

      case EctoFoundationDB.Supervisor.start_link(
             name,
             module,
             Connection.validate!(module, config)
           ) do
        {:ok, pid} ->
          try do
            fun.(name)
          after
            Supervisor.stop(pid)
          end

        {:error, error} ->
          {:error, EctoFoundationDB.Supervisor.reason(error)}
      end
    end
  end
end
