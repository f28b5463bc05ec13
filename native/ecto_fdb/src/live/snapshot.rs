//! What a live query read, shared by every page that shows it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use rustler::{Encoder, Env, Resource, ResourceArc, Term};
use smallvec::SmallVec;

use super::shared_term::SharedTerm;
use crate::etf;
use crate::record::{is_part_of, NESTED_TUPLE};
use crate::tuple::binary;

mod atoms {
    rustler::atoms! { keep, data }
}

/// Binaries longer than this live outside the process heap: those are shared between pages.
const HEAP_BINARY_LIMIT: usize = 64;
/// Values up to this size are decoded in the NIF.
const DECODED_LIMIT: usize = 2048;
/// What a row costs to make a term of, beside a byte for each byte of a decoded value.
const ROW_COST: usize = 100;

/// Changes that cost more are not kept as terms.
const SHARED_LIMIT: usize = 200_000;

/// A key-value pair.
pub struct Row {
    /// The key.
    pub key: Box<[u8]>,
    /// The value.
    pub value: Box<[u8]>,
    /// Whether the value can be decoded for a page as it is. Looked at once, for all pages.
    plain: bool,
}

#[rustler::resource_impl]
impl Resource for Row {}

/// A row by reference.
pub type SharedRow = ResourceArc<Row>;

impl Row {
    /// A row as it was read.
    pub fn new(key: &[u8], value: &[u8]) -> SharedRow {
        ResourceArc::new(Row {
            key: key.into(),
            value: value.into(),
            // Strings of a decoded term are copies: large values are shared instead.
            plain: value.len() <= DECODED_LIMIT && etf::is_plain_record(value),
        })
    }

    /// Whether it holds a part of the split value of the record at `key`.
    fn is_part_of(&self, key: &[u8]) -> bool {
        is_part_of(&self.key, key)
    }
}

/// A record: its row, and the parts of its value where that is split.
#[derive(Clone)]
pub struct Record(SmallVec<[SharedRow; 1]>);

impl Record {
    /// Where the rows of the record at `key` end. Only the key of another record, with a zero byte
    /// in it, goes on with 0xFF.
    pub fn end_of(key: &[u8]) -> Vec<u8> {
        [key, &[0xFF]].concat()
    }

    /// Rows to records, in the order of the rows.
    pub fn group(mut rows: Vec<SharedRow>, reverse: bool) -> Vec<Record> {
        if reverse {
            rows.reverse();
        }
        let mut records: Vec<Record> = Vec::with_capacity(rows.len());
        for row in rows {
            match records.last_mut() {
                Some(record) if row.is_part_of(record.key()) => record.0.push(row),
                _ => records.push(Record(SmallVec::from_elem(row, 1))),
            }
        }
        if reverse {
            records.reverse();
        }
        records
    }

    /// How many records begin among these rows; a record whose first row is not yet among them
    /// counts as one.
    pub fn count(rows: &[SharedRow], reverse: bool) -> usize {
        let mut count = 0;
        let mut first: Option<&SharedRow> = None;
        for row in rows {
            let belongs = first.is_some_and(|first| match reverse {
                false => row.is_part_of(&first.key),
                // Parts come before their record: both are parts of one, or this is its key.
                true => first.is_part_of(&row.key) || share_record(first, row),
            });
            if !belongs {
                count += 1;
                first = Some(row);
            }
        }
        count
    }

    /// The key of the record.
    pub fn key(&self) -> &[u8] {
        // `group` makes none without a row.
        &self.0[0].key
    }

    /// The value of a row of it.
    pub fn value_of(&self, key: &[u8]) -> Option<&[u8]> {
        let row = self.0.iter().find(|row| *row.key == *key)?;
        Some(&row.value)
    }

    /// Whether they are the same rows, not equal ones.
    fn is(&self, other: &Record) -> bool {
        self.0.len() == other.0.len()
            && self
                .0
                .iter()
                .zip(&other.0)
                .all(|(a, b)| a.as_c_arg() == b.as_c_arg())
    }

    fn equals(&self, other: &Record) -> bool {
        self.0.len() == other.0.len()
            && self
                .0
                .iter()
                .zip(&other.0)
                .all(|(a, b)| a.key == b.key && a.value == b.value)
    }

    fn bytes(&self) -> usize {
        self.0
            .iter()
            .map(|row| row.key.len() + row.value.len())
            .sum()
    }

