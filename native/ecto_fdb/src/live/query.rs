//! What a live query reads and watches, and what it read.

use rustler::{Encoder, Env, Resource, ResourceArc, Term};
use smallvec::SmallVec;

use crate::tuple::binary;

/// Binaries longer than this live outside the process heap: those are shared between pages.
const HEAP_BINARY_LIMIT: usize = 64;
/// How the tuple layer begins a nested tuple.
const NESTED_TUPLE: u8 = 0x05;

/// Reads `[begin, end)` and watches one key. Equal queries share one entry.
#[derive(PartialEq, Eq, Hash)]
pub struct Query {
    /// First key of the range.
    pub begin: Box<[u8]>,
    /// End of the range, exclusive.
    pub end: Box<[u8]>,
    /// The key whose change says that the range may have changed.
    pub watch: Box<[u8]>,
}

impl Query {
    /// Whether the watched key is among the rows read.
    pub fn reads_watched_key(&self) -> bool {
        self.begin <= self.watch && self.watch < self.end
    }
}

/// A key-value pair, shared by every page that shows it.
pub struct Row {
    /// The key.
    pub key: Box<[u8]>,
    /// The value.
    pub value: Box<[u8]>,
}

#[rustler::resource_impl]
impl Resource for Row {}

/// A row by reference.
pub type SharedRow = ResourceArc<Row>;

fn same(a: &SharedRow, b: &SharedRow) -> bool {
    a.as_c_arg() == b.as_c_arg()
}

fn encode_row<'a>(env: Env<'a>, row: &SharedRow) -> Term<'a> {
    let value = if row.value.len() > HEAP_BINARY_LIMIT {
        row.make_binary(env, |row| &row.value).to_term(env)
    } else {
        binary(env, &row.value)
    };
    (binary(env, &row.key), value).encode(env)
}

/// What one read of a query found.
pub struct Snapshot {
    /// Which data these are: equal data of an entry keep their generation, others never share one.
    pub generation: u64,
    /// The rows in key order. A row that did not change is the same allocation as before.
    pub rows: Vec<SharedRow>,
}

impl Snapshot {
    /// Takes rows over from `before` where they are equal. Returns the rows, and whether they are
    /// all of `before`'s.
    pub fn reuse(before: &Snapshot, read: Vec<SharedRow>) -> (Vec<SharedRow>, bool) {
        let mut old = before.rows.iter().peekable();
        let mut equal = before.rows.len() == read.len();
        let rows = read
            .into_iter()
            .map(|row| {
                while old.next_if(|old| old.key < row.key).is_some() {}
                match old.next_if(|old| old.key == row.key) {
                    Some(old) if old.value == row.value => old.clone(),
                    _ => {
                        equal = false;
                        row
                    }
                }
            })
            .collect();
        (rows, equal)
    }

    /// The rows record by record: a row whose key continues a record's key with a nested tuple is a
    /// part of that record's split value.
    fn records(&self) -> impl Iterator<Item = &[SharedRow]> {
        let mut rest = &self.rows[..];
        std::iter::from_fn(move || {
            let (first, others) = rest.split_first()?;
            let parts = others
                .iter()
                .take_while(|row| {
                    row.key
                        .strip_prefix(&first.key[..])
                        .is_some_and(|rest| rest.first() == Some(&NESTED_TUPLE))
                })
                .count();
            let (record, left) = rest.split_at(parts + 1);
            rest = left;
            Some(record)
        })
    }

    /// All records, as `[[{key, value}]]`.
    pub fn encode_all<'a>(&self, env: Env<'a>) -> Term<'a> {
        let records: Vec<Term<'a>> = self
            .records()
            .map(|rows| encode_record(env, rows))
            .collect();
        records.encode(env)
    }

    /// The records as a change of `before`'s: `[[{key, value}] | {:keep, first, count}]`.
    pub fn encode_changes<'a>(&self, env: Env<'a>, before: &Snapshot) -> Term<'a> {
        let mut old = before.records().enumerate().peekable();
        let mut items: Vec<Item<'_>> = Vec::new();
        for record in self.records() {
            while old.next_if(|(_, old)| old[0].key < record[0].key).is_some() {}
            let kept = old
                .next_if(|(_, old)| old[0].key == record[0].key)
                .filter(|(_, old)| {
                    old.len() == record.len() && old.iter().zip(record).all(|(a, b)| same(a, b))
                });
            match (kept, items.last_mut()) {
                (Some((place, _)), Some(Item::Keep { first, count }))
                    if *first + *count == place =>
                {
                    *count += 1;
                }
                (Some((place, _)), _) => items.push(Item::Keep {
                    first: place,
                    count: 1,
                }),
                (None, _) => items.push(Item::New(record)),
            }
        }
        let items: Vec<Term<'a>> = items.iter().map(|item| item.encode(env)).collect();
        items.encode(env)
    }
}

fn encode_record<'a>(env: Env<'a>, rows: &[SharedRow]) -> Term<'a> {
    let rows: SmallVec<[Term<'a>; 1]> = rows.iter().map(|row| encode_row(env, row)).collect();
    rows[..].encode(env)
}

enum Item<'s> {
    Keep { first: usize, count: usize },
    New(&'s [SharedRow]),
}

impl Item<'_> {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        match self {
            Item::Keep { first, count } => (atoms::keep(), *first, *count).encode(env),
            Item::New(rows) => encode_record(env, rows),
        }
    }
}

mod atoms {
    rustler::atoms! { keep }
}
