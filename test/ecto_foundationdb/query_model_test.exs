defmodule EctoFoundationDB.QueryModelTest do
  # Random queries, compared with the result of filtering a list of the same records.
  use EctoFoundationDB.LayerCase, async: true

  alias EctoFoundationDB.Exception.Unsupported

  migration do
    for fields <- [
          [:name],
          [:age],
          [:score],
          [:joined],
          [:seen_at],
          [:dept, :age],
          [:active, :score],
          [:dept, :name, :age]
        ],
        do: create(index(TestUser, fields))
  end

  @ids Enum.map(1..30, &"u#{&1}") ++ ["u1\0", "u1\0x", "u\xFF"]
  @values %{
    name: [nil, "", "a", "a\0", "a\0b", "ab", "b", "ü", "\xFF"],
    dept: [nil, "x", "x\0", "y"],
    age: [nil, -300, -1, 0, 1, 255, 256, 70_000],
    active: [nil, true, false],
    score: [nil, -1.5, 0.0, 0.5, 2.5e10],
    joined: [nil, ~D[1999-12-31], ~D[2020-01-01], ~D[2020-01-02]],
    seen_at: [nil, ~U[2020-01-01 00:00:00.000000Z], ~U[2020-01-01 00:00:00.000001Z]]
  }

  test "a query returns the matching records in order, or is refused", %{tenant: tenant} do
    seed = System.os_time()
    :rand.seed(:exsss, {seed, 0, 0})
    random = fn -> for {field, values} <- @values, do: {field, Enum.random(values)} end
    TestRepo.insert_all(TestUser, for(id <- @ids, do: [id: id] ++ random.()), prefix: tenant)

    for id <- Enum.take_random(@ids, 15),
        do: TestRepo.update!(%TestUser{id: id}, Enum.take_random(random.(), 3), prefix: tenant)

    users = TestRepo.all(TestUser, prefix: tenant)
    answered = Enum.count(1..2_000, fn _ -> answered?(tenant, users, query(), seed) end)
    assert answered > 500
  end

  defp query do
    {equal, ranged} =
      [:id | Map.keys(@values)] |> Enum.take_random(Enum.random(0..3)) |> Enum.split(-1)

    where = for field <- equal, do: {field, {:==, value(field)}}
    where = where ++ Enum.flat_map(ranged, &condition/1)
    fields = Enum.take_random([:id | Map.keys(@values)], Enum.random(0..2))
    order = for field <- fields, do: {Enum.random([:asc, :desc]), field}
    {where, order, Enum.random([nil, nil, 1, 2, 5, 100])}
  end

  defp value(:id), do: Enum.random(@ids)
  defp value(field), do: Enum.random(@values[field])

  defp condition(field) do
    case {value(field), value(field), Enum.random(1..4)} do
      {a, _, 1} -> [{field, {:==, a}}]
      {a, _, 2} when a != nil -> [{field, {Enum.random([:>, :>=, :<, :<=]), a}}]
      {a, b, 3} when a != nil and b != nil -> [{field, {:between, a, b}}]
      {a, b, 4} when a != nil and b != nil -> [{field, [{:>, a}, {:<=, b}]}]
      _ -> []
    end
  end

  defp answered?(tenant, users, {where, order, limit} = query, seed) do
    options = [where: where, prefix: tenant]
    given = TestRepo.all(TestUser, options ++ [order_by: order, limit: limit])
    such = Enum.filter(users, fn user -> Enum.all?(where, &fulfils?(user, &1)) end)
    expected = Enum.sort(such, &(order(&1, &2, order) != :gt))
    expected = if limit, do: Enum.take(expected, limit), else: expected

    # If several are equal in the order, any of them.
    keys = &for user <- &1, do: for({_, field} <- order, do: Map.fetch!(user, field))
    assert {seed, query, keys.(given)} == {seed, query, keys.(expected)}
    assert {seed, query, given -- such} == {seed, query, []}

    if order == [] and limit == nil do
      streamed = TestRepo.stream(TestUser, options ++ [max_rows: Enum.random(1..7)])
      assert {seed, query, Enum.sort(streamed)} == {seed, query, Enum.sort(such)}
    end

    true
  rescue
    Unsupported -> false
  end

  defp fulfils?(user, {field, condition}) do
    value = Map.fetch!(user, field)

    case condition do
      {:==, other} -> compare(value, other) == :eq
      {:between, low, high} -> fulfils?(user, {field, [{:>=, low}, {:<=, high}]})
      [_ | _] = all -> Enum.all?(all, &fulfils?(user, {field, &1}))
      {_, _} when is_nil(value) -> false
      {:>, other} -> compare(value, other) == :gt
      {:>=, other} -> compare(value, other) != :lt
      {:<, other} -> compare(value, other) == :lt
      {:<=, other} -> compare(value, other) != :gt
    end
  end

  defp order(_a, _b, []), do: :eq

  defp order(a, b, [{direction, field} | more]) do
    case compare(Map.fetch!(a, field), Map.fetch!(b, field)) do
      :eq -> order(a, b, more)
      :lt -> if direction == :asc, do: :lt, else: :gt
      :gt -> if direction == :asc, do: :gt, else: :lt
    end
  end

  defp compare(a, a), do: :eq
  defp compare(nil, _), do: :lt
  defp compare(_, nil), do: :gt
  defp compare(%module{} = a, b), do: module.compare(a, b)
  defp compare(a, b), do: if(a < b, do: :lt, else: :gt)
end