    fn cost(&self) -> usize {
        let cost = |row: &SharedRow| ROW_COST + if row.plain { row.value.len() } else { 0 };
        self.0.iter().map(cost).sum()
    }

    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        // Parts are the application's bytes, whatever they look like.
        let whole = self.0.len() == 1;
        let rows: SmallVec<[Term<'a>; 1]> = self
            .0
            .iter()
            .map(|row| encode_row(env, row, whole))
            .collect();
        rows[..].encode(env)
    }
}

fn share_record(a: &Row, b: &Row) -> bool {
    let common = a
        .key
        .iter()
        .zip(&b.key[..])
        .take_while(|(a, b)| a == b)
        .count();
    // Split values' keys differ within the nested tuple only.
    (0..=common.min(a.key.len().saturating_sub(1)))
        .rev()
        .any(|at| {
            a.key[at] == NESTED_TUPLE && a.is_part_of(&b.key[..at]) && b.is_part_of(&a.key[..at])
        })
}

fn encode_row<'a>(env: Env<'a>, row: &SharedRow, whole: bool) -> Term<'a> {
    if whole && row.plain {
        if let Some(fields) = decode(env, &row.value) {
            return (atoms::data(), fields).encode(env);
        }
    }
    let value = if row.value.len() > HEAP_BINARY_LIMIT {
        row.make_binary(env, |row| &row.value).to_term(env)
    } else {
        binary(env, &row.value)
    };
    (binary(env, &row.key), value).encode(env)
}

/// The fields of a plain record as a map. None where they have an atom that this VM does not know, or
/// one twice.
fn decode<'a>(env: Env<'a>, value: &[u8]) -> Option<Term<'a>> {
    let (fields, _size) = env.binary_to_term(value)?;
    let fields: Vec<(Term<'a>, Term<'a>)> = fields.decode().ok()?;
    Term::map_from_pairs(env, &fields).ok()
}

/// What one read of a query found.
pub struct Snapshot {
    /// Which data these are: equal data of an entry keep their generation, others never share one.
    pub generation: u64,
    since: Instant,
    records: Vec<Record>,
    cost: usize,
    /// From the one before: most pages come from there.
    change: Option<Change>,
    /// From another one: where pages have slept through some, most of them through as many.
    skipped: Mutex<Option<Arc<Change>>>,
}

/// How a snapshot's records come from those of an earlier one.
pub struct Change {
    from: u64,
    items: Vec<Item>,
    cost: usize,
    /// The change as a term, made once where many pages take it.
    term: Option<SharedTerm>,
}

/// A piece of a change.
#[derive(Clone, Copy)]
enum Item {
    /// So many records of the earlier snapshot, from this place on.
    Keep { first: usize, count: usize },
    /// The record at this place of the new snapshot.
    New(usize),
}

impl Snapshot {
    /// Records as read, and how they come from an earlier snapshot's.
    pub fn new(generation: u64, records: Vec<Record>, change: Option<Change>) -> Self {
        Snapshot {
            generation,
            since: Instant::now(),
            cost: records.iter().map(Record::cost).sum(),
            records,
            change,
            skipped: Mutex::new(None),
        }
    }

    /// What nobody has read: every snapshot is a change of it.
    pub fn nothing() -> Self {
        Snapshot::new(0, Vec::new(), None)
    }

    /// How many records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// When these data were read first.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// How many bytes its keys and values have.
    pub fn bytes(&self) -> usize {
        self.records.iter().map(Record::bytes).sum()
    }

    /// Takes records over where they are equal, and tells what has changed.
    pub fn reuse(&self, mut read: Vec<Record>) -> (Vec<Record>, Change) {
        let change = Change::between(self, &read, Record::equals);
        let mut place = 0;
        for item in &change.items {
            place += match *item {
                Item::Keep { first, count } => {
                    let kept = &self.records[first..first + count];
                    read[place..place + count].clone_from_slice(kept);
                    count
                }
                Item::New(_) => 1,
            };
        }
        (read, change)
    }

    /// Whether a change from this snapshot changes nothing.
    pub fn is_same(&self, change: &Change) -> bool {
        match change.items[..] {
            [] => self.records.is_empty(),
            [Item::Keep { first: 0, count }] => count == self.records.len(),
            _ => false,
        }
    }

    /// What `encode_all` costs.
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// What `encode_change` costs at most.
    pub fn cost_of_change(&self, before: &Snapshot) -> usize {
        if let Some(change) = self.direct_change(before) {
            return change.cost;
        }
        match &*self.skipped.lock() {
            Some(change) if change.from == before.generation => change.cost,
            // They have to be compared first.
            _ => self.cost + before.cost,
        }
    }

