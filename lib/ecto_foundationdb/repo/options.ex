defmodule EctoFoundationDB.Repo.Options do
  @moduledoc false
  # The options of a Repo's functions.

  alias EctoFoundationDB.{Connection, Schema, Tenant, Transaction}
  alias EctoFoundationDB.Exception.{IncorrectTenancy, TenantGone}

  @common [:prefix | Transaction.options()]

  @doc "The options with the Repo's defaults, or an error that names the known ones."
  def validate!(opts, known) do
    known = @common ++ known

    unless Keyword.keyword?(opts) do
      raise ArgumentError, "expected a keyword list of options, got: #{inspect(opts)}"
    end

    case Keyword.keys(opts) -- known do
      [] ->
        opts

      unknown ->
        raise ArgumentError, "unknown options #{inspect(unknown)}, known are: #{inspect(known)}"
    end
  end

  @doc "The value of a positive integer option."
  @spec positive!(atom(), term()) :: pos_integer()
  def positive!(_name, value) when is_integer(value) and value > 0, do: value

  def positive!(name, value),
    do: raise(ArgumentError, "#{name}: expected a positive integer, got: #{inspect(value)}")

  @doc """
  The tenant of a call: from its option, its struct, its transaction, or the Repo's only one. A Repo here means its
  instance (`Connection.instance/1`).
  """
  def tenant!(repo, opts, struct \\ nil) do
    case opts[:prefix] || Schema.tenant(struct) || Transaction.tenant() || single(repo) do
      %Tenant{repo: ^repo} = tenant ->
        tenant

      %Tenant{repo: other, id: id} ->
        raise IncorrectTenancy,
              "tenant #{inspect(id)} was opened with #{inspect(other)}, but is used with #{inspect(repo)}"

      nil ->
        raise IncorrectTenancy,
              "no tenant is given: a nil prefix was provided. Pass a tenant, `prefix: tenant` (from " <>
                "Tenant.open!(#{inspect(repo)}, id)), use a struct that was read from one, or call inside " <>
                "Repo.transactional(tenant, fun)" <> (Transaction.in_task() || "")

      other ->
        raise IncorrectTenancy,
              "prefix: expected a tenant (from Tenant.open!(#{inspect(repo)}, id)), got: #{inspect(other)}"
    end
  end

  @doc "The tenant of a Repo with `tenant_id:`, opened when it is first needed; nil for other Repos."
  @spec single(module()) :: Tenant.t() | nil
  def single(repo) do
    with id when is_binary(id) <- Connection.fetch!(repo).config[:tenant_id],
         do: Tenant.open!(repo, id)
  end

  @doc """
  Runs a call of a Repo. If a Repo with `tenant_id:` finds that its tenant was deleted, in which case nothing was
  read or written, it opens the current tenant and runs the call again.
  """
  @spec follow_single(module(), (() -> result)) :: result when result: term()
  def follow_single(repo, fun) do
    fun.()
  rescue
    error in TenantGone ->
      if error.tenant.id == Connection.fetch!(repo).config[:tenant_id] and not Transaction.in?(),
        do: fun.(),
        else: reraise(error, __STACKTRACE__)
  end

  @doc "Raises for arguments that need an Ecto repository: Ecto's schemas, changesets and queries."
  @spec plain!(term()) :: :ok
  def plain!(%{__struct__: struct}) when struct in [Ecto.Changeset, Ecto.Query], do: ecto!(struct)
  def plain!(%schema{}), do: plain!(schema)

  def plain!(schema) when is_atom(schema) do
    # Raises if it is not a schema.
    Schema.source(schema)
    if Schema.ecto?(schema), do: ecto!(schema), else: :ok
  end

  def plain!(other) do
    raise ArgumentError, "expected a struct or a schema, got: #{inspect(other)}"
  end

  defp ecto!(what) do
    raise ArgumentError,
          "#{inspect(what)} belongs to Ecto, but this Repo is a plain one. Make it an Ecto repository: " <>
            "`use Ecto.Repo, otp_app: :my_app, adapter: Ecto.Adapters.FoundationDB`"
  end
end
