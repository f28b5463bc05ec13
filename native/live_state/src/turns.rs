//! What waits for the turn of a key: at most one turn of each key is under way.

use std::collections::HashMap;
use std::hash::Hash;

/// What one turn is for: calls by their tickets, and whether the key's live query is refreshed.
pub type Share<C, L> = (Vec<(u64, C)>, Option<L>);

#[derive(Debug)]
struct Waiting<C, L> {
    calls: Vec<(u64, C)>,
    refresh: Option<L>,
}

impl<C, L> Default for Waiting<C, L> {
    fn default() -> Self {
        Waiting {
            calls: Vec::new(),
            refresh: None,
        }
    }
}

/// Calls `C` and live queries `L`, by the key `K` whose turn they wait for. What comes while a turn is
/// under way waits for the next one, and shares it.
#[derive(Debug)]
pub struct Turns<K, C, L> {
    /// There is an entry while a key has turns.
    waiting: HashMap<K, Waiting<C, L>>,
    /// What each call waits for.
    tickets: HashMap<u64, K>,
}

impl<K, C, L> Default for Turns<K, C, L> {
    fn default() -> Self {
        Turns {
            waiting: HashMap::new(),
            tickets: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash, C, L> Turns<K, C, L> {
    /// A call waits for a turn. True if the caller has to start the key's turns.
    pub fn push_call(&mut self, key: &K, ticket: u64, call: C) -> bool {
        self.tickets.insert(ticket, key.clone());
        let start = !self.waiting.contains_key(key);
        let waiting = self.waiting.entry(key.clone()).or_default();
        waiting.calls.push((ticket, call));
        start
    }

    /// A live query waits for a turn. True if the caller has to start the key's turns.
    pub fn push_refresh(&mut self, key: &K, live_query: L) -> bool {
        let start = !self.waiting.contains_key(key);
        let waiting = self.waiting.entry(key.clone()).or_default();
        waiting.refresh = Some(live_query);
        start
    }

    /// The key's next turn takes all that waits for it. `None` if nothing does: its turns are over.
    pub fn next(&mut self, key: &K) -> Option<Share<C, L>> {
        let waiting = self.waiting.get_mut(key)?;
        let Waiting { calls, refresh } = std::mem::take(waiting);
        if calls.is_empty() && refresh.is_none() {
            self.waiting.remove(key);
            return None;
        }
        for (ticket, _call) in &calls {
            self.tickets.remove(ticket);
        }
        Some((calls, refresh))
    }

    /// Takes a call out of its wait if this is true of it.
    pub fn forget_if(&mut self, ticket: u64, over: impl FnOnce(&C) -> bool) -> Option<C> {
        let key = self.tickets.get(&ticket)?;
        let calls = &mut self.waiting.get_mut(key)?.calls;
        let place = calls.iter().position(|(other, _)| *other == ticket)?;
        if !over(&calls[place].1) {
            return None;
        }
        self.tickets.remove(&ticket);
        Some(calls.swap_remove(place).1)
    }

    /// How many calls and live queries wait.
    pub fn len(&self) -> usize {
        let refreshes = self.waiting.values().filter(|one| one.refresh.is_some());
        self.tickets.len() + refreshes.count()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_during_a_turn_shares_the_next_one() {
        let mut turns = Turns::default();
        assert!(turns.push_call(&"f", 1, "a"));
        assert!(turns.push_refresh(&"g", "live g"));
        assert_eq!(turns.next(&"f"), Some((vec![(1, "a")], None)));
        // The turn of `f` is under way.
        assert!(!turns.push_call(&"f", 2, "b"));
        assert!(!turns.push_refresh(&"f", "live f"));
        assert!(!turns.push_call(&"f", 3, "c"));
        assert_eq!(turns.len(), 4);
        let both = (vec![(2, "b"), (3, "c")], Some("live f"));
        assert_eq!(turns.next(&"f"), Some(both));
        assert_eq!(turns.next(&"f"), None);
        assert!(turns.push_call(&"f", 4, "d"), "its turns are over");
        assert_eq!(turns.next(&"g"), Some((vec![], Some("live g"))));
    }

    #[test]
    fn a_call_that_nobody_waits_for_leaves() {
        let mut turns = Turns::<_, _, ()>::default();
        turns.push_call(&"f", 1, "a");
        turns.push_call(&"f", 2, "b");
        assert_eq!(turns.forget_if(1, |_| false), None);
        assert_eq!(turns.forget_if(1, |_| true), Some("a"));
        assert_eq!(turns.forget_if(1, |_| true), None);
        assert_eq!(turns.next(&"f"), Some((vec![(2, "b")], None)));
        assert_eq!(turns.forget_if(2, |_| true), None);
        assert!(turns.is_empty());
    }
}
