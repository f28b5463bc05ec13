//! One process at a time: the lock file beside a database file.
//!
//! The operating system holds the lock and releases it when the process ends, however it ends; the
//! file's contents only identify the holder. The file stays: removing it would let two processes lock
//! two files of the same name.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

use super::OpenError;

/// The right to use a database file, held until dropped.
#[derive(Debug)]
pub(super) struct PathLock {
    _file: File,
}

/// Locks a database file for this process.
pub(super) fn take(path: &Path) -> Result<PathLock, OpenError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = Path::new(&name);
    let failed = |action| move |source| OpenError::io(action, lock_path, source);
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    let mut file = options
        .open(lock_path)
        .map_err(failed("open the lock file"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let read = file.read_to_string(&mut holder);
            let holder = match (read, holder.trim()) {
                (Ok(_), holder) if !holder.is_empty() => holder.to_owned(),
                _ => "which has not identified itself".to_owned(),
            };
            return Err(OpenError::Held {
                path: path.to_owned(),
                holder,
            });
        }
        Err(TryLockError::Error(source)) => return Err(failed("lock")(source)),
    }
    let program = std::env::current_exe();
    let program = program.map_or_else(|_| "?".into(), |program| program.display().to_string());
    // It only serves other processes' messages, so a full disk does not prevent opening.
    let _unnamed = file
        .set_len(0)
        .and_then(|()| writeln!(file, "pid {}, {program}", std::process::id()));
    Ok(PathLock { _file: file })
}
