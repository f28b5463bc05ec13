//! The options of a transaction.

use super::*;

/// The API version from which on several clients share cached read versions.
const GRV_CACHE_IS_SHARED_SINCE: i32 = 720;
/// The part of a protocol version that is compared; the rest is flags.
const PROTOCOL_VERSION: u64 = 0x0fff_ffff_ffff_ffff;
/// The protocol versions that a 7.3 client can read.
const PROTOCOL_VERSIONS: std::ops::Range<u64> = 0x0fdb_00a2_0006_0001..0x0fdb_00b0_7500_0000;

impl Transaction {
    /// `fdb_transaction_set_option`: only an unknown code is an error at once.
    pub(crate) fn set_option(self: &Arc<Self>, code: i32, value: Option<&[u8]>) -> Result<()> {
        if !option::exists(code) {
            return Err(Error::INVALID_OPTION);
        }
        self.write(|inner| {
            // An expired timeout stays expired, whatever is set now.
            inner.check_timeout();
            self.apply_option(inner, code, value)?;
            if option::is_persistent(code) {
                inner.persistent.push((code, value.map(<[u8]>::to_vec)));
            }
            if code == option::TIMEOUT {
                // It counts from the beginning of the transaction, and may have expired already.
                inner.check_timeout();
                if !inner.pending.is_empty() || !inner.stamp_futures.is_empty() {
                    self.set_timer(inner);
                }
            }
            Ok(())
        });
        Ok(())
    }

    pub(super) fn apply_option(
        &self,
        inner: &mut Inner,
        code: i32,
        value: Option<&[u8]>,
    ) -> Result<()> {
        let cluster_wide = matches!(
            code,
            option::ACCESS_SYSTEM_KEYS
                | option::READ_SYSTEM_KEYS
                | option::RAW_ACCESS
                | option::USE_PROVISIONAL_PROXIES
        );
        if cluster_wide && self.tenant.is_some() {
            return Err(Error::INVALID_OPTION);
        }
        match code {
            option::READ_YOUR_WRITES_DISABLE => {
                options::no_value(value)?;
                if inner.has_read || !inner.writes.is_empty() {
                    return Err(Error::CLIENT_INVALID_OPERATION);
                }
                inner.options.read_your_writes_disabled = true;
                Ok(())
            }
            option::INITIALIZE_NEW_DATABASE => {
                options::no_value(value)?;
                if inner.sighted.is_some() || inner.requested_version.is_some() {
                    return Err(Error::READ_VERSION_ALREADY_SET);
                }
                inner.options.causal_write_risky = true;
                inner.requested_version = Some(0);
                Ok(())
            }
            option::USE_GRV_CACHE => {
                options::no_value(value)?;
                // For that, later versions need a client that is shared with other clients.
                if self.api_version.is_at_least(GRV_CACHE_IS_SHARED_SINCE) {
                    return Err(Error::INVALID_OPTION);
                }
                Ok(())
            }
            _ if options::no_value(value).is_ok() && inner.options.set_flag(code) => Ok(()),
            _ => inner.options.set_value(code, value),
        }
    }
}

impl TransactionOptions {
    /// Sets an option without a value; false if `code` is none of these.
    fn set_flag(&mut self, code: i32) -> bool {
        match code {
            option::CAUSAL_WRITE_RISKY => self.causal_write_risky = true,
            option::NEXT_WRITE_NO_WRITE_CONFLICT_RANGE => self.next_write_no_conflict = true,
            option::ACCESS_SYSTEM_KEYS => {
                self.read_system_keys = true;
                self.write_system_keys = true;
                self.raw_access = true;
            }
            option::READ_SYSTEM_KEYS => {
                self.read_system_keys = true;
                self.raw_access = true;
            }
            option::RAW_ACCESS => self.raw_access = true,
            option::SNAPSHOT_RYW_ENABLE => self.snapshot_read_your_writes += 1,
            option::SNAPSHOT_RYW_DISABLE => self.snapshot_read_your_writes -= 1,
            option::LOCK_AWARE => {
                self.lock_aware = true;
                self.read_only = false;
            }
            option::READ_LOCK_AWARE if self.lock_aware => {}
            option::READ_LOCK_AWARE => {
                self.lock_aware = true;
                self.read_only = true;
            }
            option::USED_DURING_COMMIT_PROTECTION_DISABLE => self.used_during_commit_allowed = true,
            option::REPORT_CONFLICTING_KEYS => self.report_conflicting_keys = true,
            option::SPECIAL_KEY_SPACE_RELAXED => self.special_keys_relaxed = true,
            option::SPECIAL_KEY_SPACE_ENABLE_WRITES => self.special_keys_writable = true,
            option::BYPASS_UNREADABLE => self.bypass_unreadable = true,
            option::INCLUDE_PORT_IN_ADDRESS => self.include_port = true,
            option::AUTOMATIC_IDEMPOTENCY | option::USE_PROVISIONAL_PROXIES => {}
            code => return option::FLAGS_FOR_A_CLUSTER.contains(&code),
        }
        true
    }

