defmodule EctoFoundationDB.TestRepo do
  @moduledoc false
  # The Repo of the tests: the embedded engine, or the cluster of FDB_CLUSTER_FILE.
  use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync

  @doc "What `start_link/1` is given."
  def test_config do
    case System.get_env("FDB_CLUSTER_FILE") do
      file when file in [nil, ""] -> [embedded: true, log: false]
      file -> [cluster_file: file, log: false] ++ library()
    end
  end

  defp library do
    case System.get_env("FDB_CLIENT_LIBRARY") do
      path when path in [nil, ""] -> []
      path -> [library: path]
    end
  end
end