    fn direct_change(&self, before: &Snapshot) -> Option<&Change> {
        let is_from = |change: &&Change| change.from == before.generation;
        self.change.as_ref().filter(is_from)
    }

    /// All records, as `[[{key, value}]]`.
    pub fn encode_all<'a>(&self, env: Env<'a>) -> Term<'a> {
        encode_list(env, &self.records, |record| record.encode(env))
    }

    /// `encode_all`'s term, which many pages are going to take.
    pub fn share(&self) -> SharedTerm {
        SharedTerm::new(|env| self.encode_all(env))
    }

    /// The records as a change of `before`'s: `[[{key, value}] | {:keep, first, count}]`.
    pub fn encode_change<'a>(&self, env: Env<'a>, before: &Snapshot) -> Term<'a> {
        match self.direct_change(before) {
            Some(Change {
                term: Some(term), ..
            }) => term.copy(env),
            Some(change) => change.encode(env, &self.records),
            None => self.skipped_change(before).encode(env, &self.records),
        }
    }

    fn skipped_change(&self, before: &Snapshot) -> Arc<Change> {
        let known = self.skipped.lock().clone();
        match known {
            Some(change) if change.from == before.generation => change,
            _ => {
                let change = Change::between(before, &self.records, Record::is);
                let change = Arc::new(change);
                *self.skipped.lock() = Some(Arc::clone(&change));
                change
            }
        }
    }
}

impl Change {
    /// From a snapshot's records to these; `same` tells which of those with a record's key are kept.
    fn between(
        before: &Snapshot,
        records: &[Record],
        same: impl Fn(&Record, &Record) -> bool,
    ) -> Self {
        let mut change = Change {
            from: before.generation,
            items: Vec::new(),
            cost: 0,
            term: None,
        };
        let mut lookup = Lookup::new(before);
        for (place, record) in records.iter().enumerate() {
            let kept = lookup
                .find(record.key())
                .filter(|old| same(&before.records[*old], record));
            change.push(place, record, kept);
        }
        change
    }

    /// Makes the term of a change to these records, which many pages are going to take. It stays until
    /// the next change, so not where it is large.
    pub fn share(&mut self, records: &[Record]) {
        if self.cost <= SHARED_LIMIT {
            self.term = Some(SharedTerm::new(|env| self.encode(env, records)));
        }
    }

    fn encode<'a>(&self, env: Env<'a>, records: &[Record]) -> Term<'a> {
        encode_list(env, &self.items, |item| match *item {
            Item::Keep { first, count } => (atoms::keep(), first, count).encode(env),
            Item::New(place) => records[place].encode(env),
        })
    }

    /// The record at this place is the earlier snapshot's at `kept`, or a new one.
    fn push(&mut self, place: usize, record: &Record, kept: Option<usize>) {
        match (kept, self.items.last_mut()) {
            (Some(old), Some(Item::Keep { first, count })) if *first + *count == old => {
                *count += 1;
                return;
            }
            (Some(first), _) => self.items.push(Item::Keep { first, count: 1 }),
            (None, _) => {
                self.items.push(Item::New(place));
                self.cost += record.cost();
            }
        }
        self.cost += ROW_COST;
    }
}

/// Finds records by key: most often each is where the one before it lets expect it.
struct Lookup<'s> {
    records: &'s [Record],
    next: usize,
    places: Option<HashMap<&'s [u8], usize>>,
}

impl<'s> Lookup<'s> {
    fn new(snapshot: &'s Snapshot) -> Self {
        Lookup {
            records: &snapshot.records,
            next: 0,
            places: None,
        }
    }

    fn find(&mut self, key: &[u8]) -> Option<usize> {
        let expected = self
            .records
            .get(self.next)
            .is_some_and(|record| record.key() == key);
        let found = if expected {
            self.next
        } else {
            let records = self.records;
            let places = self.places.get_or_insert_with(|| {
                records
                    .iter()
                    .enumerate()
                    .map(|(place, record)| (record.key(), place))
                    .collect()
            });
            *places.get(key)?
        };
        self.next = found + 1;
        Some(found)
    }
}

/// A list, made without a copy of its terms.
pub fn encode_list<'a, T>(env: Env<'a>, items: &[T], encode: impl Fn(&T) -> Term<'a>) -> Term<'a> {
    items
        .iter()
        .rev()
        .fold(Term::list_new_empty(env), |tail, item| {
            tail.list_prepend(encode(item))
        })
}
