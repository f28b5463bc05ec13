defmodule EctoFoundationDB.Client do
  @moduledoc false
  # The VM's only FoundationDB client: how a Repo starts it, and its warnings.

  alias EctoFoundationDB.{Log, Native, TLS}

  @doc """
  Starts the client for a Repo's configuration, or checks that it runs with the same network options. A wrong
  option is an `ErlangError` with its text, as in the NIF's functions.
  """
  @spec start(module(), keyword()) :: :ok | {:error, Native.error()}
  def start(repo, config) do
    library = if config[:embedded], do: :embedded, else: {:cluster, config[:library]}
    options = config[:network_options] || []

    # A running client has read them already; a file replaced since is not this Repo's error.
    if Native.client_facts().options == nil do
      case TLS.check(options) do
        {:ok, warnings} -> for text <- warnings, do: Log.log(:warning, repo, text)
        {:error, text} -> :erlang.error(text)
      end
    end

    with {:error, {:fdb, code, message}} <-
           Native.client_start(%{library: library, options: options}) do
      # Reports both errors, so that the user fixes the cluster file along with the library.
      case config[:embedded] in [nil, false] && Native.cluster_file_check(config[:cluster_file]) do
        {:error, {:fdb, _code, missing}} -> {:error, {:fdb, code, "#{message}. Also, #{missing}"}}
        _no_cluster_or_readable -> {:error, {:fdb, code, message}}
      end
    end
  end

  @doc """
  Warns about a cluster file that the client can't write: when the coordinators change, it writes a new file
  and renames it.
  """
  @spec check_cluster_file(module(), Native.database()) :: :ok
  def check_cluster_file(repo, database) do
    with %{cluster_file: file} when is_binary(file) <- Native.database_facts(database),
         what when is_binary(what) <- unwritable(file) do
      Log.log(
        :warning,
        repo,
        "the cluster file #{file} can't be written back: #{what} is read-only for this VM. When the cluster's " <>
          "coordinators change, this VM follows them, but a VM that starts later looks for the old ones. " <>
          "Put the file where the VM may write it and create files beside it",
        cluster_file: file
      )
    end

    :ok
  end

  defp unwritable(file) do
    directory = Path.dirname(file)

    cond do
      not writable?(file) -> "it"
      not writable?(directory) -> "its directory #{directory}"
      true -> nil
    end
  end

  defp writable?(path) do
    case File.stat(path) do
      {:ok, %File.Stat{access: access}} -> access in [:write, :read_write]
      {:error, _gone} -> false
    end
  end
end
