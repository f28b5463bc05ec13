if Code.ensure_loaded?(Ecto.Adapter) do
  defmodule EctoFoundationDB.EctoSchemasTest do
    # Changesets, types and associations of Ecto, with the adapter.
    use EctoFoundationDB.EctoCase, async: true

    alias Ecto.Changeset

    test "types, embeds, sources and timestamps round-trip", %{tenant: tenant} do
      params = %{
        name: "Ada",
        role: "admin",
        tags: ["a"],
        nick: "nn",
        address: %{street: "s", kind: "home"}
      }

      user =
        %User{score: Decimal.new("1.50"), secret: "s3"}
        |> User.changeset(params)
        |> Repo.insert!(prefix: tenant)

      assert %{id: id, role: :admin, address: %{kind: :home, id: <<_::binary>>}} = user

      assert Repo.get!(User, id, prefix: tenant) == %{
               user
               | posts: not_loaded(User, :posts),
                 secret: nil
             }

      assert Repo.one!(from(u in User, where: u.id == ^id, select: u.secret), prefix: tenant) ==
               "s3"

      {_, value} = List.keyfind(dump(tenant), {<<0xFD>>, "users", "d", id}, 0)
      assert [{:id, ^id} | stored] = :erlang.binary_to_term(value)
      assert stored[:nick_name] == "nn" and stored[:role] == "admin"
      refute Keyword.has_key?(stored, :email)

      changed = Repo.update!(User.changeset(user, %{address: %{street: "new"}}))
      assert %{street: "new", kind: :home} = Repo.get!(User, id, prefix: tenant).address
      assert Repo.delete!(changed).__meta__.state == :deleted
    end

    defp not_loaded(schema, field), do: Map.fetch!(schema.__struct__(), field)

    test "integer ids are generated, unique and rising", %{tenant: tenant} do
      ids =
        1..4
        |> Enum.map(fn _ ->
          Task.async(fn ->
            for _ <- 1..50, do: Repo.insert!(%Group{name: "g"}, prefix: tenant).id
          end)
        end)
        |> Task.await_many(60_000)

      for own <- ids, do: assert(own == Enum.sort(own))
      assert ids |> List.flatten() |> Enum.uniq() |> length() == 200

      assert {2, [%{id: a}, %{id: b}]} =
               Repo.insert_all(Group, [%{name: "x"}, %{name: "y"}],
                 prefix: tenant,
                 returning: [:id]
               )

      assert a != b
    end

    test "a struct of a belongs_to provides its id", %{tenant: tenant} do
      user = Repo.insert!(%User{name: "Ada"}, prefix: tenant)
      post = Repo.insert!(%Post{title: "p", user: user}, prefix: tenant)
      assert post.user_id == user.id
      assert Repo.get!(Post, post.id, prefix: tenant).user_id == user.id
      built = user |> Ecto.build_assoc(:posts, title: "q") |> Repo.insert!(prefix: tenant)
      assert built.user_id == user.id
    end

    test "associations are inserted, changed and deleted with their parent, in one transaction",
         %{tenant: tenant} do
      params = %{name: "Ada", posts: [%{title: "1"}, %{title: "2"}]}
      # Only the struct has the tenant.
      user = %User{} |> FoundationDB.usetenant(tenant) |> User.changeset(params) |> Repo.insert!()
      assert [%{id: first, user_id: id}, %{title: "2"}] = user.posts
      assert id == user.id

      user =
        Repo.update!(User.changeset(user, %{posts: [%{id: first, title: "one"}, %{title: "3"}]}))

      assert Post |> names(tenant, :title) == ["3", "one"]

      invalid = User.changeset(user, %{posts: [%{id: first, title: 7}]})
      assert {:error, %Changeset{}} = Repo.update(invalid)

      Repo.delete!(user)
      assert Repo.all(Post, prefix: tenant) == []
    end

    test "preloads", %{tenant: tenant} do
      user = Repo.insert!(%User{name: "Ada", profile: %Profile{bio: "b"}}, prefix: tenant)
      other = Repo.insert!(%User{name: "Bea"}, prefix: tenant)

      for i <- 1..2,
          do:
            Repo.insert!(%Post{title: "#{i}", user: user, comments: [%Comment{text: "c#{i}"}]},
              prefix: tenant
            )

      for name <- ["g", "h"],
          do: Repo.insert!(%Membership{user: user, group: %Group{name: name}}, prefix: tenant)

      [ada, bea] =
        Repo.preload(
          [user, other] |> Enum.map(&Repo.reload!/1),
          [:profile, :groups, :comments, posts: :comments],
          prefix: tenant
        )

      assert ada.profile.bio == "b" and bea.profile == nil
      assert Enum.map(ada.posts, & &1.title) == ["1", "2"] and bea.posts == []
      assert Enum.map(ada.posts, fn %{comments: [c]} -> c.text end) == ["c1", "c2"]
      assert Enum.map(ada.comments, & &1.text) == ["c1", "c2"]
      assert ada.groups |> Enum.map(& &1.name) |> Enum.sort() == ["g", "h"]

      assert [%{user: %{name: "Ada"}} | _] =
               Repo.all(from(p in Post, preload: :user), prefix: tenant)

      query =
        from(p in Post, join: u in assoc(p, :user), where: u.name == "Ada", preload: [user: u])

      assert [%{user: %{name: "Ada"}}, _] = Repo.all(query, prefix: tenant)

      assert Repo.transactional(tenant, fn ->
               Repo.preload(Repo.get!(User, user.id), :posts).posts
             end)
             |> length() == 2
    end

    test "has_many through a join table's schema", %{tenant: tenant} do
      user = Repo.insert!(%User{name: "Ada", groups: [%Group{name: "g"}]}, prefix: tenant)
      assert [%{user_id: id, group_id: _}] = Repo.all(Membership, prefix: tenant)
      assert id == user.id
      assert [%{name: "g"}] = Repo.all(Ecto.assoc(user, :groups), prefix: tenant)
    end

    test "prepare_changes runs in the transaction that writes", %{tenant: tenant} do
      prepare = fn changeset ->
        changeset.repo.insert!(%Group{name: "made"})
        if changeset.changes.name == "no", do: changeset.repo.rollback(:no), else: changeset
      end

      insert = fn name ->
        %User{}
        |> Changeset.change(name: name)
        |> Changeset.prepare_changes(prepare)
        |> Repo.insert(prefix: tenant)
      end

      assert {:error, :no} = insert.("no")
      assert Repo.all(Group, prefix: tenant) == []
      assert {:ok, %{name: "yes"}} = insert.("yes")
      assert [%{name: "made"}] = Repo.all(Group, prefix: tenant)
    end

    test "an optimistic lock lets the first writer win", %{tenant: tenant} do
      user = Repo.insert!(%User{name: "Ada"}, prefix: tenant)

      change = fn name ->
        user |> Changeset.change(name: name) |> Changeset.optimistic_lock(:lock)
      end

      assert %{lock: 2} = Repo.update!(change.("first"))
      assert_raise Ecto.StaleEntryError, fn -> Repo.update(change.("second")) end

      assert {:error, %{errors: [name: {"is stale", _}]}} =
               Repo.update(change.("x"), stale_error_field: :name)

      assert {:ok, _} = Repo.update(change.("x"), allow_stale: true)
      assert Repo.reload!(user).name == "first"
      Repo.delete!(Repo.reload!(user))
      assert_raise Ecto.StaleEntryError, fn -> Repo.delete(user) end
      assert {:ok, _} = Repo.delete(user, allow_stale: true)
    end

    test "fields that are only writable on insert stay as they are", %{tenant: tenant} do
      user = Repo.insert!(%User{name: "Ada", origin: "web"}, prefix: tenant)
      Repo.update!(User.changeset(user, %{name: "B", origin: "mail"}))
      assert %{name: "B", origin: "web"} = Repo.reload!(user)
    end

    test "insert_or_update, and the error for an existing primary key", %{tenant: tenant} do
      user = Repo.insert_or_update!(User.changeset(%User{}, %{name: "a"}), prefix: tenant)
      assert %{name: "b"} = Repo.insert_or_update!(User.changeset(user, %{name: "b"}))

      error =
        assert_raise Unsupported, fn ->
          Repo.insert(%User{id: user.id, name: "c"}, prefix: tenant)
        end

      assert error.message =~ "Key exists" and error.message =~ "on_conflict"
    end

    test "insert_all with placeholders, returning, and the records of a query", %{tenant: tenant} do
      rows =
        for name <- ["a", "b"], do: %{name: name, origin: {:placeholder, :origin}, role: :user}

      options = [
        placeholders: %{origin: "import"},
        returning: [:id, :role, :origin],
        prefix: tenant
      ]

      assert {2, [%{id: id, role: :user, origin: "import"}, _]} =
               Repo.insert_all(User, rows, options)

      assert %{name: "a"} = Repo.get!(User, id, prefix: tenant)

      query = from(u in User, where: u.role == :user, select: %{name: u.name})
      assert {2, nil} = Repo.insert_all(Group, query, prefix: tenant)
      assert names(Group, tenant) == ["a", "b"]
    end

    test "on_conflict in all its forms", %{tenant: tenant} do
      user = Repo.insert!(%User{name: "a", email: "a@x", age: 1, tags: ["t"]}, prefix: tenant)
      insert = fn struct, opts -> Repo.insert(struct, [prefix: tenant] ++ opts) end
      again = %User{id: user.id, name: "b", age: 5}

      assert {:ok, _} = insert.(again, on_conflict: :nothing)
      assert %{name: "a", age: 1} = Repo.reload!(user)
      assert {:ok, _} = insert.(again, on_conflict: {:replace, [:name]}, conflict_target: :id)
      assert %{name: "b", age: 1, email: "a@x"} = Repo.reload!(user)
      assert {:ok, _} = insert.(again, on_conflict: {:replace_all_except, [:name]})
      assert %{name: "b", age: 5} = Repo.reload!(user)

      assert {:ok, _} =
               insert.(again, on_conflict: [set: [name: "c"], inc: [age: 2], push: [tags: "u"]])

      assert %{name: "c", age: 7, tags: ["u"]} = Repo.reload!(user)

      only_young = from(u in User, where: u.age < 5, update: [set: [name: "young"]])
      assert_raise Ecto.StaleEntryError, fn -> insert.(again, on_conflict: only_young) end
      old = from(u in User, where: u.age > 5, update: [set: [name: "old"]])
      assert {:ok, %{name: "old"}} = insert.(again, on_conflict: old, returning: true)

      # By a unique index.
      same = %User{name: "d", email: "a@x"}

      assert {:ok, %{id: id}} =
               insert.(same,
                 on_conflict: [set: [name: "by e-mail"]],
                 conflict_target: :email,
                 returning: true
               )

      assert id == user.id
      assert %{name: "by e-mail"} = Repo.reload!(user)
      assert {:ok, %{id: new}} = insert.(same, on_conflict: :replace_all, conflict_target: :email)
      assert [%{id: ^new, name: "d"}] = Repo.all(User, prefix: tenant)

      assert {1, nil} =
               Repo.insert_all(User, [%{name: "e", email: "a@x"}, %{name: "f"}],
                 on_conflict: :nothing,
                 prefix: tenant
               )

      assert_raise Unsupported, ~r/conflict_target: \[:age\].*unique: true/, fn ->
        insert.(same, on_conflict: :nothing, conflict_target: :age)
      end
    end

    test "a value of a different type in a field raises Ecto's error", %{tenant: tenant} do
      assert_raise Ecto.ChangeError, fn -> Repo.insert(%User{name: 1}, prefix: tenant) end
      assert_raise Ecto.Query.CastError, fn -> Repo.get(User, "no number", prefix: tenant) end
    end

    test "a composite primary key is refused", %{tenant: tenant} do
      for call <- [
            fn -> Repo.insert(%TwoKeys{a: 1, b: 2}, prefix: tenant) end,
            fn -> Repo.all(TwoKeys, prefix: tenant) end
          ],
          do:
            assert_raise(
              ArgumentError,
              ~r/TwoKeys has the primary key \[:a, :b\], expected exactly one/,
              call
            )
    end

    test "ids created by the commit", %{tenant: tenant} do
      future =
        Repo.transactional(tenant, fn ->
          Repo.async_insert_all!(Event, [%Event{data: "1"}, %Event{data: "2"}])
        end)

      assert [%{id: a, data: "1"}, %{id: b}] = Repo.await(future)
      assert a < b
      assert %Event{data: "1"} = Repo.get!(Event, a, prefix: tenant)
      assert [%{id: ^b}] = Repo.all(from(e in Event, where: e.data == "2"), prefix: tenant)
      integer = EctoFoundationDB.Versionstamp.to_integer(a)
      assert %Event{data: "1"} = Repo.get!(Event, integer, prefix: tenant)
    end

    test "records in partitions", %{tenant: tenant} do
      alias EctoFoundationDB.Versionstamp

      sessions = for user <- ["a", "a", "b"], do: %Session{user_id: user, data: "#{user}"}
      future = Repo.transactional(tenant, fn -> Repo.async_insert_all!(Session, sessions) end)
      [one, two, _b] = Repo.await(future)

      assert {_, _} = List.keyfind(dump(tenant), {<<0xFD>>, "sessions", "d", "a", one.id}, 0)
      assert Repo.get!(Session, {"a", one.id}, prefix: tenant) == one

      all =
        from(s in Session,
          where: s.id >= ^{"a", Versionstamp.min()} and s.id <= ^{"a", Versionstamp.max()}
        )

      assert Repo.all(all, prefix: tenant) == [one, two]
      assert length(Repo.all(Session, prefix: tenant)) == 3
      query = from(s in Session, where: s.id == ^{"a", two.id})
      assert {1, nil} = Repo.update_all(query, [set: [data: "new"]], prefix: tenant)
      assert Repo.one!(query, prefix: tenant).data == "new"
      assert {1, nil} = Repo.delete_all(query, prefix: tenant)
      assert_raise Unsupported, ~r/Repo.delete is not supported/, fn -> Repo.delete(one) end

      assert_raise Unsupported, ~r/Single-sided/, fn ->
        Repo.all(from(s in Session, where: s.id > ^{"a", one.id}), prefix: tenant)
      end

      assert_raise Unsupported, ~r/compound/, fn -> Repo.get(Session, one.id, prefix: tenant) end
    end
  end
end
