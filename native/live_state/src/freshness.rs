//! Whether what a live query shows is known to be what the database holds.

use std::time::{Duration, Instant};

/// A live query has turned stale, or fresh again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Its data could not be confirmed for too long.
    Stale,
    /// Its data are confirmed again.
    Fresh,
}

/// `R` is the reason that subscribers are told.
#[derive(Debug)]
pub struct Freshness<R> {
    /// Since when a confirmation has been missing: a read is wanted, fails, or gets no answer.
    missing_since: Option<Instant>,
    /// When the data were last confirmed.
    confirmed: Instant,
    /// The last error on the way to a confirmation.
    error: Option<R>,
    /// Why the data are stale. Set once in an incident, and cleared by the first confirmation.
    stale: Option<R>,
}

impl<R: Clone> Freshness<R> {
    /// Nothing is amiss yet.
    pub fn new(now: Instant) -> Self {
        Freshness {
            missing_since: None,
            confirmed: now,
            error: None,
            stale: None,
        }
    }

    /// A confirmation is missing since then, because of this error if one is known.
    pub fn miss(&mut self, since: Instant, error: Option<R>) {
        self.missing_since.get_or_insert(since);
        if error.is_some() {
            self.error = error;
        }
    }

    /// The data are what the database holds.
    pub fn confirm(&mut self, now: Instant) -> Option<Turn> {
        self.missing_since = None;
        self.error = None;
        self.confirmed = now;
        self.stale.take().map(|_| Turn::Fresh)
    }

    /// The data turn stale if a confirmation has been missing for `limit`. `reason` is asked for
    /// one if no error is known.
    pub fn check(
        &mut self,
        now: Instant,
        limit: Duration,
        reason: impl FnOnce(Duration) -> R,
    ) -> Option<Turn> {
        let missing = now.saturating_duration_since(self.missing_since?);
        if missing < limit || self.stale.is_some() {
            return None;
        }
        let reason = self.error.clone().unwrap_or_else(|| reason(missing));
        self.stale = Some(reason);
        Some(Turn::Stale)
    }

    /// The data are stale from now on, for this reason.
    pub fn force_stale(&mut self, now: Instant, reason: R) -> Option<Turn> {
        self.miss(now, None);
        match self.stale.replace(reason) {
            None => Some(Turn::Stale),
            Some(_) => None,
        }
    }

    /// Why the data are stale, if they are.
    pub fn stale(&self) -> Option<&R> {
        self.stale.as_ref()
    }

    /// Whether a confirmation is missing.
    pub fn is_missing(&self) -> bool {
        self.missing_since.is_some()
    }

    /// When the data were last confirmed.
    pub fn confirmed(&self) -> Instant {
        self.confirmed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn an_incident_turns_stale_once_and_fresh_once() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut freshness = Freshness::new(begin);
        assert_eq!(freshness.check(at(100), LIMIT, |_| "silent"), None);
        freshness.miss(at(100), None);
        assert_eq!(freshness.check(at(109), LIMIT, |_| "silent"), None);
        freshness.miss(at(109), Some("locked"));
        assert_eq!(
            freshness.check(at(110), LIMIT, |_| "silent"),
            Some(Turn::Stale)
        );
        assert_eq!(freshness.stale(), Some(&"locked"));
        assert_eq!(freshness.check(at(130), LIMIT, |_| "silent"), None);
        assert_eq!(freshness.confirm(at(131)), Some(Turn::Fresh));
        assert_eq!(freshness.confirm(at(132)), None);
        // The next incident needs its full time.
        freshness.miss(at(132), None);
        assert_eq!(freshness.check(at(141), LIMIT, |_| "silent"), None);
    }
}
