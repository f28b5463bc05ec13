//! Range reads of special keys: selectors that move from part to part, and the rows of several parts.

use super::{Part, MODULES};
use crate::error::{Error, Result};
use crate::keys::{key_after, Key, KeySelector, Limits, Rows, Value, ALL_END, SPECIAL_END};

/// How many rows a part may return at most; `None` for all.
pub(crate) type Hint = Option<usize>;

/// Generates the rows of a part in a range.
type Source<'a> = dyn FnMut(&'static Part, &[u8], &[u8], Hint) -> Result<Vec<(Key, Value)>> + 'a;

/// The keys that a read may access, from the boundaries of its module.
fn boundary(begin: &[u8], end: &[u8], relaxed: bool) -> Result<(&'static [u8], &'static [u8])> {
    if relaxed {
        return Ok((ALL_END, SPECIAL_END));
    }
    let module = MODULES
        .iter()
        .find(|(first, last)| *first <= begin && begin < *last);
    let Some(&(first, last)) = module else {
        // Between two modules; reading into the next one is a different error.
        let next = MODULES
            .iter()
            .map(|(first, _)| *first)
            .find(|first| begin < *first);
        let last = MODULES
            .iter()
            .rev()
            .map(|(_, last)| *last)
            .find(|last| *last <= begin);
        let inside = last.unwrap_or(ALL_END) <= end && end <= next.unwrap_or(SPECIAL_END);
        return Err(if inside {
            Error::SPECIAL_KEYS_NO_MODULE_FOUND
        } else {
            Error::SPECIAL_KEYS_CROSS_MODULE_READ
        });
    };
    if end < first || end > last {
        return Err(Error::SPECIAL_KEYS_CROSS_MODULE_READ);
    }
    Ok((first, last))
}

/// The inputs of a read.
struct Reader<'a> {
    parts: Vec<&'static Part>,
    in_tenant: bool,
    source: &'a mut Source<'a>,
}

impl Reader<'_> {
    fn check_tenant(&self, part: &Part) -> Result<()> {
        if self.in_tenant && !part.in_tenants {
            Err(Error::ILLEGAL_TENANT_ACCESS)
        } else {
            Ok(())
        }
    }

    /// Moves a selector over a part, towards the offset 1.
    fn move_over(&mut self, part: &'static Part, selector: &mut KeySelector) -> Result<()> {
        self.check_tenant(part)?;
        let (mut begin, mut end): (Key, Key) = (part.begin.into(), part.end.into());
        if part.contains(&selector.key) {
            if selector.offset < 1 {
                end = selector.key.clone();
            } else {
                begin = selector.key.clone();
            }
        }
        let wanted = if selector.offset >= 1 {
            i64::from(selector.offset)
        } else {
            1 - i64::from(selector.offset)
        };
        let wanted = usize::try_from(wanted).unwrap_or(0);
        let rows = (self.source)(part, &begin, &end, Some(wanted))?;
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
            return Ok(());
        };
        let count = i32::try_from(rows.len()).unwrap_or(i32::MAX);
        if selector.offset < 1 {
            match rows.len().checked_sub(wanted) {
                Some(at) => {
                    selector.key = rows[at].0.clone();
                    selector.offset = 1;
                }
                None => {
                    selector.key = first.0.clone();
                    selector.offset += count;
                }
            }
        } else {
            match rows.get(wanted.saturating_sub(1)) {
                Some((key, _)) => {
                    selector.key = key.clone();
                    selector.offset = 1;
                }
                None => {
                    selector.key = key_after(&last.0);
                    selector.offset -= count;
                }
            }
        }
        Ok(())
    }

    /// Moves a selector until its offset is 1, or to an end of the readable keys. Returns the offset
    /// that it had before it was clamped there.
    fn normalize(
        &mut self,
        selector: &mut KeySelector,
        (first, last): (&[u8], &[u8]),
    ) -> Result<i32> {
        let key = selector.key.clone();
        if selector.offset < 1 {
            let left = |part: &&&'static Part| part.begin < &key[..] && part.begin >= first;
            let parts: Vec<_> = self.parts.iter().rev().filter(left).copied().collect();
            for part in parts {
                if selector.offset < 1 {
                    self.move_over(part, selector)?;
                }
            }
        } else if selector.offset > 1 {
            let right = |part: &&&'static Part| part.end > &key[..] && part.begin < last;
            let parts: Vec<_> = self.parts.iter().filter(right).copied().collect();
            for part in parts {
                if selector.offset > 1 {
                    self.move_over(part, selector)?;
                }
            }
        }
        let reached = selector.offset;
        if reached != 1 {
            selector.key = if reached < 1 { first } else { last }.into();
            selector.offset = 1;
        }
        Ok(reached)
    }
}

