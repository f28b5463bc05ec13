//! The requests of a range read to the database.
//!
//! A request also covers short known parts, so that a read of many unknown parts needs few requests.

use super::walk::Ends;
use super::{Answer, Kind, Segment, Stop, View};
use crate::keys::{is_key_after, key_after, Key, KeySelector, Limits, Rows, Value, ALL_END};
use crate::range_read::{get_range, REPLY_LIMIT};

/// The rows of the last request, to be taken over instead of looked up again.
pub(super) type Fresh = std::vec::IntoIter<(Key, Value)>;

/// A requested range.
#[derive(Debug)]
pub(super) struct Request {
    begin: KeySelector,
    end: KeySelector,
    limits: Limits,
    reverse: bool,
    /// The answer, and how many round trips it still needs.
    reply: Option<(Rows, u32)>,
}

impl Request {
    /// One round trip is over. The last one brings the answer, which makes a part of the key space
    /// known.
    pub(super) fn receive(&mut self, view: &mut View) -> Answer<Option<Rows>> {
        let (begin, end, reverse) = (&self.begin, &self.end, self.reverse);
        let (reply, rounds) = match self.reply.take() {
            Some(reply) => reply,
            None => {
                let reply = get_range(view.database()?, begin, end, self.limits, reverse)?;
                let rounds = reply.rounds;
                (reply, rounds)
            }
        };
        if rounds > 1 {
            self.reply = Some((reply, rounds - 1));
            return Ok(None);
        }
        let (from, to) = known_range(&reply, begin, end, reverse);
        if view.is_silent(&from, &to) {
            self.reply = Some((reply, 1));
            return Err(Stop::Silent);
        }
        view.known.insert(from, to);
        Ok(Some(reply))
    }
}

/// The common settings of one range read's requests.
#[derive(Default)]
pub(super) struct Requests {
    /// The number of requests so far.
    count: u32,
    /// Rows to ask for beyond the limit of the read.
    additional: i64,
}

impl Requests {
    /// How many cleared keys a request may include.
    fn clear_limit(&self) -> i64 {
        match self.count {
            0 => 0,
            count => 1 << count.min(20),
        }
    }

    /// The limits of the next request.
    pub(super) fn limits(&mut self, limits: &Limits, offset: i64) -> Limits {
        let mut limits = *limits;
        let additional = std::mem::take(&mut self.additional);
        let at_least = |rows: i64| usize::try_from(rows.max(offset)).unwrap_or(0);
        limits.min_rows = at_least(1 + additional);
        let rows = |rows: Option<usize>| {
            let rows = rows.map_or(1, |rows| i64::try_from(rows).unwrap_or(i64::MAX));
            Some(at_least(rows.max(1).saturating_add(additional)))
        };
        if limits.rows.is_some() {
            limits.rows = rows(limits.rows);
        }
        match limits.bytes {
            Some(0) => {
                limits.bytes = None;
                if limits.rows.is_none() {
                    limits.rows = rows(None);
                }
            }
            Some(bytes) => {
                let bytes = bytes.saturating_mul(1 << self.count.min(20));
                limits.bytes = Some(bytes.min(REPLY_LIMIT));
            }
            None => {}
        }
        self.count += 1;
        limits
    }
}

/// The part of the key space that a reply covers.
pub(super) fn known_range(
    reply: &Rows,
    begin: &KeySelector,
    end: &KeySelector,
    reverse: bool,
) -> (Key, Key) {
    let cut_begin = reply.more && reverse;
    let cut_end = reply.more && !reverse;
    let mut from: Key = if begin.offset <= 1 && !cut_begin {
        begin.key.clone()
    } else {
        ALL_END.into()
    };
    let mut to: Key = if end.offset >= 1 && !cut_end {
        end.key.clone()
    } else {
        [][..].into()
    };
    if reply.read_to_begin {
        from = [][..].into();
    }
    if reply.read_through_end {
        to = ALL_END.into();
    }
    if let (Some((first, _)), Some((last, _))) = (reply.rows.first(), reply.rows.last()) {
        let (lowest, highest) = if reverse {
            (last, first)
        } else {
            (first, last)
        };
        if cut_begin || *lowest < from {
            from = lowest.clone();
        }
        if cut_end || *highest >= to {
            to = key_after(highest);
        }
    }
    (from, to)
}

/// Moves a selector as far as its offset allows.
fn shift(selector: &mut KeySelector, by: i64, reverse: bool) {
    let by = if reverse { -by } else { by };
    let offset = i64::from(selector.offset) + by;
    selector.offset = i32::try_from(offset).unwrap_or(selector.offset);
}

