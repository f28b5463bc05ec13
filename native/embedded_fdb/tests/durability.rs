//! A database in a file: committed data survive whatever happens to the process, and damage to the file
//! is detected.
//!
//! A database stays open until its process ends, so most tests use separate processes: this program
//! again, with a role that environment variables assign.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{begin, boot, code};
use embedded_fdb::admin;
use foundationdb::options::MutationType;
use foundationdb::{Database, RangeOption};
use futures::executor::block_on;

const ROLE: &str = "EMBEDDED_FDB_TEST_ROLE";
const FILE: &str = "EMBEDDED_FDB_TEST_FILE";
/// Set if the writer compacts its file all the time.
const COMPACTS: &str = "EMBEDDED_FDB_TEST_COMPACTS";
const THREADS: u64 = 4;

fn name(path: &Path) -> String {
    format!("embedded:file:{}", path.display())
}

/// Opens a database file in this process.
fn open(path: &Path) -> Result<Database, admin::OpenError> {
    boot();
    admin::Database::open(&name(path))?;
    Ok(Database::from_path(&name(path)).expect("it is open"))
}

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// All user keys.
fn rows(database: &Database) -> Rows {
    let transaction = begin(database);
    let mut rows = Rows::new();
    let mut option = RangeOption::from((&b""[..], &b"\xff"[..]));
    for iteration in 1.. {
        let part = block_on(transaction.get_range(&option, iteration, true)).expect("a read");
        for row in &part {
            rows.insert(row.key().to_vec(), row.value().to_vec());
        }
        match option.next_range(&part) {
            Some(next) => option = next,
            None => break,
        }
    }
    rows
}

/// Sets keys in one transaction, and returns its error code.
fn set(database: &Database, rows: &[(&[u8], &[u8])]) -> i32 {
    let transaction = begin(database);
    for (key, value) in rows {
        transaction.set(key, value);
    }
    let result = block_on(transaction.commit());
    result.err().map_or(0, |error| error.code())
}

/// Sends a line to the parent immediately.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let told = writeln!(out, "@{text}").and_then(|()| out.flush());
    told.expect("the parent listens");
}

/// This program in a different role, on a file.
struct Player {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Player {
    fn start(role: &str, file: &Path) -> Player {
        Player::start_with(role, file, &[])
    }

    fn start_with(role: &str, file: &Path, variables: &[(&str, &str)]) -> Player {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--ignored", "--exact", "play", "--nocapture"])
            .env(ROLE, role)
            .env(FILE, file)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let out = child.stdout.take().expect("a pipe");
        let lines = BufReader::new(out).lines();
        Player { child, lines }
    }

    /// The next line it prints; `None` at its end.
    fn hear(&mut self) -> Option<String> {
        self.lines.by_ref().find_map(|line| {
            // Output of the test harness may precede it in the same line.
            let line = line.expect("text");
            line.split_once('@').map(|(_, said)| said.to_owned())
        })
    }

    /// Kills it, and returns the lines it had printed before.
    fn kill(mut self) -> Vec<String> {
        self.child.kill().expect("it runs");
        let mut said = Vec::new();
        while let Some(line) = self.hear() {
            said.push(line);
        }
        self.child.wait().expect("it ran");
        said
    }

