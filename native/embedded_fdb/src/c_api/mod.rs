//! The functions of `fdb_c.h`.
//!
//! Each follows the contract of the C header: handles come from this library and are not used after
//! they were destroyed, pointers and lengths describe readable memory, and out pointers writable
//! memory. Where C code can detect that a caller broke the contract (a null handle, a negative
//! length), the result is `client_invalid_operation` (2000). A panic of this library becomes
//! `internal_error` (4100).

use std::ffi::{c_char, c_double, c_int, c_void};
use std::panic::{catch_unwind, AssertUnwindSafe};

use crate::c_types::{FDBFuture, FDBResult};
use crate::error::{describe, Error, Result};
use crate::future::Future;

/// The value that a function returns when it fails.
pub(crate) trait Failure {
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
        arguments::into_c(Future::ready(Err(error)))
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

/// Runs the body of a C function, and converts errors and panics to the function's return value.
pub(crate) fn guard<T: Failure>(body: impl FnOnce() -> Result<T>) -> T {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => T::failure(error),
        Err(_) => T::failure(Error::INTERNAL_ERROR),
    }
}

/// Defines the C functions of a module, its part of [`symbol`], and a macro that calls another macro with
/// their signatures.
macro_rules! c_functions {
    ($for_each:ident; $($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),*) -> $ret:ty $body:block)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            ///
            /// See this function in `fdb_c.h`.
            #[allow(clippy::too_many_arguments, clippy::missing_safety_doc)]
            pub unsafe extern "C" fn $name($($arg: $type),*) -> $ret {
                // SAFETY: the caller keeps the contract of `fdb_c.h`; see the module's docs.
                #[allow(unused_unsafe)]
                $crate::c_api::guard(move || -> $crate::error::Result<$ret> { unsafe { $body } })
            }
        )*

        pub(crate) fn symbol(name: &str) -> Option<*const ::std::ffi::c_void> {
            match name {
                $(stringify!($name) => Some($name as *const ::std::ffi::c_void),)*
                _ => None,
            }
        }

        #[doc(hidden)]
        #[macro_export]
        macro_rules! $for_each {
            ($callback:ident) => {
                $callback! { $(fn $name($($arg: $type),*) -> $ret;)* }
            };
        }
    };
}

#[cfg(any(feature = "management", feature = "old-api"))]
pub(crate) use c_functions;

pub(crate) mod arguments;
pub(crate) mod database;
mod future;
pub(crate) mod network;
#[cfg(not(feature = "management"))]
mod no_tenants;
mod transaction;
mod unsupported;

#[cfg(feature = "old-api")]
use crate::old_api::functions as old_api;
#[cfg(feature = "management")]
use crate::tenants::functions as tenants;
#[cfg(not(feature = "management"))]
use no_tenants as tenants;

pub use database::*;
pub use future::*;
pub use network::*;
#[cfg(feature = "old-api")]
pub use old_api::*;
pub use tenants::*;
pub use transaction::*;
pub use unsupported::*;

/// The address of a C function of this library by its name, as `dlsym` would give it.
///
/// ```
/// assert!(embedded_fdb::symbol("fdb_create_database").is_some());
/// assert!(embedded_fdb::symbol("fdb_no_such_function").is_none());
/// ```
pub fn symbol(name: &str) -> Option<*const c_void> {
    let modules = [
        database::symbol,
        future::symbol,
        network::symbol,
        #[cfg(feature = "old-api")]
        old_api::symbol,
        tenants::symbol,
        transaction::symbol,
        unsupported::symbol,
    ];
    modules.iter().find_map(|symbol| symbol(name))
}

/// Calls a macro with the signatures of all C functions, once per subject.
#[cfg(all(feature = "old-api", feature = "management"))]
#[macro_export]
macro_rules! for_each_c_function {
    ($callback:ident) => {
        $crate::for_each_database_function!($callback);
        $crate::for_each_future_function!($callback);
        $crate::for_each_legacy_function!($callback);
        $crate::for_each_network_function!($callback);
        $crate::for_each_tenant_function!($callback);
        $crate::for_each_transaction_function!($callback);
        $crate::for_each_unsupported_function!($callback);
    };
}
