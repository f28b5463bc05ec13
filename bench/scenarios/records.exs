defmodule Bench.Records do
  # Many pages, each on a record of its own, while records change at a rate.

  alias Bench.{Chart, LeftOut, Repo, Table, User}
  alias EctoFoundationDB.Sync

  # FoundationDB's default of 10,000 watches is the classic way's limit on a cluster.
  @classic_limit 9_000
  @bytes_of_a_page 12_000
  @portion 1_000

  def about do
    """
    Each page follows a record of its own. Records change at a rate, one after the other, far apart; from before a change
    until its page has it, in milliseconds, and what a page takes in bytes. The classic way: a watch and a read of each
    page.\
    """
  end

  def run(%{quick: quick?} = bench) do
    sizes = if quick?, do: [3_000], else: [9_000, 100_000]
    rates = if quick?, do: [200], else: [200, 1_000]
    seconds = if quick?, do: 3, else: 10
    columns = ~w(pages rate changes p50 p99 max reads watches transactions) ++ ["BEAM B", "all B"]
    table = Table.new("changes of single records, ms", columns)

    ways =
      for n <- sizes,
          {kind, limit} <- [ours: :infinity, classic: @classic_limit],
          n <= limit,
          do: {n, kind}

    {table, bars} =
      for {n, kind} <- ways, reduce: {table, []} do
        {table, bars} -> with_pages(table, bars, bench, n, kind, rates, seconds)
      end

    {[table], [Chart.new("records", "Change → assign, a record a page, p99", "ms", bars)]}
  end

  defp with_pages(table, bars, %{tenant: tenant} = bench, n, kind, rates, seconds) do
    Bench.check_memory!(n, @bytes_of_a_page)

    for ids <- Enum.chunk_every(1..n, @portion) do
      rows = for i <- ids, do: %{id: "u#{i}", name: "User #{i}", team: "t"}
      Repo.insert_all(User, rows, prefix: tenant, on_conflict: :replace_all)
    end

    counter = self()
    page = fn i, mounted, _updated -> page(kind, tenant, i, mounted, counter) end
    pages = Bench.pages(n, page)
    name = if kind == :ours, do: "sync_one", else: "classic: Repo.watch"

    result =
      for rate <- rates, reduce: {table, bars} do
        {table, bars} ->
          {counts, took} = Bench.counted(fn -> changes(tenant, n, rate, seconds) end)
          [_, p99, _] = spread = Bench.spread(took)
          count = length(took)
          each = Bench.each_change_costs(bench, kind, counts, count)
          row = [name, n, rate, count] ++ spread ++ each ++ pages.used
          {Table.add(table, row), bars ++ [{"#{name}, #{n} pages, #{rate}/s", kind, p99}]}
      end

    Bench.stop(pages)
    result
  rescue
    error in LeftOut -> {Table.leave_out(table, "#{n} pages", error.message), bars}
  end

  # Milliseconds of each change. They come at their times, whether the ones before are through or not.
  defp changes(tenant, n, rate, seconds) do
    count = rate * seconds
    start = System.monotonic_time(:microsecond)

    # As many as are needed to keep up.
    writers =
      for writer <- 0..15 do
        Task.async(fn ->
          for i <- writer..(count - 1)//16 do
            due = start + div(i * 1_000_000, rate)
            wait = div(due - System.monotonic_time(:microsecond), 1000)
            if wait > 0, do: Process.sleep(wait)
            id = rem(i * 7_919, n) + 1
            user = %{struct(User, id: "u#{id}") | __meta__: %{prefix: tenant, state: :loaded}}
            Repo.update!(user, name: "#{System.monotonic_time(:microsecond)}")
          end
        end)
      end

    Task.await_many(writers, :infinity)
    for _ <- 1..count, do: receive(do: ({:took, microseconds} -> microseconds / 1000))
  end

  defp page(:ours, tenant, i, mounted, bench) do
    state = %{assigns: %{}, private: %{tenant: tenant}}
    state = Sync.sync_one(state, Repo, :user, User, "u#{i}")
    mounted.()
    follow(state, bench)
  end

  defp page(:classic, tenant, i, mounted, bench) do
    watch = fn -> Repo.watch(Repo.get!(User, "u#{i}"), label: :user) end
    future = Repo.transactional(tenant, watch)
    mounted.()
    follow_classic(tenant, %{}, [future], bench)
  end

  defp follow(state, bench) do
    receive do
      message ->
        {:halt, state} = Sync.handle_ready(Repo, message, state)
        tell(bench, state.assigns.user)
        follow(state, bench)
    end
  end

  defp follow_classic(tenant, assigns, futures, bench) do
    receive do
      {ref, :ready} when is_reference(ref) ->
        {changed, futures, _others} =
          Repo.assign_ready(futures, [ref], watch?: true, prefix: tenant)

        tell(bench, changed[:user])
        follow_classic(tenant, Map.merge(assigns, Map.new(changed)), futures, bench)
    end
  end

  defp tell(bench, user) do
    began = String.to_integer(user.name)
    send(bench, {:took, System.monotonic_time(:microsecond) - began})
  end
end
