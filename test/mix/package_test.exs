defmodule EctoFdbSync.PackageTest do
  # The contents of the package and its documentation.
  use ExUnit.Case, async: true

  @project Mix.Project.config()
  @docs @project[:docs]

  test "mix.exs and Cargo.toml have the same version" do
    [_all, version] = Regex.run(~r/^version = "(.*)"$/m, File.read!("Cargo.toml"))
    assert version == @project[:version]
  end

  test "every guide is part of the documentation, and in one group" do
    extras = @docs[:extras]
    assert Path.wildcard("guides/*.{md,livemd}") -- extras == []
    assert for(file <- extras, not File.exists?(file), do: file) == []

    for "guides/" <> _ = file <- extras do
      groups = for {group, pattern} <- @docs[:groups_for_extras], file =~ pattern, do: group
      assert length(groups) == 1, "#{file} is in the groups #{inspect(groups)}"
    end
  end

  test "every documented module is in one group" do
    {:ok, modules} = :application.get_key(:ecto_fdb_sync, :modules)

    for module <- modules,
        not (to_string(module.module_info(:compile)[:source]) =~ "/test/support/"),
        not String.starts_with?(inspect(module), "Mix."),
        match?({:docs_v1, _, _, _, %{}, _, _}, Code.fetch_docs(module)) do
      groups =
        for {group, patterns} <- @docs[:groups_for_modules],
            Enum.any?(List.wrap(patterns), &in_group?(module, &1)),
            do: group

      assert length(groups) == 1, "#{inspect(module)} is in the groups #{inspect(groups)}"
    end

    for {_group, patterns} <- @docs[:groups_for_modules],
        module when is_atom(module) <- List.wrap(patterns),
        # Compiled only with Ecto, and with LiveDashboard.
        module not in [Ecto.Adapters.FoundationDB, EctoFoundationDB.DashboardPage],
        do: assert(module in modules)
  end

  test "documentation names documented modules and functions" do
    extras = @docs[:extras] -- @docs[:skip_undefined_reference_warnings_on]
    documents = for file <- extras, String.ends_with?(file, ".md"), do: {file, File.read!(file)}
    {:ok, modules} = :application.get_key(:ecto_fdb_sync, :modules)

    docs =
      for module <- modules,
          {:docs_v1, _, _, _, %{"en" => doc}, _, functions} <- [Code.fetch_docs(module)],
          text <- [doc | for({_, _, _, %{"en" => doc}, _} <- functions, do: doc)],
          do: {inspect(module), text}

    assert length(docs) > 100

    for {where, text} <- documents ++ docs,
        # Without a function the last two groups are missing.
        [all, kind, module | rest] <-
          Regex.scan(
            ~r"`([ct]:)?(EctoFoundationDB(?:\.[A-Z]\w*)*)(?:\.([a-z_]\w*[?!]?)/(\d+))?`",
            text
          ),
        # Compiled only with LiveDashboard.
        module != "EctoFoundationDB.DashboardPage" do
      assert documented?(Module.concat([module]), kind, rest),
             "#{where} refers to #{all}, which has no documentation"
    end
  end

  defp documented?(module, kind, rest) do
    case {Code.fetch_docs(module), rest} do
      {{:docs_v1, _, _, _, %{}, _, _}, []} ->
        true

      {{:docs_v1, _, _, _, %{}, _, all}, [function, arity]} ->
        kinds = %{"" => [:function, :macro], "c:" => [:callback], "t:" => [:type]}[kind]

        Enum.any?(all, fn {{kind, name, most}, _, _, doc, metadata} ->
          least = most - Map.get(metadata, :defaults, 0)

          kind in kinds and to_string(name) == function and doc != :hidden and
            String.to_integer(arity) in least..most
        end)

      _hidden ->
        false
    end
  end

  defp in_group?(module, %Regex{} = pattern), do: inspect(module) =~ pattern
  defp in_group?(module, name), do: module == name

  test "the package contains what cargo needs, without the engine's checks" do
    excluded = @project[:package][:exclude_patterns]

    files =
      for listed <- @project[:package][:files],
          file <-
            if(File.dir?(listed),
              do: Path.wildcard(listed <> "/**", match_dot: true),
              else: [listed]
            ),
          not File.dir?(file),
          not Enum.any?(excluded, &(file =~ &1)),
          do: file

    assert "native/ecto_fdb/src/lib.rs" in files
    assert "priv/README.md" in files
    refute Enum.any?(files, &String.starts_with?(&1, "native/embedded_fdb/checks"))
    refute Enum.any?(files, &String.starts_with?(&1, "priv/native"))

    directory = EctoFdbSync.ThrowawayProject.new()

    for file <- files do
      copy = Path.join(directory, file)
      File.mkdir_p!(Path.dirname(copy))
      File.cp!(file, copy)
    end

    # Cargo reads every manifest of the workspace, and checks that the sources exist.
    args = ~w(metadata --format-version 1 --no-deps --offline)
    {output, status} = System.cmd("cargo", args, cd: directory, stderr_to_stdout: true)
    assert {0, _output} = {status, output}
  end

  test "links between the documents lead to an existing file and heading" do
    documents =
      ~w(*.md guides/*.{md,livemd} priv/*.md native/*/*.md)
      |> Enum.flat_map(&Path.wildcard/1)
      |> Map.new(&{&1, File.read!(&1)})

    for {document, text} <- documents,
        [_all, link] <- Regex.scan(~r/\]\(([^)\s]+)\)/, text),
        not (link =~ ~r/^\w+:/) do
      {file, heading} =
        case String.split(link, "#") do
          ["", heading] -> {document, heading}
          [file, heading] -> {beside(document, file), heading}
          [file] -> {beside(document, file), nil}
        end

      assert File.exists?(file), "#{document} links to #{link}, which does not exist"

      if heading do
        assert heading in headings(File.read!(file)),
               "#{document} links to #{link}: #{file} has no such heading"
      end
    end
  end

  defp beside(document, file) do
    document |> Path.dirname() |> Path.join(file) |> Path.expand() |> Path.relative_to_cwd()
  end

  # As GitHub and ExDoc name them.
  defp headings(text) do
    for [_all, heading] <- Regex.scan(~r/^#+ (.*)$/m, text) do
      heading
      |> String.downcase()
      |> String.replace(~r/[^\w\s-]/u, "")
      |> String.replace(" ", "-")
    end
  end
end