    /// Sets an option with a value, or only checks it if it has no effect.
    fn set_value(&mut self, code: i32, value: Option<&[u8]>) -> Result<()> {
        const MAX: i64 = i32::MAX as i64;
        match code {
            option::TRANSACTION_LOGGING_ENABLE | option::DEBUG_TRANSACTION_IDENTIFIER => {
                self.identify(options::some_value(value)?)?;
            }
            option::LOG_TRANSACTION => {
                options::no_value(value)?;
                check(self.identifier.is_some(), Error::CLIENT_INVALID_OPERATION)?;
            }
            option::TRANSACTION_LOGGING_MAX_FIELD_LENGTH => {
                let length = options::integer(value, -1, MAX)?;
                check(length != 0, Error::INVALID_OPTION_VALUE)?;
            }
            option::TIMEOUT => self.timeout_ms = options::integer(value, 0, MAX)?,
            option::RETRY_LIMIT => self.retry_limit = options::integer(value, -1, MAX)?,
            option::MAX_RETRY_DELAY => self.max_retry_delay_ms = options::integer(value, 0, MAX)?,
            option::SIZE_LIMIT => {
                let limit = options::integer(value, 32, options::TRANSACTION_SIZE_LIMIT)?;
                self.size_limit = usize::try_from(limit).unwrap_or(usize::MAX);
            }
            option::IDEMPOTENCY_ID => {
                let length = options::some_value(value)?.len();
                check((16..256).contains(&length), Error::INVALID_OPTION)?;
            }
            option::TAG | option::AUTO_THROTTLE_TAG => self.tag(options::some_value(value)?)?,
            option::SPAN_PARENT => {
                let span = options::some_value(value)?;
                let version = span.first_chunk::<8>().filter(|_| span.len() == 33);
                let version = version.ok_or(Error::INVALID_OPTION_VALUE)?;
                let version = u64::from_le_bytes(*version) & PROTOCOL_VERSION;
                let known = PROTOCOL_VERSIONS.contains(&version);
                check(known, Error::INCOMPATIBLE_PROTOCOL_VERSION)?;
            }
            code if option::IGNORED.contains(&code) => {}
            // A flag with a value.
            _ => options::no_value(value)?,
        }
        Ok(())
    }

    fn tag(&mut self, tag: &[u8]) -> Result<()> {
        check(tag.len() <= 255, Error::TAG_TOO_LONG)?;
        check(self.tags.len() < 5, Error::TOO_MANY_TAGS)?;
        if !self.tags.iter().any(|known| known == tag) {
            self.tags.push(tag.to_vec());
        }
        Ok(())
    }

    pub(super) fn identify(&mut self, name: &[u8]) -> Result<()> {
        if name.is_empty() || name.len() > 100 {
            return Err(Error::INVALID_OPTION_VALUE);
        }
        match &self.identifier {
            Some(before) if before[..] != *name => Err(Error::CLIENT_INVALID_OPERATION),
            _ => {
                self.identifier = Some(name.to_vec());
                Ok(())
            }
        }
    }
}

/// Fails if a condition does not hold.
fn check(is_right: bool, error: Error) -> Result<()> {
    if is_right {
        Ok(())
    } else {
        Err(error)
    }
}
