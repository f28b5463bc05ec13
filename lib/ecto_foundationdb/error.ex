defmodule EctoFoundationDB.Error do
  @moduledoc """
  An error of FoundationDB or of its client.

  `code` is FoundationDB's error code
  ([list](https://apple.github.io/foundationdb/api-error-codes.html)), or 0 where the error is not
  the database's: no client library, no cluster file, an option it does not know.

      try do
        MyApp.Repo.get(User, "u1", prefix: tenant)
      rescue
        e in EctoFoundationDB.Error -> Logger.error("code \#{e.code}: \#{e.message}")
      end
  """
  defexception [:code, :message]

  @type t :: %__MODULE__{code: non_neg_integer(), message: String.t()}

  @doc false
  # The NIF's words about a wrong argument become an ArgumentError's.
  def arguments!(fun) do
    fun.()
  rescue
    error ->
      case error do
        %ErlangError{original: message} when is_binary(message) -> raise ArgumentError, message
        _other -> reraise error, __STACKTRACE__
      end
  end

  @impl true
  def exception({:fdb, 0, message}), do: %__MODULE__{code: 0, message: message}

  def exception({:fdb, code, message}),
    do: %__MODULE__{code: code, message: "#{message} (FoundationDB error #{code})"}
end

defmodule EctoFoundationDB.TimeoutError do
  @moduledoc """
  The database did not answer within the timeout: the Repo's `:timeout` option, or the one given to
  the call. The transaction was cancelled; whether a commit that was in flight has happened is not
  known.
  """
  defexception [:timeout, :doing]

  @type t :: %__MODULE__{timeout: timeout(), doing: String.t()}

  @impl true
  def message(%{timeout: timeout, doing: doing}) do
    "the database did not answer within #{timeout} ms while #{doing}. " <>
      "Is the cluster up, and its cluster file right? " <>
      "Slow work needs a longer `timeout:` (in ms) in the Repo's configuration or in the call's options"
  end
end

defmodule EctoFoundationDB.DecodeError do
  @moduledoc """
  A stored value that cannot be read: damaged, torn, holding what a record must not hold (functions,
  processes, ports, references, atoms this system does not know), or not of its field's type.

  `key` is the record's key in the database. Where a value is not of its field's type, `schema`, `field`
  and `id`, the record's primary key as it is stored, say which one; otherwise they are `nil`.
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
  `insert` found a record with the same primary key and other contents.
  """
  defexception [:schema, :id]

  @type t :: %__MODULE__{schema: module(), id: term()}

  @impl true
  def message(%{schema: schema, id: id}) do
    "a #{inspect(schema)} with primary key #{inspect(id)} exists already. " <>
      "Use `on_conflict:` to say what should happen then"
  end
end

defmodule EctoFoundationDB.StaleEntryError do
  @moduledoc """
  `update` or `delete` found no record with this primary key, or not with the values of an optimistic
  lock (`filters`).
  """
  defexception [:schema, :id, :action, filters: []]

  @type t :: %__MODULE__{schema: module(), id: term(), action: atom(), filters: keyword()}

  @impl true
  def message(%{schema: schema, id: id, action: action, filters: filters}) do
    "cannot #{action} the #{inspect(schema)} with primary key #{inspect(id)}: " <>
      if(filters == [],
        do: "there is no such record (it may have been deleted)",
        else: "it was changed meanwhile, it no longer has #{inspect(filters)}. Read it again"
      )
  end
end

defmodule EctoFoundationDB.CastError do
  @moduledoc """
  A query compares a field with a value that is not of the field's type: an id in a URL that is no
  number. In a Phoenix application the answer is 400.
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
  `get!`, `get_by!` or `one!` found nothing. In a Phoenix application the answer is 404.
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
  A call without a tenant, or with another tenant than that of the transaction it is in.
  """
  defexception [:message]

  @type t :: %__MODULE__{message: String.t()}
end

defmodule EctoFoundationDB.Exception.TenantGone do
  @moduledoc """
  The tenant was deleted after it was opened. There may be one of that name again: that is another tenant,
  with other data, and this value of the earlier one does not lead to it. Nothing was read or written.
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
  What this layer cannot do, or not with one get or one range; the message says what would help.
  """
  defexception [:message]

  @type t :: %__MODULE__{message: String.t()}
end
