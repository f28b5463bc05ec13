//! A database: its versions, the commits that make them, and its watches.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::error::{Error, Result};
use crate::faults::{Injector, Outage};
use crate::keys::{Key, Value, METADATA_VERSION};
use crate::mutation::{place_versionstamp, shift_versionstamp, versionstamp, Mutation, Op};
use crate::mvcc::{Change, Map, Snapshot, Version, Versions, WINDOW};
use crate::options::{self, DatabaseChange, TransactionDefaults};
use crate::output::Output;
use crate::resolver::{single_key, KeyRange, Resolver};
use crate::status::CONNECTION_STRING;
use crate::storage::{Answer, Committer};
use crate::sync::{lock, write, Mutex, RwLock};
use crate::tenants::{self, Lookups};
use crate::watches::{Allowance, Watches};

/// The first version of a new database: far enough from zero that a client may use earlier versions,
/// as it may on a cluster.
pub(crate) const FIRST_VERSION: Version = 1_000_000_000;

/// The key that exists while the database is locked.
pub(crate) const LOCKED: &[u8] = b"\xff/dbLocked";

/// Versions of the resolver looked at for each range that a commit writes. A key adds one, a range two.
const SWEEP: usize = 4;

/// Counters that only grow, except `transactions`.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) transactions: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) read_versions: AtomicU64,
}

/// A transaction's request to the committer.
#[derive(Default)]
pub(crate) struct CommitRequest {
    /// The read version; a transaction that read nothing commits at any version.
    pub(crate) read_version: Option<Version>,
    /// The tenant that must exist.
    pub(crate) tenant: Option<i64>,
    pub(crate) reads: Vec<KeyRange>,
    pub(crate) writes: Vec<KeyRange>,
    pub(crate) mutations: Vec<Mutation>,
    /// Commit without guarding against a second commit of the same transaction.
    pub(crate) causal_write_risky: bool,
    /// Commit even if the database is locked.
    pub(crate) lock_aware: bool,
}

impl CommitRequest {
    /// Puts everything but the metadata version below a tenant's prefix.
    pub(crate) fn move_below(&mut self, prefix: &Key) {
        let below = |key: &mut Key| {
            if key[..] != *METADATA_VERSION {
                *key = [&prefix[..], key].concat().into();
            }
        };
        for (begin, end) in self.reads.iter_mut().chain(&mut self.writes) {
            if begin[..] != *METADATA_VERSION {
                below(begin);
                below(end);
            }
        }
        for mutation in &mut self.mutations {
            match mutation {
                Mutation::Single {
                    op: Op::SetVersionstampedKey,
                    key,
                    ..
                } => {
                    below(key);
                    *key = shift_versionstamp(key, prefix.len());
                }
                Mutation::Single { key, .. } => below(key),
                Mutation::ClearRange { begin, end } => {
                    below(begin);
                    below(end);
                }
            }
        }
    }
}

/// A recovery skips this many versions.
const RECOVERY_VERSIONS: Version = 100_000_000;

/// A committed transaction.
pub(crate) struct Committed {
    pub(crate) version: Version,
    pub(crate) stamp: [u8; 10],
}

/// Why a transaction was not committed.
pub(crate) struct Refused {
    pub(crate) error: Error,
    /// The read conflict ranges that were written meanwhile.
    pub(crate) conflicts: Vec<KeyRange>,
}

impl Refused {
    pub(crate) fn with(error: Error) -> Refused {
        Refused {
            error,
            conflicts: Vec::new(),
        }
    }
}

/// A database. Lives until the process ends.
pub(crate) struct Database {
    versions: Versions,
    resolver: Mutex<Resolver>,
    pub(crate) watches: Arc<Watches>,
    pub(crate) counters: Counters,
    pub(crate) faults: Injector,
    pub(crate) lookups: Lookups,
    /// Whether it was ever locked. If not, transactions skip the check.
    lockable: AtomicBool,
    /// How often the database has begun to work: once, and once more with each recovery.
    generation: AtomicU64,
    /// Commits for a database in a file; those don't use [`Database::commit`].
    pub(crate) committer: Option<Arc<Committer>>,
}

