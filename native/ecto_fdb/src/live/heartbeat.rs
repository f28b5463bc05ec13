//! Checks the database while nothing changes. A watch on an unreachable server neither fires nor fails,
//! because the client retries internally.
//!
//! - Every quarter of `stale_after` it requests one read version for all live queries of the database, to
//!   see whether it answers at all. That involves no storage server.
//! - Once in `stale_after` it reads each live query's watched key, unless it was read since, to see
//!   whether its storage server answers, and whether the watch was lost. Many keys share a transaction.
//! - When the metadata version has changed, it checks what the live queries rely on.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use live_state::Probe;
use tokio::task::JoinHandle;

use super::basis::MetadataVersion;
use super::look::{self, Bases, LOOKS};
use super::registry::LiveQueries;
use super::subscription::LiveQuery;
use crate::client;

/// The number of heartbeats per `stale_after`.
const BEATS: u32 = 4;
/// FoundationDB's transactions last five seconds.
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// Starts the heartbeat. It ends when there is nothing to keep up to date.
pub fn start(live: Arc<LiveQueries>) {
    client::runtime().spawn(beat(Arc::downgrade(&live)));
}

async fn beat(live: Weak<LiveQueries>) {
    let mut seen: Option<MetadataVersion> = None;
    let mut verifying: Option<JoinHandle<bool>> = None;
    loop {
        let Some(live) = live.upgrade() else { return };
        if live.stop_heartbeat() {
            return;
        }
        let pause = live.stale_after() / BEATS;
        let newest = live.newest();
        let begun = Instant::now();
        match tokio::time::timeout(pause, look::versions(&live)).await {
            Ok(Ok((read_version, metadata))) => {
                live.answered();
                live.transaction_answered(begun);
                // A database's versions only rise. A cluster that was wiped and set up again in the same
                // place begins with small ones, and does not know the watches.
                if read_version < newest {
                    live.database_replaced();
                }
                let verified = match verifying.take_if(|verifying| verifying.is_finished()) {
                    Some(verifying) => verifying.await.unwrap_or(false),
                    None => true,
                };
                if verifying.is_none() && (!verified || seen.as_ref() != Some(&metadata)) {
                    let verify = verify(Arc::clone(&live), metadata.clone());
                    verifying = Some(client::runtime().spawn(verify));
                    seen = Some(metadata);
                }
            }
            Ok(Err(error)) => live.refused(&error),
            Err(_no_answer) => {}
        }
        let now = Instant::now();
        live.check_pulse(now);
        let mut due = Vec::new();
        live.each(|live_query| {
            live_query.check(now);
            if live_query.probe_due(now) {
                due.push(Arc::clone(live_query));
            }
        });
        if !due.is_empty() {
            client::runtime().spawn(probe(Arc::clone(&live), due));
        }
        drop(live);
        tokio::time::sleep(pause).await;
    }
}

/// Checks watched keys. A key that gives no answer within half of `stale_after` counts as unconfirmed
/// since the check began.
async fn probe(live: Arc<LiveQueries>, due: Vec<Arc<LiveQuery>>) {
    let patience = (live.stale_after() / 2).min(LONGEST_LOOK);
    for some in due.chunks(LOOKS) {
        let begun = Instant::now();
        let mut open = look::open(some);
        let looked = look::watched_keys(&live, some, &mut open);
        let looked = tokio::time::timeout(patience, looked).await;
        if let Ok(Err(error)) = looked {
            live.refused(&error);
        }
        for live_query in open.into_values() {
            live_query.probed(Probe::Unanswered(begun));
        }
    }
}

/// Checks bases that are not confirmed under this metadata version. False if one of them could not be
/// checked.
async fn verify(live: Arc<LiveQueries>, metadata: MetadataVersion) -> bool {
    let mut bases = Bases::default();
    live.each(|live_query| {
        let basis = live_query.basis();
        if let Some(basis) = basis.filter(|basis| !basis.is_verified(&metadata)) {
            bases.add(basis, live_query);
        }
    });
    let bases = bases.all();
    let mut all = true;
    for some in bases.chunks(LOOKS) {
        let checked = tokio::time::timeout(LONGEST_LOOK, look::bases(&live, some)).await;
        all &= matches!(checked, Ok(Ok(())));
        if let Ok(Err(error)) = checked {
            live.refused(&error);
        }
    }
    all
}
