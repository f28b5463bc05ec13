//! Futures: the answers of the C API.
//!
//! Most are ready when they are returned. The others (watches, versionstamps, back-off) are
//! completed later, once, by whoever comes first: the engine, a cancellation, or the end of the
//! transaction.

use std::cell::UnsafeCell;
use std::ffi::{c_void, CString};
use std::sync::{Arc, Condvar, Mutex};

use crate::c_types::{FDBFuture, FDBKey, FDBKeyValue, FDBMappedKeyValue};
use crate::error::{Error, Result};
use crate::keys::{Key, Value};
use crate::network;
use crate::sync::lock;

/// What a future answers. Memory that C code sees belongs to it.
pub(crate) enum Output {
    Unit,
    Int64(i64),
    UInt64(u64),
    Double(f64),
    Key(Key),
    Value(Option<Value>),
    KeyValues(KeyValues),
    Mapped(MappedRows),
    Keys(KeyArray),
    Strings(StringArray),
    /// A cluster or a database, by its cluster file.
    Cluster(String),
    Database(String),
}

/// Rows with the array that C code reads.
pub(crate) struct KeyValues {
    pub(crate) array: Vec<FDBKeyValue>,
    pub(crate) more: bool,
    /// What `array` points into.
    _rows: Vec<(Key, Value)>,
}

impl KeyValues {
    pub(crate) fn new(rows: Vec<(Key, Value)>, more: bool) -> Self {
        let array = rows
            .iter()
            .map(|(key, value)| FDBKeyValue::new(key, value))
            .collect();
        KeyValues {
            array,
            more,
            _rows: rows,
        }
    }
}

/// Keys with the array that C code reads.
pub(crate) struct KeyArray {
    pub(crate) array: Vec<FDBKey>,
    _keys: Vec<Key>,
}

impl KeyArray {
    pub(crate) fn new(keys: Vec<Key>) -> Self {
        KeyArray {
            array: keys.iter().map(|key| FDBKey::new(key)).collect(),
            _keys: keys,
        }
    }
}

/// Strings with the array that C code reads.
pub(crate) struct StringArray {
    pub(crate) array: Vec<*const std::ffi::c_char>,
    _strings: Vec<CString>,
}

impl StringArray {
    pub(crate) fn new(strings: Vec<CString>) -> Self {
        StringArray {
            array: strings.iter().map(|s| s.as_ptr()).collect(),
            _strings: strings,
        }
    }
}

/// One row of a mapped range, with what its mapped key or range holds.
pub(crate) struct MappedRow {
    pub(crate) key: Key,
    pub(crate) value: Value,
    pub(crate) begin: Key,
    pub(crate) end: Key,
    pub(crate) rows: Vec<(Key, Value)>,
}

/// Rows of a mapped range with the arrays that C code reads.
pub(crate) struct MappedRows {
    pub(crate) array: Vec<FDBMappedKeyValue>,
    pub(crate) more: bool,
    _inner: Vec<KeyValues>,
    _keys: Vec<(Key, Value, Key, Key)>,
}

impl MappedRows {
    pub(crate) fn new(rows: Vec<MappedRow>, more: bool) -> Self {
        let mut mapped = MappedRows {
            array: Vec::new(),
            more,
            _inner: Vec::new(),
            _keys: Vec::new(),
        };
        for row in rows {
            let inner = KeyValues::new(row.rows, false);
            mapped.array.push(FDBMappedKeyValue::new(
                &row.key,
                &row.value,
                &row.begin,
                &row.end,
                &inner.array,
            ));
            mapped._inner.push(inner);
            mapped._keys.push((row.key, row.value, row.begin, row.end));
        }
        mapped
    }
}

// SAFETY: the raw pointers inside point into memory that the same value owns and never changes.
unsafe impl Send for Output {}
// SAFETY: as above; nothing inside can be changed through a shared reference.
unsafe impl Sync for Output {}

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
    Done,
}

/// One `FDBFuture`.
pub(crate) struct Future {
    state: Mutex<State>,
    ready: Condvar,
    /// Written once, under the lock, before the state is `Done`; read only after that.
    result: UnsafeCell<Option<Result<Output>>>,
    released: Mutex<bool>,
}

// SAFETY: `result` is written once under `state`'s lock, before `Done` is visible to readers, who
// take the same lock first.
unsafe impl Sync for Future {}
// SAFETY: all parts are `Send`.
unsafe impl Send for Future {}

impl Future {
    /// A future that is done.
    pub(crate) fn ready(result: Result<Output>) -> Arc<Future> {
        Arc::new(Future {
            state: Mutex::new(State::Done),
            ready: Condvar::new(),
            result: UnsafeCell::new(Some(result)),
            released: Mutex::new(false),
        })
    }

    /// A future that somebody completes later.
    pub(crate) fn pending() -> Arc<Future> {
        Arc::new(Future {
            state: Mutex::new(State::Pending {
                callbacks: Vec::new(),
                owner: None,
            }),
            ready: Condvar::new(),
            result: UnsafeCell::new(None),
            released: Mutex::new(false),
        })
    }

    /// Sets who is told about a cancellation. Does nothing where the future is done already.
    pub(crate) fn set_owner(&self, new: Box<dyn Owner>) {
        if let State::Pending { owner, .. } = &mut *lock(&self.state) {
            *owner = Some(new);
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(*lock(&self.state), State::Done)
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
        // SAFETY: the state is pending and locked, so nobody else reads or writes the result.
        unsafe { *self.result.get() = Some(result) };
        *state = State::Done;
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
            state = self
                .ready
                .wait(state)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        Ok(())
    }

    /// The result, once there is one.
    pub(crate) fn result(&self) -> Result<&Output> {
        if !self.is_ready() {
            return Err(Error::FUTURE_NOT_SET);
        }
        if *lock(&self.released) {
            return Err(Error::FUTURE_RELEASED);
        }
        // SAFETY: the state was seen as done, so the result is written and never changes again.
        match unsafe { &*self.result.get() } {
            Some(Ok(output)) => Ok(output),
            Some(Err(error)) => Err(*error),
            None => Err(Error::INTERNAL_ERROR),
        }
    }

    /// `fdb_future_release_memory`: later reads of the result fail.
    ///
    /// The memory itself goes with the future: a result is never large enough to matter before.
    pub(crate) fn release(&self) {
        if self.is_ready() {
            *lock(&self.released) = true;
        }
    }
}
