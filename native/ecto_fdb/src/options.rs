//! FoundationDB's options by their names in `fdb.options`.

use foundationdb::options::{DatabaseOption, MutationType, NetworkOption, TransactionOption};
use rustler::{Atom, Binary, Env, NifResult, Term};

use crate::tuple::expected;

/// The value that an option takes.
trait Value<'a>: Sized {
    const SHAPE: &'static str;
    fn from_term(term: Term<'a>) -> Option<Self>;
}

impl<'a> Value<'a> for i32 {
    const SHAPE: &'static str = "an integer of 32 bits";
    fn from_term(term: Term<'a>) -> Option<Self> {
        term.decode().ok()
    }
}

impl<'a> Value<'a> for String {
    const SHAPE: &'static str = "a string";
    fn from_term(term: Term<'a>) -> Option<Self> {
        term.decode().ok()
    }
}

impl<'a> Value<'a> for Vec<u8> {
    const SHAPE: &'static str = "a binary";
    fn from_term(term: Term<'a>) -> Option<Self> {
        term.decode::<Binary<'a>>()
            .ok()
            .map(|binary| binary.as_slice().to_vec())
    }
}

/// An option without a value: `true`, or `nil`. To switch it off, leave it out.
fn flag(name: &str, term: Term<'_>) -> NifResult<()> {
    match term.decode::<Option<bool>>() {
        Ok(None | Some(true)) => Ok(()),
        _ => Err(expected(
            &format!("true for the option :{name}, which is off unless given"),
            &format!("{term:?}"),
        )),
    }
}

fn value<'a, T: Value<'a>>(name: &str, term: Term<'a>) -> NifResult<T> {
    T::from_term(term).ok_or_else(|| {
        expected(
            &format!("{} for the option :{name}", T::SHAPE),
            &format!("{term:?}"),
        )
    })
}

/// A function from `(name, value)` to one of the `foundationdb` crate's option enums.
macro_rules! options {
    ($(#[$doc:meta])* $function:ident -> $type:ident ($what:literal) {
        flags { $($flag:literal => $flag_variant:ident),* $(,)? }
        values { $($option:literal => $option_variant:ident),* $(,)? }
    }) => {
        $(#[$doc])*
        pub fn $function<'a>(env: Env<'a>, name: Atom, term: Term<'a>) -> NifResult<$type> {
            let name = name_of(env, name)?;
            match name.as_str() {
                $($flag => flag($flag, term).map(|()| $type::$flag_variant),)*
                $($option => Ok($type::$option_variant(value($option, term)?)),)*
                other => Err(expected(
                    concat!("one of the ", $what, " options ", $($flag, " ",)* $($option, " ",)* "by name"),
                    other,
                )),
            }
        }
    };
}

options! {
    /// A network option, which applies to the whole client.
    network -> NetworkOption ("network") {
        flags {
            "disable_multi_version_client_api" => DisableMultiVersionClientApi,
            "callbacks_on_external_threads" => CallbacksOnExternalThreads,
            "disable_local_client" => DisableLocalClient,
            "ignore_external_client_failures" => IgnoreExternalClientFailures,
            "disable_client_statistics_logging" => DisableClientStatisticsLogging,
            "fail_incompatible_client" => FailIncompatibleClient,
            "retain_client_library_copies" => RetainClientLibraryCopies,
            "trace_initialize_on_setup" => TraceInitializeOnSetup,
            "trace_share_among_client_threads" => TraceShareAmongClientThreads,
        }
        values {
            "trace_enable" => TraceEnable,
            "trace_roll_size" => TraceRollSize,
            "trace_max_logs_size" => TraceMaxLogsSize,
            "trace_log_group" => TraceLogGroup,
            "trace_format" => TraceFormat,
            "trace_file_identifier" => TraceFileIdentifier,
            "trace_clock_source" => TraceClockSource,
            "trace_partial_file_suffix" => TracePartialFileSuffix,
            "knob" => Knob,
            "tls_cert_path" => TLSCertPath,
            "tls_key_path" => TLSKeyPath,
            "tls_ca_path" => TLSCaPath,
            "tls_cert_bytes" => TLSCertBytes,
            "tls_key_bytes" => TLSKeyBytes,
            "tls_ca_bytes" => TLSCaBytes,
            "tls_password" => TLSPassword,
            "tls_verify_peers" => TLSVerifyPeers,
            "external_client_library" => ExternalClientLibrary,
            "external_client_directory" => ExternalClientDirectory,
            "client_threads_per_version" => ClientThreadsPerVersion,
            "client_tmp_dir" => ClientTmpDir,
        }
    }
}

options! {
    /// A database option.
    database -> DatabaseOption ("database") {
        flags {}
        values {
            "max_watches" => MaxWatches,
            "transaction_timeout" => TransactionTimeout,
            "transaction_retry_limit" => TransactionRetryLimit,
        }
    }
}

options! {
    /// A transaction option.
    transaction -> TransactionOption ("transaction") {
        flags {
            "lock_aware" => LockAware,
            "priority_batch" => PriorityBatch,
            "priority_system_immediate" => PrioritySystemImmediate,
        }
        values {
            "auto_throttle_tag" => AutoThrottleTag,
        }
    }
}

/// An atomic operation by its name.
pub fn mutation(env: Env<'_>, name: Atom) -> NifResult<MutationType> {
    Ok(match name_of(env, name)?.as_str() {
        "add" => MutationType::Add,
        "bit_and" => MutationType::BitAnd,
        "bit_or" => MutationType::BitOr,
        "bit_xor" => MutationType::BitXor,
        "append_if_fits" => MutationType::AppendIfFits,
        "max" => MutationType::Max,
        "min" => MutationType::Min,
        "set_versionstamped_key" => MutationType::SetVersionstampedKey,
        "set_versionstamped_value" => MutationType::SetVersionstampedValue,
        "byte_min" => MutationType::ByteMin,
        "byte_max" => MutationType::ByteMax,
        "compare_and_clear" => MutationType::CompareAndClear,
        other => return Err(expected("the name of an atomic operation", other)),
    })
}

fn name_of(env: Env<'_>, name: Atom) -> NifResult<String> {
    name.to_term(env).atom_to_string()
}
