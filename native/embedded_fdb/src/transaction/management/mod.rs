//! The system keys behind the special keys for management.

mod edit;
pub(crate) mod parts;
mod rows;

pub(crate) use edit::Edit;
use parts::{Managed, MANAGEMENT_KEYS, TENANTS};

use super::*;
use crate::database::LOCKED;
use crate::keys::is_key_after;
use crate::mapped::prefix_end;
use crate::mvcc::Map;
use crate::random;
use crate::special::{Part, Subject};
use crate::tenants::{Changes, Configuration};
use crate::tuple;

const TENANT_MAP: &[u8] = b"map/";
const TENANT_MAP_END: &[u8] = b"map0";
const TENANT_CONFIGURE: &[u8] = b"configure/";
const TENANT_RENAME: &[u8] = b"rename/";

const CONFIGURATION: &[u8] = b"\xff/conf/";
const CONSISTENCY_CHECK: &[u8] = b"\xff\x02/ConsistencyCheck/Suspend";
const DATA_DISTRIBUTION_MODE: &[u8] = b"\xff/dataDistributionMode";
const REBALANCE_IGNORED: &[u8] = b"\xff\x02/rebalanceDDIgnored";
/// The zone under maintenance: the version at which that ends, and its name.
const HEALTHY_ZONE: &[u8] = b"\xff\x02/healthyZone";
const MINIMUM_VERSION: &[u8] = b"\xff/minRequiredCommitVersion";
const VERSION_EPOCH: &[u8] = b"\xff/versionEpoch";
const VERSIONS_PER_SECOND: i64 = 1_000_000;

