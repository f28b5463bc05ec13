//! Keys and values in the file, with the engine's own checksum over all of them.
//!
//! redb keeps two tables: the keys with their values, and one row that describes them after a certain
//! commit. Both change in the same redb transaction. The checksum is the sum of a hash of each key and
//! value, so a commit can update it from its changes alone.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use xxhash_rust::xxh3::xxh3_128;

use super::file::{Backend, DataFile, Record, HEADER};
use super::lock::PathLock;
use super::OpenError;
use crate::keys::{Key, Value};
use crate::mvcc::{Change, Map, Version};

const KEYS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("keys");
const STATE: TableDefinition<&str, &[u8]> = TableDefinition::new("state");
const STATE_ROW: &str = "state";
/// redb would use 1 GiB; data that are read often are in memory anyway.
const CACHE: usize = 32 << 20;

/// Describes the keys and values in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct State {
    /// Commits so far.
    number: u64,
    /// No version above this one was ever handed out.
    lease: Version,
    /// How many keys there are.
    keys: u64,
    /// The sum of [`hash`] over all keys.
    sum: u128,
}

impl State {
    const SIZE: usize = 40;

    fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.lease.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.keys.to_le_bytes());
        bytes[24..].copy_from_slice(&self.sum.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<State> {
        let bytes: &[u8; Self::SIZE] = bytes.try_into().ok()?;
        Some(State {
            number: u64::from_le_bytes(bytes[..8].try_into().ok()?),
            lease: i64::from_le_bytes(bytes[8..16].try_into().ok()?),
            keys: u64::from_le_bytes(bytes[16..24].try_into().ok()?),
            sum: u128::from_le_bytes(bytes[24..].try_into().ok()?),
        })
    }

    fn record(self) -> Record {
        Record {
            number: self.number,
            sum: self.sum,
        }
    }

    fn add(&mut self, hasher: &mut Hasher, key: &[u8], value: &[u8]) {
        self.keys += 1;
        self.sum = self.sum.wrapping_add(hasher.hash(key, value));
    }

    fn remove(&mut self, hasher: &mut Hasher, key: &[u8], value: &[u8]) {
        self.keys -= 1;
        self.sum = self.sum.wrapping_sub(hasher.hash(key, value));
    }
}

/// Hashes a key with its value.
#[derive(Default)]
struct Hasher(Vec<u8>);

impl Hasher {
    fn hash(&mut self, key: &[u8], value: &[u8]) -> u128 {
        self.0.clear();
        self.0.extend_from_slice(&(key.len() as u64).to_le_bytes());
        self.0.extend_from_slice(key);
        self.0.extend_from_slice(value);
        xxh3_128(&self.0)
    }
}

/// Why commits are not in the file.
#[derive(Debug)]
pub(super) enum Failure {
    /// They are certainly not in it, and never will be.
    NotWritten(String),
    /// It is unknown: opening the file next time shows whether they are in it.
    Unknown(String),
}

/// An open database file.
pub(super) struct Store {
    path: PathBuf,
    file: Arc<DataFile>,
    /// Describes the contents of the file, and of memory.
    state: State,
    /// None after a failure, until the next commits.
    engine: Option<Engine>,
    /// The failure, if only opening the file again can bring memory and file together.
    broken: Option<String>,
    hasher: Hasher,
    _lock: PathLock,
}

/// redb on the file.
struct Engine {
    redb: redb::Database,
    backend: Backend,
}

/// An error of redb.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// The operating system refused something.
    #[error("{0}")]
    System(std::io::Error),
    /// redb did not find the data it expects, or panicked.
    #[error("{0}")]
    Content(String),
}

impl From<redb::Error> for Trouble {
    fn from(error: redb::Error) -> Trouble {
        match error {
            // A file that ends too early, or does not begin as redb's do, is damaged.
            redb::Error::Io(error) => match error.kind() {
                ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::InvalidInput => {
                    Trouble::Content(error.to_string())
                }
                _ => Trouble::System(error),
            },
            error => Trouble::Content(error.to_string()),
        }
    }
}

impl Trouble {
    /// What to do about it, as a sentence.
    fn advice(&self) -> &'static str {
        let Trouble::System(error) = self else {
            return "";
        };
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                ". Make room: the next commit tries again"
            }
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
                ". Make it writable for this process: the next commit tries again"
            }
            _ => "",
        }
    }

    /// The error for a caller that opens a file.
    fn on_opening(self, path: &Path) -> OpenError {
        match self {
            Trouble::System(source) => OpenError::io("read or write", path, source),
            Trouble::Content(what) => OpenError::Damaged {
                path: path.to_owned(),
                what,
            },
        }
    }
}

