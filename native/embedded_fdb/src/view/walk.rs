//! Range reads over known and unknown parts of the snapshot, with own writes in between.
//!
//! A walk goes from segment to segment: up from its begin or, in reverse, down from its end. The end it
//! starts from is the *near* one, the other the *far* one. If the next segment is unknown, it asks the
//! database and stops. Answers of other reads may arrive meanwhile: the walk continues with the
//! knowledge of that time.

use super::requests::{known_range, lead, Fresh, Request, Requests};
use super::{Answer, Kind, Segment, View};
use crate::error::Error;
use crate::keys::{key_after, Key, KeySelector, Limits, Rows, Value};
use crate::range_read::get_range;
use crate::resolver::KeyRange;

/// Which ends of the key space the selectors of a read hit.
#[derive(Clone, Copy, Default)]
struct Edges {
    begin: bool,
    end: bool,
}

impl Edges {
    /// A range without rows that extends to these keys.
    fn without_rows(self) -> Rows {
        Rows {
            read_to_begin: self.begin,
            read_through_end: self.end,
            ..Rows::default()
        }
    }
}

/// The positions of a range read's selectors, moved as far as is known.
pub(super) struct Ends {
    begin: KeySelector,
    end: KeySelector,
    /// The segments that contain them.
    begin_at: Segment,
    end_at: Segment,
    /// The offsets before a selector was clamped to an end of the key space.
    begin_reached: i32,
    end_reached: i32,
    edges: Edges,
}

impl Ends {
    pub(super) fn far(&self, reverse: bool) -> &KeySelector {
        if reverse {
            &self.begin
        } else {
            &self.end
        }
    }

    pub(super) fn far_at(&self, reverse: bool) -> &Segment {
        if reverse {
            &self.begin_at
        } else {
            &self.end_at
        }
    }

    pub(super) fn near_mut(&mut self, reverse: bool) -> &mut KeySelector {
        if reverse {
            &mut self.end
        } else {
            &mut self.begin
        }
    }

    fn near_at(&self, reverse: bool) -> &Segment {
        self.far_at(!reverse)
    }

    /// Whether there can be no row between the ends.
    fn inverted(&self) -> bool {
        self.begin.offset >= self.end.offset && self.begin.key >= self.end.key
    }

    /// The same, if no selector had been clamped.
    fn reached_inverted(&self) -> bool {
        self.begin_reached >= self.end_reached && self.begin.key >= self.end.key
    }

    /// Whether the begin ran off the end of the keys, and the end off their begin.
    fn ran_off(&self, max_key: &[u8]) -> (bool, bool) {
        (
            self.begin.offset > 0 && self.begin.key[..] >= *max_key,
            self.end.offset <= 1 && self.end.key.is_empty(),
        )
    }

    /// Notes where a selector that was resolved by a separate read ended up.
    fn resolved(&mut self, key: &Key, max_key: &[u8]) {
        self.edges.begin |= key.is_empty();
        self.edges.end |= key[..] == *max_key;
    }
}

/// A range read.
pub(crate) struct Walk {
    reverse: bool,
    /// The rows and bytes that may still be returned.
    limits: Limits,
    ends: Ends,
    at: Segment,
    rows: Vec<(Key, Value)>,
    more: bool,
    fresh: Fresh,
    requests: Requests,
    /// Rows seen after the limits were reached: the far end may lie behind some.
    past: i64,
    /// The result, if the positions of the ends determine it.
    decided: Option<Rows>,
    /// The request that the database has not answered yet.
    asked: Option<Request>,
    /// The read of the key that the far end resolves to, and its purpose.
    lookup: Option<Box<(KeyWalk, Purpose)>>,
}

/// Why the key of the far end is needed.
#[derive(Clone, Copy)]
enum Purpose {
    /// To determine whether there is a range at all.
    Begin,
    /// To determine which rows are in the range.
    Finish,
}

/// What follows a step of a walk.
enum Next {
    Step,
    Answer,
    LookUp(Purpose),
    Finish,
    Done(Rows),
}

impl Walk {
    /// A walk that has only used the positions of its ends.
    pub(crate) fn new(
        view: &View,
        begin: &KeySelector,
        end: &KeySelector,
        limits: Limits,
        reverse: bool,
    ) -> Walk {
        let ends = view.ends(begin, end);
        let mut walk = Walk {
            reverse,
            limits,
            at: ends.near_at(reverse).clone(),
            ends,
            rows: Vec::new(),
            more: false,
            fresh: Fresh::default(),
            requests: Requests::default(),
            past: 0,
            decided: None,
            asked: None,
            lookup: None,
        };
        walk.decided = view.without_rows(&walk.ends);
        let far = walk.ends.far(reverse);
        if walk.decided.is_some() {
            return walk;
        }
        if !far.is_first_greater_or_equal() && walk.ends.begin.key > walk.ends.end.key {
            walk.look_up(view, Purpose::Begin);
        }
        walk
    }

