//! Injected faults: the failures of a real cluster, as often as you like, and repeatable.
//!
//! Each call that may fail draws from one sequence of random numbers, which the seed determines: the
//! same seed and the same sequence of calls give the same faults. When faults are off, the only cost is
//! checking a flag.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::error::Error;
use crate::sync::{lock, Mutex};

/// The faults to inject and their probabilities, from `0.0` (never) to `1.0` (always).
///
/// | fault                   | hits          | what happens                                           |
/// |-------------------------|---------------|--------------------------------------------------------|
/// | `not_committed`         | commits       | fails with 1020 and changes nothing                    |
/// | `commit_unknown_result` | commits       | fails with 1021; it was committed in half of the cases |
/// | `transaction_too_old`   | commits, reads | fails with 1007                                       |
/// | `future_version`        | reads         | fails with 1009                                        |
/// | `process_behind`        | reads         | fails with 1037                                        |
/// | `slow_read`             | reads         | is answered after up to `read_delay`                   |
/// | `read_version_failure`  | read versions | fails with 1078 or 1051, and the transaction with it   |
/// | `slow_read_version`     | read versions | is answered after up to `read_delay`                   |
/// | `watch_failure`         | watches       | fails with 1009 within `watch_delay`, changed or not   |
/// | `slow_watch`            | watches       | fires up to `watch_delay` after the change             |
///
/// A transaction gets its read version with the first call that needs one: `get_read_version`, a read
/// or a watch. A fault of the read version hits that call; after a failure, as on a cluster, every later
/// call that needs the read version fails in the same way until the transaction starts again. (1078 is
/// `grv_proxy_memory_limit_exceeded`, 1051 `batch_transaction_throttled`: the errors of an overloaded
/// cluster.)
///
/// All of these happen on clusters, and all errors are ones that `fdb_error_predicate` calls retryable:
/// an application that retries with `on_error` survives all of them. Commits of transactions that wrote
/// nothing never fail, as on a cluster.
///
/// The text form is that of the environment variable `EMBEDDED_FDB_FAULTS`. Settings that are left out
/// are zero. Delays are in milliseconds.
///
/// ```
/// use embedded_fdb::admin::Faults;
/// let faults: Faults = "seed=7,not_committed=0.1,slow_read=0.5,read_delay_ms=3".parse().unwrap();
/// assert_eq!(faults.seed, 7);
/// assert_eq!(faults.not_committed, 0.1);
/// assert_eq!(faults.read_delay.as_millis(), 3);
///
/// let error = "not_comitted=0.1".parse::<Faults>().unwrap_err();
/// assert!(error.to_string().contains("not_committed"));
/// ```
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Faults {
    /// The seed of the sequence of random numbers.
    pub seed: u64,
    /// Probability that a commit fails with `not_committed` (1020).
    pub not_committed: f64,
    /// Probability that a commit fails with `commit_unknown_result` (1021), whether it happened or not.
    pub commit_unknown_result: f64,
    /// Probability that a commit or a read fails with `transaction_too_old` (1007).
    pub transaction_too_old: f64,
    /// Probability that a read fails with `future_version` (1009).
    pub future_version: f64,
    /// Probability that a read fails with `process_behind` (1037).
    pub process_behind: f64,
    /// Probability that a watch fails with `future_version` (1009).
    pub watch_failure: f64,
    /// Probability that the answer of a read is delayed.
    pub slow_read: f64,
    /// Probability that a read version is refused: in equal parts with
    /// `grv_proxy_memory_limit_exceeded` (1078) and `batch_transaction_throttled` (1051).
    pub read_version_failure: f64,
    /// Probability that a read version, and the call that waits for it, is delayed.
    pub slow_read_version: f64,
    /// The longest delay of a read or a read version.
    pub read_delay: Duration,
    /// Probability that a watch fires late.
    pub slow_watch: f64,
    /// The longest delay of a watch.
    pub watch_delay: Duration,
}

