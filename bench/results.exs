# What a scenario has measured: tables, printed as they grow, and charts of them.

defmodule Bench.Table do
  # Columns are names; the first one is wide. Values are shown as they are: milliseconds and microseconds with
  # one digit, `nil` for what was not measured.
  defstruct [:title, :columns, rows: []]

  @first 34

  def new(title, columns) do
    IO.puts("\n  #{title}")
    table = %__MODULE__{title: title, columns: ["" | columns]}
    print(table, table.columns)
    table
  end

  def add(%__MODULE__{columns: columns} = table, row) when length(row) == length(columns) do
    print(table, row)
    %{table | rows: table.rows ++ [row]}
  end

  @doc "A row that could not be measured, and why."
  def leave_out(table, name, reason) do
    IO.puts("  #{name}: left out. #{reason}")
    %{table | rows: table.rows ++ [{name, reason}]}
  end

  defp print(%{columns: columns}, [name | values]) do
    widths = for column <- tl(columns), do: max(String.length(column), 8)

    cells =
      for {value, width} <- Enum.zip(values, widths), do: String.pad_leading(text(value), width)

    IO.puts("  " <> Enum.join([String.pad_trailing(name, @first) | cells], "  "))
  end

  def text(nil), do: "–"
  def text(value) when is_float(value) and abs(value) >= 100, do: "#{round(value)}"

  def text(value) when is_float(value) and abs(value) < 0.95,
    do: :erlang.float_to_binary(value, decimals: 2)

  def text(value) when is_float(value), do: :erlang.float_to_binary(value, decimals: 1)
  def text(value), do: to_string(value)

  def markdown(%__MODULE__{title: title, columns: columns, rows: rows}) do
    line = fn cells -> "| " <> Enum.join(cells, " | ") <> " |" end
    rule = line.(["---" | List.duplicate("---:", length(columns) - 1)])
    {left_out, rows} = Enum.split_with(rows, &is_tuple/1)
    body = for row <- rows, do: line.(Enum.map(row, &text/1))
    notes = for {name, reason} <- left_out, do: "\nLeft out: #{name}. #{reason}"
    Enum.join(["#### #{title}\n", line.(columns), rule | body] ++ notes, "\n")
  end
end

defmodule Bench.Chart do
  # Horizontal bars as SVG.
  defstruct [:name, :title, :unit, bars: []]

  @colours %{ours: "#4e2a8e", classic: "#c4704f", floor: "#9aa5b1"}
  @legend %{ours: "ecto_fdb_sync", classic: "the classic way", floor: "the floor"}
  @row 22
  @labels 300
  @width 420

  @doc "Bars are `{label, :ours | :classic | :floor, value}`; those without a value are left out."
  def new(name, title, unit, bars) do
    bars = for {_, _, value} = bar <- bars, is_number(value), do: bar
    %__MODULE__{name: name, title: title, unit: unit, bars: bars}
  end

  def svg(%__MODULE__{title: title, unit: unit, bars: bars}) do
    values = for {_, _, value} <- bars, value > 0, do: value
    {least, most} = {Enum.min(values, fn -> 1 end), Enum.max(values, fn -> 1 end)}
    logarithmic? = most > 50 * least
    scale = if logarithmic?, do: ", logarithmic", else: ""

    length = fn value ->
      part =
        cond do
          value <= 0 -> 0
          logarithmic? -> (:math.log(value / least) + 0.7) / (:math.log(most / least) + 0.7)
          true -> value / most
        end

      Float.round(part * @width, 1)
    end

    height = 62 + length(bars) * @row
    series = bars |> Enum.map(&elem(&1, 1)) |> Enum.uniq()

    legend =
      for {one, place} <- Enum.with_index(series) do
        x = @labels + place * 150

        ~s(<rect x="#{x}" y="32" width="10" height="10" fill="#{@colours[one]}"/>) <>
          ~s(<text x="#{x + 15}" y="41">#{@legend[one]}</text>)
      end

    rows =
      for {{label, one, value}, place} <- Enum.with_index(bars) do
        y = 54 + place * @row
        wide = length.(value)

        ~s(<text x="#{@labels - 8}" y="#{y + 12}" text-anchor="end">#{escape(label)}</text>) <>
          ~s(<rect x="#{@labels}" y="#{y}" width="#{wide}" height="15" fill="#{@colours[one]}"/>) <>
          ~s(<text x="#{@labels + wide + 6}" y="#{y + 12}">#{Bench.Table.text(value)}</text>)
      end

    """
    <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 #{height}" width="800" height="#{height}" \
    font-family="system-ui, sans-serif" font-size="12" fill="#333">
    <rect width="800" height="#{height}" fill="#fff"/>
    <text x="12" y="20" font-size="14" font-weight="600">#{escape(title)} (#{unit}#{scale})</text>
    #{Enum.join(legend ++ rows, "\n")}
    </svg>
    """
  end

  defp escape(text) do
    text
    |> String.replace("&", "&amp;")
    |> String.replace("<", "&lt;")
    |> String.replace(">", "&gt;")
  end
end
