//! Futures: the answers of the C API.
//!
//! Most are ready when they are returned. The others (watches, versionstamps, back-off) are
//! completed later, once, by whoever comes first: the engine, a cancellation, or the end of the
//! transaction.

use std::ffi::c_void;
use std::sync::Arc;

use crate::c_types::FDBFuture;
use crate::error::{Error, Result};
use crate::network;
use crate::output::Output;
use crate::sync::{lock, wait, Condvar, Mutex};

/// `FDBCallback` with its parameter.
#[derive(Clone, Copy)]
pub(crate) struct Callback {
    pub(crate) function: unsafe extern "C" fn(*mut FDBFuture, *mut c_void),
    pub(crate) parameter: *mut c_void,
}

// SAFETY: the C API asks the caller for a callback that may run on any thread.
unsafe impl Send for Callback {}

/// Told when a pending future is cancelled, dropped when it is done.
pub(crate) trait Owner: Send {
    /// The future is cancelled: it will not be completed any more.
    fn cancelled(&self);
}

enum State {
    Pending {
        callbacks: Vec<Callback>,
        owner: Option<Box<dyn Owner>>,
    },
    Done {
        result: Result<Output>,
        /// How often the result was got, less how often it was released.
        uses: i64,
    },
}

/// One `FDBFuture`.
pub(crate) struct Future {
    state: Mutex<State>,
    ready: Condvar,
}

impl Future {
    fn new(state: State) -> Arc<Future> {
        Arc::new(Future {
            state: Mutex::new(state),
            ready: Condvar::new(),
        })
    }

    /// A future that is done.
    pub(crate) fn ready(result: Result<Output>) -> Arc<Future> {
        Future::new(State::Done { result, uses: 0 })
    }

    /// A future that somebody completes later.
    pub(crate) fn pending() -> Arc<Future> {
        Future::new(State::Pending {
            callbacks: Vec::new(),
            owner: None,
        })
    }

    /// Sets who is told about a cancellation. Does nothing where the future is done already.
    pub(crate) fn set_owner(&self, new: Box<dyn Owner>) {
        if let State::Pending { owner, .. } = &mut *lock(&self.state) {
            *owner = Some(new);
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(*lock(&self.state), State::Done { .. })
    }

    /// Completes the future; a later completion is ignored.
    pub(crate) fn complete(self: &Arc<Self>, result: Result<Output>) {
        self.finish(result, false);
    }

    /// Ends a pending future with `operation_cancelled`.
    pub(crate) fn cancel(self: &Arc<Self>) {
        self.finish(Err(Error::OPERATION_CANCELLED), true);
    }

    fn finish(self: &Arc<Self>, result: Result<Output>, cancelled: bool) {
        let mut state = lock(&self.state);
        let State::Pending { callbacks, owner } = &mut *state else {
            return;
        };
        let callbacks = std::mem::take(callbacks);
        let owner = owner.take();
        *state = State::Done { result, uses: 0 };
        drop(state);
        self.ready.notify_all();
        if cancelled {
            if let Some(owner) = &owner {
                owner.cancelled();
            }
        }
        drop(owner);
        if !callbacks.is_empty() {
            let future = self.clone();
            network::on_network_thread(Box::new(move || {
                for callback in callbacks {
                    future.call(callback);
                }
            }));
        }
    }

    /// Calls a callback, keeping the future alive meanwhile even if the callback destroys it.
    fn call(self: &Arc<Self>, callback: Callback) {
        let keep = self.clone();
        // SAFETY: the caller of `fdb_future_set_callback` gave a function that may be called with
        // this future and this parameter, from any thread, once.
        unsafe { (callback.function)(Arc::as_ptr(&keep).cast_mut().cast(), callback.parameter) };
    }

    /// Calls `callback` once the future is done: at once where it is.
    pub(crate) fn on_ready(self: &Arc<Self>, callback: Callback) {
        {
            let mut state = lock(&self.state);
            if let State::Pending { callbacks, .. } = &mut *state {
                callbacks.push(callback);
                return;
            }
        }
        self.call(callback);
    }

    /// Blocks the calling thread until the future is done.
    pub(crate) fn wait(&self) -> Result<()> {
        let mut state = lock(&self.state);
        if matches!(*state, State::Pending { .. }) && network::is_network_thread() {
            return Err(Error::BLOCKED_FROM_NETWORK_THREAD);
        }
        while matches!(*state, State::Pending { .. }) {
            state = wait(&self.ready, state);
        }
        Ok(())
    }

    /// The error of a future that has one.
    pub(crate) fn error(&self) -> Result<()> {
        match &*lock(&self.state) {
            State::Pending { .. } => Err(Error::FUTURE_NOT_SET),
            State::Done { result, .. } => result.as_ref().map(|_| ()).map_err(|error| *error),
        }
    }

    /// Hands the result to `take`. Its memory stays where it is until [`Future::release`] has been
    /// called as often as this has succeeded.
    pub(crate) fn get<T>(&self, take: impl FnOnce(&Output) -> Result<T>) -> Result<T> {
        match &mut *lock(&self.state) {
            State::Pending { .. } => Err(Error::FUTURE_NOT_SET),
            State::Done { result, uses } => {
                let taken = take(result.as_ref().map_err(|error| *error)?)?;
                *uses += 1;
                Ok(taken)
            }
        }
    }

    /// `fdb_future_release_memory`: one use less of the result. With the last one it goes, and is
    /// `future_released` from then on; an error stays.
    pub(crate) fn release(&self) {
        let mut state = lock(&self.state);
        let State::Done { result, uses } = &mut *state else {
            return;
        };
        *uses -= 1;
        if *uses == 0 && result.is_ok() {
            let released = std::mem::replace(result, Err(Error::FUTURE_RELEASED));
            drop(state);
            drop(released);
        }
    }
}