/// The initial contents of a database: no user keys, and the system keys that a client may read.
pub(crate) fn new_map(version: Version) -> Map {
    let text = |s: &str| -> Key { s.as_bytes().into() };
    let mut map: Map = [
        ("\u{0}conf/commit_proxies", "1"),
        ("\u{0}conf/grv_proxies", "1"),
        ("\u{0}conf/log_engine", "2"),
        ("\u{0}conf/log_replicas", "1"),
        ("\u{0}conf/logs", "1"),
        ("\u{0}conf/resolvers", "1"),
        ("\u{0}conf/storage_engine", "2"),
        ("\u{0}conf/storage_replicas", "1"),
        ("\u{0}conf/tenant_mode", "1"),
        ("\u{0}conf/usable_regions", "1"),
        ("\u{0}coordinators", CONNECTION_STRING),
    ]
    .into_iter()
    .map(|(key, value)| {
        let key: Vec<u8> = [b"\xff/", &key.as_bytes()[1..]].concat();
        (Key::from(key), text(value))
    })
    .collect();
    map.insert(METADATA_VERSION.into(), versionstamp(version, 0)[..].into());
    map
}

impl Database {
    /// A new database in memory.
    pub(crate) fn new() -> Self {
        Database {
            versions: Versions::new(FIRST_VERSION, new_map(FIRST_VERSION)),
            resolver: Mutex::default(),
            watches: Arc::default(),
            counters: Counters::default(),
            faults: Injector::default(),
            lookups: Default::default(),
            lockable: AtomicBool::new(false),
            generation: AtomicU64::new(1),
            committer: None,
        }
    }

    /// A database that held `map` at version `first`, and whose commits happen on another thread.
    ///
    /// Its read versions do not rise before the first [`Database::set_lease`].
    pub(crate) fn with_committer(first: Version, map: Map, committer: Arc<Committer>) -> Self {
        let locked = map.contains_key(LOCKED);
        let versions = Versions::new(first, map);
        versions.set_lease(first);
        Database {
            versions,
            lockable: AtomicBool::new(locked),
            committer: Some(committer),
            ..Database::new()
        }
    }

