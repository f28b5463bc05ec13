//! The thread that commits to a database file.
//!
//! All commits that arrive while the file is being written are written next, together: a commit waits
//! for at most two writes, however many commits there are.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::store::{Failure, Store};
use crate::database::{CommitRequest, Committed, Database, Refused};
use crate::error::Error;
use crate::mvcc::Version;
use crate::sync::{lock, wait_timeout, Condvar, Mutex};

/// The most commits written together: a versionstamp has two bytes for the order in a batch.
const BATCH: usize = 10_000;
/// Versions that may be handed out before the file's lease must be renewed: an hour's worth.
pub(super) const LEASE: Version = 3_600_000_000;
/// How often the lease is checked when there is nothing to commit.
const IDLE: Duration = Duration::from_secs(60);
/// How long to wait for the next commit before the record of the last one is made durable.
const PAUSE: Duration = Duration::from_millis(20);

/// The result of a commit.
pub(crate) type Answer = std::result::Result<Committed, Refused>;
/// Receives the result of a commit, on the committer's thread.
pub(crate) type Done = Box<dyn FnOnce(Answer) + Send>;

/// Hands commits to the thread.
#[derive(Default)]
pub(crate) struct Committer {
    queue: Mutex<VecDeque<(CommitRequest, Done)>>,
    work: Condvar,
    compactions: Mutex<Vec<Compacted>>,
    problems: Mutex<Problems>,
}

/// Why commits are not written.
#[derive(Default)]
struct Problems {
    /// The error of the last commits, if they failed.
    now: Option<String>,
    /// The error of the last commits that failed.
    last: Option<String>,
}

/// Receives the result of a compaction: the length of the file before and after.
type Compacted = Box<dyn FnOnce(Result<(u64, u64), String>) + Send>;

impl Committer {
    /// Commits later; `done` is called once, on the committer's thread.
    pub(crate) fn submit(&self, request: CommitRequest, done: Done) {
        lock(&self.queue).push_back((request, done));
        self.work.notify_one();
    }

    /// Why the last commits were not written, if they failed.
    pub(crate) fn problem(&self) -> Option<String> {
        lock(&self.problems).now.clone()
    }

    /// Why the last failed commits were not written.
    pub(crate) fn last_problem(&self) -> Option<String> {
        lock(&self.problems).last.clone()
    }

    /// Compacts the file between two commits, which wait meanwhile; `done` is called on the committer's
    /// thread.
    pub(crate) fn compact(&self, done: Compacted) {
        // Under the queue's lock, so that the thread does not fall asleep in between.
        let queue = lock(&self.queue);
        lock(&self.compactions).push(done);
        drop(queue);
        self.work.notify_one();
    }

    /// The next commits; none if none arrived for a while.
    fn take(&self, wait: Duration) -> Vec<(CommitRequest, Done)> {
        let mut queue = lock(&self.queue);
        if queue.is_empty() && lock(&self.compactions).is_empty() {
            queue = wait_timeout(&self.work, queue, wait);
        }
        let count = queue.len().min(BATCH);
        queue.drain(..count).collect()
    }
}

/// A panic must not end the thread that all commits depend on. The panic hook has reported it.
fn guarded<T>(body: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).ok()
}

/// Starts the thread of a database, which ends with the process.
pub(super) fn start(
    database: Arc<Database>,
    committer: Arc<Committer>,
    store: Store,
) -> std::io::Result<()> {
    let thread = std::thread::Builder::new().name("fdb-committer".to_owned());
    let work = Work {
        database,
        committer,
        store,
    };
    thread.spawn(move || work.run())?;
    Ok(())
}

struct Work {
    database: Arc<Database>,
    committer: Arc<Committer>,
    store: Store,
}

impl Work {
    fn run(mut self) {
        // The first lease is due at once.
        let mut wait = Duration::ZERO;
        loop {
            let batch = self.committer.take(wait);
            let worked = !batch.is_empty();
            if worked {
                self.commit(batch);
            }
            let compactions = std::mem::take(&mut *lock(&self.committer.compactions));
            if worked || !compactions.is_empty() {
                self.compact(compactions);
                wait = PAUSE;
                continue;
            }
            if wait == PAUSE {
                self.store.settle();
            }
            self.extend_lease();
            wait = IDLE;
        }
    }

    fn commit(&mut self, batch: Vec<(CommitRequest, Done)>) {
        let (requests, dones): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        let lease = self.database.clock() + LEASE;
        let store = &mut self.store;
        let mut failure = None;
        let work = || {
            self.database
                .commit_batch(&requests, lease, |before, changes| {
                    store.persist(before, changes, lease).map_err(|failed| {
                        let (error, text) = match failed {
                            Failure::NotWritten(text) => (Error::IO_ERROR, text),
                            Failure::Unknown(text) => (Error::COMMIT_UNKNOWN_RESULT, text),
                        };
                        failure = Some(text);
                        error
                    })
                })
        };
        let answers = guarded(work).unwrap_or_else(|| {
            // Memory and file may now differ.
            self.store.give_up("a commit failed half-way");
            let unknown = |_| Err(Refused::with(Error::COMMIT_UNKNOWN_RESULT));
            dones.iter().map(unknown).collect()
        });
        self.report(failure);
        for (done, answer) in dones.into_iter().zip(answers) {
            guarded(|| done(answer));
        }
    }

    /// All requests for it get the same compaction.
    fn compact(&mut self, asked: Vec<Compacted>) {
        if asked.is_empty() {
            return;
        }
        let store = &mut self.store;
        let result = guarded(|| store.compact()).unwrap_or_else(|| {
            self.store.give_up("a compaction failed half-way");
            Err(self.store.problem().unwrap_or_default().to_owned())
        });
        for done in asked {
            guarded(|| done(result.clone()));
        }
    }

    fn extend_lease(&mut self) {
        let clock = self.database.clock();
        if self.store.lease() - clock > LEASE / 2 {
            return;
        }
        let lease = clock + LEASE;
        let nothing = Default::default();
        match self.store.persist(&nothing, &[], lease) {
            Ok(()) => {
                self.database.set_lease(lease);
                self.store.settle();
                self.report(None);
            }
            Err(Failure::NotWritten(text) | Failure::Unknown(text)) => self.report(Some(text)),
        }
    }

    fn report(&self, failure: Option<String>) {
        let now = failure.or_else(|| self.store.problem().map(str::to_owned));
        let mut problems = lock(&self.committer.problems);
        if now.is_some() {
            problems.last.clone_from(&now);
        }
        problems.now = now;
    }
}
