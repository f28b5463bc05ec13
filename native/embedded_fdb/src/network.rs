//! The network thread, which a client provides with `fdb_run_network`.
//!
//! There is no network here. The thread waits for timers (back-off, timeouts) and calls the
//! callbacks of futures that were pending when the callback was set.
//!
//! Such a callback never runs inside a call of the client, and never while the engine holds a lock:
//!
//!
//! - **Before `fdb_run_network`** tasks and timers wait in their queues. No callback is called.
//! - **While it runs** the thread takes one task at a time and holds no lock meanwhile. A task that
//!   comes from the network thread itself (a callback that commits, and so fires a watch) is queued like
//!   any other: it runs when the callback has returned.
//! - **From `fdb_stop_network` on** the thread finishes its current task, runs the completion hooks
//!   and returns. Waiting and later tasks are dropped: as on a cluster, no callback is called any
//!   more.
//!
//! A callback set on a ready future is not a task: `fdb_future_set_callback` itself calls it, in the
//! client's thread.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::sync::{lock, wait_timeout, Condvar, Mutex, MutexGuard};

/// Work for the network thread.
pub(crate) type Task = Box<dyn FnOnce() + Send>;

/// The life cycle of the process's only network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    NotSetUp,
    SetUp,
    Running,
    Stopping,
    Stopped,
}

struct State {
    phase: Phase,
    tasks: VecDeque<Task>,
    /// Ordered by due time; the number distinguishes tasks with the same time.
    timers: BTreeMap<(Instant, u64), Task>,
    timers_made: u64,
    at_end: Vec<Task>,
}

impl State {
    const NEW: State = State {
        phase: Phase::NotSetUp,
        tasks: VecDeque::new(),
        timers: BTreeMap::new(),
        timers_made: 0,
        at_end: Vec::new(),
    };
}

struct Network {
    state: Mutex<State>,
    work: Condvar,
}

#[cfg(not(loom))]
static NETWORK: Network = Network {
    state: Mutex::new(State::NEW),
    work: Condvar::new(),
};
#[cfg(loom)]
loom::lazy_static! {
    static ref NETWORK: Network = Network {
        state: Mutex::new(State::NEW),
        work: Condvar::new(),
    };
}

thread_local! {
    static IS_NETWORK_THREAD: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread is in `fdb_run_network`.
pub(crate) fn is_network_thread() -> bool {
    IS_NETWORK_THREAD.get()
}

/// Whether `fdb_setup_network` was called.
pub(crate) fn is_set_up() -> bool {
    lock(&NETWORK.state).phase != Phase::NotSetUp
}

/// `fdb_setup_network`.
pub(crate) fn set_up() -> Result<()> {
    let mut network = lock(&NETWORK.state);
    if network.phase != Phase::NotSetUp {
        return Err(Error::NETWORK_ALREADY_SETUP);
    }
    network.phase = Phase::SetUp;
    Ok(())
}

/// `fdb_run_network`: works in the calling thread until [`stop`].
pub(crate) fn run() -> Result<()> {
    let mut network = lock(&NETWORK.state);
    match network.phase {
        Phase::NotSetUp => return Err(Error::NETWORK_NOT_SETUP),
        Phase::Running | Phase::Stopped => return Err(Error::NETWORK_CANNOT_BE_RESTARTED),
        // A stop before the run ends it immediately.
        Phase::Stopping => {}
        Phase::SetUp => network.phase = Phase::Running,
    }
    IS_NETWORK_THREAD.set(true);
    while network.phase == Phase::Running {
        let now = Instant::now();
        let due = network.timers.first_key_value().map(|((at, _), _)| *at);
        let task = match due {
            Some(at) if at <= now => network.timers.pop_first().map(|(_, task)| task),
            _ => network.tasks.pop_front(),
        };
        if let Some(task) = task {
            drop(network);
            run_guarded(task);
            network = lock(&NETWORK.state);
            continue;
        }
        let wait = due.map_or(Duration::from_secs(3600), |at| at - now);
        network = wait_timeout(&NETWORK.work, network, wait);
    }
    network.phase = Phase::Stopped;
    let at_end = std::mem::take(&mut network.at_end);
    let undone = (
        std::mem::take(&mut network.tasks),
        std::mem::take(&mut network.timers),
    );
    drop(network);
    for task in at_end {
        run_guarded(task);
    }
    drop(undone);
    IS_NETWORK_THREAD.set(false);
    Ok(())
}

/// A panic in one task must not end the thread that all others depend on.
fn run_guarded(task: Task) {
    let _reported_by_the_panic_hook = std::panic::catch_unwind(std::panic::AssertUnwindSafe(task));
}

/// `fdb_stop_network`.
pub(crate) fn stop() -> Result<()> {
    let mut network = lock(&NETWORK.state);
    match network.phase {
        Phase::NotSetUp => return Err(Error::NETWORK_NOT_SETUP),
        Phase::SetUp | Phase::Running => network.phase = Phase::Stopping,
        Phase::Stopping | Phase::Stopped => {}
    }
    drop(network);
    NETWORK.work.notify_all();
    Ok(())
}

/// `fdb_add_network_thread_completion_hook`: runs `task` when the network thread ends.
pub(crate) fn at_end(task: Task) -> Result<()> {
    let mut network = lock(&NETWORK.state);
    if network.phase == Phase::NotSetUp {
        return Err(Error::NETWORK_NOT_SETUP);
    }
    network.at_end.push(task);
    Ok(())
}

/// The queues of the network; `None` once it has ended and queued tasks would never run.
fn queues() -> Option<MutexGuard<'static, State>> {
    let network = lock(&NETWORK.state);
    (network.phase != Phase::Stopped).then_some(network)
}

/// Runs `task` on the network thread, after all tasks queued before.
///
/// Never runs it in the calling thread, so that callers may hold locks.
pub(crate) fn on_network_thread(task: Task) {
    if let Some(mut network) = queues() {
        network.tasks.push_back(task);
        drop(network);
        NETWORK.work.notify_one();
    }
}

/// Runs `task` on the network thread after `delay`.
pub(crate) fn after(delay: Duration, task: Task) {
    if let Some(mut network) = queues() {
        network.timers_made += 1;
        let number = network.timers_made;
        network
            .timers
            .insert((Instant::now() + delay, number), task);
        drop(network);
        NETWORK.work.notify_one();
    }
}

/// Runs queued tasks on the calling thread, in place of a network thread.
#[cfg(all(loom, test))]
pub(crate) fn run_queued() {
    loop {
        let task = lock(&NETWORK.state).tasks.pop_front();
        match task {
            Some(task) => task(),
            None => break,
        }
    }
}
