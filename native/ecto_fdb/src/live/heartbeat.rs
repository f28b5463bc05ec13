//! Notices a database that does not answer: a watch on an unreachable cluster neither fires nor
//! fails, since the client retries inside. One read version every few seconds, for all
//! subscriptions of the database together, and only while there are any.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use foundationdb::options::TransactionOption;

use super::events::Event;
use super::query::{self, MetadataVersion};
use crate::client;
use crate::database::Database;
use crate::error::Error;

/// How many heartbeats fit into the time after which data count as stale.
const BEATS: u32 = 4;
/// How long data may go unconfirmed by default.
const DEFAULT_STALE_AFTER: Duration = Duration::from_secs(10);

/// Whether a database answers.
pub struct Heartbeat {
    running: AtomicBool,
    silent: AtomicBool,
    stale_after_ms: AtomicU64,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Heartbeat {
            running: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            stale_after_ms: AtomicU64::new(DEFAULT_STALE_AFTER.as_millis() as u64),
        }
    }
}

impl Heartbeat {
    /// How long a database may be silent, and a live query fail, before subscribers are told.
    pub fn stale_after(&self) -> Duration {
        Duration::from_millis(self.stale_after_ms.load(Ordering::Relaxed))
    }

    /// Sets that time.
    pub fn set_stale_after(&self, time: Duration) {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.stale_after_ms.store(time, Ordering::Relaxed);
    }

    /// Whether the database has not answered for that time.
    pub fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Acquire)
    }

    /// The reason that subscribers are told.
    pub fn reason(&self) -> Error {
        Error::Client(format!(
            "the database has not answered for {} ms",
            self.stale_after().as_millis()
        ))
    }

    /// Sees to it that the heart beats while there are live queries.
    pub fn start(&self, database: &Arc<Database>) {
        if !self.running.swap(true, Ordering::AcqRel) {
            client::runtime().spawn(beat(Arc::downgrade(database)));
        }
    }
}

async fn beat(database: Weak<Database>) {
    let mut last_answer = Instant::now();
    loop {
        let Some(database) = database.upgrade() else {
            return;
        };
        let heart = &database.live.heartbeat;
        if database.live.is_empty() {
            heart.running.store(false, Ordering::Release);
            // Somebody may have come since, and found it running.
            if database.live.is_empty() || heart.running.swap(true, Ordering::AcqRel) {
                return;
            }
        }
        let limit = heart.stale_after();
        let left = limit
            .saturating_sub(last_answer.elapsed())
            .max(limit / BEATS);
        let newest = database.live.newest();
        let answered = tokio::time::timeout(left, ask(&database)).await;
        if let Ok(Ok((read_version, metadata))) = answered {
            last_answer = Instant::now();
            // A database's versions only rise. A cluster that was wiped, and set up anew in the same
            // place, begins with small ones, and knows nothing of the watches.
            if read_version < newest {
                database.live.begin_anew();
            }
            database.live.check_plans(&metadata);
        }
        let silent = last_answer.elapsed() >= limit;
        if heart.silent.swap(silent, Ordering::AcqRel) != silent {
            let subscribers = database.stats.subscriptions.load(Ordering::Relaxed) as usize;
            database.live.reporter.tell(&match silent {
                true => Event::Stale(subscribers),
                false => Event::Fresh(subscribers),
            });
            database.live.tell_everybody();
        }
        drop(database);
        tokio::time::sleep(limit / BEATS).await;
    }
}

async fn ask(database: &Database) -> Result<(i64, MetadataVersion), Error> {
    let transaction = database.transaction()?;
    transaction.set_option(TransactionOption::Timeout(0))?;
    let read_version = transaction.get_read_version().await?;
    Ok((read_version, query::metadata_version(&transaction).await?))
}