    /// A new read version and the contents at it.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.counters.read_versions.fetch_add(1, Ordering::Relaxed);
        self.versions.snapshot()
    }

    /// The contents at a version that the client chose.
    pub(crate) fn snapshot_at(&self, version: Version) -> Result<Snapshot> {
        self.versions.snapshot_at(version)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Simulates a cluster's recovery for clients: transactions that have read are too old.
    pub(crate) fn recover(&self) {
        self.versions.skip(RECOVERY_VERSIONS);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Simulates, for clients, a new cluster in the place of this one: it is empty, and its versions are
    /// small again, lower than any of the old one.
    pub(crate) fn wipe(&self) {
        let mut resolver = lock(&self.resolver);
        *resolver = Resolver::default();
        let version = FIRST_VERSION / 2;
        self.versions.begin_anew(version, new_map(version));
    }

    /// Fails if a read version is older than the window.
    pub(crate) fn check_age(&self, version: Version) -> Result<()> {
        if version < self.versions.oldest() {
            Err(Error::TRANSACTION_TOO_OLD)
        } else {
            Ok(())
        }
    }

    /// Versions from now until `version`; negative if it is in the past.
    pub(crate) fn versions_until(&self, version: Version) -> Version {
        version - self.versions.now()
    }

    /// The highest version at present.
    pub(crate) fn newest_version(&self) -> Version {
        self.versions.now()
    }

    /// Whether the database was locked at a version.
    pub(crate) fn is_locked(&self, map: &Map) -> bool {
        let locked = self.lockable.load(Ordering::Acquire) && map.contains_key(LOCKED);
        locked || self.faults.is_locked()
    }

    /// The current contents.
    pub(crate) fn newest_map(&self) -> Map {
        self.versions.newest()
    }

    /// The newest value of a key.
    pub(crate) fn newest(&self, key: &[u8]) -> Option<Value> {
        self.versions.get(key)
    }

    /// The version that time alone would give.
    pub(crate) fn clock(&self) -> Version {
        self.versions.clock()
    }

    /// Allows read versions up to `lease`.
    pub(crate) fn set_lease(&self, lease: Version) {
        self.versions.set_lease(lease);
    }

    /// Commits, or returns why not.
    pub(crate) fn commit(&self, request: CommitRequest) -> Answer {
        let mut resolver = lock(&self.resolver);
        self.lookups.before_commit(|| self.newest_map());
        self.resolve(&resolver, &request, |key| self.versions.get(key).is_some())?;
        let mut stamp = [0; 10];
        let (version, changes) = self.versions.apply(&request.mutations, |version| {
            stamp = versionstamp(version, 0);
            stamp
        });
        record(&mut resolver, &request, version, &stamp);
        resolver.sweep(version - WINDOW, SWEEP * (request.writes.len() + 1));
        // Still under the lock, so that watches see commits in order.
        self.tell_watches(&changes);
        self.lookups.after_commit(|| self.newest_map());
        drop(resolver);
        self.counters.commits.fetch_add(1, Ordering::Relaxed);
        Ok(Committed { version, stamp })
    }

    fn tell_watches(&self, changes: &[Change]) {
        self.watches
            .changed(changes, self.faults.outage().as_deref());
    }

    /// Begins or ends an outage, and releases calls that waited for the end of the last one.
    pub(crate) fn set_outage(&self, outage: Outage) {
        self.faults.set_outage(outage);
        let outage = self.faults.outage();
        self.watches
            .recheck(outage.as_deref(), |key| self.newest(key));
    }

    /// Commits several transactions in order, at one version, and makes them visible once `persist` has
    /// made their changes durable. If `persist` fails, they are not committed, and get its error. One
    /// batch at a time.
    pub(crate) fn commit_batch(
        &self,
        requests: &[CommitRequest],
        lease: Version,
        persist: impl FnOnce(&Map, &[Change]) -> Result<()>,
    ) -> Vec<Answer> {
        let mut draft = self.versions.draft();
        let version = draft.version;
        let mut resolver = lock(&self.resolver);
        let mut answers = Vec::with_capacity(requests.len());
        for (order, request) in (0..).zip(requests) {
            let resolved = self.resolve(&resolver, request, |key| draft.contains(key));
            answers.push(resolved.map(|()| {
                let stamp = versionstamp(version, order);
                draft.apply(&request.mutations, &stamp);
                // If persisting fails, this records a write that never happened. A transaction that has
                // read before may then get an unnecessary conflict.
                record(&mut resolver, request, version, &stamp);
                Committed { version, stamp }
            }));
            resolver.sweep(version - WINDOW, SWEEP * (request.writes.len() + 1));
        }
        drop(resolver);
        let committed = answers.iter().filter(|answer| answer.is_ok()).count();
        if committed == 0 {
            return answers;
        }
        if let Err(error) = persist(&draft.before, &draft.changes) {
            let refused = |answer: Answer| answer.and_then(|_| Err(Refused::with(error)));
            return answers.into_iter().map(refused).collect();
        }
        self.lookups.before_commit(|| draft.before.clone());
        let changes = draft.publish(lease);
        self.tell_watches(&changes);
        self.lookups.after_commit(|| self.newest_map());
        let committed = u64::try_from(committed).unwrap_or(u64::MAX);
        self.counters
            .commits
            .fetch_add(committed, Ordering::Relaxed);
        answers
    }

    /// Whether a transaction may commit while the database is locked.
    fn check_lock(
        &self,
        request: &CommitRequest,
        is_there: impl FnOnce(&[u8]) -> bool,
    ) -> std::result::Result<(), Refused> {
        let locked = || self.lockable.load(Ordering::Acquire) && is_there(LOCKED);
        if !request.lock_aware && (locked() || self.faults.is_locked()) {
            return Err(Refused::with(Error::DATABASE_LOCKED));
        }
        if locks(request) {
            self.lockable.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Whether a transaction may commit: nobody has written the data it read, and its tenant still exists.
    fn resolve(
        &self,
        resolver: &Resolver,
        request: &CommitRequest,
        is_there: impl Fn(&[u8]) -> bool,
    ) -> std::result::Result<(), Refused> {
        if request
            .tenant
            .is_some_and(|id| !is_there(&tenants::id_key(id)))
        {
            return Err(Refused::with(Error::TENANT_NOT_FOUND));
        }
        let Some(version) = request.read_version else {
            return self.check_lock(request, is_there);
        };
        // A transaction that must not be committed twice conflicts with itself. So it has at least
        // one read conflict range, and the window applies to it.
        if !request.reads.is_empty() || !request.causal_write_risky {
            self.check_age(version).map_err(Refused::with)?;
        }
        let conflicts: Vec<KeyRange> = request
            .reads
            .iter()
            .filter(|range| resolver.written_after(range, version))
            .cloned()
            .collect();
        if conflicts.is_empty() {
            return self.check_lock(request, is_there);
        }
        Err(Refused {
            error: Error::NOT_COMMITTED,
            conflicts,
        })
    }
}

/// Whether a commit may lock the database.
fn locks(request: &CommitRequest) -> bool {
    let is_lock = |mutation: &Mutation| matches!(mutation, Mutation::Single { key, .. } if key[..] == *LOCKED);
    request.mutations.iter().any(is_lock)
}

/// Adds a commit's writes to the resolver.
fn record(resolver: &mut Resolver, request: &CommitRequest, version: Version, stamp: &[u8; 10]) {
    for range in &request.writes {
        resolver.record(range, version);
    }
    for mutation in &request.mutations {
        if let Mutation::Single {
            op: Op::SetVersionstampedKey,
            key,
            ..
        } = mutation
        {
            let key = place_versionstamp(key, stamp);
            resolver.record(&single_key(&key), version);
        }
    }
}

/// The database that `fdb_create_database` returns: a database with the options of this handle.
pub(crate) struct Handle {
    pub(crate) database: Arc<Database>,
    /// The cluster file path that the client named.
    pub(crate) cluster_file: String,
    pub(crate) allowance: Arc<Allowance>,
    pub(crate) defaults: RwLock<TransactionDefaults>,
    /// The error of a wrong option, which every later call that can fail returns.
    pub(crate) deferred: OnceLock<Error>,
}

impl Handle {
    pub(crate) fn new(database: Arc<Database>, cluster_file: String) -> Self {
        Handle {
            database,
            cluster_file,
            allowance: Arc::default(),
            defaults: RwLock::default(),
            deferred: OnceLock::new(),
        }
    }

    /// Sets an option. Only an unknown code is an error at once; after a wrong value, all later calls on
    /// the handle fail.
    pub(crate) fn set_option(&self, code: i32, value: Option<&[u8]>) -> Result<()> {
        if !options::is_of_database(code) {
            return Err(Error::INVALID_OPTION);
        }
        if self.deferred.get().is_some() {
            return Ok(());
        }
        match options::database(code, value) {
            Ok(DatabaseChange::Nothing) => {}
            Ok(DatabaseChange::MaxWatches(limit)) => self.allowance.set_limit(limit),
            Ok(DatabaseChange::SnapshotReadYourWrites(by)) => {
                write(&self.defaults).snapshot_read_your_writes += by;
            }
            Ok(DatabaseChange::TransactionDefault(option)) => {
                let value = value.map(<[u8]>::to_vec);
                write(&self.defaults).options.push((option, value));
            }
            Err(error) => {
                self.deferred.get_or_init(|| error);
            }
        }
        Ok(())
    }

    /// Whether all options were valid.
    pub(crate) fn check(&self) -> Result<()> {
        self.deferred.get().map_or(Ok(()), |error| Err(*error))
    }

    /// The result of `fdb_database_get_client_status`.
    pub(crate) fn client_status(&self) -> Result<Output> {
        let status = format!(
            concat!(
                r#"{{"Healthy":true,"ClusterID":"embedded","Coordinators":[],"CurrentCoordinator":"","#,
                r#""GrvProxies":[],"CommitProxies":[],"StorageServers":[],"Connections":[],"#,
                r#""NumConnectionsFailed":0,"Embedded":true,"PendingWatches":{}}}"#
            ),
            self.database.watches.outstanding(),
        );
        Ok(Output::Key(status.as_bytes().into()))
    }
}
