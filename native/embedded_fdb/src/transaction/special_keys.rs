//! The special keys of a transaction: reads and writes.

use super::writes::stamp_range;
use super::*;
use crate::special::{Hint, Part, Subject};

impl Transaction {
    pub(super) fn get_special(self: &Arc<Self>, key: Key) -> Arc<Future> {
        let begin = KeySelector::first_greater_or_equal(key.clone());
        let begin_and_end = key[..] == *ALL_END;
        let end = if begin_and_end { key } else { key_after(&key) };
        let end = KeySelector::first_greater_or_equal(end);
        Future::ready(self.with(|inner| {
            let rows = self.special_rows(inner, begin, end, Limits::new(None, None), false)?;
            Ok(Output::Value(
                rows.rows.into_iter().next().map(|(_, value)| value),
            ))
        }))
    }

    /// The keys that old API versions had before there were special keys.
    pub(super) fn fixed_key(&self, key: &[u8]) -> Option<String> {
        match key.strip_prefix(ALL_END)? {
            b"/status/json" => Some(self.status()),
            b"/cluster_file_path" => Some(self.handle.cluster_file.clone()),
            b"/connection_string" => Some(status::CONNECTION_STRING.to_owned()),
            _ => None,
        }
    }

    pub(super) fn get_special_range(
        self: &Arc<Self>,
        begin: KeySelector,
        end: KeySelector,
        limits: Limits,
        reverse: bool,
    ) -> Arc<Future> {
        Future::ready(self.with(|inner| {
            let rows = self.special_rows(inner, begin, end, limits, reverse)?;
            Ok(Output::KeyValues(KeyValues::new(rows.rows, rows.more)))
        }))
    }

