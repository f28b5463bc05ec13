defmodule EctoFoundationDB.Supervisor do
  @moduledoc false
  # The running parts of a Repo of either kind. The children after the connection need its table.

  use Supervisor

  alias EctoFoundationDB.{Connection, Evaluator, Planner, Reporter}
  alias EctoFoundationDB.Layer.Ids

  @doc "Starts an instance of a Repo with a validated configuration (`Connection.validate!/2`)."
  @spec start_link(atom(), module(), keyword(), keyword()) :: Supervisor.on_start()
  def start_link(repo, module, config, opts \\ []),
    do: Supervisor.start_link(__MODULE__, {repo, module, config}, opts)

  @impl true
  def init({repo, module, config}) do
    children = [
      {Connection, {repo, module, config}},
      child(Planner, repo),
      child(Evaluator, repo),
      child(Reporter, repo),
      child(Ids, repo)
    ]

    Supervisor.init(children, strategy: :rest_for_one)
  end

  defp child(module, repo), do: %{id: module, start: {module, :start_link, [repo]}}

  @doc "The original error for which a Repo did not start."
  @spec reason(term()) :: term()
  def reason({:shutdown, {:failed_to_start_child, _child, reason}}), do: reason(reason)
  def reason(reason), do: reason
end
