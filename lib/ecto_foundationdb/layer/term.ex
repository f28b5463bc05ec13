defmodule EctoFoundationDB.Layer.Term do
  @moduledoc false
  # Reads Erlang's external term format without trusting it. Stored bytes must create no atoms and contain no
  # funs, pids, ports or references: the NIF checks the bytes and refuses those before `binary_to_term/2` sees
  # them. Most records arrive decoded from the NIF; this module is for the others.

  alias EctoFoundationDB.Native

  @typedoc "The bytes of a term without the version byte."
  @type etf :: binary()

  @doc "Decodes a term that is plain data and whose atoms all exist."
  @spec decode(binary()) :: {:ok, term()} | {:error, String.t()}
  def decode(<<131, _::binary>> = binary) do
    case skip(binary, 1) do
      {:ok, position} when position == byte_size(binary) -> safe(binary)
      {:ok, position} -> {:error, "#{byte_size(binary) - position} bytes follow the term"}
      {:error, _} = error -> error
    end
  end

  def decode(_binary), do: {:error, "it is not an Erlang term"}

  # The VM's own decoder yields, however large a term is.
  defp safe(binary) do
    {:ok, :erlang.binary_to_term(binary, [:safe])}
  rescue
    ArgumentError -> {:error, "it has an atom that this system does not know, or is damaged"}
  end

  @doc "Where the term that begins at a position ends; an error if it contains what is not allowed."
  @spec skip(binary(), non_neg_integer(), :data | :anything) ::
          {:ok, non_neg_integer()} | {:error, String.t()}
  def skip(binary, position, allowed \\ :data), do: skip(binary, position, 1, allowed)

  defp skip(binary, position, terms, allowed) do
    with {:more, position, terms} <- Native.etf_skip(binary, position, terms, allowed),
         do: skip(binary, position, terms, allowed)
  end

  @doc """
  The fields of an encoded keyword list as `{name, etf}`, with encoded values. This also works for lists that
  `decode/1` refuses.
  """
  @spec fields(binary()) :: {:ok, [{String.t(), etf()}]} | {:error, String.t()}
  def fields(binary), do: Native.etf_fields(binary)

  @doc """
  Decodes a term, turning unknown atoms into strings and references into `{:reference, etf}`: records about
  indexes, which a newer version of the application may have written.
  """
  @spec decode_foreign(binary()) :: {:ok, term()} | {:error, String.t()}
  def decode_foreign(binary) do
    with {:ok, known} <- Native.etf_foreign(binary), do: safe(known)
  end

  @doc "Encodes the result of `fields/1`, or a mixture of such fields and decoded ones."
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
end
