if Code.ensure_loaded?(Phoenix.LiveDashboard.PageBuilder) do
  defmodule EctoFoundationDB.DashboardPage do
    @moduledoc """
    A page of Phoenix LiveDashboard: how the database answers, what transactions have met, and which live
    queries the node's pages share.

    Name the Repos in the router:

        live_dashboard "/dashboard",
          additional_pages: [
            foundationdb: {EctoFoundationDB.DashboardPage, repos: [MyApp.Repo]}
          ]

    There is a tab for each Repo. The table has the live queries of `EctoFoundationDB.live_queries/2`; the search
    looks for a tenant's id, a source, or what a key contains. What the fields say: `EctoFoundationDB.health/2`,
    `EctoFoundationDB.Sync.stats/1`. The page asks the database for a read version each time that it refreshes.
    """

    use Phoenix.LiveDashboard.PageBuilder

    alias EctoFoundationDB.Sync

    @impl true
    def init(opts) do
      repos = Keyword.validate!(opts, [:repos])[:repos]

      unless is_list(repos) and repos != [] and Enum.all?(repos, &is_atom/1) do
        raise ArgumentError,
              "EctoFoundationDB.DashboardPage expects repos: [MyApp.Repo], got: #{inspect(repos)}"
      end

      {:ok, %{repos: repos}}
    end

    @impl true
    def menu_link(_session, _capabilities), do: {:ok, "FoundationDB"}

    @impl true
    def mount(_params, %{repos: repos}, socket), do: {:ok, assign(socket, :repos, repos)}

    # Rendering reads everything that the page shows.
    @impl true
    def handle_refresh(socket), do: {:noreply, socket}

    @impl true
    def render(assigns) do
      ~H"""
      <.live_nav_bar id="foundationdb_repos" page={@page}>
        <:item :for={repo <- @repos} name={inspect(repo)} label={inspect(repo)}>
          <.repo page={@page} repo={repo} />
        </:item>
      </.live_nav_bar>
      """
    end

    defp repo(assigns) do
      assigns = assign(assigns, :facts, facts(assigns.page.node, assigns.repo))

      ~H"""
      <%= case @facts do %>
        <% {:ok, health, stats} -> %>
          <.row>
            <:col>
              <.card inner_title="Database"><%= status(health) %></.card>
            </:col>
            <:col>
              <.card inner_title="Pages" inner_hint="Subscriptions, and the live queries that they share">
                <%= stats.subscriptions %> on <%= stats.live_queries %>
              </.card>
            </:col>
            <:col>
              <.card inner_title="Stale" inner_hint="Live queries that can't be kept up to date">
                <%= stats.stale %>
              </.card>
            </:col>
          </.row>
          <.row>
            <:col><.fields_card title="Database" fields={database(health)} /></:col>
            <:col><.fields_card title="Transactions" fields={transactions(health, stats)} /></:col>
            <:col><.fields_card title="Live queries" fields={sync(health, stats)} /></:col>
          </.row>
          <.live_table
            id={"live-queries-#{inspect(@repo)}"}
            dom_id="live-queries"
            page={@page}
            title="Live queries"
            rows_name="live queries"
            row_fetcher={&live_queries(@repo, &1, &2)}
            default_sort_by={:subscribers}
          >
            <:col :let={row} field={:tenant}><%= row.tenant || "–" %></:col>
            <:col :let={row} field={:source}><%= row.source || "–" %></:col>
            <:col :let={row} field={:query}><%= query(row) %></:col>
            <:col field={:subscribers} text_align="right" sortable={:desc} />
            <:col field={:records} text_align="right" sortable={:desc} />
            <:col :let={row} field={:bytes} header="Size" text_align="right" sortable={:desc}>
              <%= bytes(row.bytes) %>
            </:col>
            <:col :let={row} field={:changed_ms} header="Last change" text_align="right" sortable={:asc}>
              <%= duration(row.changed_ms) %> ago
            </:col>
            <:col :let={row} field={:read_us} header="Last read" text_align="right" sortable={:desc}>
              <%= milliseconds(row.read_us) %> ms
            </:col>
            <:col field={:stale} sortable={:desc} />
          </.live_table>
        <% {:error, reason} -> %>
          <.card inner_title={inspect(@repo)}><%= reason %></.card>
      <% end %>
      """
    end

    # The dashboard may be looked at from another node of the cluster.
    defp facts(node, repo) do
      {health, stats} = :erpc.call(node, __MODULE__, :local_facts, [repo], 10_000)
      {:ok, health, stats}
    rescue
      error -> {:error, "No answer: " <> Exception.message(error)}
    end

    @doc false
    def local_facts(repo), do: {EctoFoundationDB.health(repo), Sync.stats(repo)}

    defp live_queries(repo, params, node) do
      opts = [
        sort_by: params.sort_by,
        order: params.sort_dir,
        limit: params.limit,
        search: params.search || ""
      ]

      :erpc.call(node, EctoFoundationDB, :live_queries, [repo, opts], 10_000)
    end

    defp status(%{status: :ok, round_trip_us: us}),
      do: "answers in #{milliseconds(us)} ms"

    defp status(%{status: status, since: nil}), do: "#{status}"
    defp status(%{status: status, since: since}), do: "#{status} since #{time(since)}"

    defp database(health) do
      place =
        case health.database do
          {_kind, path} -> path
          :memory -> "in memory"
        end

      [
        {"Database", place},
        {"Coordinators", Enum.join(health.coordinators, ", ")},
        {"Processes not connected", health.failed_connections},
        {"Client", "#{health.library} #{health.version}, API #{health.api_version}"},
        {"Last answer", time(health.last_answer)},
        {"Last error", last_error(health.last_error)}
      ]
    end

    defp last_error(nil), do: "none"
    defp last_error({at, error}), do: "#{time(at)}: #{Exception.message(error)}"

    defp transactions(health, stats) do
      [
        {"Under way", health.transactions},
        {"Commits", stats.commits},
        {"Conflicts (1020)", stats.conflicts},
        {"Unknown results (1021)", stats.unknown_results},
        {"Retries", stats.transaction_retries}
      ]
    end

    defp sync(health, stats) do
      [
        {"Watches", "#{stats.pending_watches} of #{health.max_watches}"},
        {"Watches fired, failed", "#{stats.watches_fired}, #{stats.watches_failed}"},
        {"Reads, in transactions", "#{stats.reads}, #{stats.batches}"},
        {"Messages to pages", stats.messages},
        {"Queued, under way", "#{health.queued}, #{health.batches_under_way}"},
        {"Oldest waiting", duration(div(health.oldest_waiting_us, 1000))}
      ]
    end

    defp query(%{query: {:record, id}}), do: "record #{inspect(id)}"
    defp query(%{query: :all}), do: "all"

    defp query(%{query: {:function, {module, function, arguments}}}),
      do: Exception.format_mfa(module, function, arguments)

    defp query(%{query: {:function, function}}), do: inspect(function)

    defp query(%{query: {:by, index, values}}),
      do: "#{index}: #{Enum.map_join(values, ", ", &inspect/1)}"

    defp query(%{watched: watched}), do: inspect(watched)

    defp milliseconds(us), do: Float.round(us / 1000, 2)

    defp time(nil), do: "never"
    defp time(time), do: time |> DateTime.truncate(:second) |> DateTime.to_string()

    defp bytes(bytes) when bytes < 10_000, do: "#{bytes} B"
    defp bytes(bytes) when bytes < 10_000_000, do: "#{div(bytes, 1_000)} KB"
    defp bytes(bytes), do: "#{div(bytes, 1_000_000)} MB"

    defp duration(ms) when ms < 10_000, do: "#{Float.round(ms / 1000, 1)} s"
    defp duration(ms) when ms < 600_000, do: "#{div(ms, 1000)} s"
    defp duration(ms) when ms < 36_000_000, do: "#{div(ms, 60_000)} min"
    defp duration(ms), do: "#{div(ms, 3_600_000)} h"
  end
end
