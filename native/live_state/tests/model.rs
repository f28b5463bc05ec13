//! The machine of a live query against a model of a database and of its subscribers.
//!
//! The model's database has three keys. A read relies on the first one, and, if its value is odd, on the
//! second, else on the third: as functions do, whose reads depend on what they have read. Reads begin at the
//! newest version and are installed later, in any order; watches fire when their key's value differs from
//! the one they were armed with; everything that the machine asks for is carried out sooner or later, and
//! anything may fail on the way.

use std::time::{Duration, Instant};

use live_state::{Arming, Effects, LiveQueryState, NewRead, Places, Probe, Turn, Watched};
use proptest::prelude::*;

const LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
enum Step {
    /// Somebody writes one of a few values to a key: a value may come back (A, B, A).
    Write(usize, u8),
    /// A batch takes the queued read up, or a mount reads without being asked.
    BeginRead { mount: bool },
    /// A read that has begun is installed.
    Install(usize),
    /// A read that has begun fails, or gets no answer.
    Fail { which: usize, unanswered: bool },
    /// A read that has begun fails after it has found its values, as a function that raises.
    FailWith(usize),
    /// A watch whose value has changed fires.
    Fire(usize),
    /// A watch fails.
    WatchFails(usize),
    /// Somebody looks at the watched keys.
    Probe,
    /// A delay passes.
    Delay,
    /// Time passes, and the clock is looked at.
    Wait(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3usize, 0..3u8).prop_map(|(key, value)| Step::Write(key, value)),
        4 => any::<bool>().prop_map(|mount| Step::BeginRead { mount }),
        5 => (0..4usize).prop_map(Step::Install),
        1 => (0..4usize, any::<bool>())
            .prop_map(|(which, unanswered)| Step::Fail { which, unanswered }),
        1 => (0..4usize).prop_map(Step::FailWith),
        4 => (0..4usize).prop_map(Step::Fire),
        1 => (0..4usize).prop_map(Step::WatchFails),
        1 => Just(Step::Probe),
        2 => Just(Step::Delay),
        2 => (0..8u8).prop_map(Step::Wait),
    ]
}

/// The values of the keys.
type Values = [u8; 3];

/// What a read of these values relies on.
fn relies_on(values: &Values) -> Vec<usize> {
    vec![0, if values[0] % 2 == 1 { 1 } else { 2 }]
}

/// What a read of these values finds.
fn found(values: &Values) -> Vec<Watched> {
    let keys = relies_on(values).into_iter();
    keys.map(|key| watched(key, values)).collect()
}

fn watched(key: usize, values: &Values) -> Watched {
    Watched {
        key: [u8::try_from(key).unwrap()][..].into(),
        value: Some(vec![values[key]].into()),
    }
}

/// A read that has begun: its version, what it found, and the watches that it needs to arm.
struct Reading {
    version: i64,
    values: Values,
    arms: Places,
    began: Instant,
}

/// A watch that the database holds.
struct Watch {
    id: u64,
    key: usize,
    armed_with: u8,
}

type State = LiveQueryState<u32, u64, (), &'static str>;

