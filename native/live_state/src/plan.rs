//! Whether the plan of a live query still holds.

use std::time::{Duration, Instant};

use crate::backoff::LONGEST_DELAY;

/// Where a plan stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It holds, as far as anybody knows.
    Holds,
    /// What it was made from has changed, and the planner was asked for a new one.
    Asked(Instant),
    /// No plan can be made from what there is now.
    Missing,
    /// The tenant is gone, for good: nothing will be read again.
    Gone,
}

/// A plan and what it was made from, the basis.
#[derive(Debug)]
pub struct Plan<B> {
    stage: Stage,
    basis: B,
}

impl<B> Plan<B> {
    /// A plan made from this basis.
    pub fn new(basis: B) -> Self {
        Plan {
            stage: Stage::Holds,
            basis,
        }
    }

    /// What it was made from.
    pub fn basis(&self) -> &B {
        &self.basis
    }

    /// Where it stands.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Whether the query may be read by it.
    pub fn holds(&self) -> bool {
        self.stage == Stage::Holds
    }

    /// The basis is no longer what it was. True if the planner must be asked: an answer that does
    /// not come is asked for again.
    pub fn basis_changed(&mut self, now: Instant) -> bool {
        match self.stage {
            Stage::Gone => false,
            Stage::Asked(since) if now.saturating_duration_since(since) < LONGEST_DELAY => false,
            _ => {
                self.stage = Stage::Asked(now);
                true
            }
        }
    }

    /// How long the planner has owed an answer.
    pub fn unanswered(&self, now: Instant) -> Option<Duration> {
        match self.stage {
            Stage::Asked(since) => Some(now.saturating_duration_since(since)),
            _ => None,
        }
    }

    /// The plan holds, on this basis.
    pub fn planned(&mut self, basis: B) {
        if self.stage != Stage::Gone {
            self.stage = Stage::Holds;
            self.basis = basis;
        }
    }

    /// No plan can be made from this basis.
    pub fn missing(&mut self, basis: B) {
        if self.stage != Stage::Gone {
            self.stage = Stage::Missing;
            self.basis = basis;
        }
    }

    /// The tenant is gone.
    pub fn gone(&mut self) {
        self.stage = Stage::Gone;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_planner_is_asked_once_and_again_if_it_does_not_answer() {
        let begin = Instant::now();
        let mut plan = Plan::new("old");
        assert!(plan.basis_changed(begin));
        assert!(!plan.holds());
        assert!(!plan.basis_changed(begin + Duration::from_secs(1)));
        assert!(plan.basis_changed(begin + LONGEST_DELAY));
        plan.planned("new");
        assert!(plan.holds());
        assert_eq!(*plan.basis(), "new");
    }

    #[test]
    fn nothing_revives_the_plan_of_a_tenant_that_is_gone() {
        let mut plan = Plan::new("old");
        plan.gone();
        plan.planned("new");
        assert_eq!(plan.stage(), Stage::Gone);
        assert!(!plan.basis_changed(Instant::now()));
    }
}
