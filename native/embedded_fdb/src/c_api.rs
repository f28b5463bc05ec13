//! The functions of `fdb_c.h`.
//!
//! Each follows the contract of the C header: handles come from this library and are not used after
//! they were destroyed, pointers and lengths describe memory that may be read, and out pointers
//! memory that may be written. Where C allows to see that a caller broke it (a null handle, a
//! negative length), the answer is `client_invalid_operation` (2000). A panic of ours is
//! `internal_error` (4100).

use std::ffi::{c_char, c_double, c_int, c_void, CStr};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::Arc;

use crate::c_types::{
    FDBBool, FDBCluster, FDBDatabase, FDBError, FDBFuture, FDBKey, FDBKeyRange, FDBKeyValue,
    FDBMappedKeyValue, FDBReadBlobGranuleContext, FDBResult, FDBTenant, FDBTransaction,
};
use crate::database::Handle;
use crate::error::{describe, predicate, Error, Result};
use crate::future::{Callback, Future, Output};
use crate::keys::{Key, KeySelector, Limits};
use crate::network;
use crate::options::{self, DatabaseChange};
use crate::registry;
use crate::storage::OpenError;
use crate::sync::write;
use crate::tenant::Tenant;
use crate::transaction::Transaction;

/// The newest API version this library speaks.
const MAX_API_VERSION: c_int = 730;
/// The oldest one. Clients this old exist; older ones would need functions of other shapes.
const MIN_API_VERSION: c_int = 510;

/// The protocol version of FoundationDB 7.3.
const PROTOCOL_VERSION: u64 = 0x0FDB_00B0_7300_0000;

/// The API version that the process selected; 0 before that.
static API_VERSION: AtomicI32 = AtomicI32::new(0);

/// `fdb_run_network` completion hooks.
pub type Hook = Option<unsafe extern "C" fn(*mut c_void)>;
/// `FDBCallback`
pub type FutureCallback = Option<unsafe extern "C" fn(*mut FDBFuture, *mut c_void)>;

/// What a function answers where it could not do its work.
trait Failure {
    fn failure(error: Error) -> Self;
}

impl Failure for c_int {
    fn failure(error: Error) -> Self {
        error.0
    }
}

impl Failure for () {
    fn failure(_: Error) -> Self {}
}

impl Failure for *mut FDBFuture {
    fn failure(error: Error) -> Self {
        into_c(Future::ready(Err(error)))
    }
}

impl Failure for *mut FDBResult {
    fn failure(error: Error) -> Self {
        Box::into_raw(Box::new(error)).cast()
    }
}

impl Failure for *const c_char {
    fn failure(error: Error) -> Self {
        describe(error.0).as_ptr()
    }
}

impl Failure for c_double {
    fn failure(_: Error) -> Self {
        0.0
    }
}

/// Runs the body of a C function: errors and panics become what the function answers for them.
fn guard<T: Failure>(body: impl FnOnce() -> Result<T>) -> T {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => T::failure(error),
        Err(_) => T::failure(Error::INTERNAL_ERROR),
    }
}

/// Defines the C functions, the table for [`symbol`], and `for_each_c_function!` for the crate that
/// exports them.
macro_rules! c_functions {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),*) -> $ret:ty $body:block)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            ///
            /// As `fdb_c.h` says of this function.
            #[allow(clippy::too_many_arguments, clippy::missing_safety_doc)]
            pub unsafe extern "C" fn $name($($arg: $type),*) -> $ret {
                // SAFETY: the caller keeps the contract of `fdb_c.h`, see the module's docs.
                #[allow(unused_unsafe)]
                guard(move || -> Result<$ret> { unsafe { $body } })
            }
        )*

        /// The address of a C function of this library by its name, as `dlsym` would give it.
        ///
        /// ```
        /// assert!(embedded_fdb::symbol("fdb_create_database").is_some());
        /// assert!(embedded_fdb::symbol("fdb_no_such_function").is_none());
        /// ```
        pub fn symbol(name: &str) -> Option<*const c_void> {
            match name {
                $(stringify!($name) => Some($name as *const c_void),)*
                _ => None,
            }
        }

        /// Calls a macro with the signatures of all C functions.
        #[macro_export]
        macro_rules! for_each_c_function {
            ($callback:ident) => {
                $callback! { $(fn $name($($arg: $type),*) -> $ret;)* }
            };
        }
    };
}

// ---- handles

fn into_c(future: Arc<Future>) -> *mut FDBFuture {
    Arc::into_raw(future).cast_mut().cast()
}

/// The future behind a pointer, which stays owned by the client.
///
/// # Safety
///
/// `pointer` is null or was made by [`into_c`] and not destroyed.
unsafe fn future(pointer: *mut FDBFuture) -> Result<Arc<Future>> {
    // SAFETY: passed on to the caller.
    unsafe { borrow(pointer.cast()) }
}

/// Another reference to what a client's pointer refers to.
///
/// # Safety
///
/// `pointer` is null or came from `Arc::<T>::into_raw` and was not dropped.
unsafe fn borrow<T>(pointer: *const T) -> Result<Arc<T>> {
    if pointer.is_null() {
        return Err(Error::CLIENT_INVALID_OPERATION);
    }
    // SAFETY: by the contract above the count is at least one; it is raised before it is taken.
    unsafe {
        Arc::increment_strong_count(pointer);
        Ok(Arc::from_raw(pointer))
    }
}

/// # Safety
///
/// As [`borrow`].
unsafe fn transaction(pointer: *mut FDBTransaction) -> Result<Arc<Transaction>> {
    // SAFETY: passed on to the caller.
    unsafe { borrow(pointer.cast()) }
}

