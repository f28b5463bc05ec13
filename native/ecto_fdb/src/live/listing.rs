//! Live queries as an operator sees them: the first few of them, in the order that is asked for.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustler::{Encoder, Env, NifMap, NifUnitEnum, Term};

use super::registry::LiveQueries;
use super::subscription::LiveQuery;
use crate::error::Error;
use crate::tuple::binary;

/// What the rows are sorted by.
#[derive(NifUnitEnum, Clone, Copy)]
pub enum SortBy {
    Subscribers,
    Records,
    Bytes,
    ReadUs,
    ChangedMs,
    Stale,
}

/// Which live queries, and in which order.
#[derive(NifMap)]
pub struct Request {
    /// What they are sorted by.
    pub sort_by: SortBy,
    /// Whether the largest comes first.
    pub descending: bool,
    /// How many rows at most.
    pub limit: usize,
    /// Only those whose tenant's name or watched key contains this.
    pub search: String,
}

struct Row {
    live_query: Arc<LiveQuery>,
    tenant: Option<Box<str>>,
    subscribers: usize,
    records: usize,
    bytes: usize,
    read: Duration,
    changed: Duration,
    stale: Option<Error>,
}

/// The rows that were asked for, and how many live queries there are in all that match.
pub struct Listing {
    rows: Vec<Row>,
    matching: usize,
}

/// Makes the listing. It visits every live query, so it is no work for a scheduler thread.
pub fn list(live: &LiveQueries, request: &Request) -> Listing {
    let now = Instant::now();
    let mut rows = Vec::new();
    live.each(|live_query| {
        let row = Row::new(live_query, now);
        if row.matches(&request.search) {
            rows.push(row);
        }
    });
    let matching = rows.len();
    let value = |row: &Row| row.value(request.sort_by);
    match request.descending {
        true => rows.sort_by_cached_key(|row| Reverse(value(row))),
        false => rows.sort_by_cached_key(value),
    }
    rows.truncate(request.limit);
    Listing { rows, matching }
}

impl Row {
    fn new(live_query: &Arc<LiveQuery>, now: Instant) -> Self {
        let current = live_query.current();
        let basis = live_query.basis();
        let tenant = basis.as_ref().and_then(|basis| basis.tenant.as_ref());
        Row {
            live_query: Arc::clone(live_query),
            tenant: tenant.map(|tenant| tenant.name.clone()),
            subscribers: live_query.subscribers(),
            records: current.len(),
            bytes: current.bytes(),
            read: live_query.read_time(),
            changed: now.saturating_duration_since(current.since()),
            stale: live_query.is_stale().then(|| live_query.stale_reason()),
        }
    }

    fn matches(&self, search: &str) -> bool {
        let search = search.as_bytes();
        search.is_empty()
            || contains(&self.live_query.query.watch, search)
            || self
                .tenant
                .as_ref()
                .is_some_and(|name| contains(name.as_bytes(), search))
    }

    fn value(&self, sort_by: SortBy) -> u128 {
        match sort_by {
            SortBy::Subscribers => self.subscribers as u128,
            SortBy::Records => self.records as u128,
            SortBy::Bytes => self.bytes as u128,
            SortBy::ReadUs => self.read.as_micros(),
            SortBy::ChangedMs => self.changed.as_millis(),
            SortBy::Stale => u128::from(self.stale.is_some()),
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[derive(NifMap)]
#[rustler(encode)]
struct RowTerm<'a> {
    tenant: Term<'a>,
    watch: Term<'a>,
    subscribers: usize,
    records: usize,
    bytes: usize,
    read_us: u64,
    changed_ms: u64,
    stale: Term<'a>,
}

impl Encoder for Listing {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                RowTerm {
                    tenant: row.tenant.as_deref().encode(env),
                    watch: binary(env, &row.live_query.query.watch),
                    subscribers: row.subscribers,
                    records: row.records,
                    bytes: row.bytes,
                    read_us: row.read.as_micros() as u64,
                    changed_ms: row.changed.as_millis() as u64,
                    stale: row.stale.encode(env),
                }
                .encode(env)
            })
            .collect();
        (rows, self.matching).encode(env)
    }
}
