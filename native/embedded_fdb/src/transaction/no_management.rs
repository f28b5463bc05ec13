//! Replaces `management` when that feature is off. Its types have no values, so the compiler removes the
//! code for them.

use super::*;
use crate::special::{Hint, Part};

/// No special key is about management.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Managed {}

pub(crate) static MANAGED_PARTS: &[Part] = &[];

impl Transaction {
    pub(super) fn managed_rows(
        &self,
        _inner: &mut Inner,
        (_part, subject): (&Part, Managed),
        _begin: &[u8],
        _end: &[u8],
        _hint: Hint,
    ) -> Result<Vec<(Key, Value)>> {
        match subject {}
    }

    /// No writable key is stored.
    pub(super) fn edit_managed(&self, _inner: &mut Inner) -> Result<CommitRequest> {
        Ok(CommitRequest::default())
    }
}

impl Inner {
    pub(super) fn set_managed(
        &mut self,
        (_part, subject): (&Part, Managed),
        _key: &[u8],
        _value: &[u8],
    ) {
        match subject {}
    }

    pub(super) fn clear_managed(
        &mut self,
        subject: Managed,
        _begin: &[u8],
        _end: &[u8],
    ) -> Option<(&'static str, &'static str)> {
        match subject {}
    }
}
