//! The NIF of `ecto_fdb_sync`: transactions, futures and live queries for BEAM processes.
//!
//! Mirrors `EctoFoundationDB.Native`, which documents the functions. No function here waits for the
//! database: they hand over to the runtime's threads and return. Answers are messages.
//!
//! - `client`: the library, the network thread and the runtime, one of each in a VM. `external`:
//!   libraries of other versions.
//! - `database`: databases, and `stats` about them. `handle`: the open ones.
//! - `health`, `client_status`: how a database responds.
//! - `transaction`, `operation`, `watch`: transactions that belong to Elixir processes.
//! - `live`: live queries, which processes share.
//! - `reply`, `error`, `tuple`, `etf`, `record`, `options`: conversion between terms and Rust.

#![deny(unsafe_op_in_unsafe_fn)]

mod client;
mod client_status;
mod database;
mod error;
mod etf;
mod external;
mod handle;
mod health;
mod live;
mod operation;
mod options;
mod record;
mod reply;
mod stats;
mod transaction;
mod tuple;
mod watch;

use std::sync::Arc;

use rustler::types::atom;
use rustler::{Atom, Binary, Encoder, Env, NifResult, Reference, ResourceArc, Term};

use crate::database::Target;
use crate::error::Error;
use crate::etf::{Allowed, Progress};
use crate::handle::DatabaseHandle;
use crate::live::basis::{Basis, SourceIndexes, TenantEntry};
use crate::live::call::{Call, Pending, Wanted};
use crate::live::evaluator::{self, Dependencies, Evaluation, Outcome, Trouble};
use crate::live::listing;
use crate::live::planner;
use crate::live::query::{By, Function, Query, Source};
use crate::live::settle;
use crate::live::subscription::{Form, Subscription};
use crate::live::value::Value;
use crate::reply::{Gate, Reply};
use crate::transaction::{Attempts, Command, Commit, TransactionHandle};
use crate::tuple::expected;
use crate::watch::Watch;

/// The most bytes of terms to handle on a scheduler: less than a millisecond's work.
const MOST_ON_A_SCHEDULER: usize = 200_000;

mod atoms {
    rustler::atoms! { embedded, cluster, memory, file, cluster_file, library, options, records, index, planned, anything, more, versionstamp, timeout, function, tenant_gone }
}

fn answer<T: Encoder>(env: Env<'_>, result: Result<T, Error>) -> Term<'_> {
    match result {
        Ok(value) => (atom::ok(), value).encode(env),
        Err(error) => (atom::error(), error).encode(env),
    }
}

#[rustler::nif(schedule = "DirtyIo")]
fn client_start<'a>(env: Env<'a>, config: Term<'a>) -> NifResult<Term<'a>> {
    let library = config.map_get(atoms::library())?;
    let library = match library.decode::<(Atom, Option<String>)>() {
        Ok((tag, path)) if tag == atoms::cluster() => client::library(Some(path)),
        _ if library
            .decode::<Atom>()
            .is_ok_and(|tag| tag == atoms::embedded()) =>
        {
            client::library(None)
        }
        _ => {
            let got = format!("{library:?}");
            return Err(expected(
                ":embedded or {:cluster, path | nil} as :library",
                &got,
            ));
        }
    };
    let options: Vec<(Atom, Term<'a>)> = config.map_get(atoms::options())?.decode()?;
    let options = options
        .into_iter()
        .map(|(name, value)| {
            Ok(client::Setting {
                name: format!("{name:?}"),
                value: match value.decode::<&str>() {
                    Ok(text) => format!("{text:?}"),
                    Err(_other) => format!("{value:?}"),
                },
                option: options::network(env, name, value)?,
            })
        })
        .collect::<NifResult<_>>()?;
    match client::start(&library, options) {
        Err(Error::Configuration(text)) => Err(rustler::Error::RaiseTerm(Box::new(text))),
        result => Ok(done_or_error(env, result)),
    }
}

#[rustler::nif]
fn client_facts() -> client::Facts {
    client::facts()
}

#[rustler::nif]
fn database_facts(database: ResourceArc<DatabaseHandle>) -> database::Facts {
    database.database.facts()
}

#[rustler::nif]
fn health<'a>(
    env: Env<'a>,
    database: ResourceArc<DatabaseHandle>,
    reference: Reference<'a>,
    timeout: u64,
) -> Atom {
    let reply = Reply::new(env, reference, Gate::default());
    let live = Arc::clone(&database.live);
    client::runtime().spawn(async move {
        let report = health::report(&live, std::time::Duration::from_millis(timeout)).await;
        reply.send(|env| report.encode(env));
    });
    atom::ok()
}

#[rustler::nif]
fn live_queries<'a>(
    env: Env<'a>,
    database: ResourceArc<DatabaseHandle>,
    reference: Reference<'a>,
    request: listing::Request,
) -> Atom {
    let reply = Reply::new(env, reference, Gate::default());
    let live = Arc::clone(&database.live);
    client::runtime().spawn_blocking(move || {
        let listing = listing::list(&live, &request);
        reply.send(|env| listing.encode(env));
    });
    atom::ok()
}

