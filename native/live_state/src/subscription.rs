//! One subscription: whether its message may be sent, and what there is to take.

use smallvec::SmallVec;

/// A subscription's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its first read is under way.
    Pending,
    /// No message of it waits in the mailbox.
    Idle,
    /// Its message was sent and not yet taken.
    Outstanding,
    /// Cancelled, or its process died. For good.
    Over,
}

/// The phase of a subscription, and which of its live queries may have news.
///
/// At most one message is outstanding. A live query marks its place here whenever it changes; taking
/// looks at marked places only, so that it costs what has changed, not what is subscribed to.
#[derive(Debug)]
pub struct SubscriptionState {
    phase: Phase,
    /// Whether the first results still wait to be taken.
    first: bool,
    marked: SmallVec<[u32; 4]>,
    /// A bit for each place in `marked`.
    bits: SmallVec<[u64; 1]>,
}

impl Default for SubscriptionState {
    fn default() -> Self {
        SubscriptionState {
            phase: Phase::Pending,
            first: true,
            marked: SmallVec::new(),
            bits: SmallVec::new(),
        }
    }
}

impl SubscriptionState {
    /// Its phase.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Its first results are there. False if it is over.
    pub fn stand(&mut self) -> bool {
        if self.is_over() {
            return false;
        }
        self.phase = Phase::Idle;
        true
    }

    /// The live query at this place may have news.
    pub fn mark(&mut self, place: u32) {
        let (word, bit) = (place as usize / 64, 1_u64 << (place % 64));
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        if self.bits[word] & bit == 0 {
            self.bits[word] |= bit;
            self.marked.push(place);
        }
    }

    /// Keeps those marks of which this is true. Call it before `may_send`: news may have been taken
    /// before their mark came.
    pub fn retain(&mut self, mut is_news: impl FnMut(u32) -> bool) {
        let bits = &mut self.bits;
        self.marked.retain(|place| {
            let keep = is_news(*place);
            if !keep {
                bits[*place as usize / 64] &= !(1_u64 << (*place % 64));
            }
            keep
        });
    }

    /// Whether a message may be sent: there are news, and none is outstanding.
    pub fn may_send(&self) -> bool {
        self.phase == Phase::Idle && !self.marked.is_empty()
    }

    /// The message was sent.
    pub fn sent(&mut self) {
        if self.phase == Phase::Idle {
            self.phase = Phase::Outstanding;
        }
    }

    /// Whether the next `take` is the first.
    pub fn is_first(&self) -> bool {
        self.first
    }

    /// The places marked so far, in the order of their marks.
    pub fn marked(&self) -> &[u32] {
        &self.marked
    }

    /// Takes the first results. A message sent meanwhile is still in the mailbox: marks and phase
    /// stay.
    pub fn take_first(&mut self) {
        self.first = false;
    }

    /// Takes the news: the marked places. The next message may be sent.
    pub fn take(&mut self) -> SmallVec<[u32; 4]> {
        if self.phase == Phase::Outstanding {
            self.phase = Phase::Idle;
        }
        for place in &self.marked {
            self.bits[*place as usize / 64] &= !(1_u64 << (*place % 64));
        }
        std::mem::take(&mut self.marked)
    }

    /// Ends it. Returns the phase it was in.
    pub fn end(&mut self) -> Phase {
        self.marked = SmallVec::new();
        self.bits = SmallVec::new();
        std::mem::replace(&mut self.phase, Phase::Over)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Change(u32),
        Notify,
        Take,
        End,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..130u32).prop_map(Step::Change),
            4 => Just(Step::Notify),
            4 => Just(Step::Take),
            1 => Just(Step::End),
        ]
    }

    proptest! {
        /// At most one message waits, none is sent after the end, and news are never left without a
        /// message or a mark.
        #[test]
        fn messages_follow_news(steps in proptest::collection::vec(step(), 0..200)) {
            let mut state = SubscriptionState::default();
            prop_assert!(state.stand());
            state.take_first();
            let mut mailbox = 0;
            let mut newest = [0_u32; 130];
            let mut taken = [0_u32; 130];
            for step in steps {
                match step {
                    Step::Change(place) if !state.is_over() => {
                        newest[place as usize] += 1;
                        state.mark(place);
                    }
                    Step::Change(_) => {}
                    Step::Notify => {
                        state.retain(|place| newest[place as usize] != taken[place as usize]);
                        if state.may_send() {
                            prop_assert!(!state.is_over());
                            mailbox += 1;
                            state.sent();
                        }
                        prop_assert!(mailbox <= 1);
                        prop_assert!(state.is_over() || mailbox == 1 || newest == taken);
                    }
                    Step::Take => {
                        if mailbox == 1 {
                            mailbox = 0;
                            for place in state.take() {
                                taken[place as usize] = newest[place as usize];
                            }
                        }
                    }
                    Step::End => { state.end(); mailbox = 0; }
                }
            }
        }
    }

    #[test]
    fn a_message_sent_before_the_first_take_stays_outstanding() {
        let mut state = SubscriptionState::default();
        state.stand();
        state.mark(0);
        assert!(state.may_send());
        state.sent();
        state.take_first();
        state.mark(0);
        assert!(!state.may_send(), "one message at a time");
        assert_eq!(&state.take()[..], [0]);
        state.mark(0);
        assert!(state.may_send());
    }

    #[test]
    fn a_subscription_that_ended_while_it_was_pending_never_stands() {
        let mut state = SubscriptionState::default();
        assert_eq!(state.end(), Phase::Pending);
        assert!(!state.stand());
        state.mark(0);
        assert!(!state.may_send());
    }
}
