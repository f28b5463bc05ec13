defmodule EctoFoundationDB.FileTest do
  # The embedded engine with a file, in VMs that are killed.
  use ExUnit.Case, async: true

  alias EctoFoundationDB.OtherVM

  @moduletag :embedded
  @moduletag timeout: 180_000

  @tenant ~s|tenant = EctoFoundationDB.Tenant.open!(Away.Repo, "t")|

  setup do
    path = Path.join(System.tmp_dir!(), "ecto_fdb_sync-#{System.unique_integer([:positive])}.fdb")
    on_exit(fn -> for file <- Path.wildcard(path <> "*"), do: File.rm_rf!(file) end)
    {:ok, config: [embedded: path, log: false]}
  end

  test "acknowledged commits survive a kill, and the file has one holder", context do
    insert = """
    #{@tenant}
    # IO.puts returns before the line is written, and a kill may lose it.
    {:ok, out} = :file.open("/dev/stdout", [:raw, :write])
    for i <- 1..1_000_000 do
      Away.Repo.insert!(struct(Away.User, id: "\#{i}"), prefix: tenant)
      :ok = :file.write(out, "acknowledged \#{i}\n")
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
    # One more commit may have happened without an answer.
    assert String.to_integer(count) in acknowledged..(acknowledged + 1)
  end

  test "an unusable path is an error that names it", context do
    assert {:error, message} = OtherVM.run(embedded: "/no/such/directory/db.fdb")
    assert message =~ "/no/such/directory"

    path = context.config[:embedded]
    File.write!(path, "this is no database")
    assert {:error, message} = OtherVM.run(context.config)
    assert message =~ path
    assert File.read!(path) == "this is no database"
  end

  test "a file is not wiped while a Repo has it open", context do
    wipe = "EctoFoundationDB.Embedded.wipe(Away.Repo)"
    assert {:error, message} = OtherVM.run(context.config, [], wipe)
    assert message =~ "this database is in a file: stop the VM and delete the file"
  end

  test "a backup is made while writers run, and opens as a database", context do
    backup = context.config[:embedded] <> ".backup"

    code = """
    #{@tenant}
    repo = Away.Repo
    writers = for w <- 1..4 do
      Task.async(fn ->
        for i <- 1..200 do
          # Two records that must change together.
          repo.transactional(tenant, fn ->
            repo.insert!(struct(Away.User, id: "\#{w}-\#{i}-a"))
            repo.insert!(struct(Away.User, id: "\#{w}-\#{i}-b"))
          end)
        end
      end)
    end
    {:ok, %{keys: keys}} = EctoFoundationDB.Embedded.backup(repo, #{inspect(backup)})
    Task.await_many(writers, 60_000)
    {:ok, %{before: before, after: length}} = EctoFoundationDB.Embedded.compact(repo)
    {keys > 0, length <= before, length(repo.all(Away.User, prefix: tenant))}
    """

    assert {:ok, "{true, true, 1600}"} = OtherVM.run(context.config, [], code)

    read =
      "#{@tenant}; Away.Repo.all(Away.User, prefix: tenant) |> Enum.map(& &1.id) |> Enum.join(\" \")"

    assert {:ok, ids} = OtherVM.run([embedded: backup, log: false], [], read)
    ids = ids |> String.trim("\"") |> String.split()
    pairs = Enum.group_by(ids, &String.replace(&1, ~r/-[ab]$/, ""))
    assert Enum.all?(pairs, fn {_pair, ids} -> length(ids) == 2 end)
  end

  test "a disk error names the file and its cause", context do
    directory = context.config[:embedded] <> ".directory"
    File.mkdir!(directory)
    path = Path.join(directory, "db")

    code = """
    #{@tenant}
    File.rm_rf!(#{inspect(directory)})
    Away.Repo.insert!(struct(Away.User, id: "1"), prefix: tenant)
    """

    assert {:error, message} = OtherVM.run([embedded: path, log: false], [], code)
    assert message =~ "Disk i/o operation failed"
    assert message =~ "1510"
    assert message =~ "cannot write #{path}: #{directory} was removed or moved away"
  end

  test "the error names a full disk", context do
    disk = context.config[:embedded] <> ".disk"
    File.mkdir!(disk)

    case System.cmd("mount", ~w(-t tmpfs -o size=3m tmpfs #{disk}), stderr_to_stdout: true) do
      {_output, 0} ->
        on_exit(fn -> System.cmd("umount", ["-l", disk]) end)
        path = Path.join(disk, "db")

        code = """
        #{@tenant}
        text = String.duplicate("x", 5_000)
        for i <- 1..1_000, do: Away.Repo.insert!(struct(Away.User, id: "\#{i}-" <> text), prefix: tenant)
        """

        assert {:error, message} = OtherVM.run([embedded: path, log: false], [], code)
        assert message =~ "cannot write #{path}: No space left on device"
        assert message =~ "Make room"

      {output, _not_allowed} ->
        IO.puts("no file system to fill: #{output}")
    end
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
