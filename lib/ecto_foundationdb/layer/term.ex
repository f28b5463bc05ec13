defmodule EctoFoundationDB.Layer.Term do
  @moduledoc false
  # Erlang's external term format, read without trusting it. Stored bytes create no atoms and bring
  # no funs, pids, ports or references into the system: a walk over the bytes refuses those before
  # `binary_to_term/2` sees them.

  @typedoc "The bytes of a term without the version byte."
  @type etf :: binary()

  @doc "Decodes a term made of data alone, all of whose atoms exist."
  @spec decode(binary()) :: {:ok, term()} | {:error, String.t()}
  def decode(<<131, etf::binary>> = binary) do
    case skip(etf) do
      {:ok, <<>>} -> safe(binary)
      {:ok, rest} -> {:error, "#{byte_size(rest)} bytes follow the term"}
      {:error, _} = error -> error
    end
  end

  def decode(_binary), do: {:error, "it is not an Erlang term"}

  defp safe(binary) do
    {:ok, :erlang.binary_to_term(binary, [:safe])}
  rescue
    ArgumentError -> {:error, "it holds an atom that this system does not know, or is damaged"}
  end

  @doc """
  The fields of an encoded keyword list as `{name, etf}`, values not decoded: the way into a list
  that holds what `decode/1` refuses.
  """
  @spec fields(binary()) :: {:ok, [{String.t(), etf()}]} | {:error, String.t()}
  def fields(<<131, 106>>), do: {:ok, []}
  def fields(<<131, 108, count::32, rest::binary>>), do: fields(rest, count, [])
  def fields(_binary), do: {:error, "it is not a keyword list"}

  defp fields(<<106>>, 0, acc), do: {:ok, Enum.reverse(acc)}

  defp fields(<<104, 2, rest::binary>>, count, acc) when count > 0 do
    with {:ok, name, rest} <- atom(rest),
         {:ok, after_value} <- skip(rest, :anything) do
      etf = binary_part(rest, 0, byte_size(rest) - byte_size(after_value))
      fields(after_value, count - 1, [{name, etf} | acc])
    end
  end

  defp fields(_rest, _count, _acc), do: {:error, "it is not a keyword list"}

  @doc "Encodes what `fields/1` gave, or a mixture of such fields and of decoded ones."
  @spec encode_fields([{atom(), term()} | {String.t(), etf()}]) :: binary()
  def encode_fields(fields) do
    if Enum.any?(fields, fn {name, _} -> is_binary(name) end) do
      body =
        for {name, value} <- fields do
          case name do
            name when is_atom(name) ->
              <<131, name::binary>> = :erlang.term_to_binary(name)
              <<131, value::binary>> = :erlang.term_to_binary(value)
              [104, 2, name, value]

            name ->
              [104, 2, encode_name(name), value]
          end
        end

      IO.iodata_to_binary([<<131, 108, length(fields)::32>>, body, 106])
    else
      :erlang.term_to_binary(fields)
    end
  end

  # In the format the running release uses for atoms it knows.
  defp encode_name(name) do
    <<131, tag, _::binary>> = :erlang.term_to_binary(:ok)
    latin1 = :unicode.characters_to_binary(name, :utf8, :latin1)

    cond do
      tag == 100 and is_binary(latin1) -> <<100, byte_size(latin1)::16, latin1::binary>>
      byte_size(name) < 256 -> <<119, byte_size(name), name::binary>>
      true -> <<118, byte_size(name)::16, name::binary>>
    end
  end

  @doc """
  Decodes a term in which atoms that do not exist become strings and references become
  `{:reference, etf}`: records about indexes, which a newer version of the application may have
  written.
  """
  @spec decode_foreign(binary()) :: {:ok, term()} | {:error, String.t()}
  def decode_foreign(<<131, etf::binary>>) do
    case foreign(etf) do
      {:ok, term, <<>>} -> {:ok, term}
      {:ok, _term, _rest} -> {:error, "bytes follow the term"}
      {:error, _} = error -> error
    end
  end

  def decode_foreign(_binary), do: {:error, "it is not an Erlang term"}

  defp foreign(<<104, size, rest::binary>>) do
    with {:ok, elements, rest} <- foreign_many(rest, size, []),
         do: {:ok, List.to_tuple(elements), rest}
  end

  defp foreign(<<108, size::32, rest::binary>>) do
    with {:ok, elements, rest} <- foreign_many(rest, size, []),
         {:ok, tail, rest} <- foreign(rest),
         do: {:ok, improper(elements, tail), rest}
  end

  defp foreign(<<116, size::32, rest::binary>>) do
    with {:ok, elements, rest} <- foreign_many(rest, 2 * size, []) do
      {:ok, for([k, v] <- Enum.chunk_every(elements, 2), into: %{}, do: {k, v}), rest}
    end
  end

  defp foreign(<<tag, _::binary>> = etf) when tag in [100, 115, 118, 119] do
    with {:ok, name, rest} <- atom(etf), do: {:ok, existing(name), rest}
  end

  defp foreign(<<tag, _::binary>> = etf) when tag in [90, 101, 114] do
    with {:ok, rest} <- skip(etf, :anything) do
      {:ok, {:reference, binary_part(etf, 0, byte_size(etf) - byte_size(rest))}, rest}
    end
  end

  defp foreign(etf) do
    with {:ok, rest} <- skip(etf) do
      term = binary_part(etf, 0, byte_size(etf) - byte_size(rest))
      with {:ok, term} <- safe(<<131, term::binary>>), do: {:ok, term, rest}
    end
  end

  defp foreign_many(rest, 0, acc), do: {:ok, Enum.reverse(acc), rest}

  defp foreign_many(rest, n, acc) do
    with {:ok, term, rest} <- foreign(rest), do: foreign_many(rest, n - 1, [term | acc])
  end

  defp improper(elements, []), do: elements
  defp improper(elements, tail), do: List.foldr(elements, tail, &[&1 | &2])

  defp existing(name) do
    String.to_existing_atom(name)
  rescue
    ArgumentError -> name
  end

  defp atom(<<119, n, name::binary-size(n), rest::binary>>), do: {:ok, name, rest}
  defp atom(<<118, n::16, name::binary-size(n), rest::binary>>), do: {:ok, name, rest}
  defp atom(<<100, n::16, name::binary-size(n), rest::binary>>), do: {:ok, latin1(name), rest}
  defp atom(<<115, n, name::binary-size(n), rest::binary>>), do: {:ok, latin1(name), rest}
  defp atom(_rest), do: {:error, "it is not a keyword list"}

  defp latin1(name), do: :unicode.characters_to_binary(name, :latin1, :utf8)

  @doc "The bytes that follow the first term; an error where it holds what no record may hold."
  @spec skip(etf(), :data | :anything) :: {:ok, binary()} | {:error, String.t()}
  def skip(etf, allowed \\ :data), do: skip(etf, 1, allowed)

  # `n` terms are still to come: no stack, however deep the term is.
  defp skip(rest, 0, _), do: {:ok, rest}
  defp skip(<<109, s::32, _::binary-size(s), rest::binary>>, n, a), do: skip(rest, n - 1, a)
  defp skip(<<100, s::16, _::binary-size(s), rest::binary>>, n, a), do: skip(rest, n - 1, a)
  defp skip(<<119, s, _::binary-size(s), rest::binary>>, n, a), do: skip(rest, n - 1, a)
  defp skip(<<97, _, rest::binary>>, n, a), do: skip(rest, n - 1, a)
  defp skip(<<98, _::32, rest::binary>>, n, a), do: skip(rest, n - 1, a)
  defp skip(<<104, s, rest::binary>>, n, a), do: skip(rest, n - 1 + s, a)
  defp skip(<<108, s::32, rest::binary>>, n, a), do: skip(rest, n + s, a)
  defp skip(<<106, rest::binary>>, n, a), do: skip(rest, n - 1, a)
  defp skip(<<70, _::64, rest::binary>>, n, a), do: skip(rest, n - 1, a)
  defp skip(<<116, s::32, rest::binary>>, n, a), do: skip(rest, n - 1 + 2 * s, a)
  defp skip(<<110, s, _, _::binary-size(s), rest::binary>>, n, a), do: skip(rest, n - 1, a)
  defp skip(<<111, s::32, _, _::binary-size(s), rest::binary>>, n, a), do: skip(rest, n - 1, a)
  defp skip(<<107, s::16, _::binary-size(s), rest::binary>>, n, a), do: skip(rest, n - 1, a)
  defp skip(<<118, s::16, _::binary-size(s), rest::binary>>, n, a), do: skip(rest, n - 1, a)
  defp skip(<<115, s, _::binary-size(s), rest::binary>>, n, a), do: skip(rest, n - 1, a)
  defp skip(<<77, s::32, _, _::binary-size(s), rest::binary>>, n, a), do: skip(rest, n - 1, a)
  defp skip(<<99, _::binary-size(31), rest::binary>>, n, a), do: skip(rest, n - 1, a)
  defp skip(<<105, s::32, rest::binary>>, n, a), do: skip(rest, n - 1 + s, a)

  # What a field this version does not know may hold: it is only carried along.
  defp skip(<<103, r::binary>>, n, :anything), do: skip_named(r, 9, n)
  defp skip(<<88, r::binary>>, n, :anything), do: skip_named(r, 12, n)
  defp skip(<<102, r::binary>>, n, :anything), do: skip_named(r, 5, n)
  defp skip(<<89, r::binary>>, n, :anything), do: skip_named(r, 8, n)
  defp skip(<<120, r::binary>>, n, :anything), do: skip_named(r, 12, n)
  defp skip(<<101, r::binary>>, n, :anything), do: skip_named(r, 5, n)
  defp skip(<<114, s::16, r::binary>>, n, :anything), do: skip_named(r, 1 + 4 * s, n)
  defp skip(<<90, s::16, r::binary>>, n, :anything), do: skip_named(r, 4 + 4 * s, n)
  defp skip(<<113, rest::binary>>, n, :anything), do: skip(rest, n + 2, :anything)

  defp skip(<<112, s::32, rest::binary>>, n, :anything) when s >= 4 and byte_size(rest) >= s - 4,
    do: skip(binary_part(rest, s - 4, byte_size(rest) - s + 4), n - 1, :anything)

  defp skip(<<tag, _::binary>>, _n, :data) when tag in [112, 113, 117],
    do: {:error, "it holds a function, which is not data"}

  defp skip(<<tag, _::binary>>, _n, :data) when tag in [88, 103],
    do: {:error, "it holds a pid, which is not data"}

  defp skip(<<tag, _::binary>>, _n, :data) when tag in [89, 102, 120],
    do: {:error, "it holds a port, which is not data"}

  defp skip(<<tag, _::binary>>, _n, :data) when tag in [90, 101, 114],
    do: {:error, "it holds a reference, which is not data"}

  defp skip(<<80, _::binary>>, _n, _), do: {:error, "it is compressed"}
  defp skip(_rest, _n, _), do: {:error, "the bytes are damaged or cut off"}

  defp skip_named(rest, size, n) do
    with {:ok, _node, rest} <- atom(rest) do
      case rest do
        <<_::binary-size(size), rest::binary>> -> skip(rest, n - 1, :anything)
        _ -> {:error, "the bytes are damaged or cut off"}
      end
    end
  end
end
