//! A function read in a batch: it is evaluated at the batch's read version, in a transaction of the process
//! that evaluates it. What it has read there is read once more here, at the same version, and watched.
//!
//! No evaluation is needed where what the function's live query shows can be confirmed: the keys that it
//! follows from have the values they had. So pages that mount share one.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use foundationdb::{FdbError, FdbResult};
use futures::future::{select, Either};
use live_state::{Key, Watched};

use super::basis::Verdict;
use super::evaluator::{Dependencies, Outcome, Trouble};
use super::live_query::{FailedRead, PlanBasis, Read};
use super::look;
use super::query::{Found, Function, Query};
use super::reader::{At, Refused};
use super::value::SharedValue;
use crate::error::Error;
use crate::stats::count;

/// Reads a function's result.
pub async fn read(at: &At<'_>, query: &Arc<Query>, function: &Function) -> Result<Read, Refused> {
    if let Some(read) = confirm(at, query).await? {
        return Ok(read);
    }
    // It is never closed.
    let _permit = at.evaluations.acquire().await.expect("permits");
    let live_query = at.live.find(query);
    let known = live_query
        .as_ref()
        .map_or_else(Vec::new, |live_query| live_query.watched_keys());
    let (woken, code) = live_query.map_or((None, None), |live_query| live_query.evaluated());
    let code = code.as_ref().unwrap_or(&function.code);
    let stats = &at.live.database.stats;
    let begun = at.begun.elapsed();
    let evaluator = &at.live.evaluator;
    let evaluation = evaluator.evaluate(code, at.read_version, woken);
    // Most functions read what they read last time: meanwhile those values arrive. Nobody waits for them if
    // it has failed.
    let known = look::values(at.transaction, known);
    let (outcome, known) = match select(pin!(evaluation), pin!(known)).await {
        Either::Right((known, evaluation)) => (evaluation.await, known?),
        Either::Left((outcome, _)) if outcome.result.is_err() => (outcome, Vec::new()),
        Either::Left((outcome, known)) => (outcome, known.await?),
    };
    count(&stats.evaluations, 1);
    count(
        &stats.evaluation_us,
        microseconds(at.begun.elapsed().saturating_sub(begun)),
    );
    let Outcome { result, read } = outcome;
    match result {
        Ok(value) => found(at, query, value, read, known).await,
        Err(Trouble::Retry(error)) => Err(Refused::Fdb(error)),
        Err(Trouble::Error(error)) => failed(at, query, error, read, known).await,
    }
}

async fn found(
    at: &At<'_>,
    query: &Query,
    value: SharedValue,
    read: Dependencies,
    known: Vec<Watched>,
) -> Result<Read, Refused> {
    let watched = values(at, read.keys, known).await?;
    Ok(result(at, query, value, watched, read.basis))
}

/// A function's value, of these keys and this basis, as what a read has found.
fn result(
    at: &At<'_>,
    query: &Query,
    value: SharedValue,
    watched: Vec<Watched>,
    basis: PlanBasis,
) -> Read {
    Read {
        read_version: at.read_version,
        took: at.begun.elapsed(),
        armed: at.arm(query, &watched),
        found: Found {
            irregular: false,
            records: Vec::new(),
            value: Some(value),
            watched,
        },
        basis: Some(basis),
    }
}

/// What a function has read until it failed is watched: it may succeed when that changes.
async fn failed(
    at: &At<'_>,
    query: &Query,
    error: Error,
    read: Dependencies,
    known: Vec<Watched>,
) -> Result<Read, Refused> {
    if at.live.find(query).is_none() {
        return Err(Refused::Failed(Box::new(error.into())));
    }
    let watched = values(at, read.keys, known).await?;
    Err(Refused::Failed(Box::new(FailedRead {
        error,
        read_version: at.read_version,
        armed: at.arm(query, &watched),
        watched,
        took: at.begun.elapsed(),
    })))
}

/// The values of these keys, some of which are known. All are in ascending order.
async fn values(at: &At<'_>, keys: Vec<Key>, known: Vec<Watched>) -> FdbResult<Vec<Watched>> {
    let mut known = known.into_iter().peekable();
    let mut values = Vec::with_capacity(keys.len());
    let mut missing = Vec::new();
    for key in keys {
        while known.next_if(|watched| watched.key < key).is_some() {}
        match known.next_if(|watched| watched.key == key) {
            Some(watched) => values.push(watched),
            None => missing.push(key),
        }
    }
    if !missing.is_empty() {
        values.extend(look::values(at.transaction, missing).await?);
        values.sort_unstable_by(|one, other| one.key.cmp(&other.key));
    }
    Ok(values)
}

/// What is shown already, if it holds at the attempt's read version.
async fn confirm(at: &At<'_>, query: &Query) -> FdbResult<Option<Read>> {
    let live_query = at.live.find(query);
    let Some(shown) = live_query.and_then(|live_query| live_query.confirmable()) else {
        return Ok(None);
    };
    if let Some(basis) = &shown.basis {
        let right =
            basis.is_verified(at.metadata) || basis.check(at.transaction).await? == Verdict::Right;
        if !right {
            return Ok(None);
        }
        basis.verify(at.metadata);
    }
    let keys = shown.watched.iter().map(|watched| Arc::clone(&watched.key));
    let watched = look::values(at.transaction, keys.collect()).await?;
    if watched != shown.watched {
        return Ok(None);
    }
    Ok(Some(result(at, query, shown.value, watched, shown.basis)))
}

/// What to say of a function that is still reading when FoundationDB's transaction is too old.
pub fn too_long(error: FdbError) -> Error {
    Error::Explained(
        error.code(),
        format!(
            "{}: a live function reads at one version of the database, which FoundationDB keeps for five \
             seconds. Have it read less, or start its reads together (async_get, async_all, await)",
            error.message()
        ),
    )
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
