//! Changes to system keys that a client makes when it commits writes to special keys.

use crate::keys::{Key, Value};
use crate::mutation::{Mutation, Op};
use crate::mvcc::Map;
use crate::resolver::{single_key, KeyRange};

/// A commit's reads from the snapshot, and its writes. It does not see its own writes.
pub(crate) struct Edit<'a> {
    pub(crate) map: &'a Map,
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
        }
    }

    pub(crate) fn get(&mut self, key: &[u8]) -> Option<&'a Value> {
        self.reads.push(single_key(&key.into()));
        self.map.get(key)
    }

    /// Whether a range contains a key.
    pub(crate) fn any(&mut self, begin: Key, end: Key) -> bool {
        let any = self.map.range(begin.clone()..end.clone()).next().is_some();
        self.reads.push((begin, end));
        any
    }

    pub(crate) fn set(&mut self, key: Key, value: &[u8]) {
        self.change(Op::Set, key, value);
    }

    pub(crate) fn change(&mut self, op: Op, key: Key, value: &[u8]) {
        self.writes.push(single_key(&key));
        self.mutations.push(Mutation::Single {
            op,
            key,
            operand: value.into(),
        });
    }

    pub(crate) fn clear(&mut self, key: Key) {
        let (begin, end) = single_key(&key);
        self.clear_range(begin, end);
    }

    pub(crate) fn clear_range(&mut self, begin: Key, end: Key) {
        self.writes.push((begin.clone(), end.clone()));
        self.mutations.push(Mutation::ClearRange { begin, end });
    }
}
