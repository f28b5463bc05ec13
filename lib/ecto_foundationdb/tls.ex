defmodule EctoFoundationDB.TLS do
  @moduledoc false
  # Checks the TLS files before libfdb_c does: some mistakes make it end the VM, and with others it only never
  # connects.

  # Its description, where it can be given, and the network options of its file and of its bytes.
  @parts [
    cert: {"certificate", :tls_cert_path, :tls_cert_bytes, "FDB_TLS_CERTIFICATE_FILE"},
    key: {"private key", :tls_key_path, :tls_key_bytes, "FDB_TLS_KEY_FILE"},
    ca: {"certificate of a CA", :tls_ca_path, :tls_ca_bytes, "FDB_TLS_CA_FILE"}
  ]

  # libfdb_c's defaults, if these files exist.
  @defaults [cert: "/etc/foundationdb/cert.pem", key: "/etc/foundationdb/key.pem"]

  # The client reads no larger files.
  @largest 5 * 1024 * 1024

  @term "(?:Check\\.(?:Valid|Unexpired)=[01]|" <>
          "(?:(?:S|Subject|I|Issuer|R|Root)\\.)?(?:C|CN|L|ST|O|OU|UID|DC|subjectAltName)[<>]?=" <>
          "(?![# ])(?:\\\\.|[^\\\\,|\"+;<>])+)"
  @rule "#{@term}(?:,#{@term})*"
  @verify_peers Regex.compile!("\\A#{@rule}(?:\\|#{@rule})*\\z", "s")

  alias EctoFoundationDB.Native

  @typep env :: %{optional(String.t()) => String.t()}

  @doc """
  Checks the TLS settings in network options and environment variables. Raises for mistakes, and logs warnings for
  settings that may be right.
  """
  @spec check(keyword(), env()) :: {:ok, [String.t()]} | {:error, String.t()}
  def check(options, env \\ System.get_env()) do
    parts = for {part, _} <- @parts, source = source(part, options, env), do: {part, source}
    read = for {part, source} <- parts, do: {part, source, read!(part, source)}
    password = options[:tls_password] || env["FDB_TLS_PASSWORD"]

    certificates = decoded(read, :cert, &certificates!/1)
    decoded(read, :ca, &certificates!/1)
    keys = decoded(read, :key, &key!(&1, password))

    for {part, other} <- [cert: :key, key: :cert],
        parts[part] && !(parts[other] || File.exists?(@defaults[other])) do
      {what, option, _, _} = @parts[other]

      wrong!("#{describe(parts[part])} is given without its #{what}. Set #{option}, too")
    end

    with [certificate | _] <- certificates, [key] <- keys, false <- pair?(certificate, key) do
      wrong!(
        "the key of #{describe(parts[:key])} doesn't match the certificate of #{describe(parts[:cert])}"
      )
    end

    check_verify_peers!(options[:tls_verify_peers] || env["FDB_TLS_VERIFY_PEERS"])
    {:ok, Enum.flat_map(Enum.take(certificates, 1), &expired(&1, parts[:cert]))}
  catch
    {__MODULE__, text} -> {:error, text}
  end

  defp wrong!(text), do: throw({__MODULE__, text})

  # In libfdb_c's order: an option's path, then the environment's, then an option's bytes. The NIF refuses values
  # that are not strings.
  defp source(part, options, env) do
    {_what, path, bytes, variable} = @parts[part]

    cond do
      is_binary(options[path]) -> {:file, path, options[path]}
      env[variable] not in [nil, ""] -> {:file, variable, env[variable]}
      is_binary(options[bytes]) -> {:bytes, bytes, options[bytes]}
      true -> nil
    end
  end

  defp describe({:file, name, path}), do: "#{name}, #{path},"
  defp describe({:bytes, name, _bytes}), do: "#{name}"

  defp decoded(read, part, decode) do
    case List.keyfind(read, part, 0) do
      nil -> []
      {_part, source, text} -> decode.({source, text})
    end
  end

  defp read!(part, {:file, name, path}) do
    {what, _, _, _} = @parts[part]

    case File.read(path) do
      {:ok, text} when byte_size(text) <= @largest ->
        text

      {:ok, _text} ->
        wrong!("#{name}: #{path} is larger than 5 MB, so it is not a #{what}")

      {:error, reason} ->
        wrong!("#{name}: can't read the #{what} #{path}: #{:file.format_error(reason)}")
    end
  end

  defp read!(_part, {:bytes, _name, bytes}), do: bytes

  defp certificates!({source, text}) do
    found = for {:Certificate, der, :not_encrypted} <- pem(text), do: certificate(der)

    cond do
      found == [] ->
        wrong!(
          "#{describe(source)} contains no certificate. Expected PEM text, with -----BEGIN CERTIFICATE-----"
        )

      nil in found ->
        wrong!("#{describe(source)} contains a damaged certificate")

      true ->
        found
    end
  end

  defp certificate(der) do
    :public_key.pkix_decode_cert(der, :otp)
  rescue
    _damaged -> nil
  end

  @keys [:PrivateKeyInfo, :RSAPrivateKey, :ECPrivateKey, :DSAPrivateKey]

  defp key!({source, text}, password) do
    case Enum.find(pem(text), &(elem(&1, 0) in @keys)) do
      nil ->
        # OTP supports fewer kinds of encryption than OpenSSL.
        if text =~ "PRIVATE KEY-----" and text =~ "ENCRYPTED" do
          if password in [nil, ""], do: no_password!(source), else: []
        else
          wrong!(
            "#{describe(source)} contains no private key. Expected PEM text, with -----BEGIN PRIVATE KEY-----"
          )
        end

      {_type, _der, :not_encrypted} = entry ->
        case decode(entry, "") do
          {:ok, key} -> [key]
          :error -> wrong!("#{describe(source)} contains a damaged private key")
        end

      {_type, _der, cipher} = entry ->
        if password in [nil, ""], do: no_password!(source)

        case decode(entry, password) do
          {:ok, key} ->
            [key]

          :error ->
            if known?(cipher),
              do: wrong!("#{describe(source)} can't be decrypted: tls_password is wrong"),
              else: []
        end
    end
  end

  @spec no_password!(term()) :: no_return()
  defp no_password!(source) do
    wrong!("#{describe(source)} is encrypted, but no password is given. Set tls_password")
  end

  # PBKDF2, and OpenSSL's older methods. libfdb_c may support others, such as scrypt.
  @pbkdf2 {1, 2, 840, 113_549, 1, 5, 12}

  defp known?({_cipher, {:"PBES2-params", {_kdf, oid, _parameters}, _scheme}}), do: oid == @pbkdf2
  defp known?(_cipher), do: true

  defp decode(entry, password) do
    {:ok, :public_key.pem_entry_decode(entry, String.to_charlist(password))}
  rescue
    _wrong -> :error
  catch
    _kind, _wrong -> :error
  end

  defp pem(text) do
    :public_key.pem_decode(text)
  rescue
    _unknown -> []
  catch
    _kind, _unknown -> []
  end

  # Whether the key's signature is valid for the certificate; true if OTP can't tell.
  defp pair?(certificate, key) do
    {:OTPTBSCertificate, _, _, _, _, _, _, info, _, _, _} = elem(certificate, 1)
    {:OTPSubjectPublicKeyInfo, {:PublicKeyAlgorithm, _algorithm, parameters}, public} = info

    public =
      if is_tuple(public) and elem(public, 0) == :ECPoint, do: {public, parameters}, else: public

    signature = :public_key.sign("ecto_fdb_sync", :sha256, key)
    :public_key.verify("ecto_fdb_sync", :sha256, signature, public)
  rescue
    _unknown -> true
  end

  defp expired(certificate, source) do
    {:OTPTBSCertificate, _, _, _, _, validity, _, _, _, _, _} = elem(certificate, 1)
    {:Validity, _from, {_type, to}} = validity
    until = seconds(to)

    if until && until < System.os_time(:second) do
      ["the certificate of #{describe(source)} has expired: the cluster will refuse it"]
    else
      []
    end
  end

  # YYMMDDhhmmssZ or YYYYMMDDhhmmssZ.
  defp seconds(time) do
    text = to_string(time)
    text = if byte_size(text) == 13, do: century(text) <> text, else: text

    with <<year::binary-4, month::binary-2, day::binary-2, hour::binary-2, minute::binary-2,
           second::binary-2, "Z">> <- text,
         {:ok, time, 0} <-
           DateTime.from_iso8601("#{year}-#{month}-#{day}T#{hour}:#{minute}:#{second}Z") do
      DateTime.to_unix(time)
    else
      _other -> nil
    end
  end

  defp century(<<year::binary-2, _::binary>>), do: if(year >= "50", do: "19", else: "20")

  defp check_verify_peers!(nil), do: :ok

  defp check_verify_peers!(rules) do
    unless is_binary(rules) and rules =~ @verify_peers do
      wrong!(
        "tls_verify_peers: expected rules such as \"Check.Valid=1,S.CN=fdb.example.com\", several of them " <>
          "separated by |, got: #{inspect(rules)}"
      )
    end
  end

  @doc "What to check if a database does not answer and TLS is used, or `nil`."
  @spec advice(Native.database()) :: String.t() | nil
  def advice(database) do
    %{connection_string: connection} = Native.database_facts(database)
    %{options: options} = Native.client_facts()
    variables = for {_part, {_, _, _, variable}} <- @parts, System.get_env(variable), do: variable
    given = for("tls_" <> _ = option <- options || [], do: option) ++ variables
    if connection, do: advice(String.contains?(connection, ":tls"), given)
  end

  defp advice(false, []), do: nil

  defp advice(false, given) do
    "#{Enum.join(given, ", ")} are given, but no address in the cluster file ends in :tls, so the client " <>
      "connects without TLS"
  end

  defp advice(true, []) do
    "The cluster file's addresses end in :tls, but no certificate is given: set tls_cert_path, tls_key_path " <>
      "and tls_ca_path in network_options"
  end

  defp advice(true, given) do
    "The connection uses TLS (#{Enum.join(given, ", ")}). Check that tls_ca_path has the CA of the cluster's " <>
      "certificates, that the cluster's CA has signed the one in tls_cert_path, that neither has expired " <>
      "(openssl x509 -noout -dates -in FILE), and that tls_verify_peers fits both. With " <>
      "`trace_enable: directory` in network_options the client's trace names the cause"
  end
end
