//! A batch: the calls and live queries that one transaction reads, and their results.

use std::collections::{hash_map, HashMap, HashSet};
use std::sync::Arc;

use foundationdb::Transaction;
use rustler::types::atom;
use rustler::{Encoder, ResourceArc};
use smallvec::SmallVec;

use super::basis::{Basis, Verdict};
use super::call::{Call, Pending, Wanted};
use super::events::Event;
use super::live_query::{Arms, FailedRead, Installed, PlanBasis, Read};
use super::query::Query;
use super::registry::LiveQueries;
use super::shared_term::MANY;
use super::subscription::{FirstResults, LiveQuery, Subscribed, Subscriber, Subscription};
use crate::error::Error;

/// Distinct queries that one transaction reads, unless a single call wants more.
const MOST_QUERIES: usize = 1_000;

/// A live query to be read again, and the basis of its plan when the batch was planned.
pub struct Refresh {
    /// The live query.
    pub live_query: Arc<LiveQuery>,
    basis: PlanBasis,
}

impl Refresh {
    /// A live query to be read again.
    pub fn new(live_query: Arc<LiveQuery>) -> Self {
        Refresh {
            live_query,
            basis: None,
        }
    }
}

/// The calls and queries that one transaction reads.
pub struct Batch {
    /// Calls by their tickets.
    pub calls: Vec<(u64, Call)>,
    /// Live queries to be read again.
    pub refreshes: Vec<Refresh>,
    /// Every subscription of the calls holds it until it has taken its first results.
    pub first_results: FirstResults,
    /// How many functions are evaluated at the same time.
    pub evaluations: usize,
}

impl Batch {
    /// How many calls and live queries.
    pub fn len(&self) -> usize {
        self.calls.len() + self.refreshes.len()
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops the calls that nobody waits for any more.
    pub fn drop_dead(&mut self) {
        self.calls.retain(|(_, call)| !call.is_over());
    }

    /// Splits it into two batches of half the size.
    pub fn halves(mut self) -> (Batch, Batch) {
        let other = Batch {
            calls: self.calls.split_off(self.calls.len() / 2),
            refreshes: self.refreshes.split_off(self.refreshes.len().div_ceil(2)),
            first_results: Arc::clone(&self.first_results),
            evaluations: self.evaluations,
        };
        (self, other)
    }

    /// Splits it into batches that are small enough for one transaction each.
    pub fn portions(mut self) -> Vec<Batch> {
        let first_results = Arc::clone(&self.first_results);
        let evaluations = self.evaluations;
        let empty = || Batch {
            calls: Vec::new(),
            refreshes: Vec::new(),
            first_results: Arc::clone(&first_results),
            evaluations,
        };
        if self.len() <= MOST_QUERIES && self.calls.iter().all(|(_, call)| call.size() == 1) {
            return vec![self];
        }
        let mut portions = Vec::new();
        let mut portion = empty();
        portion.refreshes = std::mem::take(&mut self.refreshes);
        let mut queries: HashSet<Arc<Query>> = portion
            .refreshes
            .iter()
            .map(|refresh| Arc::clone(&refresh.live_query.query))
            .collect();
        for (ticket, call) in self.calls {
            queries.extend(call.queries().cloned());
            if queries.len() > MOST_QUERIES && !portion.is_empty() {
                portions.push(std::mem::replace(&mut portion, empty()));
                queries = call.queries().cloned().collect();
            }
            portion.calls.push((ticket, call));
        }
        portions.push(portion);
        portions
    }

    /// The reads it needs.
    pub fn plan(&mut self) -> ReadPlan {
        let mut plan = ReadPlan::default();
        for refresh in &mut self.refreshes {
            // What a function relies on, its evaluation is going to tell.
            if refresh.live_query.query.function().is_none() {
                refresh.basis = refresh.live_query.basis();
            }
            if let Some(basis) = &refresh.basis {
                plan.add_basis(basis);
            }
            plan.add_query(&refresh.live_query.query);
        }
        for (_, call) in &self.calls {
            call.bases().for_each(|basis| plan.add_basis(basis));
            call.queries().for_each(|query| plan.add_query(query));
        }
        plan
    }
}

/// The union of a batch's reads, by places.
#[derive(Default)]
pub struct ReadPlan {
    /// Queries.
    pub queries: Vec<Arc<Query>>,
    place: HashMap<Arc<Query>, usize>,
    /// What the queries rely on.
    pub bases: Vec<Arc<Basis>>,
    /// By the address of the basis: equal bases are one.
    basis_place: HashMap<usize, usize>,
}

impl ReadPlan {
    /// Whether functions are among the queries.
    pub fn has_functions(&self) -> bool {
        self.queries.iter().any(|query| query.function().is_some())
    }

    fn add_query(&mut self, query: &Arc<Query>) {
        if let hash_map::Entry::Vacant(vacant) = self.place.entry(Arc::clone(query)) {
            vacant.insert(self.queries.len());
            self.queries.push(Arc::clone(query));
        }
    }

