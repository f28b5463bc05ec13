//! The special keys, from `\xff\xff` on: not stored, but made up when they are read.
//!
//! They are divided into modules. A read stays inside one module, unless the transaction allows
//! otherwise.

use crate::error::{Error, Result};
use crate::keys::{Key, KeySelector, Limits, Rows, Value, ALL_END, SPECIAL_END};
use crate::range_set::RangeSet;
use crate::{random, status};

/// The keys of each module, as begin and end.
const MODULES: &[(&[u8], &[u8])] = &[
    (b"\xff\xff/actor_lineage/", b"\xff\xff/actor_lineage0"),
    (
        b"\xff\xff/actor_profiler_conf/",
        b"\xff\xff/actor_profiler_conf0",
    ),
    (
        b"\xff\xff/cluster_file_path",
        b"\xff\xff/cluster_file_path\0",
    ),
    (b"\xff\xff/cluster_id", b"\xff\xff/cluster_id\0"),
    (b"\xff\xff/configuration/", b"\xff\xff/configuration0"),
    (
        b"\xff\xff/connection_string",
        b"\xff\xff/connection_string\0",
    ),
    (b"\xff\xff/error_message", b"\xff\xff/error_message\0"),
    (b"\xff\xff/global_config/", b"\xff\xff/global_config0"),
    (b"\xff\xff/management/", b"\xff\xff/management0"),
    (b"\xff\xff/metrics/", b"\xff\xff/metrics0"),
    (b"\xff\xff/status/json", b"\xff\xff/status/json\0"),
    (b"\xff\xff/tracing/", b"\xff\xff/tracing0"),
    (b"\xff\xff/transaction/", b"\xff\xff/transaction0"),
    (
        b"\xff\xff/worker_interfaces/",
        b"\xff\xff/worker_interfaces0",
    ),
];

pub(crate) const WORKER_INTERFACES: &[u8] = b"\xff\xff/worker_interfaces";
pub(crate) const STATUS_JSON: &[u8] = b"\xff\xff/status/json";
pub(crate) const CONNECTION_STRING: &[u8] = b"\xff\xff/connection_string";
pub(crate) const CLUSTER_FILE_PATH: &[u8] = b"\xff\xff/cluster_file_path";
pub(crate) const ERROR_MESSAGE: &[u8] = b"\xff\xff/error_message";
pub(crate) const READ_CONFLICTS: &[u8] = b"\xff\xff/transaction/read_conflict_range/";
pub(crate) const WRITE_CONFLICTS: &[u8] = b"\xff\xff/transaction/write_conflict_range/";
pub(crate) const CONFLICTING_KEYS: &[u8] = b"\xff\xff/transaction/conflicting_keys/";
/// The module that a transaction in a tenant may read.
const TRANSACTION: &[u8] = b"\xff\xff/transaction/";

/// What a cluster says of itself that holds for one process that was never configured.
pub(crate) const SETTINGS: &[(&[u8], &str)] = &[
    (
        b"\xff\xff/configuration/coordinators/cluster_description",
        "embedded",
    ),
    (
        b"\xff\xff/configuration/coordinators/processes",
        status::ADDRESS,
    ),
    (b"\xff\xff/management/data_distribution/mode", "-1"),
    (
        b"\xff\xff/management/profiling/client_txn_sample_rate",
        "default",
    ),
    (
        b"\xff\xff/management/profiling/client_txn_size_limit",
        "default",
    ),
];

pub(crate) const TRACING: &[u8] = b"\xff\xff/tracing/";
pub(crate) const TRACING_TOKEN: &[u8] = b"\xff\xff/tracing/token";
pub(crate) const TRACING_TRANSACTION: &[u8] = b"\xff\xff/tracing/transaction_id";
const TRACING_END: &[u8] = b"\xff\xff/tracing0";

