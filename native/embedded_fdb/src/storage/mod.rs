//! A database in a file.
//!
//! The map in memory answers all reads; the file is what it is built from when the process starts.
//!
//! # Commits
//!
//! A commit is not done by its caller's thread but by the [`committer`]'s, together with all others
//! that wait: it resolves them in order, applies them to a copy of the map that nobody else sees,
//! writes what changed to the file, and waits until that is durable. Only then the copy becomes the
//! map, read versions rise above the commits' version, watches fire and commits are answered. So no
//! read shows what a crash could take back, and an answered commit is in the file.
//!
//! If writing fails (a full disk), the copy is dropped: the commits get `io_error` (1510), everybody
//! else goes on, and the next commits try again. If it cannot be known whether the file has the
//! commits (a failed sync), they get `commit_unknown_result` (1021), and later ones 1510 until the
//! database is opened in a new process; reads go on.
//!
//! # The file
//!
//! redb with two-phase commits keeps keys and values ([`store`]); it verifies its own checksums when
//! the file is opened. Beside that, a checksum of our own covers all keys and values, and a record of
//! the last commit stands outside redb's part of the file ([`file`]): whatever brings the file back
//! to an older commit is noticed.
//!
//! The record is written before the commit is answered, and synced with the next commit or after 20
//! milliseconds. The commit itself does not depend on it: two syncs of redb's have made it durable, and
//! redb refuses a file whose last two-phase commit is damaged. A sync of the record before each answer
//! would be a third one, for a disk that loses power within those 20 milliseconds and also takes back
//! what it had said to be on it.
//!
//! # Versions
//!
//! They rise over restarts: the file holds a version that no version given out has passed (the
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
    /// The name is none.
    #[error(
        "{name:?} does not name an embedded database: expected \"embedded:memory:NAME\" or \
         \"embedded:file:PATH\""
    )]
    Name {
        /// What was given.
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
    /// The file is there, and something else.
    #[error(
        "{} is not a database of the embedded engine: name another file, or move this one away to \
         begin a new database",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file does not hold what was written to it.
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
    /// The file is whole, but older than it was.
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
        /// The last commit that the file holds.
        found: u64,
    },
    /// The operating system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// `EMBEDDED_FDB_FAULTS` is set, and not right.
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

/// The one name of a database file, whichever way a path leads to it.
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

/// Opens the database in a file, which is made if there is none. Reads all of it.
pub(crate) fn open(path: &Path) -> Result<Arc<Database>, OpenError> {
    let lock = lock::take(path)?;
    let exists = path.try_exists();
    if !exists.map_err(|source| OpenError::io("find", path, source))? {
        create(path)?;
    }
    let file = OpenOptions::new().read(true).write(true).open(path);
    let file = file.map_err(|source| OpenError::io("open", path, source))?;
    // Against a process that came here by another name, where the lock file is another one too.
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(OpenError::Held {
                path: path.to_owned(),
                holder: "which uses the file by another name".to_owned(),
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

/// Makes a new database file with what a new database holds.
fn create(path: &Path) -> Result<(), OpenError> {
    let map = database::new_map(database::FIRST_VERSION);
    write(path, &map, database::FIRST_VERSION)
}

/// Makes a database file: under another name first, so that it is whole once it has its own.
fn write(path: &Path, map: &Map, lease: Version) -> Result<(), OpenError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = Path::new(&name);
    let failed = |source| OpenError::io("make", path, source);
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    let file = options.open(new).map_err(failed)?;
    // What an earlier attempt has left is overwritten, but not what another thread is writing.
    match file.try_lock() {
        Ok(()) => file.set_len(0).map_err(failed)?,
        Err(TryLockError::WouldBlock) => {
            return Err(OpenError::Held {
                path: new.to_owned(),
                holder: "which is making it".to_owned(),
            })
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    let file = Arc::new(DataFile::new(file));
    let made = Store::create(file, new, map, lease)
        .and_then(|()| std::fs::rename(new, path).map_err(failed));
    if made.is_err() {
        // What is there of it is of no use to anybody.
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
    /// There is something already.
    #[error("{} exists already: name a new file, or remove this one", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be made.
    #[error(transparent)]
    File(#[from] OpenError),
}

/// Why a database was not compacted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompactError {
    /// There is no file.
    #[error("this database is in memory: only one in a file can be compacted")]
    InMemory,
    /// The file cannot be written.
    #[error("{0}")]
    File(String),
}

/// Writes what a database holds to a new file, which is a database of its own. Commits go on meanwhile:
/// the file has all that were answered before, and none that began later.
///
/// Answers the number of keys and the length of the file.
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

/// Gives back the space that nothing uses in the file of a database: its length before and after.
pub(crate) fn compact(database: &Database) -> Result<(u64, u64), CompactError> {
    let committer = database.committer.as_ref().ok_or(CompactError::InMemory)?;
    let (sender, receiver) = std::sync::mpsc::channel();
    committer.compact(Box::new(move |result| {
        // Whoever asked waits for it.
        let _gone = sender.send(result);
    }));
    let result = receiver.recv();
    result
        .unwrap_or_else(|_| Err("the thread that commits has ended".to_owned()))
        .map_err(CompactError::File)
}
