defmodule EctoFoundationDB.ChangesetTest do
  use EctoFoundationDB.LayerCase, async: true

  alias EctoFoundationDB.Exception.Unsupported
  alias EctoFoundationDB.{ConflictError, StaleEntryError}

  defmodule Ticket do
    defstruct [:id, :title, :lock, :place, :origin, :hint, :notes] ++
                [__meta__: %{prefix: nil, state: :built, source: "tickets"}]

    def __schema__(:source), do: "tickets"
    def __schema__(:primary_key), do: [:id]
    def __schema__(:fields), do: [:id, :title, :lock, :place, :origin]
    def __schema__(:embeds), do: [:place]
    def __schema__(:associations), do: [:notes]
    def __schema__(:updatable_fields), do: {[:title, :lock, :place], [:id, :origin]}

    def __schema__(:type, field) when field in [:id, :title, :lock, :place, :origin], do: :any
    def __schema__(:type, _field), do: nil
    def __schema__(:association, :notes), do: %{on_delete: :nothing}
  end

  defmodule Place do
    defstruct [:city]
    def __schema__(:fields), do: [:city]
    def __schema__(:type, :city), do: :string
  end

  defmodule Stop do
    defstruct [:city, :changed]
    def __schema__(:fields), do: [:city, :changed]
    def __schema__(:autoupdate), do: [{[:changed], {System, :unique_integer, []}}]
    def __schema__(:type, _field), do: :any
  end

  defmodule Tour do
    defstruct [:id, :stops, __meta__: %{prefix: nil, state: :built}]
    def __schema__(:source), do: "tours"
    def __schema__(:primary_key), do: [:id]
    def __schema__(:fields), do: [:id, :stops]
    def __schema__(:embeds), do: [:stops]
    def __schema__(:type, _field), do: :any
  end

  defp change(struct, changes, more \\ []),
    do:
      struct!(
        Ecto.Changeset,
        Keyword.merge([data: struct, changes: Map.new(changes), valid?: true], more)
      )

  defp lock(ticket, changes) do
    next = fn changeset ->
      %{changeset | changes: Map.put(changeset.changes, :lock, ticket.lock + 1)}
    end

    change(ticket, changes, filters: %{lock: ticket.lock}, prepare: [next])
  end

  defp get(tenant, id \\ "t1"), do: TestRepo.get(Ticket, id, prefix: tenant)

  setup %{tenant: tenant} do
    {:ok, ticket: TestRepo.insert!(%Ticket{id: "t1", title: "a", lock: 1}, prefix: tenant)}
  end

  test "a virtual field's change is in the result, and is not stored", context do
    %{tenant: tenant, ticket: ticket} = context
    assert %{title: "b", hint: "h"} = TestRepo.update!(change(ticket, title: "b", hint: "h"))
    assert %{title: "b", hint: nil} = get(tenant)
    assert %{hint: "only"} = TestRepo.update!(change(ticket, hint: "only"))

    inserted = TestRepo.insert!(change(%Ticket{id: "t2"}, title: "c", hint: "h"), prefix: tenant)
    assert %{title: "c", hint: "h"} = inserted
    assert %{title: "c", hint: nil} = get(tenant, "t2")
  end

  test "an optimistic lock lets the first writer win", %{tenant: tenant, ticket: ticket} do
    assert %{title: "b", lock: 2} = TestRepo.update!(lock(ticket, title: "b"))

    assert {:error, %StaleEntryError{filters: [lock: 1]} = error} =
             TestRepo.update(lock(ticket, title: "c"))

    assert Exception.message(error) =~ "changed meanwhile"
    assert {:error, %StaleEntryError{}} = TestRepo.delete(lock(ticket, []))
    assert %{title: "b", lock: 2} = current = get(tenant)
    assert TestRepo.delete!(lock(current, []))
    assert get(tenant) == nil
  end

  test "two writers at once with one lock: one of them wins", %{tenant: tenant, ticket: ticket} do
    results =
      1..8
      |> Enum.map(&Task.async(fn -> TestRepo.update(lock(ticket, title: "w#{&1}")) end))
      |> Task.await_many(60_000)

    assert [{:ok, %{title: title}}] = Enum.filter(results, &match?({:ok, _}, &1))
    assert %{title: ^title, lock: 2} = get(tenant)
  end

  test "prepared functions run in the transaction, in their order", context do
    %{tenant: tenant, ticket: ticket} = context

    write = fn changeset ->
      changeset.repo.insert!(%TestAccount{id: 1, balance: 7})
      %{changeset | changes: Map.update!(changeset.changes, :title, &(&1 <> "!"))}
    end

    upcase = fn changeset ->
      %{changeset | changes: Map.update!(changeset.changes, :title, &String.upcase/1)}
    end

    # Ecto puts the last one first.
    assert %{title: "B!"} =
             TestRepo.update!(change(ticket, [title: "b"], prepare: [write, upcase]))

    assert %{balance: 7} = TestRepo.get(TestAccount, 1, prefix: tenant)
  end

  test "what a prepared function has written goes with the changeset", %{tenant: tenant} do
    write = fn changeset ->
      changeset.repo.insert!(%TestAccount{id: 2})
      changeset
    end

    invalid = fn changeset -> %{write.(changeset) | valid?: false} end
    existing = change(%Ticket{id: "t1"}, [title: "other"], prepare: [write])
    assert {:error, %ConflictError{}} = TestRepo.insert(existing, prefix: tenant)

    assert {:error, %Ecto.Changeset{valid?: false, action: :insert, repo: TestRepo}} =
             TestRepo.insert(change(%Ticket{id: "t3"}, [], prepare: [invalid]), prefix: tenant)

    assert get(tenant, "t3") == nil
    assert TestRepo.get(TestAccount, 2, prefix: tenant) == nil

    wrong = change(%Ticket{id: "t3"}, [], prepare: [fn _changeset -> :ok end])

    assert_raise ArgumentError, ~r/to return a changeset, got: :ok/, fn ->
      TestRepo.insert(wrong, prefix: tenant)
    end
  end

  test "embeds are changesets within a changeset", %{tenant: tenant, ticket: ticket} do
    place = change(%Place{city: "Rome"}, [city: "Oslo"], action: :update, types: %{city: :string})
    # Stored as they are without Ecto, whose types would make maps of them.
    assert %{place: %Place{city: "Oslo"}} = TestRepo.update!(change(ticket, place: place))
    assert %{place: %{city: "Oslo"}} = get(tenant)
    assert %{place: nil} = TestRepo.update!(change(ticket, place: %{place | action: :replace}))
    assert %{place: nil} = get(tenant)
  end

  test "of a list of embeds those that change get new timestamps", %{tenant: tenant} do
    stops = for city <- ~w(Rome Oslo), do: %Stop{city: city, changed: 0}
    tour = TestRepo.insert!(%Tour{id: "t", stops: stops}, prefix: tenant)
    [rome, oslo] = tour.stops

    # As Ecto has it: a changeset for each, without changes for those that stay.
    types = %{city: :string}

    changesets = [
      change(rome, [], action: :update, types: types),
      change(oslo, [city: "Bergen"], action: :update, types: types),
      change(%Stop{}, [city: "Paris"], action: :insert, types: types)
    ]

    assert %{stops: [^rome, %{city: "Bergen", changed: second}, %{changed: third}]} =
             TestRepo.update!(change(tour, stops: changesets))

    assert second != 0 and is_integer(third)

    # The same with structs.
    assert %{stops: [^rome, %{city: "Turku", changed: turku}]} =
             TestRepo.update!(tour, stops: [rome, %{oslo | city: "Turku"}])

    assert turku not in [0, second]
  end

  test "fields that are not writable are not written", %{tenant: tenant, ticket: ticket} do
    TestRepo.insert!(%Ticket{id: "t2", origin: "web"}, prefix: tenant)
    assert %{origin: "web"} = read = get(tenant, "t2")

    assert %{origin: "web", title: "b"} =
             TestRepo.update!(change(read, title: "b", origin: "mail"))

    assert %{origin: "web"} = TestRepo.update!(change(read, origin: "mail"))
    assert %{origin: "web", title: "b"} = get(tenant, "t2")
    assert TestRepo.update!(change(ticket, [])) == ticket
  end

  test "invalid changesets, and those for another action", %{tenant: tenant, ticket: ticket} do
    for {action, write} <- [
          insert: &TestRepo.insert(&1, prefix: tenant),
          update: &TestRepo.update/1,
          delete: &TestRepo.delete/1
        ] do
      assert {:error, %Ecto.Changeset{action: ^action, repo: TestRepo}} =
               write.(change(ticket, [title: "x"], valid?: false))
    end

    assert_raise ArgumentError, ~r/has the action :insert/, fn ->
      TestRepo.update(change(ticket, [title: "x"], action: :insert))
    end
  end

  test "associations and other sources are refused", %{tenant: tenant, ticket: ticket} do
    note = %TestNote{id: "n1"}

    for write <- [
          fn -> TestRepo.insert(%Ticket{id: "t2", notes: [note]}, prefix: tenant) end,
          fn -> TestRepo.insert(change(%Ticket{id: "t2"}, notes: [note]), prefix: tenant) end,
          fn -> TestRepo.update(change(ticket, notes: [note])) end
        ] do
      assert_raise Unsupported, ~r/the association :notes/, write
    end

    elsewhere = put_in(ticket.__meta__[:source], "others")

    for write <- [
          fn -> TestRepo.insert(%{elsewhere | id: "t2"}) end,
          fn -> TestRepo.update(elsewhere, title: "b") end,
          fn -> TestRepo.delete(elsewhere) end
        ] do
      assert_raise Unsupported, ~r/the source "others"/, write
    end

    # Those that were read and put into the struct are not to be written.
    loaded = put_in(note.__meta__.state, :loaded)
    assert %{notes: [^loaded]} = TestRepo.update!(%{ticket | notes: [loaded]}, title: "b")
    assert %{title: "b"} = get(tenant)
  end
