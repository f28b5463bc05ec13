//! The database's status in `\xff\xff/status/json`.

use crate::mvcc::Version;

/// Stands in for a cluster's addresses.
pub(crate) const CONNECTION_STRING: &str = "embedded:embedded@127.0.0.1:4500";

/// The address of the cluster's only process, which is this one.
pub(crate) const ADDRESS: &str = "127.0.0.1:4500";

/// Stands in for the id of a cluster.
pub(crate) const CLUSTER_ID: &str = "656d626564646564656d626564646564";

/// The status of a cluster that consists of this process: only fields that are true here.
pub(crate) fn json(version: Version, generation: u64) -> String {
    let connection_string = CONNECTION_STRING;
    format!(
        concat!(
            r#"{{"client":{{"cluster_file":{{"up_to_date":true}},"#,
            r#""coordinators":{{"coordinators":[],"quorum_reachable":true}},"#,
            r#""database_status":{{"available":true,"healthy":true}},"messages":[]}},"#,
            r#""cluster":{{"connection_string":"{connection_string}","#,
            r#""database_available":true,"#,
            r#""database_lock_state":{{"locked":false}},"#,
            r#""full_replication":true,"generation":{generation},"#,
            r#""latest_read_version":{version},"#,
            r#""machines":{{}},"messages":[],"#,
            r#""processes":{{"embedded":{{"address":"{address}"}}}},"#,
            r#""protocol_version":"fdb00b073000000"}}}}"#
        ),
        connection_string = connection_string,
        address = ADDRESS,
        generation = generation,
        version = version,
    )
}
