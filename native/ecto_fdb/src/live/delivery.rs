//! Messages to BEAM processes, from a thread of our own: off the database's network thread, off
//! the runtime, off the schedulers. Entries take turns, so that one with 100,000 subscribers does
//! not keep the others waiting.

use std::sync::{Arc, OnceLock};

use crossbeam_channel::{unbounded, Receiver, Sender};
use rustler::{OwnedEnv, ResourceArc};

use super::entry::Entry;
use super::subscription::Subscription;

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
    // Messages are copied from here to their receivers' heaps. Handing an environment over with each
    // would have the schedulers free what this thread has allocated.
    let mut env = OwnedEnv::new();
    let mut turn = Vec::new();
    for due in queue {
        // A panic over one delivery must not end all others.
        guarded(|| match due {
            Due::Entry(entry) => {
                if entry.delivery_turn(&mut turn) {
                    let _ = again.send(Due::Entry(entry));
                }
            }
            Due::Subscription(subscription) => turn.push(subscription),
        });
        for subscription in turn.drain(..) {
            guarded(|| env.run(|env| Subscription::wake(&subscription, env)));
        }
        env.clear();
    }
}

fn guarded(work: impl FnOnce()) {
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
}
