defmodule EctoFoundationDB.Guides do
  @moduledoc false
  # Runs the examples of a guide as a program: its blocks run one after the other, in a namespace that replaces
  # `MyApp`. The first lines of a block tell its kind: settings, functions of a LiveView, migrations, tests, or
  # application code.

  alias EctoFoundationDB.{Connection, Migration, Tenant, TestRepo}

  defstruct [:namespace, :value, binding: [], modules: [], migrations: []]

  defmodule LiveView do
    @moduledoc false
    # What a LiveView's functions in the guides call.

    def put_private(socket, key, value), do: put_in(socket.private[key], value)
  end

  @doc "The blocks of Elixir in a file: their code and the line each begins at."
  def blocks(file) do
    text = File.read!(file)

    for [{_, _}, {_, indent}, {first, length}] <-
          Regex.scan(~r/^( *)```elixir\n(.*?)^\1```$/ms, text, return: :index) do
      line = text |> binary_part(0, first) |> String.split("\n") |> length()
      code = binary_part(text, first, length)
      {String.replace(code, ~r/^ {#{indent}}/m, ""), line}
    end
  end

  @doc """
  Runs a notebook as Livebook does: cell by cell in one process, without the cell that installs packages. Returns
  the values of the cells in order.
  """
  def notebook(file) do
    {values, _state} =
      for {code, line} <- blocks(file),
          not (code =~ "Mix.install("),
          reduce: {[], {[], __ENV__}} do
        {values, {binding, env}} ->
          forms = Code.string_to_quoted!(code, line: line, file: file)
          {value, binding, env} = Code.eval_quoted_with_env(forms, binding, %{env | file: file})
          {[value | values], {binding, env}}
      end

    Enum.reverse(values)
  end

  @doc """
  Runs a guide. `given` is what it takes for granted: `{words, code}`, code to be run before the block
  with these words, or before all where they are nil.
  """
  def run(file, namespace, given) do
    state = %__MODULE__{namespace: namespace}
    state = for({nil, code} <- given, reduce: state, do: (state -> block(state, {code, 1}, file)))

    for {code, _line} = block <- blocks(file), not tests?(code), reduce: state do
      state ->
        before = for {words, given} <- given, words != nil, code =~ words, do: {given, 1}
        Enum.reduce(before ++ [block], state, &block(&2, &1, file))
    end
  end

  @doc """
  Defines the tests of a guide, when tests are loaded: its modules as they are, and each other block in a
  module that uses its case template, with `more` code.
  """
  def tests(file, namespace, given, such, more \\ "") do
    state = %__MODULE__{namespace: namespace}
    state = Enum.reduce(given, state, &block(&2, {&1, 1}, file))

    for {code, line} <- blocks(file), tests?(code), such.(code), reduce: state do
      state ->
        if code =~ ~r/^defmodule /,
          do: block(state, {code, line}, file),
          else: block(state, {in_case(code, line, more), line - 2}, file)
    end

    # The process that loads tests ends before they run.
    namespace |> Module.concat(Repo) |> Process.whereis() |> Process.unlink()
  end

  defp in_case(code, line, more) do
    """
    defmodule MyApp.Line#{line}Test do
      use MyApp.Case, async: true
      #{code}
      #{more}
    end
    """
  end

  defp tests?(code),
    do:
      code =~ ~r/^(test|setup) / or
        code =~ ~r/use ExUnit.CaseTemplate|import Phoenix.LiveViewTest/

  defp block(%{namespace: namespace} = state, {code, line}, file) do
    code = String.replace(code, "MyApp", inspect(namespace))

    cond do
      code =~ "config :my_app, " ->
        settings(code, file)
        state

      code =~ ~r/^(def|defp|use) /m ->
        # None of them is called by another one of the same block.
        code = String.replace(code, ~r/^defp /m, "def ")
        module = Module.concat(namespace, "Line#{line}")

        body = [
          quote(do: import(EctoFoundationDB.Guides.LiveView, warn: false)),
          quote(do: alias(unquote(Module.concat(namespace, Repo)), warn: false)),
          quote(do: alias(unquote(Module.concat(namespace, User)), warn: false))
          | parse(code, line, file)
        ]

        evaluate(
          state,
          [quote(do: defmodule(unquote(module), do: (unquote_splicing(body))))],
          file
        )

        %{state | modules: state.modules ++ [module]}

      true ->
        forms = parse(code, line, file)
        {value, binding} = evaluate(state, forms, file)
        state = %{state | binding: binding, value: value}
        start(state)
        migrate(state, value, defined(forms))
    end
  end

  defp parse(code, line, file) do
    case Code.string_to_quoted!(code, line: line, file: file) do
      {:__block__, _, forms} -> forms
      form -> [form]
    end
  end

  defp evaluate(%{namespace: namespace} = state, forms, file) do
    names =
      for name <- [:Repo, :User, :Account, :Post, :Reading], do: Module.concat(namespace, name)

    prelude =
      for module <- names ++ [EctoFoundationDB.Sync, Tenant],
          do: quote(do: alias(unquote(module), warn: false))

    ecto =
      if Code.ensure_loaded?(Ecto.Query),
        do: [quote(do: import(Ecto.Query, warn: false))],
        else: []

    imports = [quote(do: import(EctoFoundationDB.Migration, warn: false)) | ecto]
    Code.eval_quoted({:__block__, [], prelude ++ imports ++ forms}, state.binding, file: file)
  end

  # Each setting is evaluated separately: they are alternatives.
  defp settings(code, file) do
    settings = for form <- parse(code, 1, file), do: Macro.to_string(form)

    for setting <- settings,
        {_app, repos} <- Config.Reader.eval!(file, "import Config\n" <> setting) do
      for {repo, config} <- repos, do: Connection.validate!(repo, config)
    end
  end

  @doc "A Repo's configuration, with separate tenants."
  def config(namespace),
    do: TestRepo.test_config() ++ [storage_id: "#{inspect(namespace)}-#{System.os_time()}"]

  defp start(%{namespace: namespace}) do
    repo = Module.concat(namespace, Repo)

    if Code.ensure_loaded?(repo) and Process.whereis(repo) == nil,
      do: {:ok, _} = repo.start_link(config(namespace))
  end

  # Runs the guide's migrations, or commands of one, in the tenant.
  defp migrate(%{namespace: namespace} = state, value, defined) do
    defined = Enum.filter(defined, &function_exported?(&1, :change, 0))

    new =
      case List.wrap(value) do
        [{action, %Migration.Index{}} | _] = commands when action in [:create, :drop] ->
          module = Module.concat(namespace, "Migration#{length(state.migrations)}")
          change = quote(do: def(change, do: unquote(Macro.escape(commands))))
          Module.create(module, change, Macro.Env.location(__ENV__))
          [module | defined]

        _no_commands ->
          defined
      end

    state = %{state | migrations: state.migrations ++ new}

    if state.binding[:tenant] && new != [] do
      migrations = Enum.with_index(state.migrations, fn module, n -> {n, module} end)
      migrator = Module.concat(namespace, "Migrator#{length(migrations)}")
      body = quote(do: def(migrations, do: unquote(Macro.escape(migrations))))
      Module.create(migrator, body, Macro.Env.location(__ENV__))
      %Tenant{repo: repo, id: id} = state.binding[:tenant]
      tenant = Tenant.open!(repo, id, migrator: migrator, log: false)
      %{state | binding: Keyword.put(state.binding, :tenant, tenant)}
    else
      state
    end
  end

  defp defined(forms) do
    for {:defmodule, _, [{:__aliases__, _, name}, _]} <- forms, do: Module.concat(name)
  end
end