/// Reads a range of special keys, whose rows `source` generates. The selectors have no `or_equal`.
pub(crate) fn read(
    parts: Vec<&'static Part>,
    (relaxed, in_tenant): (bool, bool),
    mut begin: KeySelector,
    mut end: KeySelector,
    mut limits: Limits,
    reverse: bool,
    source: &mut Source,
) -> Result<Rows> {
    let boundary = boundary(&begin.key, &end.key, relaxed)?;
    let mut reader = Reader {
        parts,
        in_tenant,
        source,
    };
    let begin_reached = reader.normalize(&mut begin, boundary)?;
    let end_reached = reader.normalize(&mut end, boundary)?;
    let mut selected = Rows::default();
    let inverted = begin_reached >= end_reached && begin.key >= end.key;
    if inverted || begin.key[..] == *boundary.1 || end.key[..] == *boundary.0 {
        return Ok(selected);
    }
    let inside = |part: &&&'static Part| part.end > &begin.key[..] && part.begin < &end.key[..];
    let mut parts: Vec<_> = reader.parts.iter().filter(inside).copied().collect();
    for part in &parts {
        reader.check_tenant(part)?;
    }
    if reverse {
        parts.reverse();
    }
    for part in parts {
        let from = if part.contains(&begin.key) {
            &begin.key
        } else {
            part.begin
        };
        let to = if part.contains(&end.key) {
            &end.key
        } else {
            part.end
        };
        let mut rows = (reader.source)(part, from, to, limits.rows)?;
        if reverse {
            rows.reverse();
        }
        for (key, value) in rows {
            limits.count(&key, &value);
            selected.rows.push((key, value));
            if limits.reached() {
                selected.more = true;
                return Ok(selected);
            }
        }
    }
    Ok(selected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_version::ApiVersion;
    use crate::special::parts;

    #[test]
    fn a_read_stays_in_its_module() {
        const STATUS_JSON: &[u8] = b"\xff\xff/status/json";
        let check = |begin: &[u8], end: &[u8]| boundary(begin, end, false);
        assert_eq!(
            check(STATUS_JSON, b"\xff\xff/status/json\0").map(|b| b.0),
            Ok(STATUS_JSON)
        );
        assert_eq!(
            check(b"\xff\xff/z", b"\xff\xff/zz"),
            Err(Error::SPECIAL_KEYS_NO_MODULE_FOUND)
        );
        let crossing = check(STATUS_JSON, b"\xff\xff/tracing/");
        assert_eq!(crossing, Err(Error::SPECIAL_KEYS_CROSS_MODULE_READ));
    }

    #[cfg(feature = "management")]
    #[test]
    fn selectors_move_from_part_to_part() {
        // Every part has one row, its first key.
        let mut source = |part: &'static Part, begin: &[u8], end: &[u8], _| {
            let row = (begin <= part.begin && part.begin < end)
                .then(|| (part.begin.into(), b""[..].into()));
            Ok(row.into_iter().collect())
        };
        let selector = |key: &[u8], offset| KeySelector {
            key: key.into(),
            or_equal: false,
            offset,
        };
        let begin = selector(b"\xff\xff/management/excluded/", -1);
        let end = selector(b"\xff\xff/management/excluded/", 3);
        let limits = Limits::new(None, None);
        let options = (false, false);
        let parts: Vec<_> = parts(ApiVersion::new(730)).collect();
        let rows = read(parts, options, begin, end, limits, false, &mut source);
        let keys: Vec<_> = rows
            .map(|rows| rows.rows)
            .unwrap_or_default()
            .into_iter()
            .map(|(key, _)| String::from_utf8_lossy(&key[14..]).into_owned())
            .collect();
        assert_eq!(
            keys,
            [
                "data_distribution/",
                "db_locked",
                "excluded/",
                "excluded_locality/"
            ]
        );
    }
}
