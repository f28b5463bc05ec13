//! The health of a database: what its transactions have found, and what it and its client report on
//! request.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use foundationdb::options::TransactionOption;
use live_state::Lane;
use parking_lot::Mutex;
use rustler::{Atom, NifMap};

use crate::client;
use crate::client_status::ClientStatus;
use crate::database::Database;
use crate::error::Error;
use crate::live::registry::LiveQueries;

/// FoundationDB's `database_locked`.
const DATABASE_LOCKED: i32 = 1038;
/// Errors that don't concern the database: `transaction_too_old`, `not_committed` and
/// `transaction_cancelled`.
const OF_THE_TRANSACTION: [i32; 3] = [1007, 1020, 1025];
/// From here on, FoundationDB's codes mean incorrect use.
const FIRST_OF_THE_CALLER: i32 = 2000;
/// How long the client may take to return its own status, for which it asks no server.
const CLIENT_STATUS_TIMEOUT: Duration = Duration::from_secs(1);

mod atoms {
    rustler::atoms! { ok, locked, failing, unreachable }
}

/// The known health of a database, without asking it.
///
/// Times are microseconds since `begun`, plus one; zero means never.
pub struct Health {
    begun: Instant,
    begun_at: SystemTime,
    answered: AtomicU64,
    /// When it first answered after it was last unavailable.
    up_since: AtomicU64,
    away: AtomicBool,
    locked_since: AtomicU64,
    last_error: Mutex<Option<(u64, Error)>>,
}

impl Default for Health {
    fn default() -> Self {
        Health {
            begun: Instant::now(),
            begun_at: SystemTime::now(),
            answered: AtomicU64::new(0),
            up_since: AtomicU64::new(0),
            away: AtomicBool::new(false),
            locked_since: AtomicU64::new(0),
            last_error: Mutex::new(None),
        }
    }
}

impl Health {
    /// The database has answered a request that began at this time. Returns how long it was locked, if this
    /// shows that it no longer is.
    pub fn answered(&self, begun: Instant) -> Option<Duration> {
        let now = self.at(Instant::now());
        self.answered.store(now, Ordering::Relaxed);
        if self.away.load(Ordering::Relaxed) && self.away.swap(false, Ordering::AcqRel)
            || self.up_since.load(Ordering::Relaxed) == 0
        {
            self.up_since.store(now, Ordering::Relaxed);
        }
        let locked = self.locked_since.load(Ordering::Relaxed);
        // A request that had its read version before the lock may still succeed.
        let ends = locked != 0
            && self.at(begun) > locked
            && self
                .locked_since
                .compare_exchange(locked, 0, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        ends.then(|| Duration::from_micros(now - locked))
    }

    /// It has answered with an error. Returns whether this is the first to report a lock.
    pub fn failed(&self, error: &Error) -> bool {
        let code = error.code();
        if OF_THE_TRANSACTION.contains(&code) || code >= FIRST_OF_THE_CALLER {
            return false;
        }
        let now = self.at(Instant::now());
        *self.last_error.lock() = Some((now, error.clone()));
        code == DATABASE_LOCKED
            && self
                .locked_since
                .compare_exchange(0, now, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    /// It has not answered in time.
    fn away(&self) {
        self.away.store(true, Ordering::Release);
    }

    fn at(&self, time: Instant) -> u64 {
        time.saturating_duration_since(self.begun).as_micros() as u64 + 1
    }

    /// In milliseconds since 1970.
    fn unix_time(&self, at: u64) -> Option<u64> {
        let after = Duration::from_micros(at.checked_sub(1)?);
        let since = (self.begun_at + after).duration_since(UNIX_EPOCH).ok()?;
        Some(since.as_millis() as u64)
    }
}

/// The data of `EctoFoundationDB.health/2`.
#[derive(NifMap)]
#[rustler(encode)]
pub struct Report {
    status: Atom,
    /// The base of the times: milliseconds since 1970.
    since: Option<u64>,
    last_answer: Option<u64>,
    last_error: Option<(u64, Error)>,
    round_trip_us: Option<u64>,
    batches_under_way: usize,
    queued: usize,
    oldest_waiting_us: u64,
    client: Option<ClientStatus>,
    /// Why `client` is missing.
    client_error: Option<Error>,
}

/// Asks a database for a read version, and its client for its status.
pub async fn report(live: &LiveQueries, timeout: Duration) -> Report {
    let database = &live.database;
    let begun = Instant::now();
    let asked = tokio::time::timeout(timeout, ask(database)).await;
    let round_trip_us = begun.elapsed().as_micros() as u64;
    let (status, answered) = match asked {
        Ok(Ok(())) => {
            live.transaction_answered(begun);
            (atoms::ok(), true)
        }
        Ok(Err(error)) => {
            live.transaction_failed(&error);
            match error.code() {
                DATABASE_LOCKED => (atoms::locked(), true),
                _ => (atoms::failing(), true),
            }
        }
        Err(_elapsed) => {
            database.health.away();
            (atoms::unreachable(), false)
        }
    };
    let client = client_status(database).await;
    let health = &database.health;
    let load = |time: &AtomicU64| health.unix_time(time.load(Ordering::Relaxed));
    let last_error = health.last_error.lock().clone();
    let lanes = [Lane::Refreshes, Lane::Calls, Lane::Side];
    let (batches_under_way, (calls, refreshes), oldest) = live.look_at_queue(|queue| {
        let batches = lanes.map(|lane| queue.readers(lane)).iter().sum();
        (batches, queue.lengths(), queue.oldest())
    });
    Report {
        status,
        since: if status == atoms::locked() {
            load(&health.locked_since)
        } else if answered {
            load(&health.up_since)
        } else {
            load(&health.answered)
        },
        last_answer: load(&health.answered),
        last_error: last_error.and_then(|(at, error)| Some((health.unix_time(at)?, error))),
        round_trip_us: answered.then_some(round_trip_us),
        batches_under_way,
        queued: calls + refreshes,
        oldest_waiting_us: oldest.map_or(0, |since| since.elapsed().as_micros() as u64),
        client_error: client.as_ref().err().cloned(),
        client: client.ok(),
    }
}

async fn ask(database: &Database) -> Result<(), Error> {
    let transaction = database.transaction()?;
    transaction.set_option(TransactionOption::Timeout(0))?;
    transaction.get_read_version().await?;
    Ok(())
}

async fn client_status(database: &Database) -> Result<ClientStatus, Error> {
    let status = tokio::time::timeout(CLIENT_STATUS_TIMEOUT, database.client_status_json()).await;
    let json = status.map_err(|_elapsed| {
        Error::Client(format!(
            "the client's network thread has not answered for {} ms",
            CLIENT_STATUS_TIMEOUT.as_millis()
        ))
    })??;
    ClientStatus::parse(&json, client::version())
}
