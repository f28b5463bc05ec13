# From the return of a commit until a page has assigned the change, one page, one change at a time;
# beside the classic way: a watch and a read of the process itself.
#
#     mix run bench/latency.exs [--changes 5000] [--cluster FILE]

Code.require_file("support.exs", __DIR__)

alias Bench.{Repo, User}
alias EctoFoundationDB.Sync

{opts, tenant} = Bench.start(changes: :integer)
changes = opts[:changes] || 5000
user = Repo.insert!(struct(User, id: "u1", name: "Ada", team: "a"), prefix: tenant)

# Microseconds of the commit, and from its return to the assign.
measure = fn follow, state ->
  {times, _state} =
    Enum.map_reduce(1..changes, state, fn i, state ->
      start = System.monotonic_time(:microsecond)
      Repo.update!(user, name: "Ada #{i}")
      committed = System.monotonic_time(:microsecond)
      state = follow.(state)
      {{committed - start, System.monotonic_time(:microsecond) - committed}, state}
    end)

  {commits, assigns} = Enum.unzip(times)
  for times <- [commits, assigns], q <- [0.5, 0.99], do: Bench.percentile(times, q)
end

follow_sync = fn state ->
  receive do
    message ->
      {:halt, state} = Sync.handle_ready(Repo, message, state)
      state
  end
end

follow_classic = fn {assigns, futures} ->
  receive do
    {ref, :ready} when is_reference(ref) ->
      {changed, futures, _others} =
        Repo.assign_ready(futures, [ref], watch?: true, prefix: tenant)

      {Map.merge(assigns, Map.new(changed)), futures}
  end
end

widths = [20, 11, 11, 18, 18]
IO.puts("\nMicroseconds, #{changes} changes")
Bench.row(["", "commit p50", "commit p99", "commit→assign p50", "commit→assign p99"], widths)

state = Sync.sync_one(%{assigns: %{}, private: %{tenant: tenant}}, Repo, :user, User, "u1")
synced = measure.(follow_sync, state)
Bench.row(["sync_one" | synced], widths)
Sync.cancel_all(state, Repo)

classic =
  measure.(follow_classic, {
    %{},
    [Repo.transactional(tenant, fn -> Repo.watch(Repo.get!(User, "u1"), label: :user) end)]
  })

Bench.row(["classic: Repo.watch" | classic], widths)