    fn look_up(&mut self, view: &View, purpose: Purpose) {
        let far = self.ends.far(self.reverse);
        self.lookup = Some(Box::new((KeyWalk::new(view, far), purpose)));
    }

    /// Continues as far as is known. `None` if the database has to be asked, see [`Walk::receive`].
    pub(crate) fn go_on(&mut self, view: &View) -> Answer<Option<Rows>> {
        if let Some(rows) = self.decided.take() {
            return Ok(Some(rows));
        }
        if self.asked.is_some() {
            return Ok(None);
        }
        loop {
            if let Some(lookup) = &mut self.lookup {
                let Some(key) = lookup.0.go_on(view)? else {
                    return Ok(None);
                };
                let purpose = lookup.1;
                self.lookup = None;
                self.ends.resolved(&key, view.max_key);
                if let Some(rows) = self.far_found(view, key, purpose) {
                    return Ok(Some(rows));
                }
                continue;
            }
            match self.step(view)? {
                Next::Step => {}
                Next::Answer => return Ok(None),
                Next::LookUp(purpose) => self.look_up(view, purpose),
                Next::Finish => return Ok(Some(self.finish())),
                Next::Done(rows) => return Ok(Some(rows)),
            }
        }
    }

    /// Takes the database's answers so far. More may follow.
    pub(crate) fn receive(&mut self, view: &mut View) -> Answer<()> {
        if let Some(lookup) = &mut self.lookup {
            return lookup.0.walk.receive(view);
        }
        if let Some(request) = &mut self.asked {
            let Some(reply) = request.receive(view)? else {
                return Ok(());
            };
            self.asked = None;
            view.resolve_ends(&mut self.ends);
            self.fresh = reply.rows.into_iter();
            self.at = self.ends.near_at(self.reverse).clone();
        }
        Ok(())
    }

    /// Continues now that the key of the far end is known; returns the result if that decides it.
    fn far_found(&mut self, view: &View, key: Key, purpose: Purpose) -> Option<Rows> {
        let Purpose::Begin = purpose else {
            let far = KeySelector::first_greater_or_equal(key);
            if self.reverse {
                self.ends.begin = far;
            } else {
                self.ends.end = far;
            }
            return Some(self.finish());
        };
        let (inverted, off_edge) = if self.reverse {
            let ends = &self.ends;
            let inverted = key >= ends.end.key && ends.end.offset <= 1;
            (inverted, key[..] == *view.max_key)
        } else {
            let ends = &self.ends;
            let inverted = ends.begin.key >= key && ends.begin.offset > 0;
            (inverted, key.is_empty())
        };
        if inverted {
            return Some(Rows::default());
        }
        if off_edge {
            return Some(self.ends.edges.without_rows());
        }
        view.resolve_ends(&mut self.ends);
        self.at = self.ends.near_at(self.reverse).clone();
        None
    }

    /// Processes one segment.
    fn step(&mut self, view: &View) -> Answer<Next> {
        let reverse = self.reverse;
        if let Some(next) = self.over(view) {
            return Ok(next);
        }
        if reverse
            && self.ends.end.is_first_greater_or_equal()
            && self.ends.end.key == self.at.begin
        {
            // The end itself is not in the range.
            let at_begin = self.at.begin == self.ends.begin_at.begin;
            if (self.is_past_far() && at_begin) || self.at.begin.is_empty() {
                return Ok(Next::Finish);
            }
            self.at = view.segment_before(&self.at.begin);
        }
        if self.at.unreadable {
            return Err(Error::ACCESSED_UNREADABLE.into());
        }
        if self.at.kind == Kind::Unknown {
            let enough = if reverse {
                self.limits.bytes.is_some()
            } else {
                self.limits.has_satisfied_min_rows()
            };
            if enough && !self.rows.is_empty() && self.is_past_far() {
                self.more = true;
                return Ok(Next::Finish);
            }
            let Walk {
                at,
                ends,
                limits,
                requests,
                ..
            } = self;
            self.asked = Some(view.request(at, ends, limits, requests, reverse));
            return Ok(Next::Answer);
        }
        self.take(view);
        if reverse {
            if self.at.begin == self.ends.begin_at.begin || self.at.begin.is_empty() {
                return Ok(Next::Finish);
            }
            self.at = view.segment_before(&self.at.begin);
        }
        Ok(Next::Step)
    }

