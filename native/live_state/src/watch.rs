//! The watches that are pending for a live query: one for each key that it relies on.

use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

/// A key of the database.
pub type Key = Arc<[u8]>;

/// A watched key, and what a read has found there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// The key.
    pub key: Key,
    /// Its value.
    pub value: Option<Box<[u8]>>,
}

/// A watch of a reading transaction, which `arm` makes pending.
#[derive(Debug)]
pub struct Arming<A> {
    /// The place of its key in what the transaction has read.
    pub place: usize,
    /// A completion counts only if it carries the id of the key's current watch.
    pub id: u64,
    /// Makes the watch pending; gives its handle.
    pub arm: A,
}

/// A pending watch.
#[derive(Debug)]
pub struct Armed<H> {
    /// A completion counts only if it carries this.
    pub id: u64,
    /// The read version of the transaction that armed it.
    pub read_version: i64,
    /// The value it was armed with. FoundationDB compares the key with these bytes and nothing else.
    pub value: Option<Box<[u8]>>,
    /// When it was armed.
    pub since: Instant,
    /// Dropping the handle cancels the watch.
    pub handle: H,
}

/// Handles of watches that were replaced or given up.
pub type Released<H> = SmallVec<[H; 1]>;
/// Places in what a read has found.
pub type Places = SmallVec<[usize; 1]>;

#[derive(Debug)]
struct Slot<H> {
    /// The key, and its value as of what is shown.
    shown: Watched,
    armed: Option<Armed<H>>,
}

impl<H> Slot<H> {
    fn is_armed_with(&self, value: Option<&[u8]>) -> bool {
        let armed = self.armed.as_ref();
        armed.is_some_and(|watch| watch.value.as_deref() == value)
    }
}

/// Holds at most one watch for each key: the one armed at the newest read version. The keys are those
/// of the newest read, in ascending order.
#[derive(Debug)]
pub struct WatchSet<H>(SmallVec<[Slot<H>; 1]>);

impl<H> Default for WatchSet<H> {
    fn default() -> Self {
        WatchSet(SmallVec::new())
    }
}

impl<H> WatchSet<H> {
    fn find(&self, key: &[u8]) -> Option<usize> {
        self.0
            .binary_search_by(|slot| (*slot.shown.key).cmp(key))
            .ok()
    }

    /// The places of those keys for which no watch is pending that was armed with this value. A watch
    /// that is stays: it fires at the next change of this value.
    pub fn missing(&self, read: &[Watched]) -> Places {
        let kept = |watched: &Watched| {
            self.find(&watched.key)
                .is_some_and(|at| self.0[at].is_armed_with(watched.value.as_deref()))
        };
        (0..read.len()).filter(|at| !kept(&read[*at])).collect()
    }

    /// What a read has found is shown from now on. Its keys are in ascending order. Watches of other
    /// keys are given up.
    pub fn show(&mut self, read: impl IntoIterator<Item = Watched>) -> Released<H> {
        let mut before = std::mem::take(&mut self.0).into_iter().peekable();
        let mut released = Released::new();
        for shown in read {
            while let Some(gone) = before.next_if(|slot| slot.shown.key < shown.key) {
                released.extend(gone.armed.map(|watch| watch.handle));
            }
            let kept = before.next_if(|slot| slot.shown.key == shown.key);
            let armed = kept.and_then(|slot| slot.armed);
            self.0.push(Slot { shown, armed });
        }
        released.extend(before.filter_map(|slot| slot.armed.map(|watch| watch.handle)));
        released
    }

    /// Puts in a watch of a key, unless the key's pending one was armed at a newer read version or the
    /// key is not one of those shown. Returns the handle of the one it replaces.
    pub fn put(
        &mut self,
        key: &[u8],
        read_version: i64,
        watch: impl FnOnce() -> Armed<H>,
    ) -> Option<H> {
        let at = self.find(key)?;
        let armed = &mut self.0[at].armed;
        let yields = armed
            .as_ref()
            .is_none_or(|pending| pending.read_version <= read_version);
        if !yields {
            return None;
        }
        armed.replace(watch()).map(|before| before.handle)
    }

