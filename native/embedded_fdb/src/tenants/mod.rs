//! Tenants: named parts of a database with separate keys.
//!
//! A tenant is a number; its keys are stored below the number as eight bytes. The names are system
//! keys, in the engine's own layout, so that creating and deleting tenants is transactional.

pub(crate) mod functions;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use crate::database::Handle;
use crate::error::{Error, Result};
use crate::keys::{Key, Value};
use crate::mapped::prefix_end;
use crate::mvcc::Map;
use crate::space::Space;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{lock, Mutex};
use crate::transaction::Edit;

/// Name to number.
const BY_NAME: &[u8] = b"\xff/tenant/nameIndex/";
/// Number to name.
const BY_ID: &[u8] = b"\xff/tenant/map/";
/// Number to group, if the tenant is in one.
const GROUP: &[u8] = b"\xff/tenant/groupOf/";
/// The number of the latest tenant.
const LAST_ID: &[u8] = b"\xff/tenant/lastId";

/// A cluster looks up a name with its next commit, and makes a commit for that within this time.
const LOOK_UP: Duration = Duration::from_millis(10);

/// The tenant that `fdb_database_open_tenant` returns.
pub(crate) struct Tenant {
    pub(crate) handle: Arc<Handle>,
    name: Key,
    opened: Instant,
    /// Looked up once: a tenant that is created later needs a new handle.
    id: OnceLock<Result<i64>>,
}

impl Tenant {
    pub(crate) fn open(handle: Arc<Handle>, name: Key) -> Arc<Self> {
        let tenant = Arc::new(Tenant {
            handle,
            name,
            opened: Instant::now(),
            id: OnceLock::new(),
        });
        tenant.handle.database.lookups.add(&tenant);
        tenant
    }

    /// The number of the tenant, whether it still exists or not.
    pub(crate) fn id(&self) -> Result<i64> {
        match self.id.get() {
            Some(id) => *id,
            None => self.look_up(&self.handle.database.newest_map()),
        }
    }

    fn look_up(&self, map: &Map) -> Result<i64> {
        let id = || find(map, &self.name).ok_or(Error::TENANT_NOT_FOUND);
        *self.id.get_or_init(id)
    }

    /// The number of the tenant, which must exist in the snapshot.
    pub(crate) fn id_at(&self, map: &Map) -> Result<i64> {
        let id = self.id()?;
        exists(map, id).then_some(id).ok_or(Error::TENANT_NOT_FOUND)
    }
}

/// Tenants that were opened and not looked up yet.
#[derive(Default)]
pub(crate) struct Lookups {
    any: AtomicBool,
    tenants: Mutex<Vec<Weak<Tenant>>>,
}

impl Lookups {
    fn add(&self, tenant: &Arc<Tenant>) {
        lock(&self.tenants).push(Arc::downgrade(tenant));
        self.any.store(true, Ordering::Release);
    }

    /// Looks up, before a commit, the tenants that were opened long enough ago.
    pub(crate) fn before_commit(&self, map: impl FnOnce() -> Map) {
        if self.any.load(Ordering::Acquire) {
            self.look_up(&map(), |tenant| tenant.opened.elapsed() > LOOK_UP);
        }
    }

    /// Looks up all tenants, after a commit.
    pub(crate) fn after_commit(&self, map: impl FnOnce() -> Map) {
        if self.any.swap(false, Ordering::AcqRel) {
            self.look_up(&map(), |_| true);
        }
    }

    fn look_up(&self, map: &Map, due: impl Fn(&Tenant) -> bool) {
        lock(&self.tenants).retain(|tenant| {
            let tenant = tenant.upgrade().filter(|tenant| tenant.id.get().is_none());
            tenant.is_some_and(|tenant| {
                let due = due(&tenant);
                if due {
                    // The result shows when the tenant is used.
                    let _ = tenant.look_up(map);
                }
                !due
            })
        });
    }
}

fn key(prefix: &[u8], suffix: &[u8]) -> Key {
    [prefix, suffix].concat().into()
}

fn number(value: &Value) -> Option<i64> {
    Some(i64::from_be_bytes(value[..].try_into().ok()?))
}