    /// Whether the walk has seen as many rows after the limits as the far end may lie behind.
    fn is_past_far(&self) -> bool {
        self.past >= -lead(self.ends.far(self.reverse), self.reverse)
    }

    /// The next step when the walk is over.
    fn over(&self, view: &View) -> Option<Next> {
        let Walk {
            ends, at, reverse, ..
        } = self;
        let far_is_key = ends.far(*reverse).is_first_greater_or_equal();
        if self.rows.is_empty() && ends.reached_inverted() {
            return Some(Next::Done(Rows::default()));
        }
        let (begin_off, end_off) = ends.ran_off(view.max_key);
        let (near_off, far_off) = if *reverse {
            (end_off, begin_off)
        } else {
            (begin_off, end_off)
        };
        if far_off {
            return Some(Next::Done(ends.edges.without_rows()));
        }
        if ends.inverted() || near_off {
            let undecided = !far_is_key && !self.rows.is_empty();
            return Some(if undecided {
                Next::LookUp(Purpose::Finish)
            } else {
                Next::Finish
            });
        }
        let beyond_far = if *reverse {
            self.is_past_far() && at.begin < ends.begin_at.begin
        } else {
            at.begin > ends.end_at.begin
        };
        if at.is_known() && beyond_far {
            return Some(if far_is_key {
                Next::Finish
            } else {
                Next::Done(ends.edges.without_rows())
            });
        }
        if self.limits.reached() && self.is_past_far() {
            return Some(Next::Finish);
        }
        let at_end = !reverse && at.begin == ends.end_at.begin;
        let ends_here = ends.begin.offset > 0 && far_is_key && ends.end.key == at.begin;
        (at_end && (at.is_known() || ends_here)).then_some(Next::Finish)
    }

    /// Takes the rows of the known segment, and those that follow it directly.
    fn take(&mut self, view: &View) {
        match &self.at.kind {
            Kind::Row(Some(value)) => {
                if self.limits.reached() {
                    self.past += 1;
                } else {
                    self.limits.count(&self.at.begin, value);
                    self.rows.push((self.at.begin.clone(), value.clone()));
                }
            }
            Kind::Stored(_) => {
                if let Some(last) = self.take_run(view) {
                    // As if the run were one segment.
                    if self.reverse {
                        self.at.begin = last;
                    } else {
                        self.at.end = key_after(&last);
                    }
                }
            }
            Kind::Unknown | Kind::Empty | Kind::Row(None) => {}
        }
        if !self.reverse {
            self.at = view.segment_after(&self.at);
        }
    }

    /// Takes rows that were not written, one after the other. Returns the key of the last row it
    /// examined.
    fn take_run(&mut self, view: &View) -> Option<Key> {
        let (at, far) = (&self.at, self.ends.far(self.reverse));
        let far_key = far.is_first_greater_or_equal().then_some(&far.key[..]);
        let (written_begin, _, written_end) = view.writes.segment(&at.begin);
        let (_, known_begin, known_end) = view.known.around(&at.begin);
        let beyond = lead(far, self.reverse) < 0;
        let (limits, rows, past) = (&mut self.limits, &mut self.rows, &mut self.past);
        let fresh = &mut self.fresh;
        let is_fresh = fresh.as_slice().first().is_some_and(|r| r.0 == at.begin);
        if self.reverse {
            let stop = far_key.unwrap_or(&[]);
            let stop = stop.max(written_begin).max(known_begin).min(&at.begin);
            if is_fresh {
                let next = || next_if(fresh, |key| key >= stop);
                take(next, beyond, limits, rows, past)
            } else {
                let mut run = view.known_rows(stop, &at.end);
                let next = || run.next_back().map(|(key, value)| (key, value.clone()));
                take(next, beyond, limits, rows, past)
            }
        } else {
            let stop = far_key.unwrap_or(view.max_key);
            let stop = stop.min(written_end).min(known_end).max(&at.end);
            if is_fresh {
                let next = || next_if(fresh, |key| key < stop);
                take(next, beyond, limits, rows, past)
            } else {
                let mut run = view.known_rows(&at.begin, stop);
                let next = || run.next().map(|(key, value)| (key, value.clone()));
                take(next, beyond, limits, rows, past)
            }
        }
    }

