//! Random interleavings of transactions, compared with a model that has no notion of conflicts.
//!
//! The model runs the committed transactions one after the other, in the order of their commits. If
//! the engine is strictly serializable, this explains every read of a committed transaction. The commits
//! before a transaction began explain every read of any transaction, committed or not.

mod common;

use std::collections::BTreeMap;

use common::{begin, code, database};
use foundationdb::future::FdbKeyValue;
use foundationdb::options::{MutationType, StreamingMode};
use foundationdb::{Database, KeySelector, RangeOption, Transaction};
use futures::executor::block_on;
use proptest::prelude::*;

type State = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Clone, Debug)]
enum Step {
    Set(Vec<u8>, Vec<u8>),
    Clear(Vec<u8>),
    ClearRange(Vec<u8>, Vec<u8>),
    Add(Vec<u8>, u8),
    CompareAndClear(Vec<u8>, Vec<u8>),
    Get(Vec<u8>),
    Range {
        begin: Vec<u8>,
        end: Vec<u8>,
        limit: usize,
        reverse: bool,
    },
    Select {
        key: Vec<u8>,
        or_equal: bool,
        offset: i32,
    },
    Commit,
}

/// Whether a transaction with this step does more than read: FoundationDB commits read-only transactions
/// as of their read version. Clearing an empty range is not a write.
fn writes(step: &Step) -> bool {
    match step {
        Step::ClearRange(begin, end) => begin < end,
        Step::Get(_) | Step::Range { .. } | Step::Select { .. } | Step::Commit => false,
        Step::Set(..) | Step::Clear(_) | Step::Add(..) | Step::CompareAndClear(..) => true,
    }
}

/// The result of a step that reads.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Value(Option<Vec<u8>>),
    Rows(Vec<(Vec<u8>, Vec<u8>)>),
    Key(Vec<u8>),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(&b"ab"[..]), 1..4)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0u8..3, 1..3)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (key(), value()).prop_map(|(key, value)| Step::Set(key, value)),
        2 => key().prop_map(Step::Clear),
        1 => (key(), key()).prop_map(|(a, b)| Step::ClearRange(a.clone().min(b.clone()), a.max(b))),
        2 => (key(), 0u8..5).prop_map(|(key, n)| Step::Add(key, n)),
        1 => (key(), value()).prop_map(|(key, value)| Step::CompareAndClear(key, value)),
        4 => key().prop_map(Step::Get),
        2 => (key(), key(), 0usize..4, any::<bool>()).prop_map(|(a, b, limit, reverse)| Step::Range {
            begin: a.clone().min(b.clone()),
            end: a.max(b),
            limit,
            reverse,
        }),
        2 => (key(), any::<bool>(), -2i32..4)
            .prop_map(|(key, or_equal, offset)| Step::Select { key, or_equal, offset }),
        2 => Just(Step::Commit),
    ]
}

/// One step on the engine; its result, if it reads.
fn run(transaction: &Transaction, step: &Step) -> Option<Seen> {
    match step {
        Step::Set(key, value) => transaction.set(key, value),
        Step::Clear(key) => transaction.clear(key),
        Step::ClearRange(begin, end) => transaction.clear_range(begin, end),
        Step::Add(key, n) => transaction.atomic_op(key, &[*n], MutationType::Add),
        Step::CompareAndClear(key, value) => {
            transaction.atomic_op(key, value, MutationType::CompareAndClear);
        }
        Step::Get(key) => {
            let value = block_on(transaction.get(key, false)).expect("a fresh read");
            return Some(Seen::Value(value.map(|value| value.to_vec())));
        }
        Step::Range {
            begin,
            end,
            limit,
            reverse,
        } => {
            let options = RangeOption {
                begin: KeySelector::first_greater_or_equal(begin.clone()),
                end: KeySelector::first_greater_or_equal(end.clone()),
                // For the crate, zero rows remain of a limit of zero.
                limit: Some(*limit).filter(|&limit| limit > 0),
                reverse: *reverse,
                mode: StreamingMode::WantAll,
                ..RangeOption::default()
            };
            return Some(Seen::Rows(all_rows(transaction, options)));
        }
        Step::Select {
            key,
            or_equal,
            offset,
        } => {
            let selector = KeySelector::new(key.clone().into(), *or_equal, *offset);
            let key = block_on(transaction.get_key(&selector, false)).expect("a fresh read");
            return Some(Seen::Key(key.to_vec()));
        }
        Step::Commit => {}
    }
    None
}

/// All rows of a range, in as many replies as necessary.
fn all_rows(transaction: &Transaction, options: RangeOption) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    let mut next = Some(options);
    while let Some(options) = next {
        let reply = block_on(transaction.get_range(&options, 1, false)).expect("a fresh read");
        let row = |row: &FdbKeyValue| (row.key().to_vec(), row.value().to_vec());
        rows.extend(reply.iter().map(row));
        next = options.next_range(&reply);
    }
    rows
}

