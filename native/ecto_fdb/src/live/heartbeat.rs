//! What is asked of the database while nothing changes. A watch on a server that cannot be reached
//! neither fires nor fails, since the client retries inside.
//!
//! - Every quarter of `stale_after`, one read version for all live queries of the database: whether it
//!   answers at all. It needs no storage server, so it says nothing about one.
//! - Once in `stale_after`, each live query's watched key, unless it was read since: whether its storage
//!   server answers, and whether the watch was lost. Many keys share a transaction.
//! - When the metadata version has changed, what the live queries rely on.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use foundationdb::options::TransactionOption;
use foundationdb::Transaction;
use futures::stream::{FuturesUnordered, StreamExt};
use live_state::Probe;
use tokio::task::JoinHandle;

use super::basis::{self, Basis, MetadataVersion, Verdict};
use super::batch;
use super::registry::LiveQueries;
use super::subscription::LiveQuery;
use crate::client;
use crate::error::Error;
use crate::stats::count;

/// How many heartbeats fit into `stale_after`.
const BEATS: u32 = 4;
/// How many keys or bases are looked at in one transaction.
const LOOKS: usize = 500;
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
        match tokio::time::timeout(pause, ask(&live)).await {
            Ok(Ok((read_version, metadata))) => {
                live.answered();
                live.transaction_answered(begun);
                // A database's versions only rise. A cluster that was wiped, and set up again in the
                // same place, begins with small ones, and knows nothing of the watches.
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

fn transaction(live: &LiveQueries) -> Result<Transaction, Error> {
    let transaction = live.database.transaction()?;
    transaction.set_option(TransactionOption::Timeout(0))?;
    Ok(transaction)
}

async fn ask(live: &LiveQueries) -> Result<(i64, MetadataVersion), Error> {
    let transaction = transaction(live)?;
    let read_version = transaction.get_read_version().await?;
    Ok((read_version, basis::metadata_version(&transaction).await?))
}

/// Looks at watched keys. What gives no answer within half of `stale_after` counts as unconfirmed
/// since the look began.
async fn probe(live: Arc<LiveQueries>, due: Vec<Arc<LiveQuery>>) {
    let patience = (live.stale_after() / 2).min(LONGEST_LOOK);
    for some in due.chunks(LOOKS) {
        let begun = Instant::now();
        let mut open: HashMap<usize, &Arc<LiveQuery>> = some.iter().enumerate().collect();
        count(&live.database.stats.probes, some.len() as u64);
        let looked = tokio::time::timeout(patience, look(&live, some, &mut open)).await;
        if let Ok(Err(error)) = looked {
            live.refused(&error);
        }
        for live_query in open.into_values() {
            live_query.probed(Probe::Unanswered(begun));
        }
    }
}

async fn look(
    live: &LiveQueries,
    some: &[Arc<LiveQuery>],
    open: &mut HashMap<usize, &Arc<LiveQuery>>,
) -> Result<(), Error> {
    let transaction = transaction(live)?;
    let read_version = transaction.get_read_version().await?;
    let mut answers: FuturesUnordered<_> = some
        .iter()
        .enumerate()
        .map(|(place, live_query)| {
            let value = transaction.get(&live_query.query.watch, true);
            async move { (place, value.await) }
        })
        .collect();
    while let Some((place, value)) = answers.next().await {
        // One that fails stays open, as if it had given no answer.
        if let (Ok(value), Some(live_query)) = (value, open.get(&place)) {
            live_query.probed(Probe::Value(read_version, value.as_deref()));
            open.remove(&place);
        }
    }
    Ok(())
}

type Relying = (Arc<Basis>, Vec<Arc<LiveQuery>>);

/// Looks at what live queries rely on, where that was not found right under this metadata version.
/// False if something could not be looked at.
async fn verify(live: Arc<LiveQueries>, metadata: MetadataVersion) -> bool {
    let mut bases: HashMap<usize, Relying> = HashMap::new();
    live.each(|live_query| {
        if let Some(basis) = live_query
            .basis()
            .filter(|basis| !basis.is_verified(&metadata))
        {
            let relying = bases
                .entry(Arc::as_ptr(&basis) as usize)
                .or_insert_with(|| (basis, Vec::new()));
            relying.1.push(Arc::clone(live_query));
        }
    });
    let bases: Vec<Relying> = bases.into_values().collect();
    let mut all = true;
    for some in bases.chunks(LOOKS) {
        let checked = tokio::time::timeout(LONGEST_LOOK, check(&live, some)).await;
        all &= matches!(checked, Ok(Ok(())));
        if let Ok(Err(error)) = checked {
            live.refused(&error);
        }
    }
    all
}

async fn check(live: &LiveQueries, some: &[Relying]) -> Result<(), Error> {
    let transaction = transaction(live)?;
    transaction.get_read_version().await?;
    // It may be another one by now.
    let metadata = basis::metadata_version(&transaction).await?;
    let transaction = &transaction;
    let mut verdicts: FuturesUnordered<_> = some
        .iter()
        .filter(|(basis, _)| !basis.is_verified(&metadata))
        .map(|relying| {
            count(&live.database.stats.basis_checks, 1);
            async move { (relying, relying.0.check(transaction).await) }
        })
        .collect();
    while let Some(((basis, live_queries), verdict)) = verdicts.next().await {
        let basis = Some(Arc::clone(basis));
        match verdict? {
            Verdict::Right => basis.iter().for_each(|basis| basis.verify(&metadata)),
            Verdict::SourceChanged => {
                for live_query in live_queries {
                    live_query.basis_changed(&basis);
                }
            }
            Verdict::TenantGone => {
                for live_query in live_queries {
                    live_query.tenant_gone(batch::gone(&basis));
                }
            }
        }
    }
    Ok(())
}
