//! Options of the network, of databases and of transactions.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Error, Result};

/// A transaction's settings; `reset` restores the defaults.
#[derive(Clone, Debug)]
pub(crate) struct TransactionOptions {
    pub(crate) read_your_writes_disabled: bool,
    /// Snapshot reads see the transaction's writes while this is positive.
    pub(crate) snapshot_read_your_writes: i32,
    pub(crate) next_write_no_conflict: bool,
    pub(crate) read_system_keys: bool,
    pub(crate) write_system_keys: bool,
    pub(crate) raw_access: bool,
    pub(crate) timeout_ms: i64,
    pub(crate) retry_limit: i64,
    pub(crate) max_retry_delay_ms: i64,
    pub(crate) size_limit: usize,
    pub(crate) causal_write_risky: bool,
    pub(crate) read_only: bool,
    pub(crate) lock_aware: bool,
    pub(crate) used_during_commit_allowed: bool,
    pub(crate) bypass_unreadable: bool,
    pub(crate) include_port: bool,
    pub(crate) report_conflicting_keys: bool,
    pub(crate) special_keys_relaxed: bool,
    pub(crate) special_keys_writable: bool,
    pub(crate) identifier: Option<Vec<u8>>,
    pub(crate) tags: Vec<Vec<u8>>,
}

/// The largest transaction, in bytes of keys, values and conflict ranges.
pub(crate) const TRANSACTION_SIZE_LIMIT: i64 = 10_000_000;

impl TransactionOptions {
    pub(crate) fn new(snapshot_read_your_writes: i32) -> Self {
        TransactionOptions {
            read_your_writes_disabled: false,
            snapshot_read_your_writes,
            next_write_no_conflict: false,
            read_system_keys: false,
            write_system_keys: false,
            raw_access: false,
            timeout_ms: 0,
            retry_limit: -1,
            max_retry_delay_ms: 1_000,
            size_limit: TRANSACTION_SIZE_LIMIT as usize,
            causal_write_risky: false,
            read_only: false,
            lock_aware: false,
            used_during_commit_allowed: false,
            bypass_unreadable: false,
            include_port: false,
            report_conflicting_keys: false,
            special_keys_relaxed: false,
            special_keys_writable: false,
            identifier: None,
            tags: Vec::new(),
        }
    }
}

/// Settings that database options give to every later transaction.
#[derive(Clone, Debug)]
pub(crate) struct TransactionDefaults {
    pub(crate) options: Vec<(i32, Option<Vec<u8>>)>,
    pub(crate) snapshot_read_your_writes: i32,
}

impl Default for TransactionDefaults {
    fn default() -> Self {
        TransactionDefaults {
            options: Vec::new(),
            snapshot_read_your_writes: 1,
        }
    }
}

