//! `foundationdb-sys` for test programs that do not call [`bind`]: a constructor calls it before `main`.
//!
//! Applications choose their database themselves; this is for the published crate's own tests, which
//! were written for a client library that is linked.

pub use bindings::*;

/// Run by the system's loader, like the initializers of a linked client library.
#[used]
#[cfg_attr(not(target_os = "macos"), link_section = ".init_array")]
#[cfg_attr(target_os = "macos", link_section = "__DATA,__mod_init_func")]
static BIND: extern "C" fn() = {
    extern "C" fn bind_embedded() {
        if let Err(error) = bind(&Library::Embedded) {
            eprintln!("{error}");
            std::process::abort();
        }
    }
    bind_embedded
};
