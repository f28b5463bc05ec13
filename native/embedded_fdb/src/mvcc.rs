//! Keys and values at every version that can still be read.
//!
//! The newest version is one persistent ordered map: a snapshot is a clone of it, which shares all
//! nodes. Older versions are not kept as maps. For each commit in the window a record keeps the values
//! it replaced; the few snapshots requested by number are rebuilt from these.

use std::collections::VecDeque;
use std::time::Instant;

use imbl::OrdMap;

use crate::error::{Error, Result};
use crate::keys::{Key, Value};
use crate::mutation::{place_versionstamp, Mutation, Op};
use crate::sync::atomic::{AtomicI64, Ordering};
use crate::sync::{lock, read, write, Mutex, RwLock};

/// A version: about a million of them pass per second, with or without commits.
pub(crate) type Version = i64;

/// Reads and commits are refused at versions older than this window (five seconds).
pub(crate) const WINDOW: Version = 5_000_000;

/// Every key and its value at one version.
pub(crate) type Map = OrdMap<Key, Value>;

/// A version and the contents at it.
#[derive(Clone)]
pub(crate) struct Snapshot {
    pub(crate) version: Version,
    pub(crate) map: Map,
}

/// The data that one commit replaced: each touched key and its previous value.
struct Undo {
    version: Version,
    before: Vec<(Key, Option<Value>)>,
}

/// A key whose value a commit may have changed, and the value after.
pub(crate) struct Change {
    pub(crate) key: Key,
    pub(crate) value: Option<Value>,
}

/// The versions of a database.
pub(crate) struct Versions {
    started: Instant,
    /// The version at `started`.
    first: AtomicI64,
    newest: RwLock<Map>,
    /// No commit will ever get a version up to this one, because it was handed out as a read version.
    latest: AtomicI64,
    /// No read version above this one is handed out: a commit with a higher version is in progress,
    /// or a restart could begin there. Written under the lock of `newest`.
    ceiling: AtomicI64,
    /// The ceiling while no commit is in progress.
    lease: AtomicI64,
    /// In the order of commits. Locked after `newest`, never before it.
    history: Mutex<VecDeque<Undo>>,
}

impl Versions {
    /// A database that held `map` at version `first`.
    pub(crate) fn new(first: Version, map: Map) -> Self {
        Versions {
            started: Instant::now(),
            first: AtomicI64::new(first),
            newest: RwLock::new(map),
            latest: AtomicI64::new(first),
            ceiling: AtomicI64::new(Version::MAX),
            lease: AtomicI64::new(Version::MAX),
            history: Mutex::default(),
        }
    }

    /// The version that time alone would give.
    pub(crate) fn clock(&self) -> Version {
        let first = self.first.load(Ordering::Acquire);
        first + i64::try_from(self.started.elapsed().as_micros()).unwrap_or(i64::MAX / 2)
    }

    /// Skips `versions`, so that earlier read versions are out of the window.
    pub(crate) fn skip(&self, versions: Version) {
        let _newest = write(&self.newest);
        self.first.fetch_add(versions, Ordering::AcqRel);
    }

    /// Starts over with `map`, counting from `version` again.
    pub(crate) fn begin_anew(&self, version: Version, map: Map) {
        let mut newest = write(&self.newest);
        *newest = map;
        self.first
            .fetch_add(version - self.clock(), Ordering::AcqRel);
        self.latest.store(version, Ordering::Release);
        lock(&self.history).clear();
    }

    /// The highest version at present.
    pub(crate) fn now(&self) -> Version {
        let risen = self.clock().min(self.ceiling.load(Ordering::Acquire));
        risen.max(self.latest.load(Ordering::Acquire))
    }

    /// Allows read versions up to `lease`.
    pub(crate) fn set_lease(&self, lease: Version) {
        let _newest = write(&self.newest);
        self.lease.store(lease, Ordering::Release);
        self.ceiling.store(lease, Ordering::Release);
    }

    /// The lowest version that can still be read.
    pub(crate) fn oldest(&self) -> Version {
        self.now() - WINDOW
    }

