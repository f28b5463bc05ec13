defmodule EctoFoundationDB.Sync.Async do
  @moduledoc false
  # Labels that are synced with `async: true`: the process does not wait for their first results, which come as
  # a message. LiveView's AsyncResult is called by name: this library compiles and runs without Phoenix.

  alias EctoFoundationDB.Native
  alias EctoFoundationDB.Sync
  alias EctoFoundationDB.Sync.Subscription

  @enforce_keys [:ref, :request, :assign, :loading, :prefix, :timeout]
  defstruct @enforce_keys ++ [:timer, :subscription, :synced, :basis, planned_again?: false]

  @typedoc """
  A label that has no first results yet. Answers to it bear `ref`; `loading` is what it is assigned meanwhile;
  `timer` ends the `timeout`; `subscription`, `synced` and `basis` are there once it is known what to read.
  """
  @type t :: %__MODULE__{
          ref: reference(),
          request: Sync.request(),
          assign: fun() | nil,
          loading: struct(),
          prefix: term(),
          timeout: timeout(),
          timer: reference() | nil,
          subscription: Native.subscription() | nil,
          synced: map() | nil,
          basis: Native.basis() | nil,
          planned_again?: boolean()
        }

  @result Phoenix.LiveView.AsyncResult

  @doc "Raises where there is no LiveView."
  @spec check!() :: :ok
  def check! do
    unless Code.ensure_loaded?(@result) do
      raise ArgumentError,
            "async: true assigns a Phoenix.LiveView.AsyncResult, and LiveView is not there. Add " <>
              "{:phoenix_live_view, \"~> 1.0\"} (0.20 or later) to the dependencies, or sync without async:"
    end

    :ok
  end

  @doc "What is assigned while the results that follow these are awaited."
  @spec loading(term()) :: struct()
  def loading(%{__struct__: @result} = before), do: apply(@result, :loading, [before])
  def loading(_before), do: apply(@result, :loading, [])

  @spec ok(term()) :: struct()
  def ok(value), do: apply(@result, :ok, [value])

  @spec failed(t(), Exception.t()) :: struct()
  def failed(%__MODULE__{loading: loading}, error), do: apply(@result, :failed, [loading, error])

  @doc "A label whose results are awaited from now on: `{ref, :timeout}` comes when it has taken too long."
  @spec begin(Sync.request(), fun() | nil, struct(), term(), timeout()) :: t()
  def begin(request, assign, loading, prefix, timeout) do
    # Nothing that is sent to an alias arrives once the process has given it up.
    ref = :erlang.alias()

    %__MODULE__{
      ref: ref,
      request: request,
      assign: assign,
      loading: loading,
      prefix: prefix,
      timeout: timeout,
      timer: timeout != :infinity && Process.send_after(self(), {ref, :timeout}, timeout)
    }
  end

  @doc "Has `fun` run in a process of its own. What it gives, or `{:failed, exception}`, comes as the answer."
  @spec run(t(), (() -> term())) :: :ok
  def run(%__MODULE__{ref: ref}, fun) do
    spawn(fn -> send(ref, {ref, answer(fun)}) end)
    :ok
  end

  defp answer(fun) do
    fun.()
  rescue
    error -> {:failed, error}
  catch
    kind, reason -> {:failed, ErlangError.exception(original: {kind, reason})}
  end

  @doc "Nothing is awaited any more, but for what the subscription brings. No answer is in the mailbox."
  @spec over(t()) :: :ok
  def over(%__MODULE__{ref: ref, timer: timer}) do
    if timer, do: Process.cancel_timer(timer)
    :erlang.unalias(ref)
    flush(ref)
  end

  @doc "Ends it, subscription included."
  @spec stop(t()) :: :ok
  def stop(%__MODULE__{subscription: subscription} = pending) do
    if subscription, do: Subscription.cancel(subscription)
    over(pending)
  end

  defp flush(ref) do
    receive do
      {^ref, _answer} -> flush(ref)
    after
      0 -> :ok
    end
  end

  @doc "The answers among messages, each with what it is for."
  @spec answers(term(), %{reference() => t()}) :: [{t(), term()}]
  def answers(_info, pending) when pending == %{}, do: []

  def answers({ref, answer}, pending) when is_reference(ref) do
    case pending do
      %{^ref => found} -> [{found, answer}]
      _other -> []
    end
  end

  # A message may be anything, an improper list too.
  def answers([info | infos], pending), do: answers(info, pending) ++ answers(infos, pending)
  def answers(_info, _pending), do: []
end
