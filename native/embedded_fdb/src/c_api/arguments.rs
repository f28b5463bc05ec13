//! Arguments and results of C functions: handles, bytes, out pointers.

use std::ffi::{c_char, c_int, CStr};
use std::sync::Arc;

#[cfg(feature = "management")]
use crate::c_types::FDBTenant;
use crate::c_types::{FDBBool, FDBDatabase, FDBFuture, FDBTransaction};
use crate::database::Handle;
use crate::error::{Error, Result};
use crate::future::Future;
use crate::keys::{clamp_boundary, Key, KeySelector, Limits};
#[cfg(feature = "management")]
use crate::tenants::Tenant;
use crate::transaction::Transaction;

pub(crate) fn into_c(future: Arc<Future>) -> *mut FDBFuture {
    Arc::into_raw(future).cast_mut().cast()
}

/// The future behind a pointer, which stays owned by the client.
///
/// # Safety
///
/// `pointer` is null or was made by [`into_c`] and not destroyed.
pub(crate) unsafe fn future(pointer: *mut FDBFuture) -> Result<Arc<Future>> {
    // SAFETY: passed on to the caller.
    unsafe { borrow(pointer.cast()) }
}

/// Another reference to the object behind a client's pointer.
///
/// # Safety
///
/// `pointer` is null or came from `Arc::<T>::into_raw` and was not dropped.
pub(crate) unsafe fn borrow<T>(pointer: *const T) -> Result<Arc<T>> {
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
pub(crate) unsafe fn transaction(pointer: *mut FDBTransaction) -> Result<Arc<Transaction>> {
    // SAFETY: passed on to the caller.
    unsafe { borrow(pointer.cast()) }
}

/// # Safety
///
/// As [`borrow`].
pub(crate) unsafe fn database(pointer: *mut FDBDatabase) -> Result<Arc<Handle>> {
    // SAFETY: passed on to the caller.
    unsafe { borrow(pointer.cast()) }
}

/// # Safety
///
/// As [`borrow`].
#[cfg(feature = "management")]
pub(crate) unsafe fn tenant(pointer: *mut FDBTenant) -> Result<Arc<Tenant>> {
    // SAFETY: passed on to the caller.
    unsafe { borrow(pointer.cast()) }
}

/// # Safety
///
/// `pointer` is null or points to `length` bytes.
pub(crate) unsafe fn bytes<'a>(pointer: *const u8, length: c_int) -> Result<&'a [u8]> {
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
pub(crate) unsafe fn key(pointer: *const u8, length: c_int) -> Result<Key> {
    // SAFETY: passed on to the caller.
    unsafe { bytes(pointer, length) }.map(Key::from)
}

/// The value of an option: absent where the pointer is null.
///
/// # Safety
///
/// As [`bytes`].
pub(crate) unsafe fn option_value<'a>(
    pointer: *const u8,
    length: c_int,
) -> Result<Option<&'a [u8]>> {
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
pub(crate) unsafe fn selector(
    pointer: *const u8,
    length: c_int,
    or_equal: FDBBool,
    offset: c_int,
) -> Result<KeySelector> {
    // SAFETY: passed on to the caller.
    let key = unsafe { bytes(pointer, length) }?;
    Ok(KeySelector {
        key: clamp_boundary(key).into(),
        or_equal: or_equal != 0,
        offset,
    })
}

/// Writes a result to an out pointer.
///
/// # Safety
///
/// `out` is null or may be written to.
pub(crate) unsafe fn put<T>(out: *mut T, value: T) -> Result<()> {
    if out.is_null() {
        return Err(Error::CLIENT_INVALID_OPERATION);
    }
    // SAFETY: by the contract above; packed structs in C need not be aligned.
    unsafe { out.write_unaligned(value) };
    Ok(())
}

/// Checks an out pointer for a handle before the handle is made, so that no handle is leaked.
pub(crate) fn place<T>(out: *mut *mut T) -> Result<*mut *mut T> {
    if out.is_null() {
        return Err(Error::CLIENT_INVALID_OPERATION);
    }
    Ok(out)
}

/// # Safety
///
/// `path` is null or a C string.
pub(crate) unsafe fn text(path: *const c_char) -> Result<String> {
    if path.is_null() {
        return Ok(String::new());
    }
    // SAFETY: by the contract above.
    let path = unsafe { CStr::from_ptr(path) };
    Ok(path.to_string_lossy().into_owned())
}

pub(crate) fn count(length: usize) -> c_int {
    c_int::try_from(length).unwrap_or(c_int::MAX)
}

/// The limits of a range read from the arguments of the C function.
pub(crate) fn limits(rows: c_int, bytes: c_int, mode: c_int, iteration: c_int) -> Result<Limits> {
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
    // The read itself reports limits below zero.
    let limit = |value: c_int| usize::try_from(value).ok().filter(|&value| value > 0);
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
    let valid = rows >= -1 && bytes >= -1;
    let bytes = match (limit(bytes), of_mode) {
        (Some(bytes), Some(of_mode)) => Some(bytes.min(of_mode)),
        (bytes, of_mode) => bytes.or(of_mode),
    };
    Ok(Limits {
        valid,
        ..Limits::new(limit(rows), bytes)
    })
}

/// The error for a future whose result has a different type than the one asked for.
pub(crate) fn wrong_kind<T>() -> Result<T> {
    Err(Error::CLIENT_INVALID_OPERATION)
}
