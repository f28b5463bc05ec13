defmodule EctoFoundationDB.WritePrimaryTest do
  # `write_primary: false`: records that are only in an index.
  use EctoFoundationDB.LayerCase, async: true

  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.Indexer.SchemaMetadata
  alias EctoFoundationDB.{Rebuild, Sync, TestReading}

  migration do
    [
      create(index(TestReading, [:sensor, :at], options: [mapped?: false])),
      create(index(TestReading, [:value])),
      create(metadata(TestReading))
    ]
  end

  setup %{tenant: tenant} do
    for {id, sensor, at} <- [{"r1", "a", 10}, {"r2", "a", 20}, {"r3", "b", 15}] do
      reading = %TestReading{id: id, sensor: sensor, at: at, value: at}
      assert %{id: ^id} = TestRepo.insert!(reading, prefix: tenant)
    end

    :ok
  end

  defp ids(tenant, opts),
    do: for(r <- TestRepo.all(TestReading, [prefix: tenant] ++ opts), do: r.id)

  defp primary(tenant), do: for({{_, "readings", "d", _}, _} = row <- dump(tenant), do: row)

  test "are written only to the index, and read by it", %{tenant: tenant} do
    assert primary(tenant) == []
    assert ids(tenant, where: [sensor: "a"]) == ~w(r1 r2)
    assert ids(tenant, where: [sensor: "a", at: {:>, 10}]) == ~w(r2)
    assert ids(tenant, where: [sensor: "a"], order_by: [desc: :at], limit: 1) == ~w(r2)
    assert ids(tenant, where: [sensor: "a", at: 10, id: "r1"]) == ~w(r1)
    # In the order of the index.
    assert ids(tenant, []) == ~w(r1 r2 r3)
    assert ids(tenant, order_by: [desc: :id]) == ~w(r3 r2 r1)

    assert for(r <- TestRepo.stream(TestReading, max_rows: 2, prefix: tenant), do: r.id) ==
             ~w(r1 r2 r3)

    assert TestRepo.exists?(TestReading, where: [sensor: "b"], prefix: tenant)
    assert TestRepo.aggregate(TestReading, :count, prefix: tenant) == 3
    assert TestRepo.get(TestReading, "r1", prefix: tenant) == nil

    assert {1, nil} =
             TestRepo.insert_all(TestReading, [[id: "r4", sensor: "b", at: 1, value: 1]],
               prefix: tenant
             )

    assert ids(tenant, where: [sensor: "b"]) == ~w(r4 r3)
    assert primary(tenant) == []
  end

  test "are updated by queries on the index", %{tenant: tenant} do
    assert {2, nil} =
             TestRepo.update_all(TestReading, [set: [value: 7]],
               where: [sensor: "a"],
               prefix: tenant
             )

    assert [%{value: 7, id: "r1"}, %{value: 7, id: "r2"}] =
             TestRepo.all(TestReading, where: [sensor: "a"], prefix: tenant)

    # A field of the index itself.
    assert {1, nil} =
             TestRepo.update_all(TestReading, [set: [at: 30]],
               where: [sensor: "a", at: 10],
               prefix: tenant
             )

    assert ids(tenant, where: [sensor: "a"]) == ~w(r2 r1)
    assert primary(tenant) == []
    assert SchemaMetadata.updates(TestReading, prefix: tenant) == 3
  end

  test "are deleted by queries on the index", %{tenant: tenant} do
    assert {1, nil} =
             TestRepo.delete_all(TestReading, where: [sensor: "a", at: 20], prefix: tenant)

    assert ids(tenant, []) == ~w(r1 r3)
    assert {2, nil} = TestRepo.delete_all(TestReading, prefix: tenant)
    assert ids(tenant, []) == []
    assert SchemaMetadata.deletes(TestReading, prefix: tenant) == 3
    assert for({{_, "readings", "i", _, _, _, _, _}, _} = row <- dump(tenant), do: row) == []
  end

  test "are synced as lists", %{tenant: tenant} do
    state = %{assigns: %{}, private: %{tenant: tenant}}
    state = Sync.sync_all(state, TestRepo, :readings, {TestReading, where: [sensor: "a"]})
    assert [%{id: "r1"}, %{id: "r2"}] = state.assigns.readings
    Sync.cancel_all(state, TestRepo)
  end

  test "do not change when the index is rebuilt", %{tenant: tenant} do
    assert Rebuild.index(tenant, TestReading, :readings_sensor_at_index) ==
             %{missing: 0, wrong: 0}

    assert ids(tenant, []) == ~w(r1 r2 r3)
  end

  test "cannot be found by their primary key, and the errors say what to do", %{
    tenant: tenant
  } do
    [reading | _] = TestRepo.all(TestReading, where: [sensor: "a"], prefix: tenant)

    assert_raise Unsupported, ~r/update: .*`write_primary: false`.*Use update_all with/, fn ->
      TestRepo.update(reading, value: 1)
    end

    assert_raise Unsupported, ~r/delete: .*`write_primary: false`.*Use delete_all with/, fn ->
      TestRepo.delete(reading)
    end

    assert_raise Unsupported, ~r/there is no record to watch/, fn -> TestRepo.watch(reading) end

    # An index that points to records leads nowhere.
    assert_raise Unsupported,
                 ~r/create index\(.*TestReading, \[:value\], options: \[mapped\?: false\]\)/,
                 fn -> ids(tenant, where: [value: 10]) end

    assert_raise Unsupported, ~r/\[:field\], options: \[mapped\?: false\]/, fn ->
      ids(Tenant.open!(TestRepo, tenant.id <> "-none"), [])
    end

    state = %{assigns: %{}, private: %{tenant: tenant}}

    assert_raise Unsupported, ~r/there is no record to watch/, fn ->
      Sync.sync_one(state, TestRepo, :reading, TestReading, "r1")
    end
  end
end