fn find(map: &Map, name: &[u8]) -> Option<i64> {
    number(map.get(&key(BY_NAME, name)[..])?)
}

/// Whether a tenant has that number.
pub(crate) fn exists(map: &Map, id: i64) -> bool {
    map.contains_key(&id_key(id)[..])
}

/// Whether a range may contain keys of tenants.
pub(crate) fn any_in(map: &Map, begin: &[u8], end: &[u8]) -> bool {
    let id = |key: &[u8]| {
        let mut id = [0; 8];
        let length = key.len().min(8);
        id[..length].copy_from_slice(&key[..length]);
        u64::from_be_bytes(id)
    };
    // A range that ends with a tenant's first key does not contain the tenant.
    let last = if end.len() > 8 {
        Some(id(end))
    } else {
        id(end).checked_sub(1)
    };
    let Some(last) = last.filter(|last| id(begin) <= *last) else {
        return false;
    };
    let (first, last) = (id(begin).to_be_bytes(), last.to_be_bytes());
    map.range(key(BY_ID, &first)..=key(BY_ID, &last))
        .next()
        .is_some()
}

/// The system key that exists as long as the tenant exists.
pub(crate) fn id_key(id: i64) -> Key {
    key(BY_ID, &id.to_be_bytes())
}

/// Tenants whose names are in a range, with their descriptions as JSON; at most `limit`.
pub(crate) fn list(map: &Map, begin: &[u8], end: &[u8], limit: Option<usize>) -> Vec<(Key, Value)> {
    ids(map, begin, end)
        .take(limit.unwrap_or(usize::MAX))
        .map(|(name, id)| {
            let group = map.get(&key(GROUP, &id.to_be_bytes())[..]);
            let description = describe(&name, id, group.map(|group| &group[..]));
            (name, description.into_bytes().into())
        })
        .collect()
}

/// The names in a range, with their numbers.
fn ids<'a>(map: &'a Map, begin: &[u8], end: &[u8]) -> impl Iterator<Item = (Key, i64)> + 'a {
    map.range(key(BY_NAME, begin)..key(BY_NAME, end.max(begin)))
        .filter_map(|(key, value)| Some((key[BY_NAME.len()..].into(), number(value)?)))
}

fn describe(name: &[u8], id: i64, group: Option<&[u8]>) -> String {
    let group = group.map_or_else(String::new, |group| {
        format!(r#","tenant_group":{}"#, binary(group))
    });
    format!(
        r#"{{"id":{id},"lock_state":"unlocked","name":{},"prefix":{}{group}}}"#,
        binary(name),
        binary(&Space::tenant_prefix(id))
    )
}

/// Bytes in JSON, for machines and for humans.
fn binary(bytes: &[u8]) -> String {
    let printable: String = bytes
        .iter()
        .map(|&byte| match byte {
            b'\\' => r"\\\\".to_owned(),
            b'"' => r#"\""#.to_owned(),
            0x20..=0x7e => char::from(byte).to_string(),
            _ => format!(r"\\x{byte:02x}"),
        })
        .collect();
    format!(
        r#"{{"base64":"{}","printable":"{printable}"}}"#,
        base64(bytes)
    )
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk
            .iter()
            .fold(0u32, |group, &byte| group << 8 | u32::from(byte))
            << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let index = (group >> (18 - 6 * digit)) & 63;
            encoded.push(if digit <= chunk.len() {
                char::from(DIGITS[index as usize])
            } else {
                '='
            });
        }
    }
    encoded
}

/// A transaction's changes to tenants, according to its writes to special keys. They are applied
/// immediately to the snapshot: one change does not see another.
#[derive(Default)]
pub(crate) struct Changes {
    /// By name, with the configuration of each.
    pub(crate) create: BTreeMap<Key, Configuration>,
    pub(crate) delete: Vec<Key>,
    pub(crate) delete_ranges: Vec<(Key, Key)>,
    pub(crate) configure: BTreeMap<Key, Configuration>,
    pub(crate) rename: Vec<(Key, Key)>,
}

/// Parameters with their values; a parameter without a value is unset.
pub(crate) type Configuration = Vec<(Key, Option<Value>)>;

