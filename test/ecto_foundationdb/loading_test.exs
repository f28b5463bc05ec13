defmodule EctoFoundationDB.LoadingTest do
  # Values that a field's type does not load, written by a newer version of the application.
  use EctoFoundationDB.LayerCase, async: true

  alias EctoFoundationDB.{DecodeError, Sync, SyncPage}

  defmodule Old do
    use EctoFoundationDB.TestSchema,
      source: "orders",
      fields: [id: :string, status: :integer, paid: :boolean],
      sources: [status: :st]
  end

  defmodule New do
    use EctoFoundationDB.TestSchema,
      source: "orders",
      fields: [id: :string, status: :string, paid: :boolean],
      sources: [status: :st]
  end

  defmodule Counted do
    use EctoFoundationDB.Migration
    use EctoFoundationDB.Migrator
    @impl EctoFoundationDB.Migrator
    def migrations, do: [{0, __MODULE__}]
    @impl EctoFoundationDB.Migration
    def change, do: [create(metadata(EctoFoundationDB.LoadingTest.Old))]
  end

  setup %{tenant: tenant} do
    tenant = Tenant.open!(TestRepo, tenant.id, migrator: Counted, log: false)

    for i <- 1..3,
        do: TestRepo.insert!(%Old{id: "o#{i}", status: i, paid: true}, prefix: tenant)

    {:ok, tenant: tenant}
  end

  defp page(tenant, mount) do
    test = self()

    SyncPage.start(TestRepo, tenant, fn state ->
      state
      |> Sync.attach_callback(TestRepo, :stale, :handle_stale, fn state, reasons ->
        send(test, {:stale, reasons})
        {:cont, state}
      end)
      |> mount.()
    end)
  end

  defp statuses(%{orders: orders}), do: Enum.map(orders, &{&1.id, &1.status})

  test "errors of reads name the schema, the field and the record", %{tenant: tenant} do
    TestRepo.update!(%New{id: "o2"}, [status: "refunded"], prefix: tenant)

    for read <- [
          fn -> TestRepo.all(Old, prefix: tenant) end,
          fn -> TestRepo.get(Old, "o2", prefix: tenant) end,
          fn -> Enum.to_list(TestRepo.stream(Old, prefix: tenant)) end,
          fn -> TestRepo.reload(%Old{id: "o2"}, prefix: tenant) end,
          fn -> Sync.sync_all(state(tenant), TestRepo, :orders, Old) end,
          fn -> Sync.sync_one(state(tenant), TestRepo, :order, Old, "o2") end,
          fn -> Sync.sync_many(state(tenant), TestRepo, :orders, Old, ["o1", "o2"]) end
        ] do
      error = assert_raise DecodeError, read
      assert %{schema: Old, field: :status, id: "o2"} = error
      assert error.key == Tenant.pack(tenant, {<<0xFD>>, "orders", "d", "o2"})

      assert Exception.message(error) =~
               ~s(the field :status of the #{inspect(Old)} with primary key "o2" contains "refunded", ) <>
                 "which cannot be loaded as :integer. Another version of the application may have written it"
    end

    # Other records are not affected, and the record can be repaired and deleted.
    assert %Old{status: 1} = TestRepo.get(Old, "o1", prefix: tenant)
    TestRepo.update!(%Old{id: "o2"}, [status: 4], prefix: tenant)
    assert [1, 4, 3] = TestRepo.all(Old, prefix: tenant) |> Enum.map(& &1.status)
  end

  test "a list keeps the record's last data, is stale, and follows the others", %{tenant: tenant} do
    page = page(tenant, &Sync.sync_all(&1, TestRepo, :orders, Old))
    TestRepo.update!(%New{id: "o2"}, [status: "refunded"], prefix: tenant)
    assert_receive {:stale, %{orders: %DecodeError{schema: Old, field: :status, id: "o2"}}}
    assert statuses(SyncPage.assigns(page)) == [{"o1", 1}, {"o2", 2}, {"o3", 3}]

    TestRepo.update!(%Old{id: "o3"}, [status: 33], prefix: tenant)
    TestRepo.insert!(%Old{id: "o4", status: 4}, prefix: tenant)
    # A record that this process has never read has no last data.
    TestRepo.insert!(%New{id: "o5", status: "new"}, prefix: tenant)
    assigns = SyncPage.await(page, &({"o4", 4} in statuses(&1)))
    assert statuses(assigns) == [{"o1", 1}, {"o2", 2}, {"o3", 33}, {"o4", 4}]

    TestRepo.update!(%Old{id: "o2"}, [status: 22], prefix: tenant)
    TestRepo.update!(%Old{id: "o5"}, [status: 5], prefix: tenant)
    assigns = SyncPage.await(page, &({"o5", 5} in statuses(&1)))
    assert statuses(assigns) == [{"o1", 1}, {"o2", 22}, {"o3", 33}, {"o4", 4}, {"o5", 5}]
  end

  test "single records do the same, each separately", %{tenant: tenant} do
    one = page(tenant, &Sync.sync_one(&1, TestRepo, :order, Old, "o2"))
    many = page(tenant, &Sync.sync_many(&1, TestRepo, :orders, Old, ["o1", "o2"]))
    TestRepo.update!(%New{id: "o2"}, [status: "refunded"], prefix: tenant)
    assert_receive {:stale, %{order: %DecodeError{id: "o2"}}}
    assert_receive {:stale, %{orders: %DecodeError{id: "o2"}}}
    TestRepo.update!(%Old{id: "o1"}, [status: 11], prefix: tenant)
    assigns = SyncPage.await(many, &({"o1", 11} in statuses(&1)))
    assert statuses(assigns) == [{"o1", 11}, {"o2", 2}]
    assert SyncPage.assigns(one).order.status == 2

    TestRepo.update!(%Old{id: "o2"}, [status: 22], prefix: tenant)
    assert SyncPage.await(one, &(&1.order.status == 22))
  end

  defmodule Typed do
    @moduledoc false
    @types [
      integer: [1, -1],
      id: [1],
      string: ["x"],
      binary: [<<255>>],
      binary_id: ["x"],
      boolean: [true, false],
      float: [1.5],
      map: [%{"a" => 1}],
      date: [~D[2024-01-01]],
      time: [~T[12:00:00]],
      naive_datetime: [~N[2024-01-01 12:00:00]],
      utc_datetime: [~U[2024-01-01 12:00:00Z]],
      any: [1, "x", {:a, 1}],
      array: [[1, 2], []]
    ]

    use EctoFoundationDB.TestSchema,
      source: "typed",
      fields:
        [key: :string] ++
          for(
            {type, _} <- @types,
            do: {type, if(type == :array, do: {:array, :integer}, else: type)}
          ),
      primary_key: [:key]

    def values, do: @types
  end

  defmodule Untyped do
    @moduledoc false
    use EctoFoundationDB.TestSchema,
      source: "typed",
      fields: for(name <- Typed.__schema__(:fields), do: {name, nil}),
      primary_key: [:key]
  end

  test "every base type loads nil and its values, and refuses to store or load others", %{
    tenant: tenant
  } do
    for {field, values} <- Typed.values() do
      for value <- [nil | values] do
        TestRepo.insert!(struct!(Typed, [{:key, "k"}, {field, value}]),
          prefix: tenant,
          on_conflict: :replace_all
        )

        assert Map.fetch!(TestRepo.get!(Typed, "k", prefix: tenant), field) == value
      end

      for value <- wrong(field) do
        written = Untyped |> struct!([{:key, "w"}, {field, value}])
        TestRepo.insert!(written, prefix: tenant, on_conflict: :replace_all)

        assert_raise DecodeError, ~r/the field #{inspect(field)} of the .*Typed/, fn ->
          TestRepo.get!(Typed, "w", prefix: tenant)
        end

        TestRepo.delete!(written, prefix: tenant)

        assert_raise ArgumentError, ~r/does not match the field's type/, fn ->
          TestRepo.insert!(struct!(Typed, [{:key, "w"}, {field, value}]), prefix: tenant)
        end
      end
    end
  end

  defp wrong(:any), do: []
  defp wrong(:array), do: [1, ["x"], %{}]
  defp wrong(field) when field in [:integer, :id], do: ["1", 1.0, true, ~D[2024-01-01]]
  defp wrong(field) when field in [:string, :binary, :binary_id], do: [1, :x, ~c"x", %{}]
  defp wrong(:boolean), do: [1, "true", :x]
  defp wrong(:float), do: ["1.0", true]
  defp wrong(:map), do: ["x", [a: 1]]
  defp wrong(_date), do: ["2024-01-01", 1, %{}]

  defp state(tenant), do: %{assigns: %{}, private: %{tenant: tenant}}
end
