//! Chooses the library: once per process, because the C API is global to it.

use std::ffi::c_void;
use std::fmt;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::functions::Table;
use crate::FDB_API_VERSION;

/// A function that every client library has.
const MAX_VERSION: &str = "fdb_get_max_api_version";

/// The client library's name if no path is configured.
pub const DEFAULT_FILE: &str = if cfg!(target_os = "macos") {
    "libfdb_c.dylib"
} else {
    "libfdb_c.so"
};

/// The library that serves the C API's calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Library {
    /// The engine inside this process.
    Embedded,
    /// FoundationDB's client library, which talks to a cluster: this file, or the `libfdb_c` that the
    /// system's linker finds.
    Cluster(Option<PathBuf>),
}

impl Library {
    /// The file to load; `None` is the embedded engine.
    fn file(&self) -> Option<&Path> {
        match self {
            Library::Embedded => None,
            Library::Cluster(path) => Some(path.as_deref().unwrap_or(Path::new(DEFAULT_FILE))),
        }
    }
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.file() {
            None => f.write_str("the embedded engine"),
            Some(file) => write!(f, "the client library {}", file.display()),
        }
    }
}

/// Why the C API could not be bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// The file does not exist, or is not a library that this machine can load.
    #[error(
        "can't load FoundationDB's client library {}: {reason}. Install the foundationdb-clients \
         package of FoundationDB 7.3 or newer, or set the path of your {DEFAULT_FILE}",
        file.display()
    )]
    Load {
        /// The requested file.
        file: PathBuf,
        /// The error of the system's loader.
        reason: String,
    },
    /// The library lacks one of the C API's functions.
    #[error(
        "{library} has no function {symbol}, which {DEFAULT_FILE} of FoundationDB 7.3 and newer \
         has. Install the foundationdb-clients package of FoundationDB 7.3 or newer, or set the \
         path of your {DEFAULT_FILE}"
    )]
    MissingSymbol {
        /// The function.
        symbol: &'static str,
        /// The library.
        library: Library,
    },
    /// The library is older than the API version this crate declares.
    #[error(
        "{library} supports the FoundationDB API up to version {found}, but version {wanted} is \
         needed: install the foundationdb-clients package of FoundationDB 7.3 or newer"
    )]
    ApiVersion {
        /// The requested library.
        library: Library,
        /// The highest version it supports.
        found: i32,
        /// The version needed.
        wanted: i32,
    },
    /// A different library is bound in this process.
    #[error(
        "this process already uses {bound} and can't use {wanted} as well: FoundationDB allows one \
         client per process. Give all databases the same kind, or run them in separate processes"
    )]
    AlreadyBound {
        /// The bound library.
        bound: Library,
        /// The requested library.
        wanted: Library,
    },
}

struct Bound {
    library: Library,
    table: Table,
}

static BOUND: OnceLock<Bound> = OnceLock::new();
/// Held while binding, so that if two threads bind, one loads and the other sees the result.
static BINDING: Mutex<()> = Mutex::new(());

#[inline]
pub(crate) fn table() -> Option<&'static Table> {
    BOUND.get().map(|bound| &bound.table)
}

/// The bound library, if any.
pub fn bound() -> Option<&'static Library> {
    BOUND.get().map(|bound| &bound.library)
}

/// Binds every function of the C API to `library`, for as long as the process lives. Binding the same
/// library again does nothing; after an error, a different library may be tried.
///
/// # Errors
///
/// If the library can't be loaded, lacks a function or is too old, or if a different library is bound
/// already; see [`BindError`].
///
/// ```
/// use foundationdb_sys::{bind, BindError, Library};
///
/// let missing = Library::Cluster(Some("/no/such/libfdb_c.so".into()));
/// assert!(matches!(bind(&missing), Err(BindError::Load { .. })));
/// ```
pub fn bind(library: &Library) -> Result<(), BindError> {
    let _one_at_a_time = BINDING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(bound) = BOUND.get() {
        return if bound.library.file() == library.file() {
            Ok(())
        } else {
            Err(BindError::AlreadyBound {
                bound: bound.library.clone(),
                wanted: library.clone(),
            })
        };
    }
    let table = match library.file() {
        None => resolve(library, embedded_fdb::symbol)?,
        Some(file) => {
            let loaded = load(file)?;
            resolve(library, |name| {
                // SAFETY: only the address is taken, and the library is never unloaded.
                let address = unsafe {
                    let symbol = loaded.get::<*const c_void>(name).ok()?;
                    symbol.try_as_raw_ptr()
                };
                address.map(<*mut std::ffi::c_void>::cast_const)
            })?
        }
    };
    let library = library.clone();
    BOUND.get_or_init(|| Bound { library, table });
    Ok(())
}

/// Checks that a file is a client library, of any version, that can be loaded here. It stays loaded.
///
/// # Errors
///
/// The reason as text.
///
/// ```
/// let reason = foundationdb_sys::check_library("/no/such/libfdb_c.so".as_ref()).unwrap_err();
/// assert!(reason.contains("/no/such/libfdb_c.so"));
/// ```
pub fn check_library(file: &Path) -> Result<(), String> {
    let loaded = load(file).map_err(|error| match error {
        BindError::Load { reason, .. } => reason,
        other => other.to_string(),
    })?;
    // SAFETY: the symbol is only looked up, never called.
    match unsafe { loaded.get::<*const c_void>(MAX_VERSION) } {
        Ok(_function) => Ok(()),
        Err(_missing) => Err(format!("it has no function {MAX_VERSION}")),
    }
}

/// Loads a library permanently: its threads run, and the table points into it.
fn load(file: &Path) -> Result<ManuallyDrop<libloading::Library>, BindError> {
    // SAFETY: loading runs the library's initializers. The file is FoundationDB's client library,
    // by its name or because the user configured it.
    match unsafe { libloading::Library::new(file) } {
        Ok(library) => Ok(ManuallyDrop::new(library)),
        Err(error) => Err(BindError::Load {
            file: file.to_owned(),
            reason: std::error::Error::source(&error)
                .unwrap_or(&error)
                .to_string(),
        }),
    }
}

fn resolve(
    library: &Library,
    symbol: impl Fn(&'static str) -> Option<*const c_void>,
) -> Result<Table, BindError> {
    // Checked first, because "too old" explains more than "has no function".
    let missing = |symbol| BindError::MissingSymbol {
        symbol,
        library: library.clone(),
    };
    let pointer = symbol(MAX_VERSION).ok_or_else(|| missing(MAX_VERSION))?;
    // SAFETY: the type is this function's in fdb_c.h; it may be called before any other.
    let found =
        unsafe { std::mem::transmute::<*const c_void, unsafe extern "C" fn() -> i32>(pointer)() };
    let wanted = FDB_API_VERSION as i32;
    if found < wanted {
        return Err(BindError::ApiVersion {
            library: library.clone(),
            found,
            wanted,
        });
    }
    // SAFETY: both sources return the C API's functions by name, and neither is ever unloaded.
    unsafe { Table::resolve(symbol) }.map_err(missing)
}
