defmodule EctoFoundationDB.ConnectionTest do
  use ExUnit.Case, async: true

  alias EctoFoundationDB.{Connection, Error, LayerCase, Native, Repo, TestRepo, TestUser, Tenant}

  defmodule AnotherRepo do
    use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
  end

  defmodule FileRepo do
    use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
  end

  describe "a configuration" do
    for {config, message} <- [
          {[embedded: 1], ~r/embedded: expected `true`.*or the path of its file, got: 1/},
          {[embedded: true, cluster_file: "x"], ~r/exclude each other/},
          {[embedded: true, library: "x"], ~r/`embedded:` needs none/},
          {[cluster_file: ""], ~r/cluster_file: expected the path/},
          {[timeout: 0], ~r/timeout: expected a positive integer, got: 0/},
          {[timeout: "5"], ~r/timeout: expected/},
          {[max_watches: -1], ~r/max_watches: expected/},
          {[transaction_retry_limit: -2], ~r/transaction_retry_limit: expected/},
          {[storage_id: nil], ~r/storage_id: expected a string/},
          {[max_single_value_size: 200_000], ~r/at most 100_000/},
          {[migration_step: 1.5], ~r/migration_step: expected/},
          {[tenant_backend: EctoFoundationDB.Tenant.ManagedTenant],
           ~r/tenant_backend: is not supported/},
          {[open_db: nil], ~r/open_db: is not supported.*embedded: true/},
          {[storage_delimiter: "/"], ~r/storage_delimiter: is not supported/},
          {[metadata_cache: true], ~r/metadata_cache: expected/},
          {[network_options: [:x]], ~r/network_options: expected a keyword list/},
          {[nonsense: 1], ~r/unknown option :nonsense, known are/}
        ] do
      test "of #{inspect(config)} is refused" do
        assert_raise ArgumentError, unquote(Macro.escape(message)), fn ->
          AnotherRepo.start_link(unquote(config))
        end
      end
    end

    test "that is not a keyword list is refused" do
      assert_raise ArgumentError, ~r/must be a keyword list/, fn ->
        Connection.validate!(AnotherRepo, %{})
      end
    end

    test "has defaults" do
      config = AnotherRepo.config()
      assert config[:storage_id] == "Ecto.Adapters.FoundationDB"
      assert config[:otp_app] == :ecto_fdb_sync
      assert config[:timeout] == 15_000
    end
  end

  test "the error says that a module is not a Repo" do
    for module <- [EctoFoundationDB.TestUser, NoSuchModule, "repo"] do
      assert_raise ArgumentError, ~r/is not a Repo: expected a module/, fn ->
        EctoFoundationDB.Tenant.open!(module, "acme")
      end
    end
  end

  test "a Repo that is not started raises an error that says so" do
    assert_raise ArgumentError, ~r/AnotherRepo is not started/, fn ->
      Tenant.open!(AnotherRepo, "acme")
    end
  end

  test "use without otp_app raises an error that says so" do
    assert_raise ArgumentError, ~r/needs `otp_app: :my_app`/, fn ->
      defmodule NoApp do
        use EctoFoundationDB.Repo
      end
    end
  end

  test "the error names an unknown network option, or a database option's wrong value" do
    Process.flag(:trap_exit, true)
    config = TestRepo.test_config() ++ [network_options: [nonsense: 1]]
    assert {:error, %ArgumentError{message: message}} = AnotherRepo.start_link(config)
    assert message =~ "nonsense"
  end

  @tag :embedded
  test "a cluster beside an embedded database is refused, and the error names both" do
    LayerCase.start_repo()
    Process.flag(:trap_exit, true)

    assert {:error, %Error{code: 0, message: message}} =
             AnotherRepo.start_link(cluster_file: "/nowhere")

    assert message =~ "embedded"
  end

  @tag :embedded
  test "a database in memory outlives its Repo, and each Repo has its own" do
    LayerCase.start_repo()
    start_supervised!({AnotherRepo, embedded: true})
    tenant = Tenant.open!(AnotherRepo, "acme")
    AnotherRepo.insert!(%TestUser{id: "u1"}, prefix: tenant)
    stop_supervised!(AnotherRepo)
    start_supervised!({AnotherRepo, embedded: true})
    assert ["acme"] = Tenant.list(AnotherRepo)
    assert %TestUser{} = AnotherRepo.get(TestUser, "u1", prefix: tenant)

    assert_raise EctoFoundationDB.Exception.IncorrectTenancy,
                 ~r/was opened with .*AnotherRepo/,
                 fn ->
                   TestRepo.get(TestUser, "u1", prefix: tenant)
                 end
  end

  @tag :embedded
  test "the cache of tenants' indexes is bounded" do
    start_supervised!({AnotherRepo, embedded: true, log: false, storage_id: "cache"})
    tenant = Tenant.open!(AnotherRepo, "last", migrator: EctoFoundationDB.SyncRepo)
    :ets.insert(AnotherRepo, for(n <- 1..100_000, do: {{"tenant #{n}", "users"}, {"", nil}}))
    AnotherRepo.insert!(%EctoFoundationDB.SyncUser{id: "u1", name: "Ada"}, prefix: tenant)
    assert :ets.info(AnotherRepo, :size) < 10

    assert [%{id: "u1"}] =
             AnotherRepo.all(EctoFoundationDB.SyncUser, where: [name: "Ada"], prefix: tenant)
  end

  test "a Repo with one tenant needs no prefix" do
    LayerCase.start_repo()
    id = LayerCase.tenant_id(%{module: __MODULE__, test: "one"})
    start_supervised!({FileRepo, TestRepo.test_config() ++ [tenant_id: id]})
    FileRepo.insert!(%TestUser{id: "u1"})
    assert [%TestUser{id: "u1"}] = FileRepo.all(TestUser)
    assert Tenant.exists?(FileRepo, id)
    assert :ok = FileRepo.transactional(nil, fn -> :ok end)
  end

  test "a stopped Repo leaves no processes" do
    # Not linked to this test, which would end it with an exit.
    start = fn ->
      FileRepo.start_link(TestRepo.test_config()) |> tap(fn {:ok, pid} -> Process.unlink(pid) end)
    end

    {:ok, repo} = start.()
    {:links, [_ | _] = links} = Process.info(repo, :links)
    refs = for pid <- links, is_pid(pid), do: Process.monitor(pid)
    assert refs != []
    :ok = FileRepo.stop()
    for ref <- refs, do: assert_receive({:DOWN, ^ref, :process, _pid, _reason}, 5_000)
  end

  test "transactions end with their calls" do
    LayerCase.start_repo()
    id = LayerCase.tenant_id(%{module: __MODULE__, test: "gone"})
    start_supervised!({FileRepo, TestRepo.test_config()})
    tenant = Tenant.open!(FileRepo, id)
    for i <- 1..20, do: FileRepo.insert!(%TestUser{id: "u#{i}"}, prefix: tenant)
    catch_throw(FileRepo.transactional(tenant, fn -> throw(:x) end))
    assert transactions(Repo.database(FileRepo), 200) == 0
  end

  # They run on the runtime's threads.
  defp transactions(database, tries) do
    case Native.stats(database).transactions do
      n when n > 0 and tries > 0 ->
        Process.sleep(10)
        transactions(database, tries - 1)

      n ->
        n
    end
  end
end
