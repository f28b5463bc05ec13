//! Live queries: what Sync's subscriptions read and watch, shared by all processes of the node.
//!
//! ```text
//! subscribe ──► read + arm watch (one transaction) ──► result waits to be taken
//!                        ▲                                   │ watch fires
//!                        └──── re-read + re-arm, once ◄──────┘
//!                                    │
//!                                    └──► {subscription, :ready} to every subscriber
//! ```
//!
//! - [`query`], [`snapshot`], [`shared_term`]: what is read, what was, and its change as a term.
//! - [`entry`]: one live query: newest data, pending watch, subscribers.
//! - [`subscription`]: one process's interest.
//! - [`reader`]: batches: many queries at one read version.
//! - [`storm`]: whether many processes mount at once.
//! - [`delivery`]: messages to processes.
//! - [`heartbeat`]: whether the database answers.
//! - [`plan`]: queries that follow migrations.
//! - [`events`]: what telemetry hears.

pub mod delivery;
pub mod entry;
pub mod events;
pub mod heartbeat;
pub mod plan;
pub mod query;
pub mod reader;
pub mod shared_term;
pub mod snapshot;
pub mod storm;
pub mod subscription;

use std::collections::{hash_map, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::Arc;

use parking_lot::Mutex;

use self::entry::Entry;
use self::events::Reporter;
use self::heartbeat::Heartbeat;
use self::plan::Planner;
use self::query::{MetadataVersion, Query};
use self::reader::Queue;
use crate::database::Database;
use crate::stats::count;

/// The live queries of one database.
#[derive(Default)]
pub struct LiveQueries {
    entries: Mutex<HashMap<Arc<Query>, Arc<Entry>>>,
    queue: Mutex<Queue>,
    /// The newest read version of what is shown.
    newest: AtomicI64,
    /// Whether the database answers.
    pub heartbeat: Heartbeat,
    /// Who makes new plans.
    pub planner: Planner,
    /// Who hears of events.
    pub reporter: Reporter,
}

impl LiveQueries {
    /// The entry of a query, where it has one.
    fn find(&self, query: &Query) -> Option<Arc<Entry>> {
        self.entries.lock().get(query).cloned()
    }

    /// Puts an entry in place of a closed one, or of none; another live one stays and is returned.
    fn insert(&self, database: &Arc<Database>, entry: Arc<Entry>) -> Arc<Entry> {
        let entry = {
            let mut entries = self.entries.lock();
            let query = Arc::clone(&entry.query);
            let place = entries.entry(query);
            if let hash_map::Entry::Vacant(_) = place {
                count(&database.stats.live_queries, 1);
            }
            Arc::clone(place.or_insert(entry))
        };
        self.heartbeat.start(database);
        entry
    }

    /// Whether nobody subscribes to anything.
    fn is_empty(&self) -> bool {
        self.entries.lock().is_empty()
    }

    /// Wakes whoever was told something else about the database than what holds now.
    fn tell_everybody(&self) {
        let entries: Vec<_> = self.entries.lock().values().cloned().collect();
        for entry in entries {
            entry.tell();
        }
    }

    /// The heartbeat has seen this metadata version: plans made under another one are looked at.
    fn check_plans(&self, version: &MetadataVersion) {
        let entries: Vec<_> = self.entries.lock().values().cloned().collect();
        for entry in entries.iter().filter(|entry| entry.query.plan.is_some()) {
            entry.check_plan(version);
        }
    }

    /// The newest read version of what is shown.
    fn newest(&self) -> i64 {
        self.newest.load(Ordering::Acquire)
    }

    /// Something was read at this version, and is shown.
    fn shows(&self, version: i64) {
        self.newest.fetch_max(version, Ordering::AcqRel);
    }

    /// Another database has taken the place of the one that was read: everything is read again.
    fn begin_anew(&self) {
        self.newest.store(0, Ordering::Release);
        let entries: Vec<_> = self.entries.lock().values().cloned().collect();
        for entry in entries {
            entry.begin_anew();
        }
    }

    /// Drops a closed entry.
    pub fn forget(&self, entry: &Arc<Entry>) {
        let mut entries = self.entries.lock();
        if entries
            .get(&entry.query)
            .is_some_and(|found| Arc::ptr_eq(found, entry))
        {
            entries.remove(&entry.query);
            entry.stats().live_queries.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