    fn add_basis(&mut self, basis: &Arc<Basis>) {
        if let hash_map::Entry::Vacant(vacant) = self.basis_place.entry(address(basis)) {
            vacant.insert(self.bases.len());
            self.bases.push(Arc::clone(basis));
        }
    }
}

fn address(basis: &Arc<Basis>) -> usize {
    Arc::as_ptr(basis) as usize
}

/// The results for a plan so far, by its places.
pub struct Results {
    /// By the places of the queries.
    pub reads: Vec<Option<Result<Read, Box<FailedRead>>>>,
    /// By the places of the bases.
    pub verdicts: Vec<Option<Verdict>>,
}

impl Results {
    /// Nothing yet.
    pub fn new(plan: &ReadPlan) -> Self {
        Results {
            reads: plan.queries.iter().map(|_| None).collect(),
            verdicts: plan.bases.iter().map(|_| None).collect(),
        }
    }

    /// Whether a read has armed a watch, which requires committing the transaction.
    pub fn armed(&self) -> bool {
        let mut reads = self.reads.iter().flatten();
        reads.any(|read| match read {
            Ok(read) => !read.armed.is_empty(),
            Err(failed) => !failed.armed.is_empty(),
        })
    }

    /// The transaction will not be committed, so its watches don't count.
    pub fn disarm(&mut self, _transaction: Transaction) {
        self.drop_watches();
    }

    /// What is settled before the transaction's commit has no watches: the next read arms them.
    pub fn drop_watches(&mut self) {
        for read in self.reads.iter_mut().flatten() {
            match read {
                Ok(read) => read.armed = Arms::new(),
                Err(failed) => failed.armed = Arms::new(),
            }
        }
    }