    /// All lines it prints until it ends by itself.
    fn finish(mut self) -> Vec<String> {
        let mut said = Vec::new();
        while let Some(line) = self.hear() {
            said.push(line);
        }
        assert!(self.child.wait().expect("it ran").success());
        said
    }
}

#[test]
#[ignore = "other tests run it in a separate process"]
fn play() {
    let (Ok(role), Ok(file)) = (std::env::var(ROLE), std::env::var(FILE)) else {
        return;
    };
    let file = PathBuf::from(file);
    match role.as_str() {
        "write" => play_writer(&file),
        "fill" => play_filler(&file),
        "check" => play_checker(),
        "hold" => {
            open(&file).expect("it opens");
            say("open");
            let _until_killed = std::io::stdin().read(&mut [0]);
        }
        "overflow" => play_overflow(&file),
        other => panic!("no role {other}"),
    }
}

/// Prints the contents of the file, then writes until it is killed, and prints what was acknowledged.
fn play_writer(file: &Path) {
    let database = open(file).expect("it opens");
    let version = block_on(begin(&database).get_read_version()).expect("a version");
    say(&format!("version {version}"));
    let found = rows(&database);
    let mut next = BTreeMap::new();
    for (key, value) in &found {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if key.starts_with(b"stamp/") {
            let stamp = u64::from_be_bytes(key[6..14].try_into().expect("a stamp"));
            say(&format!("stamp {stamp} {}", text(value)));
        } else {
            say(&format!("found {}", text(key)));
            let mut parts = text(key)
                .split('/')
                .skip(1)
                .map(str::to_owned)
                .collect::<Vec<_>>();
            let number: u64 = parts.pop().and_then(|n| n.parse().ok()).expect("a number");
            let last = next.entry(parts.concat()).or_insert(0);
            *last = number.max(*last);
        }
    }
    say("ready");
    std::thread::scope(|scope| {
        if std::env::var(COMPACTS).is_ok() {
            let admin = admin::Database::find(&name(file)).expect("it is open");
            scope.spawn(move || loop {
                admin.compact().expect("a compaction");
            });
        }
        for thread in 0..THREADS {
            let (database, next) = (&database, &next);
            scope.spawn(move || {
                let first = next.get(&thread.to_string()).map_or(0, |last| last + 1);
                for number in first.. {
                    let id = format!("{thread}/{number}");
                    let transaction = begin(database);
                    // Two keys that must change together, and one that the commit names.
                    transaction.set(format!("a/{id}").as_bytes(), &[7; 100]);
                    transaction.set(
                        format!("b/{id}").as_bytes(),
                        &vec![8; number as usize % 5_000],
                    );
                    let mut stamp = b"stamp/".to_vec();
                    stamp.extend([0xff; 10]);
                    stamp.extend(6u32.to_le_bytes());
                    transaction.atomic_op(
                        &stamp,
                        id.as_bytes(),
                        MutationType::SetVersionstampedKey,
                    );
                    let committed = block_on(transaction.commit()).expect("a commit");
                    let version = committed.committed_version().expect("a version");
                    say(&format!("committed {id} {version}"));
                }
            });
        }
    });
}

#[test]
fn acknowledged_commits_survive_kills() {
    survive_kills(12, &[]);
}

#[test]
fn acknowledged_commits_survive_kills_during_compaction() {
    survive_kills(6, &[(COMPACTS, "1")]);
}

fn survive_kills(default_rounds: u64, variables: &[(&str, &str)]) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("db");
    let mut acknowledged = BTreeSet::new();
    let mut highest = 0;
    let rounds = std::env::var("EMBEDDED_FDB_TEST_KILLS");
    let rounds: u64 = rounds.map_or(default_rounds, |rounds| rounds.parse().expect("a number"));
    for round in 0..rounds {
        let mut player = Player::start_with("write", &file, variables);
        let mut found = BTreeSet::new();
        let mut stamps = BTreeMap::new();
        while let Some(line) = player.hear().filter(|line| line != "ready") {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["found", key] => {
                    found.insert(key.to_owned());
                }
                ["stamp", version, id] => {
                    stamps.insert(id.to_owned(), version.parse::<i64>().expect("a version"));
                }
                ["version", version] => {
                    let version = version.parse::<i64>().expect("a version");
                    assert!(
                        version >= highest,
                        "versions rise: {version} after {highest}"
                    );
                    highest = version;
                }
                _ => panic!("{line}"),
            }
        }
        for (id, version) in &acknowledged {
            assert!(found.contains(&format!("a/{id}")), "{id} is lost");
            assert_eq!(stamps.get(id), Some(version), "the stamp of {id}");
        }
        for id in stamps.keys() {
            for key in [format!("a/{id}"), format!("b/{id}")] {
                assert!(found.contains(&key), "{id} is half there");
            }
        }
        assert_eq!(found.len(), 2 * stamps.len());

