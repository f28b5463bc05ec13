//! The machine of a live query against a model of a database and of its subscribers.
//!
//! The model's database has one watched key. Reads begin at its newest version and are installed later,
//! in any order; watches fire when the key's value differs from the one they were armed with; everything
//! that the machine asks for is carried out sooner or later, and anything may fail on the way.

use std::time::{Duration, Instant};

use live_state::{Effects, LiveQueryState, NewRead, Probe, Turn};
use proptest::prelude::*;

const LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
enum Step {
    /// Somebody writes one of a few values: a value may come back (A, B, A).
    Write(u8),
    /// A batch takes the queued read up, or a mount reads without being asked.
    BeginRead { mount: bool },
    /// A read that has begun is installed.
    Install(usize),
    /// A read that has begun fails, or gets no answer.
    Fail { which: usize, unanswered: bool },
    /// A watch whose value has changed fires.
    Fire(usize),
    /// A watch fails.
    WatchFails(usize),
    /// Somebody looks at the watched key.
    Probe,
    /// A delay passes.
    Delay,
    /// Time passes, and the clock is looked at.
    Wait(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3u8).prop_map(Step::Write),
        4 => any::<bool>().prop_map(|mount| Step::BeginRead { mount }),
        5 => (0..4usize).prop_map(Step::Install),
        1 => (0..4usize, any::<bool>())
            .prop_map(|(which, unanswered)| Step::Fail { which, unanswered }),
        4 => (0..4usize).prop_map(Step::Fire),
        1 => (0..4usize).prop_map(Step::WatchFails),
        1 => Just(Step::Probe),
        2 => Just(Step::Delay),
        2 => (0..8u8).prop_map(Step::Wait),
    ]
}

/// A read that has begun: its version, what it found, and the watch that it needs to arm.
struct Reading {
    version: i64,
    value: u8,
    arms: bool,
    began: Instant,
}

/// A watch that the database holds.
struct Watch {
    id: u64,
    armed_with: u8,
}

type State = LiveQueryState<u32, u64, (), &'static str>;

struct Model {
    state: State,
    now: Instant,
    version: i64,
    value: u8,
    readings: Vec<Reading>,
    watches: Vec<Watch>,
    next_id: u64,
    /// The values that were written, by version: the first is of version 1.
    history: Vec<u8>,
    /// What the machine shows.
    shown: Option<(i64, u8)>,
    queued: bool,
    delayed: bool,
    notify: bool,
    /// What a subscriber was told last.
    stale: bool,
    turns: u32,
}

fn bytes(value: u8) -> Box<[u8]> {
    vec![value].into()
}

impl Model {
    fn new() -> Self {
        let now = Instant::now();
        let mut state = State::new((), now);
        state.attach(1);
        Model {
            state,
            now,
            version: 1,
            value: 0,
            readings: Vec::new(),
            watches: Vec::new(),
            next_id: 1,
            history: vec![0],
            shown: None,
            queued: false,
            delayed: false,
            notify: false,
            stale: false,
            turns: 0,
        }
    }

    fn carry_out(&mut self, effects: Effects<u64>) {
        if let Some(id) = effects.released {
            self.watches.retain(|watch| watch.id != id);
        }
        if let Some(read) = effects.read {
            if read.after.is_zero() {
                assert!(!self.queued, "one read is queued at a time");
                self.queued = true;
            } else {
                assert!(!self.delayed, "one delay at a time");
                self.delayed = true;
            }
        }
        match effects.turn {
            Some(Turn::Stale) => {
                assert!(!self.stale, "stale is told once");
                self.stale = true;
                self.turns += 1;
            }
            Some(Turn::Fresh) => {
                assert!(self.stale, "fresh follows stale");
                self.stale = false;
            }
            None => {}
        }
        self.notify |= effects.fan_out;
    }

    fn begin_read(&mut self, mount: bool) {
        if !mount {
            if !self.queued {
                return;
            }
            self.queued = false;
            assert!(self.state.begin_read());
        }
        let arms = !self.state.is_watched_with(Some(&bytes(self.value)));
        self.readings.push(Reading {
            version: self.version,
            value: self.value,
            arms,
            began: self.now,
        });
    }

    fn install(&mut self, which: usize) {
        if self.readings.is_empty() {
            return;
        }
        let which = which % self.readings.len();
        let read = self.readings.remove(which);
        let id = self.next_id;
        self.next_id += 1;
        let changed = self.shown.is_none_or(|(_, shown)| shown != read.value);
        let new = NewRead {
            read_version: read.version,
            watched: Some(bytes(read.value)),
            changed,
            slow: false,
        };
        let mut armed = false;
        let arm = read.arms.then_some((id, || {
            armed = true;
            id
        }));
        let (newer, effects) = self.state.installed(new, arm, self.now);
        if armed {
            // Armed in the transaction that read: a change since then fires it.
            self.watches.push(Watch {
                id,
                armed_with: read.value,
            });
        }
        if newer {
            assert!(self.shown.is_none_or(|(version, _)| version < read.version));
            self.shown = Some((read.version, read.value));
            if changed {
                self.notify = true;
            }
        }
        self.carry_out(effects);
        assert!(
            self.state.is_followed(),
            "what is shown is watched, or read again"
        );
    }

