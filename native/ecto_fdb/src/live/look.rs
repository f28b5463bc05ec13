//! Checks of the database that read no live query: a read version, watched keys, bases. The heartbeat
//! and `settle` share them.

use std::collections::HashMap;
use std::sync::Arc;

use foundationdb::options::TransactionOption;
use foundationdb::{FdbResult, Transaction};
use futures::future::try_join_all;
use futures::stream::{FuturesUnordered, StreamExt};
use live_state::{Key, Probe, Watched};

use super::basis::{self, Basis, MetadataVersion, Verdict};
use super::batch;
use super::registry::LiveQueries;
use super::subscription::LiveQuery;
use crate::error::Error;
use crate::stats::count;

/// How many keys or bases one transaction checks.
pub const LOOKS: usize = 500;

fn transaction(live: &LiveQueries) -> Result<Transaction, Error> {
    let transaction = live.database.transaction()?;
    transaction.set_option(TransactionOption::Timeout(0))?;
    Ok(transaction)
}

/// A read version, with the metadata version that comes with it.
pub async fn versions(live: &LiveQueries) -> Result<(i64, MetadataVersion), Error> {
    let transaction = transaction(live)?;
    let read_version = transaction.get_read_version().await?;
    Ok((read_version, basis::metadata_version(&transaction).await?))
}

/// Live queries whose watched keys have not been checked, by their places.
pub type Open<'a> = HashMap<usize, &'a Arc<LiveQuery>>;

/// All of these are open.
pub fn open(some: &[Arc<LiveQuery>]) -> Open<'_> {
    some.iter().enumerate().collect()
}

/// Checks the watched keys of up to [`LOOKS`] live queries, passes the results to them, and removes them
/// from `open`.
pub async fn watched_keys(
    live: &LiveQueries,
    some: &[Arc<LiveQuery>],
    open: &mut Open<'_>,
) -> Result<(), Error> {
    count(&live.database.stats.probes, some.len() as u64);
    let transaction = transaction(live)?;
    let read_version = transaction.get_read_version().await?;
    let transaction = &transaction;
    let mut answers: FuturesUnordered<_> = some
        .iter()
        .enumerate()
        .map(|(place, live_query)| async move {
            (place, values(transaction, live_query.watched_keys()).await)
        })
        .collect();
    while let Some((place, values)) = answers.next().await {
        // One that fails stays open, as if it had given no answer.
        if let (Ok(values), Some(live_query)) = (values, open.get(&place)) {
            live_query.probed(Probe::Values(read_version, &values));
            open.remove(&place);
        }
    }
    Ok(())
}

/// The values of keys, all of which are in flight together.
pub async fn values(transaction: &Transaction, keys: Vec<Key>) -> FdbResult<Vec<Watched>> {
    let reads = keys.into_iter().map(|key| async move {
        let value = transaction.get(&key, true).await?;
        let value = value.map(|value| value[..].into());
        FdbResult::Ok(Watched { key, value })
    });
    try_join_all(reads).await
}

/// A basis, and live queries that rely on it.
pub type Relying = (Arc<Basis>, Vec<Arc<LiveQuery>>);

/// Collects the bases of live queries, each once, with the live queries that rely on it.
#[derive(Default)]
pub struct Bases(HashMap<usize, Relying>);

impl Bases {
    /// Adds a live query's basis.
    pub fn add(&mut self, basis: Arc<Basis>, live_query: &Arc<LiveQuery>) {
        let relying = self
            .0
            .entry(Arc::as_ptr(&basis) as usize)
            .or_insert_with(|| (basis, Vec::new()));
        relying.1.push(Arc::clone(live_query));
    }

    /// All of them.
    pub fn all(&self) -> Vec<Relying> {
        self.0.values().cloned().collect()
    }
}

/// Checks up to [`LOOKS`] bases, unless they are confirmed under the current metadata version, and
/// informs the live queries that rely on a changed one.
pub async fn bases(live: &LiveQueries, some: &[Relying]) -> Result<(), Error> {
    let transaction = transaction(live)?;
    transaction.get_read_version().await?;
    // It may have a different basis by now.
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