        // Any moment will do: it is the machine's load that makes it another one each time.
        let mut said = Vec::new();
        for _ in 0..(round * 37) % 150 {
            said.extend(player.hear());
        }
        said.extend(player.kill());
        for line in said {
            let words: Vec<_> = line.split(' ').collect();
            // The kill may have truncated the last line.
            if let ["committed", id, version] = words[..] {
                if let Ok(version) = version.parse::<i64>() {
                    highest = highest.max(version);
                    acknowledged.insert((id.to_owned(), version));
                }
            }
        }
    }
    let enough = usize::try_from(20 * default_rounds).expect("a number");
    assert!(
        acknowledged.len() > enough,
        "{} commits",
        acknowledged.len()
    );
}

/// The data that [`play_filler`] leaves in its file.
fn filling() -> Rows {
    let row = |i: u32| {
        (
            format!("key{i:04}").into_bytes(),
            vec![i as u8; 1 + i as usize * 3],
        )
    };
    let mut rows: Rows = (0..120).map(row).collect();
    rows.insert(b"last".to_vec(), b"commit".to_vec());
    rows
}

fn play_filler(file: &Path) {
    let database = open(file).expect("it opens");
    for (key, value) in filling().iter().filter(|(key, _)| key[..] != b"last"[..]) {
        assert_eq!(set(&database, &[(key, value)]), 0);
    }
    assert_eq!(set(&database, &[(b"last", b"commit")]), 0);
}

/// Opens each file whose name it reads, and prints the result.
fn play_checker() {
    for line in std::io::stdin().lines() {
        let path = PathBuf::from(line.expect("a path"));
        match open(&path) {
            Ok(database) if rows(&database) == filling() => say("whole"),
            Ok(_) => say("wrong"),
            Err(error) => say(&format!("refused {error}")),
        }
    }
}

/// Opens modified copies of a file in a separate process, and returns for each whether it was refused.
/// No copy may be opened with different contents.
fn check_changed(directory: &Path, copies: Vec<Vec<u8>>) -> Vec<bool> {
    let mut player = Player::start("check", directory);
    let mut input = player.child.stdin.take().expect("a pipe");
    let mut refused = Vec::new();
    for (number, copy) in copies.iter().enumerate() {
        let path = directory.join(format!("copy{number}"));
        std::fs::write(&path, copy).expect("a copy");
        writeln!(input, "{}", path.display()).expect("it listens");
        let said = player
            .hear()
            .unwrap_or_else(|| panic!("copy {number} ends the process"));
        assert_ne!(said, "wrong", "copy {number}");
        refused.push(said.starts_with("refused"));
        if said.starts_with("refused") {
            let named = said.contains(&path.display().to_string());
            assert!(named && said.contains("move"), "it says what to do: {said}");
        } else {
            assert_eq!(said, "whole");
        }
        std::fs::remove_file(&path).expect("the copy");
    }
    drop(input);
    player.finish();
    refused
}

/// The bytes of a file that [`play_filler`] has filled.
fn filled(directory: &Path) -> Vec<u8> {
    let file = directory.join("db");
    Player::start("fill", &file).finish();
    std::fs::read(&file).expect("the file")
}

/// Pseudorandom numbers, the same in every run.
fn numbers(seed: u64) -> impl Iterator<Item = usize> {
    let mut n = seed;
    std::iter::repeat_with(move || {
        n = n
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (n >> 33) as usize
    })
}

#[test]
fn a_truncated_file_is_complete_or_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let whole = filled(directory.path());
    let mut lengths: Vec<usize> = vec![0, 1, 4095, 4096, 12_287, 12_288, 12_289, whole.len() - 1];
    lengths.extend((12_288 + 4096..whole.len()).step_by(4096 * 3));
    lengths.extend(numbers(1).take(40).map(|n| n % whole.len()));
    let copies = lengths.iter().map(|&length| whole[..length].to_vec());
    let refused = check_changed(directory.path(), copies.collect());
    for (length, refused) in lengths.iter().zip(&refused) {
        // Even an empty file is a file that has lost everything.
        assert!(
            *refused || *length > whole.len() / 2,
            "{length} bytes were enough"
        );
    }
    let unchanged = check_changed(directory.path(), vec![whole]);
    assert_eq!(unchanged, [false]);
}

