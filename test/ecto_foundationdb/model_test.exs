defmodule EctoFoundationDB.ModelTest do
  # Random operations of several processes, compared with a map.
  #
  # Every transaction takes the next number of one sequence and writes its operations, and their
  # results, under that number. So the log in the database contains exactly the committed transactions
  # in order, whatever was retried or lost its answer. Replayed on a map, every result must be the
  # same, and so must the records, indexes and counters in the end.
  use EctoFoundationDB.LayerCase, async: true

  alias EctoFoundationDB.{ConflictError, Embedded, StaleEntryError, TimeoutError, Transaction}
  alias EctoFoundationDB.Indexer.SchemaMetadata

  migration do
    [
      create(index(TestUser, [:name])),
      create(index(TestUser, [:dept, :age])),
      create(metadata(TestUser)),
      create(metadata(TestUser, [:dept]))
    ]
  end

  @ids ~w(a b c d e f)
  @names [nil, "", "n", "n\0", "ü"]
  @depts [nil, "eng", "ops"]
  @ages [nil, -1, 0, 300]

  defmodule FaultyRepo do
    use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
  end

  test "records, indexes and counters agree with a map", %{tenant: tenant} do
    agree(TestRepo, tenant, System.os_time(), 100)
  end

  @tag :embedded
  test "also with faults", %{id: id} do
    start_supervised!({FaultyRepo, embedded: true, log: false})
    seed = System.os_time()

    Embedded.faults(FaultyRepo,
      seed: seed,
      not_committed: 0.1,
      commit_unknown_result: 0.1,
      transaction_too_old: 0.02,
      future_version: 0.02,
      process_behind: 0.02,
      slow_read: 0.05,
      read_delay_ms: 2
    )

    tenant = Tenant.open!(FaultyRepo, id, migrator: __MODULE__.Migrator, log: false)
    agree(FaultyRepo, tenant, seed, 60)
  end

  @tag :embedded
  test "single operations succeed when commits lose their answers", %{id: id} do
    start_supervised!({FaultyRepo, embedded: true, log: false})
    Embedded.faults(FaultyRepo, seed: System.os_time(), commit_unknown_result: 0.5)

    for i <- 1..10 do
      tenant_id = "#{id}-#{i}"
      assert :ok = Tenant.create(FaultyRepo, tenant_id)
      assert {:error, :tenant_already_exists} = Tenant.create(FaultyRepo, tenant_id)
      tenant = Tenant.open!(FaultyRepo, tenant_id, migrator: __MODULE__.Migrator, log: false)
      for j <- 1..10, do: FaultyRepo.insert!(%TestUser{id: "#{j}", name: "n"}, prefix: tenant)
      assert {:error, %ConflictError{}} = FaultyRepo.insert(%TestUser{id: "1"}, prefix: tenant)
      assert {10, nil} = FaultyRepo.update_all(TestUser, [set: [age: 1]], prefix: tenant)
      for j <- 1..10, do: FaultyRepo.delete!(%TestUser{id: "#{j}"}, prefix: tenant)
      assert {:error, %StaleEntryError{}} = FaultyRepo.delete(%TestUser{id: "1"}, prefix: tenant)
      assert stray_entries(tenant, TestUser) == []
      # At least once.
      assert SchemaMetadata.inserts(TestUser, prefix: tenant) >= 10
      assert :ok = Tenant.clear_delete!(FaultyRepo, tenant_id)
      refute Tenant.exists?(FaultyRepo, tenant_id)
    end
  end

  @tag :embedded
  test "a call gives up after the timeout if the database does not answer", %{id: id} do
    start_supervised!({FaultyRepo, embedded: true, log: false, timeout: 60_000})
    tenant = Tenant.open!(FaultyRepo, id)
    Embedded.faults(FaultyRepo, slow_read: 1, read_delay_ms: 3_600_000)

    for read <- [
          fn -> FaultyRepo.get(TestUser, "u", prefix: tenant, timeout: 1) end,
          fn -> FaultyRepo.insert(%TestUser{id: "u"}, prefix: tenant, timeout: 1) end,
          fn ->
            FaultyRepo.transactional(tenant, fn -> FaultyRepo.all(TestUser) end, timeout: 1)
          end,
          fn -> Tenant.open!(FaultyRepo, id <> "-other", timeout: 1) end
        ] do
      assert_raise TimeoutError, ~r/did not answer within 1 ms while reading/, read
      refute FaultyRepo.in_transaction?()
    end

    Embedded.faults(FaultyRepo, nil)
    assert FaultyRepo.get(TestUser, "u", prefix: tenant) == nil
    refute_received _

    assert_raise ArgumentError, ~r/timeout: expected milliseconds/, fn ->
      FaultyRepo.get(TestUser, "u", prefix: tenant, timeout: 0)
    end
  end

  defp agree(repo, tenant, seed, count) do
    1..4
    |> Enum.map(fn n -> Task.async(fn -> work(repo, tenant, {seed, n}, count) end) end)
    |> Task.await_many(:infinity)

    log = log(tenant)
    assert length(log) >= 4 * count
    model = Enum.reduce(log, %{records: %{}, counters: %{}}, &replay(&1, &2, seed))

    actual =
      for user <- repo.all(TestUser, prefix: tenant), into: %{}, do: {user.id, values(user)}

    assert {seed, actual} == {seed, model.records}
    assert {seed, stray_entries(tenant, TestUser)} == {seed, []}

    for by <- [[] | for(dept <- @depts, do: [dept: dept])],
        signal <- SchemaMetadata.signal_names() do
      actual = apply(SchemaMetadata, :"#{signal}_by", [TestUser, by, [prefix: tenant]])

      assert {seed, by, signal, actual} ==
               {seed, by, signal, Map.get(model.counters, {by, signal}, 0)}
    end
  end

  defp work(repo, tenant, {seed, n}, count) do
    :rand.seed(:exsss, {seed, n, 0})

    for _ <- 1..count do
      operation = operation()

      repo.transactional(tenant, fn ->
        number = next_number(tenant)
        # Half of the operations see the writes of others in the same transaction.
        results =
          for operation <- operation,
              do: {operation, run(repo, operation), Transaction.maybe_committed?()}

        key = Tenant.pack(tenant, {"log", number})
        Transaction.write([{:set, key, :erlang.term_to_binary(results)}])
      end)
    end
  end

  defp next_number(tenant) do
    key = Tenant.pack(tenant, {"sequence"})
    [value] = Transaction.read([{:get, key, false}])
    number = if value, do: :binary.decode_unsigned(value) + 1, else: 0
    Transaction.write([{:set, key, :binary.encode_unsigned(number)}])
    number
  end

  defp log(tenant) do
    {first, last} = Tenant.range(tenant, {"log"})

    rows =
      Transaction.run(tenant, fn -> Transaction.read([{:get_range, first, last, %{}}]) |> hd() end)

    numbers = for {key, _} <- rows, do: elem(Tenant.unpack(tenant, key), 1)
    assert numbers == Enum.to_list(0..(length(rows) - 1))
    for {_, value} <- rows, do: :erlang.binary_to_term(value)
  end

  defp operation, do: for(_ <- 1..:rand.uniform(2), do: one_operation())

  defp one_operation do
    id = Enum.random(@ids)

    fields = %{
      name: Enum.random(@names),
      dept: Enum.random(@depts),
      age: Enum.random(@ages),
      notes: notes()
    }

    some = Map.take(fields, Enum.take_random([:name, :dept, :age, :notes], :rand.uniform(4)))

    case :rand.uniform(12) do
      n when n <= 2 ->
        {:insert, id, fields, :raise}

      3 ->
        {:insert, id, fields, :replace_all}

      4 ->
        {:insert, id, fields,
         Enum.random([:nothing, {:replace, [:name, :age]}, {:replace_all_except, [:name]}])}

      n when n <= 6 ->
        {:update, id, some}

      7 ->
        {:delete, id}

      8 ->
        {:get, id}

      9 ->
        {:all, [name: {:==, fields.name}]}

      10 ->
        {:all, [dept: {:==, fields.dept}, age: {:>=, 0}]}

      11 ->
        {:update_all, [dept: {:==, fields.dept}], Map.delete(some, :notes)}

      12 ->
        Enum.random([
          {:delete_all, [name: {:==, fields.name}]},
          {:all, []},
          {:insert_all, for(id <- Enum.take_random(@ids, 2), do: Map.put(fields, :id, id))},
          {:delete_all, []}
        ])
    end
  end

  # By size: some are kept in parts. The log contains no large values.
  defp notes, do: if(:rand.uniform(8) == 1, do: 150_000 + :rand.uniform(100_000))

  defp expand(%{notes: size} = fields) when is_integer(size),
    do: %{fields | notes: String.duplicate("x", size)}

  defp expand(fields), do: fields

  defp run(repo, {:insert, id, fields, on_conflict}) do
    case repo.insert(struct!(TestUser, Map.put(expand(fields), :id, id)),
           on_conflict: on_conflict
         ) do
      {:ok, _} -> :ok
      {:error, %ConflictError{}} -> :conflict
    end
  end

  defp run(repo, {:update, id, changes}) do
    case repo.update(%TestUser{id: id}, expand(changes)) do
      {:ok, _} -> :ok
      {:error, %StaleEntryError{}} -> :stale
    end
  end

  defp run(repo, {:delete, id}) do
    case repo.delete(%TestUser{id: id}) do
      {:ok, _} -> :ok
      {:error, %StaleEntryError{}} -> :stale
    end
  end

  defp run(repo, {:get, id}),
    do: with(%TestUser{} = user <- repo.get(TestUser, id), do: values(user))

  defp run(repo, {:all, where}),
    do: repo.all(TestUser, where: where) |> Enum.map(& &1.id) |> Enum.sort()

  defp run(_repo, {:update_all, _where, changes}) when changes == %{}, do: 0

  defp run(repo, {:update_all, where, changes}),
    do: repo.update_all(TestUser, [set: changes], where: where) |> elem(0)

  defp run(repo, {:delete_all, where}), do: repo.delete_all(TestUser, where: where) |> elem(0)

  defp run(repo, {:insert_all, rows}),
    do:
      repo.insert_all(TestUser, Enum.map(rows, &expand/1), on_conflict: :replace_all)
      |> elem(0)

  defp values(user) do
    %{name: user.name, dept: user.dept, age: user.age, notes: user.notes && byte_size(user.notes)}
  end

  ## The model

  defp replay(results, model, seed) do
    Enum.reduce(results, model, fn {operation, result, again?}, model ->
      if again? and done_before?(operation, result, model) do
        model
      else
        {expected, model} = step(operation, model)
        assert {seed, operation, result} == {seed, operation, expected}
        model
      end
    end)
  end

  # Changes that an earlier attempt with an unknown result has already made.
  defp done_before?({:insert, id, fields, :raise}, :ok, model), do: model.records[id] == fields
  defp done_before?({:delete, id}, :ok, model), do: model.records[id] == nil
  defp done_before?(_operation, _result, _model), do: false

  defp step({:insert, id, fields, on_conflict}, model) do
    case {model.records[id], on_conflict} do
      {nil, _} ->
        {:ok, insert(model, id, fields)}

      {_, :raise} ->
        {:conflict, model}

      {_, :nothing} ->
        {:ok, model}

      {_, :replace_all} ->
        {:ok, update(model, id, present(fields))}

      {_, {:replace, names}} ->
        {:ok, update(model, id, Map.take(present(fields), names))}

      {_, {:replace_all_except, names}} ->
        {:ok, update(model, id, Map.drop(present(fields), names))}
    end
  end

  defp step({:update, id, changes}, model) do
    if model.records[id], do: {:ok, update(model, id, changes)}, else: {:stale, model}
  end

  defp step({:delete, id}, model) do
    if model.records[id], do: {:ok, delete(model, id)}, else: {:stale, model}
  end

  defp step({:get, id}, model), do: {model.records[id], model}
  defp step({:all, where}, model), do: {matching(model, where), model}
  defp step({:update_all, _where, changes}, model) when changes == %{}, do: {0, model}

  defp step({:update_all, where, changes}, model) do
    ids = matching(model, where)
    {length(ids), Enum.reduce(ids, model, &update(&2, &1, changes))}
  end

  defp step({:delete_all, where}, model) do
    ids = matching(model, where)
    {length(ids), Enum.reduce(ids, model, &delete(&2, &1))}
  end

  # A row of insert_all also stores its nils.
  defp step({:insert_all, rows}, model) do
    model =
      Enum.reduce(rows, model, fn row, model ->
        {id, fields} = Map.pop!(row, :id)
        if model.records[id], do: update(model, id, fields), else: insert(model, id, fields)
      end)

    {length(rows), model}
  end

  defp present(fields), do: Map.reject(fields, fn {_, value} -> is_nil(value) end)

  defp matching(model, where) do
    for {id, fields} <- Enum.sort(model.records),
        Enum.all?(where, fn
          {field, {:==, value}} -> fields[field] === value
          {field, {:>=, value}} -> fields[field] != nil and fields[field] >= value
        end),
        do: id
  end

  defp insert(model, id, fields) do
    model |> put(id, fields) |> count(fields.dept, [:inserts, :collection, :changes])
  end

  defp delete(model, id) do
    {fields, records} = Map.pop!(model.records, id)
    count(%{model | records: records}, fields.dept, [:deletes, :collection, :changes])
  end

  defp update(model, id, changes) do
    old = model.records[id]
    new = Map.merge(old, changes)
    model = put(model, id, new)

    if old.dept == new.dept do
      count(model, old.dept, [:updates, :changes])
    else
      model
      |> bump([], [:updates, :changes])
      |> bump([dept: old.dept], [:deletes, :collection, :updates, :changes])
      |> bump([dept: new.dept], [:inserts, :collection, :updates, :changes])
    end
  end

  defp put(model, id, fields), do: put_in(model.records[id], fields)
  defp count(model, dept, signals), do: model |> bump([], signals) |> bump([dept: dept], signals)

  defp bump(model, by, signals) do
    counters =
      Enum.reduce(signals, model.counters, &Map.update(&2, {by, &1}, 1, fn n -> n + 1 end))

    %{model | counters: counters}
  end
end