/// The codes of `FDBTransactionOption` that have an effect here.
pub(crate) mod transaction {
    pub(crate) const CAUSAL_WRITE_RISKY: i32 = 10;
    pub(crate) const INCLUDE_PORT_IN_ADDRESS: i32 = 23;
    pub(crate) const NEXT_WRITE_NO_WRITE_CONFLICT_RANGE: i32 = 30;
    pub(crate) const READ_YOUR_WRITES_DISABLE: i32 = 51;
    pub(crate) const INITIALIZE_NEW_DATABASE: i32 = 300;
    pub(crate) const ACCESS_SYSTEM_KEYS: i32 = 301;
    pub(crate) const READ_SYSTEM_KEYS: i32 = 302;
    pub(crate) const RAW_ACCESS: i32 = 303;
    pub(crate) const TRANSACTION_LOGGING_ENABLE: i32 = 402;
    pub(crate) const DEBUG_TRANSACTION_IDENTIFIER: i32 = 403;
    pub(crate) const LOG_TRANSACTION: i32 = 404;
    pub(crate) const TRANSACTION_LOGGING_MAX_FIELD_LENGTH: i32 = 405;
    pub(crate) const TIMEOUT: i32 = 500;
    pub(crate) const RETRY_LIMIT: i32 = 501;
    pub(crate) const MAX_RETRY_DELAY: i32 = 502;
    pub(crate) const SIZE_LIMIT: i32 = 503;
    pub(crate) const IDEMPOTENCY_ID: i32 = 504;
    pub(crate) const AUTOMATIC_IDEMPOTENCY: i32 = 505;
    pub(crate) const SNAPSHOT_RYW_ENABLE: i32 = 600;
    pub(crate) const SNAPSHOT_RYW_DISABLE: i32 = 601;
    pub(crate) const LOCK_AWARE: i32 = 700;
    pub(crate) const USED_DURING_COMMIT_PROTECTION_DISABLE: i32 = 701;
    pub(crate) const READ_LOCK_AWARE: i32 = 702;
    pub(crate) const USE_PROVISIONAL_PROXIES: i32 = 711;
    pub(crate) const REPORT_CONFLICTING_KEYS: i32 = 712;
    pub(crate) const SPECIAL_KEY_SPACE_RELAXED: i32 = 713;
    pub(crate) const SPECIAL_KEY_SPACE_ENABLE_WRITES: i32 = 714;
    pub(crate) const TAG: i32 = 800;
    pub(crate) const AUTO_THROTTLE_TAG: i32 = 801;
    pub(crate) const SPAN_PARENT: i32 = 900;
    pub(crate) const BYPASS_UNREADABLE: i32 = 1100;
    pub(crate) const USE_GRV_CACHE: i32 = 1101;

    /// Options without a value that only matter to a cluster: checked, but without effect.
    pub(crate) const FLAGS_FOR_A_CLUSTER: &[i32] =
        &[20, 40, 50, 52, 200, 201, 400, 406, 710, 1000, 1102];
    /// Options whose value a cluster ignores, too.
    pub(crate) const IGNORED: &[i32] =
        &[21, 110, 120, 130, 304, 401, 507, 508, 509, 510, 511, 2000];

    /// Whether the code names an option of API version 730.
    pub(crate) fn exists(code: i32) -> bool {
        FLAGS_FOR_A_CLUSTER.contains(&code)
            || IGNORED.contains(&code)
            || matches!(code, 10 | 23 | 30 | 51 | 300..=303 | 402..=405 | 500..=505 | 600 | 601)
            || matches!(code, 700..=702 | 711..=714 | 800 | 801 | 900 | 1100 | 1101)
    }

    /// Whether the option survives the `reset` of a retry.
    pub(crate) fn is_persistent(code: i32) -> bool {
        matches!(code, TIMEOUT | RETRY_LIMIT | MAX_RETRY_DELAY | 2000)
    }
}

/// The value of an option that takes none: absent or empty.
pub(crate) fn no_value(value: Option<&[u8]>) -> Result<()> {
    match value {
        Some(value) if !value.is_empty() => Err(Error::INVALID_OPTION_VALUE),
        _ => Ok(()),
    }
}

/// The value of an option that requires one.
pub(crate) fn some_value(value: Option<&[u8]>) -> Result<&[u8]> {
    value.ok_or(Error::INVALID_OPTION_VALUE)
}

/// The value of an integer option: eight bytes, little-endian, within bounds.
pub(crate) fn integer(value: Option<&[u8]>, min: i64, max: i64) -> Result<i64> {
    let bytes: [u8; 8] = some_value(value)?
        .try_into()
        .map_err(|_| Error::INVALID_OPTION_VALUE)?;
    let value = i64::from_le_bytes(bytes);
    if (min..=max).contains(&value) {
        Ok(value)
    } else {
        Err(Error::INVALID_OPTION_VALUE)
    }
}

/// The effect of a database option.
pub(crate) enum DatabaseChange {
    Nothing,
    MaxWatches(u64),
    SnapshotReadYourWrites(i32),
    TransactionDefault(i32),
}