#[rustler::nif(schedule = "DirtyIo")]
fn cluster_file_check(env: Env<'_>, path: Option<String>) -> Term<'_> {
    done_or_error(env, database::check_cluster(path.as_deref()).map(drop))
}

#[rustler::nif(schedule = "DirtyIo")]
fn database_open<'a>(
    env: Env<'a>,
    name: String,
    target: Term<'a>,
    options: Vec<(Atom, Term<'a>)>,
) -> NifResult<Term<'a>> {
    let target = match target.decode::<(Atom, Option<String>)>() {
        Ok((tag, Some(name))) if tag == atoms::memory() => Target::Memory(name),
        Ok((tag, Some(path))) if tag == atoms::file() => Target::File(path),
        Ok((tag, path)) if tag == atoms::cluster_file() => Target::Cluster(path),
        _ => {
            let what = "{:memory, name}, {:file, path} or {:cluster_file, path | nil}";
            return Err(expected(what, &format!("{target:?}")));
        }
    };
    let options = options
        .into_iter()
        .map(|(name, value)| options::database(env, name, value))
        .collect::<NifResult<_>>()?;
    Ok(answer(env, handle::open(name, target, options)))
}

#[rustler::nif]
fn transaction_new<'a>(
    env: Env<'a>,
    database: ResourceArc<DatabaseHandle>,
    options: Vec<(Atom, Term<'a>)>,
) -> NifResult<Term<'a>> {
    let options = options
        .into_iter()
        .map(|(name, value)| options::transaction(env, name, value))
        .collect::<NifResult<_>>()?;
    let attempts = Attempts {
        options,
        read_version: None,
    };
    let transaction = TransactionHandle::new(env, &database.live, attempts);
    Ok(answer(env, Ok(transaction)))
}

#[rustler::nif]
fn transaction_at(
    env: Env<'_>,
    database: ResourceArc<DatabaseHandle>,
    read_version: i64,
) -> Term<'_> {
    let attempts = Attempts {
        options: Vec::new(),
        read_version: Some(read_version),
    };
    answer(
        env,
        Ok(TransactionHandle::new(env, &database.live, attempts)),
    )
}

#[rustler::nif]
fn transaction_run_few<'a>(
    env: Env<'a>,
    transaction: ResourceArc<TransactionHandle>,
    reference: Reference<'a>,
    operations: Term<'a>,
) -> NifResult<Atom> {
    transaction_run(env, &transaction, reference, operations)
}

#[rustler::nif(schedule = "DirtyCpu")]
fn transaction_run_many<'a>(
    env: Env<'a>,
    transaction: ResourceArc<TransactionHandle>,
    reference: Reference<'a>,
    operations: Term<'a>,
) -> NifResult<Atom> {
    transaction_run(env, &transaction, reference, operations)
}

