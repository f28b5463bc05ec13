//! Replaces `tenants` when the feature `management` is off. Its types have no values, so the compiler
//! removes the code for them.

use crate::error::Result;
use crate::keys::Key;
use crate::mvcc::Map;

/// No tenant can be opened.
pub(crate) enum Tenant {}

impl Tenant {
    pub(crate) fn id(&self) -> Result<i64> {
        match *self {}
    }

    pub(crate) fn id_at(&self, _map: &Map) -> Result<i64> {
        match *self {}
    }
}

/// There is nothing to look up.
#[derive(Default)]
pub(crate) struct Lookups;

impl Lookups {
    pub(crate) fn before_commit(&self, _map: impl FnOnce() -> Map) {}

    pub(crate) fn after_commit(&self, _map: impl FnOnce() -> Map) {}
}

pub(crate) fn any_in(_map: &Map, _begin: &[u8], _end: &[u8]) -> bool {
    false
}

/// The system key that exists as long as a tenant does.
pub(crate) fn id_key(_id: i64) -> Key {
    Key::default()
}