/// Why [`Faults`] cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultsError {
    /// No setting has this name.
    #[error("expected name=value with one of the names {}, got {got:?}", names())]
    Name {
        /// The given name.
        got: String,
    },
    /// The value is not valid.
    #[error("{name} is expected to be {expected}, got {got:?}")]
    Value {
        /// The setting.
        name: &'static str,
        /// The expected value.
        expected: &'static str,
        /// The given value.
        got: String,
    },
    /// The probabilities of mutually exclusive faults add up to more than 1.
    #[error(
        "the probabilities that a {what} fails are expected to add up to at most 1, got {sum}"
    )]
    Sum {
        /// `commit` or `read`.
        what: &'static str,
        /// The sum of the probabilities.
        sum: f64,
    },
}

const SEED: &str = "seed";
const PROBABILITY: &str = "a probability from 0 to 1";
const MILLISECONDS: &str = "a time of up to 3600000 milliseconds";

type Probability = fn(&mut Faults) -> &mut f64;
type Delay = fn(&mut Faults) -> &mut Duration;

const PROBABILITIES: [(&str, Probability); 10] = [
    ("not_committed", |f| &mut f.not_committed),
    ("commit_unknown_result", |f| &mut f.commit_unknown_result),
    ("transaction_too_old", |f| &mut f.transaction_too_old),
    ("future_version", |f| &mut f.future_version),
    ("process_behind", |f| &mut f.process_behind),
    ("read_version_failure", |f| &mut f.read_version_failure),
    ("slow_read_version", |f| &mut f.slow_read_version),
    ("watch_failure", |f| &mut f.watch_failure),
    ("slow_read", |f| &mut f.slow_read),
    ("slow_watch", |f| &mut f.slow_watch),
];
const DELAYS: [(&str, Delay); 2] = [
    ("read_delay_ms", |f| &mut f.read_delay),
    ("watch_delay_ms", |f| &mut f.watch_delay),
];

fn names() -> String {
    let probabilities = PROBABILITIES.iter().map(|(name, _)| *name);
    let delays = DELAYS.iter().map(|(name, _)| *name);
    let names: Vec<&str> = [SEED]
        .into_iter()
        .chain(probabilities)
        .chain(delays)
        .collect();
    names.join(", ")
}

impl FromStr for Faults {
    type Err = FaultsError;

    fn from_str(text: &str) -> Result<Faults, FaultsError> {
        let mut faults = Faults::default();
        let settings = text.split(',').map(str::trim);
        for setting in settings.filter(|setting| !setting.is_empty()) {
            let unknown = || FaultsError::Name {
                got: setting.to_owned(),
            };
            let (name, value) = setting.split_once('=').ok_or_else(unknown)?;
            faults
                .set(name.trim(), value.trim())
                .ok_or_else(unknown)??;
        }
        faults.check()?;
        Ok(faults)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut faults = self.clone();
        write!(f, "{SEED}={}", faults.seed)?;
        for (name, field) in PROBABILITIES {
            write!(f, ",{name}={}", field(&mut faults))?;
        }
        for (name, field) in DELAYS {
            write!(f, ",{name}={}", field(&mut faults).as_secs_f64() * 1000.0)?;
        }
        Ok(())
    }
}

impl Faults {
    /// Sets the setting `name`; `None` if there is no such setting.
    fn set(&mut self, name: &str, value: &str) -> Option<Result<(), FaultsError>> {
        let wrong = |name, expected| FaultsError::Value {
            name,
            expected,
            got: value.to_owned(),
        };
        if name == SEED {
            let seed = value.parse().map(|seed| self.seed = seed);
            return Some(seed.map_err(|_| wrong(SEED, "a number from 0 to 2^64 - 1")));
        }
        if let Some((name, field)) = PROBABILITIES.iter().find(|(known, _)| *known == name) {
            let set = value.parse().map(|value| *field(self) = value);
            return Some(set.map_err(|_| wrong(name, PROBABILITY)));
        }
        let (name, field) = DELAYS.iter().find(|(known, _)| *known == name)?;
        let delay = value.parse::<f64>().ok();
        let delay = delay.filter(|ms| (0.0..=3_600_000.0).contains(ms));
        let set = delay.map(|ms| *field(self) = Duration::from_secs_f64(ms / 1000.0));
        Some(set.ok_or_else(|| wrong(name, MILLISECONDS)))
    }

