defmodule EctoFoundationDB.Future do
  @moduledoc """
  A result that is still to come: what the `async_*` functions of a Repo, `watch/2` and
  `EctoFoundationDB.Indexer.SchemaMetadata` give.

  - A read is awaited (`Repo.await/1`) inside its transaction.
  - The ids of `async_insert_all!/3` are awaited after it.
  - A watch tells by itself: `{ref, :ready}` comes as a message, where `ref` is `ref/1` of the future,
    and `Repo.assign_ready/3` takes it from there. A process that has nothing else to do may await it: the
    result is `:ready`, however long that takes.
  """

  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Transaction

  @enforce_keys [:kind]
  defstruct [:kind, handlers: []]

  @opaque t :: %__MODULE__{}

  @doc false
  def resolved(value), do: %__MODULE__{kind: {:resolved, value}}

  @doc false
  # Reads under way, and the function that waits for them and makes a result.
  def read(collect) when is_function(collect, 0), do: %__MODULE__{kind: {:read, collect}}

  @doc false
  def watch(reference, describe), do: %__MODULE__{kind: {:watch, reference, describe}}

  @doc false
  def apply(%__MODULE__{handlers: handlers} = future, handler),
    do: %{future | handlers: handlers ++ [handler]}

  @doc """
  The reference in a watch's `{ref, :ready}` message; `nil` for other futures.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> user = Repo.get!(User, "u1", prefix: tenant)
      iex> ref = Future.ref(Repo.watch(user))
      iex> Repo.update!(user, name: "Ann")
      iex> receive do {^ref, :ready} -> :changed end
      :changed
  """
  @spec ref(t()) :: reference() | nil
  def ref(%__MODULE__{kind: {:watch, reference, _}}), do: reference
  def ref(%__MODULE__{}), do: nil

  @doc """
  Ends a watch: no message of it comes any more. Other futures need no end.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> watch = Repo.watch(Repo.get!(User, "u1", prefix: tenant))
      iex> Future.cancel(watch)
      :ok
  """
  @spec cancel(t()) :: :ok
  def cancel(%__MODULE__{kind: {:watch, reference, _}}), do: Transaction.cancel_watch(reference)
  def cancel(%__MODULE__{}), do: :ok

  @doc """
  Waits for the result; see the module's description for where this may be done.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> Repo.transactional(tenant, fn -> Future.result(Repo.async_get(User, "u1")) end).name
      "Ada"
  """
  @spec result(t()) :: term()
  def result(%__MODULE__{kind: kind, handlers: handlers}),
    do: Enum.reduce(handlers, wait(kind), fn handler, value -> handler.(value) end)

  defp wait({:resolved, value}), do: value
  defp wait({:read, collect}), do: collect.()

  defp wait({:versionstamp, stamp}) do
    case :atomics.get(stamp, 3) do
      1 ->
        {:versionstamp, :atomics.get(stamp, 1), :atomics.get(stamp, 2)}

      0 ->
        raise Unsupported,
              "a versionstamp is made by the commit: await this future after the transaction, " <>
                "not inside it"

      2 ->
        raise Unsupported, "the transaction wrote nothing, and so has no versionstamp"
    end
  end

  defp wait({:watch, reference, _describe}) do
    receive do
      {^reference, :ready} -> :ready
      {^reference, {:error, error}} -> raise EctoFoundationDB.Error, error
    end
  end
end