/// # Safety
///
/// As [`borrow`].
unsafe fn database(pointer: *mut FDBDatabase) -> Result<Arc<Handle>> {
    // SAFETY: passed on to the caller.
    unsafe { borrow(pointer.cast()) }
}

/// # Safety
///
/// As [`borrow`].
unsafe fn tenant(pointer: *mut FDBTenant) -> Result<Arc<Tenant>> {
    // SAFETY: passed on to the caller.
    unsafe { borrow(pointer.cast()) }
}

// ---- arguments

/// # Safety
///
/// `pointer` is null or points to `length` bytes.
unsafe fn bytes<'a>(pointer: *const u8, length: c_int) -> Result<&'a [u8]> {
    match usize::try_from(length) {
        Ok(0) => Ok(&[]),
        // SAFETY: by the contract above.
        Ok(length) if !pointer.is_null() => {
            Ok(unsafe { std::slice::from_raw_parts(pointer, length) })
        }
        _ => Err(Error::CLIENT_INVALID_OPERATION),
    }
}

/// # Safety
///
/// As [`bytes`].
unsafe fn key(pointer: *const u8, length: c_int) -> Result<Key> {
    // SAFETY: passed on to the caller.
    unsafe { bytes(pointer, length) }.map(Key::from)
}

/// The value of an option: absent where the pointer is null.
///
/// # Safety
///
/// As [`bytes`].
unsafe fn option_value<'a>(pointer: *const u8, length: c_int) -> Result<Option<&'a [u8]>> {
    if pointer.is_null() {
        Ok(None)
    } else {
        // SAFETY: passed on to the caller.
        unsafe { bytes(pointer, length) }.map(Some)
    }
}

/// # Safety
///
/// As [`bytes`].
unsafe fn selector(
    pointer: *const u8,
    length: c_int,
    or_equal: FDBBool,
    offset: c_int,
) -> Result<KeySelector> {
    // SAFETY: passed on to the caller.
    let key = unsafe { key(pointer, length) }?;
    Ok(KeySelector {
        key,
        or_equal: or_equal != 0,
        offset,
    })
}

/// Writes an answer to an out pointer.
///
/// # Safety
///
/// `out` is null or may be written.
unsafe fn put<T>(out: *mut T, value: T) -> Result<()> {
    if out.is_null() {
        return Err(Error::CLIENT_INVALID_OPERATION);
    }
    // SAFETY: by the contract above; C does not promise alignment to us in packed structs.
    unsafe { out.write_unaligned(value) };
    Ok(())
}

/// An out pointer for a handle, looked at before the handle is made: nobody could destroy it.
fn place<T>(out: *mut *mut T) -> Result<*mut *mut T> {
    if out.is_null() {
        return Err(Error::CLIENT_INVALID_OPERATION);
    }
    Ok(out)
}

/// # Safety
///
/// `path` is null or a C string.
unsafe fn text(path: *const c_char) -> Result<String> {
    if path.is_null() {
        return Ok(String::new());
    }
    // SAFETY: by the contract above.
    let path = unsafe { CStr::from_ptr(path) };
    Ok(path.to_string_lossy().into_owned())
}

fn count(length: usize) -> c_int {
    c_int::try_from(length).unwrap_or(c_int::MAX)
}

/// The limits of a range read from the arguments of the C function.
fn limits(rows: c_int, bytes: c_int, mode: c_int, iteration: c_int) -> Result<Limits> {
    const WANT_ALL: c_int = -2;
    const ITERATOR: c_int = -1;
    const EXACT: c_int = 0;
    const SERIAL: c_int = 4;
    /// Bytes for the modes exact, small, medium, large and serial.
    const BYTES: [usize; 5] = [0, 256, 1_000, 4_096, 80_000];
    /// Bytes of one iteration after another.
    const PROGRESSION: [usize; 10] = [
        4_096, 6_144, 9_216, 13_824, 20_736, 31_104, 46_656, 69_984, 80_000, 120_000,
    ];
    let limit = |value: c_int| match value {
        0 | -1 => Ok(None),
        value => usize::try_from(value)
            .map(Some)
            .map_err(|_| Error::RANGE_LIMITS_INVALID),
    };
    if mode == EXACT && matches!((rows, bytes), (0 | -1, 0 | -1)) {
        return Err(Error::EXACT_MODE_WITHOUT_LIMITS);
    }
    let of_mode = match mode {
        WANT_ALL => Some(BYTES[SERIAL as usize]),
        ITERATOR => {
            let iteration = usize::try_from(iteration).ok().filter(|&i| i > 0);
            let iteration = iteration.ok_or(Error::CLIENT_INVALID_OPERATION)?;
            Some(PROGRESSION[iteration.min(PROGRESSION.len()) - 1])
        }
        EXACT => None,
        mode @ 1..=SERIAL => Some(BYTES[mode as usize]),
        _ => return Err(Error::CLIENT_INVALID_OPERATION),
    };
    let bytes = limit(bytes)?;
    let bytes = match (bytes, of_mode) {
        (Some(bytes), Some(of_mode)) => Some(bytes.min(of_mode)),
        (bytes, of_mode) => bytes.or(of_mode),
    };
    Ok(Limits::new(limit(rows)?, bytes))
}

fn check_api_version() -> Result<c_int> {
    match API_VERSION.load(Ordering::Acquire) {
        0 => Err(Error::API_VERSION_UNSET),
        version => Ok(version),
    }
}

