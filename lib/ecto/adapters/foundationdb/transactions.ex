if Code.ensure_loaded?(Ecto.Adapter) do
  defmodule Ecto.Adapters.FoundationDB.Transactions do
    @moduledoc false
    # Ecto's transactions: `rollback/1` cancels all of them, whether they are nested or not.

    alias EctoFoundationDB.Repo.Options
    alias EctoFoundationDB.Transaction

    # Whether a nested transaction has rolled back: the outer one then does, too.
    @aborted {__MODULE__, :aborted}

    @spec run(map(), keyword(), (() -> result)) :: {:ok, result} | {:error, term()}
          when result: term()
    def run(meta, opts, fun) do
      if Transaction.in?(),
        do: nested(meta, opts, fun),
        else: Options.follow_single(meta.instance, fn -> outermost(meta, opts, fun) end)
    end

    # A tenant that is given must be that of the transaction.
    defp nested(meta, opts, fun) do
      fun = fn -> {:ok, fun.()} end

      if opts[:prefix],
        do: Transaction.run(Options.tenant!(meta.instance, opts), fun),
        else: fun.()
    catch
      :throw, {__MODULE__, value} ->
        Process.put(@aborted, true)
        {:error, value}

      kind, reason ->
        Process.put(@aborted, true)
        :erlang.raise(kind, reason, __STACKTRACE__)
    end

    defp outermost(%{instance: instance}, opts, fun) do
      timeout = Keyword.take(opts, Transaction.options())

      attempt = fn ->
        Process.delete(@aborted)
        result = fun.()
        if Process.delete(@aborted), do: rollback(:rollback)
        result
      end

      case opts[:prefix] || Options.single(instance) do
        # Ecto opens one for a struct with associations, whose tenant is in its metadata.
        nil ->
          {:ok, Transaction.run_unbound(instance, attempt, timeout)}

        tenant ->
          {:ok, instance |> Options.tenant!(prefix: tenant) |> Transaction.run(attempt, timeout)}
      end
    catch
      :throw, {__MODULE__, value} -> {:error, value}
    after
      Process.delete(@aborted)
    end

    @spec rollback(term()) :: no_return()
    def rollback(value) do
      unless Transaction.in?(), do: raise("cannot call rollback outside of transaction")
      throw({__MODULE__, value})
    end
  end
end
