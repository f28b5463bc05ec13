//! A transaction's writes so far, by key: its side of read-your-writes.
//!
//! The key space is divided into segments. A segment is untouched, cleared, or one key with a stack
//! of operations. It may also be in a write conflict range, or unreadable, because its contents depend on
//! a versionstamp that is not known yet.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};

use crate::keys::{key_after, Key, Value, ALL_END};
use crate::mutation::{Mutation, Op};
use crate::resolver::KeyRange;

/// An operation with its operand; a `Set` of `None` is a clear caused by an atomic operation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Write {
    pub(crate) op: Op,
    pub(crate) operand: Option<Value>,
}

/// A part of the key space whose keys were treated in the same way.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Segment {
    /// The keys were cleared (and then written, if there are operations).
    pub(crate) cleared: bool,
    /// The keys are in a write conflict range.
    pub(crate) conflict: bool,
    /// Reads must fail: a versionstamp may change these keys.
    pub(crate) unreadable: bool,
    /// The operations on the one key of the segment; empty for a range.
    pub(crate) writes: Vec<Write>,
}

impl Segment {
    /// Whether the segment is one key with operations.
    pub(crate) fn is_operation(&self) -> bool {
        !self.writes.is_empty()
    }

    /// Whether reads go to the database.
    pub(crate) fn is_unmodified(&self) -> bool {
        self.writes.is_empty() && !self.cleared
    }

    /// Whether the segment's contents also depend on the database's value.
    pub(crate) fn is_dependent(&self) -> bool {
        self.writes
            .first()
            .is_some_and(|first| first.op.is_dependent())
    }

    /// Whether reading the segment reads the database and so needs a read conflict range.
    pub(crate) fn reads_database(&self) -> bool {
        self.is_unmodified() || (self.is_operation() && !self.cleared && self.is_dependent())
    }

    /// The value after the operations, given the database's value.
    pub(crate) fn value(&self, database: Option<&Value>) -> Option<Value> {
        let start = if self.is_dependent() {
            database.cloned()
        } else {
            None
        };
        self.writes
            .iter()
            .fold(start, |old, write| match &write.operand {
                Some(operand) => write.op.apply(old.as_ref(), operand),
                None => None,
            })
    }

    /// Adds an operation on top, merged with the previous one if that gives the same result.
    fn push(&mut self, op: Op, operand: Value) {
        let Some(top) = self.writes.last_mut() else {
            self.writes.push(Write {
                op,
                operand: Some(operand),
            });
            return;
        };
        let same_length = top
            .operand
            .as_ref()
            .is_none_or(|t| t.len() == operand.len());
        let joins = if top.op == op {
            op != Op::CompareAndClear && (!op.is_non_associative() || same_length)
        } else {
            top.op == Op::Set
        };
        if joins {
            top.operand = op.apply(top.operand.as_ref(), &operand);
        } else {
            self.writes.push(Write {
                op,
                operand: Some(operand),
            });
        }
    }
}

/// The segments of a transaction, in the order of keys. Together they cover all keys.
#[derive(Clone, Debug)]
pub(crate) struct WriteMap {
    /// By first key; a segment ends where the next begins. `""` always exists.
    segments: BTreeMap<Key, Segment>,
    empty: bool,
}

impl Default for WriteMap {
    fn default() -> Self {
        WriteMap {
            segments: BTreeMap::from([([][..].into(), Segment::default())]),
            empty: true,
        }
    }
}

