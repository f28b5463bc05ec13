//! What waits for the next batch.
//!
//! Three lanes keep one kind of work from holding up another. Live queries that were read before
//! share the first; calls, which may ask for anything, share the second; whatever got no answer, or
//! took too long, is tried at the side.

use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::storm::Storm;

/// A lane of the queue, with readers of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Live queries that are read again.
    Refreshes,
    /// Calls of processes.
    Calls,
    /// What got no answer in one of the other lanes.
    Side,
}

impl Lane {
    /// How many batches may be under way at the same time.
    fn most_readers(self) -> usize {
        match self {
            Lane::Refreshes => 2,
            Lane::Calls | Lane::Side => 4,
        }
    }
}

/// Calls in one batch.
const MOST_CALLS: usize = 10_000;
/// Live queries that one batch reads again.
const MOST_REFRESHES: usize = 1_000;
/// Queries of all waiting calls: some 100 MB.
const MOST_WAITING: usize = 250_000;

/// The queue takes no further call.
#[derive(Debug, PartialEq, Eq)]
pub struct Full {
    /// How many queries wait.
    pub waiting: usize,
}

#[derive(Debug)]
struct Waiting<C> {
    call: C,
    size: usize,
    since: Instant,
}

type Calls<C> = BTreeMap<u64, Waiting<C>>;

/// What one transaction is going to read.
#[derive(Debug)]
pub struct Batch<C, R> {
    /// Calls by their tickets.
    pub calls: Vec<(u64, C)>,
    /// Live queries to read again.
    pub refreshes: Vec<R>,
    /// Whether calls gather from now on, until `gathered`.
    pub gathers: bool,
}

/// `C` is a call, `R` a live query to be read again, `P` the process that calls.
#[derive(Debug)]
pub struct Queue<C, R, P> {
    refreshes: VecDeque<R>,
    /// In order of their tickets.
    calls: Calls<C>,
    /// Calls for what others have already: in a storm they wait for more to join.
    joining: Calls<C>,
    side_refreshes: VecDeque<R>,
    side_calls: Calls<C>,
    /// Whether joining calls wait; the reader of the last batch that took some ends it.
    gathering: bool,
    storm: Storm<P>,
    readers: [usize; 3],
    /// Queries of all waiting calls.
    waiting: usize,
}

impl<C, R, P> Default for Queue<C, R, P> {
    fn default() -> Self {
        Queue {
            refreshes: VecDeque::new(),
            calls: BTreeMap::new(),
            joining: BTreeMap::new(),
            side_refreshes: VecDeque::new(),
            side_calls: BTreeMap::new(),
            gathering: false,
            storm: Storm::default(),
            readers: [0; 3],
            waiting: 0,
        }
    }
}

impl<C, R, P: PartialEq> Queue<C, R, P> {
    /// Queues a call of `size` queries under a ticket. `joins` says that others have some of what it
    /// asks for already, and who asks.
    pub fn push_call(
        &mut self,
        ticket: u64,
        call: C,
        size: usize,
        joins: Option<P>,
        now: Instant,
    ) -> Result<(), (Full, C)> {
        if self.waiting > 0 && self.waiting + size > MOST_WAITING {
            let waiting = self.waiting;
            return Err((Full { waiting }, call));
        }
        self.waiting += size;
        let waiting = Waiting {
            call,
            size,
            since: now,
        };
        match joins {
            Some(caller) => {
                self.storm.count(caller, now);
                self.joining.insert(ticket, waiting)
            }
            None => self.calls.insert(ticket, waiting),
        };
        Ok(())
    }

    /// Puts a call of an earlier batch back: to the side, or to where calls are read first.
    pub fn put_back(&mut self, ticket: u64, call: C, size: usize, side: bool, now: Instant) {
        self.waiting += size;
        let calls = if side {
            &mut self.side_calls
        } else {
            &mut self.calls
        };
        let waiting = Waiting {
            call,
            size,
            since: now,
        };
        calls.insert(ticket, waiting);
    }

