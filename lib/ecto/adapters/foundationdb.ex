if Code.ensure_loaded?(Ecto.Adapter) do
  defmodule Ecto.Adapters.FoundationDB do
    @moduledoc """
    An Ecto adapter for FoundationDB.
    """

    @behaviour Ecto.Adapter
    @behaviour Ecto.Adapter.Schema
    @behaviour Ecto.Adapter.Queryable
    @behaviour Ecto.Adapter.Transaction
    @behaviour Ecto.Adapter.Storage

    alias Ecto.Adapters.FoundationDB.{Log, Prepared, Queries, Storage, Writes}
    alias Ecto.Adapters.FoundationDB.Repo, as: Functions
    alias EctoFoundationDB.{Connection, Future, Tenant, Transaction}
    alias EctoFoundationDB.Repo.Options

    require Logger

    @doc """
    Puts a tenant into a struct's, or a changeset's, metadata, so that it needs no `prefix:`.

        %User{name: "Ada"} |> Ecto.Adapters.FoundationDB.usetenant(tenant) |> MyApp.Repo.insert()
    """
    @spec usetenant(Ecto.Schema.schema() | Ecto.Changeset.t(), Tenant.t() | nil) ::
            Ecto.Schema.schema() | Ecto.Changeset.t()
    def usetenant(%Ecto.Changeset{data: struct} = changeset, tenant),
      do: %{changeset | data: usetenant(struct, tenant)}

    def usetenant(struct, tenant), do: Ecto.put_meta(struct, prefix: tenant)

    @doc "Runs a function in a transaction of a tenant, as `transactional/2` of the tenant's Repo does."
    @spec transactional(Tenant.t(), (() -> result) | (term() -> result)) :: result
          when result: term()
    def transactional(%Tenant{} = tenant, fun), do: Transaction.run(tenant, fun)

    ## Ecto.Adapter

    @impl Ecto.Adapter
    defmacro __before_compile__(_env), do: Functions.functions()

    @impl Ecto.Adapter
    def ensure_all_started(_config, type),
      do: Application.ensure_all_started(:ecto_fdb_sync, type)

    @impl Ecto.Adapter
    def init(config) do
      repo = Keyword.fetch!(config, :repo)
      valid = Connection.validate!(repo, config)
      warn_of_ignored(repo, config)
      instance = instance(repo, Keyword.get(config, :name, repo))
      log = if config[:log] in [nil, true], do: :debug, else: config[:log]
      event = Keyword.fetch!(config, :telemetry_prefix) ++ [:query]

      child = %{
        id: EctoFoundationDB.Supervisor,
        start: {EctoFoundationDB.Supervisor, :start_link, [instance, repo, valid]},
        type: :supervisor
      }

      meta = %{
        telemetry: {repo, log, event},
        stacktrace: Keyword.get(config, :stacktrace),
        instance: instance
      }

      {:ok, child, meta}
    end

    # The name of the table that the instance's processes share.
    defp instance(_repo, name) when is_atom(name) and name != nil, do: name

    # Of those that run only, so that their number is bounded.
    defp instance(repo, _no_atom) do
      1
      |> Stream.iterate(&(&1 + 1))
      |> Stream.map(&Module.concat(repo, "Instance#{&1}"))
      |> Enum.find(&(:ets.whereis(&1) == :undefined))
    end

    defp warn_of_ignored(repo, config) do
      with [_ | _] = ignored <- Connection.ignored(config) do
        Logger.info(
          "in the configuration of #{inspect(repo)}: #{inspect(ignored)} are of SQL databases, and do nothing with " <>
            "FoundationDB"
        )
      end
    end

    @impl Ecto.Adapter
    def checkout(_meta, _config, fun), do: fun.()

    # Inside a transaction preloads may not go to other processes.
    @impl Ecto.Adapter
    def checked_out?(_meta), do: Transaction.in?()

    # Values are stored as terms.
    @impl Ecto.Adapter
    def loaders(_primitive, type), do: [type]

    @impl Ecto.Adapter
    def dumpers(_primitive, type), do: [type]

    ## Ecto.Adapter.Schema

    @impl Ecto.Adapter.Schema
    # Integers are claimed when the tenant is known.
    def autogenerate(:id), do: nil
    def autogenerate(type) when type in [:binary_id, :embed_id], do: Ecto.UUID.generate()

    @impl Ecto.Adapter.Schema
    def insert(meta, schema_meta, fields, on_conflict, returning, opts) do
      write(meta, schema_meta, opts, "INSERT", Keyword.values(fields), fn tenant ->
        Writes.insert(tenant, schema_meta, fields, on_conflict, returning, opts)
      end)
    end

    @impl Ecto.Adapter.Schema
    def insert_all(meta, schema_meta, header, rows, on_conflict, returning, placeholders, opts) do
      write(meta, schema_meta, opts, "INSERT", [], fn tenant ->
        Writes.insert_all(
          tenant,
          schema_meta,
          header,
          rows,
          on_conflict,
          returning,
          placeholders,
          opts
        )
      end)
    end

    @impl Ecto.Adapter.Schema
    def update(meta, schema_meta, fields, filters, returning, opts) do
      write(meta, schema_meta, opts, "UPDATE", Keyword.values(fields ++ filters), fn tenant ->
        Writes.update(tenant, schema_meta, fields, filters, returning, opts)
      end)
    end

    @impl Ecto.Adapter.Schema
    def delete(meta, schema_meta, filters, returning, opts) do
      write(meta, schema_meta, opts, "DELETE", Keyword.values(filters), fn tenant ->
        Writes.delete(tenant, schema_meta, filters, returning, opts)
      end)
    end

    defp write(meta, %{source: source, prefix: prefix}, opts, verb, params, fun) do
      tenant = tenant!(meta, prefix)
      what = %{source: source, query: "#{verb} #{source}", params: params}
      Log.run(meta, opts, what, fn -> {fun.(tenant), nil} end)
    end

    defp tenant!(%{instance: instance}, prefix), do: Options.tenant!(instance, prefix: prefix)

    ## Ecto.Adapter.Queryable

    @impl Ecto.Adapter.Queryable
    def prepare(operation, query) do
      prepared = Prepared.new(operation, query)
      # Ecto's cache would keep a query for each tenant, for ever.
      if prepared.prefix, do: {:nocache, prepared}, else: {:cache, prepared}
    end

    @impl Ecto.Adapter.Queryable
    def execute(meta, _query_meta, cache, params, opts) do
      prepared = prepared(cache)

      case Keyword.get(opts, Functions.rows_option()) do
        nil ->
          run(prepared, meta, params, opts)

        {:rows, rows} ->
          {length(rows), rows}

        {:start, ref} ->
          tenant = tenant!(meta, prepared.prefix)
          start = fn -> Queries.start(prepared, tenant, params, opts) end

          Functions.put_future(
            ref,
            EctoFoundationDB.Repo.Queries.start(
              tenant,
              Keyword.take(opts, Transaction.options()),
              start
            )
          )

          {0, []}
      end
    end

    defp prepared({:nocache, prepared}), do: prepared
    defp prepared({:cache, _update, prepared}), do: prepared
    defp prepared({:cached, _update, _reset, prepared}), do: prepared

    defp run(prepared, meta, params, opts) do
      tenant = tenant!(meta, prepared.prefix)
      what = %{source: prepared.sources[0].name, query: prepared.text, params: params}
      Log.run(meta, opts, what, fn -> execute(prepared, tenant, params, opts) end)
    end

    defp execute(%{operation: :all} = prepared, tenant, params, opts) do
      rows =
        Transaction.run(
          tenant,
          fn -> prepared |> Queries.start(tenant, params, opts) |> Future.result() end,
          Keyword.take(opts, Transaction.options())
        )

      {{length(rows), rows}, Queries.take_decode_time()}
    end

    defp execute(prepared, tenant, params, opts) do
      result =
        if opts[:step] do
          {Queries.in_steps(prepared, tenant, params, opts), nil}
        else
          change = if prepared.operation == :update_all, do: :update_all, else: :delete_all

          Transaction.run(
            tenant,
            fn -> apply(Queries, change, [prepared, tenant, params, opts]) end,
            Keyword.take(opts, Transaction.options())
          )
        end

      {result, nil}
    end

    @impl Ecto.Adapter.Queryable
    def stream(meta, _query_meta, cache, params, opts) do
      prepared = prepared(cache)
      Queries.stream(prepared, tenant!(meta, prepared.prefix), params, opts)
    end

    ## Ecto.Adapter.Transaction

    @impl Ecto.Adapter.Transaction
    def transaction(meta, opts, fun),
      do: Ecto.Adapters.FoundationDB.Transactions.run(meta, opts, fun)

    @impl Ecto.Adapter.Transaction
    def in_transaction?(_meta), do: Transaction.in?()

    @impl Ecto.Adapter.Transaction
    def rollback(_meta, value), do: Ecto.Adapters.FoundationDB.Transactions.rollback(value)

    ## Ecto.Adapter.Storage

    @impl Ecto.Adapter.Storage
    defdelegate storage_up(config), to: Storage

    @impl Ecto.Adapter.Storage
    defdelegate storage_down(config), to: Storage

    @impl Ecto.Adapter.Storage
    defdelegate storage_status(config), to: Storage
  end
end
