defmodule EctoFoundationDB.Layer.Keys do
  @moduledoc false
  # Keys as tuples. The tenant's prefix is the first element of every tuple, not a prefix of the
  # bytes: mapped ranges can only build keys from whole tuples.
  #
  #     {prefix, 0xFD, source, "d", id}                              a record
  #     {prefix, 0xFD, source, "d", partition, id}                   a record of a partition
  #     {prefix, 0xFD, source, "d", id, {n, i, crc}}                 part i of n of a large one
  #     {prefix, 0xFD, source, "i", index, n, value…, id}            an index entry
  #     {prefix, 0xFD, source, "m", signal}                          a counter of a schema
  #     {prefix, 0xFD, source, "m", index, n, value…, signal}        a counter by indexed fields
  #     {prefix, 0xFE, "ids", source}                                the last integer id that was claimed
  #     {prefix, 0xFE, "indexes", source, index}                     an index's description
  #     {prefix, 0xFE, "schema_migrations", "d", version}            a migration that has run
  #     {prefix, 0xFE, "schema_migrations", "max", "version"}        the highest of them
  #     {prefix, 0xFE, "schema_migrations", "claim", source}         who migrates, and what is left

  alias EctoFoundationDB.{Native, Tenant}

  @data <<0xFD>>
  @migrations <<0xFE>>

  def record(%Tenant{prefix: prefix}, source, id),
    do: append({prefix, space(source), source, "d"}, id_elements(id))

  def records(%Tenant{prefix: prefix}, source), do: {prefix, space(source), source, "d"}

  def index(%Tenant{prefix: prefix}, source, name),
    do: {prefix, space(source), source, "i", "#{name}"}

  def index_values(tenant, source, name, count, values),
    do: tenant |> index(source, name) |> append([count | values])

  def index_entry(tenant, source, name, values, id),
    do: tenant |> index_values(source, name, length(values), values) |> append([encode_id(id)])

  def counters(%Tenant{prefix: prefix}, source), do: {prefix, space(source), source, "m"}

  def counter(tenant, source, _name, [], signal),
    do: tenant |> counters(source) |> append(["#{signal}"])

  def counter(tenant, source, name, values, signal),
    do:
      tenant |> counters(source) |> append(["#{name}", length(values)] ++ values ++ ["#{signal}"])

  def ids(%Tenant{prefix: prefix}, source), do: {prefix, @migrations, "ids", source}

  def indexes(%Tenant{prefix: prefix}, source), do: {prefix, @migrations, "indexes", source}
  def index_description(tenant, source, name), do: append(indexes(tenant, source), ["#{name}"])

  def migrations(%Tenant{prefix: prefix}), do: {prefix, @migrations, "schema_migrations", "d"}
  def migration(tenant, version), do: append(migrations(tenant), [version])

  def max_version(%Tenant{prefix: prefix}),
    do: {prefix, @migrations, "schema_migrations", "max", "version"}

  def claims(%Tenant{prefix: prefix}), do: {prefix, @migrations, "schema_migrations", "claim"}
  def claim(tenant, source), do: append(claims(tenant), ["#{source}"])

  def append(tuple, elements), do: List.to_tuple(Tuple.to_list(tuple) ++ elements)

  @doc "The keys of all tuples that begin with this one, except itself."
  def range(tuple) do
    packed = Native.pack(tuple)
    {packed <> <<0>>, packed <> <<0xFF>>}
  end

  @doc "A record's keys: its own key, and those of its parts."
  def record_range(tenant, source, id) do
    packed = Native.pack(record(tenant, source, id))
    {packed, packed <> <<0xFF>>}
  end

  @doc "The first key after all keys that begin with these bytes."
  def strinc(key) do
    size = byte_size(key) - 1

    case key do
      <<init::binary-size(size), 0xFF>> -> strinc(init)
      <<init::binary-size(size), last>> -> <<init::binary, last + 1>>
    end
  end

  @doc "The elements of a record's key that are its primary key; with a partition, the partition and the id."
  def id_elements({partition, {:versionstamp, _, _, _} = id}), do: [encode_id(partition), id]
  def id_elements(id), do: [encode_id(id)]

  def encode_id({:versionstamp, _, _, _} = id), do: id
  def encode_id(id) when is_binary(id), do: id
  def encode_id(id) when is_atom(id), do: {:utf8, Atom.to_string(id)}
  def encode_id(id) when is_number(id), do: id
  def encode_id(id), do: :erlang.term_to_binary(id)

  @doc """
  The source of a key that a live query watches, and what the key is: a record's own, the counter of all records,
  or the counter of the records with some values. `{nil, nil}` for any other key.
  """
  @spec describe(binary()) ::
          {String.t(), {:record, term()} | :all | {:by, String.t(), [term()]}} | {nil, nil}
  def describe(key) do
    case Tuple.to_list(Native.unpack(key)) do
      [_prefix, _space, source, "d" | id] -> {source, {:record, decode_id(id)}}
      [_prefix, _space, source, "m", _signal] -> {source, :all}
      [_prefix, _space, source, "m", index, _count | values] -> {source, by(index, values)}
      _other -> {nil, nil}
    end
  rescue
    # The key of an indexer of the application.
    ArgumentError -> {nil, nil}
  end

  defp by(index, values), do: {:by, index, values |> Enum.drop(-1) |> Enum.map(&text/1)}

  defp decode_id([id]), do: text(id)
  defp decode_id([partition, id]), do: {text(partition), id}

  defp text({:utf8, text}), do: text
  # Other terms are stored as external terms.
  defp text(<<131, _::binary>> = external), do: :erlang.binary_to_term(external, [:safe])
  defp text(value), do: value

  defp space(source) when source in ["schema_migrations", "indexes"], do: @migrations
  defp space(_source), do: @data
end