    /// A new read version: it sees every commit that was acknowledged before this call.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let newest = read(&self.newest);
        // Under the lock, so that every later commit gets a higher version.
        let clock = self.clock().min(self.ceiling.load(Ordering::Acquire));
        let version = self.latest.fetch_max(clock, Ordering::AcqRel).max(clock);
        Snapshot {
            version,
            map: newest.clone(),
        }
    }

    /// The snapshot at a version chosen by the caller.
    pub(crate) fn snapshot_at(&self, version: Version) -> Result<Snapshot> {
        let newest = read(&self.newest);
        if version > self.now() {
            return Err(Error::FUTURE_VERSION);
        }
        if version < self.oldest() {
            return Err(Error::TRANSACTION_TOO_OLD);
        }
        self.latest.fetch_max(version, Ordering::AcqRel);
        let mut map = newest.clone();
        let history = lock(&self.history);
        for undo in history
            .iter()
            .rev()
            .take_while(|undo| undo.version > version)
        {
            for (key, value) in undo.before.iter().rev() {
                match value {
                    Some(value) => map.insert(key.clone(), value.clone()),
                    None => map.remove(&key[..]),
                };
            }
        }
        Ok(Snapshot { version, map })
    }

    /// The newest version. This does not count as a read.
    pub(crate) fn newest(&self) -> Map {
        read(&self.newest).clone()
    }

    /// The newest value of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Value> {
        read(&self.newest).get(key).cloned()
    }

    /// Applies the mutations of a commit, in order, at a new version.
    ///
    /// `stamp` makes the versionstamp of the version. The caller allows one commit at a time.
    pub(crate) fn apply(
        &self,
        mutations: &[Mutation],
        stamp: impl FnOnce(Version) -> [u8; 10],
    ) -> (Version, Vec<Change>) {
        let mut newest = write(&self.newest);
        let version = self.clock().max(self.latest.load(Ordering::Acquire) + 1);
        let stamp = stamp(version);
        let mut edit = Edit {
            map: &mut newest,
            before: Vec::new(),
            changes: Vec::new(),
        };
        for mutation in mutations {
            edit.apply(mutation, &stamp);
        }
        let Edit {
            before, changes, ..
        } = edit;
        self.latest.store(version, Ordering::Release);
        remember(&mut lock(&self.history), Undo { version, before });
        (version, changes)
    }

    /// Begins commits that stay invisible until [`Draft::publish`].
    ///
    /// The caller has one draft at a time, and doesn't call [`Versions::apply`] meanwhile.
    pub(crate) fn draft(&self) -> Draft<'_> {
        let newest = write(&self.newest);
        let version = self.clock().max(self.latest.load(Ordering::Acquire) + 1);
        self.ceiling.store(version - 1, Ordering::Release);
        Draft {
            versions: self,
            version,
            before: newest.clone(),
            map: newest.clone(),
            undos: Vec::new(),
            changes: Vec::new(),
        }
    }
}

/// Adds the data that a commit replaced to the history, and drops what has left the window.
fn remember(history: &mut VecDeque<Undo>, undo: Undo) {
    let oldest = undo.version - WINDOW;
    // Drops two entries for each one added, so that the history shrinks to the window without a
    // pause, however much a single old commit has replaced.
    let mut budget = 2 * undo.before.len() + 16;
    history.push_back(undo);
    while budget > 0 {
        let Some(old) = history.front_mut().filter(|undo| undo.version < oldest) else {
            break;
        };
        let rest = old.before.len().saturating_sub(budget);
        budget -= (old.before.len() - rest).max(1);
        old.before.truncate(rest);
        if rest == 0 {
            history.pop_front();
        }
    }
}

/// Commits of one version in progress; dropping them without [`Draft::publish`] discards them.
pub(crate) struct Draft<'a> {
    versions: &'a Versions,
    pub(crate) version: Version,
    /// The database before the first of the commits.
    pub(crate) before: Map,
    map: Map,
    undos: Vec<Undo>,
    /// In the order of commits.
    pub(crate) changes: Vec<Change>,
}

impl Draft<'_> {
    /// Applies the mutations of one commit, in order.
    pub(crate) fn apply(&mut self, mutations: &[Mutation], stamp: &[u8; 10]) {
        let mut edit = Edit {
            map: &mut self.map,
            before: Vec::new(),
            changes: std::mem::take(&mut self.changes),
        };
        for mutation in mutations {
            edit.apply(mutation, stamp);
        }
        let Edit {
            before, changes, ..
        } = edit;
        self.changes = changes;
        self.undos.push(Undo {
            version: self.version,
            before,
        });
    }

    /// Whether a key exists after the commits so far.
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.map.contains_key(key)
    }

    /// Makes the commits visible; read versions may then rise up to `lease`.
    pub(crate) fn publish(mut self, lease: Version) -> Vec<Change> {
        let versions = self.versions;
        let mut newest = write(&versions.newest);
        *newest = std::mem::take(&mut self.map);
        versions.latest.store(self.version, Ordering::Release);
        versions.lease.store(lease, Ordering::Release);
        let mut history = lock(&versions.history);
        for undo in self.undos.drain(..) {
            remember(&mut history, undo);
        }
        drop(history);
        drop(newest);
        std::mem::take(&mut self.changes)
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        let _newest = write(&self.versions.newest);
        let lease = self.versions.lease.load(Ordering::Acquire);
        self.versions.ceiling.store(lease, Ordering::Release);
    }
}

/// The mutations of one commit while they are applied.
struct Edit<'a> {
    map: &'a mut Map,
    before: Vec<(Key, Option<Value>)>,
    changes: Vec<Change>,
}

