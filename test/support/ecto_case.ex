if Code.ensure_loaded?(Ecto.Adapter) do
  defmodule EctoFoundationDB.EctoCase do
    @moduledoc false
    # An Ecto repository, and a tenant of it for each test.
    use ExUnit.CaseTemplate

    alias EctoFoundationDB.{Sandbox, TestRepo}

    defmodule User do
      use Ecto.Schema
      import Ecto.Changeset

      schema "users" do
        field(:name, :string)
        field(:email, :string)
        field(:age, :integer)
        field(:score, :decimal)
        field(:tags, {:array, :string}, default: [])
        field(:role, Ecto.Enum, values: [:admin, :user])
        field(:nick, :string, source: :nick_name)
        field(:secret, :string, load_in_query: false, redact: true)
        field(:origin, :string, writable: :insert)
        field(:shown, :string, virtual: true)
        field(:lock, :integer, default: 1)

        has_many(:posts, EctoFoundationDB.EctoCase.Post,
          on_delete: :delete_all,
          on_replace: :delete
        )

        has_many(:comments, through: [:posts, :comments])
        has_one(:profile, EctoFoundationDB.EctoCase.Profile)

        many_to_many(:groups, EctoFoundationDB.EctoCase.Group,
          join_through: EctoFoundationDB.EctoCase.Membership
        )

        embeds_one :address, Address, on_replace: :update do
          field(:street, :string)
          field(:kind, Ecto.Enum, values: [:home, :work])
        end

        timestamps()
      end

      def changeset(user, params) do
        user
        |> cast(params, [:name, :email, :age, :role, :nick, :tags, :origin])
        |> cast_assoc(:posts)
        |> cast_embed(:address,
          with: fn address, params -> cast(address, params, [:street, :kind]) end
        )
        |> validate_required([:name])
        |> unique_constraint(:email)
      end
    end

    defmodule Post do
      use Ecto.Schema

      schema "posts" do
        field(:title, :string)
        field(:at, :utc_datetime_usec)
        field(:visits, :integer)
        belongs_to(:user, EctoFoundationDB.EctoCase.User)
        has_many(:comments, EctoFoundationDB.EctoCase.Comment)
        timestamps()
      end

      def changeset(post, params), do: Ecto.Changeset.cast(post, params, [:title, :visits])
    end

    defmodule Comment do
      use Ecto.Schema
      @primary_key {:id, :binary_id, autogenerate: true}

      schema "comments" do
        field(:text, :string)
        belongs_to(:post, EctoFoundationDB.EctoCase.Post)
      end
    end

    defmodule Profile do
      use Ecto.Schema

      schema "profiles" do
        field(:bio, :string)
        belongs_to(:user, EctoFoundationDB.EctoCase.User)
      end
    end

    defmodule Group do
      use Ecto.Schema

      schema "groups" do
        field(:name, :string)
      end
    end

    defmodule Membership do
      use Ecto.Schema

      schema "memberships" do
        belongs_to(:user, EctoFoundationDB.EctoCase.User)
        belongs_to(:group, EctoFoundationDB.EctoCase.Group)
      end
    end

    defmodule Session do
      use Ecto.Schema

      @primary_key {:id, EctoFoundationDB.Versionstamp,
                    partition_by: :user_id, autogenerate: false}
      schema "sessions" do
        field(:user_id, :string)
        field(:data, :string)
      end
    end

    defmodule Event do
      use Ecto.Schema

      @primary_key {:id, EctoFoundationDB.Versionstamp, autogenerate: false}
      schema "ecto_events" do
        field(:data, :string)
      end
    end

    defmodule TwoKeys do
      use Ecto.Schema

      @primary_key false
      schema "two_keys" do
        field(:a, :integer, primary_key: true)
        field(:b, :integer, primary_key: true)
      end
    end

    defmodule Indexes do
      use EctoFoundationDB.Migration

      @impl true
      def change do
        [
          create(index(User, [:email], unique: true)),
          create(index(User, [:age, :name])),
          create(index(User, [:name])),
          create(index(User, [:nick])),
          create(index(User, [:role])),
          create(index(User, [:score])),
          create(metadata(User)),
          create(metadata(User, [:name])),
          create(index(Post, [:user_id, :visits])),
          create(index(Post, [:at])),
          create(metadata(Post)),
          create(index(Comment, [:post_id])),
          create(index(Profile, [:user_id])),
          create(index(Membership, [:user_id])),
          create(index(Event, [:data]))
        ]
      end
    end

    defmodule Repo do
      use Ecto.Repo, otp_app: :ecto_fdb_sync, adapter: Ecto.Adapters.FoundationDB
      use EctoFoundationDB.Migrator

      @impl EctoFoundationDB.Migrator
      def migrations, do: [{0, Indexes}]
    end

    using do
      quote do
        import Ecto.Query
        import EctoFoundationDB.EctoCase
        import EctoFoundationDB.LayerCase, only: [dump: 1, assert_calls: 2]

        alias Ecto.Adapters.FoundationDB
        alias EctoFoundationDB.EctoCase.{Comment, Event, Group, Membership, Post, Profile, Repo}
        alias EctoFoundationDB.EctoCase.{Session, TwoKeys, User}
        alias EctoFoundationDB.Exception.{IncorrectTenancy, Unsupported}
        alias EctoFoundationDB.Tenant
      end
    end

    setup context do
      start_repo()
      tenant = Sandbox.checkout(Repo, EctoFoundationDB.LayerCase.tenant_id(context), log: false)
      on_exit(fn -> Sandbox.checkin(Repo, tenant.id) end)
      {:ok, tenant: tenant}
    end

    @doc "Starts the Repo of all these tests, once."
    def start_repo do
      Application.put_env(:ecto_fdb_sync, Repo, TestRepo.test_config())

      case Repo.start_link() do
        # It outlives the first test.
        {:ok, pid} -> Process.unlink(pid)
        {:error, {:already_started, _pid}} -> :ok
      end
    end

    @doc "The names, or another field, of what a query gives."
    def names(query, tenant, field \\ :name),
      do: query |> Repo.all(prefix: tenant) |> Enum.map(&Map.fetch!(&1, field)) |> Enum.sort()
  end
end
