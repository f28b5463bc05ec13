{:ok, _pid} = EctoFoundationDB.SyncRepo.start()

# On a cluster, tests that need the embedded engine are excluded; without FoundationDB's own libfdb_c, the tests
# that need it. ExUnit prints how many.
set? = fn name -> System.get_env(name) not in [nil, ""] end

exclude =
  if(set?.("FDB_CLUSTER_FILE"), do: [:embedded], else: []) ++
    if(set?.("FDB_CLIENT_LIBRARY"), do: [], else: [:client_library])

# These files are not even compiled: their modules begin with a condition.
for {needed, name, folder} <- [
      {Ecto.Adapter, "Ecto", "ecto"},
      {Phoenix.LiveViewTest, "LiveView", "live_view"}
    ],
    not Code.ensure_loaded?(needed) do
  tests =
    for file <- Path.wildcard("test/#{folder}/**/*_test.exs"),
        reduce: 0,
        do: (sum -> sum + length(Regex.scan(~r/^ *test "/m, File.read!(file))))

  IO.puts(
    "Left out without #{name}: #{tests} tests. Hex has it; or ECTO_FDB_DEPS=folder takes it from source trees."
  )
end

# What is awaited comes, also on a machine with much else to do.
# Log lines of the Repos under test are shown with the tests that fail.
ExUnit.start(exclude: exclude, assert_receive_timeout: 10_000, capture_log: true)
