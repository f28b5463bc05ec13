//! Reads of one transaction: its snapshot of the database with its own writes laid over it.
//!
//! The key space is walked in segments, as in [`crate::write_map`], but finer: every key that may
//! have a value is a segment, and what is between two keys is another.

use crate::error::{Error, Result};
use crate::keys::{is_key_after, key_after, Key, KeySelector, Limits, Rows, Value, ALL_END};
use crate::space::Space;
use crate::write_map::WriteMap;

/// What a transaction sees.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) space: &'a Space,
    pub(crate) writes: &'a WriteMap,
    /// The end of the keys that the transaction may read.
    pub(crate) max_key: &'a [u8],
    /// Read unreadable keys as if their versionstamps had not been filled in.
    pub(crate) bypass_unreadable: bool,
}

/// A key or a gap between keys.
#[derive(Clone, Debug)]
struct Segment {
    begin: Key,
    end: Key,
    unreadable: bool,
    /// The outer option tells a key from a gap. A key that an atomic operation cleared is still a
    /// key here, without a value.
    key: Option<Option<Value>>,
    /// The key comes from the database, so that the following ones are likely to as well.
    from_database: bool,
}

impl Segment {
    fn is_key(&self) -> bool {
        self.key.is_some()
    }
}

/// Where a selector stands after moving as far as can be known.
struct Position {
    key: Key,
    offset: i32,
    /// The offset before the position was clamped to an end of the key space.
    reached: i32,
    at: Segment,
}

impl Position {
    fn is_resolved(&self) -> bool {
        self.offset == 1
    }
}

/// Which ends of the key space the selectors of a read ran into.
#[derive(Clone, Copy, Default)]
struct Edges {
    begin: bool,
    end: bool,
}

impl Edges {
    /// A range without rows that reaches so far.
    fn without_rows(self) -> Rows {
        Rows {
            read_to_begin: self.begin,
            read_through_end: self.end,
            ..Rows::default()
        }
    }
}

/// The ends of a range read.
struct Ends {
    begin: Position,
    end: Position,
    edges: Edges,
}

