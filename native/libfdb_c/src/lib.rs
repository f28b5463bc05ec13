//! `libfdb_c.so`: the embedded engine behind exported C symbols.
//!
//! Programs that load FoundationDB's client library can load this one instead, and have a database
//! without a server. All functions are those of [`embedded_fdb::c_api`].

#![allow(missing_docs, clippy::missing_safety_doc, clippy::too_many_arguments)]

use std::ffi::{c_char, c_double, c_int, c_void};

use embedded_fdb::c_api::{FutureCallback, Hook};
use embedded_fdb::c_types::*;

macro_rules! export {
    ($(fn $name:ident($($arg:ident: $type:ty),*) -> $ret:ty;)*) => {
        $(
            #[no_mangle]
            pub unsafe extern "C" fn $name($($arg: $type),*) -> $ret {
                // SAFETY: the same function; the caller keeps its contract.
                unsafe { embedded_fdb::c_api::$name($($arg),*) }
            }
        )*
    };
}

embedded_fdb::for_each_c_function!(export);
