defmodule EctoFoundationDB.Repo.Changeset do
  @moduledoc false
  # What is to be written: a struct and the changes of it. Of a changeset, where Ecto is present, what
  # Ecto's own repositories do with it: prepare functions, the filters of an optimistic lock, embeds,
  # virtual fields. What is not done here is refused.

  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Layer.Values
  alias EctoFoundationDB.Schema

  @doc "The struct of what is given, and it; an error for a changeset that is not valid."
  @spec check(module(), atom(), struct()) :: {:ok, struct(), struct()} | {:error, struct()}
  def check(repo, action, %{__struct__: Ecto.Changeset} = changeset) do
    case changeset do
      %{valid?: false} ->
        {:error, %{changeset | action: action, repo: repo}}

      %{data: %_{} = struct, action: given} when given in [nil, action] ->
        check_struct!(action, struct)
        {:ok, struct, %{changeset | action: action, repo: repo}}

      %{action: other} ->
        raise ArgumentError,
              "#{action}: the changeset has the action #{inspect(other)}, and needs a struct as its data"
    end
  end

  def check(_repo, action, %_{} = struct) do
    check_struct!(action, struct)
    {:ok, struct, struct}
  end

  def check(_repo, action, other) do
    raise ArgumentError, "#{action}: expected a struct or a changeset, got: #{inspect(other)}"
  end

  defp check_struct!(action, %schema{} = struct) do
    with %{__meta__: %{source: source}} when is_binary(source) <- struct,
         true <- source != Schema.source(schema) do
      raise Unsupported,
            "#{action}: the struct's metadata have the source #{inspect(source)}, and records are " <>
              "stored under their schema's source, here #{inspect(Schema.source(schema))}"
    end

    check_associations!(action, schema, struct)
  end

  defp check_associations!(:insert, schema, struct) do
    for field <- Schema.associations(schema),
        value <- struct |> Map.get(field) |> List.wrap(),
        match?(%{__meta__: %{state: :built}}, value),
        do: unsupported_association!(:insert, schema, field)
  end

  defp check_associations!(:delete, schema, _struct) do
    for field <- Schema.associations(schema),
        match?(
          %{on_delete: delete} when delete != :nothing,
          schema.__schema__(:association, field)
        ) do
      raise Unsupported,
            "delete: #{inspect(schema)} has `on_delete:` for #{inspect(field)}, and associated records " <>
              "are not found by themselves here. Delete them in the same transaction, and leave " <>
              "`on_delete:` out"
    end
  end

  defp check_associations!(_action, _schema, _struct), do: []

  defp unsupported_association!(action, schema, field) do
    raise Unsupported,
          "#{action}: the association #{inspect(field)} of #{inspect(schema)} is not written with it. " <>
            "Write the associated records by themselves, in one transaction: Repo.transactional(tenant, fun)"
  end

  @doc "Whether functions are to be called in the transaction that writes (`prepare_changes/2`)."
  @spec prepared?(struct()) :: boolean()
  def prepared?(%{__struct__: Ecto.Changeset, prepare: [_ | _]}), do: true
  def prepared?(_given), do: false

  @doc "Calls those functions."
  @spec prepare(struct()) :: {:ok, struct()} | {:error, struct()}
  def prepare(%{__struct__: Ecto.Changeset, prepare: prepare} = changeset) do
    prepare
    |> Enum.reverse()
    |> Enum.reduce(changeset, fn fun, changeset ->
      case fun.(changeset) do
        %{__struct__: Ecto.Changeset} = changeset ->
          changeset

        other ->
          raise ArgumentError,
                "expected a function given to prepare_changes to return a changeset, got: #{inspect(other)}"
      end
    end)
    |> case do
      %{valid?: true} = changeset -> {:ok, changeset}
      changeset -> {:error, changeset}
    end
  end

  @doc """
  The changes to be stored, and those of virtual fields, which the resulting struct has all the same.
  """
  @spec changes(struct()) :: {map(), map()}
  def changes(%{__struct__: Ecto.Changeset, data: %schema{} = struct, action: action} = changeset) do
    {stored, others} = Map.split(changeset.changes, Schema.fields(schema))

    for field <- Schema.associations(schema),
        is_map_key(others, field),
        do: unsupported_association!(action, schema, field)

    {embeds(stored), Map.take(others, Map.keys(struct))}
  end

  def changes(_struct), do: {%{}, %{}}

  # Embeds are changesets within a changeset.
  defp embeds(changes) do
    Map.new(changes, fn
      {field, %{__struct__: Ecto.Changeset} = changeset} ->
        {field, changeset |> embed() |> List.first()}

      {field, [%{__struct__: Ecto.Changeset} | _] = changesets} ->
        {field, Enum.flat_map(changesets, &embed/1)}

      change ->
        change
    end)
  end

  defp embed(%{action: action}) when action in [:delete, :replace], do: []

  defp embed(changeset) do
    case prepare(changeset) do
      {:ok, changeset} ->
        [apply(Ecto.Changeset, :apply_changes, [changeset])]

      {:error, changeset} ->
        raise ArgumentError,
              "the changeset of an embed is not valid, and the one it is in is: #{inspect(changeset)}"
    end
  end

  @doc "Fields that the stored record must have these values of, stored: an optimistic lock's."
  @spec filters(struct(), atom()) :: Schema.data()
  def filters(%{__struct__: Ecto.Changeset, filters: filters, data: %schema{}}, action),
    do: Values.dump(schema, action, filters)

  def filters(_struct, _action), do: []

  @doc "What a function with a bang makes of the result of the one without."
  @spec bang({:ok, result} | {:error, term()}, atom()) :: result when result: term()
  def bang({:ok, result}, _action), do: result

  def bang({:error, %{__struct__: Ecto.Changeset} = changeset}, action) do
    if Code.ensure_loaded?(Ecto.InvalidChangesetError),
      do:
        raise(
          apply(Ecto.InvalidChangesetError, :exception, [[action: action, changeset: changeset]])
        ),
      else:
        raise(
          ArgumentError,
          "could not #{action}: the changeset is not valid: #{inspect(changeset)}"
        )
  end

  def bang({:error, error}, _action), do: raise(error)
end