impl Edit<'_> {
    fn apply(&mut self, mutation: &Mutation, stamp: &[u8; 10]) {
        match mutation {
            Mutation::Single {
                op: Op::SetVersionstampedKey,
                key,
                operand,
            } => {
                self.put(place_versionstamp(key, stamp), Some(operand.clone()));
            }
            Mutation::Single {
                op: Op::SetVersionstampedValue,
                key,
                operand,
            } => {
                self.put(key.clone(), Some(place_versionstamp(operand, stamp)));
            }
            Mutation::Single {
                op: Op::Set,
                key,
                operand,
            } => {
                self.put(key.clone(), Some(operand.clone()));
            }
            Mutation::Single { op, key, operand } => {
                let value = op.apply(self.map.get(&key[..]), operand);
                self.put(key.clone(), value);
            }
            Mutation::ClearRange { begin, end } => {
                let keys: Vec<Key> = self
                    .map
                    .range::<_, [u8]>((
                        std::ops::Bound::Included(&begin[..]),
                        std::ops::Bound::Excluded(&end[..]),
                    ))
                    .map(|(key, _)| key.clone())
                    .collect();
                for key in keys {
                    self.put(key, None);
                }
            }
        }
    }

    fn put(&mut self, key: Key, value: Option<Value>) {
        let before = match &value {
            Some(value) => self.map.insert(key.clone(), value.clone()),
            None => self.map.remove(&key[..]),
        };
        self.before.push((key.clone(), before));
        self.changes.push(Change { key, value });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(key: &str, value: &str) -> Mutation {
        Mutation::Single {
            op: Op::Set,
            key: key.as_bytes().into(),
            operand: value.as_bytes().into(),
        }
    }

    #[test]
    fn a_snapshot_by_number_is_what_was_read_then() {
        let versions = Versions::new(1_000, Map::new());
        let stamp = |_| [0; 10];
        let mut seen = vec![versions.snapshot()];
        for i in 0..20 {
            versions.apply(&[set(&format!("k{}", i % 3), &i.to_string())], stamp);
            seen.push(versions.snapshot());
            let all = Mutation::ClearRange {
                begin: b"k1"[..].into(),
                end: b"k2"[..].into(),
            };
            versions.apply(&[all, set("k1", "a"), set("k1", "b")], stamp);
            seen.push(versions.snapshot());
        }
        for snapshot in &seen {
            let rebuilt = versions.snapshot_at(snapshot.version).map(|s| s.map);
            assert_eq!(rebuilt, Ok(snapshot.map.clone()));
        }
    }

    #[test]
    fn a_draft_is_seen_when_it_is_published_and_not_before() {
        let versions = Versions::new(1_000, Map::new());
        let key = &b"k"[..];
        let mut draft = versions.draft();
        let version = draft.version;
        draft.apply(&[set("k", "v")], &[0; 10]);
        let between = versions.snapshot();
        assert!(between.version < version);
        assert_eq!(between.map.get(key), None);
        assert_eq!(
            versions.snapshot_at(version).err(),
            Some(Error::FUTURE_VERSION)
        );
        draft.publish(Version::MAX);
        let after = versions.snapshot();
        assert!(after.version >= version);
        assert!(after.map.contains_key(key));
        assert_eq!(
            versions.snapshot_at(between.version).map(|s| s.map),
            Ok(Map::new())
        );

        let mut draft = versions.draft();
        draft.apply(&[set("k", "other")], &[0; 10]);
        drop(draft);
        assert_eq!(versions.snapshot().map, after.map);
    }

    #[test]
    fn read_versions_stop_at_the_lease() {
        let versions = Versions::new(1_000, Map::new());
        versions.set_lease(1_000);
        assert_eq!(versions.snapshot().version, 1_000);
        assert_eq!(versions.now(), 1_000);
        versions.set_lease(Version::MAX);
        let waited = (0..1_000_000).any(|_| versions.snapshot().version > 1_000);
        assert!(waited);
    }

    #[test]
    fn history_shrinks_to_the_window_bit_by_bit() {
        let undo = |version, keys| Undo {
            version,
            before: vec![(b"k"[..].into(), None); keys],
        };
        let mut history = VecDeque::from([undo(1, 100), undo(2, 1)]);
        remember(&mut history, undo(WINDOW, 10));
        assert_eq!(history[0].before.len(), 100, "still in the window");
        remember(&mut history, undo(WINDOW + 10, 10));
        assert_eq!(history[0].before.len(), 100 - 36);
        for i in 0..3 {
            remember(&mut history, undo(WINDOW + 20 + i, 10));
        }
        assert_eq!(history.front().map(|undo| undo.version), Some(WINDOW));
    }

    #[test]
    fn commits_get_versions_above_every_read_version() {
        let versions = Versions::new(1_000, Map::new());
        for _ in 0..100 {
            let before = versions.snapshot().version;
            let (version, _) = versions.apply(&[set("k", "v")], |_| [0; 10]);
            assert!(version > before);
            assert!(versions.snapshot().version >= version);
        }
        assert_eq!(
            versions.snapshot_at(i64::MAX).err(),
            Some(Error::FUTURE_VERSION)
        );
        assert_eq!(
            versions.snapshot_at(-WINDOW).err(),
            Some(Error::TRANSACTION_TOO_OLD)
        );
    }
}
