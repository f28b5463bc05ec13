//! Reads of one transaction: its snapshot of the database with its own writes laid over it.
//!
//! As much of the snapshot as was read before is *known*; the rest is asked for as far as a read
//! needs it. The key space is walked in segments: what is between two keys, a key that may have a
//! value, and what is not known yet. Which requests a read makes decides how many rows it answers
//! with, and which errors it runs into; so they are those that a cluster's client makes.

mod range;
mod requests;

use crate::error::Error;
use crate::keys::{
    is_key_after, key_after, Key, KeySelector, Limits, Rows, Value, ALL_END, METADATA_VERSION,
    SPECIAL_END,
};
use crate::range_set::RangeSet;
use crate::space::Space;
use crate::write_map::WriteMap;

/// Why a read did not come to an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    Failed(Error),
    /// It needs the database, and the transaction has no read version yet.
    NeedsDatabase,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Failed(error)
    }
}

/// The answer of a read, or why there is none.
pub(crate) type Answer<T> = std::result::Result<T, Stop>;

/// What a transaction sees.
pub(crate) struct View<'a> {
    /// The database at the read version, once that is known.
    pub(crate) space: Option<&'a Space>,
    /// Why only what is known can be read: the read version has left the window, or there is no such
    /// tenant.
    pub(crate) failure: Option<Error>,
    pub(crate) writes: &'a WriteMap,
    /// The keys that were read before.
    pub(crate) known: &'a mut RangeSet,
    /// The end of the keys that the transaction may read.
    pub(crate) max_key: &'a [u8],
    /// Read unreadable keys as if their versionstamps had not been filled in.
    pub(crate) bypass_unreadable: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Unknown,
    Empty,
    /// A key. One that an atomic operation cleared is still a key here, without a value.
    Row(Option<Value>),
    /// A key that was not written, so that the following ones are likely to be such, too.
    Stored(Value),
}

/// A part of the key space.
#[derive(Clone, Debug)]
struct Segment {
    begin: Key,
    end: Key,
    unreadable: bool,
    kind: Kind,
}

impl Segment {
    fn is_known(&self) -> bool {
        !self.unreadable && self.kind != Kind::Unknown
    }

    fn is_key(&self) -> bool {
        matches!(self.kind, Kind::Row(_) | Kind::Stored(_))
    }
}