fn transaction_run<'a>(
    env: Env<'a>,
    transaction: &TransactionHandle,
    reference: Reference<'a>,
    operations: Term<'a>,
) -> NifResult<Atom> {
    let operations = operation::decode_all(env, operations)?;
    transaction.tell(env, reference, |reply| Command::Run(operations, reply));
    Ok(atom::ok())
}

#[rustler::nif]
fn transaction_commit_few<'a>(
    env: Env<'a>,
    transaction: ResourceArc<TransactionHandle>,
    reference: Reference<'a>,
    operations: Term<'a>,
    expected: Option<Binary<'a>>,
) -> NifResult<Atom> {
    transaction_commit(env, &transaction, reference, operations, expected)
}

#[rustler::nif(schedule = "DirtyCpu")]
fn transaction_commit_many<'a>(
    env: Env<'a>,
    transaction: ResourceArc<TransactionHandle>,
    reference: Reference<'a>,
    operations: Term<'a>,
    expected: Option<Binary<'a>>,
) -> NifResult<Atom> {
    transaction_commit(env, &transaction, reference, operations, expected)
}

fn transaction_commit<'a>(
    env: Env<'a>,
    transaction: &TransactionHandle,
    reference: Reference<'a>,
    operations: Term<'a>,
    expected: Option<Binary<'a>>,
) -> NifResult<Atom> {
    let begin = Commit {
        operations: operation::decode_all(env, operations)?,
        expected: expected.map(|version| version.as_slice().to_vec()),
    };
    transaction.tell(env, reference, |reply| Command::Commit(begin, reply));
    Ok(atom::ok())
}

#[rustler::nif]
fn transaction_on_error<'a>(
    env: Env<'a>,
    transaction: ResourceArc<TransactionHandle>,
    reference: Reference<'a>,
    code: i32,
) -> Atom {
    transaction.tell(env, reference, |reply| Command::OnError(code, reply));
    atom::ok()
}

#[rustler::nif]
fn transaction_cancel(transaction: ResourceArc<TransactionHandle>) -> Atom {
    transaction.cancel();
    atom::ok()
}

#[rustler::nif]
fn transaction_sizes(transaction: ResourceArc<TransactionHandle>) -> (u64, u64, u64, u64) {
    transaction.sizes.all()
}

#[rustler::nif]
fn watch_cancel(watch: ResourceArc<Watch>) -> Atom {
    watch.cancel();
    atom::ok()
}

type Subscribing<'a> = Vec<(Term<'a>, Vec<Term<'a>>, Option<ResourceArc<Subscription>>)>;

#[rustler::nif]
fn subscribe_few<'a>(
    env: Env<'a>,
    database: ResourceArc<DatabaseHandle>,
    reference: Reference<'a>,
    wanted: Subscribing<'a>,
) -> NifResult<Term<'a>> {
    subscribe(env, &database, reference, wanted)
}

#[rustler::nif(schedule = "DirtyCpu")]
fn subscribe_many<'a>(
    env: Env<'a>,
    database: ResourceArc<DatabaseHandle>,
    reference: Reference<'a>,
    wanted: Subscribing<'a>,
) -> NifResult<Term<'a>> {
    subscribe(env, &database, reference, wanted)
}

