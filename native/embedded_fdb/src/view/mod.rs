//! Reads of one transaction: its snapshot of the database with its own writes laid over it.
//!
//! The parts of the snapshot that were read before are *known*; the rest is requested as reads need it.
//! The key space is walked in segments: the space between two keys, a key that may have a value, and an
//! unknown part. The requests that a read makes decide how many rows it returns, and which errors it
//! hits; so they are the requests that a cluster's client makes.

mod requests;
mod walk;

pub(crate) use walk::{KeyWalk, Walk};

use crate::error::Error;
use crate::faults::Outage;
use crate::keys::{is_key_after, key_after, Key, Value, ALL_END, METADATA_VERSION, SPECIAL_END};
use crate::range_set::RangeSet;
use crate::space::Space;
use crate::write_map::WriteMap;

/// Why a read has no result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    Failed(Error),
    /// It needs the database, and the transaction has no read version yet.
    NeedsDatabase,
    /// The servers that it needs do not answer.
    Silent,
}

impl Stop {
    /// The error for the client.
    pub(crate) fn error(self) -> Error {
        match self {
            Stop::Failed(error) => error,
            Stop::NeedsDatabase | Stop::Silent => Error::INTERNAL_ERROR,
        }
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Failed(error)
    }
}

/// The result of a read, or why there is none.
pub(crate) type Answer<T> = std::result::Result<T, Stop>;

/// A transaction's view of the data.
pub(crate) struct View<'a> {
    /// The database at the read version, once known.
    pub(crate) space: Option<&'a Space>,
    /// Why only known data can be read: the read version has left the window, or the tenant does not
    /// exist.
    pub(crate) failure: Option<Error>,
    pub(crate) writes: &'a WriteMap,
    /// The keys that were read before.
    pub(crate) known: &'a mut RangeSet,
    /// The end of the keys that the transaction may read.
    pub(crate) max_key: &'a [u8],
    /// The injected outage.
    pub(crate) outage: Option<&'a Outage>,
    /// Read unreadable keys as if their versionstamps had not been filled in.
    pub(crate) bypass_unreadable: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Unknown,
    Empty,
    /// A key. A key that an atomic operation cleared also counts here, without a value.
    Row(Option<Value>),
    /// A key that was not written. The following ones probably weren't, either.
    Stored(Value),
}

/// The value of a key.
pub(crate) struct Got {
    pub(crate) value: Option<Value>,
    /// The database is asked, unless the key is known.
    pub(crate) asked: bool,
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

    /// The end that a walk starts from.
    fn near(&self, reverse: bool) -> &Key {
        if reverse {
            &self.end
        } else {
            &self.begin
        }
    }

    fn is_key(&self) -> bool {
        matches!(self.kind, Kind::Row(_) | Kind::Stored(_))
    }
}

impl View<'_> {
    /// The database, if it can be read.
    fn database(&self) -> Answer<&Space> {
        self.failure.map_or(Ok(()), Err)?;
        self.space.ok_or(Stop::NeedsDatabase)
    }

    /// The value of a key, whose successor is `next`, and whether the database is asked for it.
    pub(crate) fn get(&self, key: &Key) -> Answer<Got> {
        let (_, written) = self.writes.at(key);
        if written.unreadable && !self.bypass_unreadable {
            return Err(Error::ACCESSED_UNREADABLE.into());
        }
        if !written.reads_database() {
            let value = written.value(None);
            let asked = false;
            return Ok(Got { value, asked });
        }
        // The metadata version comes with the read version, for every tenant and at any time.
        let mut asked = false;
        if key[..] != *METADATA_VERSION {
            match self.database() {
                Ok(_) => asked = true,
                Err(stop) if !self.known.covers(key, &key_after(key)) => return Err(stop),
                Err(_) => {}
            }
        }
        let space = self.space.ok_or(Stop::NeedsDatabase)?;
        let stored = space.get_or_metadata_version(key);
        let value = if written.is_unmodified() {
            stored.cloned()
        } else {
            written.value(stored)
        };
        Ok(Got { value, asked })
    }

    /// Whether an outage affects the servers of any of these keys.
    pub(crate) fn is_silent(&self, begin: &[u8], end: &[u8]) -> bool {
        let (Some(outage), Some(space)) = (self.outage, self.space) else {
            return false;
        };
        outage.silences_read(&space.outer(begin), &space.outer(end))
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

    fn next_segment(&self, segment: &Segment, reverse: bool) -> Segment {
        if reverse {
            self.segment_before(&segment.begin)
        } else {
            self.segment_after(segment)
        }
    }

    /// Whether a walk ends at a segment.
    fn is_last_segment(&self, segment: &Segment, reverse: bool) -> bool {
        if reverse {
            segment.begin.is_empty()
        } else {
            segment.end[..] >= *self.max_key
        }
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

    /// The database's contents between two keys, all of which are known.
    fn known_rows(
        &self,
        begin: &[u8],
        end: &[u8],
    ) -> impl DoubleEndedIterator<Item = (Key, &Value)> {
        let rows = self.space.map(|space| space.range(begin, end));
        rows.into_iter().flatten()
    }
}
