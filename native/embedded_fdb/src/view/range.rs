//! Range reads over known and unknown parts of the snapshot, and own writes between them.

use super::requests::{known_range, known_range_back, Fresh, Requests};
use super::{Answer, Kind, Segment, View};
use crate::error::Error;
use crate::keys::{key_after, Key, KeySelector, Limits, Rows, Value};
use crate::range_read::get_range;

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

/// Where the selectors of a range read stand, after moving as far as is known.
pub(super) struct Ends {
    pub(super) begin: KeySelector,
    pub(super) end: KeySelector,
    /// The segments they stand in.
    pub(super) begin_at: Segment,
    pub(super) end_at: Segment,
    /// The offsets before a selector was clamped to an end of the key space.
    begin_reached: i32,
    end_reached: i32,
    edges: Edges,
}

impl Ends {
    /// Whether there can be no row between the ends.
    fn inverted(&self) -> bool {
        self.begin.offset >= self.end.offset && self.begin.key >= self.end.key
    }

    /// The same, had no selector been clamped.
    fn reached_inverted(&self) -> bool {
        self.begin_reached >= self.end_reached && self.begin.key >= self.end.key
    }

    /// Notes where a selector that was resolved by a read of its own came to lie.
    fn resolved(&mut self, key: &Key, max_key: &[u8]) {
        self.edges.begin |= key.is_empty();
        self.edges.end |= key[..] == *max_key;
    }
}