struct Model {
    state: State,
    now: Instant,
    version: i64,
    values: Values,
    readings: Vec<Reading>,
    watches: Vec<Watch>,
    next_id: u64,
    /// The values that were there, by version: the first is of version 1.
    history: Vec<Values>,
    /// What the machine shows.
    shown: Option<(i64, Vec<Watched>)>,
    queued: bool,
    delayed: bool,
    notify: bool,
    /// What a subscriber was told last.
    stale: bool,
    turns: u32,
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
            values: [0; 3],
            readings: Vec::new(),
            watches: Vec::new(),
            next_id: 1,
            history: vec![[0; 3]],
            shown: None,
            queued: false,
            delayed: false,
            notify: false,
            stale: false,
            turns: 0,
        }
    }

    fn carry_out(&mut self, effects: Effects<u64>) {
        self.watches
            .retain(|watch| !effects.released.contains(&watch.id));
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
        let arms = self.state.missing_watches(&found(&self.values));
        self.readings.push(Reading {
            version: self.version,
            values: self.values,
            arms,
            began: self.now,
        });
    }

    /// Has the machine take a read over; the watches that it has made pending are the database's.
    fn with_arms<R>(
        &mut self,
        read: &Reading,
        take: impl FnOnce(&mut State, Vec<Arming<Box<dyn FnOnce() -> u64>>>) -> R,
    ) -> R {
        let armed = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let keys = relies_on(&read.values);
        let arms = (read.arms.iter())
            .map(|&place| {
                self.next_id += 1;
                let (id, armed) = (self.next_id, std::rc::Rc::clone(&armed));
                let watch = Watch {
                    id,
                    key: keys[place],
                    armed_with: read.values[keys[place]],
                };
                let arm: Box<dyn FnOnce() -> u64> = Box::new(move || {
                    armed.borrow_mut().push(watch);
                    id
                });
                Arming { place, id, arm }
            })
            .collect();
        let result = take(&mut self.state, arms);
        // Armed in the transaction that read: a change since then fires them.
        self.watches.append(&mut armed.borrow_mut());
        result
    }

    fn install(&mut self, which: usize) {
        if self.readings.is_empty() {
            return;
        }
        let which = which % self.readings.len();
        let read = self.readings.remove(which);
        let found = found(&read.values);
        let changed = self.shown.as_ref().is_none_or(|(_, shown)| *shown != found);
        let new = NewRead {
            read_version: read.version,
            watched: found.clone(),
            changed,
            slow: false,
        };
        let now = self.now;
        let (newer, effects) = self.with_arms(&read, |state, arms| state.installed(new, arms, now));
        if newer {
            assert!((self.shown.as_ref()).is_none_or(|(version, _)| *version < read.version));
            self.shown = Some((read.version, found));
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

    fn fail_with(&mut self, which: usize) {
        if self.readings.is_empty() {
            return;
        }
        let which = which % self.readings.len();
        let read = self.readings.remove(which);
        let (version, found, now) = (read.version, found(&read.values), self.now);
        let effects = self.with_arms(&read, |state, arms| {
            state.read_failed_with("raised", version, &found, arms, false, now)
        });
        self.carry_out(effects);
        assert!(self.queued || self.delayed, "it is tried again");
    }

    fn run(&mut self, step: &Step) {
        self.step(step);
        let confirmed = self.state.confirmed_version();
        if let Some((version, shown)) = &self.shown {
            assert!(confirmed >= *version);
            let then = found(&self.history[usize::try_from(confirmed).unwrap() - 1]);
            assert_eq!(then, *shown, "what is confirmed at a version was there");
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Write(key, value) => {
                self.version += 1;
                self.values[key] = value;
                self.history.push(self.values);
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
            Step::FailWith(which) => self.fail_with(which),
            Step::Fire(which) => {
                let mut places = (0..self.watches.len()).filter(|&place| self.is_due(place));
                if let Some(place) = places.nth(which) {
                    let watch = self.watches.remove(place);
                    self.complete(&watch, Ok(()));
                }
            }
            Step::WatchFails(which) => {
                if self.watches.is_empty() {
                    return;
                }
                let watch = self.watches.remove(which % self.watches.len());
                self.complete(&watch, Err("watch"));
            }
            Step::Probe => {
                if self.state.probe_due(self.now, LIMIT) || self.state.may_be_probed() {
                    let keys = self
                        .state
                        .watched()
                        .map(|watched| usize::from(watched.key[0]));
                    let values: Vec<_> = keys.map(|key| watched(key, &self.values)).collect();
                    let probe = Probe::Values(self.version, &values);
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

    /// Whether the value of a watch's key has changed.
    fn is_due(&self, place: usize) -> bool {
        let watch = &self.watches[place];
        watch.armed_with != self.values[watch.key]
    }

    fn complete(&mut self, watch: &Watch, result: Result<(), &'static str>) {
        let completed = self.state.watch_completed(watch.id, result, self.now);
        if let Some((key, effects)) = completed {
            assert_eq!(usize::from(key[0]), watch.key);
            self.carry_out(effects);
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
            let due = (0..self.watches.len()).any(|place| self.is_due(place));
            if !self.queued && !self.delayed && !due {
                return;
            }
        }
        panic!("it does not settle");
    }
}

proptest! {
    /// However reads, watches and failures interleave: in the end the newest values are shown, one watch
    /// is pending for each key that they rely on, armed with its value, and nobody is told that they are stale.
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
        prop_assert_eq!(shown, found(&model.values));
        let mut watches = model.watches;
        watches.sort_by_key(|watch| watch.key);
        let keys: Vec<_> = watches.iter().map(|watch| watch.key).collect();
        prop_assert_eq!(keys, relies_on(&model.values), "one watch a key is pending");
        for watch in watches {
            prop_assert_eq!(watch.armed_with, model.values[watch.key]);
        }
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
fn the_last_subscriber_closes_it_and_gives_the_watches_up() {
    let mut model = Model::new();
    model.begin_read(true);
    model.install(0);
    assert_eq!(model.watches.len(), 2);
    let (subscriber, effects) = model.state.detach(0);
    assert_eq!(subscriber, Some(1));
    assert!(effects.closed);
    let ids: Vec<_> = model.watches.iter().map(|watch| watch.id).collect();
    assert_eq!(effects.released[..], ids);
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
    model.run(&Step::Write(2, 1));
    model.begin_read(true);
    model.run(&Step::Write(2, 0));
    model.run(&Step::Probe);
    assert_eq!(model.state.confirmed_version(), 3);
    // It was read at version 2, between the two.
    model.run(&Step::Install(0));
    assert_eq!(model.shown, Some((1, found(&[0; 3]))));
    model.settle();
    assert_eq!(model.shown.map(|(_, shown)| shown), Some(found(&[0; 3])));
}
