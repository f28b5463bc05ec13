defmodule EctoFoundationDB.TLSTest do
  # TLS files, created by openssl: each mistake has its own message, before libfdb_c reads the files.
  use ExUnit.Case, async: true

  alias EctoFoundationDB.{OtherVM, TLS}

  setup_all do
    dir = Path.join(System.tmp_dir!(), "ecto_fdb_tls-#{System.pid()}")
    File.mkdir_p!(dir)
    on_exit(fn -> File.rm_rf!(dir) end)
    for name <- ~w(ca other), do: authority(dir, name)

    for {name, ca, days} <- [{"client", "ca", 30}, {"old", "ca", -1}],
        do: leaf(dir, name, ca, days)

    openssl(dir, ~w(pkcs8 -topk8 -in client.key -out sealed.key -passout pass:secret))

    openssl(
      dir,
      ~w(rsa -aes256 -traditional -in client.key -out sealed_old.key) ++ ~w(-passout pass:secret)
    )

    openssl(dir, ~w(pkcs8 -topk8 -scrypt -in client.key -out scrypt.key -passout pass:secret))
    openssl(dir, ~w(ecparam -name prime256v1 -genkey -noout -out ec.key))
    openssl(dir, ~w(req -x509 -key ec.key -subj /CN=ec -days 30 -out ec.pem))
    openssl(dir, ~w(genpkey -algorithm ed25519 -out ed.key))
    openssl(dir, ~w(req -x509 -key ed.key -subj /CN=ed -days 30 -out ed.pem))
    File.write!(Path.join(dir, "text"), "hello\n")

    File.write!(
      Path.join(dir, "damaged.pem"),
      "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n"
    )

    File.write!(
      Path.join(dir, "damaged.key"),
      "-----BEGIN PRIVATE KEY-----\nQUJD\n-----END PRIVATE KEY-----\n"
    )

    {:ok, dir: dir}
  end

  defp authority(dir, name) do
    openssl(
      dir,
      ~w(req -x509 -newkey rsa:2048 -nodes -keyout #{name}.key -out #{name}.pem) ++
        ~w(-subj /CN=#{name} -days 30)
    )
  end

  defp leaf(dir, name, ca, days) do
    openssl(
      dir,
      ~w(req -newkey rsa:2048 -nodes -keyout #{name}.key -out #{name}.csr -subj /CN=#{name})
    )

    openssl(
      dir,
      ~w(x509 -req -in #{name}.csr -CA #{ca}.pem -CAkey #{ca}.key -CAcreateserial -out #{name}.pem -days #{days})
    )
  end

  defp openssl(dir, args) do
    {output, status} = System.cmd("openssl", args, cd: dir, stderr_to_stdout: true)
    if status != 0, do: raise("openssl #{Enum.join(args, " ")}: #{output}")
  end

  defp options(dir, files, more \\ []) do
    for({name, file} <- files, do: {:"tls_#{name}_path", Path.join(dir, file)}) ++ more
  end

  @good [cert: "client.pem", key: "client.key", ca: "ca.pem"]

  describe "correct files" do
    test "are accepted, with keys of all kinds", %{dir: dir} do
      secret = [tls_password: "secret"]

      for {files, more} <- [
            {@good, []},
            {[ca: "ca.pem"], []},
            {[cert: "client.pem", key: "sealed.key"], secret},
            {[cert: "client.pem", key: "sealed_old.key"], secret},
            # Some kinds of encryption are unknown to OTP, but libfdb_c may know them.
            {[cert: "client.pem", key: "scrypt.key"], secret},
            {[cert: "ec.pem", key: "ec.key"], []},
            {[cert: "ed.pem", key: "ed.key"], []},
            {@good, tls_verify_peers: "Check.Valid=1"},
            {@good,
             tls_verify_peers: "Check.Valid=1,Check.Unexpired=0,S.CN=a\\,b|I.O>=Acme,R.CN=x"}
          ] do
        assert TLS.check(options(dir, files, more), %{}) == {:ok, []}
      end
    end

    test "may be given as bytes, or by FoundationDB's environment variables", %{dir: dir} do
      bytes =
        for {name, file} <- @good, do: {:"tls_#{name}_bytes", File.read!(Path.join(dir, file))}

      assert TLS.check(bytes, %{}) == {:ok, []}

      env = %{
        "FDB_TLS_CERTIFICATE_FILE" => Path.join(dir, "client.pem"),
        "FDB_TLS_KEY_FILE" => Path.join(dir, "sealed.key"),
        "FDB_TLS_CA_FILE" => Path.join(dir, "ca.pem"),
        "FDB_TLS_PASSWORD" => "secret"
      }

      assert TLS.check([], env) == {:ok, []}
      assert {:error, message} = TLS.check([], %{env | "FDB_TLS_PASSWORD" => "x"})
      assert message =~ "FDB_TLS_KEY_FILE, #{dir}/sealed.key, can't be decrypted"
      # An option takes precedence.
      assert TLS.check(options(dir, key: "client.key"), %{env | "FDB_TLS_PASSWORD" => "x"}) ==
               {:ok, []}
    end

    test "log a warning if the certificate has expired", %{dir: dir} do
      assert {:ok, [warning]} = TLS.check(options(dir, cert: "old.pem", key: "old.key"), %{})
      assert warning =~ "the certificate of tls_cert_path, #{dir}/old.pem, has expired"
    end
  end

  describe "the error names" do
    for {what, files, more, message} <- [
          {"a missing certificate", [cert: "none.pem", key: "client.key"], [],
           ~r"tls_cert_path: can't read the certificate .*/none.pem: no such file"},
          {"a missing key", [cert: "client.pem", key: "none.key"], [],
           ~r"tls_key_path: can't read the private key .*/none.key: no such file"},
          {"a missing CA", [ca: "none.pem"], [],
           ~r"tls_ca_path: can't read the certificate of a CA .*/none.pem: no such file"},
          {"a directory", [ca: ""], [],
           ~r"tls_ca_path: can't read .*illegal operation on a directory"},
          {"a file that is not a certificate", [cert: "text", key: "client.key"], [],
           ~r"tls_cert_path, .*/text, contains no certificate"},
          {"a damaged certificate", [cert: "damaged.pem", key: "client.key"], [],
           ~r"tls_cert_path, .*, contains a damaged certificate"},
          {"a file that is not a CA", [ca: "client.key"], [],
           ~r"tls_ca_path, .*, contains no certificate"},
          {"a file that is not a key", [cert: "client.pem", key: "client.pem"], [],
           ~r"tls_key_path, .*, contains no private key"},
          {"a damaged key", [cert: "client.pem", key: "damaged.key"], [],
           ~r"tls_key_path, .*, contains a damaged private key"},
          {"a key without its password", [cert: "client.pem", key: "sealed.key"], [],
           ~r"tls_key_path, .*, is encrypted, but no password is given. Set tls_password"},
          {"a key of the older kind without its password",
           [cert: "client.pem", key: "sealed_old.key"], [],
           ~r"is encrypted, but no password is given"},
          {"a differently encrypted key without its password",
           [cert: "client.pem", key: "scrypt.key"], [],
           ~r"is encrypted, but no password is given"},
          {"a wrong password", [cert: "client.pem", key: "sealed.key"], [tls_password: "wrong"],
           ~r"tls_key_path, .*, can't be decrypted: tls_password is wrong"},
          {"a wrong password for a key of the older kind",
           [cert: "client.pem", key: "sealed_old.key"], [tls_password: "wrong"],
           ~r"can't be decrypted: tls_password is wrong"},
          {"a different certificate's key", [cert: "client.pem", key: "other.key"], [],
           ~r"the key of tls_key_path, .* doesn.t match the certificate of tls_cert_path"},
          {"a different certificate's key of a different kind",
           [cert: "client.pem", key: "ec.key"], [], ~r"doesn.t match the certificate"},
          {"a certificate without key", [cert: "client.pem"], [],
           ~r"tls_cert_path, .* is given without its private key. Set tls_key_path"},
          {"a key without certificate", [key: "client.key"], [],
           ~r"tls_key_path, .* is given without its certificate. Set tls_cert_path"},
          {"invalid rules", [], [tls_verify_peers: "CN"],
           ~r"tls_verify_peers: expected rules such as .*got: \"CN\""},
          {"an unknown rule", [], [tls_verify_peers: "Check.Valid=2"], ~r"tls_verify_peers"},
          {"an unknown field", [], [tls_verify_peers: "S.XY=a"], ~r"tls_verify_peers"}
        ] do
      test what, %{dir: dir} do
        assert {:error, message} = TLS.check(options(dir, unquote(files), unquote(more)), %{})
        assert message =~ unquote(Macro.escape(message))
      end
    end
  end

  test "a Repo with a mistake does not start, and its error names the mistake", %{dir: dir} do
    for {files, more, expected} <- [
          {[cert: "client.pem", key: "none.key"], [], "tls_key_path: can't read the private key"},
          {[cert: "client.pem", key: "sealed.key"], [tls_password: "no"], "tls_password is wrong"}
        ] do
      config = [embedded: true, network_options: options(dir, files, more)]
      assert {:error, message} = OtherVM.run(config)
      assert message =~ "in the configuration of Away.Repo: tls_"
      assert message =~ expected
    end
  end
end
