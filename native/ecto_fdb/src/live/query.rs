//! The keys that a live query reads and watches.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use foundationdb::future::FdbKeyValue;
use foundationdb::options::StreamingMode;
use foundationdb::{FdbResult, RangeOption, Transaction};
use futures::stream::{self, StreamExt, TryStreamExt};
use live_state::{Key, Watched};

use super::snapshot::{Record, Row, SharedRow};
use super::value::SharedValue;

/// Index entries whose records are read at the same time.
const RECORDS_IN_FLIGHT: usize = 100;

/// The meaning of the rows in a query's range.
#[derive(PartialEq, Eq, Hash)]
pub enum Source {
    /// Records: each a row, or a row followed by the parts of its split value.
    Records,
    /// Index entries, each of which leads to a record.
    Index {
        /// Where an entry stores its record's key.
        by: By,
        /// The prefix of all records' keys.
        records: Box<[u8]>,
    },
    /// Nobody knows before it is evaluated.
    Function(Function),
}

/// A function of the application, whose evaluation reads what it will.
pub struct Function {
    /// Equal functions have the same.
    id: Box<[u8]>,
    /// It is evaluated again once in this time at most.
    pub every: Duration,
    /// What the evaluator makes the function of. Equal functions may differ in it: a page that mounts after
    /// a deployment brings the new version of an anonymous function.
    pub code: Arc<[u8]>,
}

impl Function {
    /// A function.
    pub fn new(id: &[u8], code: &[u8], every: Duration) -> Self {
        Function {
            id: id.into(),
            every,
            code: code.into(),
        }
    }
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.every == other.every
    }
}

impl Eq for Function {}

impl Hash for Function {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

/// Where an index entry stores the record it leads to.
#[derive(PartialEq, Eq, Hash, Clone, Copy)]
pub enum By {
    /// Its value is the record's key.
    Value,
    /// Its key ends in the record's id, a versionstamp: a commit fills those in only in keys.
    Versionstamp,
}

/// A versionstamp in the tuple layer: its type, and 12 bytes.
const VERSIONSTAMP_TYPE: u8 = 0x33;
const VERSIONSTAMP_LENGTH: usize = 13;

impl By {
    /// The key of the record that an entry leads to.
    fn record(self, records: &[u8], entry: &[u8], value: &[u8]) -> Option<Vec<u8>> {
        match self {
            // A key that is not a record's leads nowhere.
            By::Value => value.starts_with(records).then(|| value.to_vec()),
            By::Versionstamp => {
                let at = entry.len().checked_sub(VERSIONSTAMP_LENGTH)?;
                let id = &entry[at..];
                (id[0] == VERSIONSTAMP_TYPE).then(|| [records, id].concat())
            }
        }
    }
}

/// Reads the records of `[begin, end)` and watches one key; or evaluates a function, and watches the keys
/// that it has read. Equal queries share one live query.
#[derive(PartialEq, Eq, Hash)]
pub struct Query {
    /// The kind of rows in the range.
    pub source: Source,
    /// First key of the range.
    pub begin: Box<[u8]>,
    /// End of the range, exclusive.
    pub end: Box<[u8]>,
    /// The maximum number of records.
    pub limit: Option<usize>,
    /// Whether the last key comes first.
    pub reverse: bool,
    /// The key whose change says that the records may have changed; empty for a function.
    pub watch: Key,
    /// What the application asked for, as an external term, if this query is a plan for it.
    pub asked_for: Option<Box<[u8]>>,
}

/// For messages.
impl std::fmt::Display for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.source {
            Source::Function(_) => write!(f, "a function"),
            Source::Records | Source::Index { .. } => {
                write!(
                    f,
                    "the one that watches the key \"{}\"",
                    self.watch.escape_ascii()
                )
            }
        }
    }
}

/// What one read found.
#[derive(Clone)]
pub struct Found {
    /// The records in the query's order.
    pub records: Vec<Record>,
    /// Whether some are where an entry leads to them that does not end in their id: these may be out of
    /// order, and too many.
    pub irregular: bool,
    /// What a function gave.
    pub value: Option<SharedValue>,
    /// The watched keys, in ascending order, and their values.
    pub watched: Vec<Watched>,
}

impl Query {
    /// A function to evaluate.
    pub fn of_function(function: Function) -> Self {
        Query {
            source: Source::Function(function),
            begin: Box::default(),
            end: Box::default(),
            limit: None,
            reverse: false,
            watch: Key::from([]),
            asked_for: None,
        }
    }

    /// The function, if it is one.
    pub fn function(&self) -> Option<&Function> {
        match &self.source {
            Source::Function(function) => Some(function),
            Source::Records | Source::Index { .. } => None,
        }
    }