    /// Fails if a probability is not valid, or the faults of a call add up to more than 1.
    pub(crate) fn check(&self) -> Result<(), FaultsError> {
        let mut faults = self.clone();
        for (name, field) in PROBABILITIES {
            let value = *field(&mut faults);
            if !(0.0..=1.0).contains(&value) {
                return Err(FaultsError::Value {
                    name,
                    expected: PROBABILITY,
                    got: value.to_string(),
                });
            }
        }
        let commit = self.not_committed + self.commit_unknown_result + self.transaction_too_old;
        let read = self.transaction_too_old + self.future_version + self.process_behind;
        for (what, sum) in [("commit", commit), ("read", read)] {
            if sum > 1.0 + 1e-9 {
                return Err(FaultsError::Sum { what, sum });
            }
        }
        Ok(())
    }
}

/// The fault of a commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CommitFault {
    /// It does not happen, and gets this error.
    Refuse(Error),
    /// It happens, and gets this error if it succeeds.
    Hide(Error),
}

/// The fault of a read, a read version or a watch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Fault {
    pub(crate) error: Option<Error>,
    pub(crate) delay: Option<Duration>,
}

/// The part of a database that is unavailable, until the outage is ended.
///
/// Nothing fails and nothing answers, like a cluster whose servers are stopped or unreachable. Timeouts
/// and cancellation work as always. Calls made meanwhile are answered when the outage ends.
///
/// ```
/// use embedded_fdb::admin::{Database, Outage};
/// let database = Database::open("embedded:memory:outage")?;
/// // The servers of the keys from "a" up to "b" are gone.
/// database.set_outage(Outage { reads: vec![(b"a".to_vec(), b"b".to_vec())], ..Outage::default() });
/// database.set_outage(Outage::default());
/// # Ok::<(), embedded_fdb::admin::OpenError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Outage {
    /// Nothing answers: no read version, no read, no commit; and no watch fires.
    pub all: bool,
    /// Every transaction without the option `lock_aware` gets `database_locked` (1038) with its read
    /// version or its commit. A client that uses `on_error` retries until the lock is released.
    pub locked: bool,
    /// Reads of keys in these ranges (begin included, end excluded) get no answer. Read versions and
    /// commits continue, also commits that write to these keys.
    pub reads: Vec<(Vec<u8>, Vec<u8>)>,
    /// Watches of keys in these ranges neither fire nor fail. When the outage ends, watches whose keys have
    /// a different value fire.
    pub watches: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Outage {
    fn meets(ranges: &[(Vec<u8>, Vec<u8>)], begin: &[u8], end: &[u8]) -> bool {
        let meets = |(from, to): &(Vec<u8>, Vec<u8>)| &from[..] < end && begin < &to[..];
        begin < end && ranges.iter().any(meets)
    }

    /// Whether reads of a range get no answer.
    pub(crate) fn silences_read(&self, begin: &[u8], end: &[u8]) -> bool {
        self.all || Outage::meets(&self.reads, begin, end)
    }

    /// Whether a watch neither fires nor fails.
    pub(crate) fn silences_watch(&self, key: &[u8]) -> bool {
        self.all || Outage::meets(&self.watches, key, &[key, &[0]].concat())
    }
}

