//! Which keys a read depends on.
//!
//! A conflict range has to contain every key whose change could have changed the result, and should
//! contain no others.

use super::*;

/// The keys whose change could change where a selector resolves to.
pub(super) fn key_conflict(selector: &KeySelector, key: &Key) -> KeyRange {
    let from = if selector.or_equal {
        stored_key_after(&selector.key)
    } else {
        selector.key.clone()
    };
    if selector.offset <= 0 {
        (key.clone(), from)
    } else {
        (from, stored_key_after(key))
    }
}

/// The keys whose change could change the rows of a range read. The selectors have no `or_equal`.
pub(super) fn range_conflict(
    begin: &KeySelector,
    end: &KeySelector,
    rows: &Rows,
    reverse: bool,
    max_key: &[u8],
) -> KeyRange {
    let (mut from, mut to) = if begin.key < end.key {
        // Rows that a limit cut off at the far end can't change the result: only returned rows count,
        // and they are added below.
        if !reverse && end.offset > 0 && rows.more {
            (begin.key.clone(), begin.key.clone())
        } else if reverse && begin.offset <= 1 && rows.more {
            (end.key.clone(), end.key.clone())
        } else {
            (begin.key.clone(), end.key.clone())
        }
    } else {
        (end.key.clone(), begin.key.clone())
    };
    if rows.read_to_begin && begin.offset <= 0 {
        from = [][..].into();
    }
    if rows.read_through_end && end.offset > 0 {
        to = max_key.into();
    }
    if let (Some((first, _)), Some((last, _))) = (rows.rows.first(), rows.rows.last()) {
        let (lowest, highest) = if reverse {
            (last, first)
        } else {
            (first, last)
        };
        if reverse || begin.offset <= 0 {
            from = from.min(lowest.clone());
        }
        if (!reverse || end.offset > 0) && to <= *highest {
            to = key_after(highest);
        }
    }
    (from, to)
}

/// As [`range_conflict`], for a read of the database alone.
pub(super) fn plain_range_conflict(
    begin: &KeySelector,
    end: &KeySelector,
    rows: &Rows,
    reverse: bool,
) -> KeyRange {
    let lowest_and_highest = match (rows.rows.first(), rows.rows.last()) {
        (Some((first, _)), Some((last, _))) if reverse => Some((last, first)),
        (Some((first, _)), Some((last, _))) => Some((first, last)),
        _ => None,
    };
    let whole_begin = (!reverse || !rows.more || begin.offset > 1) && begin.offset > 0;
    let mut from = match lowest_and_highest {
        _ if rows.read_to_begin => [][..].into(),
        Some((lowest, _)) if !whole_begin => lowest.clone(),
        _ => begin.key.clone(),
    };
    if end.offset > begin.offset && end.key < from {
        from = end.key.clone();
    }
    let whole_end = (reverse || !rows.more || end.offset <= 0) && end.offset <= 1;
    let mut to = match lowest_and_highest {
        _ if rows.read_through_end => ALL_END.into(),
        Some((_, highest)) if !whole_end => key_after(highest),
        _ => end.key.clone(),
    };
    if begin.offset < end.offset && begin.key > to {
        to = begin.key.clone();
    }
    (from, to)
}