/// How many keys a selector is ahead of its own key, in the direction of a read.
pub(super) fn lead(selector: &KeySelector, reverse: bool) -> i64 {
    let ahead = i64::from(selector.offset) - 1;
    if reverse {
        -ahead
    } else {
        ahead
    }
}

/// Whether there is only a single key from `mark` to the far end of a segment.
fn is_single(mark: &Key, at: &Segment, reverse: bool) -> bool {
    if reverse {
        is_key_after(mark, &at.begin)
    } else {
        is_key_after(&at.end, mark)
    }
}

impl View<'_> {
    /// From an unknown segment to the last one before a known part that is longer than a cleared key, with
    /// the number of cleared keys in between.
    fn skip_unknown(
        &self,
        from: &Segment,
        end: &Segment,
        mut steps: i64,
        reverse: bool,
    ) -> (Segment, i64) {
        let mut at = from.clone();
        let (mut mark, mut cleared) = (at.near(reverse).clone(), 0);
        while at.begin != end.begin && steps > 0 {
            steps -= 1;
            if at.unreadable || at.kind == Kind::Empty {
                if at.unreadable || !is_single(&mark, &at, reverse) {
                    break;
                }
                cleared += 1;
            } else {
                mark = at.near(!reverse).clone();
            }
            at = self.next_segment(&at, reverse);
        }
        while at.unreadable || at.kind != Kind::Unknown {
            at = self.next_segment(&at, !reverse);
        }
        (at, cleared)
    }

    /// The cleared keys between an unknown segment and the next known part.
    fn count_cleared(&self, from: &Segment, limit: i64, reverse: bool) -> i64 {
        let mut at = from.clone();
        let (mut mark, mut cleared) = (at.near(reverse).clone(), 0);
        while cleared < limit && !self.is_last_segment(&at, reverse) {
            if at.unreadable || at.kind == Kind::Empty {
                if at.unreadable || !is_single(&mark, &at, reverse) {
                    break;
                }
                cleared += 1;
            } else {
                mark = at.near(!reverse).clone();
            }
            at = self.next_segment(&at, reverse);
        }
        cleared
    }

    /// The data that a range read needs from the database to continue at `at`.
    pub(super) fn request(
        &self,
        at: &Segment,
        ends: &mut Ends,
        limits: &Limits,
        requests: &mut Requests,
        reverse: bool,
    ) -> Request {
        let clear_limit = requests.clear_limit();
        let far_at = ends.far_at(reverse);
        let (mut last, mut cleared) = (at.clone(), 0);
        let before_far = if reverse {
            at.begin > far_at.begin
        } else {
            at.begin < far_at.begin
        };
        if before_far {
            (last, cleared) = self.skip_unknown(at, far_at, clear_limit + 100, reverse);
            cleared = cleared.min(clear_limit);
        }
        let mut read_far = ends.far(reverse).clone();
        let far_lead = lead(&read_far, reverse);
        let past_far = (-far_lead).max(0);
        if last.begin != far_at.begin {
            read_far = KeySelector::first_greater_or_equal(last.near(!reverse).clone());
            requests.additional += past_far;
        } else if far_lead < 0 {
            read_far.offset = 1;
            requests.additional += past_far;
        } else if far_lead > 0 {
            cleared += self.count_cleared(&last, clear_limit - cleared, reverse);
            shift(&mut read_far, cleared, reverse);
        }
        requests.additional += cleared;
        let near = ends.near_mut(reverse);
        if near.is_first_greater_or_equal() {
            let (own, other) = (near.key.clone(), at.near(reverse).clone());
            near.key = if reverse {
                own.min(other)
            } else {
                own.max(other)
            };
        }
        let mut read_near = near.clone();
        let near_lead = lead(&read_near, reverse);
        if near_lead > 0 {
            read_near.offset = 1;
            requests.additional += near_lead;
        } else if near_lead < 0 {
            let cleared = self.count_cleared(at, clear_limit, !reverse);
            shift(&mut read_near, -cleared, reverse);
            requests.additional += cleared;
        }
        let near_key = read_near.key.clone();
        read_far.key = if reverse {
            read_far.key.min(near_key)
        } else {
            read_far.key.max(near_key)
        };
        let limits = requests.limits(limits, 1 - lead(&read_near, reverse));
        let (begin, end) = if reverse {
            (read_far, read_near)
        } else {
            (read_near, read_far)
        };
        Request {
            begin,
            end,
            limits,
            reverse,
            reply: None,
        }
    }
}