/// The rows of a part, from the database.
fn rows((part, subject): (&Part, Managed), map: &Map, version: Version) -> Vec<(Key, Value)> {
    let under = |name: &[u8]| -> Key { [part.begin, name].concat().into() };
    let text = |value: String| Value::from(value.into_bytes());
    let number = |key: &[u8]| -> Option<i64> {
        let value = map.get(key)?;
        Some(i64::from_le_bytes(value[..].try_into().ok()?))
    };
    match subject {
        Managed::ConsistencyCheck => {
            let suspended = map.get(CONSISTENCY_CHECK).is_some_and(|v| v[..] == [1]);
            let row = suspended.then(|| (under(b""), Value::from(&[][..])));
            row.into_iter().collect()
        }
        Managed::DataDistribution => {
            let mode = map.get(DATA_DISTRIBUTION_MODE);
            let mode = mode.and_then(|value| Some(i32::from_le_bytes(value[..].try_into().ok()?)));
            let mode = (under(b"mode"), text(mode.unwrap_or(-1).to_string()));
            let ignored = map.contains_key(REBALANCE_IGNORED);
            let ignored = ignored.then(|| (under(b"rebalance_ignored"), Value::from(&[][..])));
            std::iter::once(mode).chain(ignored).collect()
        }
        Managed::Excluded => {
            let stored = [CONFIGURATION, &part.begin[MANAGEMENT_KEYS.len()..]].concat();
            let end = prefix_end(&stored).unwrap_or_else(|| ALL_END.into());
            map.range(Key::from(&stored[..])..end)
                .map(|(key, value)| (under(&key[stored.len()..]), value.clone()))
                .collect()
        }
        Managed::Lock => {
            let id = map.get(LOCKED).map(|value| lock_id(value));
            let row = id.map(|id| (under(b""), text(format!("{:016x}{:016x}", id.0, id.1))));
            row.into_iter().collect()
        }
        Managed::Maintenance => {
            let row = map.get(HEALTHY_ZONE).and_then(|value| {
                let (until, zone) = value.split_first_chunk::<8>()?;
                let left = i64::from_le_bytes(*until) - version;
                let seconds = text((left / VERSIONS_PER_SECOND).to_string());
                (left > 0).then(|| (under(zone), seconds))
            });
            row.into_iter().collect()
        }
        Managed::MinimumVersion => {
            let row = number(MINIMUM_VERSION).map(|n| (under(b""), text(n.to_string())));
            row.into_iter().collect()
        }
        Managed::VersionEpoch => {
            let row = number(VERSION_EPOCH).map(|n| (under(b""), text(n.to_string())));
            row.into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// The names of tenants between two keys of their part, without its prefix.
fn tenant_names(begin: &[u8], end: &[u8]) -> Result<Option<(Key, Key)>> {
    if begin > end {
        return Err(Error::INVERTED_RANGE);
    }
    if begin >= end || begin >= TENANT_MAP_END || end <= TENANT_MAP {
        return Ok(None);
    }
    let begin = &begin.max(TENANT_MAP)[TENANT_MAP.len()..];
    let end = end.min(TENANT_MAP_END);
    let end = end.strip_prefix(TENANT_MAP).unwrap_or(b"\xff");
    if begin > end {
        return Err(Error::INVERTED_RANGE);
    }
    Ok(Some((begin.into(), end.into())))
}

/// The two numbers of the id in a lock's value.
fn lock_id(value: &[u8]) -> (u64, u64) {
    let number = |at: usize| {
        let bytes = value.get(at..at + 8).and_then(|b| b.try_into().ok());
        u64::from_le_bytes(bytes.unwrap_or_default())
    };
    (number(10), number(18))
}

/// Why a change to special keys cannot be made.
enum Refusal {
    Error(Error),
    /// The error message: which command failed, and why.
    Message(&'static str, String),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal::Error(error)
    }
}

type Changed = std::result::Result<(), Refusal>;

fn refuse(command: &'static str, message: impl Into<String>) -> Changed {
    Err(Refusal::Message(command, message.into()))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Applies the writes to a part.
fn commit(part: &Part, writes: &special::Writes, edit: &mut Edit, version: Version) -> Changed {
    let Subject::Managed(subject) = part.subject else {
        return Ok(());
    };
    match subject {
        Managed::Tenants => commit_tenants(part, writes, edit),
        Managed::ConsistencyCheck => {
            let suspended = writes.get(part.begin).flatten().is_some();
            edit.set(CONSISTENCY_CHECK.into(), &[u8::from(suspended)]);
            Ok(())
        }
        Managed::DataDistribution => commit_data_distribution(part, writes, edit),
        Managed::Excluded => commit_exclusion(part, writes, edit),
        Managed::Lock => commit_lock(part, writes, edit),
        Managed::Maintenance => commit_maintenance(part, writes, edit, version),
        Managed::MinimumVersion => commit_minimum_version(part, writes, edit, version),
        Managed::VersionEpoch => {
            match writes.get(part.begin).flatten() {
                Some(value) => edit.set(VERSION_EPOCH.into(), value),
                None => edit.clear(VERSION_EPOCH.into()),
            }
            Ok(())
        }
        Managed::Coordinators => refuse(
            "coordinators",
            "No change (existing configuration satisfies request)",
        ),
        _ => Ok(()),
    }
}

impl Transaction {
    /// The system keys that the writes to special keys change.
    pub(super) fn edit_managed(&self, inner: &mut Inner) -> Result<CommitRequest> {
        inner.options.lock_aware = true;
        self.sight(inner)?;
        let Sighted { space, version, .. } = inner.sighted()?;
        let mut edit = Edit::new(space.everything());
        for part in special::parts(self.api_version) {
            if inner.special.within(part.begin, part.end).next().is_none() {
                continue;
            }
            match commit(part, &inner.special, &mut edit, *version) {
                Ok(()) => {}
                Err(Refusal::Error(error)) => return Err(error),
                Err(Refusal::Message(command, message)) => {
                    inner.error_message = Some(special::failure(command, &message));
                    return Err(Error::SPECIAL_KEYS_API_FAILURE);
                }
            }
        }
        Ok(CommitRequest {
            reads: edit.reads,
            writes: edit.writes,
            mutations: edit.mutations,
            ..CommitRequest::default()
        })
    }
}

fn commit_data_distribution(part: &Part, writes: &special::Writes, edit: &mut Edit) -> Changed {
    const COMMAND: &str = "datadistribution";
    let mode = [part.begin, b"mode"].concat();
    let ignored = [part.begin, b"rebalance_ignored"].concat();
    let mut answer = Ok(());
    for (begin, end, value) in writes.within(part.begin, part.end) {
        let contains = |key: &[u8]| begin[..] <= *key && *key < end[..];
        match value {
            Some(value) if begin[..] == mode => match lossy(value).parse::<i32>() {
                Ok(number @ 0..=2) => {
                    edit.set(DATA_DISTRIBUTION_MODE.into(), &number.to_le_bytes());
                }
                Ok(_) => {
                    answer = refuse(
                        COMMAND,
                        "Please set the value of the data_distribution/mode to 0(disable) or \
                         1(enable), other values are not allowed",
                    );
                }
                Err(_) => {
                    let message = format!("Invalid datadistribution mode(int): {}", lossy(value));
                    answer = refuse(COMMAND, message);
                }
            },
            Some(value) if begin[..] == ignored => edit.set(REBALANCE_IGNORED.into(), value),
            Some(_) => {
                answer = refuse(
                    COMMAND,
                    "Changing invalid keys, please read the documentation to check valid keys in \
                     the range",
                );
            }
            None if contains(&mode) => edit.clear(DATA_DISTRIBUTION_MODE.into()),
            None if contains(&ignored) => edit.clear(REBALANCE_IGNORED.into()),
            None => {}
        }
    }
    answer
}

fn commit_exclusion(part: &Part, writes: &special::Writes, edit: &mut Edit) -> Changed {
    let failed = part.begin.starts_with(b"\xff\xff/management/failed");
    let localities = part.begin.ends_with(b"_locality/");
    let command = if failed { "exclude failed" } else { "exclude" };
    let stored = |key: &[u8]| -> Key {
        [CONFIGURATION, &key[MANAGEMENT_KEYS.len()..]]
            .concat()
            .into()
    };
    let names = writes
        .within(part.begin, part.end)
        .filter(|(_, _, value)| value.is_some());
    for (key, _, _) in names {
        let name = lossy(&key[part.begin.len()..]);
        if localities && !(name.starts_with("locality_") && name.contains(':')) {
            return refuse(
                command,
                format!("ERROR: '{name}' is not a valid locality\n"),
            );
        }
        if !localities && !is_address(&name) {
            let hint = if name.contains(":tls") {
                "        Do not include the `:tls' suffix when naming a process\n"
            } else {
                ""
            };
            let message =
                format!("ERROR: '{name}' is not a valid network endpoint address\n{hint}");
            return refuse(command, message);
        }
        if !localities && status::ADDRESS.starts_with(&name) {
            return refuse(
                command,
                "ERROR: This exclude may cause the total available space in the cluster to drop \
                 below 10%.\nCall set(\"0xff0xff/management/options/exclude/force\", ...) first \
                 to exclude without checking available space.\n",
            );
        }
        edit.set(stored(key), &[]);
    }
    let version_key: Key = stored(&part.begin[..part.begin.len() - 1]);
    edit.reads.push(single_key(&version_key));
    edit.set(version_key, random::number().to_string().as_bytes());
    for (begin, end, value) in writes.within(part.begin, part.end) {
        if value.is_none() {
            edit.clear_range(stored(begin), stored(end));
        }
    }
    Ok(())
}

/// Whether a text is an address for exclusion: of a machine, or of a process with its port.
fn is_address(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_ok() || text.parse::<std::net::SocketAddr>().is_ok()
}

fn commit_lock(part: &Part, writes: &special::Writes, edit: &mut Edit) -> Changed {
    let locked = edit.get(LOCKED).map(|value| lock_id(value));
    let Some(value) = writes.get(part.begin).flatten() else {
        if locked.is_some() {
            edit.clear(LOCKED.into());
        }
        return Ok(());
    };
    let Some(id) = special::parse_id(value) else {
        return refuse("lock", format!("Invalid UID hex string: {}", lossy(value)));
    };
    match locked {
        Some(locked) if locked != id => Err(Error::DATABASE_LOCKED.into()),
        Some(_) => Ok(()),
        None => {
            let mut value = b"0123456789".to_vec();
            value.extend(id.0.to_le_bytes());
            value.extend(id.1.to_le_bytes());
            value.extend([0; 4]);
            edit.change(Op::SetVersionstampedValue, LOCKED.into(), &value);
            edit.writes.push(([][..].into(), NORMAL_END.into()));
            Ok(())
        }
    }
}

fn commit_maintenance(
    part: &Part,
    writes: &special::Writes,
    edit: &mut Edit,
    version: Version,
) -> Changed {
    let current = edit.get(HEALTHY_ZONE).map(|value| value[8..].to_vec());
    let mut set = None;
    for (begin, end, value) in writes.within(part.begin, part.end) {
        match value {
            Some(_) if set.is_some() => {
                return refuse(
                    "maintenance",
                    "Multiple zones given for maintenance, only one allowed at the same time",
                );
            }
            Some(value) => {
                // A client does not expect other values, and reports no reason.
                let seconds: f64 = lossy(value).parse().map_err(|_| Error::UNKNOWN_ERROR)?;
                set = Some((&begin[part.begin.len()..], seconds));
            }
            None => {
                let zone = current.as_ref().map(|zone| [part.begin, zone].concat());
                let contains = |zone: Vec<u8>| begin[..] <= zone[..] && zone[..] < end[..];
                if set.is_none() && zone.is_some_and(contains) {
                    edit.clear(HEALTHY_ZONE.into());
                }
            }
        }
    }
    match set {
        Some((_, seconds)) if seconds < 0.0 => refuse(
            "maintenance",
            format!("The specified maintenance time {seconds} is a negative value"),
        ),
        Some((zone, seconds)) => {
            let until = version + (seconds * VERSIONS_PER_SECOND as f64) as Version;
            edit.set(HEALTHY_ZONE.into(), &[&until.to_le_bytes(), zone].concat());
            Ok(())
        }
        None => Ok(()),
    }
}

fn commit_minimum_version(
    part: &Part,
    writes: &special::Writes,
    edit: &mut Edit,
    version: Version,
) -> Changed {
    const COMMAND: &str = "advanceversion";
    /// Versions last for a thousand years below this.
    const MAX: i64 = i64::MAX - 1 - VERSIONS_PER_SECOND * 3_600 * 24 * 365 * 1_000;
    let Some(value) = writes.get(part.begin).flatten() else {
        edit.clear(MINIMUM_VERSION.into());
        return Ok(());
    };
    let Ok(wanted) = lossy(value).parse::<i64>() else {
        let message = format!("Invalid version(int64_t) argument: {}", lossy(value));
        return refuse(COMMAND, message);
    };
    if edit.get(VERSION_EPOCH).is_some() {
        return refuse(
            COMMAND,
            "Illegal to modify the version while the version epoch is enabled",
        );
    }
    if wanted > MAX {
        return refuse(
            COMMAND,
            "The given version is larger than the maximum allowed \
             value(2**63-1-version_per_second*3600*24*365*1000)",
        );
    }
    if version > wanted {
        return refuse(
            COMMAND,
            "Current read version is larger than the given version",
        );
    }
    edit.set(MINIMUM_VERSION.into(), &(wanted + 1).to_le_bytes());
    Ok(())
}

fn commit_tenants(part: &Part, writes: &special::Writes, edit: &mut Edit) -> Changed {
    let conflict = || refuse("rename tenant", "tenant rename conflict");
    let mut changes = Changes::default();
    let mut on_map = Vec::new();
    let mut renamed: Vec<Key> = Vec::new();
    for (begin, end, value) in writes.within(part.begin, part.end) {
        let cut = TENANTS.len();
        let (begin, end) = (&begin[cut..], end.get(cut..).unwrap_or_default());
        if let Some((from, to)) = tenant_names(begin, end)? {
            on_map.push((from, to, value.cloned()));
        } else if let Some(key) = begin.strip_prefix(TENANT_CONFIGURE) {
            if is_key_after(end, begin) {
                let Some((name, parameter)) = configuration(key) else {
                    return refuse("configure tenant", "invalid tenant configuration key");
                };
                let parameters = changes.configure.entry(name).or_default();
                parameters.push((parameter, value.cloned()));
            }
        } else if let Some(from) = begin.strip_prefix(TENANT_RENAME) {
            let to = value.ok_or(Error::INTERNAL_ERROR)?;
            let from = Key::from(from);
            if renamed.contains(&from) || renamed.contains(to) || from == *to {
                return conflict();
            }
            renamed.extend([from.clone(), to.clone()]);
            changes.rename.push((from, to.clone()));
        }
    }
    for (begin, end, value) in on_map {
        if renamed.iter().any(|name| begin <= *name && *name < end) {
            return conflict();
        }
        if value.is_some() {
            let configuration = changes.configure.remove(&begin).unwrap_or_default();
            changes.create.insert(begin, configuration);
        } else {
            let deleted = |name: &Key, _: &mut Configuration| *name < begin || *name >= end;
            changes.configure.retain(deleted);
            if is_key_after(&end, &begin) {
                changes.delete.push(begin);
            } else {
                changes.delete_ranges.push((begin, end));
            }
        }
    }
    if renamed
        .iter()
        .any(|name| changes.configure.contains_key(name))
    {
        return conflict();
    }
    changes.apply(edit)?;
    Ok(())
}

/// A tenant's name and a parameter, packed into a key.
fn configuration(key: &[u8]) -> Option<(Key, Key)> {
    match tuple::elements(key)?.as_slice() {
        [name, parameter] => Some((name.string()?.into(), parameter.string()?.into())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_by_length() {
        let names = |begin: &[u8], end: &[u8]| {
            tenant_names(begin, end).map(|names| names.map(|(b, e)| (b.to_vec(), e.to_vec())))
        };
        let range = |begin: &[u8], end: &[u8]| Ok(Some((begin.to_vec(), end.to_vec())));
        assert_eq!(names(b"map/a", b"map/b"), range(b"a", b"b"));
        assert_eq!(names(b"", b"zz"), range(b"", b"\xff"));
        assert_eq!(names(b"map/a", b""), Err(Error::INVERTED_RANGE));
        assert_eq!(names(b"map/\xff1", b"map0"), Err(Error::INVERTED_RANGE));
        assert_eq!(names(b"", b""), Ok(None));
        assert_eq!(names(b"rename/a", b"rename/b"), Ok(None));
    }
}
