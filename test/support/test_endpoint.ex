if Code.ensure_loaded?(Phoenix.Endpoint) do
  defmodule EctoFoundationDB.TestEndpoint do
    @moduledoc """
    The smallest endpoint of Phoenix that has a LiveView:

        defmodule Endpoint, do: use(EctoFoundationDB.TestEndpoint, router: Router)
    """

    defmodule ErrorHTML do
      @moduledoc false
      def render(template, _assigns),
        do: Phoenix.Controller.status_message_from_template(template)
    end

    defmacro __using__(router: router) do
      quote do
        use Phoenix.Endpoint, otp_app: :ecto_fdb_sync

        @session [store: :cookie, key: "_test", signing_salt: "of the tests"]
        socket("/live", Phoenix.LiveView.Socket, websocket: [connect_info: [session: @session]])
        plug(Plug.Session, @session)
        plug(unquote(router))
      end
    end

    @doc "Starts an endpoint, linked to the calling process."
    def start(endpoint, config \\ []) do
      defaults = [
        secret_key_base: String.duplicate("x", 64),
        live_view: [signing_salt: "of the tests"],
        render_errors: [formats: [html: ErrorHTML], layout: false],
        server: false
      ]

      Application.put_env(:ecto_fdb_sync, endpoint, Keyword.merge(defaults, config))
      {:ok, _pid} = endpoint.start_link()
    end
  end
end