fn subscribe<'a>(
    env: Env<'a>,
    database: &DatabaseHandle,
    reference: Reference<'a>,
    wanted: Subscribing<'a>,
) -> NifResult<Term<'a>> {
    let live = &database.live;
    let mut decoded = Vec::with_capacity(wanted.len());
    for (basis, queries, earlier) in wanted {
        let basis = self::basis(basis)?.map(|basis| live.share(basis));
        let queries: Vec<Query> = queries.into_iter().map(query).collect::<NifResult<_>>()?;
        decoded.push((basis, queries, earlier));
    }
    // From here on nothing can fail: existing subscriptions are notified of their end.
    let open = live.calls.begin();
    let ticket = open.ticket;
    let subscriptions: Vec<Pending> = decoded
        .into_iter()
        .map(|(basis, queries, earlier)| {
            let subscription = Subscription::new(env, live.home(), ticket);
            let mut kept = match earlier {
                Some(earlier) => Subscription::keep(&subscription, &earlier, queries.iter()),
                None => Vec::new(),
            }
            .into_iter();
            let wanted = queries
                .into_iter()
                .map(|query| match kept.next().flatten() {
                    Some(subscribed) => Wanted::Kept(subscribed),
                    None => Wanted::Read(Arc::new(query)),
                })
                .collect();
            Pending {
                subscription,
                basis,
                wanted,
            }
        })
        .collect();
    let references: Vec<Term<'a>> = subscriptions
        .iter()
        .map(|pending| pending.subscription.encode(env))
        .collect();
    let call = Call {
        open,
        subscriptions,
        caller: env.pid(),
        reply: Some(Reply::new(env, reference, Gate::default())),
    };
    live.subscribe(call);
    Ok(references.encode(env))
}

/// What live queries rely on: `{tenant, source, metadata version}` or `nil`, with the tenant `{entry,
/// prefix, name}` or `nil`, and for each source `{begin, end, claim, fingerprint}`.
fn basis(term: Term<'_>) -> NifResult<Option<Basis>> {
    if term.is_atom() {
        return Ok(None);
    }
    let unknown = || {
        let what =
            "{{entry, prefix, name} | nil, [{begin, end, claim, fingerprint}], version} or nil";
        expected(what, &format!("{term:?}"))
    };
    let (tenant, sources, version) = term
        .decode::<(Term<'_>, Term<'_>, Option<Binary<'_>>)>()
        .map_err(|_| unknown())?;
    let tenant = if tenant.is_atom() {
        None
    } else {
        let (key, prefix, name) = tenant
            .decode::<(Binary<'_>, Binary<'_>, &str)>()
            .map_err(|_| unknown())?;
        Some(TenantEntry {
            key: key.as_slice().into(),
            prefix: prefix.as_slice().into(),
            name: name.into(),
        })
    };
    let sources: Vec<Term<'_>> = sources.decode().map_err(|_| unknown())?;
    let sources = sources
        .into_iter()
        .map(|source| {
            let (begin, end, claim, fingerprint) = source
                .decode::<(Term<'_>, Term<'_>, Term<'_>, Binary<'_>)>()
                .map_err(|_| unknown())?;
            Ok(SourceIndexes {
                begin: operation::key(begin)?.into(),
                end: operation::key(end)?.into(),
                claim: operation::key(claim)?.into(),
                fingerprint: fingerprint.as_slice().try_into().map_err(|_| unknown())?,
            })
        })
        .collect::<NifResult<Vec<_>>>()?;
    let version = version.map(|version| version.as_slice().into());
    Ok(Some(Basis::new(tenant, sources, version)))
}

/// A live query, `{:planned, query, asked_for}` if it is a plan, `{:function, id, code, every}` if it is a
/// function.
fn query(term: Term<'_>) -> NifResult<Query> {
    if let Ok((tag, id, code, every)) = term.decode::<(Atom, Binary<'_>, Binary<'_>, u64)>() {
        if tag == atoms::function() {
            let every = std::time::Duration::from_millis(every);
            return Ok(Query::of_function(Function::new(&id, &code, every)));
        }
    }
    match term.decode::<(Atom, Term<'_>, Term<'_>)>() {
        Ok((tag, query, asked_for)) if tag == atoms::planned() => {
            let mut query = read_query(query)?;
            query.asked_for = Some(asked_for.to_binary().as_slice().into());
            Ok(query)
        }
        _ => read_query(term),
    }
}

fn read_query(term: Term<'_>) -> NifResult<Query> {
    type Parts<'a> = (Term<'a>, Term<'a>, Term<'a>, Term<'a>, (usize, bool));
    let unknown = || {
        let what = "{:records | {:index, by, records}, begin, end, watch, {limit, reverse?}}";
        expected(what, &format!("{term:?}"))
    };
    let (source, begin, end, watch, (limit, reverse)) =
        term.decode::<Parts<'_>>().map_err(|_| unknown())?;
    let source = match source.decode::<(Atom, Atom, Term<'_>)>() {
        Ok((tag, by, records)) if tag == atoms::index() => Source::Index {
            by: match by == atoms::versionstamp() {
                true => By::Versionstamp,
                false => By::Value,
            },
            records: operation::key(records)?.into(),
        },
        Err(_)
            if source
                .decode::<Atom>()
                .is_ok_and(|tag| tag == atoms::records()) =>
        {
            Source::Records
        }
        _ => return Err(unknown()),
    };
    Ok(Query {
        source,
        begin: operation::key(begin)?.into(),
        end: operation::key(end)?.into(),
        limit: (limit > 0).then_some(limit),
        reverse,
        watch: operation::key(watch)?.into(),
        asked_for: None,
    })
}

#[rustler::nif]
fn take_some<'a>(env: Env<'a>, subscription: ResourceArc<Subscription>) -> Option<Term<'a>> {
    Subscription::take(&subscription, env, MOST_ON_A_SCHEDULER, &Form::Records)
}

