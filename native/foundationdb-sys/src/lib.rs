//! The FoundationDB C API (version 730), bound at run time.
//!
//! This crate replaces the published `foundationdb-sys` by `[patch.crates-io]`. It has the items that the
//! `foundationdb` crate uses, but links nothing. Before the first call, [`bind`] resolves every function
//! once, either from the embedded engine or from the machine's `libfdb_c`, and each `fdb_*` function of
//! this crate forwards to the resolved one. So building needs neither libclang nor libfdb_c, and one
//! binary serves both.
//!
//! ```
//! use foundationdb_sys::{bind, fdb_get_max_api_version, Library, FDB_API_VERSION};
//!
//! bind(&Library::Embedded)?;
//! // SAFETY: takes no pointers.
//! assert!(unsafe { fdb_get_max_api_version() } >= FDB_API_VERSION as i32);
//! # Ok::<(), foundationdb_sys::BindError>(())
//! ```

#![allow(non_camel_case_types, non_snake_case, non_upper_case_globals)]

mod bind;
mod functions;
// FoundationDB's fdb.options documents the numbers.
#[allow(missing_docs)]
mod options;
mod types;
mod versions;

pub use bind::{bind, bound, check_library, BindError, Library, DEFAULT_FILE};
pub use functions::*;
pub use options::*;
pub use types::*;

/// The C API version that this crate declares, as a number for `fdb_select_api_version_impl`.
pub const FDB_API_VERSION: u32 = 730;