impl Changes {
    pub(crate) fn apply(self, edit: &mut Edit) -> Result<()> {
        for name in &self.delete {
            delete(edit, name)?;
        }
        for (begin, end) in &self.delete_ranges {
            edit.reads.push((key(BY_NAME, begin), key(BY_NAME, end)));
            let names: Vec<Key> = ids(edit.map, begin, end).map(|(name, _)| name).collect();
            for name in names {
                delete(edit, &name)?;
            }
        }
        create(edit, &self.create)?;
        for (name, configuration) in &self.configure {
            let id = edit.get(&key(BY_NAME, name)).and_then(number);
            configure(edit, id.ok_or(Error::TENANT_NOT_FOUND)?, configuration)?;
        }
        for (from, to) in &self.rename {
            rename(edit, from, to)?;
        }
        Ok(())
    }
}

/// Creates tenants. An existing one stays as it is, but another number is skipped in its place.
fn create(edit: &mut Edit, tenants: &BTreeMap<Key, Configuration>) -> Result<()> {
    let mut last = edit.get(LAST_ID).and_then(number).unwrap_or(0);
    for (name, configuration) in tenants {
        last += 1;
        if name.first() == Some(&0xff) {
            return Err(Error::INVALID_TENANT_NAME);
        }
        if edit.get(&key(BY_NAME, name)).is_some() {
            continue;
        }
        let begin = Space::tenant_prefix(last);
        let end = prefix_end(&begin).ok_or(Error::INTERNAL_ERROR)?;
        if edit.any(begin, end) {
            return Err(Error::TENANT_PREFIX_ALLOCATOR_CONFLICT);
        }
        configure(edit, last, configuration)?;
        edit.set(key(BY_NAME, name), &last.to_be_bytes());
        edit.set(id_key(last), name);
    }
    if !tenants.is_empty() {
        edit.set(LAST_ID.into(), &last.to_be_bytes());
    }
    Ok(())
}

fn configure(edit: &mut Edit, id: i64, configuration: &Configuration) -> Result<()> {
    for (parameter, value) in configuration {
        if parameter[..] != *b"tenant_group" {
            return Err(Error::INVALID_TENANT_CONFIGURATION);
        }
        let group = key(GROUP, &id.to_be_bytes());
        match value {
            Some(value) if value.first() == Some(&0xff) => {
                return Err(Error::INVALID_TENANT_GROUP_NAME);
            }
            Some(value) => edit.set(group, value),
            None => edit.clear(group),
        }
    }
    Ok(())
}

/// Deletes a tenant, which must be empty. Deleting a missing one is not an error.
fn delete(edit: &mut Edit, name: &[u8]) -> Result<()> {
    let Some(id) = edit.get(&key(BY_NAME, name)).and_then(number) else {
        return Ok(());
    };
    let begin = Space::tenant_prefix(id);
    let end = prefix_end(&begin).ok_or(Error::INTERNAL_ERROR)?;
    if edit.any(begin, end) {
        return Err(Error::TENANT_NOT_EMPTY);
    }
    edit.clear(key(BY_NAME, name));
    edit.clear(id_key(id));
    edit.clear(key(GROUP, &id.to_be_bytes()));
    Ok(())
}

