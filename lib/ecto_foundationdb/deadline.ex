defmodule EctoFoundationDB.Deadline do
  @moduledoc false
  # A timeout and its end: the remaining time bounds each wait of a call.

  @enforce_keys [:timeout, :at]
  defstruct [:timeout, :at]

  @typedoc "`at`: milliseconds of the monotonic clock."
  @type t :: %__MODULE__{timeout: timeout(), at: integer() | :infinity}

  @doc "The deadline of a call that begins now and may take `timeout` ms. A deadline is returned as it is."
  @spec new(timeout() | t()) :: t()
  def new(%__MODULE__{} = deadline), do: deadline
  def new(:infinity), do: %__MODULE__{timeout: :infinity, at: :infinity}

  def new(timeout) when is_integer(timeout) and timeout > 0,
    do: %__MODULE__{timeout: timeout, at: now() + timeout}

  def new(other) do
    raise ArgumentError,
          "timeout: expected milliseconds, a positive integer, or :infinity, got: #{inspect(other)}"
  end

  @doc "The earlier of two deadlines."
  @spec earlier(t(), t()) :: t()
  # Integers sort before atoms.
  def earlier(one, other), do: if(other.at < one.at, do: other, else: one)

  @doc "The remaining milliseconds, or 0."
  @spec left(t()) :: timeout()
  def left(%__MODULE__{at: :infinity}), do: :infinity
  def left(%__MODULE__{at: at}), do: max(at - now(), 0)

  defp now, do: System.monotonic_time(:millisecond)
end
