defmodule EctoFoundationDB.IndexerTest do
  # The example of guides/indexes_and_queries.md.
  use EctoFoundationDB.LayerCase, async: true

  alias EctoFoundationDB.Indexer
  alias EctoFoundationDB.Exception.Unsupported

  for {code, line} <- EctoFoundationDB.Guides.blocks("guides/indexes_and_queries.md"),
      code =~ "defmodule MyApp.WordIndexer" do
    code |> String.replace("MyApp", inspect(__MODULE__)) |> Code.eval_string([], line: line)
  end

  versions([
    {1,
     [
       create(
         index(TestPost, [:title], options: [indexer: EctoFoundationDB.IndexerTest.WordIndexer])
       )
     ]},
    {2,
     [
       drop(
         index(TestPost, [:title], options: [indexer: EctoFoundationDB.IndexerTest.WordIndexer])
       )
     ]}
  ])

  defp find(tenant, word) do
    for post <- Indexer.all(tenant, TestPost, :posts_title_index, [word]), do: post.title
  end

  test "a custom index is built, maintained, read and dropped", %{tenant: tenant} do
    TestRepo.insert!(%TestPost{id: "1", title: "Hello, World"}, prefix: tenant)
    tenant = migrate(tenant, 1)
    assert find(tenant, "hello") == ["Hello, World"]

    post = TestRepo.insert!(%TestPost{id: "2", title: "Hello hello"}, prefix: tenant)
    assert find(tenant, "hello") == ["Hello, World", "Hello hello"]
    TestRepo.update!(post, title: "Goodbye")
    assert find(tenant, "hello") == ["Hello, World"]
    assert find(tenant, "goodbye") == ["Goodbye"]
    TestRepo.delete_all(TestPost, prefix: tenant)
    assert find(tenant, "goodbye") == []
    assert for({tuple, _} <- dump(tenant), elem(tuple, 1) == "posts", do: tuple) == []

    TestRepo.insert!(%TestPost{id: "1", title: "Hello"}, prefix: tenant)
    migrate(tenant, 2)

    assert [{<<0xFD>>, "posts", "d", "1"}] =
             for({tuple, _} <- dump(tenant), elem(tuple, 1) == "posts", do: tuple)

    assert_raise Unsupported, ~r/has no index :posts_title_index/, fn -> find(tenant, "hello") end
  end

  test "is not a default index: queries do not use it", %{tenant: tenant} do
    tenant = migrate(tenant, 1)

    assert_raise Unsupported, fn ->
      TestRepo.all(TestPost, where: [title: "x"], prefix: tenant)
    end
  end

  test "if this version lacks the indexer, it can't write", %{tenant: tenant} do
    alias EctoFoundationDB.Layer.{Keys, Metadata}

    index = %EctoFoundationDB.Index{
      name: :posts_x_index,
      indexer: No.Such.Indexer,
      source: "posts",
      fields: [:title]
    }

    operations(tenant, [
      {:set, {:pack, Keys.index_description(tenant, "posts", index.name)},
       :erlang.term_to_binary(EctoFoundationDB.Index.to_data(index))},
      Metadata.changed()
    ])

    assert_raise Unsupported, ~r/posts_x_index of "posts" is maintained by No.Such.Indexer/, fn ->
      TestRepo.insert!(%TestPost{id: "1", title: "x"}, prefix: tenant)
    end
  end
end