/// The faults of one database.
#[derive(Default)]
pub(crate) struct Injector {
    on: AtomicBool,
    sequence: Mutex<Sequence>,
    out: AtomicBool,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    outage: Arc<Outage>,
    waiting: Vec<Weak<dyn OutageWaiter>>,
}

/// Waits for the end of an outage.
pub(crate) trait OutageWaiter: Send + Sync {
    /// The outage is over, or has changed.
    fn outage_changed(self: Arc<Self>);
}

#[derive(Default)]
struct Sequence {
    faults: Faults,
    drawn: u64,
}

impl Injector {
    /// Begins a new sequence, or ends all faults.
    pub(crate) fn set(&self, faults: Option<Faults>) {
        let mut sequence = lock(&self.sequence);
        self.on.store(faults.is_some(), Ordering::Release);
        *sequence = Sequence {
            faults: faults.unwrap_or_default(),
            drawn: 0,
        };
    }

    /// The current outage.
    pub(crate) fn outage(&self) -> Option<Arc<Outage>> {
        let out = self.out.load(Ordering::Acquire);
        out.then(|| lock(&self.current).outage.clone())
    }

    /// The current outage, if nothing is answered at all.
    pub(crate) fn silence(&self) -> Option<Arc<Outage>> {
        self.outage().filter(|outage| outage.all)
    }

    pub(crate) fn is_locked(&self) -> bool {
        self.outage().is_some_and(|outage| outage.locked)
    }

    /// Begins or ends an outage, and releases calls that waited for the end of the last one.
    pub(crate) fn set_outage(&self, outage: Outage) {
        let mut current = lock(&self.current);
        self.out
            .store(outage != Outage::default(), Ordering::Release);
        current.outage = Arc::new(outage);
        let waiting = std::mem::take(&mut current.waiting);
        drop(current);
        for waiter in waiting.iter().filter_map(Weak::upgrade) {
            waiter.outage_changed();
        }
    }

    /// Notifies `waiter` when an outage ends. False if it has ended.
    pub(crate) fn wait_for_end(
        &self,
        outage: Option<Arc<Outage>>,
        waiter: Weak<dyn OutageWaiter>,
    ) -> bool {
        let mut current = lock(&self.current);
        let lasts = outage.is_some_and(|outage| Arc::ptr_eq(&outage, &current.outage));
        if lasts {
            let waiting = &mut current.waiting;
            if waiting.len() == waiting.capacity() {
                // Drops waiters that gave up.
                waiting.retain(|waiter| waiter.strong_count() > 0);
            }
            waiting.push(waiter);
        }
        lasts
    }

    fn draw<T>(&self, f: impl FnOnce(&Faults, Draw) -> T) -> Option<T> {
        if !self.on.load(Ordering::Acquire) {
            return None;
        }
        let mut sequence = lock(&self.sequence);
        let draw = Draw {
            seed: sequence.faults.seed,
            number: sequence.drawn,
        };
        sequence.drawn += 1;
        Some(f(&sequence.faults, draw))
    }

    pub(crate) fn commit(&self) -> Option<CommitFault> {
        self.draw(|faults, draw| {
            let error = draw.one_of(&[
                (faults.not_committed, Error::NOT_COMMITTED),
                (faults.commit_unknown_result, Error::COMMIT_UNKNOWN_RESULT),
                (faults.transaction_too_old, Error::TRANSACTION_TOO_OLD),
            ])?;
            let done = error == Error::COMMIT_UNKNOWN_RESULT && draw.unit(1) < 0.5;
            Some(if done {
                CommitFault::Hide(error)
            } else {
                CommitFault::Refuse(error)
            })
        })?
    }

    pub(crate) fn read(&self) -> Fault {
        let fault = self.draw(|faults, draw| Fault {
            error: draw.one_of(&[
                (faults.transaction_too_old, Error::TRANSACTION_TOO_OLD),
                (faults.future_version, Error::FUTURE_VERSION),
                (faults.process_behind, Error::PROCESS_BEHIND),
            ]),
            delay: draw.delay(faults.slow_read, faults.read_delay),
        });
        fault.unwrap_or_default()
    }

