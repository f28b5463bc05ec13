defmodule EctoFoundationDB.FileTest do
  # The embedded engine with a file, in VMs that are killed.
  use ExUnit.Case, async: true

  alias EctoFoundationDB.OtherVM

  @moduletag :embedded
  @moduletag timeout: 180_000

  @tenant ~s|tenant = EctoFoundationDB.Tenant.open!(Away.Repo, "t")|

  setup do
    path = Path.join(System.tmp_dir!(), "ecto_fdb_sync-#{System.unique_integer([:positive])}.fdb")
    on_exit(fn -> for file <- Path.wildcard(path <> "*"), do: File.rm!(file) end)
    {:ok, config: [embedded: path, log: false]}
  end

  test "what was acknowledged is there after a kill, and the file has one holder", context do
    insert = """
    #{@tenant}
    for i <- 1..1_000_000 do
      Away.Repo.insert!(struct(Away.User, id: "\#{i}"), prefix: tenant)
      IO.puts("acknowledged \#{i}")
    end
    """

    {port, pid} = OtherVM.open(context.config, insert)
    wait_for(port, 50)

    assert {:error, message} = OtherVM.run(context.config)
    assert message =~ context.config[:embedded]
    assert message =~ "#{pid}"

    {_output, 0} = System.cmd("kill", ["-9", "#{pid}"])
    acknowledged = last_line(port)
    assert acknowledged >= 50

    read = "#{@tenant}; Away.Repo.all(Away.User, prefix: tenant) |> length()"
    assert {:ok, count} = OtherVM.run(context.config, [], read)
    # One more may have been committed, its answer lost.
    assert String.to_integer(count) in acknowledged..(acknowledged + 1)
  end

  test "a path that can't be used is an error that names it", context do
    assert {:error, message} = OtherVM.run(embedded: "/no/such/directory/db.fdb")
    assert message =~ "/no/such/directory"

    path = context.config[:embedded]
    File.write!(path, "this is no database")
    assert {:error, message} = OtherVM.run(context.config)
    assert message =~ path
    assert File.read!(path) == "this is no database"
  end

  test "a file is not wiped under a Repo that has it open", context do
    wipe = "EctoFoundationDB.Embedded.wipe(Away.Repo)"
    assert {:error, message} = OtherVM.run(context.config, [], wipe)
    assert message =~ "this database is in a file: stop the VM and delete the file"
  end

  defp wait_for(port, n) do
    assert_receive {^port, {:data, {:eol, line}}}, 60_000
    unless line == "acknowledged #{n}", do: wait_for(port, n)
  end

  defp last_line(port, last \\ 0) do
    receive do
      {^port, {:data, {:eol, "acknowledged " <> i}}} -> last_line(port, String.to_integer(i))
      {^port, {:data, _other}} -> last_line(port, last)
    after
      2_000 -> last
    end
  end
end
