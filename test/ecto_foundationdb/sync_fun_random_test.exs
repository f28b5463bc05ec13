defmodule EctoFoundationDB.SyncFunRandomTest do
  # Random functions of the plain Repo.
  use ExUnit.Case, async: true

  alias EctoFoundationDB.{RandomFunctions, Sync, SyncRepo, Tenant, TestRepo}

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
  end

  defp functions(counter) do
    [{__MODULE__, :sums, []}] ++
      for(branch <- @branches, do: {__MODULE__, :branch, [branch]}) ++
      for(id <- @ids, do: {__MODULE__, :follow, [id]}) ++
      for(n <- 1..3, do: {__MODULE__, :pairs, [Enum.take(@ids, n * 2)]}) ++
      for(branch <- @branches, do: {__MODULE__, :every_third_raises, [counter, branch]})
  end

  for {what, opts} <- [
        {"with writers alone", []},
        {"with kills", [kill?: true]},
        {"with faults and kills", [kill?: true, faults?: true]}
      ] do
    if opts[:faults?], do: @tag(:embedded)

    test what do
      start_supervised!({Repo, TestRepo.test_config() ++ [timeout: 60_000]})
      id = "random-#{System.unique_integer([:positive])}-#{System.os_time()}"
      tenant = Tenant.open!(Repo, id)
      functions = functions(:counters.new(1, []))
      RandomFunctions.run(Repo, tenant, functions, fn -> write(tenant) end, unquote(opts))
      stop_supervised!(Repo)
      SyncRepo.eventually(fn -> RandomFunctions.evaluations(Repo) end, &(&1 == []))
    end
  end

  def credits, do: Enum.sum(for credit <- Repo.all(Credit), do: credit.amount)
  def debits, do: Enum.sum(for debit <- Repo.all(Debit), do: debit.amount)

  test "what one call syncs is of one version, functions and lists" do
    start_supervised!({Repo, TestRepo.test_config() ++ [timeout: 60_000]})
    tenant = Tenant.open!(Repo, "one-#{System.unique_integer([:positive])}-#{System.os_time()}")
    write(tenant)
    writer = Task.async(fn -> for _ <- 1..400, do: write(tenant) end)

    requests = [
      %Sync.Fun{label: :credits, fun: {__MODULE__, :credits, []}},
      %Sync.Fun{label: :debits, fun: &__MODULE__.debits/0},
      %Sync.All{label: :list, queryable: Credit}
    ]

    for _ <- 1..100 do
      state = Sync.sync(%{assigns: %{}, private: %{tenant: tenant}}, Repo, requests)
      %{credits: credits, debits: debits, list: list} = state.assigns
      assert credits == debits
      assert credits == Enum.sum(for credit <- list, do: credit.amount)
      Sync.cancel_all(state, Repo)
    end

    Task.await(writer, 60_000)
  end
end
