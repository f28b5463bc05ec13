if Code.ensure_loaded?(Ecto.Adapter) do
  defmodule Ecto.Adapters.FoundationDB.Live do
    @moduledoc false
    # An `Ecto.Query` as a live query: one range of records, and what Ecto makes of their fields.

    alias Ecto.Adapters.FoundationDB.{Expression, Prepared, Queries, Rows}
    alias EctoFoundationDB.{Connection, Tenant}
    alias EctoFoundationDB.Exception.Unsupported
    alias EctoFoundationDB.Layer.Query

    require Ecto.Query

    @doc "The schema of a query's first source."
    @spec schema!(Ecto.Query.t()) :: module()
    def schema!(%{from: %{source: {_source, schema}}}) when is_atom(schema) and schema != nil,
      do: schema

    def schema!(query), do: refuse("a source without a schema", query)

    @doc "The layer's query, with what makes results of its records in `select`."
    @spec layer_query(Tenant.t(), Ecto.Query.t()) :: Query.t()
    def layer_query(tenant, ecto_query) do
      schema!(ecto_query)
      if ecto_query.preloads != [] or ecto_query.assocs != [], do: refuse("preload", ecto_query)

      ecto_query = Ecto.Query.Planner.ensure_select(ecto_query, true)

      {query, _cast, params} =
        Ecto.Adapter.Queryable.plan_query(:all, Ecto.Adapters.FoundationDB, ecto_query)

      prepared = Prepared.new(:all, query)

      for {condition, what} <- [
            {prepared.joins != [], "a join"},
            {prepared.aggregate?, "an aggregate"},
            {prepared.distinct not in [nil, false], "distinct"}
          ],
          condition,
          do: refuse(what, ecto_query)

      case Queries.queries(prepared, tenant, Expression.env(params), []) do
        [%Query{filter: nil} = query] ->
          %{query | select: select(ecto_query, prepared, params, tenant)}

        [] ->
          refuse("conditions that nothing fulfils", ecto_query)

        _others ->
          refuse("more than one range", ecto_query)
      end
    end

    # Whole structs are loaded one by one, when they have changed.
    defp select(%{select: %{expr: {:&, _, [0]}, take: take}}, _prepared, _params, _tenant)
         when take == %{},
         do: nil

    defp select(ecto_query, prepared, params, tenant),
      do: {__MODULE__, {ecto_query, prepared.fields, params, tenant}}

    @doc "The records of a queryable with these values."
    @spec all(module(), Ecto.Queryable.t(), keyword()) :: [term()]
    def all(repo, queryable, by), do: queryable |> Ecto.Query.where(^by) |> repo.all()

    @doc "What Ecto makes of records' fields."
    @spec results(term(), [keyword() | map()]) :: [term()]
    def results({ecto_query, fields, params, tenant}, records) do
      env = Expression.env(params)

      rows =
        for(data <- records, do: Expression.with_records(env, %{0 => Map.new(data)}))
        |> Rows.rows(fields)

      repo = Connection.fetch!(tenant.repo).repo

      repo.all(%{ecto_query | prefix: tenant}, [
        {Ecto.Adapters.FoundationDB.Repo.rows_option(), {:rows, rows}}
      ])
    end

    defp refuse(what, query) do
      raise Unsupported,
            "#{what}: a list that is synced is one range of records. Sync each list by its own label, or what the " <>
              "records refer to with sync_many: #{inspect(query)}"
    end
  end
end
