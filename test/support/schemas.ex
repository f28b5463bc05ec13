defmodule EctoFoundationDB.TestSchema do
  @moduledoc false
  # Schemas as modules without Ecto define them.
  #
  #     use TestSchema, source: "users", fields: [id: :binary_id, name: :string]

  defmacro __using__(opts) do
    quote bind_quoted: [opts: opts] do
      @fields opts[:fields]
      @names Keyword.keys(@fields)
      @primary_key Keyword.get(opts, :primary_key, [:id])

      defstruct @names ++ [__meta__: %{prefix: nil, state: :built, context: opts[:context]}]

      def __schema__(:source), do: unquote(opts[:source])
      def __schema__(:fields), do: @names
      def __schema__(:primary_key), do: @primary_key

      for {key, value} <- Keyword.take(opts, [:autogenerate, :autoupdate, :autogenerate_id]) do
        def __schema__(unquote(key)), do: unquote(Macro.escape(value))
      end

      for {name, type} <- @fields do
        def __schema__(:type, unquote(name)), do: unquote(Macro.escape(type))
      end

      def __schema__(:type, _name), do: nil

      for {name, source} <- opts[:sources] || [] do
        def __schema__(:field_source, unquote(name)), do: unquote(source)
      end

      def __schema__(:field_source, name), do: if(name in @names, do: name)
    end
  end
end

defmodule EctoFoundationDB.TestUser do
  @moduledoc false
  use EctoFoundationDB.TestSchema,
    source: "users",
    fields: [
      id: :binary_id,
      name: :string,
      dept: :string,
      age: :integer,
      active: :boolean,
      score: :float,
      joined: :date,
      seen_at: :utc_datetime_usec,
      notes: :string
    ]
end

defmodule EctoFoundationDB.TestAccount do
  @moduledoc false
  use EctoFoundationDB.TestSchema,
    source: "accounts",
    fields: [id: :id, balance: :integer, owner: :string]
end

defmodule EctoFoundationDB.TestPost do
  @moduledoc false
  # With generated id and timestamps.
  use EctoFoundationDB.TestSchema,
    source: "posts",
    fields: [
      id: :binary_id,
      title: :string,
      inserted_at: :naive_datetime,
      updated_at: :naive_datetime
    ],
    autogenerate_id: {:id, :id, :binary_id},
    autogenerate: [{[:inserted_at, :updated_at], {__MODULE__, :now, []}}],
    autoupdate: [{[:updated_at], {__MODULE__, :now, []}}]

  def now, do: NaiveDateTime.truncate(NaiveDateTime.utc_now(), :second)
end

defmodule EctoFoundationDB.TestSerial do
  @moduledoc false
  # With a generated integer id.
  use EctoFoundationDB.TestSchema,
    source: "serials",
    fields: [id: :id, name: :string],
    autogenerate_id: {:id, :id, :id}
end

defmodule EctoFoundationDB.TestNote do
  @moduledoc false
  use EctoFoundationDB.TestSchema,
    source: "notes",
    fields: [id: :binary_id, tag: :string, text: :string]
end

defmodule EctoFoundationDB.TestMember do
  @moduledoc false
  # A field with a different stored name.
  use EctoFoundationDB.TestSchema,
    source: "members",
    fields: [id: :string, name: :string, team: :string],
    sources: [team: :t]
end

defmodule EctoFoundationDB.TestEvent do
  @moduledoc false
  use EctoFoundationDB.TestSchema,
    source: "events",
    fields: [id: EctoFoundationDB.Versionstamp, kind: :string, data: :string]
end

defmodule EctoFoundationDB.TestThing do
  @moduledoc false
  # Any term in any field.
  use EctoFoundationDB.TestSchema, source: "things", fields: [id: nil, value: nil]
end

defmodule EctoFoundationDB.TestNoKey do
  @moduledoc false
  use EctoFoundationDB.TestSchema, source: "nokey", primary_key: [], fields: [name: :string]
end

defmodule EctoFoundationDB.TestReading do
  @moduledoc false
  # Records that are only in an index.
  use EctoFoundationDB.TestSchema,
    source: "readings",
    fields: [id: :string, sensor: :string, at: :integer, value: :integer],
    context: [write_primary: false]
end
