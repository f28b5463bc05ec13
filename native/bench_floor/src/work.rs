//! The reads and writes of each operation, with keys and values of the sizes that records have.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foundationdb::options::{ConflictRangeType, MutationType, StreamingMode};
use foundationdb::tuple::{pack, Subspace};
use foundationdb::{Database, FdbError, FdbResult, RangeOption, Transaction};
use futures::channel::oneshot;
use futures::future::try_join_all;
use futures::FutureExt;

/// How many records there are.
const RECORDS: u64 = 1_000;
/// How many of them have one value of the index.
const EACH: u64 = 20;

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A watch fires, and its key is read.
    Latency,
    Get,
    TwentyGets,
    /// A record and two index entries, of a key that nobody has.
    InsertNew,
    /// The same, looked for before.
    Insert,
    Update,
    IndexQuery,
    Range,
}

impl Work {
    /// All of them by name.
    pub const ALL: [(&str, Work); 8] = [
        ("latency", Work::Latency),
        ("get", Work::Get),
        ("gets", Work::TwentyGets),
        ("insert_new", Work::InsertNew),
        ("insert", Work::Insert),
        ("update", Work::Update),
        ("index", Work::IndexQuery),
        ("range", Work::Range),
    ];

    pub fn named(name: &str) -> Option<Work> {
        let found = Self::ALL.iter().find(|(other, _)| *other == name);
        found.map(|(_, work)| *work)
    }

    pub fn writes(self) -> bool {
        matches!(self, Work::InsertNew | Work::Insert | Work::Update)
    }

    /// Does it in a transaction, up to the commit.
    pub async fn attempt(self, transaction: &Transaction, number: u64) -> FdbResult<()> {
        match self {
            Work::Latency => unreachable!("it takes several transactions"),
            Work::Get => {
                let range = record_range(number % RECORDS);
                assert_eq!(transaction.get_range(&range, 1, false).await?.len(), 1);
            }
            Work::TwentyGets => {
                let ranges: Vec<_> = (0..EACH)
                    .map(|i| record_range((number + i) % RECORDS))
                    .collect();
                let reads = ranges
                    .iter()
                    .map(|range| transaction.get_range(range, 1, false));
                for rows in try_join_all(reads).await? {
                    assert_eq!(rows.len(), 1);
                }
            }
            Work::InsertNew => insert(transaction, unused(number))?,
            Work::Insert => {
                let range = record_range(unused(number));
                assert_eq!(transaction.get_range(&range, 1, false).await?.len(), 0);
                insert(transaction, unused(number))?;
            }
            Work::Update => {
                // Each of its own, as processes that update different records.
                let id = number % RECORDS;
                let rows = transaction.get_range(&record_range(id), 1, false).await?;
                assert_eq!(rows.len(), 1);
                set_record(transaction, id, number);
                // Two entries go and two come, as the name changes.
                for index in ["users_name_index", "users_team_name_index"] {
                    transaction.clear(&entry(index, "name", id));
                    transaction.set(&entry(index, "name", id), &record_key(id));
                }
                signals(transaction)?;
            }
            Work::IndexQuery => {
                let team = number % (RECORDS / EACH);
                let teams = Subspace::from_bytes(b"\x15\x01").subspace(&("i", "team", team));
                let (begin, end) = teams.range();
                let mut range = RangeOption::from((begin, end));
                range.mode = StreamingMode::WantAll;
                let mapper = pack(&("{V[0]}", "{...}"));
                let rows = transaction
                    .get_mapped_range(&range, &mapper, 1, false)
                    .await?;
                assert_eq!(rows.len() as u64, EACH);
            }
            Work::Range => {
                let mut range = Some(all_records());
                let mut found = 0;
                let mut batch = 0;
                while let Some(next) = range {
                    batch += 1;
                    let rows = transaction.get_range(&next, batch, false).await?;
                    found += rows.len() as u64;
                    range = next.next_range(&rows);
                }
                assert_eq!(found, RECORDS);
            }
        }
        Ok(())
    }
}

