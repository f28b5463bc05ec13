defmodule EctoFoundationDB.SyncFunRandomTest do
  # Random functions while writers write, faults fall, and evaluators and pages are killed: no result ever mixes
  # two versions, and in the end each page shows what a fresh evaluation gives, and nothing is left over.
  use ExUnit.Case, async: true

  alias EctoFoundationDB.{Embedded, Sync, Tenant, TestRepo}
  alias EctoFoundationDB.SyncPage, as: Page
  alias EctoFoundationDB.SyncRepo, as: Support

  @moduletag timeout: 300_000

  defmodule Credit do
    use EctoFoundationDB.TestSchema,
      source: "credits",
      fields: [id: :string, branch: :string, amount: :integer]
  end

  defmodule Debit do
    use EctoFoundationDB.TestSchema,
      source: "debits",
      fields: [id: :string, branch: :string, amount: :integer]
  end

  defmodule Repo do
    use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
    use EctoFoundationDB.Migrator

    defmodule Indexes do
      use EctoFoundationDB.Migration

      @impl true
      def change do
        [
          create(metadata(Credit)),
          create(metadata(Credit, [:branch])),
          create(index(Credit, [:branch])),
          create(metadata(Debit)),
          create(metadata(Debit, [:branch])),
          create(index(Debit, [:branch]))
        ]
      end
    end

    @impl true
    def migrations, do: [{0, Indexes}]
  end

  @ids for n <- 1..8, do: "a#{n}"
  @branches ~w(north south)

  # What functions read. Each transaction keeps the sums of both schemas, and of each branch, equal: a result
  # tells what it has seen of that.
  def sums do
    {Enum.sum(for credit <- Repo.all(Credit), do: credit.amount),
     Enum.sum(for debit <- Repo.all(Debit), do: debit.amount)}
  end

  def branch(branch) do
    futures = [
      Repo.async_all_by(Credit, branch: branch),
      Repo.async_all_by(Debit, branch: branch)
    ]

    [credits, debits] = Repo.await(futures)
    {Enum.sum(Enum.map(credits, & &1.amount)), Enum.sum(Enum.map(debits, & &1.amount))}
  end

  def pairs(ids) do
    pairs = for id <- ids, do: {Repo.async_get(Credit, id), Repo.async_get(Debit, id)}
    pairs = for {credit, debit} <- pairs, do: {Repo.await(credit), Repo.await(debit)}

    {Enum.sum(for {%{amount: amount}, _} <- pairs, do: amount),
     Enum.sum(for {_, %{amount: amount}} <- pairs, do: amount)}
  end

  # What is read next depends on what was read.
  def follow(id) do
    case Repo.get(Credit, id) do
      nil ->
        {Repo.aggregate(Credit, :count), Repo.aggregate(Debit, :count)}

      %{amount: amount, branch: branch} when rem(amount, 2) == 0 ->
        branch(branch)

      %{amount: amount} ->
        {amount, Repo.get!(Debit, id).amount}
    end
  end

  def every_third_raises(counter, branch) do
    :counters.add(counter, 1, 1)
    if rem(:counters.get(counter, 1), 3) == 0, do: raise("every third time")
    branch(branch)
  end

  defp write(tenant) do
    Repo.transactional(tenant, fn ->
      for id <- Enum.take_random(@ids, :rand.uniform(3)) do
        branch = Enum.random(@branches)
        amount = :rand.uniform(100)

        case {Repo.get(Credit, id), Repo.get(Debit, id)} do
          {nil, nil} ->
            Repo.insert!(%Credit{id: id, branch: branch, amount: amount})
            Repo.insert!(%Debit{id: id, branch: branch, amount: amount})

          {credit, debit} ->
            if :rand.uniform(4) == 1 do
              Repo.delete!(credit)
              Repo.delete!(debit)
            else
              Repo.update!(credit, branch: branch, amount: amount)
              Repo.update!(debit, branch: branch, amount: amount)
            end
        end
      end
    end)
  rescue
    # A commit of unknown result, tried again, may find what it has done itself.
    _error -> :ok
  end

  defp functions(counter) do
    [{__MODULE__, :sums, []}] ++
      for(branch <- @branches, do: {__MODULE__, :branch, [branch]}) ++
      for(id <- @ids, do: {__MODULE__, :follow, [id]}) ++
      for(n <- 1..3, do: {__MODULE__, :pairs, [Enum.take(@ids, n * 2)]}) ++
      for(branch <- @branches, do: {__MODULE__, :every_third_raises, [counter, branch]})
  end

  defp mount(state, functions, seen) do
    note = fn state, _old ->
      for {_label, result} <- state.assigns, do: send(seen, {:result, result})
      {:cont, state}
    end

    state = Sync.attach_callback(state, Repo, :handle_assigns, note)

    # The label says which function it is.
    for function <- functions, reduce: state do
      state -> mounted(state, function, Enum.random([0, 0, 20]))
    end
  end

  # A fault, or its own error, may fail the first evaluation.
  defp mounted(state, function, every) do
    Sync.sync_fun(state, Repo, function, function, every: every)
  rescue
    _error in [RuntimeError, EctoFoundationDB.Error] -> mounted(state, function, every)
  catch
    :exit, :killed -> mounted(state, function, every)
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

  defp repeat_until(deadline, fun) do
    if System.monotonic_time(:millisecond) < deadline do
      fun.()
      repeat_until(deadline, fun)
    end
  end

  # The processes that evaluate, or wait for an evaluation.
  defp evaluating do
    for pid <- Process.list(),
        {:dictionary, dictionary} <- [Process.info(pid, :dictionary)],
        {EctoFoundationDB.Evaluation, :start, 4} == dictionary[:"$initial_call"],
        Repo in dictionary[:"$ancestors"],
        do: pid
  end

  for {what, faults, kill?} <- [
        {"with writers alone", nil, false},
        {"with kills", nil, true},
        {"with faults and kills",
         [
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
         ], true}
      ] do
    if faults, do: @tag(:embedded)

    test what do
      faults(unquote(faults), unquote(kill?))
    end
  end

  defp faults(faults, kill?) do
    start_supervised!({Repo, TestRepo.test_config() ++ [timeout: 60_000]})

    tenant =
      Tenant.open!(Repo, "random-#{System.unique_integer([:positive])}-#{System.os_time()}")

    for _ <- 1..5, do: write(tenant)
    functions = functions(:counters.new(1, []))
    test = self()
    start = fn -> Page.start(Repo, tenant, &mount(&1, Enum.take_random(functions, 8), test)) end
    pages = for _ <- 1..6, do: start.()
    if faults, do: Embedded.faults(Repo, faults)
    deadline = System.monotonic_time(:millisecond) + 4_000

    writers =
      for _ <- 1..2 do
        Task.async(fn ->
          repeat_until(deadline, fn ->
            write(tenant)
            Process.sleep(:rand.uniform(5))
          end)
        end)
      end

    pages =
      if kill? do
        killer =
          Task.async(fn ->
            repeat_until(deadline, fn ->
              for pid <- evaluating(), do: Process.exit(pid, :kill)
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
      else
        pages
      end

    Task.await_many(writers, 60_000)
    if faults, do: Embedded.faults(Repo, nil)

    for page <- pages do
      for {function, _result} <- Page.assigns(page) do
        now = fn -> {Page.assigns(page)[function], fresh(tenant, function)} end
        Support.eventually(now, fn {shown, fresh} -> shown == fresh end)
      end
    end

    assert judge(0) > 100
    for page <- pages, do: Process.exit(page, :kill)

    Support.eventually(
      fn -> Sync.stats(Repo) end,
      &match?(%{subscriptions: 0, live_queries: 0, pending_watches: 0, waiting: 0}, &1)
    )

    stop_supervised!(Repo)
    Support.eventually(&evaluating/0, &(&1 == []))
  end

  defp fresh(tenant, {module, function, arguments}) do
    Repo.transactional(tenant, fn -> apply(module, function, arguments) end)
  rescue
    _error in RuntimeError -> fresh(tenant, {module, function, arguments})
  end
end
