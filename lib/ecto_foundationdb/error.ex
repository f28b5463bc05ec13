defmodule EctoFoundationDB.Error do
  @moduledoc """
  An error of FoundationDB or of its client.

  `code` is FoundationDB's error code
  ([list](https://apple.github.io/foundationdb/api-error-codes.html)), or 0 if the error is not the
  database's: a missing client library, a missing cluster file, an unknown option.

      try do
        MyApp.Repo.get(User, "u1", prefix: tenant)
      rescue
        e in EctoFoundationDB.Error -> Logger.error("code \#{e.code}: \#{e.message}")
      end
  """
  defexception [:code, :message]

  @type t :: %__MODULE__{code: non_neg_integer(), message: String.t()}

  @doc false
  # The NIF's message about a wrong argument becomes an ArgumentError's.
  def arguments!(fun) do
    fun.()
  rescue
    error ->
      case error do
        %ErlangError{original: message} when is_binary(message) ->
          reraise ArgumentError, message, __STACKTRACE__

        _other ->
          reraise error, __STACKTRACE__
      end
  end

  @doc false
  # The code and the text of an error from the NIF. The code is 0 if the error is not FoundationDB's.
  def reason({:fdb, code, _message} = error), do: {code, Exception.message(exception(error))}
  def reason({:raised, _raised, message}), do: {0, message}
  def reason({:tenant_gone, tenant}), do: {0, "the tenant #{inspect(tenant)} is gone"}

  @impl true
  def exception({:fdb, 0, message}), do: %__MODULE__{code: 0, message: message}

  def exception({:fdb, code, message}),
    do: %__MODULE__{code: code, message: "#{message} (FoundationDB error #{code})"}
end

defmodule EctoFoundationDB.TimeoutError do
  @moduledoc """
  A call took longer than its timeout, given by the Repo's option `:timeout` or by the call's. It bounds
  the whole call, with all attempts of its transaction and the waits between them. The transaction was
  cancelled; a commit that was in flight may or may not have happened.

  `last_error` is the error after which the transaction was last retried, an `EctoFoundationDB.Error`, or
  `nil` if the database did not answer at all. `attempts` is how often it was tried. `doing` names what it
  was waiting for.
  """
  defexception [:timeout, :doing, :last_error, :tls, attempts: 1]

  @type t :: %__MODULE__{
          timeout: timeout(),
          doing: String.t(),
          last_error: EctoFoundationDB.Error.t() | nil,
          attempts: pos_integer(),
          tls: String.t() | nil
        }

  @impl true
  # With the `database:`, the message also says what to check if TLS is used.
  def exception(opts) do
    {database, opts} = Keyword.pop(opts, :database)
    struct!(__MODULE__, [tls: database && EctoFoundationDB.TLS.advice(database)] ++ opts)
  end

  @impl true
  def message(%{last_error: nil} = error) do
    "the database did not answer within #{error.timeout} ms while #{error.doing}. " <>
      "Check that the cluster is running, and that the cluster file names it. " <>
      if(error.tls, do: "#{error.tls}. ", else: "") <>
      "Slow work needs a longer `timeout:` (in ms) in the Repo's configuration or in the call's options"
  end

  def message(%{last_error: %{code: code} = last_error} = error) do
    "the transaction did not succeed within #{error.timeout} ms, in #{error.attempts} attempts. It was retried " <>
      "after the error \"#{last_error.message}\", and the timeout expired while #{error.doing}. " <>
      advice(code)
  end

  defp advice(1038) do
    "An operator, a restore or a switch to another cluster has locked the database: see `fdbcli --exec status`. " <>
      "Calls work again when the lock is released, or after fdbcli's `unlock`"
  end

  defp advice(1020) do
    "Other transactions keep changing what it reads: read less in it, or write the same records from fewer processes"
  end

  defp advice(1007) do
    "It takes longer than FoundationDB's 5 seconds, or the cluster is too slow: do less in one transaction"
  end

  defp advice(code) when code in [1021, 1039] do
    "The cluster is recovering, or the connection to it breaks; the transaction may or may not have been committed. " <>
      "See `fdbcli --exec status`"
  end

  defp advice(code) when code in [1051, 1078, 1213, 1223] do
    "The cluster is overloaded, or slows down this transaction's tag: see " <>
      "`fdbcli --exec status` and `fdbcli --exec 'throttle list'`"
  end

  defp advice(code) when code in [1009, 1037] do
    "A storage server lags behind: see `fdbcli --exec status`"
  end

  defp advice(_code),
    do: "See `fdbcli --exec status`; slow work needs a longer `timeout:` (in ms)"