#[test]
fn a_flipped_bit_is_harmless_or_detected() {
    let directory = tempfile::tempdir().expect("a directory");
    let whole = filled(directory.path());
    // The records, and redb's roots; then anywhere.
    let heads = [0, 4096, 8192].into_iter().flat_map(|page| page..page + 32);
    let redb = 12_288..12_288 + 320;
    let mut bits: Vec<usize> = heads
        .chain(redb)
        .step_by(3)
        .map(|byte| byte * 8 + byte % 8)
        .collect();
    // The byte with redb's flags: which commit is current, and how it was made.
    bits.extend((0..8).map(|bit| (12_288 + 9) * 8 + bit));
    bits.extend(numbers(2).take(120).map(|n| n % (whole.len() * 8)));
    let flip = |&bit: &usize| {
        let mut copy = whole.clone();
        copy[bit / 8] ^= 1 << (bit % 8);
        copy
    };
    let refused = check_changed(directory.path(), bits.iter().map(flip).collect());
    assert!(refused.contains(&true) && refused.contains(&false));
}

#[test]
fn zeroed_and_mixed_pages_are_harmless_or_detected() {
    let directory = tempfile::tempdir().expect("a directory");
    let whole = filled(directory.path());
    let pages = whole.len() / 4096;
    let zeroed = (0..pages).step_by(2).map(|page| {
        let mut copy = whole.clone();
        copy[page * 4096..(page + 1) * 4096].fill(0);
        copy
    });
    let swapped = numbers(3).take(30).map(|n| {
        let (from, to) = (n % pages, (n / pages) % pages);
        let mut copy = whole.clone();
        copy.copy_within(from * 4096..(from + 1) * 4096, to * 4096);
        copy
    });
    check_changed(directory.path(), zeroed.chain(swapped).collect());
}

#[test]
fn a_file_that_is_not_a_database_is_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("notes");
    let text = "my notes\n".repeat(10_000);
    std::fs::write(&file, &text).expect("a file");
    let error = open(&file).err().expect("no database");
    assert!(matches!(error, admin::OpenError::Foreign { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), text);

    let nowhere = directory.path().join("no/such/db");
    let error = open(&nowhere).err().expect("no directory").to_string();
    assert!(error.contains("no/such"), "{error}");
}

#[test]
fn a_second_process_learns_who_has_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("db");
    let mut holder = Player::start("hold", &file);
    assert_eq!(holder.hear().as_deref(), Some("open"));
    let error = open(&file).err().expect("it is held").to_string();
    assert!(
        error.contains(&format!("pid {},", holder.child.id())),
        "{error}"
    );
    assert!(error.contains("durability"), "the program's name: {error}");
    assert_eq!(code(Database::from_path(&name(&file))), 1529);

    // The same file under a different name has a different lock file.
    let link = directory.path().join("link");
    std::fs::hard_link(&file, &link).expect("a link");
    assert!(matches!(
        open(&link).err(),
        Some(admin::OpenError::Held { .. })
    ));

    holder.kill();
    let database = open(&file).expect("the holder is gone");
    assert_eq!(set(&database, &[(b"k", b"v")]), 0);
}

#[test]
fn all_paths_to_a_file_open_one_database() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let first = open(&path("db")).expect("a new file");
    assert_eq!(set(&first, &[(b"k", b"v")]), 0);
    let expected = rows(&first);
    drop(first);

    std::fs::create_dir(path("sub")).expect("a directory");
    std::os::unix::fs::symlink(path("db"), path("sub/symlink")).expect("a link");
    std::fs::write(path("fdb.cluster"), "# here\nembedded:file:db\n").expect("a file");
    let spellings = [
        name(&path("db")),
        name(&path("sub/../db")),
        name(&path("sub/symlink")),
        path("fdb.cluster").display().to_string(),
    ];
    for (number, spelling) in (0u8..).zip(spellings) {
        let database = Database::from_path(&spelling).expect("the same file");
        assert!(admin::Database::find(&spelling).is_some());
        let mut found = rows(&database);
        found.retain(|key, _| key[..] == b"k"[..]);
        assert_eq!(found, expected, "{spelling}");
        assert_eq!(set(&database, &[(&[number], b"")]), 0);
    }
    let database = open(&path("db")).expect("it is open");
    assert_eq!(rows(&database).len(), 5);
}