#[rustler::nif(schedule = "DirtyCpu")]
fn take_all<'a>(env: Env<'a>, subscription: ResourceArc<Subscription>) -> Option<Term<'a>> {
    Subscription::take(&subscription, env, usize::MAX, &Form::Records)
}

/// As a stream, whose first take is a change of what an earlier subscription has shown.
fn stream_form(first: usize, earlier: Option<ResourceArc<Subscription>>) -> Form {
    let earlier = earlier.and_then(|earlier| earlier.shown());
    Form::Stream { first, earlier }
}

#[rustler::nif]
fn take_stream_some<'a>(
    env: Env<'a>,
    subscription: ResourceArc<Subscription>,
    first: usize,
    earlier: Option<ResourceArc<Subscription>>,
) -> Option<Term<'a>> {
    let form = stream_form(first, earlier);
    Subscription::take(&subscription, env, MOST_ON_A_SCHEDULER, &form)
}

#[rustler::nif(schedule = "DirtyCpu")]
fn take_stream_all<'a>(
    env: Env<'a>,
    subscription: ResourceArc<Subscription>,
    first: usize,
    earlier: Option<ResourceArc<Subscription>>,
) -> Option<Term<'a>> {
    let form = stream_form(first, earlier);
    Subscription::take(&subscription, env, usize::MAX, &form)
}

#[rustler::nif]
fn settle<'a>(
    env: Env<'a>,
    database: ResourceArc<DatabaseHandle>,
    reference: Reference<'a>,
    timeout: u64,
) -> Atom {
    let reply = Reply::new(env, reference, Gate::default());
    let live = Arc::clone(&database.live);
    client::runtime().spawn(async move {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_millis(timeout);
        let settled = settle::settle(&live, deadline).await;
        reply.send(|env| match settled {
            Ok(()) => atom::ok().encode(env),
            Err(unsettled) => (atoms::timeout(), unsettled.doing, unsettled.error).encode(env),
        });
    });
    atom::ok()
}

#[rustler::nif]
fn untake(subscription: ResourceArc<Subscription>) -> Atom {
    subscription.untake();
    atom::ok()
}

#[rustler::nif]
fn unsubscribe(subscription: ResourceArc<Subscription>) -> Atom {
    subscription.end();
    atom::ok()
}

#[rustler::nif(name = "planner")]
fn set_planner(env: Env<'_>, database: ResourceArc<DatabaseHandle>) -> Atom {
    database.live.planner.set(env);
    atom::ok()
}

#[rustler::nif]
fn replanned<'a>(
    database: ResourceArc<DatabaseHandle>,
    request: ResourceArc<planner::Request>,
    answer: (Atom, Term<'a>),
    basis: Term<'a>,
) -> NifResult<Atom> {
    let live = Arc::clone(&database.live);
    let basis = self::basis(basis)?.map(|basis| live.share(basis));
    let answer = match answer {
        (tag, query) if tag == atom::ok() => planner::Answer::Plan(self::query(query)?, basis),
        (_error, reason) => planner::Answer::Missing(reason.decode()?, basis),
    };
    // There may be many subscribers to move, so not on a scheduler.
    client::runtime().spawn(async move { live.planned(&request, answer) });
    Ok(atom::ok())
}

