if Code.ensure_loaded?(Ecto.Schema) do
  defmodule EctoFoundationDB.EctoTest do
    # Schemas, changesets and queries of Ecto, where it is present.
    use EctoFoundationDB.LayerCase, async: true

    import Ecto.Query

    alias EctoFoundationDB.Exception.Unsupported
    alias EctoFoundationDB.Sync

    defmodule Address do
      use Ecto.Schema

      embedded_schema do
        field(:street, :string)
        field(:kind, Ecto.Enum, values: [:home, :work])
      end

      def changeset(address, params), do: Ecto.Changeset.cast(address, params, [:street, :kind])
    end

    defmodule Person do
      use Ecto.Schema
      import Ecto.Changeset

      @primary_key {:id, :binary_id, autogenerate: true}
      schema "people" do
        field(:name, :string)
        field(:role, Ecto.Enum, values: [:admin, :user])
        field(:price, :decimal)
        field(:tags, {:array, :string})
        field(:meta, :map)
        field(:token, Ecto.UUID)
        field(:born, :date)
        field(:shown, :string, virtual: true)
        field(:nick, :string, source: :nick_name)
        embeds_one(:address, Address, on_replace: :update)
        embeds_many(:addresses, Address)
        timestamps()
      end

      def changeset(person, params) do
        person
        |> cast(params, [:name, :role, :price, :tags, :meta, :token, :born, :nick])
        |> cast_embed(:address)
        |> cast_embed(:addresses)
        |> validate_required([:name])
      end
    end

    defmodule Event do
      use Ecto.Schema
      @primary_key {:id, EctoFoundationDB.Versionstamp, autogenerate: false}
      schema "ecto_events" do
        field(:data, :string)
      end
    end

    migration do
      [
        create(metadata(Person))
        | for(field <- [:role, :price, :born, :nick], do: create(index(Person, [field])))
      ]
    end

    defp insert(tenant) do
      params = %{
        name: "A",
        role: "admin",
        price: "1.50",
        tags: ["x"],
        meta: %{"a" => 1},
        token: Ecto.UUID.generate(),
        born: "2024-01-01",
        nick: "nn",
        address: %{street: "s", kind: "home"},
        addresses: [%{street: "t", kind: "work"}]
      }

      TestRepo.insert!(Person.changeset(%Person{}, params), prefix: tenant)
    end

    test "schemas with types, embeds, sources and timestamps", %{tenant: tenant} do
      person = insert(tenant)
      assert TestRepo.get!(Person, person.id, prefix: tenant) == person
      assert person.__meta__.state == :loaded
      assert is_binary(person.address.id)

      {_, value} = List.keyfind(dump(tenant), {<<0xFD>>, "people", "d", person.id}, 0)

      assert [
               :id,
               :address,
               :addresses,
               :born,
               :meta,
               :name,
               :nick_name,
               :price,
               :role,
               :tags,
               :token,
               :inserted_at,
               :updated_at
             ] = Keyword.keys(:erlang.binary_to_term(value))

      changed =
        TestRepo.update!(Person.changeset(person, %{name: "B", address: %{street: "new"}}))

      assert %{name: "B", address: %{street: "new", kind: :home}} = changed
      assert TestRepo.get!(Person, person.id, prefix: tenant) == changed
      assert TestRepo.delete!(changed).__meta__.state == :deleted
    end

    test "invalid changesets", %{tenant: tenant} do
      invalid = Person.changeset(%Person{}, %{})
      assert {:error, %Ecto.Changeset{action: :insert}} = TestRepo.insert(invalid, prefix: tenant)
      assert_raise Ecto.InvalidChangesetError, fn -> TestRepo.insert!(invalid, prefix: tenant) end
      assert {:error, %Ecto.Changeset{action: :update}} = TestRepo.update(invalid, prefix: tenant)
    end

    test "queries", %{tenant: tenant} do
      %{id: id} = insert(tenant)

      for query <- [
            from(p in Person, where: p.role == :admin),
            from(p in Person, where: p.role == ^:admin, select: p),
            from(p in Person, where: p.nick == "nn"),
            from(p in Person,
              where: p.born >= ^~D[2023-01-01] and p.born < ^~D[2025-01-01],
              order_by: p.born,
              limit: 1
            ),
            from(p in Person, where: p.id == ^id)
          ] do
        assert [%Person{id: ^id}] = TestRepo.all(query, prefix: tenant)
      end

      assert %Person{} = TestRepo.get_by(Person, [price: Decimal.new("1.50")], prefix: tenant)
      assert %Person{} = TestRepo.one(from(p in Person, prefix: ^tenant))

      for query <- [
            from(p in Person, where: p.nick == "x" or p.nick == "y"),
            from(p in Person, or_where: p.nick == "x", or_where: p.nick == "y"),
            from(p in Person, select: count()),
            from(p in Person, select: %{p | name: "b"}),
            from(p in Person, select: %{name: fragment("upper(?)", p.name)}),
            from(p in Person, join: o in Person, on: true)
          ] do
        assert_raise Unsupported, ~r/answered by one get or one range/, fn ->
          TestRepo.all(query, prefix: tenant)
        end
      end
    end

    test "select", %{tenant: tenant} do
      %{id: id} = person = insert(tenant)
      all = &TestRepo.all(&1, prefix: tenant)
      two = 2

      assert all.(from(p in Person, select: p.name)) == ["A"]
      assert all.(from(p in Person, select: {p.id, p.role})) == [{id, :admin}]
      assert all.(from(p in Person, select: {[p.name], ^two, "x", nil})) == [{["A"], 2, "x", nil}]
      selected = from(p in Person, select: %{p.name => %{person: p, born: p.born}})
      assert all.(selected) == [%{"A" => %{person: person, born: ~D[2024-01-01]}}]
      assert all.(from(p in Person, select: map(p, [:id, :nick]))) == [%{id: id, nick: "nn"}]

      for query <- [
            from(p in Person, select: [:id, :name]),
            from(p in Person, select: struct(p, [:id, :name]))
          ] do
        assert [%Person{id: ^id, name: "A", nick: nil, __meta__: meta}] = all.(query)
        assert meta == person.__meta__
      end

      named = from(p in Person, where: p.nick == "nn", select: p.name)
      assert TestRepo.one(named, prefix: tenant) == "A"
      assert named |> TestRepo.stream(prefix: tenant) |> Enum.to_list() == ["A"]
      assert TestRepo.exists?(named, prefix: tenant)
      assert TestRepo.aggregate(named, :count, prefix: tenant) == 1

      assert_raise Unsupported, ~r/Read them first/, fn ->
        TestRepo.delete_all(named, prefix: tenant)
      end
    end

    test "a stored value that is not of its field's type is an error that names both",
         %{tenant: tenant} do
      %{id: id} = insert(tenant)
      key = {:pack, EctoFoundationDB.Layer.Keys.record(tenant, "people", id)}
      operations(tenant, [{:set, key, :erlang.term_to_binary(id: id, born: "yesterday")}])

      assert_raise ArgumentError,
                   ~r/the stored value "yesterday" of .*Person.born cannot be loaded as :date/,
                   fn -> TestRepo.get(Person, id, prefix: tenant) end
    end

    test "a list that is synced by a query, and the records that it names", %{tenant: tenant} do
      %{id: id} = person = insert(tenant)
      TestRepo.insert!(%Person{name: "B", nick: "other"}, prefix: tenant)

      state =
        %{assigns: %{}, private: %{tenant: tenant}}
        |> Sync.attach_callback(TestRepo, :handle_assigns, fn
          state, %{ids: _old} ->
            {:cont, Sync.sync_many(state, TestRepo, :people, Person, state.assigns.ids)}

          state, _old ->
            {:cont, state}
        end)
        |> Sync.sync_all(
          TestRepo,
          :ids,
          from(p in Person, where: p.nick == "nn", select: p.id),
          watch_action: :collection
        )

      assert %{ids: [^id], people: [^person]} = state.assigns
      query = from(p in Person, order_by: [desc: p.name], select: p.name)
      assert Sync.sync_all(state, TestRepo, :names, query).assigns.names == ["B", "A"]
    end

    test "insert_or_update, insert_all and versionstamps", %{tenant: tenant} do
      person =
        TestRepo.insert_or_update!(Person.changeset(%Person{}, %{name: "z"}), prefix: tenant)

      assert %{name: "y"} = TestRepo.insert_or_update!(Person.changeset(person, %{name: "y"}))
      row = %{id: Ecto.UUID.generate(), name: "r", role: :user}
      assert {1, nil} = TestRepo.insert_all(Person, [row], prefix: tenant)
      assert %{role: :user} = TestRepo.get(Person, row.id, prefix: tenant)

      future =
        TestRepo.transactional(tenant, fn ->
          TestRepo.async_insert_all!(Event, [%Event{data: "1"}])
        end)

      [event] = TestRepo.await(future)
      assert %Event{data: "1"} = TestRepo.get(Event, event.id, prefix: tenant)
    end

    test "a value of another type is an error", %{tenant: tenant} do
      assert_raise ArgumentError, ~r/does not match the field's type/, fn ->
        TestRepo.insert(%Person{name: 1}, prefix: tenant)
      end

      # In a query it may come from a URL: Phoenix answers 400.
      error =
        assert_raise EctoFoundationDB.CastError,
                     ~r/"no date" cannot be cast to the type :date of .*Person.born/,
                     fn -> TestRepo.all(Person, where: [born: "no date"], prefix: tenant) end

      assert error.plug_status == 400

      assert_raise EctoFoundationDB.CastError, fn ->
        TestRepo.all(Person, where: [token: "not a uuid"], prefix: tenant)
      end
    end
  end
end