/// Runs a call of redb: a damaged file may make it panic.
fn guard<T>(body: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, Trouble> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => result.map_err(Trouble::from),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            let text = text.unwrap_or("the storage engine failed").to_owned();
            Err(Trouble::Content(text))
        }
    }
}

impl Engine {
    fn open(file: &Arc<DataFile>) -> Result<Engine, redb::Error> {
        let backend = Backend::new(file.clone());
        let redb = redb::Builder::new()
            .set_cache_size(CACHE)
            .set_check_integrity_on_open(true)
            .create_with_backend(backend.clone())?;
        Ok(Engine { redb, backend })
    }

    fn read_state(&self) -> Result<Option<State>, redb::Error> {
        let transaction = self.redb.begin_read()?;
        let table = transaction.open_table(STATE)?;
        let row = table.get(STATE_ROW)?;
        Ok(row.and_then(|row| State::from_bytes(row.value())))
    }

    fn write(
        &self,
        changes: &BTreeMap<&Key, Option<&Value>>,
        state: State,
    ) -> Result<(), redb::Error> {
        let mut transaction = self.redb.begin_write()?;
        transaction.set_two_phase_commit(true);
        {
            let mut table = transaction.open_table(KEYS)?;
            for (key, value) in changes {
                match value {
                    Some(value) => table.insert(&key[..], &value[..])?,
                    None => table.remove(&key[..])?,
                };
            }
            let mut table = transaction.open_table(STATE)?;
            table.insert(STATE_ROW, &state.to_bytes()[..])?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Reads everything: the map and its description.
    fn load(&self, hasher: &mut Hasher) -> Result<(Map, Option<State>, State), redb::Error> {
        let said = self.read_state()?;
        let mut found = State {
            number: 0,
            lease: 0,
            keys: 0,
            sum: 0,
        };
        let mut map = Map::new();
        let transaction = self.redb.begin_read()?;
        for row in transaction.open_table(KEYS)?.iter()? {
            let (key, value) = row?;
            found.add(hasher, key.value(), value.value());
            map.insert(key.value().into(), value.value().into());
        }
        Ok((map, said, found))
    }

    /// Stops using redb without another write.
    fn retire(self) {
        self.backend.retire();
        let _ended = guard(|| {
            drop(self.redb);
            Ok(())
        });
    }
}

impl Store {
    /// Creates a new file with the initial contents.
    pub(super) fn create(
        file: Arc<DataFile>,
        path: &Path,
        map: &Map,
        lease: Version,
    ) -> Result<(), OpenError> {
        let mut state = State {
            number: 0,
            lease,
            keys: 0,
            sum: 0,
        };
        let mut hasher = Hasher::default();
        for (key, value) in map {
            state.add(&mut hasher, key, value);
        }
        let failed = |source| OpenError::io("create", path, source);
        file.initialize(state.record()).map_err(failed)?;
        let changes = map.iter().map(|(key, value)| (key, Some(value)));
        let changes = changes.collect();
        guard(|| {
            let engine = Engine::open(&file)?;
            engine.write(&changes, state)?;
            engine.retire();
            Ok(())
        })
        .map_err(|trouble| trouble.on_opening(path))?;
        file.sync().map_err(failed)
    }

    /// Opens a file and reads all of it. Returns the store, the map, and the version from which new
    /// versions rise.
    pub(super) fn open(
        file: Arc<DataFile>,
        path: &Path,
        lock: PathLock,
    ) -> Result<(Store, Map, Version), OpenError> {
        let damaged = |what: String| OpenError::Damaged {
            path: path.to_owned(),
            what,
        };
        let failed = |source| OpenError::io("read", path, source);
        let length = file.len().map_err(failed)?;
        if length <= HEADER {
            return Err(damaged(format!(
                "it has {length} bytes, which is less than an empty database"
            )));
        }
        if !file.has_magic().map_err(failed)? {
            return Err(OpenError::Foreign {
                path: path.to_owned(),
            });
        }
        let records = file.records().map_err(failed)?;
        let mut hasher = Hasher::default();
        let on_opening = |trouble: Trouble| trouble.on_opening(path);
        let engine = guard(|| Engine::open(&file)).map_err(on_opening)?;
        let (map, said, found) = guard(|| engine.load(&mut hasher)).map_err(on_opening)?;
        let state = said.ok_or_else(|| damaged("it does not say what it holds".to_owned()))?;
        if (state.keys, state.sum) != (found.keys, found.sum) {
            return Err(damaged(format!(
                "it should hold {} keys with checksum {:032x}, and holds {} with {:032x}",
                state.keys, state.sum, found.keys, found.sum
            )));
        }
        check_records(path, records, state)?;
        let mut store = Store {
            path: path.to_owned(),
            file,
            state,
            engine: Some(engine),
            broken: None,
            hasher,
            _lock: lock,
        };
        store.write_record();
        store.settle();
        match store.broken.take() {
            None => Ok((store, map, state.lease)),
            Some(text) => Err(OpenError::io("write", path, std::io::Error::other(text))),
        }
    }

    /// Makes commits durable: all of `changes`, or nothing. `before` is the map they change. No version
    /// above `lease` will be handed out.
    pub(super) fn persist(
        &mut self,
        before: &Map,
        changes: &[Change],
        lease: Version,
    ) -> Result<(), Failure> {
        let path = self.path.clone();
        let path = path.display();
        if let Some(text) = &self.broken {
            return Err(Failure::NotWritten(text.clone()));
        }
        self.check_place().map_err(Failure::NotWritten)?;
        if self.engine.is_none() {
            self.engine = Some(self.reopen().map_err(Failure::NotWritten)?);
        }
        let Some(engine) = &self.engine else {
            return Err(Failure::NotWritten(format!("{path} is not open")));
        };

        let mut last: BTreeMap<&Key, Option<&Value>> = BTreeMap::new();
        for change in changes {
            last.insert(&change.key, change.value.as_ref());
        }
        last.retain(|key, value| before.get(&key[..]) != *value);
        let mut next = State {
            number: self.state.number + 1,
            lease: lease.max(self.state.lease),
            ..self.state
        };
        for (key, value) in &last {
            if let Some(value) = before.get(&key[..]) {
                next.remove(&mut self.hasher, key, value);
            }
            if let Some(value) = value {
                next.add(&mut self.hasher, key, value);
            }
        }

        let syncs = self.file.syncs();
        if let Err(error) = guard(|| engine.write(&last, next)) {
            let text = format!("cannot write {path}: {error}{}", error.advice());
            if let Some(engine) = self.engine.take() {
                engine.retire();
            }
            // redb syncs once before it makes a commit the one that counts.
            let certain = self.file.syncs() == syncs;
            if !certain || self.file.is_doubtful() {
                self.broken = Some(format!("{text}; open the database in a new process"));
            }
            return Err(if certain {
                Failure::NotWritten(text)
            } else {
                Failure::Unknown(text)
            });
        }
        self.state = next;
        self.write_record();
        Ok(())
    }

    /// Whether the path still leads to the opened file; the error says why not.
    fn check_place(&self) -> Result<(), String> {
        let path = self.path.display();
        match self.file.is_at(&self.path) {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!(
                "{path} is another file than the one that was opened: it was replaced while it was in use. \
                 Move that one back"
            )),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let directory = self.path.parent().filter(|directory| !directory.exists());
                let gone = directory.unwrap_or(&self.path).display();
                Err(format!(
                    "cannot write {path}: {gone} was removed or moved away while it was in use. Move it back, \
                     or save the data with a backup: they are all in memory"
                ))
            }
            Err(error) => {
                let error = Trouble::System(error);
                Err(format!("cannot write {path}: {error}{}", error.advice()))
            }
        }
    }

