{:ok, _pid} = EctoFoundationDB.SyncRepo.start()

# What only the embedded engine can tell or do is left out on a cluster; ExUnit says how many.
cluster? = System.get_env("FDB_CLUSTER_FILE") not in [nil, ""]
ExUnit.start(exclude: if(cluster?, do: [:embedded], else: []))