/// Whether the code names a database option.
pub(crate) fn is_of_database(code: i32) -> bool {
    matches!(code, 10 | 20..=22 | 26 | 27 | 405 | 500..=506 | 700..=702 | 800 | 900)
}

/// Decodes a database option.
pub(crate) fn database(code: i32, value: Option<&[u8]>) -> Result<DatabaseChange> {
    const MAX: i64 = i32::MAX as i64;
    Ok(match code {
        10 => {
            integer(value, 0, MAX)?;
            DatabaseChange::Nothing
        }
        20 => DatabaseChange::MaxWatches(integer(value, 0, 1_000_000)?.unsigned_abs()),
        21 | 22 => DatabaseChange::Nothing,
        26 => {
            no_value(value)?;
            DatabaseChange::SnapshotReadYourWrites(1)
        }
        27 => {
            no_value(value)?;
            DatabaseChange::SnapshotReadYourWrites(-1)
        }
        405 => {
            DatabaseChange::TransactionDefault(transaction::TRANSACTION_LOGGING_MAX_FIELD_LENGTH)
        }
        500 => DatabaseChange::TransactionDefault(transaction::TIMEOUT),
        501 => DatabaseChange::TransactionDefault(transaction::RETRY_LIMIT),
        502 => DatabaseChange::TransactionDefault(transaction::MAX_RETRY_DELAY),
        503 => DatabaseChange::TransactionDefault(transaction::SIZE_LIMIT),
        504 => DatabaseChange::TransactionDefault(20),
        505 => DatabaseChange::TransactionDefault(23),
        506 => DatabaseChange::TransactionDefault(transaction::AUTOMATIC_IDEMPOTENCY),
        700 => DatabaseChange::TransactionDefault(transaction::BYPASS_UNREADABLE),
        701 => {
            DatabaseChange::TransactionDefault(transaction::USED_DURING_COMMIT_PROTECTION_DISABLE)
        }
        702 => DatabaseChange::TransactionDefault(transaction::REPORT_CONFLICTING_KEYS),
        800 => {
            no_value(value)?;
            DatabaseChange::Nothing
        }
        900 => {
            integer(value, 0, 100)?;
            DatabaseChange::Nothing
        }
        _ => return Err(Error::INVALID_OPTION),
    })
}

/// Checks a network option. Without a network it has no effect, but mistakes are reported.
///
/// Once the network is set up, it is too late for options that decide which clients are loaded. A
/// wrong value is reported before that.
pub(crate) fn network(code: i32, value: Option<&[u8]>, set_up: bool) -> Result<()> {
    network_value(code, value, set_up)?;
    if set_up && matches!(code, 60..=66) {
        return Err(Error::INVALID_OPTION);
    }
    Ok(())
}

fn network_value(code: i32, value: Option<&[u8]>, set_up: bool) -> Result<()> {
    match code {
        // An obsolete address and cluster file; the directory of traces, whose existence is not
        // checked; their group; and switches whose value a client ignores.
        10 | 20 | 30 | 33 | 38 | 48..=51 | 80 | 81 | 1001 => Ok(()),
        // Other clients beside this one, and their settings.
        72 if set_up => Err(Error::INTERNAL_ERROR),
        72 => Ok(()),
        1000 if !set_up || value.is_none() => Err(Error::INTERNAL_ERROR),
        31 | 32 => integer(value, 0, i64::MAX).map(|_| ()),
        34 => one_of(value, &["xml", "json"]),
        35 => one_of(value, &["now", "realtime"]),
        36 => {
            let name = some_value(value)?;
            let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
            valid(name.len() <= 50 && name.iter().all(is_word))
        }
        39 | 41..=43 | 45..=47 | 52..=54 | 1000 => some_value(value).map(|_| ()),
        40 => valid(some_value(value)?.contains(&b'=')),
        82 | 83 => integer(value, 0, 100).map(|_| ()),
        62 | 66 => {
            // A client ends the path at the first zero; an empty path means the working directory.
            let given = path(value)?.as_os_str().as_bytes();
            let name = given.split(|byte| *byte == 0).next().unwrap_or_default();
            let exists = name.is_empty() || Path::new(OsStr::from_bytes(name)).exists();
            exists.then_some(()).ok_or(Error::FILE_NOT_FOUND)
        }
        63 | 91 => path(value).map(|_| ()),
        65 => integer(value, 1, 1024).map(|_| ()),
        90 => {
            let tracers = [
                "none",
                "disabled",
                "logfile",
                "file",
                "log_file",
                "network_lossy",
            ];
            let given = some_value(value)?;
            valid(tracers.iter().any(|tracer| tracer.as_bytes() == given))
        }
        1002 => integer(value, 0, i64::MAX).map(|_| ()),
        37 | 60 | 61 | 64 | 67..=71 => no_value(value),
        _ => Err(Error::INVALID_OPTION),
    }
}

