defmodule EctoFoundationDB.Repo.Watches do
  @moduledoc false
  # `watch/2` and `assign_ready/3`, for both kinds of Repo.

  alias EctoFoundationDB.{Future, Queryable, Schema, Transaction, Values}
  alias EctoFoundationDB.Layer.{Keys, Query, Reader, Source}
  alias EctoFoundationDB.Repo.Options

  # The subject of a watch: `{:record, schema, id}`, or `{:counter, schema, by, signal}` of SchemaMetadata.
  defstruct [:of, :label, :queryable]

  def watch(_repo, nil, _opts), do: nil

  def watch(repo, %schema{} = struct, opts) do
    opts = Options.validate!(opts, [:label])
    tenant = Options.tenant!(repo, opts, struct)
    watch_record(tenant, schema, Schema.id!(struct), opts)
  end

  def watch(_repo, other, _opts),
    do: raise(ArgumentError, "watch: expected a struct, got: #{inspect(other)}")

  defp watch_record(tenant, schema, id, opts) do
    source = Source.watchable!(schema)
    stored = Values.stored(schema, Schema.primary_key(schema), id)
    key = {:pack, Keys.record(tenant, source.name, stored)}

    Transaction.run(
      tenant,
      fn ->
        Future.watch(Transaction.watch(key), %__MODULE__{
          of: {:record, schema, id},
          label: opts[:label]
        })
      end,
      Keyword.take(opts, Transaction.options())
    )
  end

  def assign_ready(repo, futures, refs, opts) do
    unless is_list(refs) and Enum.all?(refs, &is_reference/1) do
      raise ArgumentError,
            "assign_ready: expected the references of `{ref, :ready}` messages in a list, got: #{inspect(refs)}"
    end

    check_futures!(futures)
    opts = Options.validate!(opts, [:watch?])
    tenant = Options.tenant!(repo, opts)
    {ready, others} = find(futures, refs)

    new =
      Transaction.run(
        tenant,
        fn ->
          ready
          |> Enum.map(fn {label, watch} -> {label, watch, read(tenant, watch)} end)
          |> Enum.map(fn {label, watch, future} -> {label, watch, Future.result(future)} end)
          |> Enum.map(fn {label, watch, result} ->
            {label, result, if(opts[:watch?], do: again(tenant, watch))}
          end)
        end,
        Keyword.take(opts, Transaction.options())
      )

    assigns = for {label, result, _} <- new, do: {label, result}
    watches = for {label, _, watch} <- new, watch, do: {label, watch}
    watches = if is_map(futures), do: Map.new(watches), else: Enum.map(watches, &elem(&1, 1))
    {assigns, watches, others}
  end

  defp check_futures!(futures) do
    list = if is_map(futures) and not is_struct(futures), do: Map.values(futures), else: futures

    unless is_list(list) and Enum.all?(list, &is_struct(&1, Future)) do
      raise ArgumentError,
            "assign_ready: expected the futures of watches, in a list or in a map by label, " <>
              "got: #{inspect(futures)}"
    end
  end

  defp find(futures, refs) when is_map(futures) do
    {ready, others} = Enum.split_with(futures, fn {_, future} -> Future.ref(future) in refs end)

    {Enum.map(ready, fn {label, %Future{kind: {:watch, _, watch}}} -> {label, watch} end),
     Map.new(others)}
  end

  defp find(futures, refs) when is_list(futures) do
    {ready, others} = Enum.split_with(futures, &(Future.ref(&1) in refs))

    ready =
      for %Future{kind: {:watch, _, watch}} <- ready do
        unless watch.label do
          raise ArgumentError,
                "assign_ready: this watch has no label. Give one to watch/2 (`label: :user`), or " <>
                  "call assign_ready with a map of futures by label"
        end

        {watch.label, watch}
      end

    {ready, others}
  end

  defp read(tenant, %{of: {:record, schema, id}}) do
    source = Source.of(schema)
    where = [{source.id, {:eq, Values.stored(schema, Schema.primary_key(schema), id)}}]
    tenant |> Query.new(source, where) |> results() |> Future.apply(&List.first/1)
  end

  defp read(tenant, %{of: {:counter, _, by, _}, queryable: queryable}),
    do: tenant |> Queryable.query(queryable, by) |> results()

  defp results(query),
    do: query |> Reader.start() |> Future.apply(&Queryable.results(query, &1))

  defp again(tenant, %{of: {:record, schema, id}, label: label}),
    do: watch_record(tenant, schema, id, label: label)

  defp again(_tenant, %{of: {:counter, _, by, signal}} = watch) do
    EctoFoundationDB.Indexer.SchemaMetadata.watch_by(watch.queryable, by, signal,
      label: watch.label
    )
  end
end
