//! The special keys, from `\xff\xff` on: not stored, but generated when they are read.
//!
//! They are divided into modules; a read stays inside one module, unless the transaction allows
//! otherwise. A module consists of *parts*, each of which generates its rows in its own way.

mod read;
mod trace;
mod writes;

pub(crate) use read::{read, Hint};
#[cfg(feature = "management")]
pub(crate) use trace::parse_id;
pub(crate) use trace::Trace;
pub(crate) use writes::Writes;

use std::sync::LazyLock;

use crate::api_version::ApiVersion;
use crate::keys::{Key, KeySelector, Value, ALL_END, SPECIAL_END};
use crate::range_set::RangeSet;
use crate::transaction::{Managed, MANAGED_PARTS};

/// The modules, as begin and end.
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

/// The subject of a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Subject {
    ClusterFilePath,
    ClusterId,
    ConnectionString,
    ErrorMessage,
    Status,
    Tracing,
    ConflictingKeys,
    ReadConflicts,
    WriteConflicts,
    /// Subjects that only administrators ask for.
    #[cfg_attr(
        not(feature = "management"),
        expect(dead_code, reason = "there is nothing to manage")
    )]
    Managed(Managed),
}

/// A part of the special keys.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Part {
    pub(crate) begin: &'static [u8],
    pub(crate) end: &'static [u8],
    pub(crate) subject: Subject,
    pub(crate) writable: bool,
    /// Whether transactions in tenants may use it.
    pub(crate) in_tenants: bool,
    /// The API versions that have it: from the first on, and before the second.
    pub(crate) versions: (i32, i32),
}

impl Part {
    fn contains(&self, key: &[u8]) -> bool {
        self.begin <= key && key < self.end
    }
}

/// The first API version with management and other modules.
const MANAGEMENT: (i32, i32) = (700, i32::MAX);
/// The versions that have special keys at all.
const ALWAYS: (i32, i32) = (630, i32::MAX);

pub(crate) const fn part(begin: &'static [u8], end: &'static [u8], subject: Subject) -> Part {
    Part {
        begin,
        end,
        subject,
        writable: false,
        in_tenants: false,
        versions: MANAGEMENT,
    }
}

pub(crate) const fn writable(begin: &'static [u8], end: &'static [u8], subject: Subject) -> Part {
    Part {
        writable: true,
        ..part(begin, end, subject)
    }
}

/// A part that API version 630 already had.
pub(crate) const fn old(part: Part) -> Part {
    Part {
        versions: ALWAYS,
        ..part
    }
}

const fn in_tenants(part: Part) -> Part {
    Part {
        in_tenants: true,
        ..part
    }
}

/// The parts that every client uses.
static PARTS: &[Part] = &[
    old(in_tenants(part(
        b"\xff\xff/cluster_file_path",
        b"\xff\xff/cluster_file_path\0",
        Subject::ClusterFilePath,
    ))),
    old(in_tenants(part(
        b"\xff\xff/cluster_id",
        b"\xff\xff/cluster_id\0",
        Subject::ClusterId,
    ))),
    old(in_tenants(part(
        b"\xff\xff/connection_string",
        b"\xff\xff/connection_string\0",
        Subject::ConnectionString,
    ))),
    in_tenants(part(
        b"\xff\xff/error_message",
        b"\xff\xff/error_message\0",
        Subject::ErrorMessage,
    )),
    old(in_tenants(part(
        b"\xff\xff/status/json",
        b"\xff\xff/status/json\0",
        Subject::Status,
    ))),
    writable(b"\xff\xff/tracing/", b"\xff\xff/tracing0", Subject::Tracing),
    old(in_tenants(part(
        CONFLICTING_KEYS,
        b"\xff\xff/transaction/conflicting_keys/\xff\xff",
        Subject::ConflictingKeys,
    ))),
    old(in_tenants(part(
        READ_CONFLICTS,
        b"\xff\xff/transaction/read_conflict_range/\xff\xff",
        Subject::ReadConflicts,
    ))),
    old(in_tenants(part(
        WRITE_CONFLICTS,
        b"\xff\xff/transaction/write_conflict_range/\xff\xff",
        Subject::WriteConflicts,
    ))),
];