    /// Special keys can be read after a commit, because only then conflicting keys are known.
    fn special_rows(
        self: &Arc<Self>,
        inner: &mut Inner,
        begin: KeySelector,
        end: KeySelector,
        limits: Limits,
        reverse: bool,
    ) -> Result<Rows> {
        self.check_deferred(inner)?;
        inner.check_timeout();
        self.catch_up(inner);
        if !limits.valid {
            return Err(Error::RANGE_LIMITS_INVALID);
        }
        let (begin, end) = (begin.without_or_equal(), end.without_or_equal());
        if limits.reached() || (begin.offset >= end.offset && begin.key >= end.key) {
            return Ok(Rows::default());
        }
        let options = (inner.options.special_keys_relaxed, self.tenant.is_some());
        let parts = special::parts(self.api_version).collect();
        let mut source = |part: &'static Part, begin: &[u8], end: &[u8], hint: Hint| {
            self.part_rows(inner, part, begin, end, hint)
        };
        special::read(parts, options, begin, end, limits, reverse, &mut source)
    }

    /// The rows of a part in a range. If a client would have to request them, the end of the transaction
    /// interrupts that.
    fn part_rows(
        self: &Arc<Self>,
        inner: &mut Inner,
        part: &Part,
        begin: &[u8],
        end: &[u8],
        hint: Hint,
    ) -> Result<Vec<(Key, Value)>> {
        let text = |value: String| vec![(Key::from(part.begin), Value::from(value.into_bytes()))];
        let rows = match part.subject {
            Subject::ClusterFilePath => text(self.handle.cluster_file.clone()),
            Subject::ConnectionString => text(status::CONNECTION_STRING.to_owned()),
            Subject::ClusterId => {
                inner.check_cancelled()?;
                text(status::CLUSTER_ID.to_owned())
            }
            Subject::ErrorMessage => inner.error_message.clone().map_or_else(Vec::new, text),
            Subject::Status => {
                inner.check_cancelled()?;
                text(self.status())
            }
            Subject::Tracing => inner.trace().rows(),
            Subject::ConflictingKeys => special::boundaries(part.begin, &inner.conflicts),
            Subject::ReadConflicts => {
                inner.check_cancelled()?;
                // Waits for reads that have no answer yet.
                self.settle_all_watches(inner);
                self.arrive_all(inner);
                inner.failed_read.map_or(Ok(()), Err)?;
                special::boundaries(part.begin, &inner.all_read_conflicts())
            }
            Subject::WriteConflicts => {
                special::boundaries(part.begin, &inner.all_write_conflicts())
            }
            Subject::Managed(subject) => {
                self.managed_rows(inner, (part, subject), begin, end, hint)?
            }
        };
        let inside = |(key, _): &(Key, Value)| begin <= &key[..] && key[..] < *end;
        Ok(rows.into_iter().filter(inside).collect())
    }

    fn status(&self) -> String {
        let database = &self.handle.database;
        status::json(database.newest_version(), database.generation())
    }

    /// Sets a special key.
    pub(super) fn set_special(&self, inner: &mut Inner, key: &[u8], value: &[u8]) -> Result<()> {
        let part = self.special_part(inner, special::writable_part(key, self.api_version))?;
        match part.subject {
            Subject::Tracing => inner.set_tracing(key, value),
            Subject::Managed(subject) => {
                inner.set_managed((part, subject), key, value);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Clears a range of special keys, or one of them.
    pub(super) fn clear_special(
        &self,
        inner: &mut Inner,
        begin: &[u8],
        end: &[u8],
        is_range: bool,
    ) -> Result<()> {
        if !inner.options.special_keys_writable {
            return Err(Error::SPECIAL_KEYS_WRITE_DISABLED);
        }
        if begin >= end {
            return Ok(());
        }
        let part = special::writable_part(begin, self.api_version);
        if is_range && part != special::writable_part_before(end, self.api_version) {
            return Err(Error::SPECIAL_KEYS_CROSS_MODULE_CLEAR);
        }
        let part = self.special_part(inner, part)?;
        let refused = match (part.subject, is_range) {
            (Subject::Tracing, true) => Some(("clear trace", "clear range disabled")),
            (Subject::Tracing, false) => Some(("clear trace", "clear disabled")),
            (Subject::Managed(subject), _) => inner.clear_managed(subject, begin, end),
            _ => None,
        };
        let Some((command, message)) = refused else {
            return Ok(());
        };
        inner.error_message = Some(special::failure(command, message));
        Err(Error::SPECIAL_KEYS_API_FAILURE)
    }

    /// The part that a write goes to, if it is allowed.
    fn special_part(&self, inner: &Inner, part: Option<&'static Part>) -> Result<&'static Part> {
        if !inner.options.special_keys_writable {
            return Err(Error::SPECIAL_KEYS_WRITE_DISABLED);
        }
        let part = part.ok_or(Error::SPECIAL_KEYS_NO_WRITE_MODULE_FOUND)?;
        if self.tenant.is_some() && !part.in_tenants {
            return Err(Error::ILLEGAL_TENANT_ACCESS);
        }
        Ok(part)
    }
}

impl Inner {
    fn trace(&mut self) -> &mut special::Trace {
        self.trace.get_or_insert_with(special::Trace::new)
    }

    fn set_tracing(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if self.approximate_size > 0 {
            let message = "tracing options must be set first";
            self.error_message = Some(special::failure("configure trace", message));
            self.late_tracing = true;
            return Ok(());
        }
        self.trace().set(key, value).inspect_err(|_| {
            let message = "token must be set to true/false";
            self.error_message = Some(special::failure("configure trace token", message));
        })
    }

    /// The read conflict ranges so far, or of the last commit.
    fn all_read_conflicts(&mut self) -> RangeSet {
        self.fold_reads();
        let mut all = RangeSet::default();
        let committed = self
            .committed_conflicts
            .0
            .iter()
            .chain(&self.plain_reads)
            .chain(&self.plain_range_reads)
            .cloned();
        for (begin, end) in committed.chain(self.read_conflicts.ranges()) {
            all.insert(begin, end);
        }
        all
    }

    /// The write conflict ranges so far, or of the last commit.
    fn all_write_conflicts(&self) -> RangeSet {
        let mut all = RangeSet::default();
        let written = self.writes.collect(&[], ALL_END).1;
        let committed = self
            .committed_conflicts
            .1
            .iter()
            .chain(&self.plain_writes)
            .cloned();
        for (begin, end) in committed.chain(written).chain(self.stamped_keys()) {
            all.insert(begin, end);
        }
        all
    }

    /// Where versionstamped keys may end up, or have ended up.
    fn stamped_keys(&self) -> impl Iterator<Item = KeyRange> + '_ {
        let last: Key = self.max_read_key().into();
        self.versionstamped_keys
            .iter()
            .filter_map(move |key| match self.stamp {
                Stamp::Known(stamp) => Some(single_key(&place_versionstamp(key, &stamp))),
                _ => {
                    let (_, end) = stamp_range(key).ok()?;
                    let begin = place_versionstamp(key, &self.lowest_stamp());
                    Some((begin, end.min(last.clone())))
                }
            })
            .filter(|(begin, end)| begin < end)
    }
}
