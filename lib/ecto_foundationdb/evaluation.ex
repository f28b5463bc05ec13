defmodule EctoFoundationDB.Evaluation do
  @moduledoc false
  # One evaluation of a live function, in a process of its own. It reads at the version that the NIF gives, and
  # hands over the result with all that this depends on.

  alias EctoFoundationDB.{Connection, Error, LiveQuery, Native, Telemetry, Tenant, Transaction}
  alias EctoFoundationDB.Exception.TenantGone

  @typedoc "A function without arguments, or `{module, function, arguments}`: then its newest code runs."
  @type fun_or_mfa :: (() -> term()) | {module(), atom(), [term()]}

  @doc "What an evaluation makes a function of."
  @spec encode(Tenant.t(), fun_or_mfa(), pos_integer()) :: binary()
  def encode(tenant, function, max_reads),
    do: :erlang.term_to_binary({%{tenant | options: []}, function, max_reads})

  @doc "The function of a code."
  @spec function(binary()) :: fun_or_mfa()
  def function(code) do
    {_tenant, function, _max_reads} = :erlang.binary_to_term(code)
    function
  end

  @doc """
  Evaluates a function, and answers the NIF's request, which is given, or waited for if it is nil. Tells the
  evaluator that it begins.
  """
  @spec start(pid(), Native.database(), timeout(), tuple() | nil) :: :ok
  def start(evaluator, database, limit, nil) do
    :ok = Native.evaluator_idle(database)

    receive do
      {:evaluate, _, _, _, _} = job -> run(evaluator, database, limit, job, true)
    end
  end

  def start(evaluator, database, limit, job), do: run(evaluator, database, limit, job, false)

  defp run(
         evaluator,
         database,
         limit,
         {:evaluate, evaluation, code, read_version, woken},
         waited?
       ) do
    send(evaluator, {:begun, self(), evaluation, waited?})
    began = System.monotonic_time()
    {tenant, function, max_reads} = :erlang.binary_to_term(code)
    use_instance(tenant.repo)
    opts = [timeout: limit, max_reads: max_reads]
    {outcome, read} = Transaction.evaluate(tenant, read_version, opts, fn -> call(function) end)
    basis = LiveQuery.basis(tenant, read.sources, read.version)
    answer = answer(outcome, tenant)
    :ok = Native.evaluated(database, evaluation, answer, read.keys, basis)
    if Telemetry.on?(), do: report(tenant, function, outcome, read, began, woken)
    :ok
  end

  # An Ecto repository may be started several times: this is the one whose page is waiting.
  defp use_instance(instance) do
    %{repo: module} = Connection.fetch!(instance)

    if module != instance and function_exported?(module, :put_dynamic_repo, 1),
      do: module.put_dynamic_repo(instance)
  end

  defp call({module, function, arguments}), do: apply(module, function, arguments)
  defp call(function), do: function.()

  defp answer({:ok, value}, _tenant), do: {:ok, value, :erts_debug.flat_size(value) * 8}

  defp answer({:error, %TenantGone{tenant: %{prefix: prefix}}, _}, %{prefix: prefix} = tenant),
    do: {:tenant_gone, tenant.id, nil}

  defp answer({kind, reason, stack}, _tenant) do
    code = with %Error{code: code} <- reason, do: code, else: (_ -> 0)
    raised(kind, reason, stack, code)
  end

  defp raised(kind, reason, stack, code \\ 0) do
    message = Exception.format_banner(kind, reason, stack)
    {:raised, :erlang.term_to_binary({kind, reason, stack}), {message, code}}
  end

  @doc "What a function raised, as `{kind, reason, stacktrace}`."
  @spec decode(binary()) :: {:error | :exit | :throw, term(), Exception.stacktrace()}
  def decode(raised), do: :erlang.binary_to_term(raised)

  @doc "What a function raised, as an exception."
  @spec exception(binary()) :: Exception.t()
  def exception(raised) do
    case decode(raised) do
      {:error, reason, stack} -> Exception.normalize(:error, reason, stack)
      {kind, reason, _stack} -> ErlangError.exception(original: {kind, reason})
    end
  end

  @doc "Answers for a process that has ended without an answer."
  @spec ended(Native.database(), reference(), term()) :: :ok
  def ended(database, evaluation, reason),
    do: Native.evaluated(database, evaluation, raised(:exit, reason, []), [], nil)

  @doc "Answers for a process that has not answered in time."
  @spec overdue(Native.database(), reference(), pid(), timeout()) :: :ok
  def overdue(database, evaluation, pid, limit) do
    {:current_stacktrace, stack} =
      Process.info(pid, :current_stacktrace) || {:current_stacktrace, []}

    message =
      "this live function has not returned for #{limit} ms, and was ended. It reads at one version of the " <>
        "database, which FoundationDB keeps for five seconds: have it read less, start its reads together " <>
        "(async_get, async_all, await), and leave all that waits for something else out of it"

    answer = raised(:error, Error.exception({:fdb, 0, message}), stack)
    Native.evaluated(database, evaluation, answer, [], nil)
  end

  defp report(tenant, function, outcome, read, began, woken) do
    {result, error} =
      case outcome do
        {:ok, _value} -> {:ok, nil}
        {kind, reason, stack} -> {:error, Exception.format_banner(kind, reason, stack)}
      end

    Telemetry.execute(tenant.repo, [:evaluation],
      duration: System.monotonic_time() - began,
      dependencies: length(read.keys),
      tenant: tenant.id,
      function: function,
      woken_by: woken && woken_by(woken),
      result: result,
      error: error
    )
  end

  # The source of the record, or of the list, whose change has led to this.
  defp woken_by(key), do: key |> Native.unpack() |> elem(2)
end
