//! The special keys, from `\xff\xff` on: not stored, but made up when they are read.
//!
//! They are divided into modules; a read stays inside one module, unless the transaction allows
//! otherwise. In a module there are *parts*, each of which makes up its rows in its own way.

mod read;
mod trace;
mod writes;

pub(crate) use read::{read, Hint};
pub(crate) use trace::{parse_id, Trace, TOKEN, TRANSACTION};
pub(crate) use writes::Writes;

use crate::keys::{Key, KeySelector, Value, ALL_END, SPECIAL_END};
use crate::range_set::RangeSet;

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

/// What a part is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Subject {
    ActorLineage,
    ProfilerConfiguration,
    ClusterFilePath,
    ClusterId,
    Coordinators,
    ClassSources,
    ClassTypes,
    ConnectionString,
    ErrorMessage,
    GlobalConfiguration,
    AutoCoordinators,
    ConsistencyCheck,
    DataDistribution,
    Lock,
    /// Servers or localities that are excluded, or have failed.
    Excluded,
    ExclusionInProgress,
    Maintenance,
    MinimumVersion,
    Options,
    Profiling,
    Tenants,
    VersionEpoch,
    Metrics,
    Status,
    Tracing,
    ConflictingKeys,
    ReadConflicts,
    WriteConflicts,
    WorkerInterfaces,
}

/// A part of the special keys.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Part {
    pub(crate) begin: &'static [u8],
    pub(crate) end: &'static [u8],
    pub(crate) subject: Subject,
    writable: bool,
    /// Whether transactions in tenants may use it.
    pub(crate) in_tenants: bool,
    /// The API versions that have it: from the first, and before the second.
    versions: (i32, i32),
}

impl Part {
    fn contains(&self, key: &[u8]) -> bool {
        self.begin <= key && key < self.end
    }
}

/// The API version from which on there are management and other modules.
const MANAGEMENT: (i32, i32) = (700, i32::MAX);
/// The versions that have special keys at all.
const ALWAYS: (i32, i32) = (630, i32::MAX);

const fn part(begin: &'static [u8], end: &'static [u8], subject: Subject) -> Part {
    Part {
        begin,
        end,
        subject,
        writable: false,
        in_tenants: false,
        versions: MANAGEMENT,
    }
}

const fn writable(begin: &'static [u8], end: &'static [u8], subject: Subject) -> Part {
    Part {
        writable: true,
        ..part(begin, end, subject)
    }
}

