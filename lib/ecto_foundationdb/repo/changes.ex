defmodule EctoFoundationDB.Repo.Changes do
  @moduledoc false
  # What the plain Repo stores of a struct: which fields, in which order, with generated ids and timestamps.

  alias EctoFoundationDB.{Schema, Tenant, Values, Versionstamp}
  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.{Ids, Record}

  # The types of ids that are random where they are generated.
  @random [:binary_id, Ecto.UUID]

  @doc "What an insert stores: the fields that are not nil, then what is generated; and the fields that changed."
  @spec insert(struct()) :: {Schema.data(), map()}
  def insert(%schema{} = struct) do
    fields = struct |> Map.take(Schema.fields(schema)) |> Map.reject(fn {_, v} -> is_nil(v) end)
    generated = autogenerate(schema, :autogenerate, fields)
    data = Values.dump(schema, :insert, in_order(fields) ++ generated)
    id_name = Schema.field_source(schema, Schema.primary_key(schema))
    {Record.to_front(data, id_name), Map.new(generated)}
  end

  @doc "The struct with its id, generated if it has none."
  @spec generate_id(struct(), Tenant.t()) :: struct()
  def generate_id(%schema{} = struct, tenant) do
    primary_key = Schema.primary_key(schema)

    case {struct, Schema.optional(schema, :autogenerate_id, nil)} do
      {%{^primary_key => nil}, {^primary_key, _source, type}} ->
        Map.put(struct, primary_key, generate(tenant, schema, type))

      {%{^primary_key => nil}, nil} ->
        if Versionstamp.type?(Schema.type(schema, primary_key)), do: made_by_commit!(schema)
        Schema.id!(struct)

      {_, _} ->
        Schema.id!(struct)
        struct
    end
  end

  @doc "Whether an id is random that `generate_id/2` gives: no record has it. Integers may be taken by ids that were given."
  @spec random_id?(struct()) :: boolean()
  def random_id?(%schema{} = struct) do
    primary_key = Schema.primary_key(schema)

    is_nil(Map.get(struct, primary_key)) and
      match?(
        {^primary_key, _source, type} when type in @random,
        Schema.optional(schema, :autogenerate_id, nil)
      )
  end

  defp made_by_commit!(schema) do
    raise ArgumentError,
          "the primary key of this #{inspect(schema)} is nil. The commit creates ids of EctoFoundationDB.Versionstamp: " <>
            "insert the struct with Repo.async_insert_all!(#{inspect(schema)}, [struct]) inside " <>
            "Repo.transactional(tenant, fun), and await the future after it"
  end

  defp generate(_tenant, _schema, type) when type in @random, do: uuid()
  defp generate(tenant, schema, :id), do: tenant |> Ids.take(Schema.source(schema), 1) |> hd()

  defp generate(_tenant, schema, type) do
    raise Unsupported,
          "the primary key of #{inspect(schema)}, of type #{inspect(type)}, cannot be generated. Use :id, :binary_id, " <>
            "EctoFoundationDB.Versionstamp with async_insert_all!, or set it before inserting"
  end

  defp uuid do
    <<a::48, _::4, b::12, _::2, c::62>> = :crypto.strong_rand_bytes(16)

    <<a::binary-size(8), b::binary-size(4), c::binary-size(4), d::binary-size(4), e::binary>> =
      Base.encode16(<<a::48, 4::4, b::12, 2::2, c::62>>, case: :lower)

    Enum.join([a, b, c, d, e], "-")
  end

  @doc "The fields that an update sets, in stored order, or []; and the fields that changed."
  @spec update(Schema.t(), map()) :: {Schema.data(), map()}
  def update(_schema, changes) when changes == %{}, do: {[], %{}}

  def update(schema, changes) do
    generated = autogenerate(schema, :autoupdate, changes)
    data = Values.dump(schema, :update, in_order(changes) ++ generated)
    {data, Map.merge(changes, Map.new(generated))}
  end

  @doc "The changes of an update as a map, validated."
  @spec check!(Schema.t(), map() | keyword()) :: map()
  def check!(schema, changes) do
    changes = fields!(changes, "expected changes, a keyword list or a map")
    id = Schema.primary_key(schema)
    known!(schema, "update", Map.keys(changes))

    if is_map_key(changes, id) do
      raise ArgumentError,
            "the primary key #{inspect(id)} cannot be changed: delete the record, and insert it with another one"
    end

    changes
  end

  defp fields!(fields, expected) do
    if (is_map(fields) and not is_struct(fields)) or Keyword.keyword?(fields),
      do: Map.new(fields),
      else: raise(ArgumentError, "#{expected}, got: #{inspect(fields)}")
  end

  @doc "Raises unless these are fields of the schema."
  @spec known!(Schema.t(), String.t(), [atom()]) :: :ok
  def known!(schema, what, fields) do
    known = Schema.fields(schema)

    with [_ | _] = unknown <- fields -- known do
      raise ArgumentError,
            "#{what}: #{inspect(schema)} has no fields #{inspect(unknown)}; it has #{inspect(known)}"
    end

    :ok
  end

  @doc """
  One row of insert_all: a map or keyword list of fields, or a struct; no timestamps. With the id, where it is random
  and new.
  """
  @spec row(Schema.t(), map() | keyword() | struct(), Tenant.t()) ::
          {Schema.data(), new :: [term()]}
  def row(schema, row, tenant) do
    row =
      case row do
        %^schema{} ->
          row |> Map.take(Schema.fields(schema)) |> Map.reject(fn {_, v} -> is_nil(v) end)

        _ ->
          row
      end

    row =
      fields!(
        row,
        "insert_all: expected rows, keyword lists, maps or structs of #{inspect(schema)}"
      )

    known!(schema, "insert_all", Map.keys(row))
    primary_key = Schema.primary_key(schema)
    id_name = Schema.field_source(schema, primary_key)
    with_id = struct!(schema, Map.take(row, [primary_key]))
    id = with_id |> generate_id(tenant) |> Map.fetch!(primary_key)

    # In the order of the stored names; an insert uses the order of the fields' names.
    data = schema |> Values.dump(:insert_all, Map.put(row, primary_key, id)) |> List.keysort(0)
    data = Record.to_front(data, id_name)
    {data, if(random_id?(with_id), do: [Record.get(data, id_name)], else: [])}
  end

  # The order of a small map's keys before OTP 26, which made it arbitrary. Stored values have this order.
  defp in_order(changes) when map_size(changes) <= 32, do: Enum.sort_by(changes, &elem(&1, 0))
  defp in_order(changes), do: Map.to_list(changes)

  defp autogenerate(schema, key, changes) do
    Enum.flat_map(Schema.optional(schema, key, []), fn {fields, {module, function, args}} ->
      case Enum.reject(fields, &Map.has_key?(changes, &1)) do
        [] ->
          []

        fields ->
          value = apply(module, function, args)
          Enum.map(fields, &{&1, value})
      end
    end)
  end
end
