//! What a range read asks the database for.
//!
//! A request reaches over what is known already where that is little, so that a read of many unknown
//! parts needs few of them.

use super::range::Ends;
use super::{Answer, Kind, Segment, View};
use crate::keys::{is_key_after, key_after, Key, KeySelector, Limits, Rows, Value, ALL_END};
use crate::range_read::{get_range, REPLY_LIMIT};

/// The rows of the last request, to be taken over instead of looked up again.
pub(super) type Fresh = std::vec::IntoIter<(Key, Value)>;

/// What the requests of one range read have in common.
#[derive(Default)]
pub(super) struct Requests {
    /// How many were made.
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

/// The part of the key space that a reply to a request in ascending order tells about.
pub(super) fn known_range(reply: &Rows, begin: &KeySelector, end: &KeySelector) -> (Key, Key) {
    let mut from: Key = if begin.offset <= 1 {
        begin.key.clone()
    } else {
        ALL_END.into()
    };
    let mut to: Key = if !reply.more && end.offset >= 1 {
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
        from = from.min(first.clone());
        if reply.more || *last >= to {
            to = key_after(last);
        }
    }
    (from, to)
}

/// The same for a reply in descending order.
pub(super) fn known_range_back(reply: &Rows, begin: &KeySelector, end: &KeySelector) -> (Key, Key) {
    let mut from: Key = if !reply.more && begin.offset <= 1 {
        begin.key.clone()
    } else {
        ALL_END.into()
    };
    let mut to: Key = if end.offset >= 1 {
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
        if reply.more || *last <= from {
            from = last.clone();
        }
        if *first >= to {
            to = key_after(first);
        }
    }
    (from, to)
}

/// Adds to a selector's offset, which stays where it is at the limits.
fn shift(selector: &mut KeySelector, by: i64) {
    let offset = i64::from(selector.offset) + by;
    selector.offset = i32::try_from(offset).unwrap_or(selector.offset);
}

impl View<'_> {
    /// From an unknown segment to the last one before something that is known and more than a cleared
    /// key; with the number of cleared keys between.
    fn skip_unknown(&self, from: &Segment, end: &Segment, mut steps: i64) -> (Segment, i64) {
        let mut at = from.clone();
        let (mut begin, mut cleared) = (at.begin.clone(), 0);
        while at.begin != end.begin && steps > 0 {
            steps -= 1;
            if at.unreadable || at.kind == Kind::Empty {
                if at.unreadable || !is_key_after(&at.end, &begin) {
                    break;
                }
                cleared += 1;
            } else {
                begin = at.end.clone();
            }
            at = self.segment_after(&at);
        }
        while at.unreadable || at.kind != Kind::Unknown {
            at = self.segment_before(&at.begin);
        }
        (at, cleared)
    }

    /// The same in the other direction.
    fn skip_unknown_back(&self, from: &Segment, end: &Segment, mut steps: i64) -> (Segment, i64) {
        let mut at = from.clone();
        let (mut last, mut cleared) = (at.end.clone(), 0);
        while at.begin != end.begin && steps > 0 {
            steps -= 1;
            if at.unreadable || at.kind == Kind::Empty {
                if at.unreadable || !is_key_after(&last, &at.begin) {
                    break;
                }
                cleared += 1;
            } else {
                last = at.begin.clone();
            }
            at = self.segment_before(&at.begin);
        }
        while at.unreadable || at.kind != Kind::Unknown {
            at = self.segment_after(&at);
        }
        (at, cleared)
    }

    /// The cleared keys after an unknown segment and before anything else that is known.
    fn count_cleared(&self, from: &Segment, limit: i64) -> i64 {
        let mut at = from.clone();
        let (mut begin, mut cleared) = (at.begin.clone(), 0);
        while cleared < limit && at.end[..] < *self.max_key {
            if at.unreadable || at.kind == Kind::Empty {
                if at.unreadable || !is_key_after(&at.end, &begin) {
                    break;
                }
                cleared += 1;
            } else {
                begin = at.end.clone();
            }
            at = self.segment_after(&at);
        }
        cleared
    }