impl<'a> View<'a> {
    /// The value of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Value>> {
        let (_, segment, _) = self.writes.segment(key);
        if segment.unreadable && !self.bypass_unreadable {
            return Err(Error::ACCESSED_UNREADABLE);
        }
        if segment.is_unmodified() {
            return Ok(self.space.get(key).cloned());
        }
        let database = if segment.cleared {
            None
        } else {
            self.space.get(key)
        };
        Ok(segment.value(database))
    }

    /// The key that a selector names: `""` before the first, `max_key` after the last.
    pub(crate) fn get_key(&self, selector: &KeySelector) -> Result<Key> {
        let begin = |key: &[u8]| KeySelector::first_greater_or_equal(key);
        let first_key = |rows: &Rows| rows.rows.first().map(|(key, _)| key.clone());
        let to_begin: Key = [][..].into();
        if selector.offset > 0 {
            let rows = self.forward(selector.clone(), begin(self.max_key), Limits::rows(1))?;
            if rows.read_to_begin {
                return Ok(to_begin);
            }
            let key = first_key(&rows).filter(|_| !rows.read_through_end);
            Ok(key.unwrap_or_else(|| self.max_key.into()))
        } else {
            let mut end = selector.clone();
            end.offset += 1;
            let rows = self.backward(begin(&[]), end, Limits::rows(1))?;
            if rows.read_through_end {
                return Ok(self.max_key.into());
            }
            Ok(first_key(&rows)
                .filter(|_| !rows.read_to_begin)
                .unwrap_or(to_begin))
        }
    }

    /// The rows between two selectors.
    pub(crate) fn range(
        &self,
        begin: KeySelector,
        end: KeySelector,
        limits: Limits,
        reverse: bool,
    ) -> Result<Rows> {
        if reverse {
            self.backward(begin, end, limits)
        } else {
            self.forward(begin, end, limits)
        }
    }

    /// The segment that contains `key`.
    fn segment(&self, key: &[u8]) -> Segment {
        let (begin, written, end) = self.writes.segment(key);
        let unreadable = written.unreadable;
        if written.is_operation() {
            let database = if written.cleared {
                None
            } else {
                self.space.get(&begin[..])
            };
            return Segment {
                begin: begin.clone(),
                end: key_after(begin),
                unreadable,
                key: Some(written.value(database)),
                from_database: false,
            };
        }
        let gap = |begin: Key, end: Key| Segment {
            begin,
            end,
            unreadable,
            key: None,
            from_database: false,
        };
        if written.cleared {
            return gap(begin.clone(), end.into());
        }
        let before = self.space.range(begin, key).next_back();
        let mut from = self.space.range(key, end);
        let after = from.next();
        if let Some((found, value)) = &after {
            if found[..] == *key {
                return Segment {
                    begin: found.clone(),
                    end: key_after(found),
                    unreadable,
                    key: Some(Some((*value).clone())),
                    from_database: true,
                };
            }
        }
        gap(
            before.map_or_else(|| begin.clone(), |(found, _)| key_after(&found)),
            after.map_or_else(|| end.into(), |(found, _)| found),
        )
    }

    /// The segment before the one that begins at `key`, which is not the first.
    fn segment_before(&self, key: &[u8]) -> Segment {
        let Some((begin, written)) = self.writes.segment_before(key) else {
            return self.segment(&[]);
        };
        if written.is_operation() {
            return self.segment(begin);
        }
        let last = if written.cleared {
            None
        } else {
            self.space.range(begin, key).next_back().map(|(key, _)| key)
        };
        match last {
            Some(last) if is_key_after(key, &last) => self.segment(&last),
            Some(last) => self.gap_between(key_after(&last), key, written.unreadable),
            None => self.gap_between(begin.clone(), key, written.unreadable),
        }
    }

    fn gap_between(&self, begin: Key, end: &[u8], unreadable: bool) -> Segment {
        Segment {
            begin,
            end: end.into(),
            unreadable,
            key: None,
            from_database: false,
        }
    }

    /// Fails where the segment must not be looked at.
    fn check_readable(&self, segment: &Segment) -> Result<()> {
        if segment.unreadable && !self.bypass_unreadable {
            Err(Error::ACCESSED_UNREADABLE)
        } else {
            Ok(())
        }
    }

    /// Moves a selector to the key it names.
    ///
    /// Stops early, with an offset other than 1, only in front of an unreadable segment. A selector
    /// that runs off an end is clamped to it.
    fn resolve(&self, selector: &KeySelector, edges: &mut Edges) -> Position {
        let selector = selector.clone().without_or_equal();
        let KeySelector {
            mut key,
            mut offset,
            ..
        } = selector;
        let mut at = self.segment(&key);
        if offset <= 0 && at.begin == key && !key.is_empty() {
            at = self.segment_before(&key);
        }
        while offset > 1 && !at.unreadable && at.end[..] < *self.max_key {
            if at.is_key() {
                offset -= 1;
            }
            at = self.segment(&at.end);
            key = at.begin.clone();
        }
        while offset < 1 && !at.unreadable && !at.begin.is_empty() {
            if at.is_key() {
                offset += 1;
                if offset == 1 {
                    key = at.begin.clone();
                    break;
                }
            }
            at = self.segment_before(&at.begin);
            key = at.end.clone();
        }
        if !at.unreadable && offset < 1 {
            edges.begin = true;
            return Position {
                key: [][..].into(),
                offset: 1,
                reached: offset,
                at,
            };
        }
        if !at.unreadable && offset > 1 {
            edges.end = true;
            return Position {
                key: self.max_key.into(),
                offset: 1,
                reached: offset,
                at,
            };
        }
        while !at.unreadable && !at.is_key() && at.end[..] < *self.max_key {
            at = self.segment(&at.end);
            key = at.begin.clone();
        }
        Position {
            key,
            offset,
            reached: offset,
            at,
        }
    }

    /// Resolves the selectors of a range; the answer instead where there is nothing between them.
    fn ends(&self, begin: &KeySelector, end: &KeySelector) -> std::result::Result<Ends, Rows> {
        let mut edges = Edges::default();
        let begin = self.resolve(begin, &mut edges);
        let end = self.resolve(end, &mut edges);
        if begin.reached >= end.reached && begin.key >= end.key {
            return Err(Rows::default());
        }
        if (begin.is_resolved() && begin.key[..] == *self.max_key)
            || (end.is_resolved() && end.key.is_empty())
        {
            return Err(edges.without_rows());
        }
        Ok(Ends { begin, end, edges })
    }

    /// Rows from the lowest key up.
    fn forward(&self, begin: KeySelector, end: KeySelector, mut limits: Limits) -> Result<Rows> {
        let ends = match self.ends(&begin, &end) {
            Ok(ends) => ends,
            Err(rows) => return Ok(rows),
        };
        let (begin, mut end, mut edges) = (ends.begin, ends.end, ends.edges);
        let mut rows = Rows::default();
        if !end.is_resolved() && begin.key > end.key {
            self.settle(&mut end, &mut edges)?;
            if begin.key >= end.key && begin.offset > 0 {
                return Ok(Rows::default());
            } else if end.key.is_empty() {
                return Ok(edges.without_rows());
            }
        }
        let mut at = begin.at.clone();
        let mut beyond_limit = 0i64;
        loop {
            if begin.offset >= end.offset && begin.key >= end.key {
                break;
            }
            if !at.unreadable && at.begin > end.at.begin {
                if end.is_resolved() {
                    break;
                }
                return Ok(edges.without_rows());
            }
            if limits.reached() && beyond_limit >= 1 - i64::from(end.offset) {
                break;
            }
            if at.begin == end.at.begin && !at.unreadable {
                break;
            }
            if at.begin == end.at.begin
                && begin.offset > 0
                && end.is_resolved()
                && end.key == at.begin
            {
                break;
            }
            self.check_readable(&at)?;
            if at.from_database && !limits.reached() {
                // The following keys of the database, up to the next write, need no segments.
                let (_, _, written_end) = self.writes.segment(&at.begin);
                let stop = if end.is_resolved() {
                    &end.key
                } else {
                    self.max_key
                };
                let stop = stop.min(written_end).max(&at.end);
                let run = self.space.range(&at.begin, stop);
                let mut last = at.begin.clone();
                for (key, value) in run {
                    if limits.reached() {
                        break;
                    }
                    limits.count(&key, value);
                    rows.rows.push((key.clone(), value.clone()));
                    last = key;
                }
                at = self.segment(&key_after(&last));
            } else {
                if let Some(Some(value)) = &at.key {
                    if limits.reached() {
                        beyond_limit += 1;
                    } else {
                        limits.count(&at.begin, value);
                        rows.rows.push((at.begin.clone(), value.clone()));
                    }
                }
                at = self.segment(&at.end);
            }
        }
        rows.more = limits.reached();
        if end.is_resolved() {
            let keep = rows.rows.partition_point(|(key, _)| *key < end.key);
            rows.more &= keep == rows.rows.len();
            rows.rows.truncate(keep);
        }
        rows.read_to_begin = edges.begin;
        rows.read_through_end = !rows.more && edges.end;
        Ok(rows)
    }

    /// Rows from the highest key down.
    fn backward(&self, begin: KeySelector, end: KeySelector, mut limits: Limits) -> Result<Rows> {
        let ends = match self.ends(&begin, &end) {
            Ok(ends) => ends,
            Err(rows) => return Ok(rows),
        };
        let (mut begin, end, mut edges) = (ends.begin, ends.end, ends.edges);
        let mut rows = Rows::default();
        if !begin.is_resolved() && begin.key > end.key {
            self.settle(&mut begin, &mut edges)?;
            if begin.key >= end.key && end.offset <= 1 {
                return Ok(Rows::default());
            } else if begin.key[..] == *self.max_key {
                return Ok(edges.without_rows());
            }
        }
        let mut at = end.at.clone();
        let mut beyond_limit = 0i64;
        loop {
            if begin.offset >= end.offset && begin.key >= end.key {
                break;
            }
            let counted = beyond_limit >= i64::from(begin.offset) - 1;
            if counted && !at.unreadable && at.begin < begin.at.begin {
                if begin.is_resolved() {
                    break;
                }
                return Ok(edges.without_rows());
            }
            if limits.reached() && counted {
                break;
            }
            if end.is_resolved() && end.key == at.begin {
                if counted && at.begin == begin.at.begin {
                    break;
                }
                if at.begin.is_empty() {
                    break;
                }
                at = self.segment_before(&at.begin);
            }
            self.check_readable(&at)?;
            if at.from_database && !limits.reached() {
                let (written_begin, _, _) = self.writes.segment(&at.begin);
                let stop: &[u8] = if begin.is_resolved() { &begin.key } else { &[] };
                let stop = stop.max(written_begin).min(&at.begin);
                let run = self.space.range(stop, &at.end);
                let mut last = at.begin.clone();
                for (key, value) in run.rev() {
                    if limits.reached() {
                        break;
                    }
                    limits.count(&key, value);
                    rows.rows.push((key.clone(), value.clone()));
                    last = key;
                }
                at = self.segment(&last);
            } else if let Some(Some(value)) = &at.key {
                if limits.reached() {
                    beyond_limit += 1;
                } else {
                    limits.count(&at.begin, value);
                    rows.rows.push((at.begin.clone(), value.clone()));
                }
            }
            if at.begin == begin.at.begin || at.begin.is_empty() {
                break;
            }
            at = self.segment_before(&at.begin);
        }
        rows.more = limits.reached();
        if begin.is_resolved() {
            let keep = rows.rows.partition_point(|(key, _)| *key >= begin.key);
            rows.more &= keep == rows.rows.len();
            rows.rows.truncate(keep);
        }
        rows.read_to_begin = !rows.more && edges.begin;
        rows.read_through_end = edges.end;
        Ok(rows)
    }

    /// Resolves a position that stopped at an unreadable segment, if that may be read.
    fn settle(&self, position: &mut Position, edges: &mut Edges) -> Result<()> {
        let selector = KeySelector {
            key: position.key.clone(),
            or_equal: false,
            offset: position.offset,
        };
        let key = self.get_key(&selector)?;
        edges.begin |= key.is_empty();
        edges.end |= key[..] == *self.max_key;
        *position = self.resolve(&KeySelector::first_greater_or_equal(key), edges);
        Ok(())
    }
}