impl View<'_> {
    /// The database, where a read of it is possible.
    fn database(&self) -> Answer<&Space> {
        self.failure.map_or(Ok(()), Err)?;
        self.space.ok_or(Stop::NeedsDatabase)
    }

    /// The value of a key, whose successor is `next`.
    pub(crate) fn get(&mut self, key: &Key, next: &Key) -> Answer<Option<Value>> {
        let (_, written, _) = self.writes.segment(key);
        if written.unreadable && !self.bypass_unreadable {
            return Err(Error::ACCESSED_UNREADABLE.into());
        }
        if !written.reads_database() {
            return Ok(written.value(None));
        }
        // The metadata version comes with the read version, to whatever tenant and however late.
        if key[..] != *METADATA_VERSION {
            match self.database() {
                Ok(_) => self.known.insert(key.clone(), next.clone()),
                Err(stop) if !self.known.covers(key, next) => return Err(stop),
                Err(_) => {}
            }
        }
        let space = self.space.ok_or(Stop::NeedsDatabase)?;
        let stored = space.get_or_metadata_version(key);
        Ok(if written.is_unmodified() {
            stored.cloned()
        } else {
            written.value(stored)
        })
    }

    /// The key that a selector names: `""` before the first, `max_key` after the last.
    pub(crate) fn get_key(&mut self, selector: &KeySelector) -> Answer<Key> {
        let begin = |key: &[u8]| KeySelector::first_greater_or_equal(key);
        let first_key = |rows: &Rows| rows.rows.first().map(|(key, _)| key.clone());
        let to_begin: Key = [][..].into();
        if selector.offset > 0 {
            let rows = self.forward(selector, &begin(self.max_key), Limits::rows(1))?;
            if rows.read_to_begin {
                return Ok(to_begin);
            }
            let key = first_key(&rows).filter(|_| !rows.read_through_end);
            Ok(key.unwrap_or_else(|| self.max_key.into()))
        } else {
            let mut end = selector.clone();
            end.offset += 1;
            let rows = self.backward(&begin(&[]), &end, Limits::rows(1))?;
            if rows.read_through_end {
                return Ok(self.max_key.into());
            }
            Ok(first_key(&rows)
                .filter(|_| !rows.read_to_begin)
                .unwrap_or(to_begin))
        }
    }

    /// The segment that contains `key`.
    fn segment(&self, key: &[u8]) -> Segment {
        if key >= ALL_END {
            return Segment {
                begin: ALL_END.into(),
                end: SPECIAL_END.into(),
                unreadable: false,
                kind: Kind::Empty,
            };
        }
        let (written_begin, written, written_end) = self.writes.segment(key);
        let unreadable = written.unreadable;
        let (is_known, known_begin, known_end) = self.known.around(key);
        let space = self.space.filter(|_| is_known);
        if written.is_operation() {
            let kind = if written.reads_database() {
                space.map_or(Kind::Unknown, |space| {
                    Kind::Row(written.value(space.get(written_begin)))
                })
            } else {
                Kind::Row(written.value(None))
            };
            return Segment {
                begin: written_begin.clone(),
                end: written_end.into(),
                unreadable,
                kind,
            };
        }
        let (begin, end) = (known_begin.max(written_begin), known_end.min(written_end));
        let between = |begin: Key, end: Key, kind: Kind| Segment {
            begin,
            end,
            unreadable,
            kind,
        };
        let space = match space {
            _ if written.cleared => return between(begin.into(), end.into(), Kind::Empty),
            None => return between(begin.into(), end.into(), Kind::Unknown),
            Some(space) => space,
        };
        let after = space.range(key, end).next();
        if let Some((found, value)) = &after {
            if found[..] == *key {
                let end = key_after(found);
                return between(found.clone(), end, Kind::Stored((*value).clone()));
            }
        }
        let before = space.range(begin, key).next_back();
        between(
            before.map_or_else(|| begin.into(), |(found, _)| key_after(&found)),
            after.map_or_else(|| end.into(), |(found, _)| found),
            Kind::Empty,
        )
    }

    fn segment_after(&self, segment: &Segment) -> Segment {
        self.segment(&segment.end)
    }

    /// The segment before the one that begins at `key`; there is none before the first one.
    fn segment_before(&self, key: &[u8]) -> Segment {
        let Some((begin, written)) = self.writes.segment_before(key) else {
            return self.segment(&[]);
        };
        if written.is_operation() {
            return self.segment(begin);
        }
        let (is_known, known_begin) = self.known.before(key);
        let begin = known_begin.max(begin);
        let between = |begin: Key, kind: Kind| Segment {
            begin,
            end: key.into(),
            unreadable: written.unreadable,
            kind,
        };
        let space = match self.space.filter(|_| is_known) {
            _ if written.cleared => return between(begin.into(), Kind::Empty),
            None => return between(begin.into(), Kind::Unknown),
            Some(space) => space,
        };
        match space.range(begin, key).next_back() {
            Some((last, value)) if is_key_after(key, &last) => {
                between(last, Kind::Stored(value.clone()))
            }
            Some((last, _)) => between(key_after(&last), Kind::Empty),
            None => between(begin.into(), Kind::Empty),
        }
    }

    /// What the database holds between two keys, all of which is known.
    fn known_rows(
        &self,
        begin: &[u8],
        end: &[u8],
    ) -> impl DoubleEndedIterator<Item = (Key, &Value)> {
        let rows = self.space.map(|space| space.range(begin, end));
        rows.into_iter().flatten()
    }
}
