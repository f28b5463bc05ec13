defmodule EctoFoundationDB.EctoQueryTest do
  # Queries as Ecto 3.13 makes them, for machines without Ecto: what a Repo looks at is in their fields.
  use EctoFoundationDB.LayerCase, async: true

  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.{Sync, SyncRepo, SyncUser}

  defmodule Repo do
    use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
    use EctoFoundationDB.Migrator

    @impl true
    def migrations, do: SyncRepo.migrations()
  end

  # `from(u in schema, …, select: expr)`
  defp from(schema, select) do
    %{
      __struct__: Ecto.Query,
      from: %{source: {schema.__schema__(:source), schema}, prefix: nil},
      select: select,
      wheres: [],
      order_bys: [],
      limit: nil,
      prefix: nil
    }
  end

  defp select(expr, more \\ []),
    do: Map.merge(%{expr: expr, params: [], take: %{}}, Map.new(more))

  defp field(name), do: {{:., [], [{:&, [], [0]}, name]}, [], []}

  defp where(expr, more \\ []),
    do: Map.merge(%{expr: expr, op: :and, params: []}, Map.new(more))

  test "conditions on fields are those of `where:`", %{tenant: tenant} do
    tenant = Tenant.open!(TestRepo, tenant.id <> "-where")
    for id <- ["a", "b"], do: TestRepo.insert!(%TestUser{id: id}, prefix: tenant)

    ids = fn expr, more ->
      query = %{from(TestUser, nil) | wheres: [where(expr, more)]}
      for user <- TestRepo.all(query, prefix: tenant), do: user.id
    end

    assert ids.(true, []) == ["a", "b"]
    assert ids.({:==, [], [field(:id), "a"]}, []) == ["a"]
    assert ids.({:==, [], [field(:id), {:^, [], [0]}]}, params: [{"b", :any}]) == ["b"]
    assert ids.({:>, [], [field(:id), {:type, [], ["a", :string]}]}, []) == ["b"]
    assert ids.({:is_nil, [], [field(:id)]}, []) == []
    tagged = %{__struct__: Ecto.Query.Tagged, value: "a", tag: nil, type: :string}
    assert ids.({:<=, [], [field(:id), tagged]}, []) == ["a"]

    both = {:and, [], [{:>=, [], [field(:id), "a"]}, {:<, [], [field(:id), "b"]}]}
    assert ids.(both, []) == ["a"]
  end

  test "a query of more than one range says what it has too much", %{tenant: tenant} do
    other = %{from(TestUser, nil) | from: %{source: {"others", TestUser}, prefix: nil}}
    none = %{from(TestUser, nil) | from: %{source: {"users", nil}, prefix: nil}}
    query = from(TestUser, nil)

    for {query, words} <- [
          {other,
           ~r/^another source than the schema's: a query is answered by one get or one range/},
          {none, ~r/^a query of something else than a schema: /},
          {Map.put(query, :joins, [:join]), ~r/^join: .* filter and join in Elixir/},
          {Map.put(query, :distinct, true), ~r/^distinct: /},
          {%{query | wheres: [where(true, op: :or)]}, ~r/^or_where: /},
          {%{query | wheres: [where({:like, [], [field(:id), "a%"]})]}, ~r/^this condition: /},
          {%{query | wheres: [where({:==, [], [{:+, [], [1, 2]}, 3]})]},
           ~r/^something else than a field of the schema: /},
          {%{query | wheres: [where({:==, [], [field(:id), {:+, [], [1, 2]}]})]},
           ~r/^this value: /},
          {%{query | order_bys: [%{expr: [asc_nulls_last: field(:id)]}]},
           ~r/^order_by asc_nulls_last: /}
        ] do
      assert_raise Unsupported, words, fn -> TestRepo.all(query, prefix: tenant) end
    end
  end

  test "a select gives what can be made of a record", %{tenant: tenant} do
    user = TestRepo.insert!(%TestUser{id: "u1", name: "Ada", notes: "n"}, prefix: tenant)
    all = fn select -> TestRepo.all(from(TestUser, select), prefix: tenant) end

    assert all.(nil) == [user]
    assert all.(select({:&, [], [0]})) == [user]
    assert all.(select(field(:name))) == ["Ada"]
    assert all.(select({:{}, [], [field(:id), "x", nil, 1]})) == [{"u1", "x", nil, 1}]
    assert all.(select([field(:id), [field(:notes)]])) == [["u1", ["n"]]]
    assert all.(select({:%{}, [], [user: {:&, [], [0]}]})) == [%{user: user}]
    assert all.(select({:%{}, [], [{field(:id), field(:name)}]})) == [%{"u1" => "Ada"}]
    assert all.(select({:^, [], [1]}, params: [{1, :any}, {2, :any}])) == [2]
    assert all.(select({:&, [], [0]}, take: %{0 => {:map, [:id]}})) == [%{id: "u1"}]

    # A nil that is selected is a result, and not none.
    assert TestRepo.one!(from(TestUser, select(nil)), prefix: tenant) == nil
    assert TestRepo.get!(from(TestUser, select(field(:name))), "u1", prefix: tenant) == "Ada"

    for kind <- [:any, :struct] do
      assert [%TestUser{id: "u1", name: "Ada", notes: nil, __meta__: meta}] =
               all.(select({:&, [], [0]}, take: %{0 => {kind, [:id, :name]}}))

      assert meta == user.__meta__
    end

    for more <- [
          {:count, [], []},
          {:%{}, [], [{:|, [], [{:&, [], [0]}, [name: "b"]]}]},
          {:fragment, [], [raw: "", expr: field(:id), raw: ""]}
        ] do
      assert_raise Unsupported, ~r/^a select of more than fields: /, fn -> all.(select(more)) end
    end

    nested = select({:&, [], [0]}, take: %{0 => {:map, [:id, posts: [:id]]}})
    assert_raise Unsupported, ~r/^a select of more than fields: /, fn -> all.(nested) end
  end

  test "update_all and delete_all select nothing", %{tenant: tenant} do
    query = from(TestUser, select(field(:name)))
    message = ~r/^select: update_all and delete_all give no records. Read them first/

    assert_raise Unsupported, message, fn -> TestRepo.delete_all(query, prefix: tenant) end

    assert_raise Unsupported, message, fn ->
      TestRepo.update_all(query, [set: [name: "b"]], prefix: tenant)
    end
  end

  test "dependent syncing: the ids that a list selects, and their records" do
    tenant = SyncRepo.tenant()
    for id <- ["b", "a"], do: SyncRepo.insert!(%SyncUser{id: id, name: id}, prefix: tenant)
    ids = from(SyncUser, select(field(:id)))

    state =
      %{assigns: %{}, private: %{tenant: tenant}}
      |> Sync.attach_callback(SyncRepo, :handle_assigns, fn
        state, %{ids: _old} ->
          {:cont, Sync.sync_many(state, SyncRepo, :users, SyncUser, state.assigns.ids)}

        state, _old ->
          {:cont, state}
      end)
      |> Sync.sync_all(SyncRepo, :ids, ids, watch_action: :collection)

    assert %{ids: ["a", "b"], users: [%{id: "a"}, %{id: "b"}]} = state.assigns

    SyncRepo.insert!(%SyncUser{id: "c", name: "c"}, prefix: tenant)
    assert_receive {_ref, :ready} = message, 10_000
    assert {:halt, state} = Sync.handle_ready(SyncRepo, message, state)
    assert %{ids: ["a", "b", "c"], users: [_a, _b, %{id: "c", name: "c"}]} = state.assigns
  end

  @tag :embedded
  test "what is selected of a list takes no live query of its own", %{id: id} do
    start_supervised!({Repo, embedded: true, log: false})
    tenant = Tenant.open!(Repo, id)
    state = %{assigns: %{}, private: %{tenant: tenant}}

    Enum.reduce([nil, select(field(:id)), select(field(:name))], state, fn select, state ->
      Sync.sync_all(state, Repo, select, from(SyncUser, select))
    end)

    assert %{subscriptions: 3, live_queries: 1} = Sync.stats(Repo)
  end
end
