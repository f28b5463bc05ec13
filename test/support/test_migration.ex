defmodule EctoFoundationDB.TestMigration do
  @moduledoc false
  # The indexes and counters in the tenants of a test module.
  #
  #     migration do
  #       [create(index(TestUser, [:name])), create(metadata(TestUser))]
  #     end
  #
  # defines the modules `Migration` and `Migrator` within the test module, and its tenants are opened
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

  @doc """
  Versions of an application, each with one more migration than the one before:

      versions [
        {1, [create(index(TestUser, [:name]))]},
        {2, [drop(index(TestUser, [:name]))]}
      ]

  `migrate(tenant, 2)` opens a tenant as the version with the migrations until 2 does.
  """
  defmacro versions(versions) do
    module = __CALLER__.module
    migration = fn version -> Module.concat(module, "Migration#{version}") end
    list = for {version, _commands} <- versions, do: {version, migration.(version)}

    modules =
      for {{version, commands}, n} <- Enum.with_index(versions, 1) do
        quote do
          defmodule unquote(migration.(version)) do
            use EctoFoundationDB.Migration

            @impl true
            def change, do: unquote(commands)
          end

          defmodule unquote(Module.concat(module, "Until#{version}")) do
            use EctoFoundationDB.Migrator

            @impl true
            def migrations, do: unquote(Enum.take(list, n))
          end
        end
      end

    quote do
      unquote_splicing(modules)

      defp migrate(tenant, last, opts \\ []) do
        migrator = Module.concat(__MODULE__, "Until#{last}")

        EctoFoundationDB.Tenant.open!(
          tenant.repo,
          tenant.id,
          [migrator: migrator, log: false] ++ opts
        )
      end
    end
  end
end