/// The code for a database that cannot be opened; [`crate::admin::Database::open`] says more.
fn open_error(error: &OpenError) -> Error {
    match error {
        OpenError::Name { .. } => Error::CONNECTION_STRING_INVALID,
        OpenError::Held { .. } => Error::LOCK_FILE_FAILURE,
        OpenError::Foreign { .. } | OpenError::Damaged { .. } | OpenError::Lost { .. } => {
            Error::FILE_CORRUPT
        }
        OpenError::Io { .. } => Error::IO_ERROR,
        OpenError::Faults(_) => Error::INVALID_OPTION_VALUE,
    }
}

fn open_database(path: String) -> Result<*mut FDBDatabase> {
    check_api_version()?;
    if !network::is_set_up() {
        return Err(Error::NETWORK_NOT_SETUP);
    }
    let database = registry::open(&path).map_err(|error| open_error(&error))?;
    let handle = Arc::new(Handle::new(database, path));
    Ok(Arc::into_raw(handle).cast_mut().cast())
}

/// A hook of the client with its parameter.
struct CompletionHook(unsafe extern "C" fn(*mut c_void), *mut c_void);

// SAFETY: the C API asks the caller for a hook that may run on the network thread.
unsafe impl Send for CompletionHook {}

impl CompletionHook {
    fn run(self) {
        // SAFETY: the caller of `fdb_add_network_thread_completion_hook` gave a function that may be
        // called with this parameter.
        unsafe { (self.0)(self.1) };
    }
}

/// What a result holds; see [`Failure`].
///
/// # Safety
///
/// `result` is null or was made by this library and not destroyed.
unsafe fn result_error(result: *mut FDBResult) -> Error {
    // SAFETY: by the contract above; every result is a boxed error.
    unsafe { result.cast::<Error>().as_ref() }
        .copied()
        .unwrap_or(Error::CLIENT_INVALID_OPERATION)
}

/// An out value of a future's result of another kind than asked for.
fn wrong_kind<T>() -> Result<T> {
    Err(Error::CLIENT_INVALID_OPERATION)
}

