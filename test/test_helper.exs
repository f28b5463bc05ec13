{:ok, _pid} = EctoFoundationDB.SyncRepo.start()

# What only the embedded engine can tell or do is left out on a cluster, and what takes
# FoundationDB's own libfdb_c where there is none; ExUnit says how many.
set? = fn name -> System.get_env(name) not in [nil, ""] end

exclude =
  if(set?.("FDB_CLUSTER_FILE"), do: [:embedded], else: []) ++
    if(set?.("FDB_CLIENT_LIBRARY"), do: [], else: [:client_library])

# What is awaited comes, also on a machine with much else to do.
ExUnit.start(exclude: exclude, assert_receive_timeout: 10_000)
