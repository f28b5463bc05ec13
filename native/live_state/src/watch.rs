//! The one watch that is pending for a live query.

use std::time::Instant;

/// A pending watch.
#[derive(Debug)]
pub struct Armed<H> {
    /// A completion counts only if it carries the id of the current watch.
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

/// Holds at most one watch: the one armed at the newest read version.
#[derive(Debug)]
pub struct WatchSlot<H>(Option<Armed<H>>);

impl<H> Default for WatchSlot<H> {
    fn default() -> Self {
        WatchSlot(None)
    }
}

impl<H> WatchSlot<H> {
    /// Whether a watch is pending that was armed with this value. Such a watch stays: it fires at
    /// the next change of this value.
    pub fn is_armed_with(&self, value: Option<&[u8]>) -> bool {
        self.0
            .as_ref()
            .is_some_and(|watch| watch.value.as_deref() == value)
    }

    /// Whether a watch armed at this read version takes the place of the pending one.
    pub fn yields_to(&self, read_version: i64) -> bool {
        self.0
            .as_ref()
            .is_none_or(|watch| watch.read_version <= read_version)
    }

    /// Puts a watch in; returns the handle of the one it replaces.
    pub fn put(&mut self, watch: Armed<H>) -> Option<H> {
        self.0.replace(watch).map(|watch| watch.handle)
    }

    /// The watch of this id has fired or failed. Returns it if it is the current one.
    pub fn complete(&mut self, id: u64) -> Option<Armed<H>> {
        self.0.take_if(|watch| watch.id == id)
    }

    /// Gives the watch up; returns its handle.
    pub fn clear(&mut self) -> Option<H> {
        self.0.take().map(|watch| watch.handle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn armed(id: u64, read_version: i64, value: &[u8]) -> Armed<&'static str> {
        Armed {
            id,
            read_version,
            value: Some(value.into()),
            since: Instant::now(),
            handle: "handle",
        }
    }

    #[test]
    fn a_watch_is_kept_only_for_the_bytes_it_was_armed_with() {
        let mut slot = WatchSlot::default();
        assert!(!slot.is_armed_with(Some(b"a")));
        slot.put(armed(1, 10, b"a"));
        assert!(slot.is_armed_with(Some(b"a")));
        assert!(!slot.is_armed_with(Some(b"b")));
        assert!(!slot.is_armed_with(None));
    }

    #[test]
    fn a_watch_of_an_older_read_does_not_replace_a_newer_one() {
        let mut slot = WatchSlot::default();
        slot.put(armed(1, 10, b"a"));
        assert!(!slot.yields_to(9));
        assert!(slot.yields_to(10));
        assert!(slot.yields_to(11));
    }

    #[test]
    fn the_completion_of_a_replaced_watch_does_not_count() {
        let mut slot = WatchSlot::default();
        slot.put(armed(1, 10, b"a"));
        assert_eq!(slot.put(armed(2, 11, b"b")), Some("handle"));
        assert!(slot.complete(1).is_none());
        assert!(slot.is_armed_with(Some(b"b")));
        assert!(slot.complete(2).is_some());
        assert!(slot.complete(2).is_none());
    }
}
