defmodule EctoFoundationDB.Sync.Preloads do
  @moduledoc false
  # Records that are synced with what they refer to: a function that reads them and preloads, for an Ecto Repo.
  # All pages that ask for the same share it.

  # Compiled where Ecto is.
  @compile {:no_warn_undefined, Ecto.Adapters.FoundationDB.Live}

  alias Ecto.Adapters.FoundationDB.Live
  alias EctoFoundationDB.{Connection, NoResultsError, Queryable, Sync, Transaction}
  alias EctoFoundationDB.Layer.Reader
  alias EctoFoundationDB.Sync.{All, Fun, Many, One}

  @doc "The function of a request with preloads; any other request as it is."
  @spec request(Sync.request(), module()) :: Sync.request()
  def request(%One{preload: preload} = one, repo) when preload not in [nil, []] do
    fun = fun(repo, :one, [one.schema, one.id, preload])

    missing =
      if one.on_missing == :raise,
        do: NoResultsError.exception(message: One.missing(one))

    %Fun{label: one.label, fun: fun, missing: missing}
  end

  def request(%Many{preload: preload, ids: [_ | _]} = many, repo) when preload not in [nil, []] do
    fun = fun(repo, :many, [many.schema, many.ids, preload])
    %Fun{label: many.label, fun: fun, empty: []}
  end

  def request(%All{preload: preload} = all, repo) when preload not in [nil, []] do
    if all.watch_action != :changes do
      raise ArgumentError,
            "expected watch_action: :changes beside preload:, got: #{inspect(all.watch_action)}. What is " <>
              "preloaded is followed with all its changes, and so is the list"
    end

    fun = fun(repo, :all, [all.queryable, Enum.to_list(all.by), preload])
    %Fun{label: all.label, fun: fun, empty: []}
  end

  def request(request, _repo), do: request

  defp fun(instance, function, arguments) do
    %{repo: repo} = Connection.fetch!(instance)

    unless function_exported?(repo, :preload, 2) do
      raise ArgumentError,
            "preload: is for Ecto repositories, and #{inspect(repo)} is a plain one. Use sync_fun, and read in the " <>
              "function what the records refer to"
    end

    {__MODULE__, function, [repo | arguments]}
  end

  @doc false
  def one(repo, schema, id, preloads), do: schema |> repo.get(id) |> repo.preload(preloads)

  @doc false
  def many(repo, schema, ids, preloads) do
    ids
    |> Enum.uniq()
    |> Enum.map(&repo.async_get(schema, &1))
    |> repo.await()
    |> Enum.reject(&is_nil/1)
    |> repo.preload(preloads)
  end

  @doc false
  def all(repo, queryable, by, preloads),
    do: repo |> records(queryable, by) |> repo.preload(preloads)

  defp records(_repo, {queryable, options}, by) do
    query = Queryable.query(Transaction.tenant!(), queryable, by, options)
    Queryable.results(query, Reader.run(query))
  end

  defp records(repo, queryable, by), do: Live.all(repo, queryable, by)
end
