//! The options of a transaction.

use super::*;

/// The API version from which on cached read versions are those of several clients.
const GRV_CACHE_IS_SHARED_SINCE: i32 = 720;
/// The part of a protocol version that is compared; the rest are flags.
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
            // A timeout that is over stays so, whatever is set now.
            inner.check_timeout();
            self.apply_option(inner, code, value)?;
            if option::is_persistent(code) {
                inner.persistent.push((code, value.map(<[u8]>::to_vec)));
            }
            if code == option::TIMEOUT {
                // It counts from the beginning of the transaction, and may be over already.
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
        const MAX: i64 = i32::MAX as i64;
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
        let fresh = !inner.has_read && inner.writes.is_empty();
        let options = &mut inner.options;
        let flag = |field: &mut bool| options::no_value(value).map(|()| *field = true);
        match code {
            option::CAUSAL_WRITE_RISKY => flag(&mut options.causal_write_risky),
            option::NEXT_WRITE_NO_WRITE_CONFLICT_RANGE => flag(&mut options.next_write_no_conflict),
            option::READ_YOUR_WRITES_DISABLE => {
                options::no_value(value)?;
                if !fresh {
                    return Err(Error::CLIENT_INVALID_OPERATION);
                }
                options.read_your_writes_disabled = true;
                Ok(())
            }
            option::INITIALIZE_NEW_DATABASE => {
                options::no_value(value)?;
                if inner.sighted.is_some() || inner.requested_version.is_some() {
                    return Err(Error::READ_VERSION_ALREADY_SET);
                }
                options.causal_write_risky = true;
                inner.requested_version = Some(0);
                Ok(())
            }
            option::ACCESS_SYSTEM_KEYS => {
                options::no_value(value)?;
                options.read_system_keys = true;
                options.write_system_keys = true;
                options.raw_access = true;
                Ok(())
            }
            option::READ_SYSTEM_KEYS => {
                options::no_value(value)?;
                options.read_system_keys = true;
                options.raw_access = true;
                Ok(())
            }
            option::RAW_ACCESS => flag(&mut options.raw_access),
            option::TRANSACTION_LOGGING_ENABLE | option::DEBUG_TRANSACTION_IDENTIFIER => {
                options.identify(options::some_value(value)?)
            }
            option::LOG_TRANSACTION => {
                options::no_value(value)?;
                let identified = options.identifier.is_some();
                identified
                    .then_some(())
                    .ok_or(Error::CLIENT_INVALID_OPERATION)
            }
            option::TRANSACTION_LOGGING_MAX_FIELD_LENGTH => {
                let length = options::integer(value, -1, MAX)?;
                (length != 0)
                    .then_some(())
                    .ok_or(Error::INVALID_OPTION_VALUE)
            }
            option::TIMEOUT => {
                options.timeout_ms = options::integer(value, 0, MAX)?;
                Ok(())
            }
            option::RETRY_LIMIT => {
                options.retry_limit = options::integer(value, -1, MAX)?;
                Ok(())
            }
            option::MAX_RETRY_DELAY => {
                options.max_retry_delay_ms = options::integer(value, 0, MAX)?;
                Ok(())
            }
            option::SIZE_LIMIT => {
                let limit = options::integer(value, 32, options::TRANSACTION_SIZE_LIMIT)?;
                options.size_limit = usize::try_from(limit).unwrap_or(usize::MAX);
                Ok(())
            }
            option::IDEMPOTENCY_ID => {
                let id = options::some_value(value)?;
                (16..256)
                    .contains(&id.len())
                    .then_some(())
                    .ok_or(Error::INVALID_OPTION)
            }
            option::SNAPSHOT_RYW_ENABLE | option::SNAPSHOT_RYW_DISABLE => {
                options::no_value(value)?;
                options.snapshot_read_your_writes += if code == option::SNAPSHOT_RYW_ENABLE {
                    1
                } else {
                    -1
                };
                Ok(())
            }
            option::LOCK_AWARE => {
                options::no_value(value)?;
                options.lock_aware = true;
                options.read_only = false;
                Ok(())
            }
            option::READ_LOCK_AWARE => {
                options::no_value(value)?;
                if !options.lock_aware {
                    options.lock_aware = true;
                    options.read_only = true;
                }
                Ok(())
            }
            option::USED_DURING_COMMIT_PROTECTION_DISABLE => {
                flag(&mut options.used_during_commit_allowed)
            }
            option::REPORT_CONFLICTING_KEYS => flag(&mut options.report_conflicting_keys),
            option::SPECIAL_KEY_SPACE_RELAXED => flag(&mut options.special_keys_relaxed),
            option::SPECIAL_KEY_SPACE_ENABLE_WRITES => flag(&mut options.special_keys_writable),
            option::TAG | option::AUTO_THROTTLE_TAG => {
                let tag = options::some_value(value)?;
                if tag.len() > 255 {
                    return Err(Error::TAG_TOO_LONG);
                }
                if options.tags.len() >= 5 {
                    return Err(Error::TOO_MANY_TAGS);
                }
                if !options.tags.iter().any(|known| known == tag) {
                    options.tags.push(tag.to_vec());
                }
                Ok(())
            }
            option::SPAN_PARENT => {
                let span = options::some_value(value)?;
                let (version, _) = span
                    .split_first_chunk::<8>()
                    .filter(|_| span.len() == 33)
                    .ok_or(Error::INVALID_OPTION_VALUE)?;
                let version = u64::from_le_bytes(*version) & PROTOCOL_VERSION;
                PROTOCOL_VERSIONS
                    .contains(&version)
                    .then_some(())
                    .ok_or(Error::INCOMPATIBLE_PROTOCOL_VERSION)
            }
            option::BYPASS_UNREADABLE => flag(&mut options.bypass_unreadable),
            option::INCLUDE_PORT_IN_ADDRESS => flag(&mut options.include_port),
            option::USE_GRV_CACHE => {
                options::no_value(value)?;
                // Later versions need a client that is shared with other clients for it.
                (!self.api_version.is_at_least(GRV_CACHE_IS_SHARED_SINCE))
                    .then_some(())
                    .ok_or(Error::INVALID_OPTION)
            }
            option::AUTOMATIC_IDEMPOTENCY | option::USE_PROVISIONAL_PROXIES => {
                options::no_value(value)
            }
            code if option::FLAGS_FOR_A_CLUSTER.contains(&code) => options::no_value(value),
            _ => Ok(()),
        }
    }
}

impl TransactionOptions {
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