#[rustler::nif(name = "evaluator")]
fn set_evaluator(env: Env<'_>, database: ResourceArc<DatabaseHandle>, at_once: usize) -> Atom {
    database.live.evaluator.set(env, at_once);
    atom::ok()
}

#[rustler::nif]
fn evaluator_idle(env: Env<'_>, database: ResourceArc<DatabaseHandle>) -> Atom {
    database.live.evaluator.idle(env);
    atom::ok()
}

type Evaluated<'a> = (Atom, Term<'a>, Term<'a>);

#[rustler::nif]
fn evaluated_small<'a>(
    database: ResourceArc<DatabaseHandle>,
    evaluation: ResourceArc<Evaluation>,
    answer: Evaluated<'a>,
    keys: Vec<Term<'a>>,
    basis: Term<'a>,
) -> NifResult<Atom> {
    evaluated(&database, &evaluation, answer, keys, basis)
}

#[rustler::nif(schedule = "DirtyCpu")]
fn evaluated_large<'a>(
    database: ResourceArc<DatabaseHandle>,
    evaluation: ResourceArc<Evaluation>,
    answer: Evaluated<'a>,
    keys: Vec<Term<'a>>,
    basis: Term<'a>,
) -> NifResult<Atom> {
    evaluated(&database, &evaluation, answer, keys, basis)
}

/// `{:ok, value, bytes}`, `{:raised, raised, {message, code}}` or `{:tenant_gone, name, nil}`.
fn evaluated<'a>(
    database: &DatabaseHandle,
    evaluation: &Evaluation,
    (tag, one, other): Evaluated<'a>,
    keys: Vec<Term<'a>>,
    basis: Term<'a>,
) -> NifResult<Atom> {
    let result = if tag == atom::ok() {
        Ok(Value::new(one, other.decode()?))
    } else if tag == atoms::tenant_gone() {
        Err(Trouble::Error(Error::TenantGone(one.decode()?)))
    } else {
        let raised: Binary<'a> = one.decode()?;
        let (message, code): (String, i32) = other.decode()?;
        match foundationdb::FdbError::from_code(code) {
            error if error.is_retryable() => Err(Trouble::Retry(error)),
            _ => Err(Trouble::Error(Error::Raised(
                raised.as_slice().into(),
                message,
            ))),
        }
    };
    let keys: Vec<Vec<u8>> = keys
        .into_iter()
        .map(operation::key)
        .collect::<NifResult<_>>()?;
    let read = Dependencies {
        keys: evaluator::in_order(keys),
        basis: self::basis(basis)?.map(|basis| database.live.share(basis)),
    };
    evaluation.answer(Outcome { result, read });
    Ok(atom::ok())
}

#[rustler::nif]
fn reporter(env: Env<'_>, database: ResourceArc<DatabaseHandle>, all: bool) -> Atom {
    database.live.reporter.set(env, all);
    atom::ok()
}

#[rustler::nif]
fn stale_after(database: ResourceArc<DatabaseHandle>, milliseconds: u64) -> Atom {
    let time = std::time::Duration::from_millis(milliseconds);
    database.live.set_stale_after(time);
    atom::ok()
}

