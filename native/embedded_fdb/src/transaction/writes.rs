//! Writes, and conflict ranges that a client adds.

use super::*;

/// The API version from which on special keys are writable.
const SPECIAL_WRITES_SINCE: i32 = 700;

impl Transaction {
    /// Runs a write. The next call that can fail returns its error, if any. After an error, later writes
    /// and options are ignored.
    pub(super) fn write(&self, f: impl FnOnce(&mut Inner) -> Result<()>) {
        self.with(|inner| {
            if inner.deferred.is_none() {
                inner.deferred = f(inner).err();
            }
        });
    }

    fn has_writable_special_keys(&self) -> bool {
        self.api_version.is_at_least(SPECIAL_WRITES_SINCE)
    }

    pub(crate) fn set(self: &Arc<Self>, key: Key, value: Value) {
        self.write(|inner| {
            if key[..] == *METADATA_VERSION {
                return Err(Error::CLIENT_INVALID_OPERATION);
            }
            if self.has_writable_special_keys() && special::is_special(&key) {
                return self.set_special(inner, &key, &value);
            }
            let conflict = !std::mem::take(&mut inner.options.next_write_no_conflict);
            inner.check_not_committing()?;
            if key[..] >= *inner.max_write_key() {
                return Err(Error::KEY_OUTSIDE_LEGAL_RANGE);
            }
            inner.count_write(key.len() + value.len(), 2 * key.len() + 1, conflict);
            inner.check_sizes(&key, &value)?;
            if inner.options.read_your_writes_disabled {
                inner.plain_write(Op::Set, key, value, conflict);
            } else {
                self.writes_of(inner)
                    .mutate(&key, Op::Set, value.clone(), conflict);
                self.own_write(inner, &key, &key_after(&key), Some(Some(value)));
            }
            Ok(())
        });
    }

    pub(crate) fn atomic_op(self: &Arc<Self>, key: Key, operand: Value, code: i32) {
        self.write(|inner| {
            let mut conflict = !std::mem::take(&mut inner.options.next_write_no_conflict);
            inner.check_not_committing()?;
            let op = Op::from_code(code, self.api_version);
            if key[..] == *METADATA_VERSION {
                let stamp = operand.len() == 14 && operand.iter().all(|&byte| byte == 0);
                if op != Ok(Op::SetVersionstampedValue) || !stamp {
                    return Err(Error::CLIENT_INVALID_OPERATION);
                }
            } else if key[..] >= *inner.max_write_key() {
                return Err(Error::KEY_OUTSIDE_LEGAL_RANGE);
            }
            let op = op?;
            inner.check_sizes(&key, &operand)?;
            let (mut key, operand) = self.with_long_positions(op, key, operand);
            if op == Op::SetVersionstampedKey {
                let lowest = inner.lowest_stamp();
                let position = versionstamp_position(&key)?.0;
                let mut stamped = key.to_vec();
                stamped[position..position + 10].copy_from_slice(&lowest);
                key = stamped.into();
                let (begin, end) = stamp_range(&key)?;
                inner.versionstamped_keys.push(key.clone());
                conflict = false;
                if !inner.options.read_your_writes_disabled {
                    let end = end.min(inner.max_read_key().into());
                    inner.flush(&begin, &end);
                    self.writes_of(inner).make_unreadable(&begin, &end);
                }
            }
            if op == Op::SetVersionstampedValue {
                versionstamp_position(&operand)?;
            }
            inner.count_write(key.len() + operand.len(), 2 * key.len() + 1, conflict);
            if inner.options.read_your_writes_disabled {
                inner.plain_write(op, key, operand, conflict);
            } else {
                self.writes_of(inner).mutate(&key, op, operand, conflict);
                self.own_write(inner, &key, &key_after(&key), None);
            }
            Ok(())
        });
    }

    /// Before API version 520, the position of a versionstamp has two bytes in a key, and none in a
    /// value.
    pub(super) fn with_long_positions(&self, op: Op, key: Key, operand: Value) -> (Key, Value) {
        match op {
            Op::SetVersionstampedKey if !self.api_version.is_at_least(520) => {
                ([&key[..], &[0, 0]].concat().into(), operand)
            }
            Op::SetVersionstampedValue if !self.api_version.is_at_least(520) => {
                (key, [&operand[..], &[0, 0, 0, 0]].concat().into())
            }
            _ => (key, operand),
        }
    }

    pub(crate) fn clear(self: &Arc<Self>, key: Key) {
        self.write(|inner| {
            let conflict = !std::mem::take(&mut inner.options.next_write_no_conflict);
            inner.check_not_committing()?;
            if self.has_writable_special_keys() && special::is_special(&key) {
                return self.clear_special(inner, &key, &key_after(&key), false);
            }
            if key[..] >= *inner.max_write_key() {
                return Err(Error::KEY_OUTSIDE_LEGAL_RANGE);
            }
            if key.len() > max_key_size(&key) {
                return Ok(());
            }
            let end = key_after(&key);
            if inner.options.read_your_writes_disabled {
                inner.plain_clear(key, end, conflict);
                return Ok(());
            }
            inner.approximate_size += key.len() + end.len() + RANGE_RECORD;
            if conflict {
                inner.approximate_size += key.len() + end.len() + RANGE_RECORD;
            }
            self.writes_of(inner).clear(&key, &end, conflict);
            self.own_write(inner, &key, &end, Some(None));
            Ok(())
        });
    }

