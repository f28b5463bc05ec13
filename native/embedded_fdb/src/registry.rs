//! The databases of the process, by name.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use crate::database::Database;
use crate::faults::Faults;
use crate::storage::{self, OpenError};
use crate::sync::{lock, Mutex};

/// The name of a database.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Name {
    /// In memory; the unnamed database has the empty name.
    Memory(String),
    /// In a file, by its canonical path.
    File(PathBuf),
}

/// A database that is open, or that the holder of the lock is opening.
type Place = Arc<Mutex<Option<Arc<Database>>>>;

static DATABASES: LazyLock<Mutex<HashMap<Name, Place>>> = LazyLock::new(Mutex::default);

/// The environment variable with the faults of newly opened databases.
const FAULTS: &str = "EMBEDDED_FDB_FAULTS";
/// The environment variable that names the default cluster file.
const CLUSTER_FILE: &str = "FDB_CLUSTER_FILE";

/// The name of the database that a cluster file path refers to.
fn name(cluster_file: &str) -> Result<Name, OpenError> {
    if cluster_file.is_empty() {
        return match std::env::var(CLUSTER_FILE) {
            Ok(path) if !path.is_empty() => name_in(&path),
            _ => Ok(Name::Memory(String::new())),
        };
    }
    name_in(cluster_file)
}

/// As [`name`], for a given path: it is a name, or the path of a cluster file with one.
fn name_in(cluster_file: &str) -> Result<Name, OpenError> {
    if cluster_file.starts_with("embedded:") {
        return parse(cluster_file, Path::new(""));
    }
    let path = Path::new(cluster_file);
    // There is no cluster, so any other file, or none, names the unnamed database.
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().map(str::trim);
    let first = lines
        .into_iter()
        .find(|l| !l.is_empty() && !l.starts_with('#'));
    match first.filter(|line| line.starts_with("embedded:")) {
        Some(line) => parse(line, path.parent().unwrap_or(Path::new(""))),
        None => Ok(Name::Memory(String::new())),
    }
}

/// Parses `embedded:memory:NAME` and `embedded:file:PATH`; the latter relative to `directory`.
fn parse(text: &str, directory: &Path) -> Result<Name, OpenError> {
    let kind_and_rest = text
        .strip_prefix("embedded:")
        .and_then(|t| t.split_once(':'));
    match kind_and_rest {
        Some(("memory", name)) if !name.is_empty() => Ok(Name::Memory(name.to_owned())),
        Some(("file", path)) if !path.is_empty() => {
            storage::canonical(&directory.join(path)).map(Name::File)
        }
        _ => Err(OpenError::Name {
            name: text.to_owned(),
        }),
    }
}

/// Opens a database; the same name gives the same one. It lives until the process ends.
pub(crate) fn open(cluster_file: &str) -> Result<Arc<Database>, OpenError> {
    let name = name(cluster_file)?;
    let place = lock(&DATABASES).entry(name.clone()).or_default().clone();
    // Reading a file may take long; meanwhile others can find their databases.
    let mut place = lock(&place);
    if let Some(database) = &*place {
        return Ok(database.clone());
    }
    let faults = match std::env::var(FAULTS) {
        Ok(text) => Some(text.parse::<Faults>()?),
        Err(_) => None,
    };
    let database = match &name {
        Name::Memory(_) => Arc::new(Database::new()),
        Name::File(path) => storage::open(path)?,
    };
    database.faults.set(faults);
    *place = Some(database.clone());
    Ok(database)
}

/// The database if it was opened before.
pub(crate) fn find(cluster_file: &str) -> Option<Arc<Database>> {
    let place = lock(&DATABASES).get(&name(cluster_file).ok()?)?.clone();
    let database = lock(&place).clone();
    database
}
