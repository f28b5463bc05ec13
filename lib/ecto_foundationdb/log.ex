defmodule EctoFoundationDB.Log do
  @moduledoc false
  # Log lines for operators: one per incident, with its facts as metadata.

  require Logger

  @doc "Logs an event if operators must know of it."
  @spec event(module(), [atom()], keyword()) :: :ok
  def event(repo, event, facts) do
    case line(event, Map.new(facts)) do
      nil -> :ok
      {level, text} -> log(level, repo, text, [event: event] ++ facts)
    end
  end

  @doc "Logs a line about a Repo."
  @spec log(Logger.level(), module(), String.t(), keyword()) :: :ok
  def log(level, repo, text, metadata \\ []) do
    Logger.log(level, "[EctoFoundationDB] #{inspect(repo)}: #{text}", [repo: repo] ++ metadata)
  end

  @doc "The level and the text of an event, or `nil`."
  @spec line([atom()], map()) :: {Logger.level(), String.t()} | nil
  def line([:database, :locked], facts),
    do:
      {:warning,
       "#{facts.reason}. Transactions wait until it is unlocked, each up to its timeout"}

  def line([:database, :unlocked], facts),
    do: {:notice, "the database is no longer locked, after #{time(facts.duration)}"}

  def line([:sync, :silent], facts),
    do: {:error, "#{facts.reason}. #{queries(facts.live_queries)} cannot be kept up to date"}

  def line([:sync, :answering], facts),
    do:
      {:notice,
       "the database answers again, after #{time(facts.duration)}; #{queries(facts.live_queries)} are up to date"}

  def line([:sync, :stale], facts) do
    {:warning,
     "a live query cannot be kept up to date (subscriptions: #{facts.subscribers}): #{facts.reason}"}
  end

  def line([:sync, :unanswered], facts) do
    {:warning,
     "#{queries(facts.queries)} got no answer, and are retried separately. Is a storage server " <>
       "away? See `fdbcli --exec status`"}
  end

  def line([:sync, :watch_limit], facts) do
    {:warning,
     "the database accepts no more than #{facts.watches} watches: #{facts.reason}. Further live queries are read " <>
       "every few seconds. See `max_watches:`"}
  end

  def line([:migration, :begun], facts),
    do:
      {:notice,
       "tenant #{inspect(facts.tenant)}: migration to version #{Enum.max(facts.versions)} begins, with " <>
         "#{facts.commands} indexes to build or drop"}

  def line([:migration, :progress], facts),
    do:
      {:notice,
       "tenant #{inspect(facts.tenant)}: migration #{facts.version} is at #{inspect(facts.index)}, after " <>
         "#{time(facts.duration)} and #{facts.steps} transactions"}

  def line([:migration, :done], facts),
    do:
      {:notice,
       "tenant #{inspect(facts.tenant)}: migration to version #{Enum.max(facts.versions)} is done, after " <>
         "#{time(facts.duration)} and #{facts.steps} transactions"}

  def line(_event, _facts), do: nil

  defp queries(1), do: "1 live query"
  defp queries(n), do: "#{n} live queries"

  defp time(native) do
    case System.convert_time_unit(native, :native, :millisecond) do
      ms when ms < 10_000 -> "#{ms} ms"
      ms -> "#{div(ms, 1000)} s"
    end
  end
end