    /// The same in the other direction.
    fn count_cleared_back(&self, from: &Segment, limit: i64) -> i64 {
        let mut at = from.clone();
        let (mut last, mut cleared) = (at.end.clone(), 0);
        while cleared < limit && !at.begin.is_empty() {
            if at.unreadable || at.kind == Kind::Empty {
                if at.unreadable || !is_key_after(&last, &at.begin) {
                    break;
                }
                cleared += 1;
            } else {
                last = at.begin.clone();
            }
            at = self.segment_before(&at.begin);
        }
        cleared
    }

    /// Reads from the database what a range read in ascending order needs to go on at `at`.
    pub(super) fn request(
        &mut self,
        at: &Segment,
        ends: &mut Ends,
        limits: &Limits,
        requests: &mut Requests,
    ) -> Answer<Fresh> {
        let clear_limit = requests.clear_limit();
        let (mut last, mut cleared) = (at.clone(), 0);
        if at.begin < ends.end_at.begin {
            (last, cleared) = self.skip_unknown(at, &ends.end_at, clear_limit + 100);
            cleared = cleared.min(clear_limit);
        }
        let past_end = 1 - i64::from(ends.end.offset.min(1));
        let mut read_end = ends.end.clone();
        if last.begin != ends.end_at.begin {
            read_end = KeySelector::first_greater_or_equal(last.end);
            requests.additional += past_end;
        } else if ends.end.offset < 1 {
            read_end.offset = 1;
            requests.additional += past_end;
        } else if ends.end.offset > 1 {
            cleared += self.count_cleared(&last, clear_limit - cleared);
            shift(&mut read_end, cleared);
        }
        requests.additional += cleared;
        if ends.begin.is_first_greater_or_equal() {
            ends.begin.key = ends.begin.key.clone().max(at.begin.clone());
        }
        let mut read_begin = ends.begin.clone();
        if ends.begin.offset > 1 {
            read_begin.offset = 1;
            requests.additional += i64::from(ends.begin.offset) - 1;
        } else if ends.begin.offset < 1 {
            let cleared = self.count_cleared_back(at, clear_limit);
            shift(&mut read_begin, -cleared);
            requests.additional += cleared;
        }
        read_end.key = read_end.key.max(read_begin.key.clone());
        let limits = requests.limits(limits, 2 - i64::from(read_begin.offset));
        let reply = get_range(self.database()?, &read_begin, &read_end, limits, false)?;
        let (from, to) = known_range(&reply, &read_begin, &read_end);
        self.known.insert(from, to);
        self.resolve_ends(ends);
        Ok(reply.rows.into_iter())
    }

    /// The same in descending order.
    pub(super) fn request_back(
        &mut self,
        at: &Segment,
        ends: &mut Ends,
        limits: &Limits,
        requests: &mut Requests,
    ) -> Answer<Fresh> {
        let clear_limit = requests.clear_limit();
        let (mut first, mut cleared) = (at.clone(), 0);
        if at.begin > ends.begin_at.begin {
            (first, cleared) = self.skip_unknown_back(at, &ends.begin_at, clear_limit + 100);
            cleared = cleared.min(clear_limit);
        }
        let past_begin = i64::from(ends.begin.offset.max(1)) - 1;
        let mut read_begin = ends.begin.clone();
        if first.begin != ends.begin_at.begin {
            read_begin = KeySelector::first_greater_or_equal(first.begin);
            requests.additional += past_begin;
        } else if ends.begin.offset > 1 {
            read_begin.offset = 1;
            requests.additional += past_begin;
        } else if ends.begin.offset < 1 {
            cleared += self.count_cleared_back(&first, clear_limit - cleared);
            shift(&mut read_begin, -cleared);
        }
        requests.additional += cleared;
        if ends.end.is_first_greater_or_equal() {
            ends.end.key = ends.end.key.clone().min(at.end.clone());
        }
        let mut read_end = ends.end.clone();
        if ends.end.offset < 1 {
            read_end.offset = 1;
            requests.additional += 1 - i64::from(ends.end.offset);
        } else if ends.end.offset > 1 {
            let cleared = self.count_cleared(at, clear_limit);
            shift(&mut read_end, cleared);
            requests.additional += cleared;
        }
        read_begin.key = read_begin.key.min(read_end.key.clone());
        let limits = requests.limits(limits, read_end.offset.into());
        let reply = get_range(self.database()?, &read_begin, &read_end, limits, true)?;
        let (from, to) = known_range_back(&reply, &read_begin, &read_end);
        self.known.insert(from, to);
        self.resolve_ends(ends);
        Ok(reply.rows.into_iter())
    }
}