/// Where a selector lands in the database alone, system keys included.
pub(crate) struct Landing {
    pub(crate) key: Key,
    /// The selector ran off the first or the last key.
    pub(crate) off_edge: bool,
}

/// Resolves a selector without regard to a transaction's writes. `""` is before the first key, and
/// `\xff\xff` after the last.
pub(crate) fn resolve_in_database(space: &Space, selector: &KeySelector) -> Landing {
    let selector = selector.clone().without_or_equal();
    let first = |keys: Option<(Key, &Value)>| keys.map(|(key, _)| key);
    if selector.offset > 0 {
        let mut skip = selector.offset.unsigned_abs() as usize - 1;
        let mut keys = space.range(&selector.key, ALL_END);
        while skip > 0 && keys.next().is_some() {
            skip -= 1;
        }
        match first(keys.next()) {
            Some(key) => Landing {
                key,
                off_edge: false,
            },
            // The end itself is still an answer that storage gives.
            None => Landing {
                key: ALL_END.into(),
                off_edge: skip > 0,
            },
        }
    } else {
        let skip = selector.offset.unsigned_abs() as usize;
        match first(space.range(&[], &selector.key).nth_back(skip)) {
            Some(key) => Landing {
                key,
                off_edge: false,
            },
            None => Landing {
                key: [][..].into(),
                off_edge: true,
            },
        }
    }
}

