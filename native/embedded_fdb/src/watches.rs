//! Watches: futures that become ready when the value of a key has changed.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::faults::{Fault, Outage};
use crate::future::{Future, Owner};
use crate::keys::{Key, Value};
use crate::mvcc::Change;
use crate::network;
use crate::output::Output;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{lock, Mutex};

/// A watch to be armed.
pub(crate) struct Watch {
    pub(crate) key: Key,
    /// The value it was set with.
    pub(crate) value: Option<Value>,
    pub(crate) future: Arc<Future>,
    pub(crate) owner: Weak<WatchOwner>,
}

/// A watch that waits for a change.
struct Armed {
    id: u64,
    /// The value when the watch was set.
    value: Option<Value>,
    future: Arc<Future>,
    /// The injected delay between the change and firing.
    delay: Option<Duration>,
}

/// A watch that fires, and its delay.
type Fired = (Arc<Future>, Option<Duration>);

#[derive(Default)]
struct Armory {
    by_key: BTreeMap<Key, Vec<Armed>>,
    last_id: u64,
    /// Watches that should have fired while [`Watches::hold`] was on.
    held: Option<Vec<Fired>>,
}

/// The watches of a database.
#[derive(Default)]
pub(crate) struct Watches {
    armory: Mutex<Armory>,
    /// Watches that are not done: armed, or waiting for their transaction to commit.
    outstanding: AtomicU64,
}

/// How many watches a database handle may have.
pub(crate) struct Allowance {
    used: AtomicU64,
    limit: AtomicU64,
}

impl Default for Allowance {
    fn default() -> Self {
        Allowance {
            used: AtomicU64::new(0),
            limit: AtomicU64::new(10_000),
        }
    }
}

impl Allowance {
    /// Sets the limit; watches beyond it stay.
    pub(crate) fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }
}

/// A permit for one watch; returned when dropped.
pub(crate) struct Permit {
    allowance: Arc<Allowance>,
    watches: Arc<Watches>,
}