    pub(crate) fn read_version(&self) -> Fault {
        let fault = self.draw(|faults, draw| {
            let half = faults.read_version_failure / 2.0;
            Fault {
                error: draw.one_of(&[
                    (half, Error::GRV_PROXY_MEMORY_LIMIT_EXCEEDED),
                    (half, Error::BATCH_TRANSACTION_THROTTLED),
                ]),
                delay: draw.delay(faults.slow_read_version, faults.read_delay),
            }
        });
        fault.unwrap_or_default()
    }

    pub(crate) fn watch(&self) -> Fault {
        let fault = self.draw(|faults, draw| {
            let error = draw.one_of(&[(faults.watch_failure, Error::FUTURE_VERSION)]);
            let late = if error.is_some() {
                1.0
            } else {
                faults.slow_watch
            };
            Fault {
                error,
                delay: draw.delay(late, faults.watch_delay),
            }
        });
        fault.unwrap_or_default()
    }
}

/// The random numbers of one call.
#[derive(Clone, Copy)]
struct Draw {
    seed: u64,
    number: u64,
}

impl Draw {
    /// A number in `0.0..1.0`; each `lane` has its own.
    fn unit(self, lane: u64) -> f64 {
        let mixed = mix(mix(self.seed).wrapping_add(mix(4 * self.number + lane + 1)));
        (mixed >> 11) as f64 / (1u64 << 53) as f64
    }

    /// One of the errors, each with its probability.
    fn one_of(self, errors: &[(f64, Error)]) -> Option<Error> {
        let mut left = self.unit(0);
        errors.iter().find_map(|&(probability, error)| {
            left -= probability;
            (left < 0.0).then_some(error)
        })
    }

    fn delay(self, probability: f64, longest: Duration) -> Option<Duration> {
        (self.unit(2) < probability).then(|| longest.mul_f64(self.unit(3)))
    }
}

/// The output function of SplitMix64.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_goes_both_ways() {
        let text = "seed=3,not_committed=0.25,slow_watch=1,watch_delay_ms=1.5";
        let faults: Faults = text.parse().unwrap();
        assert_eq!(faults.to_string().parse(), Ok(faults));
        assert_eq!("".parse(), Ok(Faults::default()));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("seed", "expected name=value"),
            ("seed=-1", "seed is expected to be a number"),
            (
                "slow_read=2",
                "slow_read is expected to be a probability from 0 to 1, got \"2\"",
            ),
            ("slow_read=NaN", "slow_read is expected"),
            ("read_delay_ms=-1", "milliseconds"),
            (
                "not_committed=0.6,commit_unknown_result=0.6",
                "a commit fails",
            ),
            ("future_version=0.6,process_behind=0.6", "a read fails"),
        ] {
            let error = text.parse::<Faults>().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn probabilities_are_kept() {
        let injector = Injector::default();
        assert_eq!(injector.commit(), None);
        injector.set(Some(Faults {
            seed: 1,
            not_committed: 0.2,
            commit_unknown_result: 0.4,
            ..Faults::default()
        }));
        let drawn: Vec<_> = (0..10_000).map(|_| injector.commit()).collect();
        let share = |fault| drawn.iter().filter(|&&d| d == fault).count() as f64 / 10_000.0;
        let close = |fault, expected: f64| (share(fault) - expected).abs() < 0.03;
        assert!(close(None, 0.4));
        assert!(close(Some(CommitFault::Refuse(Error::NOT_COMMITTED)), 0.2));
        let unknown = Error::COMMIT_UNKNOWN_RESULT;
        assert!(close(Some(CommitFault::Refuse(unknown)), 0.2));
        assert!(close(Some(CommitFault::Hide(unknown)), 0.2));
    }
}
