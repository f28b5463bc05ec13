//! A database in a file.
//!
//! The map in memory answers all reads. When the process starts, it is built from the file.
//!
//! # Commits
//!
//! The caller's thread doesn't commit; the [`committer`]'s does, together with all other waiting
//! commits. It resolves them in order, applies them to a private copy of the map, writes the changes to
//! the file, and waits until they are durable. Only then does the copy become the map, read versions
//! rise above the commits' version, watches fire, and commits are acknowledged. So no read shows data
//! that a crash could take back, and an acknowledged commit is in the file.
//!
//! If writing fails (a full disk), the copy is dropped: the commits get `io_error` (1510), others
//! continue, and the next commits try again. If it is unknown whether the file has the commits (a failed
//! sync), they get `commit_unknown_result` (1021), and later ones 1510 until the database is opened in a
//! new process; reads continue.
//!
//! # The file
//!
//! redb with two-phase commits stores keys and values ([`store`]); it verifies its own checksums when
//! the file is opened. In addition, the engine's own checksum covers all keys and values, and a record of
//! the last commit is kept outside redb's part of the file ([`file`]). This detects everything that takes
//! the file back to an older commit.
//!
//! The record is written before the commit is acknowledged, and synced with the next commit or after 20
//! milliseconds. The commit itself does not depend on it: two syncs by redb have made it durable, and
//! redb refuses a file whose last two-phase commit is damaged. Syncing the record before each
//! acknowledgement would cost a third sync. It would help only if a disk lost power within those 20
//! milliseconds and also lost data that it had reported as written.
//!
//! # Versions
//!
//! Versions rise across restarts: the file stores a bound that no version handed out has exceeded (the
//! lease, renewed long before it is reached), and the next process begins there.

mod committer;
mod file;
mod lock;
mod store;

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use committer::{Answer, Committer};

use crate::database::{self, Database};
use crate::mvcc::{Map, Version};
use file::DataFile;
use store::Store;

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The name is not valid.
    #[error(
        "{name:?} does not name an embedded database: expected \"embedded:memory:NAME\" or \
         \"embedded:file:PATH\""
    )]
    Name {
        /// The given name.
        name: String,
    },
    /// Another process has the file open.
    #[error(
        "{} is open in another process ({holder}), and one process at a time can use a database \
         file: stop that one, or open another file",
        path.display()
    )]
    Held {
        /// The database file.
        path: PathBuf,
        /// Process id and program of the other process.
        holder: String,
    },
    /// The file exists, but is not a database.
    #[error(
        "{} is not a database of the embedded engine: name another file, or move this one away to \
         begin a new database",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file does not contain the data that were written to it.
    #[error(
        "{} is damaged: {what}. Put back a copy of the file, or move it away to begin a new database",
        path.display()
    )]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The file is intact, but has lost commits.
    #[error(
        "{} has lost commits: it was written up to commit {recorded}, and holds commit {found}. Put \
         back a copy of the file, or move it away to begin a new database",
        path.display()
    )]
    Lost {
        /// The database file.
        path: PathBuf,
        /// The last commit that was durable.
        recorded: u64,
        /// The last commit that the file contains.
        found: u64,
    },
    /// The operating system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The operation that failed.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// `EMBEDDED_FDB_FAULTS` is set to an invalid value.
    #[error("the environment variable EMBEDDED_FDB_FAULTS is wrong: {0}")]
    Faults(#[from] crate::faults::FaultsError),
}

impl OpenError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> OpenError {
        OpenError::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// The canonical name of a database file, for any path to it.
pub(crate) fn canonical(path: &Path) -> Result<PathBuf, OpenError> {
    let failed = |source| OpenError::io("find", path, source);
    match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => return found.map_err(failed),
    }
    // A new file, in a directory that must exist.
    let name = path.file_name().ok_or_else(|| OpenError::Name {
        name: format!("embedded:file:{}", path.display()),
    })?;
    let directory = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("."),
    };
    let directory = directory
        .canonicalize()
        .map_err(|source| OpenError::io("find the directory", directory, source))?;
    Ok(directory.join(name))
}