/// An id that no record has.
fn unused(number: u64) -> u64 {
    1_000_000 + number
}

fn records() -> Subspace {
    Subspace::from_bytes(b"\x15\x01").subspace(&("users", "r"))
}

fn record_key(id: u64) -> Vec<u8> {
    records().pack(&format!("user {id:028}"))
}

/// A record and its parts.
fn record_range(id: u64) -> RangeOption<'static> {
    let key = record_key(id);
    let mut end = key.clone();
    end.push(0xFF);
    RangeOption {
        mode: StreamingMode::WantAll,
        ..RangeOption::from((key, end))
    }
}

fn all_records() -> RangeOption<'static> {
    let (begin, _) = records().range();
    RangeOption {
        mode: StreamingMode::WantAll,
        ..RangeOption::from((begin, record_key(unused(0))))
    }
}

fn set_record(transaction: &Transaction, id: u64, number: u64) {
    let value = format!("{number:020}{:060}", id);
    transaction.set(&record_key(id), value.as_bytes());
}

fn entry(index: &str, value: &str, id: u64) -> Vec<u8> {
    Subspace::from_bytes(b"\x15\x01").pack(&("users", "i", index, value, format!("user {id:028}")))
}

/// What an insert writes: a record, two entries and three signals; it conflicts with migrations.
fn insert(transaction: &Transaction, id: u64) -> FdbResult<()> {
    let claim = Subspace::from_bytes(b"\x15\x01").pack(&("claim", "users"));
    let mut after = claim.clone();
    after.push(0);
    transaction.add_conflict_range(&claim, &after, ConflictRangeType::Read)?;
    set_record(transaction, id, id);
    for index in ["users_name_index", "users_team_name_index"] {
        transaction.set(&entry(index, "name", id), &record_key(id));
    }
    signals(transaction)
}

fn signals(transaction: &Transaction) -> FdbResult<()> {
    for signal in ["inserts", "collection", "changes"] {
        let key = Subspace::from_bytes(b"\x15\x01").pack(&("users", "m", signal));
        transaction.atomic_op(&key, &1_u64.to_le_bytes(), MutationType::Add);
    }
    Ok(())
}

/// The records, and an index of them.
pub async fn prepare(database: &Database) -> FdbResult<()> {
    let mut transaction = database.create_trx()?;
    loop {
        transaction.clear_range(b"\x15\x01", b"\x15\x02");
        for id in 0..RECORDS {
            set_record(&transaction, id, id);
            let key = Subspace::from_bytes(b"\x15\x01").pack(&("i", "team", id / EACH, id));
            // As the mapper wants it.
            transaction.set(&key, &pack(&(record_key(id),)));
            let mapped = pack(&(record_key(id), "r"));
            transaction.set(&mapped, &[7; 80]);
        }
        match transaction.commit().await {
            Ok(_) => return Ok(()),
            Err(error) => transaction = error.on_error().await?,
        }
    }
}

/// From the return of a commit until its change, which a watch tells of, is read by another task, which waits.
pub async fn latency(database: &Arc<Database>, number: u64) -> Result<Duration, FdbError> {
    let key = b"\x15\x01watched";
    let arming = database.create_trx()?;
    let mut watch = arming.watch(key).boxed();
    arming.commit().await?;
    let (waits, waiting) = oneshot::channel();
    let mut waits = Some(waits);
    let reader = Arc::clone(database);
    let reading = tokio::spawn(async move {
        poll_fn(|context| {
            let fired = watch.poll_unpin(context);
            if let Some(waits) = waits.take() {
                let _the_writer_is_there = waits.send(());
            }
            fired
        })
        .await?;
        let transaction = reader.create_trx()?;
        assert!(transaction.get(key, false).await?.is_some());
        Ok(Instant::now())
    });
    let _it_does = waiting.await;
    let writing = database.create_trx()?;
    writing.set(key, format!("{number:080}").as_bytes());
    writing.commit().await?;
    let committed = Instant::now();
    let read: FdbResult<Instant> = reading.await.expect("the reader does not panic");
    Ok(read?.saturating_duration_since(committed))
}
