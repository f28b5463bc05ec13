//! The FoundationDB C API (version 730), bound at run time.
//!
//! This crate takes the place of the published `foundationdb-sys` by `[patch.crates-io]`: it has the
//! items that the `foundationdb` crate uses, but links nothing. Before the first call, [`bind`]
//! resolves every function once, either from the embedded engine or from a `libfdb_c` of the
//! machine, and each `fdb_*` function of this crate forwards to what was found. So building needs
//! neither libclang nor libfdb_c, and one binary serves both.
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
// The numbers are documented where they come from, in FoundationDB's fdb.options.
#[allow(missing_docs)]
mod options;
mod types;
mod versions;

pub use bind::{bind, bound, check_library, BindError, Library, DEFAULT_FILE};
pub use functions::*;
pub use options::*;
pub use types::*;

/// The C API's version this crate declares, in `fdb_select_api_version_impl`'s numbers.
pub const FDB_API_VERSION: u32 = 730;
