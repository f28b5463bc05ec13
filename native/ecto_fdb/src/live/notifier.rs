//! Sends messages to BEAM processes from a dedicated thread: not on the database's network thread, the
//! runtime or the schedulers. Live queries take turns, so that one with 100,000 subscribers does not keep
//! the others waiting.

use std::sync::{Arc, OnceLock};

use crossbeam_channel::{unbounded, Receiver, Sender};
use rustler::OwnedEnv;
use tokio::sync::oneshot;

use super::subscription::{LiveQuery, Subscriber, Subscription};

/// The recipient of a notification.
pub enum Due {
    /// The subscribers of a live query, in a round that it has started.
    Round(Arc<LiveQuery>),
    /// One subscriber.
    One(Subscriber),
    /// A caller that waits until everything before this was sent.
    Waiting(oneshot::Sender<()>),
}

static QUEUE: OnceLock<Sender<Due>> = OnceLock::new();

/// Queues notifications.
pub fn queue(due: Due) {
    let queue = QUEUE.get_or_init(|| {
        let (sender, receiver) = unbounded();
        let again = sender.clone();
        std::thread::Builder::new()
            .name("ecto_fdb_notify".into())
            .spawn(move || run(&receiver, &again))
            .expect("a thread that sends messages");
        sender
    });
    // The receiver lives as long as the VM.
    let _ = queue.send(due);
}

/// Returns when all messages queued before were sent. A round that has turns left queues itself again;
/// the caller has to watch for that.
pub async fn drained() {
    let (waiting, sent) = oneshot::channel();
    queue(Due::Waiting(waiting));
    let _ = sent.await;
}

fn run(queue: &Receiver<Due>, again: &Sender<Due>) {
    // Messages are copied from here to their receivers' heaps. If each carried an environment, the
    // schedulers would free what this thread has allocated.
    let mut env = OwnedEnv::new();
    let mut turn = Vec::new();
    for due in queue {
        // A panic in one message must not prevent all others.
        guarded(|| match due {
            Due::Round(live_query) => {
                if live_query.fan_out_turn(&mut turn) {
                    let _ = again.send(Due::Round(live_query));
                }
            }
            Due::One(subscriber) => turn.push(subscriber),
            Due::Waiting(waiting) => drop(waiting.send(())),
        });
        for subscriber in turn.drain(..) {
            guarded(|| env.run(|env| Subscription::notify(&subscriber, env)));
        }
        env.clear();
    }
}

fn guarded(work: impl FnOnce()) {
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
}
