//! Messages to BEAM processes, off the database's network thread and off the runtime. Entries take
//! turns, so that one with 100,000 subscribers does not keep the others waiting.
//!
//! A thread of our own wakes the subscribers of an entry with few. Where there are many, a process of
//! the Repo does it, the courier: a message sent on a scheduler goes straight to its receiver's heap,
//! one sent on another thread is allocated, handed over and freed by others (ARCHITECTURE.md has the
//! figures). Where no courier is there, or it dies, the thread wakes them all.

use std::sync::{Arc, OnceLock};

use crossbeam_channel::{unbounded, Receiver, Sender};
use parking_lot::Mutex;
use rustler::schedule::consume_timeslice;
use rustler::{Encoder, Env, LocalPid, OwnedEnv, Resource, ResourceArc};

use super::entry::Entry;
use super::subscription::Subscription;

mod atoms {
    rustler::atoms! { deliver }
}

/// How many subscribers are few: the thread has woken them before the courier would run.
const FEW: usize = 64;

/// What a turn of the courier takes of a process's time on a scheduler (1 ms).
const TURN_PERCENT: i32 = 25;

/// Whom to wake.
pub enum Due {
    /// Whoever of the entry's subscribers has older data.
    Entry(Arc<Entry>),
    /// This subscription, where its data are older.
    Subscription(ResourceArc<Subscription>),
}

static QUEUE: OnceLock<Sender<Due>> = OnceLock::new();

/// Queues a delivery.
pub fn queue(due: Due) {
    let queue = QUEUE.get_or_init(|| {
        let (sender, receiver) = unbounded();
        let again = sender.clone();
        std::thread::Builder::new()
            .name("ecto_fdb_deliver".into())
            .spawn(move || deliver(&receiver, &again))
            .expect("a thread for the delivery of messages");
        sender
    });
    // The receiver lives as long as the process.
    let _ = queue.send(due);
}

fn deliver(queue: &Receiver<Due>, again: &Sender<Due>) {
    let mut env = OwnedEnv::new();
    for due in queue {
        // A panic over one delivery must not end all others.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match due {
            Due::Entry(entry) => {
                let taken_over = entry.courier().take_over(&entry, &mut env);
                if !taken_over && env.run(|env| turn(&entry, env)) {
                    let _ = again.send(Due::Entry(entry));
                }
            }
            Due::Subscription(subscription) => {
                env.run(|env| Subscription::wake(&subscription, env));
            }
        }));
        env.clear();
    }
}

/// Wakes an entry's next few subscribers; whether more are left.
fn turn(entry: &Entry, env: Env<'_>) -> bool {
    let (due, more) = entry.delivery_turn();
    for subscription in &due {
        Subscription::wake(subscription, env);
    }
    more
}

/// The process that wakes the many.
#[derive(Default)]
pub struct Courier(Mutex<Option<LocalPid>>);

impl Courier {
    /// Makes the calling process the courier.
    pub fn set(&self, env: Env<'_>) {
        *self.0.lock() = Some(env.pid());
    }

    /// Sends it `{:deliver, delivery}`, where the entry has many subscribers and there is a courier.
    fn take_over(&self, entry: &Arc<Entry>, env: &mut OwnedEnv) -> bool {
        let courier = *self.0.lock();
        let Some(courier) = courier.filter(|_| entry.has_more_to_deliver_than(FEW)) else {
            return false;
        };
        let delivery = ResourceArc::new(Delivery(Mutex::new(Some(Arc::clone(entry)))));
        let sent = env.send_and_clear(&courier, |env| (atoms::deliver(), &delivery).encode(env));
        if sent.is_err() {
            // There is no such process: not left to `drop`.
            *delivery.0.lock() = None;
        }
        sent.is_ok()
    }
}

/// An entry whose subscribers the courier is to wake.
pub struct Delivery(Mutex<Option<Arc<Entry>>>);

#[rustler::resource_impl]
impl Resource for Delivery {}

impl Delivery {
    /// Wakes the next few, less than a millisecond's work; whether more are left.
    pub fn turn(&self, env: Env<'_>) -> bool {
        let mut entry = self.0.lock();
        let more = entry.as_deref().is_some_and(|entry| turn(entry, env));
        consume_timeslice(env, TURN_PERCENT);
        if !more {
            *entry = None;
        }
        more
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        // The courier has died before it was done.
        if let Some(entry) = self.0.get_mut().take() {
            queue(Due::Entry(entry));
        }
    }
}
