//! The special keys that administrators use.

use crate::special::{old, part, writable, Part, Subject};

/// The subject of a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Managed {
    ActorLineage,
    ProfilerConfiguration,
    Coordinators,
    ClassSources,
    ClassTypes,
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
    WorkerInterfaces,
}

pub(crate) const TENANTS: &[u8] = b"\xff\xff/management/tenant/";
pub(crate) const MANAGEMENT_KEYS: &[u8] = b"\xff\xff/management/";

pub(crate) static MANAGED_PARTS: &[Part] = &[
    part(
        b"\xff\xff/actor_lineage/",
        b"\xff\xff/actor_lineage0",
        Subject::Managed(Managed::ActorLineage),
    ),
    writable(
        b"\xff\xff/actor_profiler_conf/",
        b"\xff\xff/actor_profiler_conf0",
        Subject::Managed(Managed::ProfilerConfiguration),
    ),
    writable(
        b"\xff\xff/configuration/coordinators/",
        b"\xff\xff/configuration/coordinators0",
        Subject::Managed(Managed::Coordinators),
    ),
    part(
        b"\xff\xff/configuration/process/class_source/",
        b"\xff\xff/configuration/process/class_source0",
        Subject::Managed(Managed::ClassSources),
    ),
    writable(
        b"\xff\xff/configuration/process/class_type/",
        b"\xff\xff/configuration/process/class_type0",
        Subject::Managed(Managed::ClassTypes),
    ),
    writable(
        b"\xff\xff/global_config/",
        b"\xff\xff/global_config0",
        Subject::Managed(Managed::GlobalConfiguration),
    ),
    part(
        b"\xff\xff/management/auto_coordinators",
        b"\xff\xff/management/auto_coordinators\0",
        Subject::Managed(Managed::AutoCoordinators),
    ),
    writable(
        b"\xff\xff/management/consistency_check_suspended",
        b"\xff\xff/management/consistency_check_suspended\0",
        Subject::Managed(Managed::ConsistencyCheck),
    ),
    writable(
        b"\xff\xff/management/data_distribution/",
        b"\xff\xff/management/data_distribution0",
        Subject::Managed(Managed::DataDistribution),
    ),
    writable(
        b"\xff\xff/management/db_locked",
        b"\xff\xff/management/db_locked\0",
        Subject::Managed(Managed::Lock),
    ),
    writable(
        b"\xff\xff/management/excluded/",
        b"\xff\xff/management/excluded0",
        Subject::Managed(Managed::Excluded),
    ),
    writable(
        b"\xff\xff/management/excluded_locality/",
        b"\xff\xff/management/excluded_locality0",
        Subject::Managed(Managed::Excluded),
    ),
    writable(
        b"\xff\xff/management/failed/",
        b"\xff\xff/management/failed0",
        Subject::Managed(Managed::Excluded),
    ),
    writable(
        b"\xff\xff/management/failed_locality/",
        b"\xff\xff/management/failed_locality0",
        Subject::Managed(Managed::Excluded),
    ),
    part(
        b"\xff\xff/management/in_progress_exclusion/",
        b"\xff\xff/management/in_progress_exclusion0",
        Subject::Managed(Managed::ExclusionInProgress),
    ),
    writable(
        b"\xff\xff/management/maintenance/",
        b"\xff\xff/management/maintenance0",
        Subject::Managed(Managed::Maintenance),
    ),
    writable(
        b"\xff\xff/management/min_required_commit_version",
        b"\xff\xff/management/min_required_commit_version\0",
        Subject::Managed(Managed::MinimumVersion),
    ),
    writable(
        b"\xff\xff/management/options/",
        b"\xff\xff/management/options0",
        Subject::Managed(Managed::Options),
    ),
    Part {
        versions: (700, 720),
        ..writable(
            b"\xff\xff/management/profiling/",
            b"\xff\xff/management/profiling0",
            Subject::Managed(Managed::Profiling),
        )
    },
    old(writable(
        b"\xff\xff/management/tenant/",
        b"\xff\xff/management/tenant0",
        Subject::Managed(Managed::Tenants),
    )),
    writable(
        b"\xff\xff/management/version_epoch",
        b"\xff\xff/management/version_epoch\0",
        Subject::Managed(Managed::VersionEpoch),
    ),
    old(part(
        b"\xff\xff/metrics/data_distribution_stats/",
        b"\xff\xff/metrics/data_distribution_stats/\xff\xff",
        Subject::Managed(Managed::Metrics),
    )),
    old(part(
        b"\xff\xff/metrics/health/",
        b"\xff\xff/metrics/health0",
        Subject::Managed(Managed::Metrics),
    )),
    old(part(
        b"\xff\xff/worker_interfaces/",
        b"\xff\xff/worker_interfaces0",
        Subject::Managed(Managed::WorkerInterfaces),
    )),
];