pub(crate) const TENANT_MAP: &[u8] = b"\xff\xff/management/tenant/map/";
const TENANT_MAP_END: &[u8] = b"\xff\xff/management/tenant/map0";
const TENANT_RENAME: &[u8] = b"\xff\xff/management/tenant/rename/";
const TENANTS: &[u8] = b"\xff\xff/management/tenant/";
const TENANTS_END: &[u8] = b"\xff\xff/management/tenant0";

/// Whether a key is special.
pub(crate) fn is_special(key: &[u8]) -> bool {
    key >= ALL_END && key < SPECIAL_END
}

/// Whether a range read is one of special keys.
pub(crate) fn is_special_range(begin: &KeySelector, end: &KeySelector) -> bool {
    is_special(&begin.key) && end.key[..] >= *ALL_END && end.key[..] <= *SPECIAL_END
}

/// The keys that a read may reach, from the boundaries of the module it is in.
pub(crate) fn boundary(
    begin: &[u8],
    end: &[u8],
    relaxed: bool,
    in_tenant: bool,
) -> Result<(&'static [u8], &'static [u8])> {
    if relaxed && !in_tenant {
        return Ok((ALL_END, SPECIAL_END));
    }
    let module = MODULES
        .iter()
        .find(|(first, last)| *first <= begin && begin < *last);
    let Some(&(first, last)) = module else {
        // Between two modules; reaching into the next one is another error.
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
    if in_tenant && first != TRANSACTION {
        return Err(Error::ILLEGAL_TENANT_ACCESS);
    }
    Ok((first, last))
}

/// Reads a range from all rows there are inside a boundary, in the order of keys.
pub(crate) fn select(
    rows: Vec<(Key, Value)>,
    (first, last): (&[u8], &[u8]),
    begin: KeySelector,
    end: KeySelector,
    mut limits: Limits,
    reverse: bool,
) -> Rows {
    let (begin, end) = (begin.without_or_equal(), end.without_or_equal());
    let resolve = |selector: &KeySelector| -> (Key, i64) {
        let at = rows.partition_point(|(key, _)| *key < selector.key);
        if selector.offset == 1 {
            return (selector.key.clone(), 1);
        }
        let index = i64::try_from(at).unwrap_or(i64::MAX) + i64::from(selector.offset) - 1;
        match usize::try_from(index) {
            Err(_) => (first.into(), index),
            Ok(index) => match rows.get(index) {
                Some((key, _)) => (key.clone(), 1),
                None => (last.into(), 2 + index as i64 - rows.len() as i64),
            },
        }
    };
    let ((from, from_offset), (to, to_offset)) = (resolve(&begin), resolve(&end));
    let mut selected = Rows::default();
    if from_offset >= to_offset && from >= to {
        return selected;
    }
    let rows = rows
        .into_iter()
        .filter(|(key, _)| *key >= from && *key < to);
    let ordered: Box<dyn Iterator<Item = (Key, Value)>> = if reverse {
        Box::new(rows.rev())
    } else {
        Box::new(rows)
    };
    for (key, value) in ordered {
        limits.count(&key, &value);
        selected.rows.push((key, value));
        if limits.reached() {
            selected.more = true;
            break;
        }
    }
    selected
}

/// Ranges as keys below a prefix: `1` where one begins, `0` where it ends.
pub(crate) fn boundaries(prefix: &[u8], ranges: &RangeSet) -> Vec<(Key, Value)> {
    let row = |key: &[u8], value: &[u8]| ([prefix, key].concat().into(), value.into());
    ranges
        .ranges()
        .flat_map(|(begin, end)| [row(&begin, b"1"), row(&end, b"0")])
        .collect()
}

/// A change to special keys, done when the transaction commits.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    CreateTenant(Key),
    DeleteTenants(Key, Key),
    RenameTenant(Key, Key),
}

/// The names by which traces know a transaction. Nothing is traced here, but a client may pass them
/// on to what does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Trace {
    pub(crate) transaction: (u64, u64),
    pub(crate) token: u64,
}

