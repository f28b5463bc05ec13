defmodule EctoFoundationDB.Layer.Record do
  @moduledoc false
  # Encodes and decodes records as key-values. A value over `max_single_value_size` is kept in parts. The
  # record's own key then holds `{:multikey, {n, -1, crc}}`, so that it changes with every update and can be
  # watched, and the parts follow it under `{…, id, {n, i, crc}}`.

  alias EctoFoundationDB.{DecodeError, Native, Schema, Versionstamp}
  alias EctoFoundationDB.Layer.{Keys, Source, Term}

  @enforce_keys [:key, :data]
  defstruct [:key, :data, parts: 0]

  @typedoc """
  `key`: the packed key. `data`: the fields in stored order; an unknown field has its name as a string, and its
  value as undecoded bytes. `parts`: 0 for a value in one piece.
  """
  @type t :: %__MODULE__{
          key: binary(),
          data: Schema.data(),
          parts: non_neg_integer()
        }

  @typedoc "A key and its value, or the value's fields if it arrived decoded (`read/3`)."
  @type row :: {binary(), binary() | keyword()}

  @doc "The operation that reads the records of a range; for options see `Native.op()`."
  @spec read(binary(), binary(), map()) :: EctoFoundationDB.Native.op()
  def read(first, last, options \\ %{}),
    do: {:get_range, first, last, Map.put(options, :records, true)}

  @doc "The key-values of a record; keys are tuples to pack."
  @spec encode(tuple(), Schema.data(), keyword()) :: [
          {{:pack, tuple()}, binary()}
        ]
  def encode(key_tuple, data, options) do
    value = Term.encode_fields(data)
    check_data!(value, data)
    size = byte_size(value)
    max = options[:max_value_size] || :infinity
    single = options[:max_single_value_size] || 100_000

    if is_integer(max) and size > max do
      raise ArgumentError,
            "this record takes #{size} bytes, and `max_value_size: #{max}` says to reject any objects larger than " <>
              "#{max} bytes"
    end

    if size > single do
      crc = :erlang.crc32(value)
      parts = chunks(value, single)
      n = length(parts)

      rows =
        for {part, i} <- Enum.with_index(parts),
            do: {{:pack, Keys.append(key_tuple, [{n, i, crc}])}, part}

      [{{:pack, key_tuple}, :erlang.term_to_binary({:multikey, {n, -1, crc}})} | rows]
    else
      [{{:pack, key_tuple}, value}]
    end
  end

  # Values that cannot be read back are not written. Unknown fields stay as they are.
  defp check_data!(value, data) do
    with true <- Enum.all?(data, fn {name, _} -> is_atom(name) end),
         {:error, reason} <- Term.skip(value, 1) do
      raise ArgumentError, "this record cannot be stored: #{reason}: #{inspect(data)}"
    end
  end

  defp chunks(value, size) when byte_size(value) <= size, do: [value]

  defp chunks(value, size) do
    <<chunk::binary-size(size), rest::binary>> = value
    [chunk | chunks(rest, size)]
  end

  @doc "The records of rows in key order."
  @spec decode([row()], Source.t()) :: [t()]
  def decode(rows, source) do
    {records, []} = decode_some(rows, source, true)
    records
  end

  @doc """
  As `decode/2`, for rows that may end within a record: returns the remaining rows, unless `last?`.
  """
  @spec decode_some([row()], Source.t(), boolean()) :: {[t()], [row()]}
  def decode_some(rows, source, last?), do: decode_some(rows, source, last?, [])

  defp decode_some([], _source, _last?, acc), do: {Enum.reverse(acc), []}

  defp decode_some([{key, value} | rest] = rows, source, last?, acc) do
    case multikey(value) do
      nil ->
        record = %__MODULE__{key: key, data: data(key, value, source)}
        decode_some(rest, source, last?, [record | acc])

      {n, _, _} = meta ->
        {parts, after_parts} = Enum.split(rest, n)

        if length(parts) < n and not last? do
          {Enum.reverse(acc), rows}
        else
          value = assemble(key, meta, parts)
          record = %__MODULE__{key: key, data: data(key, value, source), parts: n}
          decode_some(after_parts, source, last?, [record | acc])
        end
    end
  end

  defp multikey(<<131, 104, 2, _::binary>> = value) do
    case Term.decode(value) do
      {:ok, {:multikey, {n, -1, crc}}} when is_integer(n) and is_integer(crc) -> {n, -1, crc}
      _ -> nil
    end
  end

  defp multikey(_value), do: nil

  @doc "Whether a key is that of a part of a record's value."
  @spec part?(binary()) :: boolean()
  def part?(key) do
    tuple = Native.unpack(key)

    match?(
      {n, i, crc} when is_integer(n) and is_integer(i) and is_integer(crc),
      elem(tuple, tuple_size(tuple) - 1)
    )
  end

  defp assemble(key, {n, _, crc}, parts) do
    expected = for i <- 0..(n - 1)//1, do: key <> Native.pack({{n, i, crc}})

    if Enum.map(parts, &elem(&1, 0)) != expected do
      raise DecodeError,
        key: key,
        reason: "it is kept in #{n} parts, and they are not all there (a torn value)"
    end

    value = IO.iodata_to_binary(Enum.map(parts, &elem(&1, 1)))

    case :erlang.crc32(value) do
      ^crc ->
        value

      other ->
        raise DecodeError,
          key: key,
          reason: "its checksum is #{other}, expected #{crc} (a torn value)"
    end
  end

  @doc "The fields of a record's value."
  @spec data(binary(), binary() | keyword(), Source.t()) :: Schema.data()
  def data(_key, fields, _source) when is_list(fields), do: fields

  def data(key, value, source) do
    with {:ok, data} <- Term.decode(value),
         :ok <- keyword(data) do
      complete(key, data)
    else
      {:error, _} -> complete(key, data_by_field(key, value, source))
    end
  end

  # The commit fills in a versionstamp id in a key, as its last element, but not in the value.
  defp complete(key, data) do
    if Enum.any?(data, fn {_, value} -> Versionstamp.incomplete?(value) end) do
      tuple = Native.unpack(key)
      id = elem(tuple, tuple_size(tuple) - 1)

      for {name, value} <- data,
          do: {name, if(Versionstamp.incomplete?(value), do: id, else: value)}
    else
      data
    end
  end

  # A newer version of the application may have written fields that this one does not know, with
  # values that it cannot decode: these are carried along as they are.
  defp data_by_field(key, value, source) do
    known = source.fields && MapSet.new(source.fields, &"#{&1}")

    case Term.fields(value) do
      {:ok, fields} ->
        for {name, etf} <- fields do
          cond do
            is_nil(known) -> any_field(name, etf)
            name in known -> {String.to_existing_atom(name), field!(key, name, etf)}
            true -> {name, etf}
          end
        end

      {:error, reason} ->
        raise DecodeError, key: key, reason: reason
    end
  end

  defp field!(key, name, etf) do
    case Term.decode(<<131, etf::binary>>) do
      {:ok, value} -> value
      {:error, reason} -> raise DecodeError, key: key, reason: "field #{name}: #{reason}"
    end
  end

  # Without a schema, every field that can be decoded is known.
  defp any_field(name, etf) do
    case Term.decode(<<131, etf::binary>>) do
      {:ok, value} -> {String.to_existing_atom(name), value}
      {:error, _reason} -> {name, etf}
    end
  rescue
    ArgumentError -> {name, etf}
  end

  defp keyword(data) when is_list(data) do
    if Enum.all?(data, &match?({name, _} when is_atom(name), &1)),
      do: :ok,
      else: {:error, "it is not a keyword list"}
  end

  defp keyword(_data), do: {:error, "it is not a keyword list"}

  @doc "The fields with the primary key, whose name is given, in front: the form that indexers receive."
  @spec to_front(Schema.data(), atom()) :: Schema.data()
  def to_front([{field, _} | _] = data, field), do: data

  def to_front(data, field) do
    case List.keytake(data, field, 0) do
      {id, rest} -> [id | rest]
      nil -> data
    end
  end

  @doc "The last element of a record's key: its primary key, after its partition if it has one."
  @spec id(Schema.data(), Source.t()) :: term()
  def id(data, %Source{id: id, partition_by: nil}), do: get(data, id)
  def id(data, %Source{id: id, partition_by: field}), do: {get(data, field), get(data, id)}

  @doc "Sets fields; existing ones move to the end."
  @spec merge(Schema.data(), Schema.data()) ::
          Schema.data()
  def merge(data, changes) do
    names = MapSet.new(changes, fn {name, _} -> "#{name}" end)
    Enum.reject(data, fn {name, _} -> "#{name}" in names end) ++ changes
  end

  @doc "A field's value, or `nil`."
  @spec get(Schema.data(), atom() | String.t()) :: term()
  def get(data, name) do
    case List.keyfind(data, name, 0) ||
           Enum.find(data, fn {other, _} -> "#{other}" == "#{name}" end) do
      {stored, value} when is_atom(stored) -> value
      {_, etf} -> foreign(etf)
      nil -> nil
    end
  end

  # A newer version's index may be on a field that only that version knows.
  defp foreign(etf) do
    case Term.decode_foreign(<<131, etf::binary>>) do
      {:ok, value} -> value
      {:error, _} -> nil
    end
  end
end