#[test]
fn transactions_on_a_file_are_as_strict_as_in_memory() {
    const TIMES: u64 = 40;
    let directory = tempfile::tempdir().expect("a directory");
    let database = open(&directory.path().join("db")).expect("a new file");
    let number = |bytes: Option<&[u8]>| {
        bytes.map_or(0, |bytes| {
            u64::from_le_bytes(bytes.try_into().expect("a number"))
        })
    };
    let read = |key: &[u8]| {
        let value = block_on(begin(&database).get(key, false)).expect("a read");
        number(value.as_deref())
    };
    let watching = begin(&database);
    let watch = watching.watch(b"count");
    block_on(watching.commit()).expect("a commit");
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (database, read) = (&database, &read);
            scope.spawn(move || {
                for i in 0..TIMES {
                    let own = format!("own{thread}");
                    let before = read(b"count");
                    let done = block_on(database.run(|transaction, _| {
                        let own = own.clone();
                        async move {
                            let count = transaction.get(b"count", false).await?;
                            let count = number(count.as_deref()) + 1;
                            transaction.set(b"count", &count.to_le_bytes());
                            transaction.atomic_op(
                                b"sum",
                                &[1, 0, 0, 0, 0, 0, 0, 0],
                                MutationType::Add,
                            );
                            transaction.set(own.as_bytes(), &count.to_le_bytes());
                            Ok(())
                        }
                    }));
                    assert!(done.is_ok());
                    // Acknowledged commits are visible immediately, in order.
                    let own = read(own.as_bytes());
                    assert!(before < own && own <= read(b"count"), "{i}");
                }
            });
        }
    });
    assert_eq!(read(b"count"), THREADS * TIMES);
    assert_eq!(read(b"sum"), THREADS * TIMES);
    assert_eq!(code(block_on(watch)), 0);
}

#[test]
fn a_pending_commit_ends_with_its_transaction() {
    let directory = tempfile::tempdir().expect("a directory");
    let database = open(&directory.path().join("db")).expect("a new file");
    for i in 0..50u8 {
        let transaction = begin(&database);
        transaction.set(&[i], b"v");
        // Drops the future at once, and the transaction with it.
        drop(transaction.commit());
    }
    assert_eq!(set(&database, &[(b"last", b"v")]), 0);
    // Commits happen in order, and so does an abandoned one.
    assert_eq!(rows(&database).len(), 51);
    let admin = admin::Database::find(&name(&directory.path().join("db"))).expect("it is open");
    assert_eq!(admin.stats().transactions, 0);
}

#[test]
fn a_removed_file_is_not_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("db");
    let database = open(&file).expect("a new file");
    assert_eq!(set(&database, &[(b"k", b"1")]), 0);
    std::fs::rename(&file, directory.path().join("moved")).expect("a rename");
    assert_eq!(set(&database, &[(b"k", b"2")]), 1510);
    let why = || {
        let admin = admin::Database::open(&name(&file)).expect("it is open");
        admin.last_storage_failure().expect("a failure")
    };
    let path = file.display().to_string();
    assert!(
        why().contains(&format!("{path} was removed or moved away")),
        "{}",
        why()
    );
    // A different file in its place.
    std::fs::write(&file, "another").expect("a file");
    assert_eq!(set(&database, &[(b"k", b"2")]), 1510);
    assert!(why().contains("it was replaced"), "{}", why());
    let admin = admin::Database::find(&name(&directory.path().join("moved")));
    assert!(admin.is_none());
    std::fs::rename(directory.path().join("moved"), &file).expect("a rename");
    assert_eq!(
        rows(&database).get(&b"k"[..]).map(|v| &v[..]),
        Some(&b"1"[..])
    );
    assert_eq!(set(&database, &[(b"k", b"3")]), 0);
    assert_eq!(
        rows(&database).get(&b"k"[..]).map(|v| &v[..]),
        Some(&b"3"[..])
    );
}

/// Limits the size of this process's files.
fn limit_files(length: Option<u64>) {
    let limit = libc::rlimit {
        rlim_cur: length.unwrap_or(libc::RLIM_INFINITY),
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the limit is read before the call returns; ignoring a signal has no other effect.
    let set = unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        libc::setrlimit(libc::RLIMIT_FSIZE, &limit)
    };
    assert_eq!(set, 0);
}