end

defmodule EctoFoundationDB.DecodeError do
  @moduledoc """
  A stored value cannot be read: it is damaged, torn, contains terms that a record must not contain
  (functions, processes, ports, references, unknown atoms), or is not of its field's type.

  `key` is the record's key in the database. If a value is not of its field's type, `schema`, `field`
  and `id`, the record's stored primary key, identify it; otherwise they are `nil`.
  """
  defexception [:key, :reason, :schema, :field, :id]

  @type t :: %__MODULE__{
          key: binary() | nil,
          reason: String.t(),
          schema: module() | nil,
          field: atom() | nil,
          id: term()
        }

  @impl true
  def message(%{key: key, reason: reason}) do
    "the value stored under #{inspect(key, binaries: :as_strings, limit: :infinity)} " <>
      "cannot be decoded: #{reason}"
  end
end

defmodule EctoFoundationDB.ConflictError do
  @moduledoc """
  `insert` found a record with the same primary key and different contents.
  """
  defexception [:schema, :id]

  @type t :: %__MODULE__{schema: module(), id: term()}

  @impl true
  def message(%{schema: schema, id: id}) do
    "a #{inspect(schema)} with primary key #{inspect(id)} exists already. " <>
      "Use `on_conflict:` to say what to do in that case"
  end
end

defmodule EctoFoundationDB.StaleEntryError do
  @moduledoc """
  `update` or `delete` found no record with this primary key, or its values differ from those of an optimistic
  lock (`filters`).
  """
  defexception [:schema, :id, :action, filters: []]

  @type t :: %__MODULE__{schema: module(), id: term(), action: atom(), filters: keyword()}

  @impl true
  def message(%{schema: schema, id: id, action: action, filters: filters}) do
    "cannot #{action} the #{inspect(schema)} with primary key #{inspect(id)}: " <>
      if(filters == [],
        do: "there is no such record (it may have been deleted)",
        else: "it has been changed and no longer has #{inspect(filters)}. Read it again"
      )
  end
end

defmodule EctoFoundationDB.CastError do
  @moduledoc """
  A query compares a field with a value that is not of the field's type, such as an id in a URL that is not
  a number. A Phoenix application responds with status 400.
  """
  defexception [:schema, :field, :value, :type, plug_status: 400]

  @type t :: %__MODULE__{schema: module(), field: atom(), value: term(), plug_status: 400}

  @impl true
  def message(%{schema: schema, field: field, value: value, type: type}) do
    "the value #{inspect(value)} cannot be cast to the type #{type} of #{inspect(schema)}.#{field}"
  end
end

defmodule EctoFoundationDB.NoResultsError do
  @moduledoc """
  `get!`, `get_by!` or `one!` found nothing. A Phoenix application responds with status 404.
  """
  defexception [:message, plug_status: 404]

  @type t :: %__MODULE__{message: String.t(), plug_status: 404}
end

defmodule EctoFoundationDB.MultipleResultsError do
  @moduledoc "`get_by` or `one` found more than one record."
  defexception [:message]

  @type t :: %__MODULE__{message: String.t()}
end

defmodule EctoFoundationDB.Exception.IncorrectTenancy do
  @moduledoc """
  A call without a tenant, or with a tenant other than that of the surrounding transaction.
  """
  defexception [:message]

  @type t :: %__MODULE__{message: String.t()}
end

defmodule EctoFoundationDB.Exception.TenantGone do
  @moduledoc """
  The tenant was deleted after it was opened. If a tenant of that name exists again, it is a different one, with
  other data, and this value does not refer to it. Nothing was read or written.
  """
  defexception [:tenant]

  @type t :: %__MODULE__{tenant: EctoFoundationDB.Tenant.t()}

  @impl true
  def message(%{tenant: %{id: id, repo: repo}}) do
    "the tenant #{inspect(id)} of #{inspect(repo)} was deleted, or deleted and created again, after it " <>
      "was opened. Open it again: Tenant.open!(#{inspect(repo)}, #{inspect(id)})"
  end
end

defmodule EctoFoundationDB.Exception.Unsupported do
  @moduledoc """
  The layer does not support an operation, or can't do it with one get or one range. The message says what
  would help.
  """
  defexception [:message]

  @type t :: %__MODULE__{message: String.t()}
end
