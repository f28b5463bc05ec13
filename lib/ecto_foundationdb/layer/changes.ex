defmodule EctoFoundationDB.Layer.Changes do
  @moduledoc false
  # What an insert or an update stores of a struct: which fields, in what order, with which ids and
  # timestamps generated.

  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.{Record, Values}
  alias EctoFoundationDB.Schema

  @doc "What an insert stores: the fields that are not nil, then what is generated."
  @spec insert(struct(), map()) :: {Schema.data(), map()}
  def insert(%schema{} = struct, changes) do
    primary_key = Schema.primary_key(schema)

    {changes, generated_id} =
      struct
      |> Map.take(writable(schema, :insert))
      |> Enum.reject(fn {field, value} -> absent?(schema, field, value) end)
      |> Map.new()
      |> Map.merge(Map.take(changes, writable(schema, :insert)))
      |> generate_in_embeds(schema, :autogenerate)
      |> generate_id(schema, primary_key)

    generated = autogenerate(schema, :autogenerate, changes)

    data =
      Values.dump(schema, :insert, in_order(changes)) ++ Values.dump(schema, :insert, generated)

    data = data ++ Values.dump(schema, :insert, generated_id)
    values = changes |> Map.merge(Map.new(generated)) |> Map.merge(Map.new(generated_id))
    {Record.to_front(data, Schema.field_source(schema, primary_key)), values}
  end

  @doc "The struct with its id, generated where it has none and `given`, its changeset, does not bring one."
  @spec generate_id(struct(), struct()) :: struct()
  def generate_id(%schema{} = struct, given) do
    primary_key = Schema.primary_key(schema)
    changed? = match?(%{changes: %{^primary_key => id}} when not is_nil(id), given)

    case struct do
      %{^primary_key => nil} when not changed? ->
        {_changes, generated} = generate_id(%{}, schema, primary_key)
        Map.merge(struct, Map.new(generated))

      _has_one ->
        struct
    end
  end

  @doc """
  What an update of a struct sets, in stored order; [] where nothing changes. `force?` generates all
  the same.
  """
  @spec update(struct(), map(), boolean()) :: {Schema.data(), map()}
  def update(%schema{} = struct, changes, force? \\ false) do
    changes = Map.take(changes, writable(schema, :update))

    if changes == %{} and not force? do
      {[], %{}}
    else
      changes = generate_in_embeds(changes, schema, :autoupdate, struct)
      generated = autogenerate(schema, :autoupdate, changes)

      data =
        Values.dump(schema, :update, in_order(changes)) ++ Values.dump(schema, :update, generated)

      {data, Map.merge(changes, Map.new(generated))}
    end
  end

  # Fields may be `writable: :never`, or `writable: :insert`.
  defp writable(schema, :insert),
    do: keep(Schema.optional(schema, :insertable_fields, nil), schema)

  defp writable(schema, :update),
    do: keep(Schema.optional(schema, :updatable_fields, nil), schema)

  defp keep({keep, _drop}, _schema), do: keep
  defp keep(nil, schema), do: Schema.fields(schema)

  @doc "The changes of an update as a map, checked."
  @spec check!(Schema.t(), map() | keyword()) :: map()
  def check!(schema, changes) do
    changes = fields!(changes, "expected changes, a keyword list or a map")
    id = Schema.primary_key(schema)
    known = Schema.fields(schema)

    for {field, _} <- changes do
      cond do
        field == id ->
          raise ArgumentError,
                "the primary key #{inspect(id)} cannot be changed: delete the record, and insert it anew"

        field not in known ->
          raise ArgumentError,
                "#{inspect(schema)} has no field #{inspect(field)}; it has #{inspect(known)}"

        true ->
          :ok
      end
    end

    changes
  end

  defp fields!(fields, expected) do
    if (is_map(fields) and not is_struct(fields)) or Keyword.keyword?(fields),
      do: Map.new(fields),
      else: raise(ArgumentError, "#{expected}, got: #{inspect(fields)}")
  end

  @doc "One row of insert_all: a map or keyword list of fields, or a struct; no timestamps."
  @spec row(Schema.t(), map() | keyword()) :: {Schema.data(), map()}
  def row(schema, row) do
    known = Schema.fields(schema)

    row =
      case row do
        %^schema{} -> row |> Map.take(known) |> Map.reject(fn {_, value} -> is_nil(value) end)
        _ -> row
      end

    row =
      fields!(
        row,
        "insert_all: expected rows, keyword lists, maps or structs of #{inspect(schema)}"
      )

    for {field, _} <- row, field not in known do
      raise ArgumentError,
            "insert_all: #{inspect(schema)} has no field #{inspect(field)}; it has #{inspect(known)}"
    end

    primary_key = Schema.primary_key(schema)
    {row, generated_id} = generate_id(row, schema, primary_key)
    # The order of the sources' names, where that of an insert is of the fields' names.
    data = schema |> Values.dump(:insert_all, Map.to_list(row) ++ generated_id) |> List.keysort(0)

    {Record.to_front(data, Schema.field_source(schema, primary_key)),
     Map.merge(row, Map.new(generated_id))}
  end

  # The order of a small map's keys before OTP 26, which made it arbitrary: the order that stored
  # values have.
  defp in_order(changes) when map_size(changes) <= 32, do: Enum.sort_by(changes, &elem(&1, 0))
  defp in_order(changes), do: Map.to_list(changes)

  defp absent?(_schema, _field, nil), do: true
  defp absent?(schema, field, []), do: field in Schema.optional(schema, :embeds, [])
  defp absent?(_schema, _field, _value), do: false

  # Embedded structs have generated ids and timestamps, too. One that is equal to what was there
  # `before` has not changed, and keeps its timestamps.
  defp generate_in_embeds(changes, schema, key, before \\ %{}) do
    embeds = Schema.optional(schema, :embeds, [])

    for {field, value} <- changes, into: %{} do
      old = before |> Map.get(field) |> List.wrap()
      {field, if(field in embeds, do: embed(value, key, old), else: value)}
    end
  end

  defp embed(list, key, old) when is_list(list), do: Enum.map(list, &embed(&1, key, old))

  defp embed(%schema{} = struct, key, old) do
    if struct in old do
      struct
    else
      id = Schema.optional(schema, :autogenerate_id, nil)
      new? = match?({_, _, _}, id) and is_nil(Map.get(struct, elem(id, 0)))
      key = if new?, do: :autogenerate, else: key
      ids = if new?, do: generate(elem(id, 0), elem(id, 2)), else: []

      set =
        for {field, value} <- Map.from_struct(struct),
            not is_nil(value),
            into: %{},
            do: {field, value}

      # A timestamp that was set by hand stays.
      taken = if key == :autogenerate, do: set, else: %{}
      inner = Map.take(struct, Schema.optional(schema, :embeds, []))

      inner_before =
        for {field, _} <- inner, into: %{} do
          {field, Enum.flat_map(old, &(&1 |> Map.get(field) |> List.wrap()))}
        end

      struct
      |> struct!(ids ++ autogenerate(schema, key, taken))
      |> Map.merge(generate_in_embeds(inner, schema, key, inner_before))
    end
  end

  defp embed(other, _key, _old), do: other

  defp generate_id(changes, schema, primary_key) do
    case {changes, Schema.optional(schema, :autogenerate_id, nil)} do
      {%{^primary_key => id}, _} when not is_nil(id) ->
        {changes, []}

      {_, {^primary_key, _source, type}} ->
        {Map.delete(changes, primary_key), generate(primary_key, type)}

      {_, _} ->
        {changes, []}
    end
  end

  defp generate(field, type) when type in [:binary_id, Ecto.UUID], do: [{field, uuid()}]

  defp generate(field, type) do
    raise Unsupported,
          "the primary key #{inspect(field)} of type #{inspect(type)} cannot be generated by the " <>
            "database. Use :binary_id, EctoFoundationDB.Versionstamp with async_insert_all!, or " <>
            "set it before inserting"
  end

  defp uuid do
    <<a::48, _::4, b::12, _::2, c::62>> = :crypto.strong_rand_bytes(16)

    <<a::binary-size(8), b::binary-size(4), c::binary-size(4), d::binary-size(4), e::binary>> =
      Base.encode16(<<a::48, 4::4, b::12, 2::2, c::62>>, case: :lower)

    Enum.join([a, b, c, d, e], "-")
  end

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

  @doc "The value that a record to be inserted has as its primary key."
  @spec stored_id!(Schema.t(), Schema.data()) :: term()
  def stored_id!(schema, data) do
    name = Schema.field_source(schema, Schema.primary_key(schema))

    case List.keyfind(data, name, 0) do
      {_, id} when not is_nil(id) ->
        id

      _ ->
        how =
          if Schema.type(schema, Schema.primary_key(schema)) == EctoFoundationDB.Versionstamp,
            do:
              "Ids of EctoFoundationDB.Versionstamp are made by the commit: insert the struct with " <>
                "Repo.async_insert_all!(#{inspect(schema)}, [struct]) inside Repo.transactional(tenant, fun), " <>
                "and await the future after it",
            else: "Set it, or let the schema autogenerate it"

        raise ArgumentError,
              "the primary key #{inspect(name)} of this #{inspect(schema)} is nil, and a record is " <>
                "stored under its primary key. #{how}"
    end
  end
end
