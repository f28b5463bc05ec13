defmodule EctoFoundationDB.Sync.Options do
  @moduledoc false
  # The options of Sync's functions.

  @options [:assign, :attach_container_hook, :detach_container_hook, :timeout, :watch_action]

  @watch_actions [:inserts, :deletes, :collection, :updates, :changes]

  @doc "Raises unless these are options of a sync; gives them."
  @spec check!(term()) :: keyword()
  def check!([]), do: []

  def check!(opts) do
    opts |> keyword!() |> Enum.each(&check_option!/1)
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

  defp check_option!({:assign, fun}) when is_function(fun, 2) or is_function(fun, 4), do: :ok
  defp check_option!({:attach_container_hook, fun}) when is_function(fun, 4), do: :ok
  defp check_option!({:detach_container_hook, fun}) when is_function(fun, 4), do: :ok
  defp check_option!({:timeout, ms}) when is_integer(ms) and ms >= 0, do: :ok
  defp check_option!({:timeout, :infinity}), do: :ok
  # Of lists only; one set of options may serve all of an application's calls.
  defp check_option!({:watch_action, action}) when action in @watch_actions, do: :ok
  defp check_option!({key, nil}) when key in @options, do: :ok

  defp check_option!({key, value}) do
    expected =
      case key do
        :assign ->
          "a function of 2 or 4 arguments"

        :attach_container_hook ->
          "a function of 4 arguments"

        :detach_container_hook ->
          "a function of 4 arguments"

        :timeout ->
          "milliseconds, or :infinity"

        :watch_action ->
          "one of #{inspect(@watch_actions)}"

        _unknown ->
          raise ArgumentError,
                "unknown option #{inspect(key)}: expected one of #{inspect(@options)}"
      end

    raise ArgumentError, "expected #{inspect(key)} to be #{expected}, got: #{inspect(value)}"
  end

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
