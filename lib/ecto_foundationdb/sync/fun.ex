defmodule EctoFoundationDB.Sync.Fun do
  @moduledoc """
  The result of a function: `label` is assigned it, and again whenever it becomes another one because something
  that the function has read has changed.

      iex> tenant = Tenant.open!(Repo, "docs")
      iex> state = %{assigns: %{}, private: %{tenant: tenant}}
      iex> count = %Sync.Fun{label: :count, fun: fn -> Repo.aggregate(User, :count) end}
      iex> Sync.sync(state, Repo, [count]).assigns
      %{count: 2}

  See `EctoFoundationDB.Sync.sync_fun/5` for the fields.
  """

  alias EctoFoundationDB.{LiveQuery, Native}

  @max_reads 10_000

  @enforce_keys [:label, :fun]
  defstruct [
    :label,
    :fun,
    :key,
    # What `fun` was made, once it is known for which tenant. The page keeps no function.
    :function,
    # What is assigned when it is cancelled, and the error for a `nil` when it is first synced, or nil.
    :empty,
    :missing,
    every: 0,
    max_reads: @max_reads
  ]

  @type t :: %__MODULE__{
          label: term(),
          fun: (() -> term()) | {module(), atom(), [term()]},
          key: term(),
          every: non_neg_integer(),
          max_reads: pos_integer(),
          function: Native.live_query() | nil,
          empty: term(),
          missing: Exception.t() | nil
        }

  @doc "Raises unless this is a function to sync."
  @spec check!(t()) :: :ok
  def check!(%__MODULE__{fun: fun, every: every, max_reads: max_reads}) do
    unless fun?(fun) do
      raise ArgumentError,
            "expected a function of no arguments, or {module, function, arguments} of one that is exported, " <>
              "got: #{inspect(fun)}"
    end

    unless is_integer(every) and every >= 0,
      do: raise(ArgumentError, "expected :every to be milliseconds, got: #{inspect(every)}")

    unless is_integer(max_reads) and max_reads > 0,
      do:
        raise(
          ArgumentError,
          "expected :max_reads to be a positive integer, got: #{inspect(max_reads)}"
        )

    :ok
  end

  defp fun?({module, function, arguments})
       when is_atom(module) and is_atom(function) and is_list(arguments),
       do: Code.ensure_loaded?(module) and function_exported?(module, function, length(arguments))

  defp fun?(fun), do: is_function(fun, 0)

  @doc false
  def prepare(
        %__MODULE__{fun: fun, key: key, every: every, max_reads: max_reads} = request,
        tenant
      ) do
    key = if key != nil, do: {:key, key}
    function = LiveQuery.function(tenant, fun, key, every: every, max_reads: max_reads)
    %{request | fun: nil, key: nil, function: function}
  end

  @doc false
  def live_queries(%__MODULE__{function: function}, tenant),
    do: {LiveQuery.basis(tenant), [function]}

  @doc false
  def known_live_queries(request, tenant), do: live_queries(request, tenant)

  @doc false
  def decoder(_request, _tenant), do: nil

  @doc false
  def value(_request, {{{:value, value}, _stale}}, _news, _before), do: value
  # Of a tenant that is gone.
  def value(request, {{[], _stale}}, _news, _before), do: request.empty

  @doc false
  def empty(request), do: request.empty
end