/// Renames a tenant, which keeps its keys.
fn rename(edit: &mut Edit, from: &[u8], to: &[u8]) -> Result<()> {
    let id = edit.get(&key(BY_NAME, from)).and_then(number);
    let id = id.ok_or(Error::TENANT_NOT_FOUND)?;
    if edit.get(&key(BY_NAME, to)).is_some() {
        return Err(Error::TENANT_ALREADY_EXISTS);
    }
    edit.clear(key(BY_NAME, from));
    edit.set(key(BY_NAME, to), &id.to_be_bytes());
    edit.set(id_key(id), to);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutation::Mutation;

    #[test]
    fn base64_is_padded() {
        assert_eq!(base64(b""), "");
        assert_eq!(base64(b"f"), "Zg==");
        assert_eq!(base64(b"fo"), "Zm8=");
        assert_eq!(base64(b"foo"), "Zm9v");
        assert_eq!(base64(&[0xff; 4]), "/////w==");
    }

    #[test]
    fn descriptions_are_json() {
        let expected = concat!(
            r#"{"id":1,"lock_state":"unlocked","name":{"base64":"YSIA","printable":"a\"\\x00"},"#,
            r#""prefix":{"base64":"AAAAAAAAAAE=","#,
            r#""printable":"\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x01"},"#,
            r#""tenant_group":{"base64":"Zw==","printable":"g"}}"#
        );
        assert_eq!(describe(b"a\"\0", 1, Some(b"g")), expected);
    }

    /// Applies changes, and returns the resulting writes if they are valid.
    fn apply(map: &mut Map, changes: Changes) -> Result<()> {
        let snapshot = map.clone();
        let mut edit = Edit::new(&snapshot);
        changes.apply(&mut edit)?;
        for mutation in edit.mutations {
            match mutation {
                Mutation::Single { key, operand, .. } => map.insert(key, operand),
                Mutation::ClearRange { begin, .. } => map.remove(&begin[..]),
            };
        }
        Ok(())
    }

    fn name(name: &str) -> Key {
        name.as_bytes().into()
    }

    fn creating(names: &[&str]) -> Changes {
        Changes {
            create: names.iter().map(|n| (name(n), Vec::new())).collect(),
            ..Changes::default()
        }
    }

    #[test]
    fn numbers_are_given_in_the_order_of_names_and_not_given_twice() {
        let mut map = Map::new();
        assert_eq!(apply(&mut map, creating(&["b", "a"])), Ok(()));
        assert_eq!((find(&map, b"a"), find(&map, b"b")), (Some(1), Some(2)));
        assert_eq!(apply(&mut map, creating(&["b"])), Ok(()));
        assert_eq!(apply(&mut map, creating(&["c"])), Ok(()));
        assert_eq!((find(&map, b"b"), find(&map, b"c")), (Some(2), Some(4)));
        map.insert(
            [&Space::tenant_prefix(5)[..], b"x"].concat().into(),
            b""[..].into(),
        );
        assert_eq!(
            apply(&mut map, creating(&["d"])),
            Err(Error::TENANT_PREFIX_ALLOCATOR_CONFLICT)
        );
    }

    #[test]
    fn what_cannot_be_done_has_errors_of_its_own() {
        let mut map = Map::new();
        assert_eq!(apply(&mut map, creating(&["a", "b"])), Ok(()));
        map.insert(
            [&Space::tenant_prefix(1)[..], b"x"].concat().into(),
            b""[..].into(),
        );
        let delete = |key: &str| Changes {
            delete: vec![name(key)],
            ..Changes::default()
        };
        assert_eq!(apply(&mut map, delete("a")), Err(Error::TENANT_NOT_EMPTY));
        assert_eq!(apply(&mut map, delete("c")), Ok(()));
        let rename = |from: &str, to: &str| Changes {
            rename: vec![(name(from), name(to))],
            ..Changes::default()
        };
        assert_eq!(
            apply(&mut map, rename("a", "b")),
            Err(Error::TENANT_ALREADY_EXISTS)
        );
        assert_eq!(
            apply(&mut map, rename("c", "d")),
            Err(Error::TENANT_NOT_FOUND)
        );
        let range = Changes {
            delete_ranges: vec![(name("b"), name("z"))],
            ..Changes::default()
        };
        assert_eq!(apply(&mut map, range), Ok(()));
        assert_eq!((find(&map, b"a"), find(&map, b"b")), (Some(1), None));
        let group = |parameter: &str, value: &str| Changes {
            configure: BTreeMap::from([(name("a"), vec![(name(parameter), Some(name(value)))])]),
            ..Changes::default()
        };
        assert_eq!(
            apply(&mut map, group("other", "x")),
            Err(Error::INVALID_TENANT_CONFIGURATION)
        );
        assert_eq!(apply(&mut map, group("tenant_group", "g")), Ok(()));
        let listed = list(&map, b"", b"\xff", None);
        assert!(listed[0].1.ends_with(br#""printable":"g"}}"#));
    }
}