/// A part that API version 630 had already.
const fn old(part: Part) -> Part {
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

/// All parts, in the order of their keys.
static PARTS: &[Part] = &[
    part(
        b"\xff\xff/actor_lineage/",
        b"\xff\xff/actor_lineage0",
        Subject::ActorLineage,
    ),
    writable(
        b"\xff\xff/actor_profiler_conf/",
        b"\xff\xff/actor_profiler_conf0",
        Subject::ProfilerConfiguration,
    ),
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
    writable(
        b"\xff\xff/configuration/coordinators/",
        b"\xff\xff/configuration/coordinators0",
        Subject::Coordinators,
    ),
    part(
        b"\xff\xff/configuration/process/class_source/",
        b"\xff\xff/configuration/process/class_source0",
        Subject::ClassSources,
    ),
    writable(
        b"\xff\xff/configuration/process/class_type/",
        b"\xff\xff/configuration/process/class_type0",
        Subject::ClassTypes,
    ),
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
    writable(
        b"\xff\xff/global_config/",
        b"\xff\xff/global_config0",
        Subject::GlobalConfiguration,
    ),
    part(
        b"\xff\xff/management/auto_coordinators",
        b"\xff\xff/management/auto_coordinators\0",
        Subject::AutoCoordinators,
    ),
    writable(
        b"\xff\xff/management/consistency_check_suspended",
        b"\xff\xff/management/consistency_check_suspended\0",
        Subject::ConsistencyCheck,
    ),
    writable(
        b"\xff\xff/management/data_distribution/",
        b"\xff\xff/management/data_distribution0",
        Subject::DataDistribution,
    ),
    writable(
        b"\xff\xff/management/db_locked",
        b"\xff\xff/management/db_locked\0",
        Subject::Lock,
    ),
    writable(
        b"\xff\xff/management/excluded/",
        b"\xff\xff/management/excluded0",
        Subject::Excluded,
    ),
    writable(
        b"\xff\xff/management/excluded_locality/",
        b"\xff\xff/management/excluded_locality0",
        Subject::Excluded,
    ),
    writable(
        b"\xff\xff/management/failed/",
        b"\xff\xff/management/failed0",
        Subject::Excluded,
    ),
    writable(
        b"\xff\xff/management/failed_locality/",
        b"\xff\xff/management/failed_locality0",
        Subject::Excluded,
    ),
    part(
        b"\xff\xff/management/in_progress_exclusion/",
        b"\xff\xff/management/in_progress_exclusion0",
        Subject::ExclusionInProgress,
    ),
    writable(
        b"\xff\xff/management/maintenance/",
        b"\xff\xff/management/maintenance0",
        Subject::Maintenance,
    ),
    writable(
        b"\xff\xff/management/min_required_commit_version",
        b"\xff\xff/management/min_required_commit_version\0",
        Subject::MinimumVersion,
    ),
    writable(
        b"\xff\xff/management/options/",
        b"\xff\xff/management/options0",
        Subject::Options,
    ),
    Part {
        versions: (700, 720),
        ..writable(
            b"\xff\xff/management/profiling/",
            b"\xff\xff/management/profiling0",
            Subject::Profiling,
        )
    },
    old(writable(
        b"\xff\xff/management/tenant/",
        b"\xff\xff/management/tenant0",
        Subject::Tenants,
    )),
    writable(
        b"\xff\xff/management/version_epoch",
        b"\xff\xff/management/version_epoch\0",
        Subject::VersionEpoch,
    ),
    old(part(
        b"\xff\xff/metrics/data_distribution_stats/",
        b"\xff\xff/metrics/data_distribution_stats/\xff\xff",
        Subject::Metrics,
    )),
    old(part(
        b"\xff\xff/metrics/health/",
        b"\xff\xff/metrics/health0",
        Subject::Metrics,
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
    old(part(
        b"\xff\xff/worker_interfaces/",
        b"\xff\xff/worker_interfaces0",
        Subject::WorkerInterfaces,
    )),
];

pub(crate) const WORKER_INTERFACES: &[u8] = b"\xff\xff/worker_interfaces";
pub(crate) const READ_CONFLICTS: &[u8] = b"\xff\xff/transaction/read_conflict_range/";
pub(crate) const WRITE_CONFLICTS: &[u8] = b"\xff\xff/transaction/write_conflict_range/";
pub(crate) const CONFLICTING_KEYS: &[u8] = b"\xff\xff/transaction/conflicting_keys/";
pub(crate) const TENANTS: &[u8] = b"\xff\xff/management/tenant/";
pub(crate) const MANAGEMENT_KEYS: &[u8] = b"\xff\xff/management/";

/// Whether a key is special.
pub(crate) fn is_special(key: &[u8]) -> bool {
    key >= ALL_END && key < SPECIAL_END
}

/// Whether a range read is one of special keys.
pub(crate) fn is_special_range(begin: &KeySelector, end: &KeySelector) -> bool {
    is_special(&begin.key) && end.key[..] >= *ALL_END && end.key[..] <= *SPECIAL_END
}

/// The parts that an API version has.
pub(crate) fn parts(api_version: i32) -> impl DoubleEndedIterator<Item = &'static Part> {
    PARTS.iter().filter(move |part| {
        let (since, until) = part.versions;
        since <= api_version && api_version < until
    })
}

/// The part that takes writes to a key.
pub(crate) fn writable_part(key: &[u8], api_version: i32) -> Option<&'static Part> {
    parts(api_version).find(|part| part.writable && part.contains(key))
}

/// The part that takes writes to the keys right before `end`.
pub(crate) fn writable_part_before(end: &[u8], api_version: i32) -> Option<&'static Part> {
    parts(api_version).find(|part| part.writable && part.begin < end && end <= part.end)
}

/// Ranges as keys below a prefix: `1` where one begins, `0` where it ends.
pub(crate) fn boundaries(prefix: &[u8], ranges: &RangeSet) -> Vec<(Key, Value)> {
    let row = |key: &[u8], value: &[u8]| ([prefix, key].concat().into(), value.into());
    ranges
        .ranges()
        .flat_map(|(begin, end)| [row(&begin, b"1"), row(&end, b"0")])
        .collect()
}

/// What the error message tells of a failed change.
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
        for pair in PARTS.windows(2) {
            assert!(pair[0].end <= pair[1].begin, "{pair:?}");
        }
        for part in PARTS {
            let inside = |(begin, end): &(&[u8], &[u8])| *begin <= part.begin && part.end <= *end;
            assert!(MODULES.iter().any(inside), "{part:?}");
        }
    }

    #[test]
    fn parts_come_and_go_with_the_api_version() {
        let has = |subject, version| parts(version).any(|part| part.subject == subject);
        assert!(has(Subject::Status, 630) && !has(Subject::Tracing, 630));
        assert!(has(Subject::Profiling, 710) && !has(Subject::Profiling, 730));
        assert_eq!(parts(620).count(), 0);
    }

    #[test]
    fn failures_are_json() {
        assert_eq!(
            failure("lock", "a \"b\"\n"),
            r#"{"command":"lock","message":"a \"b\"\n","retriable":false}"#
        );
    }
}
