defmodule EctoFoundationDB.ClusterTest do
  # Errors when no cluster can be reached. A VM has one client library, so each test runs in a
  # separate VM.
  use ExUnit.Case, async: true

  alias EctoFoundationDB.OtherVM

  @moduletag timeout: 600_000

  setup_all do
    cluster_file = Path.join(System.tmp_dir!(), "ecto_fdb_sync-#{System.pid()}.cluster")
    # Nothing listens there.
    File.write!(cluster_file, "nobody:nobody@127.0.0.1:1\n")
    on_exit(fn -> File.rm(cluster_file) end)
    %{cluster_file: cluster_file}
  end

  test "the error for a missing client library names it, and says what to install", context do
    config = [cluster_file: context.cluster_file, library: "/no/such/libfdb_c.so"]
    assert {:error, message} = OtherVM.run(config)
    assert message =~ "/no/such/libfdb_c.so"
    assert message =~ "foundationdb-clients"
  end

  test "the error for a missing cluster file names both" do
    config = [cluster_file: "/no/such/fdb.cluster", library: "/no/such/libfdb_c.so"]
    assert {:error, message} = OtherVM.run(config)
    assert message =~ "/no/such/libfdb_c.so"
    assert message =~ "Also, can't read the cluster file /no/such/fdb.cluster"
    assert message =~ "Give the path of your cluster's fdb.cluster as cluster_file:"

    default = [{"FDB_CLUSTER_FILE", "/no/such/default.cluster"}]
    assert {:error, message} = OtherVM.run([library: "/no/such/libfdb_c.so"], default)
    assert message =~ "/no/such/default.cluster, that FDB_CLUSTER_FILE names"
  end

  test "the error names a file that is not a client library", context do
    library = Application.app_dir(:ecto_fdb_sync, "priv/native/libecto_fdb.so")
    assert {:error, message} = OtherVM.run(cluster_file: context.cluster_file, library: library)
    assert message =~ library
    assert message =~ "fdb_get_max_api_version"
  end

  test "without embedded: nothing falls back to the embedded engine" do
    # With or without a client library on this machine.
    assert {:error, message} = OtherVM.run([], [{"FDB_CLUSTER_FILE", "/no/such/fdb.cluster"}])
    refute message =~ "timeout"
    assert message =~ "embedded: true"
  end

  test "the error names a cluster file that does not exist, or has other contents", context do
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

  test "the error names a network option with a wrong value" do
    for config <- [[embedded: true], [library: client_library()]] do
      options = [trace_log_group: "a", trace_format: "yaml"]
      assert {:error, message} = OtherVM.run([network_options: options] ++ config)
      assert message =~ "trace_format is wrong"
    end
  end

  test "the error names unknown network options" do
    for {options, expected} <- [
          {[disable_local_client: false], "expected true for the option :disable_local_client"},
          {[tls_verify_peers: 1], "tls_verify_peers"},
          {[tls_ca_path: 1], "expected a string for the option :tls_ca_path, got: 1"},
          {[no_such_option: 1], "tls_verify_peers"}
        ] do
      assert {:error, message} = OtherVM.run(embedded: true, network_options: options)
      assert message =~ "in the configuration of Away.Repo"
      assert message =~ expected
    end
  end

  test "the error names a later Repo's different network options, but not its secrets" do
    start = """
    defmodule Later.Repo do
      use EctoFoundationDB.Repo, otp_app: :away
    end

    for options <- [
          [],
          [trace_log_group: "a", tls_password: "first secret"],
          [tls_password: "first secret", trace_log_group: "a"],
          [trace_log_group: "b", tls_password: "other secret"]
        ] do
      case Later.Repo.start_link(embedded: true, network_options: options) do
        {:ok, _pid} -> Later.Repo.stop()
        {:error, error} -> Exception.message(error)
      end
    end
    """

    options = [trace_log_group: "a", tls_password: "first secret"]
    assert {:ok, answers} = OtherVM.run([embedded: true, network_options: options], [], start)
    assert {[:ok, :ok, :ok, message], _} = Code.eval_string(answers)

    assert message =~
             ~s|without [trace_log_group: "b", tls_password: …] and with [trace_log_group: "a", tls_password: …]|

    assert message =~ "restart the VM"
    refute message =~ "secret"
  end

  test "the error names external clients that can't be loaded", context do
    dir = context.cluster_file <> ".clients"
    File.mkdir_p!(dir)
    on_exit(fn -> File.rm_rf!(dir) end)
    start = &OtherVM.run(embedded: true, network_options: [external_client_directory: &1])

    assert {:error, message} = start.(dir <> "/none")
    assert message =~ "external_client_directory: can't read the directory #{dir}/none: No such"

    # Files that are not libraries are ignored.
    File.write!(Path.join(dir, "README"), "")
    assert {:error, message} = start.(dir)

    assert message =~
             "the directory #{dir} contains no client library. Expected files that end in .so"

    own = own_library()
    File.cp!(own, Path.join(dir, "libfdb_c_good.so"))
    assert {:ok, _} = start.(dir)

    File.write!(Path.join(dir, "libfdb_c_7.1.so"), "half a download")
    assert {:error, message} = start.(dir)
    assert message =~ "#{dir}/libfdb_c_7.1.so is not a usable client library"

    library = Application.app_dir(:ecto_fdb_sync, "priv/native/libecto_fdb.so")
    options = [external_client_library: library]
    assert {:error, message} = OtherVM.run(embedded: true, network_options: options)
    assert message =~ "external_client_library: #{library} is not a usable client library"
    assert message =~ "fdb_get_max_api_version"
  end

  test "a warning names a cluster file that can't be written back", context do
    dir = context.cluster_file <> ".readonly"
    File.mkdir_p!(dir)
    file = Path.join(dir, "fdb.cluster")
    File.write!(file, "nobody:nobody@127.0.0.1:1\n")

    on_exit(fn ->
      System.cmd("chattr", ["-i", file], stderr_to_stdout: true)
      File.rm_rf!(dir)
    end)

    log = """
    defmodule Handler do
      def log(event, handler), do: send(handler.config.to, {:log, event.msg})
    end

    :ok = :logger.add_handler(:test, Handler, %{config: %{to: self()}})
    EctoFoundationDB.Client.check_cluster_file(Away.Repo, EctoFoundationDB.Repo.database(Away.Repo))

    receive do
      {:log, {:string, text}} -> to_string(text)
    after
      0 -> :nothing
    end
    """

    config = [cluster_file: file, library: own_library()]
    assert {:ok, ":nothing"} = OtherVM.run(config, [], log)

    case System.cmd("chattr", ["+i", file], stderr_to_stdout: true) do
      {_, 0} -> :ok
      # This test uses no file attributes: root can write read-only files.
      _ -> File.chmod!(file, 0o444)
    end

    if File.stat!(file).access == :read do
      assert {:ok, said} = OtherVM.run(config, [], log)
      assert said =~ "the cluster file #{file} can't be written back: it is read-only for this VM"
    end
  end

  test "with TLS, a timeout says what to check", context do
    tls = context.cluster_file <> ".tls"
    File.write!(tls, "nobody:nobody@127.0.0.1:1:tls\n")
    on_exit(fn -> File.rm(tls) end)
    env = [{"EMBEDDED_FDB_FAULTS", "slow_read=1,read_delay_ms=3600000"}]
    open = "EctoFoundationDB.Tenant.open!(Away.Repo, \"t\")"
    run = &OtherVM.run([library: own_library(), timeout: 100] ++ &1, env, open)

    assert {:error, message} = run.(cluster_file: tls)
    assert message =~ "The cluster file's addresses end in :tls, but no certificate is given"

    options = [tls_password: "x"]
    assert {:error, message} = run.(cluster_file: tls, network_options: options)
    assert message =~ "The connection uses TLS (tls_password). Check that tls_ca_path"
    assert message =~ "tls_verify_peers"

    assert {:error, message} = run.(cluster_file: context.cluster_file, network_options: options)
    assert message =~ "tls_password are given, but no address in the cluster file ends in :tls"

    assert {:error, message} = run.(cluster_file: context.cluster_file)
    refute message =~ "TLS"
  end

  # FoundationDB's own libfdb_c finds no server there.
  @tag :client_library
  test "an unreachable cluster makes sync_one fail within its timeout", context do
    library = System.fetch_env!("FDB_CLIENT_LIBRARY")
    does_not_answer([cluster_file: context.cluster_file, library: library], [])
  end

  # The embedded engine's libfdb_c answers too late, on request.
  test "an unresponsive cluster makes sync_one fail within its timeout", context do
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
