//! Tenants: named parts of a database, each with keys of its own.
//!
//! A tenant is a number; its keys are stored below the number as eight bytes. The names are system
//! keys (in a layout of our own), so that creating and deleting tenants is transactional.

use std::sync::Arc;

use crate::database::Handle;
use crate::error::{Error, Result};
use crate::keys::{Key, Value};
use crate::mapped::prefix_end;
use crate::mutation::{Mutation, Op};
use crate::mvcc::Map;
use crate::resolver::{single_key, KeyRange};

/// Name to number.
const BY_NAME: &[u8] = b"\xff/tenant/nameIndex/";
/// Number to name.
const BY_ID: &[u8] = b"\xff/tenant/map/";
/// The number of the tenant created last.
const LAST_ID: &[u8] = b"\xff/tenant/lastId";

/// What `fdb_database_open_tenant` gives.
pub(crate) struct Tenant {
    pub(crate) handle: Arc<Handle>,
    /// Looked up once, when the tenant is opened: one that is created later needs another handle.
    id: Result<i64>,
}

impl Tenant {
    pub(crate) fn open(handle: Arc<Handle>, name: &[u8]) -> Self {
        let id = find(&handle.database.snapshot().map, name).ok_or(Error::TENANT_NOT_FOUND);
        Tenant { handle, id }
    }

    /// The number of the tenant, whether it still exists or not.
    pub(crate) fn id(&self) -> Result<i64> {
        self.id
    }

