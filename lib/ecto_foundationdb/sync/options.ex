defmodule EctoFoundationDB.Sync.Options do
  @moduledoc false
  # The options of Sync's functions.

  @options [:assign, :attach_container_hook, :detach_container_hook, :timeout, :watch_action]
  @sync [:prefix, :async | @options]

  @watch_actions [:inserts, :deletes, :collection, :updates, :changes]

  @doc "Raises unless these are options of a sync; gives them."
  @spec sync!(term()) :: keyword()
  def sync!(opts), do: check!(opts, @sync)

  @doc "Raises unless these are options of what follows a sync; gives them."
  @spec check!(term()) :: keyword()
  def check!(opts), do: check!(opts, @options)

  defp check!([], _known), do: []

  defp check!(opts, known) do
    opts |> keyword!() |> Enum.each(&check_option!(&1, known))
    opts
  end

  @doc "Raises unless these are a keyword list; gives them."
  @spec keyword!(term()) :: keyword()
  def keyword!(opts) do
    unless Keyword.keyword?(opts) do
      raise ArgumentError, "expected options as a keyword list, got: #{inspect(opts)}"
    end

    opts
  end

  defp check_option!({key, value}, known) do
    unless key in known,
      do:
        raise(ArgumentError, "unknown option #{inspect(key)}: expected one of #{inspect(known)}")

    unless value == nil or valid?(key, value) do
      raise ArgumentError,
            "expected #{inspect(key)} to be #{expected(key)}, got: #{inspect(value)}"
    end
  end

  defp valid?(:assign, fun), do: is_function(fun, 2) or is_function(fun, 4)
  defp valid?(:attach_container_hook, fun), do: is_function(fun, 4)
  defp valid?(:detach_container_hook, fun), do: is_function(fun, 4)
  defp valid?(:timeout, ms), do: ms == :infinity or (is_integer(ms) and ms >= 0)
  # Of lists only; one set of options may serve all of an application's calls.
  defp valid?(:watch_action, action), do: action in @watch_actions
  defp valid?(:async, async), do: is_boolean(async)
  # A tenant is judged with the repo that it has to be of.
  defp valid?(:prefix, _tenant), do: true

  defp expected(:assign), do: "a function of 2 or 4 arguments"
  defp expected(:timeout), do: "milliseconds, or :infinity"
  defp expected(:watch_action), do: "one of #{inspect(@watch_actions)}"
  defp expected(:async), do: "true or false"
  defp expected(_hook), do: "a function of 4 arguments"

  @doc "Options of cancelling: whether to assign, and the others. `assign:` may be a boolean here."
  @spec cancel!(term()) :: {assign? :: boolean(), keyword()}
  def cancel!([{_key, _value} | _] = opts) do
    case Keyword.pop(opts, :assign) do
      {assign?, opts} when is_boolean(assign?) -> {assign?, check!(opts)}
      _function -> {true, check!(opts)}
    end
  end

  def cancel!(opts), do: {true, check!(opts)}
end
