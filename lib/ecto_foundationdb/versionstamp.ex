defmodule EctoFoundationDB.Versionstamp do
  @moduledoc """
  Ids that the database creates when a transaction commits: unique, and increasing in the order of
  commits.

      @primary_key {:id, EctoFoundationDB.Versionstamp, autogenerate: false}

  Insert such records with `async_insert_all!/3`, and await them after the transaction, when their
  ids are known:

      future = Repo.transactional(tenant, fn -> Repo.async_insert_all!(Event, [%Event{data: "a"}]) end)
      [%Event{id: {:versionstamp, _, _, 0} = id}] = Repo.await(future)
      EctoFoundationDB.Versionstamp.to_integer(id)
      #=> 2345678900000000

  The module is the id's type in a schema, with Ecto or without.

  ## Partitions

  With `partition_by:`, records with the same value of another field lie together, so that a range of one user's
  events is one range of keys:

      @primary_key {:id, EctoFoundationDB.Versionstamp, partition_by: :user_id, autogenerate: false}

  Such a record's key is the pair of both, in queries too:

      from(e in Event, where: e.id == ^{"alice", id})
      from(e in Event, where: e.id > ^{"alice", seen} and e.id <= ^{"alice", Versionstamp.max()})

  `update/2` and `delete/2` don't know the partition; use `update_all` and `delete_all` with the pair. The field's
  value can't be changed. (A schema without Ecto has the type `{EctoFoundationDB.Versionstamp, partition_by: :user_id}`.)
  """

  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.{Future, Transaction}

  @type t :: {:versionstamp, non_neg_integer(), 0..0xFFFF, 0..0xFFFF}

  import Bitwise, only: [<<<: 2]

  @id 0xFFFFFFFFFFFFFFFF
  @batch 0xFFFF

  @doc """
  An id that the commit completes; `user` distinguishes the ids of one transaction.

      iex> EctoFoundationDB.Versionstamp.incomplete(3)
      {:versionstamp, 0xFFFFFFFFFFFFFFFF, 0xFFFF, 3}
  """
  @spec incomplete(0..0xFFFF) :: t()
  def incomplete(user), do: {:versionstamp, @id, @batch, user}

  @doc """
  The lowest id, to begin a range with.

      iex> EctoFoundationDB.Versionstamp.min()
      {:versionstamp, 0, 0, 0}
  """
  @spec min() :: t()
  def min, do: {:versionstamp, 0, 0, 0}

  @doc """
  The highest id, to end a range with.

      iex> EctoFoundationDB.Versionstamp.max()
      {:versionstamp, 0xFFFFFFFFFFFFFFFF, 0xFFFF, 0xFFFF}
  """
  @spec max() :: t()
  def max, do: {:versionstamp, @id, @batch, @batch}

  @doc """
  Whether the commit has yet to complete this id.

      iex> EctoFoundationDB.Versionstamp.incomplete?(EctoFoundationDB.Versionstamp.incomplete(0))
      true
  """
  @spec incomplete?(term()) :: boolean()
  def incomplete?({:versionstamp, @id, @batch, @batch}), do: false
  def incomplete?({:versionstamp, @id, @batch, _}), do: true
  def incomplete?(_other), do: false

  @doc """
  An incomplete id for the only record of a transaction that has not begun; inside one, use `next/1`.

      iex> EctoFoundationDB.Versionstamp.next()
      EctoFoundationDB.Versionstamp.incomplete(0)
  """
  @spec next() :: t()
  def next do
    if Transaction.in?() do
      raise Unsupported,
            "inside a transaction you must use `EctoFoundationDB.Versionstamp.next/1`, with the argument that transactional/2 " <>
              "passes to a function of one argument: it distinguishes the ids of one transaction"
    end

    incomplete(0)
  end

  @doc """
  The next incomplete id of the transaction. Takes the argument that `transactional/3` passes to functions.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> Repo.transactional(tenant, fn tx -> [Versionstamp.next(tx), Versionstamp.next(tx)] end)
      [Versionstamp.incomplete(0), Versionstamp.incomplete(1)]
  """
  @spec next(term()) :: t()
  def next(_transaction), do: incomplete(Transaction.next_user_version())

  @doc """
  A future of the current transaction's versionstamp, to be awaited after the transaction; complete
  ids with `resolve/2`.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> {id, future} =
      ...>   Repo.transactional(tenant, fn tx ->
      ...>     Repo.insert!(%User{id: "u3"})
      ...>     {Versionstamp.next(tx), Versionstamp.get(tx)}
      ...>   end)
      iex> id = Versionstamp.resolve(id, Repo.await(future))
      iex> Versionstamp.incomplete?(id)
      false
  """
  @spec get() :: Future.t()
  def get, do: Transaction.versionstamp()

  @doc "As `get/0`; takes the argument that `transactional/3` passes to functions."
  @spec get(term()) :: Future.t()
  def get(_transaction), do: get()

  @doc """
  Completes an id with the versionstamp of its transaction.

      iex> EctoFoundationDB.Versionstamp.resolve(Versionstamp.incomplete(3), {:versionstamp, 1, 2})
      {:versionstamp, 1, 2, 3}
  """
  @spec resolve(t(), {:versionstamp, non_neg_integer(), non_neg_integer()}) :: t()
  def resolve({:versionstamp, @id, @batch, user}, {:versionstamp, id, batch}),
    do: {:versionstamp, id, batch, user}

  @doc """
  The id as an integer of 96 bits, in the same order.

      iex> EctoFoundationDB.Versionstamp.to_integer({:versionstamp, 1, 2, 3})
      4295098371
  """
  @spec to_integer(t()) :: non_neg_integer()
  def to_integer({:versionstamp, @id, @batch, user}) when user != @batch do
    raise Unsupported,
          "Versionstamps must be completed before they are useful, so we disallow converting an incomplete " <>
            "versionstamp to an integer: the commit completes it. Await the future " <>
            "of async_insert_all! after the transaction, and take the ids from there"
  end

  def to_integer({:versionstamp, id, batch, user}) do
    <<integer::96>> = <<id::64, batch::16, user::16>>
    integer
  end

  @doc """
  The id of an integer; the inverse of `to_integer/1`.

      iex> EctoFoundationDB.Versionstamp.from_integer(4295098371)
      {:versionstamp, 1, 2, 3}
  """
  @spec from_integer(non_neg_integer()) :: t()
  def from_integer(integer) when is_integer(integer) and integer >= 0 and integer < 1 <<< 96 do
    <<id::64, batch::16, user::16>> = <<integer::96>>
    {:versionstamp, id, batch, user}
  end

  def from_integer(other) do
    raise ArgumentError, "expected an integer of at most 96 bits, got: #{inspect(other)}"
  end

  @doc false
  def from_binary(<<id::64, batch::16>>), do: {:versionstamp, id, batch}

  @doc false
  # Whether this is the type of a field, with Ecto 3.10 and later or without Ecto.
  def type?(type), do: params(type) != nil

  @doc false
  # The field that a type's option names.
  def partition_by(type), do: with(%{partition_by: field} <- params(type), do: field)

  defp params(__MODULE__), do: init([])
  defp params({__MODULE__, opts}) when is_list(opts), do: init(opts)
  defp params({:parameterized, {__MODULE__, params}}), do: params
  defp params({:parameterized, __MODULE__, params}), do: params
  defp params(_other), do: nil

  # The functions of an `Ecto.ParameterizedType`. Without `use`, which would need Ecto to compile.

  @doc false
  def init(opts), do: %{partition_by: Keyword.get(opts, :partition_by)}

  @doc false
  def type(_params), do: :id

  @doc false
  def cast(nil, _params), do: {:ok, nil}

  def cast(id, _params) when is_integer(id),
    do: if(id >= 0 and id < 1 <<< 96, do: {:ok, from_integer(id)}, else: :error)

  def cast({:versionstamp, _, _, _} = id, _params), do: {:ok, id}

  def cast(id, params) when is_binary(id) do
    case Integer.parse(id) do
      {integer, ""} -> cast(integer, params)
      _ -> :error
    end
  end

  def cast({_partition, {:versionstamp, _, _, _}} = id, %{partition_by: field}) when field != nil,
    do: {:ok, id}

  def cast(_other, _params), do: :error

  @doc false
  def dump(nil, _dumper, _params), do: {:ok, nil}
  def dump({:versionstamp, _, _, _} = id, _dumper, _params), do: {:ok, id}

  def dump({_, {:versionstamp, _, _, _}} = id, _dumper, %{partition_by: f}) when f != nil,
    do: {:ok, id}

  def dump(_other, _dumper, _params), do: :error

  @doc false
  def load({:versionstamp, _, _, _} = id, _loader, _params), do: {:ok, id}
  def load(nil, _loader, _params), do: {:ok, nil}
  def load(_other, _loader, _params), do: :error

  @doc false
  def equal?(a, b, _params), do: a == b

  @doc false
  def embed_as(_format, _params), do: :self

  @doc false
  def format(_params), do: "#EctoFoundationDB.Versionstamp"
end