c_functions! {
    /// The description of an error code, a string that lives forever.
    fn fdb_get_error(code: FDBError) -> *const c_char {
        Ok(describe(code).as_ptr())
    }

    /// Whether an error has a property that a client needs to know: 50000 retryable, 50001 maybe
    /// committed, 50002 retryable and not committed.
    fn fdb_error_predicate(test: c_int, code: FDBError) -> FDBBool {
        Ok(FDBBool::from(predicate(test, code)))
    }

    /// Selects the API version: once, before anything else.
    fn fdb_select_api_version_impl(runtime_version: c_int, header_version: c_int) -> FDBError {
        if API_VERSION.load(Ordering::Acquire) != 0 {
            return Err(Error::API_VERSION_ALREADY_SET);
        }
        if runtime_version > header_version {
            return Err(Error::API_VERSION_INVALID);
        }
        if header_version > MAX_API_VERSION || runtime_version < MIN_API_VERSION {
            return Err(Error::API_VERSION_NOT_SUPPORTED);
        }
        let set = API_VERSION.compare_exchange(0, runtime_version, Ordering::AcqRel, Ordering::Acquire);
        set.map(|_| 0).map_err(|_| Error::API_VERSION_ALREADY_SET)
    }

    /// The newest API version this library speaks.
    fn fdb_get_max_api_version() -> c_int {
        Ok(MAX_API_VERSION)
    }

    /// Release, source and protocol version.
    fn fdb_get_client_version() -> *const c_char {
        Ok(c"7.3.79,embedded,fdb00b073000000".as_ptr())
    }

    /// Sets a network option. None has an effect, as there is no network; mistakes are reported.
    fn fdb_network_set_option(option: c_int, value: *const u8, value_length: c_int) -> FDBError {
        check_api_version()?;
        options::network(option, option_value(value, value_length)?).map(|()| 0)
    }

    /// Prepares the network: once.
    fn fdb_setup_network() -> FDBError {
        check_api_version()?;
        network::set_up().map(|()| 0)
    }

    /// Lends the calling thread to the library until `fdb_stop_network`.
    fn fdb_run_network() -> FDBError {
        check_api_version()?;
        network::run().map(|()| 0)
    }

    /// Ends `fdb_run_network`.
    fn fdb_stop_network() -> FDBError {
        check_api_version()?;
        network::stop().map(|()| 0)
    }

    /// Calls `hook` on the network thread before it ends.
    fn fdb_add_network_thread_completion_hook(hook: Hook, parameter: *mut c_void) -> FDBError {
        check_api_version()?;
        let hook = CompletionHook(hook.ok_or(Error::CLIENT_INVALID_OPERATION)?, parameter);
        network::at_end(Box::new(move || hook.run())).map(|()| 0)
    }

    // ---- futures

    /// Ends a pending future with `operation_cancelled`.
    fn fdb_future_cancel(f: *mut FDBFuture) -> () {
        future(f)?.cancel();
        Ok(())
    }

    /// Gives back the memory of the result; the future stays.
    fn fdb_future_release_memory(f: *mut FDBFuture) -> () {
        future(f)?.release();
        Ok(())
    }

    /// Destroys a future, in any state.
    fn fdb_future_destroy(f: *mut FDBFuture) -> () {
        if !f.is_null() {
            Arc::from_raw(f.cast::<Future>().cast_const()).cancel();
        }
        Ok(())
    }

    /// Blocks the calling thread until the future is ready.
    fn fdb_future_block_until_ready(f: *mut FDBFuture) -> FDBError {
        future(f)?.wait().map(|()| 0)
    }

    /// Whether the future is ready.
    fn fdb_future_is_ready(f: *mut FDBFuture) -> FDBBool {
        Ok(FDBBool::from(future(f).is_ok_and(|f| f.is_ready())))
    }

    /// Calls `callback` once when the future is ready: before this returns where it is.
    fn fdb_future_set_callback(f: *mut FDBFuture, callback: FutureCallback, parameter: *mut c_void) -> FDBError {
        let function = callback.ok_or(Error::CLIENT_INVALID_OPERATION)?;
        future(f)?.on_ready(Callback { function, parameter });
        Ok(0)
    }

    /// The error of the future, 0 where there is none.
    fn fdb_future_get_error(f: *mut FDBFuture) -> FDBError {
        future(f)?.result().map(|_| 0)
    }

    /// The result of a future that answers a truth value: no future here does.
    fn fdb_future_get_bool(f: *mut FDBFuture, _out: *mut FDBBool) -> FDBError {
        future(f)?.result()?;
        wrong_kind()
    }

    /// The result of a future that answers a number.
    fn fdb_future_get_int64(f: *mut FDBFuture, out: *mut i64) -> FDBError {
        match future(f)?.result()? {
            Output::Int64(value) => put(out, *value).map(|()| 0),
            _ => wrong_kind(),
        }
    }

    /// The result of a future that answers a number without sign.
    fn fdb_future_get_uint64(f: *mut FDBFuture, out: *mut u64) -> FDBError {
        match future(f)?.result()? {
            Output::UInt64(value) => put(out, *value).map(|()| 0),
            _ => wrong_kind(),
        }
    }

    /// The result of a future that answers a floating-point number.
    fn fdb_future_get_double(f: *mut FDBFuture, out: *mut c_double) -> FDBError {
        match future(f)?.result()? {
            Output::Double(value) => put(out, *value).map(|()| 0),
            _ => wrong_kind(),
        }
    }

    /// The result of a future that answers a key.
    fn fdb_future_get_key(f: *mut FDBFuture, out_key: *mut *const u8, out_length: *mut c_int) -> FDBError {
        match future(f)?.result()? {
            Output::Key(key) => {
                put(out_key, key.as_ptr())?;
                put(out_length, count(key.len())).map(|()| 0)
            }
            _ => wrong_kind(),
        }
    }

    /// The result of a future that answers a value, which may be absent.
    fn fdb_future_get_value(f: *mut FDBFuture, out_present: *mut FDBBool, out_value: *mut *const u8, out_length: *mut c_int) -> FDBError {
        match future(f)?.result()? {
            Output::Value(value) => {
                put(out_present, FDBBool::from(value.is_some()))?;
                if let Some(value) = value {
                    put(out_value, value.as_ptr())?;
                    put(out_length, count(value.len()))?;
                }
                Ok(0)
            }
            // Clients read `fdb_database_get_client_status` so, which works with a cluster's client.
            Output::Key(key) => {
                put(out_present, 1)?;
                put(out_value, key.as_ptr())?;
                put(out_length, count(key.len()))?;
                Ok(0)
            }
            _ => wrong_kind(),
        }
    }

    /// The result of a range read.
    fn fdb_future_get_keyvalue_array(f: *mut FDBFuture, out_kv: *mut *const FDBKeyValue, out_count: *mut c_int, out_more: *mut FDBBool) -> FDBError {
        match future(f)?.result()? {
            Output::KeyValues(rows) => {
                put(out_kv, rows.array.as_ptr())?;
                put(out_count, count(rows.array.len()))?;
                put(out_more, FDBBool::from(rows.more)).map(|()| 0)
            }
            _ => wrong_kind(),
        }
    }

    /// The result of a mapped range read.
    fn fdb_future_get_mappedkeyvalue_array(f: *mut FDBFuture, out_kv: *mut *const FDBMappedKeyValue, out_count: *mut c_int, out_more: *mut FDBBool) -> FDBError {
        match future(f)?.result()? {
            Output::Mapped(rows) => {
                put(out_kv, rows.array.as_ptr())?;
                put(out_count, count(rows.array.len()))?;
                put(out_more, FDBBool::from(rows.more)).map(|()| 0)
            }
            _ => wrong_kind(),
        }
    }

    /// The result of a future that answers keys.
    fn fdb_future_get_key_array(f: *mut FDBFuture, out_keys: *mut *const FDBKey, out_count: *mut c_int) -> FDBError {
        match future(f)?.result()? {
            Output::Keys(keys) => {
                put(out_keys, keys.array.as_ptr())?;
                put(out_count, count(keys.array.len())).map(|()| 0)
            }
            _ => wrong_kind(),
        }
    }

    /// The result of a future that answers strings.
    fn fdb_future_get_string_array(f: *mut FDBFuture, out_strings: *mut *const *const c_char, out_count: *mut c_int) -> FDBError {
        match future(f)?.result()? {
            Output::Strings(strings) => {
                put(out_strings, strings.array.as_ptr())?;
                put(out_count, count(strings.array.len())).map(|()| 0)
            }
            _ => wrong_kind(),
        }
    }

    // ---- databases

    /// Opens the database that a cluster file path stands for.
    fn fdb_create_database(cluster_file_path: *const c_char, out_database: *mut *mut FDBDatabase) -> FDBError {
        let out_database = place(out_database)?;
        let path = text(cluster_file_path)?;
        put(out_database, open_database(path)?).map(|()| 0)
    }

    /// Destroys a handle; the database lives on.
    fn fdb_database_destroy(d: *mut FDBDatabase) -> () {
        if !d.is_null() {
            drop(Arc::from_raw(d.cast::<Handle>().cast_const()));
        }
        Ok(())
    }

    /// Sets an option of a handle.
    fn fdb_database_set_option(d: *mut FDBDatabase, option: c_int, value: *const u8, value_length: c_int) -> FDBError {
        let handle = database(d)?;
        let value = option_value(value, value_length)?;
        match options::database(option, value)? {
            DatabaseChange::Nothing => {}
            DatabaseChange::MaxWatches(limit) => handle.allowance.set_limit(limit),
            DatabaseChange::SnapshotReadYourWrites(by) => {
                write(&handle.defaults).snapshot_read_your_writes += by;
            }
            DatabaseChange::TransactionDefault(option) => {
                write(&handle.defaults).options.push((option, value.map(<[u8]>::to_vec)));
            }
        }
        Ok(0)
    }

    /// Begins a transaction.
    fn fdb_database_create_transaction(d: *mut FDBDatabase, out_transaction: *mut *mut FDBTransaction) -> FDBError {
        let out_transaction = place(out_transaction)?;
        let transaction = Transaction::new(database(d)?, None, check_api_version()?);
        put(out_transaction, Arc::into_raw(transaction).cast_mut().cast()).map(|()| 0)
    }

    /// How busy the network thread is, from 0 to 1: it is idle.
    fn fdb_database_get_main_thread_busyness(d: *mut FDBDatabase) -> c_double {
        database(d).map(|_| 0.0)
    }

    // ---- transactions

    /// Destroys a transaction; its pending futures get `transaction_cancelled`.
    fn fdb_transaction_destroy(tr: *mut FDBTransaction) -> () {
        if !tr.is_null() {
            Arc::from_raw(tr.cast::<Transaction>().cast_const()).destroyed();
        }
        Ok(())
    }

    /// Ends the transaction until its next reset.
    fn fdb_transaction_cancel(tr: *mut FDBTransaction) -> () {
        transaction(tr)?.cancel();
        Ok(())
    }

    /// Makes the transaction a new one.
    fn fdb_transaction_reset(tr: *mut FDBTransaction) -> () {
        transaction(tr)?.reset();
        Ok(())
    }

    /// Sets an option of the transaction.
    fn fdb_transaction_set_option(tr: *mut FDBTransaction, option: c_int, value: *const u8, value_length: c_int) -> FDBError {
        transaction(tr)?.set_option(option, option_value(value, value_length)?).map(|()| 0)
    }

    /// Sets the version to read at.
    fn fdb_transaction_set_read_version(tr: *mut FDBTransaction, version: i64) -> () {
        transaction(tr)?.set_read_version(version);
        Ok(())
    }

    /// The version the transaction reads at.
    fn fdb_transaction_get_read_version(tr: *mut FDBTransaction) -> *mut FDBFuture {
        Ok(into_c(transaction(tr)?.get_read_version()))
    }

    /// Reads a key.
    fn fdb_transaction_get(tr: *mut FDBTransaction, key_name: *const u8, key_length: c_int, snapshot: FDBBool) -> *mut FDBFuture {
        let key = key(key_name, key_length)?;
        Ok(into_c(transaction(tr)?.get(key, snapshot != 0)))
    }

    /// Finds the key that a selector names.
    fn fdb_transaction_get_key(tr: *mut FDBTransaction, key_name: *const u8, key_length: c_int, or_equal: FDBBool, offset: c_int, snapshot: FDBBool) -> *mut FDBFuture {
        let selector = selector(key_name, key_length, or_equal, offset)?;
        Ok(into_c(transaction(tr)?.get_key(selector, snapshot != 0)))
    }

    /// The addresses of the servers that keep a key: this process.
    fn fdb_transaction_get_addresses_for_key(tr: *mut FDBTransaction, key_name: *const u8, key_length: c_int) -> *mut FDBFuture {
        bytes(key_name, key_length)?;
        Ok(into_c(transaction(tr)?.get_addresses_for_key()))
    }

    /// Reads a range.
    fn fdb_transaction_get_range(
        tr: *mut FDBTransaction,
        begin_key: *const u8,
        begin_length: c_int,
        begin_or_equal: FDBBool,
        begin_offset: c_int,
        end_key: *const u8,
        end_length: c_int,
        end_or_equal: FDBBool,
        end_offset: c_int,
        limit: c_int,
        target_bytes: c_int,
        mode: c_int,
        iteration: c_int,
        snapshot: FDBBool,
        reverse: FDBBool
    ) -> *mut FDBFuture {
        let limits = limits(limit, target_bytes, mode, iteration)?;
        let begin = selector(begin_key, begin_length, begin_or_equal, begin_offset)?;
        let end = selector(end_key, end_length, end_or_equal, end_offset)?;
        Ok(into_c(transaction(tr)?.get_range(begin, end, limits, snapshot != 0, reverse != 0)))
    }

    /// Reads a range of an index and what its rows lead to.
    fn fdb_transaction_get_mapped_range(
        tr: *mut FDBTransaction,
        begin_key: *const u8,
        begin_length: c_int,
        begin_or_equal: FDBBool,
        begin_offset: c_int,
        end_key: *const u8,
        end_length: c_int,
        end_or_equal: FDBBool,
        end_offset: c_int,
        mapper: *const u8,
        mapper_length: c_int,
        limit: c_int,
        target_bytes: c_int,
        mode: c_int,
        iteration: c_int,
        snapshot: FDBBool,
        reverse: FDBBool
    ) -> *mut FDBFuture {
        let limits = limits(limit, target_bytes, mode, iteration)?;
        let begin = selector(begin_key, begin_length, begin_or_equal, begin_offset)?;
        let end = selector(end_key, end_length, end_or_equal, end_offset)?;
        let mapper = bytes(mapper, mapper_length)?.to_vec();
        let transaction = transaction(tr)?;
        Ok(into_c(transaction.get_mapped_range(begin, end, mapper, limits, snapshot != 0, reverse != 0)))
    }

    /// Writes a key.
    fn fdb_transaction_set(tr: *mut FDBTransaction, key_name: *const u8, key_length: c_int, value: *const u8, value_length: c_int) -> () {
        let value = bytes(value, value_length)?;
        transaction(tr)?.set(key(key_name, key_length)?, value.into());
        Ok(())
    }

    /// Changes a key without reading it.
    fn fdb_transaction_atomic_op(tr: *mut FDBTransaction, key_name: *const u8, key_length: c_int, param: *const u8, param_length: c_int, operation: c_int) -> () {
        let operand = bytes(param, param_length)?;
        transaction(tr)?.atomic_op(key(key_name, key_length)?, operand.into(), operation);
        Ok(())
    }

    /// Clears a key.
    fn fdb_transaction_clear(tr: *mut FDBTransaction, key_name: *const u8, key_length: c_int) -> () {
        transaction(tr)?.clear(key(key_name, key_length)?);
        Ok(())
    }

    /// Clears a range.
    fn fdb_transaction_clear_range(tr: *mut FDBTransaction, begin_key: *const u8, begin_length: c_int, end_key: *const u8, end_length: c_int) -> () {
        transaction(tr)?.clear_range(key(begin_key, begin_length)?, key(end_key, end_length)?);
        Ok(())
    }

    /// A future that is ready when the key has another value than now.
    fn fdb_transaction_watch(tr: *mut FDBTransaction, key_name: *const u8, key_length: c_int) -> *mut FDBFuture {
        Ok(into_c(transaction(tr)?.watch(key(key_name, key_length)?)))
    }

    /// Commits.
    fn fdb_transaction_commit(tr: *mut FDBTransaction) -> *mut FDBFuture {
        Ok(into_c(transaction(tr)?.commit()))
    }

    /// The version of the commit; -1 before it, and for a transaction that wrote nothing.
    fn fdb_transaction_get_committed_version(tr: *mut FDBTransaction, out_version: *mut i64) -> FDBError {
        put(out_version, transaction(tr)?.committed_version()).map(|()| 0)
    }

    /// The versionstamp of the commit, ready after it.
    fn fdb_transaction_get_versionstamp(tr: *mut FDBTransaction) -> *mut FDBFuture {
        Ok(into_c(transaction(tr)?.get_versionstamp()))
    }

    /// The size of the commit so far.
    fn fdb_transaction_get_approximate_size(tr: *mut FDBTransaction) -> *mut FDBFuture {
        Ok(into_c(transaction(tr)?.get_approximate_size()))
    }

    /// Waits and starts the transaction again where the error can be retried; else gives it back.
    fn fdb_transaction_on_error(tr: *mut FDBTransaction, code: FDBError) -> *mut FDBFuture {
        Ok(into_c(transaction(tr)?.on_error(Error(code))))
    }

    /// Adds a conflict range: 0 read, 1 write.
    fn fdb_transaction_add_conflict_range(tr: *mut FDBTransaction, begin_key: *const u8, begin_length: c_int, end_key: *const u8, end_length: c_int, kind: c_int) -> FDBError {
        let (begin, end) = (key(begin_key, begin_length)?, key(end_key, end_length)?);
        let write = match kind {
            0 => false,
            1 => true,
            _ => return Err(Error::CLIENT_INVALID_OPERATION),
        };
        transaction(tr)?.add_conflict_range(begin, end, write).map(|()| 0)
    }

    /// About how many bytes a range holds: here exactly the bytes of its keys and values.
    fn fdb_transaction_get_estimated_range_size_bytes(tr: *mut FDBTransaction, begin_key: *const u8, begin_length: c_int, end_key: *const u8, end_length: c_int) -> *mut FDBFuture {
        let (begin, end) = (key(begin_key, begin_length)?, key(end_key, end_length)?);
        Ok(into_c(transaction(tr)?.get_estimated_range_size_bytes(begin, end)))
    }

    /// Keys that divide a range into parts of about `chunk_size` bytes.
    fn fdb_transaction_get_range_split_points(tr: *mut FDBTransaction, begin_key: *const u8, begin_length: c_int, end_key: *const u8, end_length: c_int, chunk_size: i64) -> *mut FDBFuture {
        let (begin, end) = (key(begin_key, begin_length)?, key(end_key, end_length)?);
        Ok(into_c(transaction(tr)?.get_range_split_points(begin, end, chunk_size)))
    }

    // ---- tenants

    /// Opens a tenant by name. Whether it exists shows when it is used.
    fn fdb_database_open_tenant(d: *mut FDBDatabase, name: *const u8, name_length: c_int, out_tenant: *mut *mut FDBTenant) -> FDBError {
        let out_tenant = place(out_tenant)?;
        let tenant = Tenant::new(database(d)?, key(name, name_length)?);
        put(out_tenant, Arc::into_raw(Arc::new(tenant)).cast_mut().cast()).map(|()| 0)
    }

    /// Begins a transaction in a tenant.
    fn fdb_tenant_create_transaction(t: *mut FDBTenant, out_transaction: *mut *mut FDBTransaction) -> FDBError {
        let out_transaction = place(out_transaction)?;
        let tenant = tenant(t)?;
        let transaction = Transaction::new(tenant.handle.clone(), Some(tenant), check_api_version()?);
        put(out_transaction, Arc::into_raw(transaction).cast_mut().cast()).map(|()| 0)
    }

    /// The number of a tenant.
    fn fdb_tenant_get_id(t: *mut FDBTenant) -> *mut FDBFuture {
        let tenant = tenant(t)?;
        let id = tenant.id(&tenant.handle.database.snapshot().map);
        Ok(into_c(Future::ready(id.map(Output::Int64))))
    }

    /// Destroys a handle of a tenant; the tenant lives on.
    fn fdb_tenant_destroy(t: *mut FDBTenant) -> () {
        if !t.is_null() {
            drop(Arc::from_raw(t.cast::<Tenant>().cast_const()));
        }
        Ok(())
    }

    // ---- what a database says of itself

    /// The client's own status, as JSON.
    fn fdb_database_get_client_status(d: *mut FDBDatabase) -> *mut FDBFuture {
        Ok(into_c(Future::ready(database(d)?.client_status())))
    }

    /// The protocol version: that of the release whose API this is.
    fn fdb_database_get_server_protocol(d: *mut FDBDatabase, _expected_version: u64) -> *mut FDBFuture {
        database(d)?;
        Ok(into_c(Future::ready(Ok(Output::UInt64(PROTOCOL_VERSION)))))
    }

    /// Opens a database by what a cluster file would contain; named databases as in
    /// `fdb_create_database`.
    fn fdb_create_database_from_connection_string(connection_string: *const c_char, out_database: *mut *mut FDBDatabase) -> FDBError {
        let out_database = place(out_database)?;
        let connection_string = text(connection_string)?;
        put(out_database, open_database(connection_string)?).map(|()| 0)
    }

    // ---- what needs a cluster: refused with `unsupported_operation`

    /// Needs a cluster.
    fn fdb_database_reboot_worker(_db: *mut FDBDatabase, _address: *const u8, _address_length: c_int, _check: FDBBool, _duration: c_int) -> *mut FDBFuture {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// Needs a cluster.
    fn fdb_database_force_recovery_with_data_loss(_db: *mut FDBDatabase, _dcid: *const u8, _dcid_length: c_int) -> *mut FDBFuture {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// Needs a cluster.
    fn fdb_database_create_snapshot(_db: *mut FDBDatabase, _uid: *const u8, _uid_length: c_int, _command: *const u8, _command_length: c_int) -> *mut FDBFuture {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// Needs blob granules.
    fn fdb_database_purge_blob_granules(_database: *mut FDBDatabase, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int, _purge_version: i64, _force: FDBBool) -> *mut FDBFuture {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// Needs blob granules.
    fn fdb_database_wait_purge_granules_complete(_database: *mut FDBDatabase, _purge_key: *const u8, _purge_key_length: c_int) -> *mut FDBFuture {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// Needs blob granules.
    fn fdb_database_blobbify_range(_database: *mut FDBDatabase, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int) -> *mut FDBFuture {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// Needs blob granules.
    fn fdb_database_blobbify_range_blocking(_database: *mut FDBDatabase, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int) -> *mut FDBFuture {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// Needs blob granules.
    fn fdb_database_unblobbify_range(_database: *mut FDBDatabase, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int) -> *mut FDBFuture {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// Needs blob granules.
    fn fdb_database_list_blobbified_ranges(_database: *mut FDBDatabase, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int, _limit: c_int) -> *mut FDBFuture {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// Needs blob granules.
    fn fdb_database_verify_blob_range(_database: *mut FDBDatabase, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int, _version: i64) -> *mut FDBFuture {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// Needs blob granules.
    fn fdb_database_flush_blob_range(_database: *mut FDBDatabase, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int, _compact: FDBBool, _version: i64) -> *mut FDBFuture {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// Needs blob granules.
    fn fdb_tenant_purge_blob_granules(_tenant: *mut FDBTenant, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int, _purge_version: i64, _force: FDBBool) -> *mut FDBFuture {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// Needs blob granules.
    fn fdb_tenant_wait_purge_granules_complete(_tenant: *mut FDBTenant, _purge_key: *const u8, _purge_key_length: c_int) -> *mut FDBFuture {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// Needs blob granules.
    fn fdb_tenant_blobbify_range(_tenant: *mut FDBTenant, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int) -> *mut FDBFuture {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// Needs blob granules.
    fn fdb_tenant_blobbify_range_blocking(_tenant: *mut FDBTenant, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int) -> *mut FDBFuture {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// Needs blob granules.
    fn fdb_tenant_unblobbify_range(_tenant: *mut FDBTenant, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int) -> *mut FDBFuture {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// Needs blob granules.
    fn fdb_tenant_list_blobbified_ranges(_tenant: *mut FDBTenant, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int, _limit: c_int) -> *mut FDBFuture {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// Needs blob granules.
    fn fdb_tenant_verify_blob_range(_tenant: *mut FDBTenant, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int, _version: i64) -> *mut FDBFuture {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// Needs blob granules.
    fn fdb_tenant_flush_blob_range(_tenant: *mut FDBTenant, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int, _compact: FDBBool, _version: i64) -> *mut FDBFuture {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// Needs blob granules.
    fn fdb_transaction_get_blob_granule_ranges(_tr: *mut FDBTransaction, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int, _limit: c_int) -> *mut FDBFuture {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// Needs blob granules.
    fn fdb_transaction_summarize_blob_granules(_tr: *mut FDBTransaction, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int, _version: i64, _limit: c_int) -> *mut FDBFuture {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// Needs blob granules.
    fn fdb_transaction_read_blob_granules_description(_tr: *mut FDBTransaction, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int, _begin_version: i64, _read_version: i64, _read_version_out: *mut i64) -> *mut FDBFuture {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// Needs blob granules.
    fn fdb_transaction_read_blob_granules(_tr: *mut FDBTransaction, _begin_key: *const u8, _begin_length: c_int, _end_key: *const u8, _end_length: c_int, _begin_version: i64, _read_version: i64, _context: FDBReadBlobGranuleContext) -> *mut FDBResult {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// Needs blob granules.
    fn fdb_readbg_parse_snapshot_file(_data: *const u8, _length: c_int, _tenant_prefix: *const c_void, _encryption: *const c_void) -> *mut FDBResult {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// Needs blob granules.
    fn fdb_readbg_parse_delta_file(_data: *const u8, _length: c_int, _tenant_prefix: *const c_void, _encryption: *const c_void) -> *mut FDBResult {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// The result of a future that answers key ranges: no future here does.
    fn fdb_future_get_keyrange_array(f: *mut FDBFuture, _out_ranges: *mut *const FDBKeyRange, _out_count: *mut c_int) -> FDBError {
        future(f)?.result()?;
        wrong_kind()
    }

    /// The result of a future that answers granule summaries: no future here does.
    fn fdb_future_get_granule_summary_array(f: *mut FDBFuture, _out_summaries: *mut *const c_void, _out_count: *mut c_int) -> FDBError {
        future(f)?.result()?;
        wrong_kind()
    }

    /// The result of a future that answers file descriptions: no future here does.
    fn fdb_future_readbg_get_descriptions(f: *mut FDBFuture, _out: *mut *mut c_void, _out_count: *mut c_int) -> FDBError {
        future(f)?.result()?;
        wrong_kind()
    }

    /// Destroys a result.
    fn fdb_result_destroy(r: *mut FDBResult) -> () {
        if !r.is_null() {
            drop(Box::from_raw(r.cast::<Error>()));
        }
        Ok(())
    }

    /// The rows of a result: every result here is an error.
    fn fdb_result_get_keyvalue_array(r: *mut FDBResult, _out_kv: *mut *const FDBKeyValue, _out_count: *mut c_int, _out_more: *mut FDBBool) -> FDBError {
        Err(result_error(r))
    }

    /// The mutations of a result: every result here is an error.
    fn fdb_result_get_bg_mutations_array(r: *mut FDBResult, _out_mutations: *mut *const c_void, _out_count: *mut c_int) -> FDBError {
        Err(result_error(r))
    }

    /// Seconds the transaction was throttled by its tags: none.
    fn fdb_transaction_get_tag_throttled_duration(tr: *mut FDBTransaction) -> *mut FDBFuture {
        Ok(into_c(transaction(tr)?.get_tag_throttled_duration()))
    }

    /// The cost of the transaction as tag throttling counts it.
    fn fdb_transaction_get_total_cost(tr: *mut FDBTransaction) -> *mut FDBFuture {
        Ok(into_c(transaction(tr)?.get_total_cost()))
    }

    // ---- functions of API versions before 730

    /// Before 620: the result of a future that answers a version.
    fn fdb_future_get_version(f: *mut FDBFuture, out_version: *mut i64) -> FDBError {
        match future(f)?.result()? {
            Output::Int64(version) => put(out_version, *version).map(|()| 0),
            _ => wrong_kind(),
        }
    }

    /// Before 610: a future of a cluster, by its file.
    fn fdb_create_cluster(cluster_file_path: *const c_char) -> *mut FDBFuture {
        check_api_version()?;
        let path = text(cluster_file_path)?;
        Ok(into_c(Future::ready(Ok(Output::Cluster(path)))))
    }

    /// Before 610: the cluster of a future.
    fn fdb_future_get_cluster(f: *mut FDBFuture, out_cluster: *mut *mut FDBCluster) -> FDBError {
        match future(f)?.result()? {
            Output::Cluster(path) => {
                let out_cluster = place(out_cluster)?;
                let cluster = Arc::into_raw(Arc::new(path.clone()));
                put(out_cluster, cluster.cast_mut().cast()).map(|()| 0)
            }
            _ => wrong_kind(),
        }
    }

    /// Before 610: sets an option of a cluster; there are none.
    fn fdb_cluster_set_option(_c: *mut FDBCluster, _option: c_int, _value: *const u8, _value_length: c_int) -> FDBError {
        Err(Error::INVALID_OPTION)
    }

    /// Before 610: a future of a cluster's only database, called `DB`.
    fn fdb_cluster_create_database(c: *mut FDBCluster, name: *const u8, name_length: c_int) -> *mut FDBFuture {
        if bytes(name, name_length)? != b"DB" {
            return Err(Error::INVALID_DATABASE_NAME);
        }
        let path: Arc<String> = borrow(c.cast())?;
        Ok(into_c(Future::ready(Ok(Output::Database(path.to_string())))))
    }

    /// Before 610: the database of a future.
    fn fdb_future_get_database(f: *mut FDBFuture, out_database: *mut *mut FDBDatabase) -> FDBError {
        match future(f)?.result()? {
            Output::Database(path) => {
                let out_database = place(out_database)?;
                put(out_database, open_database(path.clone())?).map(|()| 0)
            }
            _ => wrong_kind(),
        }
    }

    /// Before 610: destroys a cluster.
    fn fdb_cluster_destroy(c: *mut FDBCluster) -> () {
        if !c.is_null() {
            drop(Arc::from_raw(c.cast::<String>().cast_const()));
        }
        Ok(())
    }
}