end

defmodule EctoFoundationDB.ChangesetFaultsTest do
  # Commits whose results get lost. The database is one of its own.
  use ExUnit.Case, async: true

  alias EctoFoundationDB.ChangesetTest.Ticket
  alias EctoFoundationDB.{Embedded, Tenant}

  @moduletag :embedded

  defmodule Repo do
    use EctoFoundationDB.Repo, otp_app: :ecto_fdb_sync
  end

  test "the only writer with an optimistic lock is never stale" do
    start_supervised!({Repo, embedded: true, log: false})
    tenant = Tenant.open!(Repo, "locks-#{System.unique_integer([:positive])}")
    ticket = Repo.insert!(%Ticket{id: "t", title: "0", lock: 0}, prefix: tenant)
    seed = ExUnit.configuration()[:seed]
    Embedded.faults(Repo, seed: seed, commit_unknown_result: 0.5)

    changeset = fn ticket, changes ->
      filters = %{lock: ticket.lock}
      %Ecto.Changeset{data: ticket, changes: Map.new(changes), filters: filters, valid?: true}
    end

    last =
      Enum.reduce(1..60, ticket, fn i, ticket ->
        assert {:ok, updated} = Repo.update(changeset.(ticket, title: "#{i}", lock: i))
        updated
      end)

    assert %{title: "60", lock: 60} = Repo.get(Ticket, "t", prefix: tenant)
    assert {:ok, _} = Repo.delete(changeset.(last, []))
    Embedded.faults(Repo, nil)
    assert Repo.get(Ticket, "t", prefix: tenant) == nil
  end
end