/// All parts, in the order of their keys.
static ALL_PARTS: LazyLock<Vec<&'static Part>> = LazyLock::new(|| {
    let mut parts: Vec<_> = PARTS.iter().chain(MANAGED_PARTS).collect();
    parts.sort_by_key(|part| part.begin);
    parts
});

pub(crate) const WORKER_INTERFACES: &[u8] = b"\xff\xff/worker_interfaces";
pub(crate) const READ_CONFLICTS: &[u8] = b"\xff\xff/transaction/read_conflict_range/";
pub(crate) const WRITE_CONFLICTS: &[u8] = b"\xff\xff/transaction/write_conflict_range/";
pub(crate) const CONFLICTING_KEYS: &[u8] = b"\xff\xff/transaction/conflicting_keys/";

/// Whether a key is special.
pub(crate) fn is_special(key: &[u8]) -> bool {
    key >= ALL_END && key < SPECIAL_END
}

/// Whether a range read is one of special keys.
pub(crate) fn is_special_range(begin: &KeySelector, end: &KeySelector) -> bool {
    is_special(&begin.key) && end.key[..] >= *ALL_END && end.key[..] <= *SPECIAL_END
}

/// The parts of an API version.
pub(crate) fn parts(api_version: ApiVersion) -> impl DoubleEndedIterator<Item = &'static Part> {
    ALL_PARTS.iter().copied().filter(move |part| {
        let (since, until) = part.versions;
        api_version.is_at_least(since) && !api_version.is_at_least(until)
    })
}

/// The part that accepts writes to a key.
pub(crate) fn writable_part(key: &[u8], api_version: ApiVersion) -> Option<&'static Part> {
    parts(api_version).find(|part| part.writable && part.contains(key))
}

/// The part that accepts writes to the keys right before `end`.
pub(crate) fn writable_part_before(end: &[u8], api_version: ApiVersion) -> Option<&'static Part> {
    parts(api_version).find(|part| part.writable && part.begin < end && end <= part.end)
}

/// Ranges as keys below a prefix: `1` where a range begins, `0` where it ends.
pub(crate) fn boundaries(prefix: &[u8], ranges: &RangeSet) -> Vec<(Key, Value)> {
    let row = |key: &[u8], value: &[u8]| ([prefix, key].concat().into(), value.into());
    ranges
        .ranges()
        .flat_map(|(begin, end)| [row(&begin, b"1"), row(&end, b"0")])
        .collect()
}

/// The error message of a failed change.
pub(crate) fn failure(command: &str, message: &str) -> String {
    let message = message
        .replace('\\', r"\\")
        .replace('"', "\\\"")
        .replace('\n', r"\n");
    format!(r#"{{"command":"{command}","message":"{message}","retriable":false}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_in_order_and_inside_their_modules() {
        for pair in ALL_PARTS.windows(2) {
            assert!(pair[0].end <= pair[1].begin, "{pair:?}");
        }
        for part in ALL_PARTS.iter() {
            let inside = |(begin, end): &(&[u8], &[u8])| *begin <= part.begin && part.end <= *end;
            assert!(MODULES.iter().any(inside), "{part:?}");
        }
    }

    #[cfg(all(feature = "old-api", feature = "management"))]
    #[test]
    fn parts_come_and_go_with_the_api_version() {
        let has =
            |subject, version| parts(ApiVersion::new(version)).any(|part| part.subject == subject);
        let profiling = Subject::Managed(Managed::Profiling);
        assert!(has(Subject::Status, 630) && !has(Subject::Tracing, 630));
        assert!(has(profiling, 710) && !has(profiling, 730));
        assert_eq!(parts(ApiVersion::new(620)).count(), 0);
    }

    #[test]
    fn failures_are_json() {
        assert_eq!(
            failure("lock", "a \"b\"\n"),
            r#"{"command":"lock","message":"a \"b\"\n","retriable":false}"#
        );
    }
}
