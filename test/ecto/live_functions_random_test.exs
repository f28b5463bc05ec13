if Code.ensure_loaded?(Ecto.Adapter) do
  defmodule EctoFoundationDB.EctoLiveFunctionsRandomTest do
    # Random functions of an Ecto repository, with queries, joins and preloads.
    use ExUnit.Case, async: true

    import Ecto.Query

    alias EctoFoundationDB.{RandomFunctions, Tenant, TestRepo}

    @moduletag timeout: 300_000

    defmodule Branch do
      use Ecto.Schema

      schema "branches" do
        field(:name, :string)
        has_many(:credits, EctoFoundationDB.EctoLiveFunctionsRandomTest.Credit)
        has_many(:debits, EctoFoundationDB.EctoLiveFunctionsRandomTest.Debit)
      end
    end

    defmodule Credit do
      use Ecto.Schema

      schema "credits" do
        field(:amount, :integer)
        belongs_to(:branch, EctoFoundationDB.EctoLiveFunctionsRandomTest.Branch)
      end
    end

    defmodule Debit do
      use Ecto.Schema

      schema "debits" do
        field(:amount, :integer)
        belongs_to(:branch, EctoFoundationDB.EctoLiveFunctionsRandomTest.Branch)
      end
    end

    defmodule Repo do
      use Ecto.Repo, otp_app: :ecto_fdb_sync, adapter: Ecto.Adapters.FoundationDB
      use EctoFoundationDB.Migrator

      defmodule Indexes do
        use EctoFoundationDB.Migration

        @impl true
        def change do
          [create(metadata(Branch))] ++
            for schema <- [Credit, Debit],
                command <- [
                  create(metadata(schema)),
                  create(metadata(schema, [:branch_id])),
                  create(index(schema, [:branch_id]))
                ],
                do: command
        end
      end

      @impl EctoFoundationDB.Migrator
      def migrations, do: [{0, Indexes}]
    end

    @branches [1, 2]
    @ids Enum.to_list(1..8)

    def sums, do: {Repo.aggregate(Credit, :sum, :amount), Repo.aggregate(Debit, :sum, :amount)}

    def branch(id) do
      %{credits: credits, debits: debits} =
        Repo.preload(Repo.get!(Branch, id), [:credits, :debits])

      {Enum.sum(Enum.map(credits, & &1.amount)), Enum.sum(Enum.map(debits, & &1.amount))}
    end

    def joined(id) do
      amounts = fn schema ->
        Repo.all(
          from(one in schema,
            join: b in Branch,
            on: b.id == one.branch_id,
            where: one.branch_id == ^id,
            select: one.amount
          )
        )
      end

      {Enum.sum(amounts.(Credit)), Enum.sum(amounts.(Debit))}
    end

    def follow(id) do
      case Repo.get(Credit, id) do
        nil -> {Repo.aggregate(Credit, :count), Repo.aggregate(Debit, :count)}
        %{amount: amount, branch_id: branch} when rem(amount, 2) == 0 -> branch(branch)
        %{amount: amount} -> {amount, Repo.get!(Debit, id).amount}
      end
    end

    defp write(tenant) do
      Repo.transactional(tenant, fn ->
        for id <- Enum.take_random(@ids, :rand.uniform(3)) do
          values = %{branch_id: Enum.random(@branches), amount: :rand.uniform(100)}

          case {Repo.get(Credit, id), Repo.get(Debit, id)} do
            {nil, nil} ->
              Repo.insert!(struct(%Credit{id: id}, values))
              Repo.insert!(struct(%Debit{id: id}, values))

            {credit, debit} ->
              for record <- [credit, debit],
                  do: Repo.update!(Ecto.Changeset.change(record, values))

              if :rand.uniform(4) == 1, do: Enum.each([credit, debit], &Repo.delete!/1)
          end
        end
      end)
    end

    for {what, opts} <- [
          {"with writers and kills", [kill?: true]},
          {"with faults", [faults?: true]}
        ] do
      if opts[:faults?], do: @tag(:embedded)

      test what do
        start_supervised!({Repo, TestRepo.test_config() ++ [timeout: 60_000]})
        id = "ecto-random-#{System.unique_integer([:positive])}-#{System.os_time()}"
        tenant = Tenant.open!(Repo, id)
        for id <- @branches, do: Repo.insert!(%Branch{id: id}, prefix: tenant)

        functions =
          [{__MODULE__, :sums, []}] ++
            for(id <- @branches, do: {__MODULE__, :branch, [id]}) ++
            for(id <- @branches, do: {__MODULE__, :joined, [id]}) ++
            for(id <- @ids, do: {__MODULE__, :follow, [id]})

        RandomFunctions.run(Repo, tenant, functions, fn -> write(tenant) end, unquote(opts))
      end
    end
  end
end
