//! Open databases, one for each running Repo, with their live queries.

use std::sync::{Arc, Weak};

use foundationdb::options::DatabaseOption;
use parking_lot::Mutex;
use rustler::{Resource, ResourceArc};

use crate::database::{Database, Target};
use crate::error::Error;
use crate::live::registry::LiveQueries;
use crate::live::WORKERS;

/// The open databases by the name they were opened under.
static OPEN: Mutex<Vec<(String, Target, Weak<LiveQueries>)>> = Mutex::new(Vec::new());

/// A database's handle in Elixir.
pub struct DatabaseHandle {
    /// The database.
    pub database: Arc<Database>,
    /// The live queries of its subscriptions.
    pub live: Arc<LiveQueries>,
}

#[rustler::resource_impl]
impl Resource for DatabaseHandle {}

/// Opens a database with these options. Touches the file system.
///
/// If one is in use under this name, returns that one: a restarted Repo continues with the live queries
/// that processes use, and plans them.
pub fn open(
    name: String,
    target: Target,
    options: Vec<DatabaseOption>,
) -> Result<ResourceArc<DatabaseHandle>, Error> {
    let mut open = OPEN.lock();
    open.retain(|(_, _, live)| live.strong_count() > 0);
    let in_use = open
        .iter()
        .find(|(other, at, _)| *other == name && *at == target)
        .and_then(|(_, _, live)| live.upgrade());
    let live = match in_use {
        Some(live) => live,
        None => {
            let live = LiveQueries::new(Database::new(&target)?, WORKERS);
            open.push((name, target, Arc::downgrade(&live)));
            live
        }
    };
    live.database.set_options(options)?;
    let database = Arc::clone(&live.database);
    Ok(ResourceArc::new(DatabaseHandle { database, live }))
}
