//! The databases of the process, by name.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use crate::database::Database;
use crate::error::{Error, Result};
use crate::sync::lock;

static DATABASES: LazyLock<Mutex<HashMap<String, Arc<Database>>>> = LazyLock::new(Mutex::default);

/// The name of the database that a cluster file path stands for.
///
/// `embedded:memory:NAME` is the database `NAME`; every other path is the one unnamed database.
fn name(cluster_file: &str) -> Result<&str> {
    match cluster_file.strip_prefix("embedded:") {
        Some(rest) => match rest.strip_prefix("memory:") {
            Some("") | None => Err(Error::CONNECTION_STRING_INVALID),
            Some(name) => Ok(name),
        },
        None => Ok(""),
    }
}

/// Opens a database, the same one for the same name. It lives until the process ends.
pub(crate) fn open(cluster_file: &str) -> Result<Arc<Database>> {
    let name = name(cluster_file)?;
    let mut databases = lock(&DATABASES);
    if let Some(database) = databases.get(name) {
        return Ok(database.clone());
    }
    let database = Arc::new(Database::new());
    databases.insert(name.to_owned(), database.clone());
    Ok(database)
}

/// The database if it was opened before.
pub(crate) fn find(cluster_file: &str) -> Option<Arc<Database>> {
    lock(&DATABASES).get(name(cluster_file).ok()?).cloned()
}
