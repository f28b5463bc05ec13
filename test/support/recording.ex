defmodule EctoFoundationDB.Recording do
  @moduledoc false
  # Reads test/format: the contents that ecto_foundationdb left in a database, step by step.

  alias EctoFoundationDB.Native

  defmodule M1 do
    @moduledoc false
    use EctoFoundationDB.Migration
    alias EctoFoundationDB.{TestAccount, TestUser}

    @impl true
    def change do
      [
        create(metadata(TestUser)),
        create(index(TestUser, [:name])),
        create(index(TestUser, [:dept, :joined])),
        create(metadata(TestUser, [:dept])),
        create(index(TestAccount, [:balance]))
      ]
    end
  end

  defmodule M2 do
    @moduledoc false
    use EctoFoundationDB.Migration
    alias EctoFoundationDB.{TestAccount, TestUser}

    @impl true
    def change do
      [
        create(index(TestUser, [:seen_at])),
        drop(index(TestUser, [:name])),
        create(metadata(TestAccount))
      ]
    end
  end

  defmodule Migrator1 do
    @moduledoc false
    use EctoFoundationDB.Migrator
    @impl true
    def migrations, do: [{1, M1}]
  end

  defmodule Migrator2 do
    @moduledoc false
    use EctoFoundationDB.Migrator
    @impl true
    def migrations, do: [{1, M1}, {2, M2}]
  end

  @doc "The steps: `%{step:, set: [{key, value}], cleared: [key], mistaken: [key]}`."
  def steps do
    recording = json("test/format/ecto_foundationdb-0.6.1.json")

    for step <- recording["steps"] do
      set = for entry <- step["set"], do: {bytes(entry["key"]), value(entry)}

      mistaken =
        for %{"error_of_the_recorded_library" => _} = entry <- step["set"],
            do: bytes(entry["key"])

      cleared =
        for entry <- step["cleared"], do: bytes(if is_map(entry), do: entry["key"], else: entry)

      %{step: step["step"], set: set, cleared: cleared, mistaken: mistaken}
    end
  end

  def claims do
    json("test/format/ecto_foundationdb-0.6.1-claims.json")["claims"]
    |> Enum.map(&{bytes(&1["key"]), bytes(&1["value"])})
  end

  defp value(%{"value" => hex}), do: bytes(hex)

  defp value(%{"value_size" => size, "value_sha256" => sha}), do: {:large, size, bytes(sha)}

  @doc "The keys of a directory, or of a tenant as `{prefix, tuple}`."
  def key(<<0xFE, _::binary>> = key), do: {:directory, key}

  def key(key) do
    [prefix | rest] = key |> Native.unpack() |> Tuple.to_list()
    {prefix, List.to_tuple(rest)}
  end

  def bytes(hex), do: Base.decode16!(hex, case: :lower)

  # The part of JSON that the recordings use; numbers are integers.
  def json(path) do
    {value, _rest} = path |> File.read!() |> skip() |> parse()
    value
  end

  defp skip(<<c, rest::binary>>) when c in [?\s, ?\n, ?\t, ?\r], do: skip(rest)
  defp skip(rest), do: rest

  defp parse("{" <> rest), do: object(skip(rest), %{})
  defp parse("[" <> rest), do: array(skip(rest), [])
  defp parse("\"" <> rest), do: string(rest, [])
  defp parse("null" <> rest), do: {nil, rest}
  defp parse("true" <> rest), do: {true, rest}
  defp parse("false" <> rest), do: {false, rest}

  defp parse(rest) do
    {number, rest} = Integer.parse(rest)
    {number, rest}
  end

  defp object("}" <> rest, acc), do: {acc, rest}
  defp object("," <> rest, acc), do: object(skip(rest), acc)

  defp object("\"" <> rest, acc) do
    {key, rest} = string(rest, [])
    ":" <> rest = skip(rest)
    {value, rest} = parse(skip(rest))
    object(skip(rest), Map.put(acc, key, value))
  end

  defp array("]" <> rest, acc), do: {Enum.reverse(acc), rest}
  defp array("," <> rest, acc), do: array(skip(rest), acc)

  defp array(rest, acc) do
    {value, rest} = parse(rest)
    array(skip(rest), [value | acc])
  end

  defp string("\"" <> rest, acc), do: {acc |> Enum.reverse() |> IO.iodata_to_binary(), rest}
  defp string("\\n" <> rest, acc), do: string(rest, ["\n" | acc])
  defp string("\\t" <> rest, acc), do: string(rest, ["\t" | acc])

  defp string(<<"\\u", hex::binary-size(4), rest::binary>>, acc),
    do: string(rest, [<<String.to_integer(hex, 16)::utf8>> | acc])

  defp string(<<"\\", c, rest::binary>>, acc), do: string(rest, [c | acc])
  defp string(<<c, rest::binary>>, acc), do: string(rest, [c | acc])
end