/// `{silent for ms | nil, ms since the last answer, last error | nil}`.
#[rustler::nif]
fn pulse(env: Env<'_>, database: ResourceArc<DatabaseHandle>) -> Term<'_> {
    let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (silent, last_answer, error) = database.live.pulse();
    (silent.map(ms), ms(last_answer), error).encode(env)
}

#[rustler::nif]
fn stats(env: Env<'_>, database: ResourceArc<DatabaseHandle>) -> NifResult<Term<'_>> {
    let mut all = database.database.stats.all();
    if database.live.pulse().0.is_some() {
        // No shown data can be confirmed.
        all.insert("stale", all["live_queries"]);
    }
    let (waiting_calls, waiting_refreshes) = database.live.look_at_queue(|queue| queue.lengths());
    let waiting = waiting_calls + waiting_refreshes + database.live.waiting_for_turns();
    all.insert("waiting", waiting as u64);
    counters(env, all)
}

#[rustler::nif]
fn engine_stats(env: Env<'_>, database: ResourceArc<DatabaseHandle>) -> NifResult<Term<'_>> {
    match database.database.engine() {
        Err(_on_a_cluster) => Ok(atom::nil().encode(env)),
        Ok(engine) => {
            let stats = engine.stats();
            counters(
                env,
                [
                    ("pending_watches", stats.pending_watches),
                    ("transactions", stats.transactions),
                    ("commits", stats.commits),
                    ("reads", stats.reads),
                    ("read_versions", stats.read_versions),
                ],
            )
        }
    }
}

fn counters<'a>(
    env: Env<'a>,
    counters: impl IntoIterator<Item = (&'static str, u64)>,
) -> NifResult<Term<'a>> {
    let pairs = counters
        .into_iter()
        .map(|(name, value)| Ok((Atom::from_str(env, name)?, value)))
        .collect::<NifResult<Vec<_>>>()?;
    Term::map_from_pairs(env, &pairs)
}

#[rustler::nif]
fn engine_hold_watches(
    env: Env<'_>,
    database: ResourceArc<DatabaseHandle>,
    hold: bool,
) -> Term<'_> {
    let done = database
        .database
        .engine()
        .map(|engine| engine.hold_watches(hold));
    done_or_error(env, done)
}

#[rustler::nif(schedule = "DirtyCpu")]
fn engine_wipe(env: Env<'_>, database: ResourceArc<DatabaseHandle>) -> Term<'_> {
    done_or_error(env, database.database.wipe())
}

#[rustler::nif]
fn engine_faults<'a>(
    env: Env<'a>,
    database: ResourceArc<DatabaseHandle>,
    faults: Option<&'a str>,
) -> Term<'a> {
    done_or_error(env, database.database.set_faults(faults))
}

/// Ranges of keys, as pairs of binaries.
type Ranges<'a> = Vec<(Binary<'a>, Binary<'a>)>;

#[rustler::nif(schedule = "DirtyCpu")]
fn engine_outage<'a>(
    env: Env<'a>,
    database: ResourceArc<DatabaseHandle>,
    all: bool,
    locked: bool,
    reads: Ranges<'a>,
    watches: Ranges<'a>,
) -> Term<'a> {
    let owned = |ranges: Ranges| {
        let owned = |(begin, end): (Binary, Binary)| (begin.to_vec(), end.to_vec());
        ranges.into_iter().map(owned).collect()
    };
    let outage = embedded_fdb::admin::Outage {
        all,
        locked,
        reads: owned(reads),
        watches: owned(watches),
    };
    let done = database
        .database
        .engine()
        .map(|engine| engine.set_outage(outage));
    done_or_error(env, done)
}

/// Blocks until everything is written.
#[rustler::nif(schedule = "DirtyIo")]
fn engine_back_up<'a>(
    env: Env<'a>,
    database: ResourceArc<DatabaseHandle>,
    path: &'a str,
) -> NifResult<Term<'a>> {
    let backup = database.database.engine().and_then(|engine| {
        let backup = engine.back_up(std::path::Path::new(path));
        backup.map_err(|error| Error::Client(format!("the backup failed: {error}")))
    });
    match backup {
        Ok(backup) => {
            let sizes = counters(env, [("keys", backup.keys), ("bytes", backup.bytes)])?;
            Ok((atom::ok(), sizes).encode(env))
        }
        Err(error) => Ok((atom::error(), error).encode(env)),
    }
}

