//! The result of `fdb_database_get_client_status`, a JSON object.

use rustler::NifMap;
use serde::Deserialize;

use crate::error::Error;

/// The fields that are passed on.
#[derive(NifMap)]
#[rustler(encode)]
pub struct ClientStatus {
    healthy: bool,
    coordinators: Vec<String>,
    coordinator: Option<String>,
    cluster_id: Option<String>,
    /// Connections to the cluster.
    protocol: Option<String>,
    /// Releases and protocols of the loaded client libraries.
    clients: Vec<(String, String)>,
    connections: Vec<Connection>,
    failed_connections: u64,
    /// FoundationDB's code of the error that occurred while opening the database.
    error: Option<i32>,
}

/// A connection to a process of the cluster.
#[derive(NifMap, Deserialize)]
#[rustler(encode)]
#[serde(rename_all(deserialize = "PascalCase"))]
pub struct Connection {
    address: String,
    status: String,
    #[serde(default)]
    connect_failed_count: u64,
    compatible: Option<bool>,
    #[serde(rename(deserialize = "PingTimeoutCount"), default)]
    ping_timeouts: u64,
    #[serde(rename(deserialize = "ProtocolVersion"))]
    protocol: Option<String>,
}

/// The status of a client that may consist of several versions.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct MultiVersion {
    #[serde(default)]
    healthy: bool,
    initialization_error: Option<i32>,
    #[serde(default)]
    available_clients: Vec<AvailableClient>,
    protocol_version: Option<String>,
    #[serde(default)]
    database_status: OfDatabase,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AvailableClient {
    protocol_version: String,
    release_version: String,
}

/// The status of one client library, alone or among several.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct OfDatabase {
    healthy: bool,
    initialization_error: Option<i32>,
    coordinators: Vec<String>,
    current_coordinator: Option<String>,
    #[serde(rename = "ClusterID")]
    cluster_id: Option<String>,
    connections: Vec<Connection>,
    num_connections_failed: u64,
}

impl ClientStatus {
    /// Parses it. `version` is the bound library's release and protocol, which a single library's status
    /// lacks.
    pub fn parse(json: &[u8], version: (String, String)) -> Result<ClientStatus, Error> {
        let wrong = |error: serde_json::Error| {
            Error::Client(format!("the client's status can't be read: {error}"))
        };
        let value: serde_json::Value = serde_json::from_slice(json).map_err(wrong)?;
        if value.get("InitializationState").is_none() {
            let one: OfDatabase = serde_json::from_value(value).map_err(wrong)?;
            return Ok(ClientStatus {
                healthy: one.healthy,
                error: one.initialization_error,
                clients: vec![version],
                protocol: None,
                ..ClientStatus::of(one)
            });
        }
        let several: MultiVersion = serde_json::from_value(value).map_err(wrong)?;
        let clients = several.available_clients.into_iter();
        Ok(ClientStatus {
            healthy: several.healthy,
            error: several.initialization_error,
            clients: clients
                .map(|client| (client.release_version, client.protocol_version))
                .collect(),
            protocol: several.protocol_version,
            ..ClientStatus::of(several.database_status)
        })
    }

    fn of(one: OfDatabase) -> ClientStatus {
        ClientStatus {
            healthy: one.healthy,
            coordinators: one.coordinators,
            coordinator: one.current_coordinator,
            cluster_id: one.cluster_id,
            protocol: None,
            clients: Vec::new(),
            connections: one.connections,
            failed_connections: one.num_connections_failed,
            error: one.initialization_error,
        }
    }
}
