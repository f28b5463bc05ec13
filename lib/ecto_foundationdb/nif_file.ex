defmodule EctoFoundationDB.NifFile do
  @moduledoc false
  # The file of the NIF's library, checked before the VM loads it. The library contains
  # `<ecto_fdb_sync NIF version>` (native/ecto_fdb/src/lib.rs), so nothing in it has to run, and a library
  # for a different machine can be checked, too.

  # Makes Mix compile this package again when the setting changes: the compiler that installs the library
  # reads it (Mix.Tasks.Compile.EctoFdbNif).
  Application.compile_env(:ecto_fdb_sync, :nif)

  @version Mix.Project.config()[:version]

  @doc "The version of this package, which its library must have."
  @spec version() :: String.t()
  def version, do: @version

  @doc "Whether the file is the NIF of this version; if not, what it is instead."
  @spec check(Path.t(), String.t()) :: :ok | {:error, String.t()}
  def check(path, version \\ @version) do
    with {:ok, contents} <- read(path) do
      case Regex.run(~r/<ecto_fdb_sync NIF ([0-9A-Za-z.+-]+)>/, contents) do
        [_all, ^version] ->
          :ok

        [_all, other] ->
          {:error,
           "#{path} is the NIF of ecto_fdb_sync #{other}, but this is ecto_fdb_sync #{version}"}

        nil ->
          {:error, "#{path} is not a NIF of ecto_fdb_sync, or of a version before 0.1.0"}
      end
    end
  end

  defp read(path) do
    with {:error, reason} <- File.read(path) do
      {:error, "#{path} can't be read: #{:file.format_error(reason)}"}
    end
  end
end