/// Opens the database in a file, which is created if it does not exist. Reads all of it.
pub(crate) fn open(path: &Path) -> Result<Arc<Database>, OpenError> {
    let lock = lock::take(path)?;
    let exists = path.try_exists();
    if !exists.map_err(|source| OpenError::io("find", path, source))? {
        create(path)?;
    }
    let file = OpenOptions::new().read(true).write(true).open(path);
    let file = file.map_err(|source| OpenError::io("open", path, source))?;
    // Excludes a process that uses another name, and so another lock file.
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(OpenError::Held {
                path: path.to_owned(),
                holder: "which uses the file under a different name".to_owned(),
            })
        }
        Err(TryLockError::Error(source)) => return Err(OpenError::io("lock", path, source)),
    }
    let (store, map, first) = Store::open(Arc::new(DataFile::new(file)), path, lock)?;
    let committer = Arc::new(Committer::default());
    let database = Arc::new(Database::with_committer(first, map, committer.clone()));
    committer::start(database.clone(), committer, store)
        .map_err(|source| OpenError::io("start a thread for", path, source))?;
    Ok(database)
}

/// Creates a new database file with the initial contents.
fn create(path: &Path) -> Result<(), OpenError> {
    let map = database::new_map(database::FIRST_VERSION);
    write(path, &map, database::FIRST_VERSION)
}

/// Creates a database file under a temporary name first, so that it is complete under its own.
fn write(path: &Path, map: &Map, lease: Version) -> Result<(), OpenError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = Path::new(&name);
    let failed = |source| OpenError::io("create", path, source);
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    let file = options.open(new).map_err(failed)?;
    // Leftovers of an earlier attempt are overwritten, but not a file that another thread writes.
    match file.try_lock() {
        Ok(()) => file.set_len(0).map_err(failed)?,
        Err(TryLockError::WouldBlock) => {
            return Err(OpenError::Held {
                path: new.to_owned(),
                holder: "which is creating it".to_owned(),
            })
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    let file = Arc::new(DataFile::new(file));
    let made = Store::create(file, new, map, lease)
        .and_then(|()| std::fs::rename(new, path).map_err(failed));
    if made.is_err() {
        // A partial file is of no use.
        let _left_behind = std::fs::remove_file(new);
    }
    made?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(failed)
}

/// Why a backup was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The file exists already.
    #[error("{} exists already: name a new file, or remove this one", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be created.
    #[error(transparent)]
    File(#[from] OpenError),
}

/// Why a database was not compacted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompactError {
    /// The database has no file.
    #[error("this database is in memory: only one in a file can be compacted")]
    InMemory,
    /// The file cannot be written.
    #[error("{0}")]
    File(String),
}

/// Writes the contents of a database to a new file, which is a database. Commits continue meanwhile:
/// the file has every commit that was acknowledged before the call, and no commit that began after it.
///
/// Returns the number of keys and the length of the file.
pub(crate) fn back_up(database: &Database, path: &Path) -> Result<(u64, u64), BackupError> {
    let path = &canonical(path)?;
    let exists = path.try_exists();
    if exists.map_err(|source| OpenError::io("find", path, source))? {
        let path = path.clone();
        return Err(BackupError::Exists { path });
    }
    let map = database.newest_map();
    write(path, &map, database.clock() + committer::LEASE)?;
    let length = std::fs::metadata(path).map_err(|source| OpenError::io("find", path, source))?;
    Ok((map.len() as u64, length.len()))
}

/// Returns the unused space in the file of a database. Results in its length before and after.
pub(crate) fn compact(database: &Database) -> Result<(u64, u64), CompactError> {
    let committer = database.committer.as_ref().ok_or(CompactError::InMemory)?;
    let (sender, receiver) = std::sync::mpsc::channel();
    committer.compact(Box::new(move |result| {
        // The caller waits for it.
        let _gone = sender.send(result);
    }));
    let result = receiver.recv();
    result
        .unwrap_or_else(|_| Err("the thread that commits has ended".to_owned()))
        .map_err(CompactError::File)
}