    /// Queues a live query to be read again.
    pub fn push_refresh(&mut self, refresh: R, side: bool) {
        if side {
            self.side_refreshes.push_back(refresh);
        } else {
            self.refreshes.push_back(refresh);
        }
    }

    /// Removes the call of this ticket if it is still here and nobody waits for it any more.
    pub fn forget_if(&mut self, ticket: u64, is_over: impl Fn(&C) -> bool) -> Option<C> {
        for calls in [&mut self.calls, &mut self.joining, &mut self.side_calls] {
            if let Entry::Occupied(found) = calls.entry(ticket) {
                if !is_over(&found.get().call) {
                    return None;
                }
                let found = found.remove();
                self.waiting -= found.size;
                return Some(found.call);
            }
        }
        None
    }

    /// True if the caller has to start a reader of this lane.
    pub fn start_reader(&mut self, lane: Lane) -> bool {
        let readers = &mut self.readers[lane as usize];
        let start = *readers < lane.most_readers();
        let start = start && self.has_work(lane);
        if start {
            self.readers[lane as usize] += 1;
        }
        start
    }

    /// How many batches are under way in this lane.
    pub fn readers(&self, lane: Lane) -> usize {
        self.readers[lane as usize]
    }

    fn has_work(&self, lane: Lane) -> bool {
        match lane {
            Lane::Refreshes => !self.refreshes.is_empty(),
            Lane::Calls => !self.calls.is_empty() || (!self.gathering && !self.joining.is_empty()),
            Lane::Side => !self.side_calls.is_empty() || !self.side_refreshes.is_empty(),
        }
    }

    /// The next batch for a reader of this lane; `None` ends the reader.
    pub fn next(&mut self, lane: Lane, now: Instant) -> Option<Batch<C, R>> {
        if !self.has_work(lane) {
            self.readers[lane as usize] -= 1;
            return None;
        }
        let mut batch = Batch {
            calls: Vec::new(),
            refreshes: Vec::new(),
            gathers: false,
        };
        match lane {
            Lane::Refreshes => {
                let many = self.refreshes.len().min(MOST_REFRESHES);
                batch.refreshes.extend(self.refreshes.drain(..many));
            }
            Lane::Calls => {
                let mut size = 0;
                take_calls(&mut self.calls, &mut batch.calls, &mut size, MOST_CALLS);
                if !self.gathering {
                    let before = batch.calls.len();
                    take_calls(&mut self.joining, &mut batch.calls, &mut size, MOST_CALLS);
                    batch.gathers = batch.calls.len() > before && self.storm.rages(now);
                    self.gathering = batch.gathers;
                }
                self.waiting -= size;
            }
            Lane::Side => {
                let mut size = 0;
                take_calls(
                    &mut self.side_calls,
                    &mut batch.calls,
                    &mut size,
                    MOST_REFRESHES,
                );
                self.waiting -= size;
                let many = self.side_refreshes.len().min(MOST_REFRESHES);
                batch.refreshes.extend(self.side_refreshes.drain(..many));
            }
        }
        Some(batch)
    }

    /// How many calls have joined while calls gather.
    pub fn joined(&self) -> usize {
        self.joining.len()
    }

    /// How long calls gather where they keep coming.
    pub fn window(&self) -> Duration {
        self.storm.window()
    }

    /// Ends the gathering: so many calls have joined.
    pub fn gathered(&mut self, joined: usize) {
        self.gathering = false;
        self.storm.gathered(joined);
    }

    /// Since when the oldest call waits.
    pub fn oldest(&self) -> Option<Instant> {
        [&self.calls, &self.joining, &self.side_calls]
            .into_iter()
            .filter_map(|calls| Some(calls.first_key_value()?.1.since))
            .min()
    }

    /// How many queries of calls wait, and how many live queries wait to be read again.
    pub fn lengths(&self) -> (usize, usize) {
        (
            self.waiting,
            self.refreshes.len() + self.side_refreshes.len(),
        )
    }
}

