# Where Ecto is present: its repository beside the plain one.

defmodule Bench.EctoUser do
  use Ecto.Schema

  @primary_key {:id, :binary_id, autogenerate: true}
  schema "users" do
    field(:name, :string)
    field(:team, :string)
  end

  def rename!(repo, user, name), do: repo.update!(Ecto.Changeset.change(user, name: name))
end

defmodule Bench.EctoRepo do
  use Ecto.Repo, otp_app: :bench, adapter: Ecto.Adapters.FoundationDB
end