/// A range read of the database alone, as a transaction without read-your-writes makes it.
pub(crate) fn range_in_database(
    space: &Space,
    begin: &KeySelector,
    end: &KeySelector,
    mut limits: Limits,
    reverse: bool,
) -> Rows {
    let mut begin = begin.clone().without_or_equal();
    let end = end.clone().without_or_equal();
    let mut rows = Rows::default();
    if begin.key.is_empty() && begin.offset < 1 {
        rows.read_to_begin = true;
        begin = KeySelector::first_greater_or_equal(&[][..]);
    }
    if end.key.is_empty() && end.offset <= 1 {
        return rows;
    }
    let land = |selector: &KeySelector| {
        if selector.is_first_greater_or_equal() {
            Landing {
                key: selector.key.clone(),
                off_edge: false,
            }
        } else {
            resolve_in_database(space, selector)
        }
    };
    let (from, to) = (land(&begin), land(&end));
    let off_edge = from.off_edge || to.off_edge;
    if from.key >= to.key {
        return if off_edge { Rows::default() } else { rows };
    }
    let mut run = space.range(&from.key, &to.key);
    while !limits.reached() {
        let next = if reverse { run.next_back() } else { run.next() };
        let Some((key, value)) = next else { break };
        limits.count(&key, value);
        rows.rows.push((key, value.clone()));
    }
    rows.more = limits.reached();
    if off_edge {
        rows.read_to_begin = from.key.is_empty() && !(reverse && rows.more);
        rows.read_through_end = to.key[..] == *ALL_END && (reverse || !rows.more);
    }
    rows
}
