defmodule EctoFoundationDB.Future do
  @moduledoc """
  A future result. The `async_*` functions of a Repo, `watch/2` and `EctoFoundationDB.Indexer.SchemaMetadata`
  return futures.

  - Await a read (`Repo.await/1`) inside its transaction.
  - Await the ids of `async_insert_all!/3` after it.
  - A watch sends the message `{ref, :ready}`, where `ref` is `ref/1` of the future; pass it to
  `Repo.assign_ready/3`. A process that has nothing else to do may await the watch: the result is `:ready`,
  however long that takes.
  """

  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Transaction

  @enforce_keys [:kind]
  defstruct [:kind, handlers: []]

  @type t :: %__MODULE__{}

  @doc false
  def resolved(value), do: %__MODULE__{kind: {:resolved, value}}

  @doc false
  # Pending reads, and the function that waits for them and makes a result.
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
  Cancels a watch: no message of it will arrive. Other futures don't need to be cancelled.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> watch = Repo.watch(Repo.get!(User, "u1", prefix: tenant))
      iex> Future.cancel(watch)
      :ok
  """
  @spec cancel(t()) :: :ok
  def cancel(%__MODULE__{kind: {:watch, reference, _}}), do: Transaction.cancel_watch(reference)
  def cancel(%__MODULE__{}), do: :ok

  @doc """
  Waits for the result; the module's description says where this is allowed.

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
              "the commit creates the versionstamp: await this future after the transaction, " <>
                "not inside it"

      2 ->
        raise Unsupported, "the transaction wrote nothing, so it has no versionstamp"
    end
  end

  defp wait({:watch, reference, _describe}) do
    receive do
      {^reference, :ready} -> :ready
      {^reference, {:error, error}} -> raise EctoFoundationDB.Error, error
    end
  end
end
