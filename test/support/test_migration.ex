defmodule EctoFoundationDB.TestMigration do
  @moduledoc false
  # The indexes and counters that the tenants of a test module have.
  #
  #     migration do
  #       [create(index(TestUser, [:name])), create(metadata(TestUser))]
  #     end
  #
  # makes the modules `Migration` and `Migrator` within the test module, and its tenants are opened
  # with them.

  defmacro migration(do: commands) do
    migration = Module.concat(__CALLER__.module, Migration)
    migrator = Module.concat(__CALLER__.module, Migrator)

    quote do
      defmodule unquote(migration) do
        use EctoFoundationDB.Migration

        @impl true
        def change, do: unquote(commands)
      end

      defmodule unquote(migrator) do
        use EctoFoundationDB.Migrator

        @impl true
        def migrations, do: [{1, unquote(migration)}]
      end

      @moduletag tenant_options: [migrator: unquote(migrator), log: false]
    end
  end
end
