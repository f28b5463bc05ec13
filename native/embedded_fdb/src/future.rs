//! Futures: the results of the C API.
//!
//! Most are ready when they are returned. The others are completed later, once: by the engine, by a
//! cancellation, or by the end of the transaction. Some are completed because the client waits for
//! them: see [`Owner::awaited`].

use std::ffi::c_void;
use std::sync::Arc;

use crate::c_types::FDBFuture;
use crate::error::{Error, Result};
use crate::network;
use crate::output::Output;
use crate::round_trips::{self, Trip};
use crate::sync::{lock, wait, Condvar, Mutex};

/// `FDBCallback` with its parameter.
#[derive(Clone, Copy)]
pub(crate) struct Callback {
    pub(crate) function: unsafe extern "C" fn(*mut FDBFuture, *mut c_void),
    pub(crate) parameter: *mut c_void,
}

// SAFETY: the C API requires callbacks that may run on any thread.
unsafe impl Send for Callback {}

/// Observes what the client does with a pending future; dropped when the future is done.
pub(crate) trait Owner: Send + Sync {
    /// The client waits for the future, or asks whether it is ready, or sets a callback. Called without
    /// any lock; may complete the future.
    fn awaited(&self) {}

    /// The future is cancelled: it will not be completed any more.
    fn cancelled(&self) {}
}

enum State {
    Pending {
        callbacks: Vec<Callback>,
        owner: Option<Arc<dyn Owner>>,
        /// A thread is blocked until the future is ready.
        waited_for: bool,
    },
    Done {
        result: Result<Output>,
        /// How often the result was taken, minus how often it was released.
        uses: i64,
    },
}

/// One `FDBFuture`.
pub(crate) struct Future {
    state: Mutex<State>,
    ready: Condvar,
    /// The request it answers, if known when it was made.
    trip: Option<Trip>,
}

impl Future {
    fn new(state: State, trip: Option<Trip>) -> Arc<Future> {
        Arc::new(Future {
            state: Mutex::new(state),
            ready: Condvar::new(),
            trip,
        })
    }

    /// A future that is done.
    pub(crate) fn ready(result: Result<Output>) -> Arc<Future> {
        Future::new(State::Done { result, uses: 0 }, None)
    }

    /// A future that is done, with the answer to a request to the database.
    pub(crate) fn answer(result: Result<Output>, trip: Trip) -> Arc<Future> {
        Future::new(State::Done { result, uses: 0 }, Some(trip))
    }

    /// A future that is completed later.
    pub(crate) fn pending() -> Arc<Future> {
        let pending = State::Pending {
            callbacks: Vec::new(),
            owner: None,
            waited_for: false,
        };
        Future::new(pending, None)
    }

    /// Sets the observer. Does nothing if the future is done already.
    pub(crate) fn set_owner(&self, new: Arc<dyn Owner>) {
        if let State::Pending { owner, .. } = &mut *lock(&self.state) {
            *owner = Some(new);
        }
    }

    /// Whether the future is done.
    pub(crate) fn is_done(&self) -> bool {
        matches!(*lock(&self.state), State::Done { .. })
    }

    /// `fdb_future_is_ready`: as [`Future::is_done`], but first takes an answer that is available.
    pub(crate) fn is_ready(&self) -> bool {
        self.take_answer() || self.is_done()
    }

    /// The client waits, so answers arrive. Returns whether the future was done before.
    fn take_answer(&self) -> bool {
        let owner = match &*lock(&self.state) {
            State::Done { .. } => {
                if let Some(trip) = self.trip {
                    trip.wait();
                }
                return true;
            }
            State::Pending { owner, .. } => owner.clone(),
        };
        if let Some(owner) = owner {
            owner.awaited();
        }
        false
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
        let State::Pending {
            callbacks,
            owner,
            waited_for,
        } = &mut *state
        else {
            return;
        };
        let (callbacks, waited_for) = (std::mem::take(callbacks), *waited_for);
        let owner = owner.take();
        *state = State::Done { result, uses: 0 };
        drop(state);
        if waited_for {
            self.ready.notify_all();
        }
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

    /// Calls a callback. Keeps the future alive meanwhile, even if the callback destroys it.
    fn call(self: &Arc<Self>, callback: Callback) {
        let keep = self.clone();
        // SAFETY: the caller of `fdb_future_set_callback` passed a function that may be called with
        // this future and this parameter, from any thread, once.
        unsafe { (callback.function)(Arc::as_ptr(&keep).cast_mut().cast(), callback.parameter) };
    }

    /// Calls `callback` once the future is done, immediately if it is done already.
    pub(crate) fn on_ready(self: &Arc<Self>, callback: Callback) {
        if !self.take_answer() {
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
        if self.take_answer() {
            return Ok(());
        }
        let mut state = lock(&self.state);
        if matches!(*state, State::Pending { .. }) {
            if network::is_network_thread() {
                return Err(Error::BLOCKED_FROM_NETWORK_THREAD);
            }
            // This takes long enough for all outstanding answers to arrive.
            round_trips::wait_for_all();
        }
        while let State::Pending { waited_for, .. } = &mut *state {
            *waited_for = true;
            state = wait(&self.ready, state);
        }
        Ok(())
    }

    /// The future's error, if it has one.
    pub(crate) fn error(&self) -> Result<()> {
        match &*lock(&self.state) {
            State::Pending { .. } => Err(Error::FUTURE_NOT_SET),
            State::Done { result, .. } => result.as_ref().map(|_| ()).map_err(|error| *error),
        }
    }

    /// Passes the result to `take`. The result's memory stays in place until [`Future::release`] has been
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

    /// `fdb_future_release_memory`: ends one use of the result. The last one frees it; from then on the
    /// future has the error `future_released`. An error stays.
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