    fn verdict(&self, plan: &ReadPlan, basis: &PlanBasis) -> Option<Verdict> {
        match basis {
            None => Some(Verdict::Right),
            Some(basis) => self.verdicts[plan.basis_place[&address(basis)]],
        }
    }
}

/// The outcome of a call.
enum Fate {
    /// Some of its queries have not been read yet.
    Waits,
    Stands,
    Replan,
    Refused(Error),
}

fn fate(call: &Call, plan: &ReadPlan, results: &Results) -> Fate {
    let mut fate = Fate::Stands;
    for pending in &call.subscriptions {
        match results.verdict(plan, &pending.basis) {
            None => fate = Fate::Waits,
            Some(Verdict::Right) => {}
            Some(Verdict::SourceChanged) => return Fate::Replan,
            Some(Verdict::TenantGone) => return Fate::Refused(gone(&pending.basis)),
        }
        for (_, query) in pending.reads() {
            match &results.reads[plan.place[query]] {
                None => fate = Fate::Waits,
                Some(Err(failed)) => return Fate::Refused(failed.error.clone()),
                Some(Ok(_)) => {}
            }
        }
    }
    fate
}

/// Why a tenant's data cannot be read.
pub fn gone(basis: &PlanBasis) -> Error {
    let tenant = basis.as_ref().and_then(|basis| basis.tenant.as_ref());
    Error::TenantGone(tenant.map_or_else(String::new, |tenant| tenant.name.to_string()))
}

/// Installs the results so far, establishes the subscriptions of calls whose queries are complete, and
/// removes the completed parts from the batch. A query's own error fails only the calls that want it.
pub fn settle(live: &Arc<LiveQueries>, batch: &mut Batch, plan: &ReadPlan, results: &mut Results) {
    let mut standing = Vec::new();
    let mut waiting = Vec::new();
    for (ticket, call) in batch.calls.drain(..) {
        match fate(&call, plan, results) {
            Fate::Waits => waiting.push((ticket, call)),
            Fate::Stands => standing.push(call),
            Fate::Replan => call.replan(),
            Fate::Refused(error) => call.refuse(&error),
        }
    }
    batch.calls = waiting;

    // Attachments to queries and bases, applied together under one lock.
    let mut attaching: Vec<Attaching> = plan.queries.iter().map(|_| Attaching::default()).collect();
    for pending in standing.iter().flat_map(|call| &call.subscriptions) {
        for (place, query) in pending.reads() {
            let attaching = &mut attaching[plan.place[query]];
            attaching.basis = Some(pending.basis.clone());
            attaching.subscribers.push(Subscriber {
                subscription: pending.subscription.clone(),
                place,
            });
        }
    }
    for refresh in std::mem::take(&mut batch.refreshes) {
        let Refresh { live_query, basis } = &refresh;
        let place = plan.place[&live_query.query];
        match results.verdict(plan, basis) {
            Some(Verdict::SourceChanged) => live_query.basis_changed(basis),
            Some(Verdict::TenantGone) => live_query.tenant_gone(gone(basis)),
            Some(Verdict::Right) if results.reads[place].is_some() => {
                attaching[place].basis.get_or_insert(basis.clone());
            }
            _ => batch.refreshes.push(refresh),
        }
    }

    let wanted_later: HashSet<usize> = (batch.calls.iter())
        .flat_map(|(_, call)| call.queries().map(|query| plan.place[query]))
        .collect();
    let mut installed = Vec::with_capacity(plan.queries.len());
    for (place, attaching) in attaching.into_iter().enumerate() {
        let read = match (&attaching.basis, wanted_later.contains(&place)) {
            (None, _) => None,
            (Some(_), false) => results.reads[place].take(),
            (Some(_), true) => results.reads[place].as_ref().map(copy),
        };
        let query = &plan.queries[place];
        let found = match (read, attaching.basis) {
            (Some(Ok(read)), Some(basis)) => {
                install(live, query, read, &basis, attaching.subscribers)
            }
            (Some(Err(failed)), _) => {
                if let Some(live_query) = live.find(query) {
                    match failed.error {
                        gone @ Error::TenantGone(_) => live_query.tenant_gone(gone),
                        error => live_query.read_failed_with(FailedRead { error, ..*failed }),
                    }
                }
                None
            }
            _ => None,
        };
        installed.push(found.map(|installed| {
            let many = installed.attached.len() >= MANY && installed.snapshot.value().is_none();
            let shared = many.then(|| Arc::new(installed.snapshot.share()));
            (installed.snapshot, installed.attached.into_iter(), shared)
        }));
    }
    for call in standing {
        stand(call, &batch.first_results, |query| {
            let (snapshot, attached, shared) = installed[plan.place[query]].as_mut()?;
            let (snapshot, shared) = (Arc::clone(snapshot), shared.clone());
            Some(Subscribed::new(attached.next()?, snapshot, shared))
        });
    }
}

/// Attachments to a query that was read, and the basis it was read on.
#[derive(Default)]
struct Attaching {
    basis: Option<PlanBasis>,
    subscribers: Vec<Subscriber>,
}

/// A read that somebody else is going to need as well; its watch is the first one's.
fn copy(read: &Result<Read, Box<FailedRead>>) -> Result<Read, Box<FailedRead>> {
    match read {
        Err(failed) => Err(Box::new(failed.error.clone().into())),
        Ok(read) => Ok(Read {
            read_version: read.read_version,
            took: read.took,
            found: read.found.clone(),
            armed: Arms::new(),
            basis: read.basis.clone(),
        }),
    }
}

fn install(
    live: &Arc<LiveQueries>,
    query: &Arc<Query>,
    mut read: Read,
    basis: &PlanBasis,
    subscribers: Vec<Subscriber>,
) -> Option<Installed<Subscriber>> {
    let own = read.basis.take();
    let basis = own.as_ref().unwrap_or(basis);
    loop {
        let live_query = if subscribers.is_empty() {
            // The last subscriber may have left.
            live.find(query)?
        } else {
            live.find_or_insert(query, || LiveQuery::new(live.home(), query, basis.clone()))
        };
        let (version, took) = (read.read_version, read.took);
        let watches = read.armed.len();
        match live_query.install(read, basis, subscribers.iter().cloned()) {
            Ok(installed) => {
                live.shows(version);
                for _ in 0..watches {
                    live.reporter.report(&Event::WatchArmed);
                }
                live.reporter.report(&Event::Refreshed {
                    duration: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                    records: installed.snapshot.len(),
                    subscribers: installed.subscribers,
                    changed: installed.changed,
                });
                return Some(installed);
            }
            Err((_closed, back)) if !subscribers.is_empty() => read = *back,
            Err(_) => return None,
        }
    }
}

/// Establishes a call's subscriptions. The last one sends the answer for all.
fn stand(
    mut call: Call,
    first_results: &FirstResults,
    mut subscribed: impl FnMut(&Arc<Query>) -> Option<Subscribed>,
) {
    let mut reply = call.reply.take();
    let subscriptions = std::mem::take(&mut call.subscriptions);
    let mut ready: Vec<(ResourceArc<Subscription>, SmallVec<[Subscribed; 1]>)> = Vec::new();
    for Pending {
        subscription,
        wanted,
        ..
    } in subscriptions
    {
        let many = wanted.len();
        let queries: SmallVec<[Subscribed; 1]> = wanted
            .into_iter()
            .map_while(|wanted| match wanted {
                Wanted::Kept(subscribed) => Some(subscribed),
                Wanted::Read(query) => subscribed(&query),
            })
            .collect();
        if queries.len() < many {
            // Each of them was installed for it, so this is a bug; report it instead of hiding it.
            let error = Error::Client("a live query was lost: a bug in ecto_fdb_sync".into());
            if let Some(reply) = reply.take() {
                reply.send(|env| (atom::error(), &error).encode(env));
            }
        }
        ready.push((subscription, queries));
    }
    let mut left = ready.len();
    for (subscription, queries) in ready {
        left -= 1;
        let reply = reply.take_if(|_| left == 0);
        Subscription::stand(&subscription, queries, reply, first_results);
    }
    if let Some(reply) = reply {
        // It had no queries.
        reply.send(|env| atom::ok().encode(env));
    }
}

/// Fails everything in the batch with this error.
pub fn fail(batch: Batch, error: &Error) {
    for (_, call) in batch.calls {
        call.refuse(error);
    }
    for refresh in batch.refreshes {
        refresh.live_query.read_failed(error);
    }
}