/// Blocks until the file is compacted.
#[rustler::nif(schedule = "DirtyIo")]
fn engine_compact(env: Env<'_>, database: ResourceArc<DatabaseHandle>) -> NifResult<Term<'_>> {
    let compaction = database.database.engine().and_then(|engine| {
        let compaction = engine.compact();
        compaction.map_err(|error| Error::Client(error.to_string()))
    });
    match compaction {
        Ok(sizes) => {
            let sizes = counters(env, [("before", sizes.before), ("after", sizes.after)])?;
            Ok((atom::ok(), sizes).encode(env))
        }
        Err(error) => Ok((atom::error(), error).encode(env)),
    }
}

fn done_or_error(env: Env<'_>, result: Result<(), Error>) -> Term<'_> {
    match result {
        Ok(()) => atom::ok().encode(env),
        Err(error) => (atom::error(), error).encode(env),
    }
}

#[rustler::nif]
fn pack<'a>(env: Env<'a>, elements: Term<'a>) -> NifResult<Term<'a>> {
    Ok(tuple::binary(env, &tuple::pack(elements)?))
}

#[rustler::nif]
fn unpack<'a>(env: Env<'a>, bytes: Binary<'a>) -> NifResult<Term<'a>> {
    tuple::unpack(env, bytes.as_slice())
}

/// Parts of terms that one call walks over: a few hundred microseconds at most.
const WALK_AT_ONCE: usize = 20_000;

#[rustler::nif]
fn etf_skip<'a>(
    env: Env<'a>,
    bytes: Binary<'a>,
    position: usize,
    terms: usize,
    allowed: Atom,
) -> Term<'a> {
    let allowed = match allowed == atoms::anything() {
        true => Allowed::Anything,
        false => Allowed::Data,
    };
    match etf::skip(bytes.as_slice(), position, terms, allowed, WALK_AT_ONCE) {
        Ok(Progress::Done(end)) => (atom::ok(), end).encode(env),
        Ok(Progress::More(position, terms)) => (atoms::more(), position, terms).encode(env),
        Err(refused) => refusal(env, refused),
    }
}

#[rustler::nif(schedule = "DirtyCpu")]
fn etf_fields<'a>(env: Env<'a>, bytes: Binary<'a>) -> NifResult<Term<'a>> {
    match etf::fields(bytes.as_slice()) {
        Ok(fields) => {
            let fields = fields
                .into_iter()
                .map(|(name, at)| Ok((name, bytes.make_subbinary(at.start, at.len())?)))
                .collect::<NifResult<Vec<_>>>()?;
            Ok((atom::ok(), fields).encode(env))
        }
        Err(refused) => Ok(refusal(env, refused)),
    }
}

#[rustler::nif(schedule = "DirtyCpu")]
fn etf_foreign<'a>(env: Env<'a>, bytes: Binary<'a>) -> Term<'a> {
    match etf::foreign(bytes.as_slice(), |atom| atom_exists(env, atom)) {
        Ok(bytes) => (atom::ok(), tuple::binary(env, &bytes)).encode(env),
        Err(refused) => refusal(env, refused),
    }
}

fn atom_exists(env: Env<'_>, encoded: &[u8]) -> bool {
    env.binary_to_term(&[&[etf::VERSION], encoded].concat())
        .is_some()
}

fn refusal(env: Env<'_>, refused: etf::Refused) -> Term<'_> {
    (atom::error(), refused.to_string()).encode(env)
}

fn load(_env: Env<'_>, _info: Term<'_>) -> bool {
    match client::pin() {
        Ok(()) => true,
        Err(error) => {
            eprintln!("ecto_fdb: {error}");
            false
        }
    }
}

/// Puts this package's version into the library: `EctoFoundationDB.NifFile` searches the file for it
/// before the VM loads it. Exported, so that the linker keeps it.
#[no_mangle]
pub static ECTO_FDB_NIF: &str = concat!("<ecto_fdb_sync NIF ", env!("CARGO_PKG_VERSION"), ">");

rustler::init!("Elixir.EctoFoundationDB.Native", load = load);
