//! A live query's subscribers, and the round that notifies them.

use slab::Slab;

/// A round visits every subscriber in turns of bounded size. A change during a round does not start
/// it over: the round goes on from where it is and visits every place once more.
#[derive(Debug)]
pub struct FanOut<S> {
    subscribers: Slab<S>,
    places: usize,
    cursor: usize,
    left: usize,
    /// Whether somebody is carrying the round out.
    running: bool,
}

impl<S> Default for FanOut<S> {
    fn default() -> Self {
        FanOut {
            subscribers: Slab::new(),
            places: 0,
            cursor: 0,
            left: 0,
            running: false,
        }
    }
}

impl<S: Clone> FanOut<S> {
    /// Adds a subscriber; returns its slot.
    pub fn attach(&mut self, subscriber: S) -> usize {
        let slot = self.subscribers.insert(subscriber);
        let places = self.subscribers.capacity();
        if self.places != places {
            self.places = places;
            // The rest of a running round would be spent on the new places, and end before it has
            // been at all of the old ones.
            if self.left > 0 {
                self.left = places;
            }
        }
        slot
    }

    /// Removes a subscriber.
    pub fn detach(&mut self, slot: usize) -> Option<S> {
        self.subscribers.try_remove(slot)
    }

    /// The subscribers in up to `most` places from `place` on, with their slots, and the next place.
    /// `None` when there are no more places.
    pub fn page(&self, place: usize, most: usize) -> Option<(Vec<(usize, S)>, usize)> {
        let places = self.subscribers.capacity();
        if place >= places {
            return None;
        }
        let end = (place + most).min(places);
        let found = (place..end)
            .filter_map(|slot| Some((slot, self.subscribers.get(slot)?.clone())))
            .collect();
        Some((found, end))
    }

    /// Every subscriber must be visited from now on. True if the caller has to start a round.
    pub fn start(&mut self) -> bool {
        self.left = self.places;
        !std::mem::replace(&mut self.running, true)
    }

    /// The next few subscribers of the round; whether more are left.
    pub fn turn(&mut self, most: usize, due: &mut Vec<S>) -> bool {
        for _ in 0..most {
            if self.left == 0 {
                break;
            }
            self.left -= 1;
            self.cursor = if self.cursor + 1 < self.places {
                self.cursor + 1
            } else {
                0
            };
            due.extend(self.subscribers.get(self.cursor).cloned());
        }
        self.running = self.left > 0;
        self.running
    }

    /// Whether a round has visits left.
    pub fn is_running(&self) -> bool {
        self.running
    }

    /// How many subscribers there are.
    pub fn len(&self) -> usize {
        self.subscribers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.subscribers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Attach,
        Detach(usize),
        Start,
        Turn(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Attach),
            1 => (0..40usize).prop_map(Step::Detach),
            1 => Just(Step::Start),
            3 => (1..5usize).prop_map(Step::Turn),
        ]
    }

    proptest! {
        /// Whoever is attached when a round starts, and stays, is visited after it.
        #[test]
        fn a_round_visits_everybody(steps in proptest::collection::vec(step(), 0..200)) {
            let mut fan_out = FanOut::default();
            // By subscriber: its slot, and whether a visit is owed.
            let mut model: std::collections::HashMap<u32, (usize, bool)> = Default::default();
            let mut next = 0;
            let mut due = Vec::new();
            let mut visit = |fan_out: &mut FanOut<u32>, model: &mut std::collections::HashMap<u32, (usize, bool)>, most| {
                let more = fan_out.turn(most, &mut due);
                for subscriber in due.drain(..) {
                    if let Some(entry) = model.get_mut(&subscriber) {
                        entry.1 = false;
                    }
                }
                more
            };
            for step in steps {
                match step {
                    Step::Attach => {
                        let slot = fan_out.attach(next);
                        model.insert(next, (slot, false));
                        next += 1;
                    }
                    Step::Detach(subscriber) => {
                        if let Some((slot, _)) = model.remove(&(subscriber as u32)) {
                            prop_assert_eq!(fan_out.detach(slot), Some(subscriber as u32));
                        }
                    }
                    Step::Start => {
                        fan_out.start();
                        model.values_mut().for_each(|entry| entry.1 = true);
                    }
                    Step::Turn(most) => { visit(&mut fan_out, &mut model, most); }
                }
            }
            while visit(&mut fan_out, &mut model, 7) {}
            prop_assert!(model.values().all(|(_, owed)| !owed));
            prop_assert_eq!(fan_out.len(), model.len());
        }
    }
}