fn valid(condition: bool) -> Result<()> {
    condition.then_some(()).ok_or(Error::INVALID_OPTION_VALUE)
}

/// One of a few words, in any case.
fn one_of(value: Option<&[u8]>, words: &[&str]) -> Result<()> {
    let value = some_value(value)?;
    valid(
        words
            .iter()
            .any(|word| value.eq_ignore_ascii_case(word.as_bytes())),
    )
}

/// A path, which is not empty.
fn path(value: Option<&[u8]>) -> Result<&Path> {
    let bytes = some_value(value)?;
    valid(!bytes.is_empty())?;
    Ok(Path::new(OsStr::from_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_network_options_are_what_a_client_takes() {
        let seven = 7i64.to_le_bytes();
        let taken: &[(i32, Option<&[u8]>)] = &[
            (20, None),
            (30, None),
            (30, Some(b"/no/such/directory")),
            (31, Some(&seven)),
            (33, None),
            (34, Some(b"JSON")),
            (35, Some(b"realtime")),
            (36, Some(b"")),
            (36, Some(b"a_1")),
            (38, Some(b"x")),
            (40, Some(b"no_such_knob=1")),
            (63, Some(b"/tmp")),
            (67, Some(b"")),
            (50, Some(&101i64.to_le_bytes())),
            (62, Some(&[0])),
            (72, Some(b"x")),
            (90, Some(b"none")),
        ];
        for (code, value) in taken {
            assert_eq!(network(*code, *value, false), Ok(()), "{code} {value:?}");
        }
        let long = [b'a'; 51];
        let refused: &[(i32, Option<&[u8]>)] = &[
            (31, None),
            (31, Some(&(-1i64).to_le_bytes())),
            (31, Some(b"7")),
            (34, None),
            (34, Some(b"yaml")),
            (35, Some(b"later")),
            (36, None),
            (36, Some(b"a-1")),
            (36, Some(&long)),
            (40, Some(b"knob")),
            (53, None),
            (62, Some(b"")),
            (65, Some(&0i64.to_le_bytes())),
            (67, Some(b"x")),
            (90, Some(b"nowhere")),
            (91, None),
        ];
        let error = Err(Error::INVALID_OPTION_VALUE);
        for (code, value) in refused {
            assert_eq!(network(*code, *value, false), error, "{code} {value:?}");
        }
        assert_eq!(
            network(62, Some(b"/no/such/library.so"), false),
            Err(Error::FILE_NOT_FOUND)
        );
        assert_eq!(network(44, None, false), Err(Error::INVALID_OPTION));
        assert_eq!(network(61, None, false), Ok(()));
        assert_eq!(network(61, None, true), Err(Error::INVALID_OPTION));
        assert_eq!(network(61, Some(b"x"), true), error);
        assert_eq!(network(65, Some(&seven), true), Err(Error::INVALID_OPTION));
        assert_eq!(network(72, None, true), Err(Error::INTERNAL_ERROR));
        assert_eq!(network(1000, Some(b"x"), false), Err(Error::INTERNAL_ERROR));
        assert_eq!(network(1000, Some(b"x"), true), Ok(()));
    }
}