impl Permit {
    pub(crate) fn new(allowance: &Arc<Allowance>, watches: &Arc<Watches>) -> Result<Permit> {
        let limit = allowance.limit.load(Ordering::Relaxed);
        let taken = allowance
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                (used < limit).then_some(used + 1)
            });
        taken.map_err(|_| Error::TOO_MANY_WATCHES)?;
        watches.outstanding.fetch_add(1, Ordering::Relaxed);
        Ok(Permit {
            allowance: allowance.clone(),
            watches: watches.clone(),
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.allowance.used.fetch_sub(1, Ordering::Relaxed);
        self.watches.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Belongs to the future of a watch. It is dropped when the watch is done, and removes the watch when
/// the client cancels it.
pub(crate) struct WatchOwner {
    permit: Permit,
    /// Where to find the watch, once its transaction has committed.
    armed: OnceLock<(Key, u64)>,
}

impl Owner for WatchOwner {
    fn cancelled(&self) {
        if let Some((key, id)) = self.armed.get() {
            self.permit.watches.remove(key, *id);
        }
    }
}

/// A new watch: its future, and the object that arms it.
pub(crate) fn new_watch(permit: Permit) -> (Arc<Future>, Weak<WatchOwner>) {
    let owner = Arc::new(WatchOwner {
        permit,
        armed: OnceLock::new(),
    });
    let weak = Arc::downgrade(&owner);
    let future = Future::pending();
    future.set_owner(owner);
    (future, weak)
}

impl Watches {
    /// Watches that are not done.
    pub(crate) fn outstanding(&self) -> u64 {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// Arms a watch: it fires when a commit leaves its key with a value other than the one it was set with.
    ///
    /// `current` reads the newest value, to detect an earlier change. `fault` is the injected fault, and
    /// `outage` the injected outage.
    pub(crate) fn arm(
        &self,
        watch: Watch,
        fault: Fault,
        outage: Option<&Outage>,
        current: impl FnOnce(&Key) -> Option<Value>,
    ) {
        let Watch {
            key,
            value,
            future,
            owner,
        } = watch;
        let Some(owner) = owner.upgrade() else { return };
        let silent = outage.is_some_and(|outage| outage.silences_watch(&key));
        if let (Some(error), false) = (fault.error, silent) {
            let fail = move || future.complete(Err(error));
            network::after(fault.delay.unwrap_or_default(), Box::new(fail));
            return;
        }
        let mut armory = lock(&self.armory);
        armory.last_id += 1;
        let id = armory.last_id;
        let armed = Armed {
            id,
            value,
            future: future.clone(),
            delay: fault.delay,
        };
        armory.by_key.entry(key.clone()).or_default().push(armed);
        owner.armed.get_or_init(|| (key.clone(), id));
        drop(armory);
        if future.is_done() {
            // Cancelled before the owner knew where the watch is.
            self.remove(&key, id);
        }
        // Read only now, so that every commit either finds the watch or is seen here.
        let value = current(&key);
        let change = Change { key, value };
        self.changed(&[change], outage);
    }

    /// Fires the watches whose keys have a different value than the one they were set with, as their
    /// servers do when they answer again.
    pub(crate) fn recheck(&self, outage: Option<&Outage>, current: impl Fn(&Key) -> Option<Value>) {
        let keys: Vec<Key> = lock(&self.armory).by_key.keys().cloned().collect();
        for key in keys {
            let value = current(&key);
            self.changed(&[Change { key, value }], outage);
        }
    }

    fn remove(&self, key: &Key, id: u64) {
        let mut armory = lock(&self.armory);
        if let Some(armed) = armory.by_key.get_mut(key) {
            armed.retain(|watch| watch.id != id);
            if armed.is_empty() {
                armory.by_key.remove(key);
            }
        }
    }

    /// Fires the watches whose key has a different value now, except those that an outage silences.
    /// `changes` are in the order of commits.
    pub(crate) fn changed(&self, changes: &[Change], outage: Option<&Outage>) {
        if self.outstanding() == 0 {
            return;
        }
        let mut armory = lock(&self.armory);
        let mut fired = Vec::new();
        // Only the last value that a commit gave to a key was ever visible.
        let mut latest: BTreeMap<&Key, &Option<Value>> = BTreeMap::new();
        let silent = |key: &Key| outage.is_some_and(|outage| outage.silences_watch(key));
        for change in changes.iter().filter(|change| !silent(&change.key)) {
            latest.insert(&change.key, &change.value);
        }
        for (key, value) in latest {
            let Some(armed) = armory.by_key.get_mut(key) else {
                continue;
            };
            let mut i = 0;
            while i < armed.len() {
                if armed[i].value == *value {
                    i += 1;
                } else {
                    let watch = armed.swap_remove(i);
                    fired.push((watch.future, watch.delay));
                }
            }
            if armed.is_empty() {
                armory.by_key.remove(key);
            }
        }
        if let Some(held) = &mut armory.held {
            held.append(&mut fired);
        }
        drop(armory);
        fire(fired);
    }

    /// Whether no watch is armed.
    #[cfg(all(loom, test))]
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.armory).by_key.is_empty()
    }

    /// While held, watches that should fire wait; releasing fires them.
    pub(crate) fn hold(&self, hold: bool) {
        let mut armory = lock(&self.armory);
        if hold {
            armory.held.get_or_insert_with(Vec::new);
        } else {
            let held = armory.held.take().unwrap_or_default();
            drop(armory);
            fire(held);
        }
    }
}

/// Completes watches on the network thread: the caller may hold locks, and there may be many.
fn fire(fired: Vec<Fired>) {
    let mut now = Vec::with_capacity(fired.len());
    for (future, delay) in fired {
        match delay {
            None => now.push(future),
            Some(delay) => {
                let fire = move || future.complete(Ok(Output::Unit));
                network::after(delay, Box::new(fire));
            }
        }
    }
    if !now.is_empty() {
        network::on_network_thread(Box::new(move || {
            for future in now {
                future.complete(Ok(Output::Unit));
            }
        }));
    }
}