impl View<'_> {
    /// The rows between two selectors.
    pub(crate) fn range(
        &mut self,
        begin: &KeySelector,
        end: &KeySelector,
        limits: Limits,
        reverse: bool,
    ) -> Answer<Rows> {
        if let Some(rows) = self.range_at_once(begin, end, limits, reverse)? {
            Ok(rows)
        } else if reverse {
            self.backward(begin, end, limits)
        } else {
            self.forward(begin, end, limits)
        }
    }

    /// A range read that one request answers, between two keys of which nothing is known and nothing
    /// was written: what the long way would come to, and what most range reads are.
    fn range_at_once(
        &mut self,
        begin: &KeySelector,
        end: &KeySelector,
        mut limits: Limits,
        reverse: bool,
    ) -> Answer<Option<Rows>> {
        if !begin.is_first_greater_or_equal() || !end.is_first_greater_or_equal() {
            return Ok(None);
        }
        let (_, written, written_end) = self.writes.segment(&begin.key);
        let (is_known, _, known_end) = self.known.around(&begin.key);
        let free = written.is_unmodified() && !written.unreadable && !is_known;
        if !free || end.key[..] > *written_end || end.key[..] > *known_end {
            return Ok(None);
        }
        let request = Requests::default().limits(&limits, 1);
        let reply = get_range(self.database()?, begin, end, request, reverse)?;
        let (from, to) = if reverse {
            known_range_back(&reply, begin, end)
        } else {
            known_range(&reply, begin, end)
        };
        // A reply that ends with the last key there can be tells all, even where it says otherwise.
        let all = !reply.more || (from <= begin.key && end.key <= to);
        self.known.insert(from, to);
        for (key, value) in &reply.rows {
            limits.count(key, value);
        }
        let more = limits.reached() || !all;
        let over = all || limits.reached() || limits.has_satisfied_min_rows();
        Ok(over.then_some(Rows {
            rows: reply.rows,
            more,
            ..Rows::default()
        }))
    }

    /// Moves a selector towards the key it names, as far as is known. A selector that runs off an end
    /// is clamped to it.
    fn resolve(
        &self,
        selector: &KeySelector,
        edges: &mut Edges,
        reached: &mut i32,
    ) -> (KeySelector, Segment) {
        let KeySelector {
            mut key,
            mut offset,
            ..
        } = selector.clone().without_or_equal();
        let moves = offset != 1;
        let mut at = self.segment(&key);
        if offset <= 0 && at.begin == key && !key.is_empty() {
            at = self.segment_before(&key);
        }
        while offset > 1 && at.is_known() && at.end[..] < *self.max_key {
            if at.is_key() {
                offset -= 1;
            }
            at = self.segment_after(&at);
            key = at.begin.clone();
        }
        while offset < 1 && at.is_known() && !at.begin.is_empty() {
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
        if moves {
            *reached = offset;
        }
        if at.is_known() && offset < 1 {
            edges.begin = true;
            return (KeySelector::first_greater_or_equal(&[][..]), at);
        }
        if at.is_known() && offset > 1 {
            edges.end = true;
            return (KeySelector::first_greater_or_equal(self.max_key), at);
        }
        while at.is_known() && !at.is_key() && at.end[..] < *self.max_key {
            at = self.segment_after(&at);
            key = at.begin.clone();
        }
        let selector = KeySelector {
            key,
            or_equal: false,
            offset,
        };
        (selector, at)
    }

    fn ends(&self, begin: &KeySelector, end: &KeySelector) -> Ends {
        let mut edges = Edges::default();
        let (mut begin_reached, mut end_reached) = (begin.offset, end.offset);
        let (begin, begin_at) = self.resolve(begin, &mut edges, &mut begin_reached);
        let (end, end_at) = self.resolve(end, &mut edges, &mut end_reached);
        Ends {
            begin,
            end,
            begin_at,
            end_at,
            begin_reached,
            end_reached,
            edges,
        }
    }

    /// Moves the ends further, now that more is known.
    pub(super) fn resolve_ends(&self, ends: &mut Ends) {
        (ends.begin, ends.begin_at) =
            self.resolve(&ends.begin, &mut ends.edges, &mut ends.begin_reached);
        (ends.end, ends.end_at) = self.resolve(&ends.end, &mut ends.edges, &mut ends.end_reached);
    }

    /// The answer of a range read whose ends tell that there are no rows.
    fn without_rows(&self, ends: &Ends) -> Option<Rows> {
        if ends.reached_inverted() {
            return Some(Rows::default());
        }
        let (begin, end) = (&ends.begin, &ends.end);
        let empty = (begin.is_first_greater_or_equal() && begin.key[..] == *self.max_key)
            || (end.is_first_greater_or_equal() && end.key.is_empty());
        empty.then(|| ends.edges.without_rows())
    }

    /// Rows from the lowest key up.
    pub(super) fn forward(
        &mut self,
        begin: &KeySelector,
        end: &KeySelector,
        mut limits: Limits,
    ) -> Answer<Rows> {
        let max_key = self.max_key;
        let mut ends = self.ends(begin, end);
        if let Some(rows) = self.without_rows(&ends) {
            return Ok(rows);
        }
        if !ends.end.is_first_greater_or_equal() && ends.begin.key > ends.end.key {
            let key = self.get_key(&ends.end)?;
            ends.resolved(&key, max_key);
            if ends.begin.key >= key && ends.begin.offset > 0 {
                return Ok(Rows::default());
            } else if key.is_empty() {
                return Ok(ends.edges.without_rows());
            }
            self.resolve_ends(&mut ends);
        }
        let mut at = ends.begin_at.clone();
        let mut rows = Rows::default();
        let mut fresh = Fresh::default();
        let mut requests = Requests::default();
        let mut past_end = 0i64;
        loop {
            let end_is_key = ends.end.is_first_greater_or_equal();
            let enough = past_end >= 1 - i64::from(ends.end.offset);
            if rows.rows.is_empty() && ends.reached_inverted() {
                return Ok(Rows::default());
            }
            if ends.end.offset <= 1 && ends.end.key.is_empty() {
                return Ok(ends.edges.without_rows());
            }
            if ends.inverted() || (ends.begin.offset >= 1 && ends.begin.key[..] >= *max_key) {
                if !end_is_key && !rows.rows.is_empty() {
                    let key = self.get_key(&ends.end)?;
                    ends.resolved(&key, max_key);
                    ends.end = KeySelector::first_greater_or_equal(key);
                }
                break;
            }
            if at.is_known() && at.begin > ends.end_at.begin {
                if end_is_key {
                    break;
                }
                return Ok(ends.edges.without_rows());
            }
            if limits.reached() && enough {
                break;
            }
            let at_end = at.begin == ends.end_at.begin;
            let ends_here = ends.begin.offset > 0 && end_is_key && ends.end.key == at.begin;
            if at_end && (at.is_known() || ends_here) {
                break;
            }
            if at.unreadable {
                return Err(Error::ACCESSED_UNREADABLE.into());
            }
            match &at.kind {
                Kind::Unknown => {
                    if limits.has_satisfied_min_rows() && !rows.rows.is_empty() && enough {
                        rows.more = true;
                        break;
                    }
                    fresh = self.request(&at, &mut ends, &limits, &mut requests)?;
                    at = ends.begin_at.clone();
                }
                Kind::Empty | Kind::Row(None) => at = self.segment_after(&at),
                Kind::Row(Some(value)) => {
                    if limits.reached() {
                        past_end += 1;
                    } else {
                        limits.count(&at.begin, value);
                        rows.rows.push((at.begin.clone(), value.clone()));
                    }
                    at = self.segment_after(&at);
                }
                Kind::Stored(_) => {
                    let stop: &[u8] = if end_is_key { &ends.end.key } else { max_key };
                    let (_, _, written_end) = self.writes.segment(&at.begin);
                    let (_, _, known_end) = self.known.around(&at.begin);
                    let stop = stop.min(written_end).min(known_end).max(&at.end);
                    let beyond = ends.end.offset < 1;
                    let last = if fresh.as_slice().first().is_some_and(|r| r.0 == at.begin) {
                        let next = || next_if(&mut fresh, |key| key < stop);
                        take(next, beyond, &mut limits, &mut rows.rows, &mut past_end)
                    } else {
                        let mut run = self.known_rows(&at.begin, stop);
                        let next = || run.next().map(|(key, value)| (key, value.clone()));
                        take(next, beyond, &mut limits, &mut rows.rows, &mut past_end)
                    };
                    at = self.segment(&key_after(&last.unwrap_or(at.begin)));
                }
            }
        }
        rows.more |= limits.reached();
        if ends.end.is_first_greater_or_equal() {
            let keep = rows.rows.partition_point(|(key, _)| *key < ends.end.key);
            rows.more &= keep == rows.rows.len();
            rows.rows.truncate(keep);
        }
        rows.read_to_begin = ends.edges.begin;
        rows.read_through_end = !rows.more && ends.edges.end;
        Ok(rows)
    }

    /// Rows from the highest key down.
    pub(super) fn backward(
        &mut self,
        begin: &KeySelector,
        end: &KeySelector,
        mut limits: Limits,
    ) -> Answer<Rows> {
        let max_key = self.max_key;
        let mut ends = self.ends(begin, end);
        if let Some(rows) = self.without_rows(&ends) {
            return Ok(rows);
        }
        if !ends.begin.is_first_greater_or_equal() && ends.begin.key > ends.end.key {
            let key = self.get_key(&ends.begin)?;
            ends.resolved(&key, max_key);
            if key >= ends.end.key && ends.end.offset <= 1 {
                return Ok(Rows::default());
            } else if key[..] == *max_key {
                return Ok(ends.edges.without_rows());
            }
            self.resolve_ends(&mut ends);
        }
        let mut at = ends.end_at.clone();
        let mut rows = Rows::default();
        let mut fresh = Fresh::default();
        let mut requests = Requests::default();
        let mut past_begin = 0i64;
        loop {
            let begin_is_key = ends.begin.is_first_greater_or_equal();
            let enough = past_begin >= i64::from(ends.begin.offset) - 1;
            if rows.rows.is_empty() && ends.reached_inverted() {
                return Ok(Rows::default());
            }
            if ends.begin.offset > 0 && ends.begin.key[..] >= *max_key {
                return Ok(ends.edges.without_rows());
            }
            if ends.inverted() || (ends.end.offset <= 1 && ends.end.key.is_empty()) {
                if !begin_is_key && !rows.rows.is_empty() {
                    let key = self.get_key(&ends.begin)?;
                    ends.resolved(&key, max_key);
                    ends.begin = KeySelector::first_greater_or_equal(key);
                }
                break;
            }
            if enough && at.is_known() && at.begin < ends.begin_at.begin {
                if begin_is_key {
                    break;
                }
                return Ok(ends.edges.without_rows());
            }
            if limits.reached() && enough {
                break;
            }
            if ends.end.is_first_greater_or_equal() && ends.end.key == at.begin {
                if (enough && at.begin == ends.begin_at.begin) || at.begin.is_empty() {
                    break;
                }
                at = self.segment_before(&at.begin);
            }
            if at.unreadable {
                return Err(Error::ACCESSED_UNREADABLE.into());
            }
            if at.kind == Kind::Unknown {
                if limits.bytes.is_some() && !rows.rows.is_empty() && enough {
                    rows.more = true;
                    break;
                }
                fresh = self.request_back(&at, &mut ends, &limits, &mut requests)?;
                at = ends.end_at.clone();
                continue;
            }
            if let Kind::Row(Some(value)) = &at.kind {
                if limits.reached() {
                    past_begin += 1;
                } else {
                    limits.count(&at.begin, value);
                    rows.rows.push((at.begin.clone(), value.clone()));
                }
            } else if let Kind::Stored(_) = &at.kind {
                let stop: &[u8] = if begin_is_key { &ends.begin.key } else { &[] };
                let (written_begin, _, _) = self.writes.segment(&at.begin);
                let (_, known_begin, _) = self.known.around(&at.begin);
                let stop = stop.max(written_begin).max(known_begin).min(&at.begin);
                let beyond = ends.begin.offset > 1;
                let last = if fresh.as_slice().first().is_some_and(|r| r.0 == at.begin) {
                    let next = || next_if(&mut fresh, |key| key >= stop);
                    take(next, beyond, &mut limits, &mut rows.rows, &mut past_begin)
                } else {
                    let mut run = self.known_rows(stop, &at.end);
                    let next = || run.next_back().map(|(key, value)| (key, value.clone()));
                    take(next, beyond, &mut limits, &mut rows.rows, &mut past_begin)
                };
                if let Some(last) = last {
                    at.begin = last;
                }
            }
            if at.begin == ends.begin_at.begin || at.begin.is_empty() {
                break;
            }
            at = self.segment_before(&at.begin);
        }
        rows.more |= limits.reached();
        if ends.begin.is_first_greater_or_equal() {
            let keep = rows.rows.partition_point(|(key, _)| *key >= ends.begin.key);
            rows.more &= keep == rows.rows.len();
            rows.rows.truncate(keep);
        }
        rows.read_to_begin = !rows.more && ends.edges.begin;
        rows.read_through_end = ends.edges.end;
        Ok(rows)
    }
}

/// The next row of the last request, if its key is one that is wanted.
fn next_if(fresh: &mut Fresh, wanted: impl Fn(&[u8]) -> bool) -> Option<(Key, Value)> {
    let first = fresh.as_slice().first();
    if first.is_some_and(|(key, _)| wanted(key)) {
        fresh.next()
    } else {
        None
    }
}

/// Takes rows until a limit is reached; with `beyond` also counts those that follow. Answers the key
/// of the last row that was looked at.
fn take(
    mut next: impl FnMut() -> Option<(Key, Value)>,
    beyond: bool,
    limits: &mut Limits,
    rows: &mut Vec<(Key, Value)>,
    past: &mut i64,
) -> Option<Key> {
    let mut last_beyond = None;
    let mut any = false;
    while beyond || !limits.reached() {
        let Some((key, value)) = next() else { break };
        any = true;
        if limits.reached() {
            *past += 1;
            last_beyond = Some(key);
        } else {
            limits.count(&key, &value);
            rows.push((key, value));
        }
    }
    last_beyond.or_else(|| rows.last().filter(|_| any).map(|(key, _)| key.clone()))
}
