//! The special keys of a transaction.

use super::writes::stamp_range;
use super::*;
use crate::status;

impl Transaction {
    pub(super) fn get_special(self: &Arc<Self>, key: Key) -> Arc<Future> {
        let begin = KeySelector::first_greater_or_equal(key.clone());
        let end = KeySelector::first_greater_or_equal(key_after(&key));
        Future::ready(self.with(|inner| {
            let rows = self.special_rows(inner, begin, end, Limits::new(None, None), false)?;
            Ok(Output::Value(
                rows.rows.into_iter().next().map(|(_, value)| value),
            ))
        }))
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

    /// Special keys can be read after a commit: that is when conflicting keys are known.
    pub(super) fn special_rows(
        &self,
        inner: &mut Inner,
        begin: KeySelector,
        end: KeySelector,
        limits: Limits,
        reverse: bool,
    ) -> Result<Rows> {
        inner.check_deferred()?;
        inner.check_timeout();
        inner.check_cancelled()?;
        inner.settle_watches();
        let (begin, end) = (begin.without_or_equal(), end.without_or_equal());
        if limits.reached() || (begin.offset >= end.offset && begin.key >= end.key) {
            return Ok(Rows::default());
        }
        let relaxed = inner.options.special_keys_relaxed;
        let boundary = special::boundary(&begin.key, &end.key, relaxed, self.tenant.is_some())?;
        let mut rows = Vec::new();
        let in_boundary = |key: &[u8]| boundary.0 <= key && key < boundary.1;
        let mut single = |key: &[u8], value: Option<String>| {
            if let (true, Some(value)) = (in_boundary(key), value) {
                rows.push((Key::from(key), Value::from(value.into_bytes())));
            }
        };
        let cluster_file = &self.handle.cluster_file;
        single(special::CLUSTER_FILE_PATH, Some(cluster_file.clone()));
        single(
            special::CONNECTION_STRING,
            Some(status::CONNECTION_STRING.to_owned()),
        );
        if in_boundary(special::TRACING) {
            let special::Trace { transaction, token } = inner.trace();
            let id = format!("{:016x}{:016x}", transaction.0, transaction.1);
            single(special::TRACING_TOKEN, Some(token.to_string()));
            single(special::TRACING_TRANSACTION, Some(id));
        }
        for (key, value) in special::SETTINGS {
            single(key, Some((*value).to_owned()));
        }
        single(special::ERROR_MESSAGE, inner.error_message.clone());
        if in_boundary(special::STATUS_JSON) {
            let database = &self.handle.database;
            let status = status::json(database.newest_version(), database.generation());
            single(special::STATUS_JSON, Some(status));
        }
        if in_boundary(special::TENANT_MAP) {
            self.sight(inner)?;
            let tenants = tenant::list(inner.sighted()?.space.everything());
            rows.extend(
                tenants
                    .into_iter()
                    .map(|(name, value)| ([special::TENANT_MAP, &name].concat().into(), value)),
            );
        }
        if in_boundary(special::READ_CONFLICTS) {
            rows.extend(special::boundaries(
                special::CONFLICTING_KEYS,
                &inner.conflicts,
            ));
            rows.extend(special::boundaries(
                special::READ_CONFLICTS,
                &inner.all_read_conflicts(),
            ));
            rows.extend(special::boundaries(
                special::WRITE_CONFLICTS,
                &inner.all_write_conflicts(),
            ));
        }
        rows.sort();
        Ok(special::select(rows, boundary, begin, end, limits, reverse))
    }

    /// Writes to special keys; `Ok(false)` where the key is not one of them.
    pub(super) fn write_special(
        &self,
        inner: &mut Inner,
        key: &[u8],
        change: impl FnOnce() -> Result<Option<special::Change>>,
    ) -> Result<bool> {
        if !special::is_special(key) {
            return Ok(false);
        }
        if !inner.options.special_keys_writable {
            return Err(Error::SPECIAL_KEYS_WRITE_DISABLED);
        }
        if self.tenant.is_some() {
            return Err(Error::ILLEGAL_TENANT_ACCESS);
        }
        inner.special.extend(change()?);
        Ok(true)
    }
}

impl Inner {
    fn trace(&mut self) -> &mut special::Trace {
        self.trace.get_or_insert_with(special::Trace::new)
    }

    pub(super) fn set_tracing(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if self.approximate_size > 0 {
            let message = "tracing options must be set first";
            self.error_message = Some(special::failure("configure trace", message));
            self.late_tracing = true;
            return Ok(());
        }
        self.trace().set(key, value).inspect_err(|_| {
            let message =
                "token must be set to true/false, transaction_id to 32 hexadecimal digits";
            self.error_message = Some(special::failure("configure trace", message));
        })
    }

    /// The read conflict ranges so far, or of the last commit.
    pub(super) fn all_read_conflicts(&self) -> RangeSet {
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
    pub(super) fn all_write_conflicts(&self) -> RangeSet {
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

    /// Where versionstamped keys may come to lie, or have come to lie.
    pub(super) fn stamped_keys(&self) -> impl Iterator<Item = KeyRange> + '_ {
        self.versionstamped_keys
            .iter()
            .filter_map(|key| match self.stamp {
                Stamp::Known(stamp) => Some(single_key(&place_versionstamp(key, &stamp))),
                _ => stamp_range(key).ok(),
            })
    }
}
