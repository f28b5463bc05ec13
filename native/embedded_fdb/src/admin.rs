//! What only the process itself can see and do: counters, and faults on purpose.
//!
//! ```
//! // A C client opened `embedded:memory:shop` with `fdb_create_database` before.
//! # assert!(embedded_fdb::admin::Database::find("embedded:memory:shop").is_none());
//! if let Some(database) = embedded_fdb::admin::Database::find("embedded:memory:shop") {
//!     println!("{} watches wait", database.stats().pending_watches);
//! }
//! ```

use std::sync::atomic::Ordering;
use std::sync::Arc;

use crate::registry;

/// A database that some client of the process has opened.
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

impl Database {
    /// The database that a cluster file path stands for, if a client has opened it.
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
    /// This makes "between the change and the notice of it" a place where a test can stand.
    pub fn hold_watches(&self, hold: bool) {
        self.0.watches.hold(hold);
    }
}