    /// Whether these are the keys and values that are shown.
    pub fn shows(&self, read: &[Watched]) -> bool {
        self.0.len() == read.len()
            && self
                .0
                .iter()
                .zip(read)
                .all(|(slot, one)| slot.shown == *one)
    }

    /// Whether these are the keys that are shown, whatever their values.
    pub fn has_keys_of(&self, read: &[Watched]) -> bool {
        let same = |(slot, one): (&Slot<H>, &Watched)| slot.shown.key == one.key;
        self.0.len() == read.len() && self.0.iter().zip(read).all(same)
    }

    /// Whether for each key a watch is pending that was armed with the value that is shown.
    pub fn is_complete(&self) -> bool {
        let complete = |slot: &Slot<H>| slot.is_armed_with(slot.shown.value.as_deref());
        self.0.iter().all(complete)
    }

    /// The keys and values that are shown.
    pub fn shown(&self) -> impl Iterator<Item = &Watched> {
        self.0.iter().map(|slot| &slot.shown)
    }

    /// The watch of this id has fired or failed. Returns it, and its key, if it is the key's current one.
    pub fn complete(&mut self, id: u64) -> Option<(Key, Armed<H>)> {
        self.0.iter_mut().find_map(|slot| {
            let watch = slot.armed.take_if(|watch| watch.id == id)?;
            Some((Key::clone(&slot.shown.key), watch))
        })
    }

    /// Gives all watches up; returns their handles.
    pub fn clear(&mut self) -> Released<H> {
        let armed = self.0.iter_mut().filter_map(|slot| slot.armed.take());
        armed.map(|watch| watch.handle).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn armed(id: u64, read_version: i64, value: &[u8]) -> Armed<u64> {
        Armed {
            id,
            read_version,
            value: Some(value.into()),
            since: Instant::now(),
            handle: id,
        }
    }

    fn watched(key: &str, value: &[u8]) -> Watched {
        Watched {
            key: key.as_bytes().into(),
            value: Some(value.into()),
        }
    }

    #[test]
    fn a_watch_is_kept_only_for_the_bytes_it_was_armed_with() {
        let mut set = WatchSet::default();
        assert_eq!(&set.missing(&[watched("k", b"a")])[..], [0]);
        set.show([watched("k", b"a")]);
        assert!(!set.is_complete());
        set.put(b"k", 10, || armed(1, 10, b"a"));
        assert!(set.is_complete());
        assert!(set.missing(&[watched("k", b"a")]).is_empty());
        assert_eq!(&set.missing(&[watched("k", b"b")])[..], [0]);
    }

    #[test]
    fn a_watch_of_an_older_read_does_not_replace_a_newer_one() {
        let mut set = WatchSet::default();
        set.show([watched("k", b"a")]);
        set.put(b"k", 10, || armed(1, 10, b"a"));
        set.put(b"k", 9, || unreachable!("an older one"));
        assert_eq!(set.put(b"k", 10, || armed(2, 10, b"a")), Some(1));
        set.put(b"other", 11, || unreachable!("another key"));
    }

    #[test]
    fn the_completion_of_a_replaced_watch_does_not_count() {
        let mut set = WatchSet::default();
        set.show([watched("k", b"b")]);
        set.put(b"k", 10, || armed(1, 10, b"a"));
        assert_eq!(set.put(b"k", 11, || armed(2, 11, b"b")), Some(1));
        assert!(set.complete(1).is_none());
        assert!(set.is_complete());
        assert_eq!(set.complete(2).map(|(key, _)| key), Some(b"k"[..].into()));
        assert!(set.complete(2).is_none());
    }

    #[test]
    fn keys_that_stay_keep_their_watches_and_others_give_them_up() {
        let mut set = WatchSet::default();
        set.show(["a", "b", "c"].map(|key| watched(key, b"1")));
        for (id, key) in [(1, "a"), (2, "b"), (3, "c")] {
            set.put(key.as_bytes(), 10, || armed(id, 10, b"1"));
        }
        let released = set.show(["b", "bb", "d"].map(|key| watched(key, b"1")));
        assert_eq!(&released[..], [1, 3]);
        let missing = set.missing(&["b", "bb", "d"].map(|key| watched(key, b"1")));
        assert_eq!(&missing[..], [1, 2]);
        assert_eq!(&set.clear()[..], [2]);
    }
}
