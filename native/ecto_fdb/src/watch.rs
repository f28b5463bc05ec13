//! Watches of single keys that a process sets in a transaction.
//!
//! The watch *is* the reference of its message: `{watch, :ready}` when it fires, `{watch, {:error,
//! error}}` when it fails; once, unless it is cancelled before or its process dies.

use std::future::Future;

use foundationdb::FdbResult;
use parking_lot::Mutex;
use rustler::types::atom;
use rustler::{Encoder, Env, LocalPid, Monitor, OwnedEnv, Resource, ResourceArc};
use tokio::task::AbortHandle;

use crate::client;
use crate::error::Error;

mod atoms {
    rustler::atoms! { ready }
}

enum State {
    /// Created, but its transaction has not run the operation yet.
    New,
    /// Waits for the database.
    Waiting(AbortHandle),
    /// Its message was sent, or is not wanted any more.
    Over,
}

/// A watch that belongs to a process.
pub struct Watch {
    owner: LocalPid,
    state: Mutex<State>,
}

#[rustler::resource_impl]
impl Resource for Watch {
    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.cancel();
    }
}

impl Watch {
    /// A watch of the calling process, not started.
    pub fn new(env: Env<'_>) -> ResourceArc<Watch> {
        let watch = ResourceArc::new(Watch {
            owner: env.pid(),
            state: Mutex::new(State::New),
        });
        if env.monitor(&watch, &env.pid()).is_none() {
            watch.cancel();
        }
        watch
    }

    /// Cancels it: when this returns, it will send no message.
    pub fn cancel(&self) {
        let state = std::mem::replace(&mut *self.state.lock(), State::Over);
        if let State::Waiting(task) = state {
            task.abort();
        }
    }

    /// Waits for the database's watch in the background. Does nothing if the watch was cancelled
    /// before.
    pub fn start(
        this: &ResourceArc<Watch>,
        fires: impl Future<Output = FdbResult<()>> + Send + 'static,
    ) {
        let mut state = this.state.lock();
        if matches!(*state, State::New) {
            let watch = this.clone();
            let task = client::runtime().spawn(async move {
                let result = fires.await;
                Watch::finish(&watch, result);
            });
            *state = State::Waiting(task.abort_handle());
        }
    }

    fn finish(this: &ResourceArc<Watch>, result: FdbResult<()>) {
        // Held across the send: `cancel` waits for it, and then nothing follows.
        let mut state = this.state.lock();
        if matches!(*state, State::Waiting(_)) {
            *state = State::Over;
            let _ = OwnedEnv::new().send_and_clear(&this.owner, |env| match result {
                Ok(()) => (this, atoms::ready()).encode(env),
                Err(error) => (this, (atom::error(), Error::from(error))).encode(env),
            });
        }
    }
}
