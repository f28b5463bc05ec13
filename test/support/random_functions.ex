defmodule EctoFoundationDB.RandomFunctions do
  @moduledoc false
  # Pages on random functions while writers write, faults fall, and evaluators and pages are killed. Each
  # function gives two sides that every transaction keeps equal: so no result ever mixes two versions. In the
  # end each page shows what a fresh evaluation gives, and nothing is left over.

  import ExUnit.Assertions

  alias EctoFoundationDB.{Embedded, Sync, SyncPage, SyncRepo}

  @faults [
    seed: 7,
    not_committed: 0.05,
    commit_unknown_result: 0.05,
    transaction_too_old: 0.01,
    future_version: 0.02,
    watch_failure: 0.1,
    slow_read: 0.05,
    read_delay_ms: 20,
    read_version_failure: 0.02,
    slow_watch: 0.1,
    watch_delay_ms: 30
  ]

  @doc """
  Runs for 4 s: `write` writes once to the tenant, `functions` are those that pages show. Options: `faults?`,
  `kill?`.
  """
  def run(repo, tenant, functions, write, opts) do
    for _ <- 1..5, do: write.()
    test = self()
    mount = &mount(&1, repo, Enum.take_random(functions, 8), test)
    start = fn -> SyncPage.start(repo, tenant, mount) end
    pages = for _ <- 1..6, do: start.()
    if opts[:faults?], do: Embedded.faults(repo, @faults)
    deadline = System.monotonic_time(:millisecond) + 4_000

    writers =
      for _ <- 1..2 do
        Task.async(fn ->
          repeat_until(deadline, fn ->
            written(write)
            Process.sleep(:rand.uniform(5))
          end)
        end)
      end

    pages = if opts[:kill?], do: kill_some(repo, pages, start, deadline), else: pages
    Task.await_many(writers, 60_000)
    if opts[:faults?], do: Embedded.faults(repo, nil)

    for page <- pages, {function, _result} <- SyncPage.assigns(page) do
      now = fn -> {SyncPage.assigns(page)[function], fresh(repo, tenant, function)} end
      SyncRepo.eventually(now, fn {shown, fresh} -> shown == fresh end)
    end

    assert judge(0) > 100
    for page <- pages, do: Process.exit(page, :kill)

    SyncRepo.eventually(
      fn -> Sync.stats(repo) end,
      &match?(%{subscriptions: 0, live_queries: 0, pending_watches: 0, waiting: 0}, &1)
    )
  end

  defp mount(state, repo, functions, test) do
    tell = fn state, _old ->
      for {_label, result} <- state.assigns, do: send(test, {:result, result})
      {:cont, state}
    end

    state = Sync.attach_callback(state, repo, :handle_assigns, tell)

    # The label says which function it is.
    for function <- functions, reduce: state do
      state -> mounted(state, repo, function, Enum.random([0, 0, 20]))
    end
  end

  # A fault, or its own error, may fail the first evaluation.
  defp mounted(state, repo, function, every) do
    Sync.sync_fun(state, repo, function, function, every: every)
  rescue
    _error in [RuntimeError, EctoFoundationDB.Error] -> mounted(state, repo, function, every)
  catch
    :exit, :killed -> mounted(state, repo, function, every)
  end

  # A commit of unknown result, tried again, may find what it has done itself.
  defp written(write) do
    write.()
  rescue
    _error -> :ok
  end

  defp kill_some(repo, pages, start, deadline) do
    killer =
      Task.async(fn ->
        repeat_until(deadline, fn ->
          for pid <- evaluations(repo), do: Process.exit(pid, :kill)
          Process.sleep(50)
        end)
      end)

    pages =
      for {page, n} <- Enum.with_index(pages) do
        if rem(n, 2) == 0 do
          Process.sleep(500)
          Process.exit(page, :kill)
          start.()
        else
          page
        end
      end

    Task.await(killer, 60_000)
    pages
  end

  @doc "The processes of a Repo that evaluate, or wait for an evaluation."
  def evaluations(repo) do
    for pid <- Process.list(),
        {:dictionary, dictionary} <- [Process.info(pid, :dictionary)],
        {EctoFoundationDB.Evaluation, :start, 4} == dictionary[:"$initial_call"],
        repo in dictionary[:"$ancestors"],
        do: pid
  end

  defp repeat_until(deadline, fun) do
    if System.monotonic_time(:millisecond) < deadline do
      fun.()
      repeat_until(deadline, fun)
    end
  end

  # Takes the results that pages have seen; each has two equal sides.
  defp judge(seen) do
    receive do
      {:result, {same, same}} -> judge(seen + 1)
      {:result, other} -> flunk("a result of two versions: #{inspect(other)}")
    after
      0 -> seen
    end
  end

  defp fresh(repo, tenant, {module, function, arguments}) do
    repo.transactional(tenant, fn -> apply(module, function, arguments) end)
  rescue
    _error in RuntimeError -> fresh(repo, tenant, {module, function, arguments})
  end
end