    /// The result, once the walk is over.
    fn finish(&mut self) -> Rows {
        let (ends, reverse) = (&self.ends, self.reverse);
        let mut rows = std::mem::take(&mut self.rows);
        let mut more = self.more || self.limits.reached();
        let far = ends.far(reverse);
        if far.is_first_greater_or_equal() {
            let keep = rows.partition_point(|(key, _)| {
                if reverse {
                    *key >= far.key
                } else {
                    *key < far.key
                }
            });
            more &= keep == rows.len();
            rows.truncate(keep);
        }
        Rows {
            rows,
            more,
            read_to_begin: ends.edges.begin && !(reverse && more),
            read_through_end: ends.edges.end && (reverse || !more),
            rounds: 0,
        }
    }
}

/// The next row of the last request, if its key is wanted.
fn next_if(fresh: &mut Fresh, wanted: impl Fn(&[u8]) -> bool) -> Option<(Key, Value)> {
    let first = fresh.as_slice().first();
    if first.is_some_and(|(key, _)| wanted(key)) {
        fresh.next()
    } else {
        None
    }
}

/// Takes rows until a limit is reached; with `beyond` also counts those that follow. Returns the key of
/// the last row it examined.
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

/// A read of the key that a selector resolves to: the first row after it, or the last one before.
pub(crate) struct KeyWalk {
    walk: Walk,
}

impl KeyWalk {
    pub(crate) fn new(view: &View, selector: &KeySelector) -> KeyWalk {
        let limits = Limits::rows(1);
        let walk = if selector.offset > 0 {
            let end = KeySelector::first_greater_or_equal(view.max_key);
            Walk::new(view, selector, &end, limits, false)
        } else {
            let begin = KeySelector::first_greater_or_equal(&[][..]);
            let mut end = selector.clone();
            end.offset += 1;
            Walk::new(view, &begin, &end, limits, true)
        };
        KeyWalk { walk }
    }

    /// As [`Walk::go_on`]. `""` stands for the position before the first key, `max_key` for the position
    /// after the last.
    pub(crate) fn go_on(&mut self, view: &View) -> Answer<Option<Key>> {
        let Some(rows) = self.walk.go_on(view)? else {
            return Ok(None);
        };
        let before: Key = [][..].into();
        let after: Key = view.max_key.into();
        // The edge that the walk starts from comes first.
        Ok(Some(match rows.rows.into_iter().next() {
            _ if rows.read_to_begin && !self.walk.reverse => before,
            _ if rows.read_through_end => after,
            _ if rows.read_to_begin => before,
            Some((key, _)) => key,
            None if self.walk.reverse => before,
            None => after,
        }))
    }

    pub(crate) fn receive(&mut self, view: &mut View) -> Answer<()> {
        self.walk.receive(view)
    }
}

/// The result of a range read that one request answers.
pub(crate) struct AtOnce {
    pub(crate) rows: Rows,
    /// The knowledge gained when the answer arrives.
    pub(crate) known: KeyRange,
}

impl View<'_> {
    /// A range read that one request answers, whatever else is known when its answer arrives: it lies
    /// between two keys with nothing known or written in between, and its answer is complete or as
    /// long as the limits allow. Most range reads are of this kind.
    pub(crate) fn range_at_once(
        &self,
        begin: &KeySelector,
        end: &KeySelector,
        mut limits: Limits,
        reverse: bool,
    ) -> Answer<Option<AtOnce>> {
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
        let (from, to) = known_range(&reply, begin, end, reverse);
        // A reply that ends with the last possible key is complete, even if it claims otherwise.
        let all = !reply.more || (from <= begin.key && end.key <= to);
        for (key, value) in &reply.rows {
            limits.count(key, value);
        }
        let rows = Rows {
            rows: reply.rows,
            more: limits.reached() || !all,
            ..Rows::default()
        };
        let known = (from, to);
        Ok((all || limits.reached()).then_some(AtOnce { rows, known }))
    }

    /// Moves a selector towards the key it resolves to, as far as is known. A selector that runs off an
    /// end is clamped to it.
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

    /// Moves the ends further, using new knowledge.
    fn resolve_ends(&self, ends: &mut Ends) {
        (ends.begin, ends.begin_at) =
            self.resolve(&ends.begin, &mut ends.edges, &mut ends.begin_reached);
        (ends.end, ends.end_at) = self.resolve(&ends.end, &mut ends.edges, &mut ends.end_reached);
    }

    /// The result of a range read whose ends show that there are no rows.
    fn without_rows(&self, ends: &Ends) -> Option<Rows> {
        if ends.reached_inverted() {
            return Some(Rows::default());
        }
        let (begin, end) = (&ends.begin, &ends.end);
        let empty = (begin.is_first_greater_or_equal() && begin.key[..] == *self.max_key)
            || (end.is_first_greater_or_equal() && end.key.is_empty());
        empty.then(|| ends.edges.without_rows())
    }
}
