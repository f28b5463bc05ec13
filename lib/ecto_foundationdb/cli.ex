defmodule EctoFoundationDB.CLI do
  @moduledoc """
  Functions for the console that change all tenants of a Repo: migrate, and rename or remove fields.

  Renaming a field takes three deployments: one that has both fields, after which `copy_field!/5` fills the new
  one; one that has only the new one, and drops the old one's indexes; and then `delete_field!/4`.

  With `prefix: tenant`, functions work on one tenant; without it, they open all tenants, some at a time, with
  `async_stream_options:` for `Task.async_stream/3`. `max_rows:` is the number of records per transaction, 500
  by default. The application may run meanwhile.
  """

  alias EctoFoundationDB.{Schema, Tenant, Transaction}
  alias EctoFoundationDB.Layer.{Metadata, Query, Reader, Record, Source, Writer}
  alias EctoFoundationDB.Repo.Options

  @tenant_options [:migrator, :migration_step, :log, :timeout]

  @doc """
  Calls a function with each opened tenant. Returns a lazy stream of `{:ok, result}`.

      iex> EctoFoundationDB.CLI.run_concurrently_for_all_tenants!(Repo, & &1.id) |> Enum.member?({:ok, "docs"})
      true
  """
  @spec run_concurrently_for_all_tenants!(module(), (Tenant.t() -> term()), keyword()) ::
          Enumerable.t()
  def run_concurrently_for_all_tenants!(repo, fun, options \\ []) do
    stream_options =
      Keyword.merge(
        [ordered: false, max_concurrency: System.schedulers_online() * 2, timeout: :infinity],
        options[:async_stream_options] || []
      )

    Task.async_stream(
      options[:tenant_ids] || Tenant.list(repo),
      fn id -> repo |> Tenant.open(id, Keyword.take(options, @tenant_options)) |> fun.() end,
      stream_options
    )
  end

  @doc """
  Migrates all tenants, or those with the ids (or the open tenant) in `prefix:`.

      iex> EctoFoundationDB.CLI.migrate!(Repo, prefix: "docs")
      :ok
  """
  @spec migrate!(module(), keyword()) :: :ok
  def migrate!(repo, options \\ []) do
    options =
      case options[:prefix] do
        nil -> options
        %Tenant{id: id} -> Keyword.put(options, :tenant_ids, [id])
        ids -> Keyword.put(options, :tenant_ids, List.wrap(ids))
      end

    repo |> run_concurrently_for_all_tenants!(fn _tenant -> :ok end, options) |> Stream.run()
  end

  @doc "As `copy_fields!/4`, for one field."
  @spec copy_field!(module(), Schema.t(), atom(), atom(), keyword()) :: non_neg_integer()
  def copy_field!(repo, schema, from, to, options \\ []),
    do: copy_fields!(repo, schema, [{from, to}], options)

  @doc """
  Copies the values of fields to other fields, `[from: :to]`, in all records. Returns the number of changed
  records. A `nil` value is not copied.

      iex> EctoFoundationDB.CLI.copy_fields!(Repo, User, [name: :team], prefix: Tenant.open!(Repo, "docs"))
      2
  """
  @spec copy_fields!(module(), Schema.t(), keyword(atom()), keyword()) :: non_neg_integer()
  def copy_fields!(repo, schema, copies, options \\ []) do
    for {from, to} <- copies, [from, to] -- Schema.fields(schema) != [] do
      raise ArgumentError,
            "#{inspect(from)} and #{inspect(to)} must both exist in #{inspect(schema)}, which has " <>
              inspect(Schema.fields(schema))
    end

    stored = &Schema.field_source(schema, &1)

    in_tenants(repo, options, fn tenant ->
      change_all(tenant, schema, options, fn data ->
        for {from, to} <- copies,
            value = Record.get(data, stored.(from)),
            value != Record.get(data, stored.(to)),
            reduce: data,
            do: (data -> Record.merge(data, [{stored.(to), value}]))
      end)
    end)
  end

  @doc "As `delete_fields!/4`, for one field."
  @spec delete_field!(module(), Schema.t(), atom(), keyword()) :: non_neg_integer()
  def delete_field!(repo, schema, field, options \\ []),
    do: delete_fields!(repo, schema, [field], options)

  @doc """
  Removes fields that the schema no longer has from all records. Returns the number of changed records. No index
  may use the fields.

      iex> EctoFoundationDB.CLI.delete_fields!(Repo, User, [:nick], prefix: Tenant.open!(Repo, "docs"))
      0
  """
  @spec delete_fields!(module(), Schema.t(), [atom()], keyword()) :: non_neg_integer()
  def delete_fields!(repo, schema, fields, options \\ []) do
    unless options[:skip_schema_assertions] do
      with [_ | _] = known <- for(field <- fields, field in Schema.fields(schema), do: field) do
        raise ArgumentError,
              "#{inspect(known)} must not exist in #{inspect(schema)}: remove them there first"
      end
    end

    names = Enum.map(fields, &to_string/1)

    in_tenants(repo, options, fn tenant ->
      check_indexes!(tenant, Source.of(schema), names)

      change_all(tenant, schema, options, fn data ->
        Enum.reject(data, fn {name, _value} -> to_string(name) in names end)
      end)
    end)
  end

  defp check_indexes!(tenant, source, names) do
    %Metadata{indexes: indexes} =
      Transaction.run(tenant, fn -> Metadata.load(tenant, source.name) end)

    for index <- indexes, field <- index.fields, to_string(field) in names do
      raise ArgumentError,
            "the field #{field} was found on indexes of tenant #{inspect(tenant.id)}: drop #{index.name} in a " <>
              "migration first"
    end
  end

  defp in_tenants(repo, options, fun) do
    case options[:prefix] do
      %Tenant{} = tenant ->
        fun.(tenant)

      nil ->
        repo
        |> run_concurrently_for_all_tenants!(fun, options)
        |> Enum.reduce(0, fn {:ok, count}, sum -> sum + count end)
    end
  end

  # Goes through all records, several per transaction, and writes those that `change` changes.
  defp change_all(tenant, schema, options, change) do
    rows = Options.positive!(:max_rows, Keyword.get(options, :max_rows, 500))
    change_page(Query.new(tenant, Source.of(schema)), nil, rows, change, 0)
  end

  defp change_page(query, position, rows, change, count) do
    {{changed, next}, rows} =
      Transaction.step(query.tenant, rows, fn rows ->
        {records, next} = Reader.page(query, position, rows)
        {writer, []} = Writer.read(Writer.new(query.tenant, query.source), [])

        changed =
          for record <- records, data = change.(record.data), data != record.data do
            Writer.replace(writer, record, data)
          end

        {length(changed), next}
      end)

    if next,
      do: change_page(query, next, rows, change, count + changed),
      else: count + changed
  end
end
