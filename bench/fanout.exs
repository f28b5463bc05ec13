# From a commit until the last page shows it, for many pages on one record and on one list; beside the
# classic way, where every process has a watch of its own and reads again.
#
#     mix run bench/fanout.exs [--pages 1000,9000,100000] [--lists 1000x200] [--cluster FILE]

Code.require_file("support.exs", __DIR__)

alias Bench.{Repo, User}
alias EctoFoundationDB.Indexer.SchemaMetadata
alias EctoFoundationDB.Sync

{opts, tenant} = Bench.start(pages: :string, lists: :string)

# FoundationDB's default of 10,000 watches is the classic way's limit on a cluster.
classic_limit = 9_000

defmodule Bench.Pages do
  def synced(tenant, sync) do
    fn _i, mounted, updated ->
      state = sync.(%{assigns: %{}, private: %{tenant: tenant}})
      mounted.()
      follow(state, updated)
    end
  end

  defp follow(state, updated) do
    receive do
      message ->
        {:halt, state} = Sync.handle_ready(Bench.Repo, message, state)
        updated.()
        follow(state, updated)
    end
  end

  # The same assigns, read once: what a page takes by itself.
  def bare(tenant) do
    fn _i, mounted, _updated ->
      user = Bench.Repo.get!(Bench.User, "u1", prefix: tenant)
      state = %{assigns: %{user: user}, private: %{tenant: tenant}}
      mounted.()

      receive do
        :never -> state
      end
    end
  end

  def classic(tenant, start) do
    fn _i, mounted, updated ->
      {assigns, future} = Repo.transactional(tenant, start)
      mounted.()
      follow_classic(tenant, assigns, [future], updated)
    end
  end

  defp follow_classic(tenant, assigns, futures, updated) do
    receive do
      {ref, :ready} when is_reference(ref) ->
        {changed, futures, _others} =
          Repo.assign_ready(futures, [ref], watch?: true, prefix: tenant)

        updated.()
        follow_classic(tenant, Map.merge(assigns, Map.new(changed)), futures, updated)
    end
  end
end

widths = [26, 9, 9, 12, 12, 13, 10, 10]

heading = fn ->
  Bench.row(
    ["", "pages", "mount ms", "change ms", "reads/change", "watches", "BEAM B", "in all B"],
    widths
  )
end

measure = fn name, n, times, page, change ->
  pages = Bench.pages(n, page)
  before = Bench.stats()
  time = Bench.changes(pages, times, change)
  now = Bench.stats()
  reads = (now.reads - before.reads) / times
  classic? = String.starts_with?(name, "classic")
  watches = if classic?, do: n, else: now.pending_watches
  reads = if classic?, do: n * 1.0, else: reads
  [beam, all] = pages.used
  Bench.row([name, n, pages.mount_ms, time, reads, watches, beam, all], widths)
  Bench.stop(pages)
  time
end

ratio = fn n, classic, synced ->
  IO.puts(
    "    at #{n} pages the classic way takes #{Float.round(classic / synced, 1)} times as long"
  )
end

numbers = fn text -> text |> String.split(",") |> Enum.map(&String.to_integer/1) end

IO.puts("\nOne record")
heading.()
user = Repo.insert!(struct(User, id: "u1", name: "Ada", team: "a"), prefix: tenant)
change = fn i -> Repo.update!(user, name: "Ada #{i} #{System.unique_integer()}") end
sync_one = &Sync.sync_one(&1, Repo, :user, User, "u1")

watch_one = fn ->
  user = Repo.get!(User, "u1")
  {%{user: user}, Repo.watch(user, label: :user)}
end

for n <- numbers.(opts[:pages] || "1,1000,9000,100000") do
  pages = Bench.pages(n, Bench.Pages.bare(tenant))
  Bench.row(["the bare page, not synced", n, pages.mount_ms, "", "", "" | pages.used], widths)
  Bench.stop(pages)
  synced = measure.("sync_one", n, 15, Bench.Pages.synced(tenant, sync_one), change)

  if n in 2..classic_limit do
    classic =
      measure.("classic: Repo.watch", n, 15, Bench.Pages.classic(tenant, watch_one), change)

    ratio.(n, classic, synced)
  end
end

IO.puts("\nA list of which one record changes")
heading.()

for list <- String.split(opts[:lists] || "1000x200", ",") do
  [n, m] = list |> String.split("x") |> Enum.map(&String.to_integer/1)
  Repo.delete_all(User, prefix: tenant)
  rows = for i <- 1..m, do: %{id: "u#{i}", name: "User #{i}", team: "team #{rem(i, 7)}"}
  Repo.insert_all(User, rows, prefix: tenant)
  user = Repo.get!(User, "u#{div(m + 1, 2)}", prefix: tenant)
  change = fn i -> Repo.update!(user, name: "User #{i} #{System.unique_integer()}") end
  sync_all = &Sync.sync_all(&1, Repo, :users, User)

  watch_all = fn ->
    future = SchemaMetadata.watch_changes(User, label: :users)
    {%{users: Repo.all(User)}, future}
  end

  name = "sync_all, #{m} records"
  synced = measure.(name, n, 15, Bench.Pages.synced(tenant, sync_all), change)
  name = "classic: all, #{m} records"
  classic = measure.(name, n, 15, Bench.Pages.classic(tenant, watch_all), change)
  ratio.(n, classic, synced)
end
