//! Counters of a database, as `EctoFoundationDB.Native.stats/1` returns them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Current numbers, and totals since the database was opened.
#[derive(Default)]
pub struct Stats {
    /// Live transactions of Elixir processes.
    pub transactions: AtomicU64,
    /// Their commits.
    pub commits: AtomicU64,
    /// Their commits that lost against other transactions.
    pub conflicts: AtomicU64,
    /// Their commits of which nobody knows whether they succeeded.
    pub unknown_results: AtomicU64,
    /// Their attempts that were retried, after conflicts and other errors.
    pub transaction_retries: AtomicU64,
    /// Subscriptions that stand.
    pub subscriptions: AtomicU64,
    /// Live queries that the subscriptions share.
    pub live_queries: AtomicU64,
    /// Armed watches that have neither fired nor failed.
    pub pending_watches: AtomicU64,
    /// Live queries whose reads have failed for too long.
    pub stale: AtomicU64,
    /// Transactions that read live queries.
    pub batches: AtomicU64,
    /// Live queries read by them.
    pub reads: AtomicU64,
    /// Watches armed.
    pub watches_armed: AtomicU64,
    /// Watches that fired.
    pub watches_fired: AtomicU64,
    /// Watches that failed.
    pub watches_failed: AtomicU64,
    /// `{subscription, :ready}` messages sent.
    pub messages: AtomicU64,
    /// Attempts at a batch that were retried.
    pub retries: AtomicU64,
    /// Checks of bases: a tenant's entry, and a source's indexes.
    pub basis_checks: AtomicU64,
    /// Checks of watched keys.
    pub probes: AtomicU64,
    /// Evaluations of functions.
    pub evaluations: AtomicU64,
    /// How long they took together, in microseconds.
    pub evaluation_us: AtomicU64,
}

impl Stats {
    /// All of them by name.
    pub fn all(&self) -> HashMap<&'static str, u64> {
        [
            ("transactions", &self.transactions),
            ("commits", &self.commits),
            ("conflicts", &self.conflicts),
            ("unknown_results", &self.unknown_results),
            ("transaction_retries", &self.transaction_retries),
            ("subscriptions", &self.subscriptions),
            ("live_queries", &self.live_queries),
            ("pending_watches", &self.pending_watches),
            ("stale", &self.stale),
            ("batches", &self.batches),
            ("reads", &self.reads),
            ("watches_armed", &self.watches_armed),
            ("watches_fired", &self.watches_fired),
            ("watches_failed", &self.watches_failed),
            ("messages", &self.messages),
            ("retries", &self.retries),
            ("basis_checks", &self.basis_checks),
            ("probes", &self.probes),
            ("evaluations", &self.evaluations),
            ("evaluation_us", &self.evaluation_us),
        ]
        .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
        .into()
    }
}

/// A transaction's reads and writes in all of its attempts.
#[derive(Default)]
pub struct Sizes {
    read: [AtomicU64; 2],
    written: [AtomicU64; 2],
}

impl Sizes {
    /// Adds this many keys and bytes read.
    pub fn read(&self, keys: usize, bytes: usize) {
        count(&self.read[0], keys as u64);
        count(&self.read[1], bytes as u64);
    }

    /// Adds one written key or range, and this many bytes.
    pub fn wrote(&self, bytes: usize) {
        count(&self.written[0], 1);
        count(&self.written[1], bytes as u64);
    }

    /// Keys read, bytes read, keys and ranges written, bytes written.
    pub fn all(&self) -> (u64, u64, u64, u64) {
        let [read, written] = [&self.read, &self.written]
            .map(|counters| counters.each_ref().map(|one| one.load(Ordering::Relaxed)));
        (read[0], read[1], written[0], written[1])
    }
}

/// Adds to a counter.
pub fn count(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Counts one object for as long as it lives.
pub struct Gauge<'a>(&'a AtomicU64);

impl<'a> Gauge<'a> {
    /// Adds one.
    pub fn new(counter: &'a AtomicU64) -> Self {
        count(counter, 1);
        Gauge(counter)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
