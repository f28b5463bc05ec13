//! Administration from inside the process: why a database cannot be opened, counters, faults and
//! outages.
//!
//! ```
//! use embedded_fdb::admin::Database;
//! // A client that calls `fdb_create_database` with this name gets the same database.
//! let database = Database::open("embedded:memory:shop")?;
//! assert_eq!(database.stats().pending_watches, 0);
//! database.set_faults(Some("seed=7,not_committed=0.1".parse()?))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use crate::{registry, storage};

pub use crate::faults::{Faults, FaultsError, Outage};
pub use crate::storage::{BackupError, CompactError, OpenError};

/// A database of the process.
#[derive(Clone)]
pub struct Database(Arc<crate::database::Database>);

/// Counters of a database. All but the first two only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Stats {
    /// Watches that are neither ready nor cancelled.
    pub pending_watches: u64,
    /// Transactions not destroyed yet.
    pub transactions: u64,
    /// Commits that changed something.
    pub commits: u64,
    /// Reads: of a key, of a selector, of a range.
    pub reads: u64,
    /// Read versions given out.
    pub read_versions: u64,
}

/// The result of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Keys in it, including system keys.
    pub keys: u64,
    /// The length of its file in bytes.
    pub bytes: u64,
}

/// The result of a compaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// The length of the file before it.
    pub before: u64,
    /// The length of the file after it.
    pub after: u64,
}

impl Database {
    /// Opens the database that a cluster file path names, or returns it if it is already open.
    ///
    /// `fdb_create_database` does the same but returns only an error code: call this first to learn the
    /// cause. It reads the whole file, which takes time for a large one, and creates a missing file.
    ///
    /// # Errors
    ///
    /// Each error says what is wrong and what to do.
    ///
    ///
    /// ```
    /// let error = embedded_fdb::admin::Database::open("embedded:disk:x").err().unwrap();
    /// assert!(error.to_string().contains("embedded:file:PATH"));
    /// ```
    pub fn open(cluster_file_path: &str) -> Result<Database, OpenError> {
        registry::open(cluster_file_path).map(Database)
    }

    /// The database that a cluster file path names, if a client has opened it.
    pub fn find(cluster_file_path: &str) -> Option<Database> {
        registry::find(cluster_file_path).map(Database)
    }

    /// The counters now.
    pub fn stats(&self) -> Stats {
        let counters = &self.0.counters;
        Stats {
            pending_watches: self.0.watches.outstanding(),
            transactions: counters.transactions.load(Ordering::Relaxed),
            commits: counters.commits.load(Ordering::Relaxed),
            reads: counters.reads.load(Ordering::Relaxed),
            read_versions: counters.read_versions.load(Ordering::Relaxed),
        }
    }

    /// While `true`, watches that should fire are queued; `false` fires them.
    ///
    /// This lets a test run between a change and its notification.
    pub fn hold_watches(&self, hold: bool) {
        self.0.watches.hold(hold);
    }

    /// Replaces this database with a new one, as when a cluster is wiped and set up again: the new one is
    /// empty, its versions are lower than any before, and earlier watches stay pending until their keys
    /// change. Returns false if the database is in a file, which has to be deleted instead.
    ///
    /// Call this when no transaction is under way: those would belong to the old database.
    ///
    /// ```
    /// let database = embedded_fdb::admin::Database::open("embedded:memory:scratch")?;
    /// assert!(database.wipe());
    /// # Ok::<(), embedded_fdb::admin::OpenError>(())
    /// ```
    pub fn wipe(&self) -> bool {
        let in_memory = self.0.committer.is_none();
        if in_memory {
            self.0.wipe();
        }
        in_memory
    }

    /// Makes calls fail or wait from now on, or ends that with `None`. Restarts the sequence of faults.
    ///
    /// # Errors
    ///
    /// A probability is not from 0 to 1, or the faults of a call add up to more than 1.
    pub fn set_faults(&self, faults: Option<Faults>) -> Result<(), FaultsError> {
        faults.as_ref().map_or(Ok(()), Faults::check)?;
        self.0.faults.set(faults);
        Ok(())
    }

    /// Makes part of the database, or all of it, unavailable until the next call. See [`Outage`].
    pub fn set_outage(&self, outage: Outage) {
        self.0.set_outage(outage);
    }

    /// Writes all keys and values to a new file, which can be opened as a database. The backup is consistent:
    /// it has every commit that was acknowledged before the call, and no commit that began after it.
    /// Commits continue meanwhile. The database may be in memory or in a file.
    ///
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("shop.backup");
    /// use embedded_fdb::admin::Database;
    /// let database = Database::open("embedded:memory:shop")?;
    /// let backup = database.back_up(&path)?;
    /// assert!(backup.bytes > 0);
    /// let copy = Database::open(&format!("embedded:file:{}", path.display()))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The file exists, or cannot be created: its directory is missing, the disk is full. Nothing is left
    /// behind.
    pub fn back_up(&self, path: &Path) -> Result<Backup, BackupError> {
        let (keys, bytes) = storage::back_up(&self.0, path)?;
        Ok(Backup { keys, bytes })
    }

    /// Returns unused space in the file to the file system. Otherwise cleared and overwritten data stay part
    /// of the file and are reused. Commits wait meanwhile; reads continue.
    ///
    /// # Errors
    ///
    /// The database is in memory, or its file cannot be written. Committed data stay as they were.
    pub fn compact(&self) -> Result<Compaction, CompactError> {
        let (before, after) = storage::compact(&self.0)?;
        Ok(Compaction { before, after })
    }

    /// Why the last failed commits failed with `io_error` (1510), even if others have succeeded since:
    /// the file and the cause.
    pub fn last_storage_failure(&self) -> Option<String> {
        self.0.committer.as_ref()?.last_problem()
    }

    /// Why commits fail with `io_error` (1510): if the last one failed, or if all of them will.
    pub fn storage_problem(&self) -> Option<String> {
        self.0.committer.as_ref()?.problem()
    }
}