/// Fills the disk, prints what was acknowledged, and continues once there is space again. Without its own
/// limit, it waits for a message that there is space.
fn play_overflow(file: &Path) {
    let real = std::env::var("EMBEDDED_FDB_TEST_DISK").is_ok();
    let database = open(file).expect("it opens");
    let admin = admin::Database::open(&name(file)).expect("it is open");
    let acknowledge = |key: &str, value: &[u8]| {
        let code = set(&database, &[(key.as_bytes(), value)]);
        if code == 0 {
            say(&format!("acknowledged {key}"));
        }
        code
    };
    assert_eq!(acknowledge("before", b""), 0);
    assert_eq!(admin.storage_problem(), None);
    if !real {
        let length = std::fs::metadata(file).expect("the file").len();
        limit_files(Some(length + 300_000));
    }
    let big = [1; 50_000];
    let full = (0..1_000).find_map(|i| match acknowledge(&format!("big{i}"), &big) {
        0 => None,
        code => Some((i, code)),
    });
    let Some((refused, code)) = full else {
        panic!("the disk is not full");
    };
    assert_eq!(code, 1510);
    let problem = admin.storage_problem().expect("a reason");
    let full = if real {
        "No space left on device"
    } else {
        "File too large"
    };
    for part in [
        "cannot write",
        &file.display().to_string(),
        full,
        "Make room",
    ] {
        assert!(problem.contains(part), "{problem}");
    }
    // Nothing of the refused commit is visible, everything else is, and others may try.
    let held = rows(&database);
    assert!(held.contains_key(&b"before"[..]));
    assert!(!held.contains_key(format!("big{refused}").as_bytes()));
    assert_eq!(held.len(), 1 + refused);
    for _ in 0..3 {
        let code = acknowledge("again", &big);
        assert!(code == 1510 || code == 0, "{code}");
    }
    if real {
        say("full");
        let _told = std::io::stdin()
            .read(&mut [0])
            .expect("the parent is there");
    } else {
        limit_files(None);
    }
    assert_eq!(
        acknowledge("after", &big),
        0,
        "{:?}",
        admin.storage_problem()
    );
    assert_eq!(admin.storage_problem(), None);
    assert_eq!(admin.last_storage_failure(), Some(problem));
    say("done");
}

/// The file must contain exactly the commits that a player printed.
fn check_acknowledged(file: &Path, said: &[String]) {
    let words = |line: &String| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let acknowledged: BTreeSet<Vec<u8>> = said
        .iter()
        .map(words)
        .filter(|words| words[0] == "acknowledged")
        .map(|words| words[1].clone().into_bytes())
        .collect();
    let database = open(file).expect("the file is whole");
    assert_eq!(
        rows(&database).into_keys().collect::<BTreeSet<_>>(),
        acknowledged
    );
    assert!(acknowledged.contains(&b"after"[..]));
}

#[test]
fn a_full_disk_does_not_harm_committed_data() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("db");
    let said = Player::start("overflow", &file).finish();
    check_acknowledged(&file, &said);
}

/// With a file system that is really full, if the system allows creating one.
#[test]
fn a_full_file_system_does_not_harm_committed_data() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = directory.path().join("disk");
    std::fs::create_dir(&disk).expect("a directory");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(&disk)
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("this user may not mount a file system");
        return;
    }
    let ballast = disk.join("ballast");
    std::fs::write(&ballast, [0; 200_000]).expect("room");
    let file = disk.join("db");
    let mut command = Player::start_with("overflow", &file, &[("EMBEDDED_FDB_TEST_DISK", "1")]);
    let mut said = Vec::new();
    while let Some(line) = command.hear() {
        if line == "full" {
            std::fs::remove_file(&ballast).expect("the ballast");
            let input = command.child.stdin.as_mut().expect("a pipe");
            input.write_all(b"\n").expect("it listens");
        }
        said.push(line);
    }
    let ended = command.child.wait().expect("it ran").success();
    let copy = directory.path().join("db");
    let copied = std::fs::copy(&file, &copy);
    let unmounted = Command::new("umount").arg(&disk).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    assert!(
        ended && said.last().is_some_and(|line| line == "done"),
        "{said:?}"
    );
    copied.expect("a copy");
    check_acknowledged(&copy, &said);
}
