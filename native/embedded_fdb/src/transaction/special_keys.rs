//! The special keys of a transaction: reading them, and writing to them.

use super::writes::stamp_range;
use super::*;
use crate::special::{Hint, Part, Subject};

/// The options of management that can be set.
const OPTIONS: [&[u8]; 5] = [
    b"excluded/force",
    b"excluded_locality/force",
    b"failed/force",
    b"failed_locality/force",
    b"worker_interfaces/verify",
];

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

    /// The keys that old API versions answered before there were special keys.
    pub(super) fn fixed_key(&self, key: &[u8]) -> Option<String> {
        match key.strip_prefix(ALL_END)? {
            b"/status/json" => {
                let database = &self.handle.database;
                let version = database.newest_version();
                Some(status::json(version, database.generation()))
            }
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

    /// Special keys can be read after a commit: that is when conflicting keys are known.
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

    /// The rows of a part in a range. Where a client would have to ask for them, it hears of the end of
    /// the transaction meanwhile.
    fn part_rows(
        self: &Arc<Self>,
        inner: &mut Inner,
        part: &Part,
        begin: &[u8],
        end: &[u8],
        hint: Hint,
    ) -> Result<Vec<(Key, Value)>> {
        let under = |name: &str| -> Key { [part.begin, name.as_bytes()].concat().into() };
        let text = |key: Key, value: String| (key, Value::from(value.into_bytes()));
        let rows = match part.subject {
            Subject::ClusterFilePath => {
                vec![text(part.begin.into(), self.handle.cluster_file.clone())]
            }
            Subject::ConnectionString => {
                let string = status::CONNECTION_STRING.to_owned();
                vec![text(part.begin.into(), string)]
            }
            Subject::ClusterId => {
                inner.check_cancelled()?;
                vec![text(part.begin.into(), status::CLUSTER_ID.to_owned())]
            }
            Subject::ErrorMessage => {
                let message = inner.error_message.clone();
                let row = message.map(|message| text(part.begin.into(), message));
                row.into_iter().collect()
            }
            Subject::Status => {
                inner.check_cancelled()?;
                let database = &self.handle.database;
                let json = status::json(database.newest_version(), database.generation());
                vec![text(part.begin.into(), json)]
            }
            Subject::Tracing => {
                let special::Trace { transaction, token } = inner.trace();
                let id = format!("{:016x}{:016x}", transaction.0, transaction.1);
                vec![
                    text(special::TOKEN.into(), token.to_string()),
                    text(special::TRANSACTION.into(), id),
                ]
            }
            Subject::Coordinators => {
                let rows = vec![
                    text(under("cluster_description"), "embedded".to_owned()),
                    text(under("processes"), status::ADDRESS.to_owned()),
                ];
                inner.with_special_writes(rows, begin, end)
            }
            Subject::AutoCoordinators => {
                inner.check_cancelled()?;
                vec![text(part.begin.into(), status::ADDRESS.to_owned())]
            }
            Subject::ClassTypes => {
                inner.check_cancelled()?;
                let rows = vec![text(under(status::ADDRESS), "unset".to_owned())];
                inner.with_special_writes(rows, begin, end)
            }
            Subject::ClassSources => {
                inner.check_cancelled()?;
                vec![text(under(status::ADDRESS), "command_line".to_owned())]
            }
            Subject::Profiling => {
                let names = ["client_txn_sample_rate", "client_txn_size_limit"];
                let rows = names.map(|name| text(under(name), "default".to_owned()));
                inner.with_special_writes(rows.into(), begin, end)
            }
            Subject::Options => {
                let set = |option: &&[u8]| {
                    let key: Key = [part.begin, option].concat().into();
                    let written = inner.special.get(&key).flatten();
                    written.map(|_| (key, Value::from(&[][..])))
                };
                OPTIONS.iter().filter_map(set).collect()
            }
            Subject::Tenants => self.tenant_rows(inner, part, begin, end, hint)?,
            Subject::ConsistencyCheck
            | Subject::DataDistribution
            | Subject::Excluded
            | Subject::Lock
            | Subject::Maintenance
            | Subject::MinimumVersion
            | Subject::VersionEpoch => {
                if inner.is_written_over(part, begin, end) {
                    return Ok(inner.special.lay_over(Vec::new(), begin, end));
                }
                inner.check_cancelled()?;
                self.sight(inner)?;
                let sighted = inner.sighted()?;
                let map = sighted.space.everything();
                let rows = management::rows(part, map, sighted.version);
                match part.subject {
                    Subject::VersionEpoch => rows,
                    _ => inner.with_special_writes(rows, begin, end),
                }
            }
            Subject::ConflictingKeys => special::boundaries(part.begin, &inner.conflicts),
            Subject::ReadConflicts => {
                inner.check_cancelled()?;
                // Those of reads that have no answer yet are waited for.
                self.settle_all_watches(inner);
                self.arrive_all(inner);
                inner.failed_read.map_or(Ok(()), Err)?;
                special::boundaries(part.begin, &inner.all_read_conflicts())
            }
            Subject::WriteConflicts => {
                special::boundaries(part.begin, &inner.all_write_conflicts())
            }
            Subject::ActorLineage => {
                let message = "missing required parameters (index, host)";
                inner.error_message = Some(special::failure("read actor_lineage", message));
                return Err(Error::SPECIAL_KEYS_API_FAILURE);
            }
            Subject::ExclusionInProgress | Subject::Metrics | Subject::WorkerInterfaces => {
                inner.check_cancelled()?;
                Vec::new()
            }
            Subject::GlobalConfiguration => {
                // A client cuts the ends to names by their lengths alone.
                let cut = part.begin.len();
                if begin[cut..] > *end.get(cut..).unwrap_or_default() {
                    return Err(Error::INVERTED_RANGE);
                }
                Vec::new()
            }
            Subject::ProfilerConfiguration => Vec::new(),
        };
        let inside = |(key, _): &(Key, Value)| begin <= &key[..] && key[..] < *end;
        Ok(rows.into_iter().filter(inside).collect())
    }

    /// The tenants of a range. A client cuts the names of its ends by their lengths alone, and so
    /// finds that the end of this part is before everything.
    fn tenant_rows(
        &self,
        inner: &mut Inner,
        part: &Part,
        begin: &[u8],
        end: &[u8],
        hint: Hint,
    ) -> Result<Vec<(Key, Value)>> {
        let cut = part.begin.len();
        let (begin, end) = (&begin[cut..], end.get(cut..).unwrap_or_default());
        let Some((begin, end)) = management::tenant_names(begin, end)? else {
            return Ok(Vec::new());
        };
        inner.check_cancelled()?;
        self.sight(inner)?;
        let map = inner.sighted()?.space.everything();
        let tenants = tenant::list(map, &begin, &end, hint);
        let under = |name: &[u8]| [part.begin, management::TENANT_MAP, name].concat().into();
        Ok(tenants
            .into_iter()
            .map(|(name, value)| (under(&name), value))
            .collect())
    }

    /// Sets a special key.
    pub(super) fn set_special(&self, inner: &mut Inner, key: &[u8], value: &[u8]) -> Result<()> {
        let part = self.special_part(inner, special::writable_part(key, self.api_version))?;
        let name = &key[part.begin.len()..];
        match part.subject {
            Subject::Tracing => return inner.set_tracing(key, value),
            Subject::Excluded => inner.special.set(key, &[]),
            Subject::Options if !OPTIONS.contains(&name) => {}
            _ => inner.special.set(key, value),
        }
        Ok(())
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
        let refuse = |inner: &mut Inner, command: &str, message: &str| {
            inner.error_message = Some(special::failure(command, message));
            Err(Error::SPECIAL_KEYS_API_FAILURE)
        };
        match (part.subject, is_range) {
            (Subject::Tracing, true) => refuse(inner, "clear trace", "clear range disabled"),
            (Subject::Tracing, false) => refuse(inner, "clear trace", "clear disabled"),
            (Subject::Coordinators, _) => refuse(
                inner,
                "coordinators",
                "Clear operation is meaningless thus forbidden for coordinators",
            ),
            (Subject::ClassTypes, _) => refuse(
                inner,
                "setclass",
                "Clear operation is meaningless thus forbidden for setclass",
            ),
            (Subject::Profiling, _) => refuse(
                inner,
                "profile",
                "Clear operation is forbidden for profile client. You can set it to default to disable profiling.",
            ),
            (Subject::Options, _) => {
                inner.special.forget(begin, end);
                Ok(())
            }
            (Subject::ProfilerConfiguration, _) => Ok(()),
            _ => {
                inner.special.clear(begin, end);
                Ok(())
            }
        }
    }

    /// The part that a write goes to, if it may.
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
    /// Whether a read needs nothing of what the database has of a part: all that there can be in the
    /// range was written.
    fn is_written_over(&self, part: &Part, begin: &[u8], end: &[u8]) -> bool {
        let names: &[&[u8]] = match part.subject {
            Subject::DataDistribution => &[b"mode", b"rebalance_ignored"],
            Subject::ConsistencyCheck | Subject::Lock | Subject::MinimumVersion => &[b""],
            _ => return false,
        };
        let written = |name: &&[u8]| {
            let key = [part.begin, name].concat();
            let ours = !self.options.read_your_writes_disabled && self.special.get(&key).is_some();
            key[..] < *begin || key[..] >= *end || ours
        };
        names.iter().all(written)
    }

    /// Lays writes to special keys over rows, unless read-your-writes is off.
    fn with_special_writes(
        &self,
        rows: Vec<(Key, Value)>,
        begin: &[u8],
        end: &[u8],
    ) -> Vec<(Key, Value)> {
        if self.options.read_your_writes_disabled {
            rows
        } else {
            self.special.lay_over(rows, begin, end)
        }
    }

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

    /// Where versionstamped keys may come to lie, or have come to lie.
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
