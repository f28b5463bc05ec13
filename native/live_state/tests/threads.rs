//! Where threads meet at a subscription, in every order: `RUSTFLAGS="--cfg loom" cargo test -p live_state
//! --test threads`.
#![cfg(loom)]

use live_state::{Arming, LiveQueryState, NewRead, SubscriptionState, Watched};
use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

/// A live query's generation, a subscription to it, and its process's mailbox.
struct Page {
    generation: AtomicU64,
    subscription: Mutex<(SubscriptionState, u64)>,
    mailbox: AtomicUsize,
    cancelled: AtomicUsize,
}

impl Page {
    fn new() -> Arc<Self> {
        let mut state = SubscriptionState::default();
        state.stand();
        state.take_first();
        Arc::new(Page {
            generation: AtomicU64::new(0),
            subscription: Mutex::new((state, 0)),
            mailbox: AtomicUsize::new(0),
            cancelled: AtomicUsize::new(0),
        })
    }

    /// New data are installed, and the notifier visits the subscription.
    fn change(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        let (state, has) = &mut *self.subscription.lock().unwrap();
        if state.is_over() {
            return;
        }
        state.mark(0);
        state.retain(|_| self.generation.load(Ordering::Acquire) != *has);
        if state.may_send() {
            assert_eq!(self.cancelled.load(Ordering::Acquire), 0);
            let waiting = self.mailbox.fetch_add(1, Ordering::AcqRel);
            assert_eq!(waiting, 0, "one message at a time");
            state.sent();
        }
    }

    /// The process handles its message, if there is one.
    fn take(&self) {
        if self.mailbox.load(Ordering::Acquire) == 0 {
            return;
        }
        self.mailbox.store(0, Ordering::Release);
        let (state, has) = &mut *self.subscription.lock().unwrap();
        for _place in state.take() {
            *has = self.generation.load(Ordering::Acquire);
        }
        // Data that came meanwhile are visited by the notifier after they were installed.
    }

    /// When this returns, no message will be sent.
    fn cancel(&self) {
        let (state, _) = &mut *self.subscription.lock().unwrap();
        state.end();
        self.cancelled.store(1, Ordering::Release);
    }
}

#[test]
fn no_change_is_left_without_a_message() {
    loom::model(|| {
        let page = Page::new();
        let changing = Arc::clone(&page);
        let again = Arc::clone(&page);
        let threads = [
            thread::spawn(move || changing.change()),
            thread::spawn(move || again.change()),
        ];
        page.take();
        for thread in threads {
            thread.join().unwrap();
        }
        let has = page.subscription.lock().unwrap().1;
        let waits = page.mailbox.load(Ordering::Acquire);
        assert!(waits == 1 || has == 2, "has {has}, {waits} messages");
    });
}

#[test]
fn nothing_is_sent_after_cancel() {
    loom::model(|| {
        let page = Page::new();
        let changing = Arc::clone(&page);
        let thread = thread::spawn(move || changing.change());
        page.cancel();
        let sent = page.mailbox.load(Ordering::Acquire);
        thread.join().unwrap();
        assert_eq!(page.mailbox.load(Ordering::Acquire), sent);
    });
}

type State = LiveQueryState<u32, (), (), ()>;

/// Attaching and the last subscriber's leaving: either the newcomer is in, or it finds the live query closed
/// and makes another.
#[test]
fn whoever_attaches_is_in_or_finds_it_closed() {
    loom::model(|| {
        let now = std::time::Instant::now();
        let mut state = State::new((), now);
        let slot = state.attach(1).unwrap();
        let state = Arc::new(Mutex::new(state));
        let leaving = Arc::clone(&state);
        let thread = thread::spawn(move || {
            let (_, effects) = leaving.lock().unwrap().detach(slot);
            effects.closed
        });
        let attached = state.lock().unwrap().attach(2).is_some();
        let closed = thread.join().unwrap();
        assert_ne!(attached, closed);
    });
}

/// Two batches that read at the same time: whatever order they are installed in, a watch is pending for what
/// is shown, or a read is queued.
#[test]
fn two_batches_leave_a_watch_or_a_read() {
    loom::model(|| {
        let now = std::time::Instant::now();
        let mut state = State::new((), now);
        state.attach(1);
        let state = Arc::new(Mutex::new(state));
        let install = move |state: &Mutex<State>, version: i64, value: u8| {
            let watched = vec![Watched {
                key: b"key"[..].into(),
                value: Some(vec![value].into()),
            }];
            let read = NewRead {
                read_version: version,
                watched: watched.clone(),
                changed: true,
                slow: false,
            };
            // Looked at before, outside of the lock, as batches do.
            let missing = state.lock().unwrap().missing_watches(&watched);
            let arms = missing.into_iter().map(|place| Arming {
                place,
                id: version.unsigned_abs(),
                arm: || (),
            });
            let (_, effects) = state.lock().unwrap().installed(read, arms, now);
            drop(effects);
        };
        let other = Arc::clone(&state);
        let thread = thread::spawn(move || install(&other, 1, 7));
        install(&state, 2, 8);
        thread.join().unwrap();
        assert!(state.lock().unwrap().is_followed());
        assert_eq!(state.lock().unwrap().read_version(), 2);
    });
}