/// The same step on the model.
fn model(state: &mut State, step: &Step) -> Option<Seen> {
    match step {
        Step::Set(key, value) => {
            state.insert(key.clone(), value.clone());
        }
        Step::Clear(key) => {
            state.remove(key);
        }
        Step::ClearRange(begin, end) => state.retain(|key, _| key < begin || key >= end),
        Step::Add(key, n) => {
            let old = state
                .get(key)
                .and_then(|value| value.first())
                .copied()
                .unwrap_or(0);
            state.insert(key.clone(), vec![old.wrapping_add(*n)]);
        }
        Step::CompareAndClear(key, value) => {
            if state.get(key) == Some(value) {
                state.remove(key);
            }
        }
        Step::Get(key) => return Some(Seen::Value(state.get(key).cloned())),
        Step::Range {
            begin,
            end,
            limit,
            reverse,
        } => {
            let rows = state.range(begin.clone()..end.clone());
            let rows = rows.map(|(key, value)| (key.clone(), value.clone()));
            let limit = if *limit == 0 { usize::MAX } else { *limit };
            return Some(Seen::Rows(if *reverse {
                rows.rev().take(limit).collect()
            } else {
                rows.take(limit).collect()
            }));
        }
        Step::Select {
            key,
            or_equal,
            offset,
        } => {
            let keys: Vec<_> = state.keys().collect();
            let below = keys
                .iter()
                .filter(|k| **k < key || (*or_equal && **k == key))
                .count();
            let index = below as i64 + i64::from(*offset) - 1;
            return Some(Seen::Key(match usize::try_from(index) {
                Err(_) => Vec::new(),
                Ok(index) => keys.get(index).map_or(vec![0xff], |key| (*key).clone()),
            }));
        }
        Step::Commit => {}
    }
    None
}

/// One transaction of a run, on the engine and in the model.
struct Running {
    transaction: Transaction,
    steps: Vec<(Step, Option<Seen>)>,
    /// The state it should see: the state when it began, and its own writes.
    sees: State,
    /// Whether anything was committed since it began.
    overtaken: bool,
}

impl Running {
    fn begin(database: &Database, committed: &State) -> Self {
        let transaction = begin(database);
        block_on(transaction.get_read_version()).expect("a read version");
        Running {
            transaction,
            steps: Vec::new(),
            sees: committed.clone(),
            overtaken: false,
        }
    }
}

fn check(script: Vec<(usize, Step)>) -> Result<(), TestCaseError> {
    let database = database("model");
    let wipe = begin(&database);
    wipe.clear_range(b"", b"\xff");
    prop_assert_eq!(code(block_on(wipe.commit()).map_err(FdbErrorFrom::from)), 0);

    let mut committed = State::new();
    let mut running: Vec<Running> = (0..3)
        .map(|_| Running::begin(&database, &committed))
        .collect();
    for (who, step) in script {
        // For a selector of the same transaction, FoundationDB counts a key that compare-and-clear
        // may have cleared as present. A model should not have to explain that.
        let unsure = |(step, _): &(Step, _)| matches!(step, Step::CompareAndClear(..));
        if matches!(step, Step::Select { .. }) && running[who].steps.iter().any(unsure) {
            continue;
        }
        let seen = run(&running[who].transaction, &step);
        let expected = model(&mut running[who].sees, &step);
        prop_assert_eq!(&seen, &expected, "{:?}", step);
        if !matches!(step, Step::Commit) {
            running[who].steps.push((step, seen));
            continue;
        }
        let next = Running::begin(&database, &committed);
        let done = std::mem::replace(&mut running[who], next);
        let overtaken = done.overtaken;
        if block_on(done.transaction.commit()).is_err() {
            prop_assert!(overtaken, "a conflict with nobody");
            continue;
        }
        let wrote = done.steps.iter().any(|(step, _)| writes(step));
        if wrote {
            for (step, seen) in &done.steps {
                prop_assert_eq!(
                    &model(&mut committed, step),
                    seen,
                    "not explained: {:?}",
                    step
                );
            }
            for other in &mut running {
                other.overtaken = true;
            }
        }
        running[who] = Running::begin(&database, &committed);
    }
    let reader = begin(&database);
    let all = RangeOption::from((&b""[..], &b"\xff"[..]));
    let rows = block_on(reader.get_range(&all, 1, true)).expect("a fresh read");
    let rows: State = rows
        .iter()
        .map(|row| (row.key().to_vec(), row.value().to_vec()))
        .collect();
    prop_assert_eq!(rows, committed);
    Ok(())
}

/// A commit's error keeps the transaction; only its code matters here.
struct FdbErrorFrom;

impl FdbErrorFrom {
    fn from(error: foundationdb::TransactionCommitError) -> foundationdb::FdbError {
        error.into()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn committed_transactions_are_explained_by_their_order(
        script in prop::collection::vec((0usize..3, step()), 1..60)
    ) {
        check(script)?;
    }
}