    pub(crate) fn clear_range(self: &Arc<Self>, begin: Key, end: Key) {
        self.write(|inner| {
            if begin > end {
                return Err(Error::INVERTED_RANGE);
            }
            let conflict = !std::mem::take(&mut inner.options.next_write_no_conflict);
            inner.check_not_committing()?;
            if self.has_writable_special_keys()
                && special::is_special(&begin)
                && end[..] <= *SPECIAL_END
            {
                return self.clear_special(inner, &begin, &end, true);
            }
            let max_key = inner.max_write_key();
            if begin[..] > *max_key || end[..] > *max_key {
                return Err(Error::KEY_OUTSIDE_LEGAL_RANGE);
            }
            let size = begin.len() + end.len();
            inner.count_write(size, size, conflict);
            let begin: Key = clamp_boundary(&begin).into();
            let end: Key = clamp_boundary(&end).into();
            if begin >= end {
                return Ok(());
            }
            if inner.options.read_your_writes_disabled {
                inner.plain_clear(begin, end, conflict);
            } else {
                self.writes_of(inner).clear(&begin, &end, conflict);
                self.own_write(inner, &begin, &end, Some(None));
            }
            Ok(())
        });
    }

    /// `fdb_transaction_add_conflict_range`; `write` tells the type.
    pub(crate) fn add_conflict_range(
        self: &Arc<Self>,
        begin: Key,
        end: Key,
        write: bool,
    ) -> Result<()> {
        if begin > end {
            return Err(Error::INVERTED_RANGE);
        }
        self.write(|inner| {
            inner.check_not_committing()?;
            let max_key = if write {
                inner.max_write_key()
            } else {
                inner.max_read_key()
            };
            let metadata_version =
                !write && begin[..] == *METADATA_VERSION && end == key_after(METADATA_VERSION);
            if (begin[..] > *max_key || end[..] > *max_key) && !metadata_version {
                return Err(Error::KEY_OUTSIDE_LEGAL_RANGE);
            }
            let begin: Key = clamp_boundary(&begin).into();
            let end: Key = clamp_boundary(&end).into();
            if begin >= end {
                return Ok(());
            }
            let size = begin.len() + end.len() + RANGE_RECORD;
            match (write, inner.options.read_your_writes_disabled) {
                (true, disabled) => {
                    inner.approximate_size += size;
                    if disabled {
                        inner.plain_writes.push((begin, end));
                    } else {
                        self.writes_of(inner).add_conflict(&begin, &end);
                    }
                }
                (false, true) => {
                    inner.approximate_size += size;
                    inner.plain_reads.push((begin, end));
                }
                (false, false) => {
                    let written = inner.writes.clone();
                    inner.add_read_conflict(&written, begin, end);
                }
            }
            Ok(())
        });
        Ok(())
    }
}

impl Transaction {
    fn own_write(
        self: &Arc<Self>,
        inner: &mut Inner,
        begin: &Key,
        end: &Key,
        value: Option<Option<Value>>,
    ) {
        if inner.watches.is_empty() {
            return;
        }
        self.catch_up(inner);
        if inner.own_write(begin, end, value) {
            self.settle_watches_later();
        }
    }
}

/// The keys that a versionstamped key may become, given its lowest possible stamp.
pub(super) fn stamp_range(key: &[u8]) -> Result<KeyRange> {
    let (position, body) = versionstamp_position(key)?;
    let mut end = key_after(&key[..body]).to_vec();
    end[position..position + 10].fill(0xff);
    Ok((key[..body].into(), end.into()))
}

impl Inner {
    /// The lowest versionstamp that this transaction can get, as far as known.
    pub(super) fn lowest_stamp(&self) -> [u8; 10] {
        let known = self.sighted.as_ref().map(|sighted| sighted.version);
        versionstamp(known.or(self.requested_version).unwrap_or(0), 0)
    }

    pub(super) fn count_write(&mut self, bytes: usize, conflict_bytes: usize, conflict: bool) {
        self.approximate_size += bytes + MUTATION_RECORD;
        if conflict {
            self.approximate_size += conflict_bytes + RANGE_RECORD;
        }
    }

    pub(super) fn plain_write(&mut self, op: Op, key: Key, operand: Value, conflict: bool) {
        if conflict {
            self.plain_writes.push((key.clone(), key_after(&key)));
        }
        self.mutations.push(Mutation::Single { op, key, operand });
    }

    pub(super) fn plain_clear(&mut self, begin: Key, end: Key, conflict: bool) {
        if conflict {
            self.plain_writes.push((begin.clone(), end.clone()));
        }
        self.mutations.push(Mutation::ClearRange { begin, end });
    }

    /// Moves the writes in a range out of the write map, before the range becomes unreadable.
    pub(super) fn flush(&mut self, begin: &Key, end: &Key) {
        let (mutations, writes) = self.writes.collect(begin, end);
        self.mutations.extend(mutations);
        self.plain_writes.extend(writes);
    }
}