    /// The number of the tenant, which must exist in the snapshot.
    pub(crate) fn id_at(&self, map: &Map) -> Result<i64> {
        let id = self.id?;
        exists(map, id).then_some(id).ok_or(Error::TENANT_NOT_FOUND)
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

/// Whether there is a tenant with that number.
pub(crate) fn exists(map: &Map, id: i64) -> bool {
    map.contains_key(&id_key(id)[..])
}

/// Whether there are tenants whose keys may be in a range.
pub(crate) fn any_in(map: &Map, begin: &[u8], end: &[u8]) -> bool {
    let id = |key: &[u8]| {
        let mut id = [0; 8];
        let length = key.len().min(8);
        id[..length].copy_from_slice(&key[..length]);
        u64::from_be_bytes(id)
    };
    // A tenant is not in the range where that ends with its first key.
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

/// The system key that exists as long as the tenant does.
pub(crate) fn id_key(id: i64) -> Key {
    key(BY_ID, &id.to_be_bytes())
}

/// What the keys of a tenant begin with in the database.
pub(crate) fn prefix(id: i64) -> Key {
    id.to_be_bytes()[..].into()
}

/// Tenants whose names are in a range, with their descriptions as JSON.
pub(crate) fn list(map: &Map) -> Vec<(Key, Value)> {
    let Some(end) = prefix_end(BY_NAME) else {
        return Vec::new();
    };
    map.range(Key::from(BY_NAME)..end)
        .filter_map(|(key, value)| {
            let name: Key = key[BY_NAME.len()..].into();
            let description = describe(&name, number(value)?);
            Some((name, description.into_bytes().into()))
        })
        .collect()
}

fn describe(name: &[u8], id: i64) -> String {
    format!(
        r#"{{"id":{id},"lock_state":"unlocked","name":{},"prefix":{}}}"#,
        binary(name),
        binary(&prefix(id))
    )
}

/// Bytes in JSON, for machines and for people.
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

/// The changes of one transaction to the tenants, made against its snapshot.
pub(crate) struct Edit<'a> {
    map: &'a Map,
    mutations: Vec<Mutation>,
    reads: Vec<KeyRange>,
    writes: Vec<KeyRange>,
    last_id: Option<i64>,
}

/// What [`Edit`] amounts to.
pub(crate) struct Edited {
    pub(crate) mutations: Vec<Mutation>,
    pub(crate) reads: Vec<KeyRange>,
    pub(crate) writes: Vec<KeyRange>,
}

impl<'a> Edit<'a> {
    pub(crate) fn new(map: &'a Map) -> Self {
        Edit {
            map,
            mutations: Vec::new(),
            reads: Vec::new(),
            writes: Vec::new(),
            last_id: None,
        }
    }

    /// Creates a tenant; one that exists stays as it is.
    pub(crate) fn create(&mut self, name: &[u8]) -> Result<()> {
        check_name(name)?;
        self.reads.push(single_key(&key(BY_NAME, name)));
        if find(self.map, name).is_some() {
            return Ok(());
        }
        self.reads.push(single_key(&LAST_ID.into()));
        let last = self
            .last_id
            .or_else(|| number(self.map.get(LAST_ID)?))
            .unwrap_or(-1);
        let id = last + 1;
        self.last_id = Some(id);
        self.set(LAST_ID.into(), &id.to_be_bytes());
        self.set(key(BY_NAME, name), &id.to_be_bytes());
        self.set(id_key(id), name);
        Ok(())
    }

    /// Deletes a tenant, which must be empty; one that does not exist is no error.
    pub(crate) fn delete(&mut self, name: &[u8]) -> Result<()> {
        check_name(name)?;
        self.reads.push(single_key(&key(BY_NAME, name)));
        let Some(id) = find(self.map, name) else {
            return Ok(());
        };
        let begin = prefix(id);
        let end = prefix_end(&begin).ok_or(Error::INTERNAL_ERROR)?;
        if self.map.range(begin.clone()..end.clone()).next().is_some() {
            return Err(Error::TENANT_NOT_EMPTY);
        }
        self.reads.push((begin, end));
        self.clear(key(BY_NAME, name));
        self.clear(id_key(id));
        Ok(())
    }

    /// Deletes the tenants whose names are in a range.
    pub(crate) fn delete_range(&mut self, begin: &[u8], end: &[u8]) -> Result<()> {
        self.reads.push((key(BY_NAME, begin), key(BY_NAME, end)));
        for (name, _) in list(self.map) {
            if &name[..] >= begin && &name[..] < end {
                self.delete(&name)?;
            }
        }
        Ok(())
    }

    /// Renames a tenant; its keys stay with it.
    pub(crate) fn rename(&mut self, from: &[u8], to: &[u8]) -> Result<()> {
        check_name(to)?;
        self.reads.push(single_key(&key(BY_NAME, from)));
        self.reads.push(single_key(&key(BY_NAME, to)));
        let id = find(self.map, from).ok_or(Error::TENANT_NOT_FOUND)?;
        if find(self.map, to).is_some() {
            return Err(Error::TENANT_ALREADY_EXISTS);
        }
        self.clear(key(BY_NAME, from));
        self.set(key(BY_NAME, to), &id.to_be_bytes());
        self.set(id_key(id), to);
        Ok(())
    }

    pub(crate) fn finish(self) -> Edited {
        Edited {
            mutations: self.mutations,
            reads: self.reads,
            writes: self.writes,
        }
    }

    fn set(&mut self, key: Key, value: &[u8]) {
        self.writes.push(single_key(&key));
        self.mutations.push(Mutation::Single {
            op: Op::Set,
            key,
            operand: value.into(),
        });
    }

    fn clear(&mut self, key: Key) {
        let (begin, end) = single_key(&key);
        self.writes.push((begin.clone(), end.clone()));
        self.mutations.push(Mutation::ClearRange { begin, end });
    }
}

fn check_name(name: &[u8]) -> Result<()> {
    if name.first() == Some(&0xff) {
        Err(Error::INVALID_TENANT_NAME)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            r#""printable":"\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x01"}}"#
        );
        assert_eq!(describe(b"a\"\0", 1), expected);
    }

    #[test]
    fn an_edit_sees_only_the_snapshot() {
        let mut map = Map::new();
        let mut edit = Edit::new(&map);
        assert_eq!(edit.create(b"a"), Ok(()));
        assert_eq!(edit.create(b"b"), Ok(()));
        assert_eq!(edit.create(b"\xff"), Err(Error::INVALID_TENANT_NAME));
        assert_eq!(edit.rename(b"a", b"c"), Err(Error::TENANT_NOT_FOUND));
        for mutation in edit.finish().mutations {
            if let Mutation::Single { key, operand, .. } = mutation {
                map.insert(key, operand);
            }
        }
        assert_eq!((find(&map, b"a"), find(&map, b"b")), (Some(0), Some(1)));
        map.insert([&prefix(0)[..], b"x"].concat().into(), b""[..].into());
        let mut edit = Edit::new(&map);
        assert_eq!(edit.delete(b"a"), Err(Error::TENANT_NOT_EMPTY));
        assert_eq!(edit.rename(b"a", b"b"), Err(Error::TENANT_ALREADY_EXISTS));
        assert_eq!(edit.delete_range(b"b", b"c"), Ok(()));
        assert_eq!(edit.finish().mutations.len(), 2);
    }
}