impl WriteMap {
    /// Whether nothing was written and no write conflict range was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.empty
    }

    /// The number of segments.
    pub(crate) fn len(&self) -> usize {
        self.segments.len()
    }

    /// The segment that contains `key`, with its first key and its end.
    pub(crate) fn segment(&self, key: &[u8]) -> (&Key, &Segment, &[u8]) {
        let (begin, segment) = self.at(key);
        (begin, segment, self.end_of(begin))
    }

    /// The segment that contains `key`, with its first key.
    pub(crate) fn at(&self, key: &[u8]) -> (&Key, &Segment) {
        let found = self
            .segments
            .range::<[u8], _>((Unbounded, Included(key)))
            .next_back();
        let Some(found) = found else {
            unreachable!("the segments cover every key")
        };
        found
    }

    /// The segment before the one that begins at `key`; `None` at the beginning.
    pub(crate) fn segment_before(&self, key: &[u8]) -> Option<(&Key, &Segment)> {
        self.segments
            .range::<[u8], _>((Unbounded, Excluded(key)))
            .next_back()
    }

    fn end_of(&self, begin: &[u8]) -> &[u8] {
        let next = self
            .segments
            .range::<[u8], _>((Excluded(begin), Unbounded))
            .next();
        next.map_or(ALL_END, |(key, _)| key)
    }

    /// The segments that intersect a range, with their first keys and ends.
    pub(crate) fn segments<'a>(
        &'a self,
        begin: &[u8],
        end: &'a [u8],
    ) -> impl Iterator<Item = (&'a Key, &'a Segment, &'a [u8])> {
        let first = self.at(begin).0;
        let mut rest = self
            .segments
            .range::<[u8], _>((Included(&first[..]), Unbounded))
            .peekable();
        std::iter::from_fn(move || {
            let (key, segment) = rest.next()?;
            let next = rest.peek().map_or(ALL_END, |(key, _)| &key[..]);
            (key[..] < *end).then_some((key, segment, next))
        })
    }

    /// Makes `key` the beginning of a segment.
    fn split(&mut self, key: &[u8]) {
        if key >= ALL_END {
            return;
        }
        let (begin, segment) = self.at(key);
        if begin[..] != *key {
            // Only ranges are divided: the segment of an operation contains only one key.
            let segment = segment.clone();
            self.segments.insert(key.into(), segment);
        }
    }

    /// Records an operation on one key.
    pub(crate) fn mutate(&mut self, key: &Key, op: Op, operand: Value, conflict: bool) {
        self.empty = false;
        self.split(key);
        self.split(&key_after(key));
        let segment = self.segments.entry(key.clone()).or_default();
        segment.conflict |= conflict;
        let replaces = matches!(op, Op::Set | Op::SetVersionstampedValue) && !segment.unreadable;
        segment.unreadable |= !op.is_dependent() && op != Op::Set;
        if replaces {
            segment.writes.clear();
        } else if segment.writes.is_empty() && segment.cleared && op.is_dependent() {
            segment.writes.push(Write {
                op: Op::Set,
                operand: None,
            });
        }
        if segment.unreadable {
            segment.writes.push(Write {
                op,
                operand: Some(operand),
            });
        } else {
            segment.push(op, operand);
        }
    }

    /// Replaces everything in the range with one kind of segment; only conflicts may differ inside.
    fn fill(&mut self, begin: &Key, end: &[u8], fill: impl Fn(&Segment) -> Segment) {
        self.split(begin);
        self.split(end);
        let keys: Vec<Key> = self
            .segments
            .range::<[u8], _>((Included(&begin[..]), Excluded(end)))
            .map(|(key, _)| key.clone())
            .collect();
        let mut last: Option<Segment> = None;
        for key in keys {
            let filled = fill(&self.segments[&key]);
            if !filled.is_operation() && last.as_ref() == Some(&filled) {
                self.segments.remove(&key);
            } else {
                last = Some(filled.clone());
                self.segments.insert(key, filled);
            }
        }
    }

    /// Clears a range.
    pub(crate) fn clear(&mut self, begin: &Key, end: &[u8], conflict: bool) {
        self.empty = false;
        self.fill(begin, end, |old| Segment {
            cleared: true,
            conflict: old.conflict || conflict,
            ..Segment::default()
        });
    }

    /// Makes a range unreadable and drops the writes in it.
    pub(crate) fn make_unreadable(&mut self, begin: &Key, end: &[u8]) {
        self.fill(begin, end, |_| Segment {
            unreadable: true,
            ..Segment::default()
        });
    }

    /// Adds a write conflict range.
    pub(crate) fn add_conflict(&mut self, begin: &Key, end: &[u8]) {
        self.empty = false;
        self.fill(begin, end, |old| Segment {
            conflict: true,
            ..old.clone()
        });
    }

    /// The effect of the segments in the range: mutations, clears first, and write conflict ranges.
    pub(crate) fn collect(&self, begin: &[u8], end: &[u8]) -> (Vec<Mutation>, Vec<KeyRange>) {
        let mut mutations = Vec::new();
        let mut conflicts: Vec<KeyRange> = Vec::new();
        let mut clears: Vec<KeyRange> = Vec::new();
        let join = |ranges: &mut Vec<KeyRange>, from: Key, to: Key| match ranges.last_mut() {
            Some(last) if last.1 == from => last.1 = to,
            _ => ranges.push((from, to)),
        };
        for (key, segment, next) in self.segments(begin, end) {
            let from: Key = if key[..] < *begin {
                begin.into()
            } else {
                key.clone()
            };
            let to: Key = next.min(end).into();
            if segment.cleared && !segment.is_operation() {
                join(&mut clears, from.clone(), to.clone());
            }
            if segment.conflict {
                join(&mut conflicts, from, to);
            }
            for write in &segment.writes {
                mutations.push(match &write.operand {
                    Some(operand) => Mutation::Single {
                        op: write.op,
                        key: key.clone(),
                        operand: operand.clone(),
                    },
                    None => Mutation::ClearRange {
                        begin: key.clone(),
                        end: key_after(key),
                    },
                });
            }
        }
        let clears = clears
            .into_iter()
            .map(|(begin, end)| Mutation::ClearRange { begin, end });
        (clears.chain(mutations).collect(), conflicts)
    }
}