    /// Returns the unused space in the file: its length before and after.
    pub(super) fn compact(&mut self) -> Result<(u64, u64), String> {
        if let Some(text) = &self.broken {
            return Err(text.clone());
        }
        self.check_place()?;
        let path = self.path.clone();
        let path = path.display();
        let length = |file: &DataFile| {
            let length = file.len();
            length.map_err(|error| format!("cannot read {path}: {error}"))
        };
        let before = length(&self.file)?;
        let mut engine = match self.engine.take() {
            Some(engine) => engine,
            None => self.reopen()?,
        };
        let done = guard(|| Ok(engine.redb.compact()?));
        if let Err(trouble) = done {
            // The next commit checks the file first.
            engine.retire();
            if self.file.is_doubtful() {
                self.give_up(&format!("a sync failed while it was compacted: {trouble}"));
            }
            return Err(format!(
                "cannot compact {path}: {trouble}{}",
                trouble.advice()
            ));
        }
        self.engine = Some(engine);
        Ok((before, length(&self.file)?))
    }

    /// Opens redb again after a failure: the file must contain what memory contains.
    fn reopen(&mut self) -> Result<Engine, String> {
        let path = self.path.display();
        let failed =
            |trouble: Trouble| format!("cannot write {path}: {trouble}{}", trouble.advice());
        let engine = guard(|| Engine::open(&self.file)).map_err(failed)?;
        let state = guard(|| engine.read_state()).map_err(failed)?;
        if state == Some(self.state) {
            return Ok(engine);
        }
        engine.retire();
        let text = format!(
            "{} does not hold what was written to it; open the database in a new process",
            self.path.display()
        );
        self.broken = Some(text.clone());
        Err(text)
    }

