defmodule EctoFoundationDB.ClusterTest do
  # What is said where there is no cluster to be had. A VM has one client library: each of these
  # runs in a VM of its own.
  use ExUnit.Case, async: true

  alias EctoFoundationDB.OtherVM

  @moduletag timeout: 120_000

  setup_all do
    cluster_file = Path.join(System.tmp_dir!(), "ecto_fdb_sync-#{System.pid()}.cluster")
    # Nobody listens there.
    File.write!(cluster_file, "nobody:nobody@127.0.0.1:1\n")
    on_exit(fn -> File.rm(cluster_file) end)
    %{cluster_file: cluster_file}
  end

  test "a client library that is missing is named, with what to install", context do
    config = [cluster_file: context.cluster_file, library: "/no/such/libfdb_c.so"]
    assert {:error, message} = OtherVM.run(config)
    assert message =~ "/no/such/libfdb_c.so"
    assert message =~ "foundationdb-clients"
  end

  test "a cluster file that is missing, too, is named beside it" do
    config = [cluster_file: "/no/such/fdb.cluster", library: "/no/such/libfdb_c.so"]
    assert {:error, message} = OtherVM.run(config)
    assert message =~ "/no/such/libfdb_c.so"
    assert message =~ "Also, can't read the cluster file /no/such/fdb.cluster"
    assert message =~ "Give the path of your cluster's fdb.cluster as cluster_file:"

    default = [{"FDB_CLUSTER_FILE", "/no/such/default.cluster"}]
    assert {:error, message} = OtherVM.run([library: "/no/such/libfdb_c.so"], default)
    assert message =~ "/no/such/default.cluster, that FDB_CLUSTER_FILE names"
  end

  test "a file that is no client library is named", context do
    library = Application.app_dir(:ecto_fdb_sync, "priv/native/libecto_fdb.so")
    assert {:error, message} = OtherVM.run(cluster_file: context.cluster_file, library: library)
    assert message =~ library
    assert message =~ "fdb_get_max_api_version"
  end

  test "without embedded: nothing falls back to the embedded engine" do
    # Whether or not this machine has a client library.
    assert {:error, message} = OtherVM.run([], [{"FDB_CLUSTER_FILE", "/no/such/fdb.cluster"}])
    refute message =~ "timeout"
    assert message =~ "embedded: true"
  end

  test "a cluster file that does not exist, or holds something else, is named", context do
    library = client_library()
    missing = [{"FDB_CLUSTER_FILE", "/no/such/fdb.cluster"}]
    assert {:error, message} = OtherVM.run([library: library], missing)
    assert message =~ "/no/such/fdb.cluster, that FDB_CLUSTER_FILE names"

    assert {:error, message} = OtherVM.run(cluster_file: "/no/such/fdb.cluster", library: library)
    assert message =~ "/no/such/fdb.cluster"
    assert message =~ "embedded: true"

    wrong = context.cluster_file <> ".wrong"
    File.write!(wrong, "hello\n")
    assert {:error, message} = OtherVM.run(cluster_file: wrong, library: library)
    File.rm!(wrong)
    assert message =~ wrong
    assert message =~ "description:id@"
  end

  test "a network option with a wrong value is named" do
    for config <- [[embedded: true], [library: client_library()]] do
      options = [trace_log_group: "a", trace_format: "yaml"]
      assert {:error, message} = OtherVM.run([network_options: options] ++ config)
      assert message =~ "trace_format is wrong"
    end
  end

  # FoundationDB's own libfdb_c finds nobody there.
  @tag :client_library
  test "a cluster that is not there is an error of sync_one's, within its timeout", context do
    library = System.fetch_env!("FDB_CLIENT_LIBRARY")
    does_not_answer([cluster_file: context.cluster_file, library: library], [])
  end

  # The embedded engine's libfdb_c answers too late, on request.
  test "a cluster that does not answer is an error of sync_one's, within its timeout", context do
    config = [cluster_file: context.cluster_file, library: own_library()]
    faults = "slow_read=1,read_delay_ms=3600000"
    does_not_answer(config, [{"EMBEDDED_FDB_FAULTS", faults}])
  end

  defp does_not_answer(config, env) do
    sync = """
    tenant = %EctoFoundationDB.Tenant{id: "t", prefix: "p", repo: Away.Repo}
    state = %{assigns: %{}, private: %{tenant: tenant}}
    EctoFoundationDB.Sync.sync_one(state, Away.Repo, :user, Away.User, "u1", timeout: 300)
    """

    assert {:error, message} = OtherVM.run(config, env, sync)
    assert message =~ "did not answer within 300 ms while syncing :user"

    assert {:error, message} =
             OtherVM.run(
               [timeout: 300] ++ config,
               env,
               "EctoFoundationDB.Tenant.open!(Away.Repo, \"t\")"
             )

    assert message =~ "did not answer within 300 ms"
  end

  # A library that can be loaded: the machine's, or the embedded engine's own libfdb_c.
  defp client_library do
    case System.get_env("FDB_CLIENT_LIBRARY") do
      library when library not in [nil, ""] ->
        library

      _none ->
        own_library()
    end
  end

  defp own_library do
    target = System.get_env("CARGO_TARGET_DIR") || "target"
    {_output, 0} = System.cmd("cargo", ~w(build --release --quiet -p libfdb_c))
    extension = if match?({:unix, :darwin}, :os.type()), do: "dylib", else: "so"
    Path.expand("#{target}/release/libfdb_c.#{extension}")
  end
end
