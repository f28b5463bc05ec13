//! Databases: where they are, and their transactions.

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

/// Where a database is.
#[derive(Clone, PartialEq, Eq)]
pub enum Target {
    /// The embedded engine, in memory, under a name.
    Memory(String),
    /// The embedded engine, in a file.
    File(String),
    /// A cluster, by its cluster file, or by the one that FoundationDB's clients look for.
    Cluster(Option<String>),
}

impl Target {
    /// What `fdb_create_database` is given.
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
    /// What is counted of it.
    pub stats: Stats,
    /// How it answers.
    pub health: Health,
}

/// Where a database is, as it was when it was opened.
#[derive(NifMap, Clone, Default)]
#[rustler(encode)]
pub struct Facts {
    /// The cluster file that the client reads.
    cluster_file: Option<String>,
    /// What was in it.
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
        // The engine itself says why it can't open a file; the C API has only a number for it.
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

    /// Sets options for all of its transactions to come.
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

    /// Where it is.
    pub fn facts(&self) -> Facts {
        self.facts.clone()
    }

    /// What its client says of itself, in JSON.
    pub async fn client_status_json(&self) -> Result<FdbSlice, Error> {
        Ok(self.inner.get_client_status().await?)
    }

    /// An error of one of its transactions, with what the engine knows of it and the C API does not say.
    pub fn explain(&self, error: Error) -> Error {
        let engine = self.embedded.as_ref();
        match engine.and_then(embedded_fdb::admin::Database::last_storage_failure) {
            Some(problem) if error.code() == IO_ERROR => {
                Error::Explained(IO_ERROR, format!("{error}: {problem}"))
            }
            _ => error,
        }
    }

    /// The embedded engine's own door, where it is the one that answers.
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

    /// Has the embedded engine inject faults, given as `name=value,…`, or ends that.
    pub fn set_faults(&self, faults: Option<&str>) -> Result<(), Error> {
        let explain = |error: embedded_fdb::admin::FaultsError| Error::Client(error.to_string());
        let faults = faults.map(str::parse).transpose().map_err(explain)?;
        self.engine()?.set_faults(faults).map_err(explain)
    }
}

/// Looks at the cluster file of this path, or at the one that FoundationDB's clients find.
pub fn check_cluster(path: Option<&str>) -> Result<Facts, Error> {
    match path {
        Some(path) => check_cluster_file(Path::new(path), "given as cluster_file:"),
        None => check_default_cluster_file(),
    }
}

/// Looks for the cluster file where FoundationDB's clients do when they are given none.
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

/// Looks at a cluster file before the client does, whose errors name no file, and come only with the
/// first transaction.
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
    // description:id@host:port,… is the shape; the client checks the rest.
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
