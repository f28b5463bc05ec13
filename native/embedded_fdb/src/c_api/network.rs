//! The API version, errors, and the network.

use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicI32, Ordering};

use super::arguments::option_value;
use crate::api_version::ApiVersion;
use crate::c_types::{FDBBool, FDBError};
use crate::error::{describe, predicate, Error, Result};
use crate::{network, options};

/// The API version that the process selected; 0 before that.
static API_VERSION: AtomicI32 = AtomicI32::new(0);

/// `fdb_run_network` completion hooks.
pub type Hook = Option<unsafe extern "C" fn(*mut c_void)>;

/// The selected API version.
pub(crate) fn api_version() -> Result<ApiVersion> {
    match API_VERSION.load(Ordering::Acquire) {
        0 => Err(Error::API_VERSION_UNSET),
        version => Ok(ApiVersion::new(version)),
    }
}

/// A client's hook with its parameter.
struct CompletionHook(unsafe extern "C" fn(*mut c_void), *mut c_void);

// SAFETY: the C API requires hooks that may run on the network thread.
unsafe impl Send for CompletionHook {}

impl CompletionHook {
    fn run(self) {
        // SAFETY: the caller of `fdb_add_network_thread_completion_hook` passed a function that may be
        // called with this parameter.
        unsafe { (self.0)(self.1) };
    }
}

c_functions! {
    for_each_network_function;

    /// The description of an error code, a string that lives forever.
    fn fdb_get_error(code: FDBError) -> *const c_char {
        Ok(describe(code).as_ptr())
    }

    /// Tests a property of an error: 50000 retryable, 50001 maybe committed, 50002 retryable and not
    /// committed.
    fn fdb_error_predicate(test: c_int, code: FDBError) -> FDBBool {
        Ok(FDBBool::from(predicate(test, code)))
    }

    /// Selects the API version. Call it once, before anything else.
    fn fdb_select_api_version_impl(runtime_version: c_int, header_version: c_int) -> FDBError {
        if API_VERSION.load(Ordering::Acquire) != 0 {
            return Err(Error::API_VERSION_ALREADY_SET);
        }
        if runtime_version > header_version {
            return Err(Error::API_VERSION_INVALID);
        }
        if header_version > ApiVersion::NEWEST || runtime_version < ApiVersion::OLDEST {
            return Err(Error::API_VERSION_NOT_SUPPORTED);
        }
        let set = API_VERSION.compare_exchange(0, runtime_version, Ordering::AcqRel, Ordering::Acquire);
        set.map(|_| 0).map_err(|_| Error::API_VERSION_ALREADY_SET)
    }

    /// The newest API version that this library supports.
    fn fdb_get_max_api_version() -> c_int {
        Ok(ApiVersion::NEWEST)
    }

    /// Release, source and protocol version.
    fn fdb_get_client_version() -> *const c_char {
        Ok(c"7.3.79,embedded,fdb00b073000000".as_ptr())
    }

    /// Sets a network option. Options are checked but have no effect, because there is no network.
    fn fdb_network_set_option(option: c_int, value: *const u8, value_length: c_int) -> FDBError {
        api_version()?;
        let value = option_value(value, value_length)?;
        options::network(option, value, network::is_set_up()).map(|()| 0)
    }

    /// Prepares the network. Call it once.
    fn fdb_setup_network() -> FDBError {
        api_version()?;
        network::set_up().map(|()| 0)
    }

    /// Runs the network on the calling thread until `fdb_stop_network`.
    fn fdb_run_network() -> FDBError {
        api_version()?;
        network::run().map(|()| 0)
    }

    /// Ends `fdb_run_network`.
    fn fdb_stop_network() -> FDBError {
        api_version()?;
        network::stop().map(|()| 0)
    }

    /// Calls `hook` on the network thread before it ends.
    fn fdb_add_network_thread_completion_hook(hook: Hook, parameter: *mut c_void) -> FDBError {
        api_version()?;
        let hook = CompletionHook(hook.ok_or(Error::CLIENT_INVALID_OPERATION)?, parameter);
        network::at_end(Box::new(move || hook.run())).map(|()| 0)
    }
}