impl Trace {
    pub(crate) fn new() -> Self {
        Trace {
            transaction: (random::number(), random::number()),
            token: random::number(),
        }
    }

    pub(crate) fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        match (key, value) {
            (TRACING_TOKEN, b"true") => self.token = random::number(),
            (TRACING_TOKEN, b"false") => self.token = 0,
            (TRACING_TRANSACTION, id) => self.transaction = parse_id(id)?,
            (TRACING_TOKEN, _) => return Err(Error::SPECIAL_KEYS_API_FAILURE),
            _ => {}
        }
        Ok(())
    }
}

/// Two numbers of 16 hexadecimal digits each.
fn parse_id(id: &[u8]) -> Result<(u64, u64)> {
    let digits = std::str::from_utf8(id).ok().filter(|id| id.len() == 32);
    let number = |part: Option<&str>| u64::from_str_radix(part?, 16).ok();
    let numbers = digits.and_then(|id| Some((number(id.get(..16))?, number(id.get(16..))?)));
    numbers.ok_or(Error::SPECIAL_KEYS_API_FAILURE)
}

/// What the error message tells of a failed change. Both are plain words.
pub(crate) fn failure(command: &str, message: &str) -> String {
    format!(r#"{{"retriable":false,"command":"{command}","message":"{message}"}}"#)
}

/// What setting a special key means.
pub(crate) fn set(key: &[u8], value: &[u8]) -> Result<Change> {
    if let Some(name) = key.strip_prefix(TENANT_MAP) {
        Ok(Change::CreateTenant(name.into()))
    } else if let Some(name) = key.strip_prefix(TENANT_RENAME) {
        Ok(Change::RenameTenant(name.into(), value.into()))
    } else {
        Err(Error::SPECIAL_KEYS_NO_WRITE_MODULE_FOUND)
    }
}

/// What clearing special keys means.
pub(crate) fn clear(begin: &[u8], end: &[u8]) -> Result<Option<Change>> {
    if begin >= TRACING && end <= TRACING_END {
        return Err(Error::SPECIAL_KEYS_API_FAILURE);
    }
    let inside = |key: &[u8], last: bool| {
        key >= TENANTS
            && if last {
                key <= TENANTS_END
            } else {
                key < TENANTS_END
            }
    };
    match (inside(begin, false), inside(end, true)) {
        (true, true) => {
            let from = begin.max(TENANT_MAP);
            let to = end.min(TENANT_MAP_END);
            let name = |key: &[u8], at_end: &[u8]| -> Key {
                key.strip_prefix(TENANT_MAP).unwrap_or(at_end).into()
            };
            Ok((from < to).then(|| Change::DeleteTenants(name(from, b""), name(to, b"\xff"))))
        }
        (false, false) => Err(Error::SPECIAL_KEYS_NO_WRITE_MODULE_FOUND),
        _ => Err(Error::SPECIAL_KEYS_CROSS_MODULE_CLEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_stays_in_its_module() {
        let check = |begin: &[u8], end: &[u8]| boundary(begin, end, false, false);
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
        let in_tenant = boundary(STATUS_JSON, b"\xff\xff/status/json\0", false, true);
        assert_eq!(in_tenant, Err(Error::ILLEGAL_TENANT_ACCESS));
    }

    #[test]
    fn clears_are_told_by_the_names_they_cover() {
        let all = clear(TENANT_MAP, TENANT_MAP_END);
        assert!(
            matches!(all, Ok(Some(Change::DeleteTenants(b, e))) if b.is_empty() && e[..] == *b"\xff")
        );
        assert!(matches!(
            clear(b"\xff\xff/a", b"\xff\xff/b"),
            Err(Error::SPECIAL_KEYS_NO_WRITE_MODULE_FOUND)
        ));
        assert!(matches!(
            clear(TENANT_MAP, b"\xff\xff/z"),
            Err(Error::SPECIAL_KEYS_CROSS_MODULE_CLEAR)
        ));
    }
}