    fn run(&mut self, step: &Step) {
        self.step(step);
        let confirmed = self.state.confirmed_version();
        if let Some((version, shown)) = self.shown {
            assert!(confirmed >= version);
            let then = self.history[usize::try_from(confirmed).unwrap() - 1];
            assert_eq!(then, shown, "what is confirmed at a version was there");
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Write(value) => {
                self.version += 1;
                self.value = value;
                self.history.push(value);
            }
            Step::BeginRead { mount } => self.begin_read(mount),
            Step::Install(which) => self.install(which),
            Step::Fail { which, unanswered } => {
                if self.readings.is_empty() {
                    return;
                }
                let which = which % self.readings.len();
                let read = self.readings.remove(which);
                let effects = match unanswered {
                    true => self.state.read_unanswered(read.began),
                    false => self.state.read_failed("failed", self.now),
                };
                self.carry_out(effects);
            }
            Step::Fire(which) => {
                let value = self.value;
                let mut places = (0..self.watches.len())
                    .filter(|place| self.watches[*place].armed_with != value);
                if let Some(place) = places.nth(which) {
                    let watch = self.watches.remove(place);
                    if let Some(effects) = self.state.watch_completed(watch.id, Ok(()), self.now) {
                        self.carry_out(effects);
                    }
                }
            }
            Step::WatchFails(which) => {
                if self.watches.is_empty() {
                    return;
                }
                let watch = self.watches.remove(which % self.watches.len());
                let failed = self.state.watch_completed(watch.id, Err("watch"), self.now);
                if let Some(effects) = failed {
                    self.carry_out(effects);
                }
            }
            Step::Probe => {
                if self.state.probe_due(self.now, LIMIT) || self.state.may_be_probed() {
                    let value = bytes(self.value);
                    let probe = Probe::Value(self.version, Some(&value));
                    let effects = self.state.probed(probe, self.now);
                    self.carry_out(effects);
                }
            }
            Step::Delay => {
                if std::mem::take(&mut self.delayed) {
                    let effects = self.state.delay_passed(self.now);
                    self.carry_out(effects);
                }
            }
            Step::Wait(seconds) => {
                self.now += Duration::from_secs(seconds.into());
                let effects = self.state.check(self.now, LIMIT, |_, _| "unconfirmed");
                self.carry_out(effects);
            }
        }
    }

    /// Nothing fails any more, and everything that was asked for is done.
    fn settle(&mut self) {
        for _ in 0..100 {
            self.run(&Step::Delay);
            self.begin_read(false);
            while !self.readings.is_empty() {
                self.install(0);
            }
            self.run(&Step::Fire(0));
            let due = |watch: &Watch| watch.armed_with != self.value;
            if !self.queued && !self.delayed && !self.watches.iter().any(due) {
                return;
            }
        }
        panic!("it does not settle");
    }
}

proptest! {
    /// However reads, watches and failures interleave: in the end the newest value is shown, one watch is
    /// pending that was armed with it, and nobody is told that it is stale.
    #[test]
    fn no_change_is_missed(steps in proptest::collection::vec(step(), 1..120)) {
        let mut model = Model::new();
        model.begin_read(true);
        model.install(0);
        for step in &steps {
            model.run(step);
        }
        model.settle();
        let (_, shown) = model.shown.expect("it was read");
        prop_assert_eq!(shown, model.value);
        prop_assert_eq!(model.watches.len(), 1, "one watch is pending");
        prop_assert_eq!(model.watches[0].armed_with, model.value);
        prop_assert!(!model.stale);
    }

    /// A subscriber hears "stale" at most once in the time after which data count as stale.
    #[test]
    fn incidents_do_not_flap(steps in proptest::collection::vec(step(), 1..200)) {
        let mut model = Model::new();
        model.begin_read(true);
        model.install(0);
        let begun = model.now;
        for step in &steps {
            model.run(step);
        }
        let periods = (model.now - begun).as_secs() / LIMIT.as_secs();
        prop_assert!(u64::from(model.turns) <= periods + 1);
    }
}

#[test]
fn the_last_subscriber_closes_it_and_gives_the_watch_up() {
    let mut model = Model::new();
    model.begin_read(true);
    model.install(0);
    assert_eq!(model.watches.len(), 1);
    let (subscriber, effects) = model.state.detach(0);
    assert_eq!(subscriber, Some(1));
    assert!(effects.closed);
    assert_eq!(effects.released, Some(model.watches[0].id));
    assert_eq!(model.state.attach(2), None);
    // A watch or read that ends later changes nothing.
    assert!(model
        .state
        .watch_completed(model.watches[0].id, Ok(()), model.now)
        .is_none());
    assert!(model.state.wanted(model.now).read.is_none());
}

#[test]
fn a_value_that_came_back_is_not_replaced_by_an_older_read_of_another_one() {
    let mut model = Model::new();
    model.begin_read(true);
    model.install(0);
    model.run(&Step::Write(1));
    model.begin_read(true);
    model.run(&Step::Write(0));
    model.run(&Step::Probe);
    assert_eq!(model.state.confirmed_version(), 3);
    // It was read at version 2, between the two.
    model.run(&Step::Install(0));
    assert_eq!(model.shown, Some((1, 0)));
    model.settle();
    assert_eq!(model.shown.map(|(_, shown)| shown), Some(0));
}