    /// The lease in the file.
    pub(super) fn lease(&self) -> Version {
        self.state.lease
    }

    /// Makes the record of the last commit durable. This is done when idle, because the commit itself is
    /// durable already, and the next commit also makes the record durable.
    pub(super) fn settle(&mut self) {
        if let Err(error) = self.file.sync() {
            self.break_off(&error);
        }
    }

    fn write_record(&mut self) {
        if let Err(error) = self.file.write_record(self.state.record()) {
            self.break_off(&error);
        }
    }

    fn break_off(&mut self, error: &std::io::Error) {
        self.give_up(&format!("cannot write the record of a commit: {error}"));
    }

    /// Refuses all commits from now on.
    pub(super) fn give_up(&mut self, why: &str) {
        let path = self.path.display();
        let text = || format!("{path}: {why}; open the database in a new process");
        self.broken.get_or_insert_with(text);
    }

    /// The reason why commits are refused.
    pub(super) fn problem(&self) -> Option<&str> {
        self.broken.as_deref()
    }
}

/// Compares the contents of the file with the records of durable commits.
fn check_records(path: &Path, records: [Option<Record>; 2], state: State) -> Result<(), OpenError> {
    let damaged = |what: &str| {
        Err(OpenError::Damaged {
            path: path.to_owned(),
            what: what.to_owned(),
        })
    };
    let newest = records.into_iter().flatten().max_by_key(|r| r.number);
    let Some(newest) = newest else {
        return damaged("both records of its last commit are");
    };
    if state.number == newest.number + 1 {
        // The crash came between the commit and its record.
        return Ok(());
    }
    if state.number != newest.number {
        return Err(OpenError::Lost {
            path: path.to_owned(),
            recorded: newest.number,
            found: state.number,
        });
    }
    if records.contains(&None) {
        // The damaged record may be that of a later commit.
        return damaged("a record of its last two commits is");
    }
    if newest.sum != state.sum {
        return damaged("the record of its last commit has another checksum");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::sync::atomic::Ordering;

    use super::super::file::Operation;
    use super::super::lock;
    use super::*;

    fn open(path: &Path) -> (Store, Map) {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = Arc::new(DataFile::new(file.unwrap()));
        let lock = lock::take(path).unwrap();
        let (store, map, _) = Store::open(file, path, lock).unwrap();
        (store, map)
    }

    /// A store in a new directory, which contains one key.
    fn new_store(directory: &tempfile::TempDir) -> (Store, Map) {
        let path = directory.path().join("db");
        super::super::create(&path).unwrap();
        let (mut store, mut map) = open(&path);
        write(&mut store, &mut map, "k", "first").unwrap();
        (store, map)
    }

    fn write(store: &mut Store, map: &mut Map, key: &str, value: &str) -> Result<(), Failure> {
        let (key, value): (Key, Value) = (key.as_bytes().into(), value.as_bytes().into());
        let change = Change {
            key: key.clone(),
            value: Some(value.clone()),
        };
        store.persist(map, &[change], 1)?;
        map.insert(key, value);
        Ok(())
    }

    #[test]
    fn a_commit_whose_first_sync_fails_never_was() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, mut map) = new_store(&directory);
        store.file.fail_sync.store(1, Ordering::Release);
        let failed = write(&mut store, &mut map, "k", "second");
        assert!(matches!(failed, Err(Failure::NotWritten(_))), "{failed:?}");
        // A disk that failed to sync is not trusted again.
        let later = write(&mut store, &mut map, "k", "third");
        assert!(matches!(later, Err(Failure::NotWritten(_))), "{later:?}");
        assert!(store
            .problem()
            .is_some_and(|text| text.contains("on purpose")));
        drop(store);
        let (_, found) = open(&directory.path().join("db"));
        assert_eq!(found, map);
    }

    #[test]
    fn a_commit_whose_second_sync_fails_is_there_or_not() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, mut map) = new_store(&directory);
        store.file.fail_sync.store(2, Ordering::Release);
        let failed = write(&mut store, &mut map, "k", "second");
        assert!(matches!(failed, Err(Failure::Unknown(_))), "{failed:?}");
        let later = write(&mut store, &mut map, "k", "third");
        assert!(matches!(later, Err(Failure::NotWritten(_))), "{later:?}");
        drop(store);
        let (_, found) = open(&directory.path().join("db"));
        let value = found.get(&b"k"[..]).map(|value| &value[..]);
        assert!(matches!(value, Some(b"first" | b"second")), "{value:?}");
    }

    #[test]
    fn a_disk_that_fails_is_not_a_damaged_file() {
        let directory = tempfile::tempdir().unwrap();
        drop(new_store(&directory));
        let path = directory.path().join("db");
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = Arc::new(DataFile::new(file.unwrap()));
        file.fail_sync.store(1, Ordering::Release);
        let opened = Store::open(file, &path, lock::take(&path).unwrap());
        let error = opened.err().unwrap();
        assert!(matches!(error, OpenError::Io { .. }), "{error}");
        open(&path);
    }

    #[test]
    fn a_file_that_went_back_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, mut map) = new_store(&directory);
        let path = directory.path().join("db");
        let before = std::fs::read(&path).unwrap();
        write(&mut store, &mut map, "k", "second").unwrap();
        drop(store);
        let mut mixed = before;
        let header = usize::try_from(HEADER).unwrap();
        mixed[..header].copy_from_slice(&std::fs::read(&path).unwrap()[..header]);
        std::fs::write(&path, mixed).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = Arc::new(DataFile::new(file.unwrap()));
        let opened = Store::open(file, &path, lock::take(&path).unwrap());
        let error = opened.err().unwrap();
        assert!(matches!(error, OpenError::Lost { .. }), "{error}");
    }

    /// Possible contents of a disk after a power failure: all operations up to the last sync, and, of the
    /// later ones, the sectors that `keep` selects.
    fn after_power_failure(
        image: &[u8],
        log: &[Operation],
        mut keep: impl FnMut() -> bool,
    ) -> Vec<u8> {
        const SECTOR: usize = 512;
        let is_sync = |operation: &Operation| matches!(operation, Operation::Sync);
        let synced = log.iter().rposition(is_sync).map_or(0, |last| last + 1);
        let mut disk = image.to_vec();
        for (index, operation) in log.iter().enumerate() {
            let mut kept = || index < synced || keep();
            match operation {
                Operation::Sync => {}
                Operation::SetLen(length) => {
                    if kept() {
                        disk.resize(usize::try_from(*length).unwrap(), 0);
                    }
                }
                Operation::Write(offset, bytes) => {
                    let mut at = usize::try_from(*offset).unwrap();
                    let mut rest = &bytes[..];
                    while !rest.is_empty() {
                        let (sector, after) = rest.split_at(rest.len().min(SECTOR - at % SECTOR));
                        if kept() {
                            disk.resize(disk.len().max(at + sector.len()), 0);
                            disk[at..at + sector.len()].copy_from_slice(sector);
                        }
                        (at, rest) = (at + sector.len(), after);
                    }
                }
            }
        }
        disk
    }

    #[test]
    fn a_power_failure_loses_nothing_that_was_acknowledged() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, mut map) = new_store(&directory);
        store.settle();
        crate::sync::lock(&store.file.log).clear();
        let image = std::fs::read(directory.path().join("db")).unwrap();
        // The map after each commit, and how many operations had happened when it was acknowledged.
        let mut acknowledged = vec![(0, map.clone())];
        for i in 0..30usize {
            let value = "x".repeat((i * 1_237) % 9_000);
            write(&mut store, &mut map, &format!("k{}", i % 11), &value).unwrap();
            acknowledged.push((crate::sync::lock(&store.file.log).len(), map.clone()));
            if i % 3 == 0 {
                store.settle();
            }
        }
        let log = crate::sync::lock(&store.file.log).clone();
        let mut random = 1u64;
        let mut draw = move || {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            random >> 40
        };
        let mut between = 0;
        for number in 0..200 {
            let end = usize::try_from(draw()).unwrap() % (log.len() + 1);
            let odds = draw() % 5;
            let disk = after_power_failure(&image, &log[..end], || draw() % 4 < odds);
            let path = directory.path().join(format!("after{number}"));
            std::fs::write(&path, disk).unwrap();
            let (_, found) = open(&path);
            std::fs::remove_file(&path).unwrap();
            let last = acknowledged.partition_point(|(done, _)| *done <= end) - 1;
            let next = acknowledged.get(last + 1);
            let whole = found == acknowledged[last].1;
            assert!(
                whole || next.is_some_and(|(_, map)| found == *map),
                "at {end}"
            );
            between += usize::from(!whole);
        }
        assert!(
            between > 0,
            "no commit was there before it was acknowledged"
        );
    }
}
