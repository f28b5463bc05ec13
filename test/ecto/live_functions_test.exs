if Code.ensure_loaded?(Ecto.Adapter) do
  defmodule EctoFoundationDB.EctoLiveFunctionsTest do
    # Live functions and preloads with an Ecto repository.
    use ExUnit.Case, async: true

    import Ecto.Query

    alias EctoFoundationDB.{NoResultsError, Sync, SyncPage, Tenant, TestRepo}
    alias EctoFoundationDB.Exception.Unsupported

    defmodule Author do
      use Ecto.Schema

      schema "authors" do
        field(:name, :string)
        has_many(:posts, EctoFoundationDB.EctoLiveFunctionsTest.Post)
      end
    end

    defmodule Post do
      use Ecto.Schema

      schema "posts" do
        field(:title, :string)
        field(:draft, :boolean, default: false)
        belongs_to(:author, EctoFoundationDB.EctoLiveFunctionsTest.Author)
        has_many(:comments, EctoFoundationDB.EctoLiveFunctionsTest.Comment)
      end
    end

    defmodule Comment do
      use Ecto.Schema

      schema "comments" do
        field(:text, :string)
        field(:likes, :integer, source: :l)
        belongs_to(:post, EctoFoundationDB.EctoLiveFunctionsTest.Post)
        belongs_to(:author, EctoFoundationDB.EctoLiveFunctionsTest.Author)
      end
    end

    defmodule Repo do
      use Ecto.Repo, otp_app: :ecto_fdb_sync, adapter: Ecto.Adapters.FoundationDB
      use EctoFoundationDB.Migrator

      defmodule Indexes do
        use EctoFoundationDB.Migration

        @impl true
        def change do
          [
            create(metadata(Author)),
            create(metadata(Post)),
            create(metadata(Post, [:author_id])),
            create(metadata(Comment)),
            create(metadata(Comment, [:post_id])),
            create(index(Post, [:author_id])),
            create(index(Post, [:draft])),
            create(index(Comment, [:post_id])),
            create(index(Comment, [:likes]))
          ]
        end
      end

      @impl EctoFoundationDB.Migrator
      def migrations, do: [{0, Indexes}]
    end

    setup do
      start_supervised!({Repo, TestRepo.test_config()})
      id = "ecto-fun-#{System.unique_integer([:positive])}-#{System.os_time()}"
      tenant = Tenant.open!(Repo, id)
      opts = [prefix: tenant]
      ada = Repo.insert!(%Author{name: "Ada"}, opts)
      bea = Repo.insert!(%Author{name: "Bea"}, opts)
      post = Repo.insert!(%Post{title: "One", author_id: ada.id}, opts)
      other = Repo.insert!(%Post{title: "Two", author_id: bea.id, draft: true}, opts)

      comment =
        Repo.insert!(%Comment{text: "yes", likes: 1, post_id: post.id, author_id: bea.id}, opts)

      Process.put(:evaluations, Sync.stats(Repo).evaluations)

      %{
        tenant: tenant,
        state: %{assigns: %{}, private: %{tenant: tenant}},
        ada: ada,
        bea: bea,
        post: post,
        other: other,
        comment: comment
      }
    end

    defp next(state), do: SyncPage.next(Repo, state)

    defp quiet do
      Sync.settle(Repo)
      refute_received {_ref, :ready}
    end

    defp evaluations, do: Sync.stats(Repo).evaluations - Process.get(:evaluations)
    defp change(struct, changes), do: struct |> Ecto.Changeset.change(changes) |> Repo.update!()

    test "preloads of a record follow each table concerned, and only what was loaded", context do
      %{state: state, bea: bea, post: post, other: other, comment: comment} = context
      preload = [:author, comments: :author]
      state = Sync.sync_one(state, Repo, :post, Post, post.id, preload: preload)
      assert %{title: "One", author: %{name: "Ada"}, comments: [one]} = state.assigns.post
      assert %{text: "yes", author: %{name: "Bea"}} = one

      change(post, title: "1")
      state = next(state)
      assert state.assigns.post.title == "1"
      change(context.ada, name: "A")
      state = next(state)
      assert state.assigns.post.author.name == "A"
      change(comment, text: "no")
      state = next(state)
      assert [%{text: "no"}] = state.assigns.post.comments
      change(bea, name: "B")
      state = next(state)
      assert [%{author: %{name: "B"}}] = state.assigns.post.comments

      before = evaluations()
      cy = Repo.insert!(%Author{name: "Cy"}, prefix: context.tenant)
      change(other, title: "2")
      Repo.insert!(%Comment{text: "of another", post_id: other.id}, prefix: context.tenant)
      quiet()
      assert evaluations() == before

      Repo.insert!(%Comment{text: "new", post_id: post.id, author_id: cy.id},
        prefix: context.tenant
      )

      state = next(state)
      assert Enum.map(state.assigns.post.comments, & &1.author.name) == ["B", "Cy"]
      change(cy, name: "C")
      state = next(state)
      assert Enum.map(state.assigns.post.comments, & &1.author.name) == ["B", "C"]
      Repo.delete!(post)
      assert next(state).assigns.post == nil
    end

    test "pages that ask for the same share it", context do
      %{state: state, post: post} = context
      Sync.sync_one(state, Repo, :post, Post, post.id, preload: :author)
      Sync.sync_one(state, Repo, :it, Post, post.id, preload: :author)
      assert %{live_queries: 1, subscriptions: 2} = Sync.stats(Repo)
      assert evaluations() == 1
    end

    test "a record that is missing", %{state: state} do
      state = Sync.sync_one(state, Repo, :post, Post, 1_000_000, preload: :author)
      assert state.assigns.post == nil

      assert_raise NoResultsError, ~r/there is no .*Post with the primary key 1000000/, fn ->
        opts = [preload: :author, on_missing: :raise]
        Sync.sync_one(state, Repo, :other, Post, 1_000_000, opts)
      end
    end

    test "preloads of lists", context do
      %{state: state, ada: ada, bea: bea, post: post, other: other} = context

      state =
        state
        |> Sync.sync_many(Repo, :many, Post, [other.id, 1_000_000, post.id], preload: :author)
        |> Sync.sync_all(Repo, :all, Post, preload: :author)
        |> Sync.sync_all(Repo, :drafts, from(p in Post, where: p.draft), preload: [:author])
        |> Sync.sync_all_by(Repo, :hers, Post, [author_id: ada.id], preload: :comments)
        |> Sync.sync_all(Repo, :last, {Post, order_by: [desc: :id], limit: 1}, preload: :author)

      names = fn posts -> for post <- posts, do: post.author.name end
      assert names.(state.assigns.many) == ["Bea", "Ada"]
      assert names.(state.assigns.all) == ["Ada", "Bea"]
      assert names.(state.assigns.drafts) == ["Bea"]
      assert names.(state.assigns.last) == ["Bea"]
      assert [%{comments: [%{text: "yes"}]}] = state.assigns.hers

      change(bea, name: "B")
      state = state |> next() |> next() |> next() |> next()
      quiet()
      assert names.(state.assigns.many) == ["B", "Ada"]
      assert names.(state.assigns.all) == ["Ada", "B"]
      assert names.(state.assigns.drafts) == ["B"]
      assert names.(state.assigns.last) == ["B"]

      state = Sync.sync_many(state, Repo, :many, Post, [], preload: :author)
      assert state.assigns.many == []
      assert Sync.cancel(state, Repo, :all).assigns.all == []
    end

    test "functions with Ecto's queries", %{state: state, post: post, comment: comment} do
      state =
        Sync.sync_fun(state, Repo, :it, fn ->
          %{
            count: Repo.aggregate(Comment, :count),
            liked: Repo.all(from(c in Comment, where: c.likes > 1, select: c.text)),
            joined:
              Repo.all(
                from(p in Post,
                  join: c in Comment,
                  on: c.post_id == p.id,
                  where: p.id == ^post.id,
                  select: {p.title, c.text}
                )
              ),
            found: Repo.get_by(Comment, likes: 2) != nil,
            stream: Comment |> Repo.stream() |> Enum.map(& &1.text),
            nested: Repo.transaction(fn -> Repo.exists?(Post) end)
          }
        end)

      assert state.assigns.it == %{
               count: 1,
               liked: [],
               joined: [{"One", "yes"}],
               found: false,
               stream: ["yes"],
               nested: {:ok, true}
             }

      change(comment, text: "YES", likes: 2)
      state = next(state)

      assert state.assigns.it == %{
               count: 1,
               liked: ["YES"],
               joined: [{"One", "YES"}],
               found: true,
               stream: ["YES"],
               nested: {:ok, true}
             }
    end

    test "a function only reads", %{state: state, post: post} do
      for fun <- [
            fn -> Repo.insert!(%Post{title: "new"}) end,
            fn -> Repo.update!(Ecto.Changeset.change(Repo.get!(Post, post.id), title: "x")) end,
            fn -> Repo.delete_all(Post) end,
            fn -> Repo.insert_all(Post, [%{title: "new"}]) end,
            fn -> Repo.watch(Repo.get!(Post, post.id)) end
          ] do
        assert_raise Unsupported, ~r/a live function only reads/, fn ->
          Sync.sync_fun(state, Repo, :it, fun)
        end
      end
    end

    test "a second instance of the Repo evaluates with itself" do
      start_supervised!({Repo, [name: :another_instance] ++ TestRepo.test_config()}, id: :another)
      Repo.put_dynamic_repo(:another_instance)
      tenant = Tenant.open!(Repo, "another-#{System.unique_integer([:positive])}")
      author = Repo.insert!(%Author{name: "Di"}, prefix: tenant)
      state = %{assigns: %{}, private: %{tenant: tenant}}
      instance = EctoFoundationDB.Connection.instance(Repo)

      state =
        Sync.sync_fun(state, instance, :it, fn ->
          for author <- Repo.all(Author), do: author.name
        end)

      assert state.assigns.it == ["Di"]
      one = Sync.sync_one(state, instance, :one, Author, author.id, preload: :posts)
      assert %{name: "Di", posts: []} = one.assigns.one
      Sync.cancel(one, instance, :one)
      change(author, name: "Dia")
      assert_receive {_ref, :ready} = message
      {:halt, state} = Sync.handle_ready(instance, message, state)
      assert state.assigns.it == ["Dia"]
    end
  end
end
