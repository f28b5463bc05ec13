//! Reads of and writes to the special keys for management.

use super::{Managed, TENANT_MAP};
use crate::special::{Hint, Part};
use crate::tenants;
use crate::transaction::*;

/// The management options that can be set.
const OPTIONS: [&[u8]; 5] = [
    b"excluded/force",
    b"excluded_locality/force",
    b"failed/force",
    b"failed_locality/force",
    b"worker_interfaces/verify",
];

impl Transaction {
    /// The rows of a part in a range.
    pub(in crate::transaction) fn managed_rows(
        &self,
        inner: &mut Inner,
        (part, subject): (&Part, Managed),
        begin: &[u8],
        end: &[u8],
        hint: Hint,
    ) -> Result<Vec<(Key, Value)>> {
        let under = |name: &str| -> Key { [part.begin, name.as_bytes()].concat().into() };
        let text = |key: Key, value: &str| (key, Value::from(value.as_bytes()));
        Ok(match subject {
            Managed::Coordinators => {
                let rows = vec![
                    text(under("cluster_description"), "embedded"),
                    text(under("processes"), status::ADDRESS),
                ];
                inner.with_special_writes(rows, begin, end)
            }
            Managed::AutoCoordinators => {
                inner.check_cancelled()?;
                vec![text(part.begin.into(), status::ADDRESS)]
            }
            Managed::ClassTypes => {
                inner.check_cancelled()?;
                let rows = vec![text(under(status::ADDRESS), "unset")];
                inner.with_special_writes(rows, begin, end)
            }
            Managed::ClassSources => {
                inner.check_cancelled()?;
                vec![text(under(status::ADDRESS), "command_line")]
            }
            Managed::Profiling => {
                let names = ["client_txn_sample_rate", "client_txn_size_limit"];
                let rows = names.map(|name| text(under(name), "default"));
                inner.with_special_writes(rows.into(), begin, end)
            }
            Managed::Options => inner.options_set(part),
            Managed::Tenants => self.tenant_rows(inner, part, begin, end, hint)?,
            Managed::ConsistencyCheck
            | Managed::DataDistribution
            | Managed::Excluded
            | Managed::Lock
            | Managed::Maintenance
            | Managed::MinimumVersion
            | Managed::VersionEpoch => self.stored_rows(inner, (part, subject), begin, end)?,
            Managed::ActorLineage => {
                let message = "missing required parameters (index, host)";
                inner.error_message = Some(special::failure("read actor_lineage", message));
                return Err(Error::SPECIAL_KEYS_API_FAILURE);
            }
            Managed::ExclusionInProgress | Managed::Metrics | Managed::WorkerInterfaces => {
                inner.check_cancelled()?;
                Vec::new()
            }
            Managed::GlobalConfiguration => {
                // A client cuts the ends to names by length alone.
                let cut = part.begin.len();
                if begin[cut..] > *end.get(cut..).unwrap_or_default() {
                    return Err(Error::INVERTED_RANGE);
                }
                Vec::new()
            }
            Managed::ProfilerConfiguration => Vec::new(),
        })
    }

    /// The contents of the system keys, with the transaction's writes laid over them.
    fn stored_rows(
        &self,
        inner: &mut Inner,
        (part, subject): (&Part, Managed),
        begin: &[u8],
        end: &[u8],
    ) -> Result<Vec<(Key, Value)>> {
        if inner.is_written_over((part, subject), begin, end) {
            return Ok(inner.special.lay_over(Vec::new(), begin, end));
        }
        inner.check_cancelled()?;
        self.sight(inner)?;
        let sighted = inner.sighted()?;
        let map = sighted.space.everything();
        let rows = super::rows((part, subject), map, sighted.version);
        Ok(match subject {
            Managed::VersionEpoch => rows,
            _ => inner.with_special_writes(rows, begin, end),
        })
    }

    /// The tenants of a range. A client cuts the names at its ends by length alone, and so concludes that
    /// the end of this part is before everything.
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
        let Some((begin, end)) = super::tenant_names(begin, end)? else {
            return Ok(Vec::new());
        };
        inner.check_cancelled()?;
        self.sight(inner)?;
        let map = inner.sighted()?.space.everything();
        let tenants = tenants::list(map, &begin, &end, hint);
        let under = |name: &[u8]| [part.begin, TENANT_MAP, name].concat().into();
        Ok(tenants
            .into_iter()
            .map(|(name, value)| (under(&name), value))
            .collect())
    }
}

impl Inner {
    pub(in crate::transaction) fn set_managed(
        &mut self,
        (part, subject): (&Part, Managed),
        key: &[u8],
        value: &[u8],
    ) {
        match subject {
            Managed::Excluded => self.special.set(key, &[]),
            Managed::Options if !OPTIONS.contains(&&key[part.begin.len()..]) => {}
            _ => self.special.set(key, value),
        }
    }

    /// Clears a range, or returns which command cannot do that, and why.
    pub(in crate::transaction) fn clear_managed(
        &mut self,
        subject: Managed,
        begin: &[u8],
        end: &[u8],
    ) -> Option<(&'static str, &'static str)> {
        match subject {
            Managed::Coordinators => {
                return Some((
                    "coordinators",
                    "Clear operation is meaningless thus forbidden for coordinators",
                ))
            }
            Managed::ClassTypes => {
                return Some((
                    "setclass",
                    "Clear operation is meaningless thus forbidden for setclass",
                ))
            }
            Managed::Profiling => {
                return Some((
                    "profile",
                    "Clear operation is forbidden for profile client. You can set it to default to disable profiling.",
                ))
            }
            Managed::Options => self.special.forget(begin, end),
            Managed::ProfilerConfiguration => {}
            _ => self.special.clear(begin, end),
        }
        None
    }

    /// The options that were set.
    fn options_set(&self, part: &Part) -> Vec<(Key, Value)> {
        let set = |option: &&[u8]| {
            let key: Key = [part.begin, option].concat().into();
            let written = self.special.get(&key).flatten();
            written.map(|_| (key, Value::from(&[][..])))
        };
        OPTIONS.iter().filter_map(set).collect()
    }

    /// Whether a read needs no data from the database: everything that the range can contain was written.
    fn is_written_over(&self, (part, subject): (&Part, Managed), begin: &[u8], end: &[u8]) -> bool {
        let names: &[&[u8]] = match subject {
            Managed::DataDistribution => &[b"mode", b"rebalance_ignored"],
            Managed::ConsistencyCheck | Managed::Lock | Managed::MinimumVersion => &[b""],
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
}
