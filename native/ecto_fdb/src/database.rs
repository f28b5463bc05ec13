//! Databases: their location and their transactions.

use std::path::Path;

use foundationdb::future::FdbSlice;
use foundationdb::options::DatabaseOption;
use foundationdb::Transaction;
use rustler::NifMap;

use crate::error::Error;
use crate::health::Health;
use crate::stats::Stats;

/// FoundationDB's `no_cluster_file_found`.
const NO_CLUSTER_FILE: i32 = 1515;
/// FoundationDB's `io_error`.
const IO_ERROR: i32 = 1510;
/// FoundationDB's `connection_string_invalid`.
const CONNECTION_STRING_INVALID: i32 = 2104;

/// The location of a database.
#[derive(Clone, PartialEq, Eq)]
pub enum Target {
    /// The embedded engine, in memory, under a name.
    Memory(String),
    /// The embedded engine, in a file.
    File(String),
    /// A cluster, by its cluster file, or by the one that FoundationDB's clients use by default.
    Cluster(Option<String>),
}

impl Target {
    /// The argument for `fdb_create_database`.
    fn cluster_file(&self) -> Option<String> {
        match self {
            Target::Memory(name) => Some(format!("embedded:memory:{name}")),
            Target::File(path) => Some(format!("embedded:file:{path}")),
            Target::Cluster(path) => path.clone(),
        }
    }

    fn is_embedded(&self) -> bool {
        !matches!(self, Target::Cluster(_))
    }
}

/// A database.
pub struct Database {
    inner: foundationdb::Database,
    embedded: Option<embedded_fdb::admin::Database>,
    facts: Facts,
    /// Its counters.
    pub stats: Stats,
    /// How it responds.
    pub health: Health,
}

/// The location of a database when it was opened.
#[derive(NifMap, Clone, Default)]
#[rustler(encode)]
pub struct Facts {
    /// The cluster file that the client reads.
    cluster_file: Option<String>,
    /// The file's contents.
    connection_string: Option<String>,
    /// The embedded engine's file.
    file: Option<String>,
}

impl Database {
    /// Opens it. Touches the file system.
    pub fn new(target: &Target) -> Result<Database, Error> {
        let facts = match target {
            Target::Cluster(path) => check_cluster(path.as_deref())?,
            Target::File(path) => Facts {
                file: Some(path.clone()),
                ..Facts::default()
            },
            Target::Memory(_) => Facts::default(),
        };
        let cluster_file = target.cluster_file();
        // The engine itself reports why it can't open a file; the C API only has an error code.
        let embedded = match &cluster_file {
            Some(name) if target.is_embedded() => Some(
                embedded_fdb::admin::Database::open(name)
                    .map_err(|error| Error::Client(error.to_string()))?,
            ),
            _ => None,
        };
        Ok(Database {
            inner: foundationdb::Database::new(cluster_file.as_deref())?,
            embedded,
            facts,
            stats: Stats::default(),
            health: Health::default(),
        })
    }

    /// Sets options for all later transactions.
    pub fn set_options(&self, options: Vec<DatabaseOption>) -> Result<(), Error> {
        for option in options {
            self.inner.set_option(option)?;
        }
        Ok(())
    }

    /// A new transaction.
    pub fn transaction(&self) -> Result<Transaction, Error> {
        Ok(self.inner.create_trx()?)
    }

    /// Its location.
    pub fn facts(&self) -> Facts {
        self.facts.clone()
    }

    /// Its client's status in JSON.
    pub async fn client_status_json(&self) -> Result<FdbSlice, Error> {
        Ok(self.inner.get_client_status().await?)
    }

    /// An error of one of its transactions, with the engine's details, which the C API does not return.
    pub fn explain(&self, error: Error) -> Error {
        let engine = self.embedded.as_ref();
        match engine.and_then(embedded_fdb::admin::Database::last_storage_failure) {
            Some(problem) if error.code() == IO_ERROR => {
                Error::Explained(IO_ERROR, format!("{error}: {problem}"))
            }
            _ => error,
        }
    }

    /// The embedded engine's administration, if the engine is in use.
    pub fn engine(&self) -> Result<&embedded_fdb::admin::Database, Error> {
        self.embedded.as_ref().ok_or_else(|| {
            Error::Client("this is a cluster: only the embedded engine can do that".into())
        })
    }

    /// Replaces the embedded engine's database with an empty one.
    pub fn wipe(&self) -> Result<(), Error> {
        match self.engine()?.wipe() {
            true => Ok(()),
            false => Err(Error::Client(
                "this database is in a file: stop the VM and delete the file".into(),
            )),
        }
    }

    /// Makes the embedded engine inject faults, given as `name=value,…`, or ends that.
    pub fn set_faults(&self, faults: Option<&str>) -> Result<(), Error> {
        let explain = |error: embedded_fdb::admin::FaultsError| Error::Client(error.to_string());
        let faults = faults.map(str::parse).transpose().map_err(explain)?;
        self.engine()?.set_faults(faults).map_err(explain)
    }
}

/// Checks the cluster file at this path, or the one that FoundationDB's clients use by default.
pub fn check_cluster(path: Option<&str>) -> Result<Facts, Error> {
    match path {
        Some(path) => check_cluster_file(Path::new(path), "given as cluster_file:"),
        None => check_default_cluster_file(),
    }
}

/// Finds the cluster file that FoundationDB's clients use by default.
fn check_default_cluster_file() -> Result<Facts, Error> {
    if let Some(path) = std::env::var_os("FDB_CLUSTER_FILE") {
        return check_cluster_file(Path::new(&path), "that FDB_CLUSTER_FILE names");
    }
    let here = Path::new("fdb.cluster");
    if here.exists() {
        return check_cluster_file(here, "in the working directory");
    }
    let system = if cfg!(target_os = "macos") {
        "/usr/local/etc/foundationdb/fdb.cluster"
    } else {
        "/etc/foundationdb/fdb.cluster"
    };
    check_cluster_file(Path::new(system), "of this machine")
}

/// Checks a cluster file before the client does: the client's errors name no file, and only occur with
/// the first transaction.
fn check_cluster_file(path: &Path, which: &str) -> Result<Facts, Error> {
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| {
        Error::Explained(
            NO_CLUSTER_FILE,
            format!(
                "can't read the cluster file {name}, {which}: {error}. Give the path of your cluster's \
                 fdb.cluster as cluster_file:, or embedded: true for a database in this VM"
            ),
        )
    })?;
    let connection_string = text
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with('#'));
    // The format is description:id@host:port,…; the client checks the rest.
    let valid = connection_string.filter(|line| {
        line.split_once('@').is_some_and(|(name, addresses)| {
            name.contains(':') && addresses.split(',').all(|address| address.contains(':'))
        })
    });
    if let Some(valid) = valid {
        return Ok(Facts {
            cluster_file: Some(name.to_string()),
            connection_string: Some(valid.to_owned()),
            file: None,
        });
    }
    Err(Error::Explained(
        CONNECTION_STRING_INVALID,
        format!(
            "the cluster file {name}, {which}, holds no connection string: expected a line like \
             description:id@10.0.0.1:4500, got: {:?}",
            connection_string.unwrap_or("")
        ),
    ))
}