    /// Reads it, which is no function. All reads are snapshot reads: a read-only transaction has nothing to conflict with.
    pub async fn read(&self, transaction: &Transaction) -> FdbResult<Found> {
        let (records, irregular) = match &self.source {
            Source::Records => (self.records(transaction).await?, false),
            Source::Index { by, records } => self.index(transaction, *by, records).await?,
            Source::Function(_) => (Vec::new(), false),
        };
        let value = match records
            .iter()
            .find_map(|record| record.value_of(&self.watch))
        {
            Some(value) => Some(value.into()),
            // No other key could be the watched one.
            None if self.is_one_record() => None,
            None => {
                let value = transaction.get(&self.watch, true).await?;
                value.map(|value| value[..].into())
            }
        };
        let key = Key::clone(&self.watch);
        Ok(Found {
            records,
            irregular,
            value: None,
            watched: vec![Watched { key, value }],
        })
    }

    /// Whether it reads one record and watches that record's key.
    fn is_one_record(&self) -> bool {
        self.source == Source::Records && self.limit.is_none() && self.begin[..] == self.watch[..]
    }

    async fn records(&self, transaction: &Transaction) -> FdbResult<Vec<Record>> {
        let mut rows: Vec<SharedRow> = Vec::new();
        let mut rest = Some(self.range());
        let mut iteration = 1;
        while let Some(range) = rest {
            let batch = transaction.get_range(&range, iteration, true).await?;
            rows.extend(batch.iter().map(row));
            iteration += 1;
            // One record more than wanted, so that the last wanted one has all its rows.
            let enough = self
                .limit
                .is_some_and(|limit| Record::count(&rows, self.reverse) > limit);
            rest = if enough {
                None
            } else {
                range.next_range(&batch)
            };
        }
        let mut records = Record::group(rows, self.reverse);
        if let Some(limit) = self.limit {
            records.truncate(limit);
        }
        Ok(records)
    }

    /// An entry that does not end in its record's id is outdated, unless ecto_foundationdb wrote it: the
    /// layer decides by the record. With a limit, such entries come in addition to those that count.
    async fn index(
        &self,
        transaction: &Transaction,
        by: By,
        prefix: &[u8],
    ) -> FdbResult<(Vec<Record>, bool)> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut records: HashMap<Vec<u8>, Option<Record>> = HashMap::new();
        let mut rest = Some(self.range());
        let mut iteration = 1;
        while let Some(range) = rest {
            let batch = transaction.get_range(&range, iteration, true).await?;
            iteration += 1;
            let mut keys = Vec::new();
            for entry in &batch {
                let Some(key) = by.record(prefix, entry.key(), entry.value()) else {
                    continue;
                };
                if !records.contains_key(&key) {
                    records.insert(key.clone(), None);
                    keys.push(key.clone());
                }
                let counts = entry.key().ends_with(&key[prefix.len()..]);
                entries.push(Entry { key, counts });
            }
            let read: Vec<Option<Record>> = stream::iter(keys)
                .map(|key| read_record(transaction, key))
                .buffered(RECORDS_IN_FLIGHT)
                .try_collect()
                .await?;
            for record in read.into_iter().flatten() {
                records.insert(record.key().to_vec(), Some(record));
            }
            let counted = entries.iter().enumerate().filter(|(_, entry)| {
                entry.counts && records.get(&entry.key).is_some_and(Option::is_some)
            });
            let end = self
                .limit
                .and_then(|limit| counted.map(|(place, _)| place).nth(limit - 1));
            if let Some(end) = end {
                entries.truncate(end + 1);
                break;
            }
            rest = range.next_range(&batch);
        }
        Ok(in_order(&entries, records))
    }

    fn range(&self) -> RangeOption<'_> {
        let mode = match self.limit {
            Some(_) => StreamingMode::Iterator,
            None => StreamingMode::WantAll,
        };
        RangeOption {
            mode,
            reverse: self.reverse,
            ..RangeOption::from((&self.begin[..], &self.end[..]))
        }
    }
}

/// An index entry: the key of its record, and whether it ends in that record's id.
struct Entry {
    key: Vec<u8>,
    counts: bool,
}

/// The records of entries, each once: where the entry is that counts, if there is one. And whether there
/// is none for some.
fn in_order(
    entries: &[Entry],
    mut records: HashMap<Vec<u8>, Option<Record>>,
) -> (Vec<Record>, bool) {
    let counted = entries.iter().filter(|entry| entry.counts);
    let counted: HashSet<&[u8]> = counted.map(|entry| &entry.key[..]).collect();
    let mut irregular = false;
    let records = entries
        .iter()
        .filter(|entry| entry.counts || !counted.contains(&entry.key[..]))
        .filter_map(|entry| {
            let record = records.remove(&entry.key).flatten()?;
            irregular |= !entry.counts;
            Some(record)
        })
        .collect();
    (records, irregular)
}

async fn read_record(transaction: &Transaction, key: Vec<u8>) -> FdbResult<Option<Record>> {
    let end = Record::end_of(&key);
    let mut rows = Vec::new();
    let mut rest = Some(RangeOption {
        mode: StreamingMode::WantAll,
        ..RangeOption::from((&key[..], &end[..]))
    });
    while let Some(range) = rest {
        let batch = transaction.get_range(&range, 1, true).await?;
        rows.extend(batch.iter().map(row));
        rest = range.next_range(&batch);
    }
    Ok(Record::group(rows, false).into_iter().next())
}

fn row(row: &FdbKeyValue) -> SharedRow {
    Row::new(row.key(), row.value())
}