fn take_calls<C>(from: &mut Calls<C>, to: &mut Vec<(u64, C)>, size: &mut usize, most: usize) {
    while *size < most {
        let Some((ticket, waiting)) = from.pop_first() else {
            break;
        };
        *size += waiting.size;
        to.push((ticket, waiting.call));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type TestQueue = Queue<&'static str, u32, u32>;

    #[test]
    fn a_call_that_nobody_waits_for_leaves_the_queue() {
        let now = Instant::now();
        let mut queue = TestQueue::default();
        queue.push_call(1, "one", 20, None, now).unwrap();
        queue.push_call(2, "two", 20, Some(7), now).unwrap();
        assert_eq!(queue.lengths(), (40, 0));
        assert_eq!(queue.forget_if(1, |_| false), None);
        assert_eq!(queue.forget_if(1, |_| true), Some("one"));
        assert_eq!(queue.forget_if(1, |_| true), None);
        assert_eq!(queue.forget_if(2, |_| true), Some("two"));
        assert_eq!(queue.lengths(), (0, 0));
        assert!(!queue.start_reader(Lane::Calls));
    }

    #[test]
    fn the_queue_is_bounded_and_says_so() {
        let now = Instant::now();
        let mut queue = TestQueue::default();
        // One call may be larger than the bound: it would never be read otherwise.
        queue
            .push_call(1, "huge", MOST_WAITING * 2, None, now)
            .unwrap();
        let refused = queue.push_call(2, "small", 1, None, now);
        let waiting = MOST_WAITING * 2;
        assert_eq!(refused, Err((Full { waiting }, "small")));
        queue.forget_if(1, |_| true);
        queue.push_call(2, "small", 1, None, now).unwrap();
    }

    #[test]
    fn lanes_do_not_wait_for_each_other() {
        let now = Instant::now();
        let mut queue = TestQueue::default();
        for call in 0..100 {
            queue.put_back(call, "hanging", 1, true, now);
        }
        let started = (0..100).filter(|_| queue.start_reader(Lane::Side)).count();
        assert_eq!(started, Lane::Side.most_readers());
        queue.push_call(200, "healthy", 1, None, now).unwrap();
        queue.push_refresh(7, false);
        assert!(queue.start_reader(Lane::Calls));
        assert!(queue.start_reader(Lane::Refreshes));
        let batch = queue.next(Lane::Calls, now).unwrap();
        assert_eq!(batch.calls, [(200, "healthy")]);
        assert_eq!(queue.next(Lane::Refreshes, now).unwrap().refreshes, [7]);
        assert!(queue.next(Lane::Refreshes, now).is_none());
        assert_eq!(queue.readers(Lane::Refreshes), 0);
    }

    #[test]
    fn one_batch_never_takes_all_live_queries_of_a_node() {
        let now = Instant::now();
        let mut queue = TestQueue::default();
        for refresh in 0..2_500 {
            queue.push_refresh(refresh, false);
        }
        assert!(queue.start_reader(Lane::Refreshes));
        let sizes: Vec<_> = std::iter::from_fn(|| queue.next(Lane::Refreshes, now))
            .map(|batch| batch.refreshes.len())
            .collect();
        assert_eq!(sizes, [1_000, 1_000, 500]);
    }

    #[test]
    fn in_a_storm_joining_calls_gather_and_others_do_not_wait() {
        let now = Instant::now();
        let mut queue = TestQueue::default();
        for ticket in 0..20 {
            let joins = Some(ticket as u32);
            queue.push_call(ticket, "list", 1, joins, now).unwrap();
        }
        assert!(queue.start_reader(Lane::Calls));
        assert!(queue.next(Lane::Calls, now).unwrap().gathers);
        queue.push_call(30, "list", 1, Some(30), now).unwrap();
        assert!(!queue.start_reader(Lane::Calls), "it gathers");
        queue.push_call(31, "other", 1, None, now).unwrap();
        assert!(queue.start_reader(Lane::Calls));
        let batch = queue.next(Lane::Calls, now).unwrap();
        assert_eq!(batch.calls, [(31, "other")]);
        let joined = queue.joined();
        queue.gathered(joined);
        let batch = queue.next(Lane::Calls, now).unwrap();
        assert_eq!(batch.calls, [(30, "list")]);
    }
}
