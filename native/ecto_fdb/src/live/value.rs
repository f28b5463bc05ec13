//! What a function gave, shared by every page that shows it.

use std::sync::Arc;

use rustler::{Encoder, Env, Term};

use super::shared_term::SharedTerm;

/// A result of a function: a term that was made once, and is copied into each process that takes it.
pub struct Value {
    term: SharedTerm,
    cost: usize,
}

/// A result by reference.
pub type SharedValue = Arc<Value>;

impl Value {
    /// A copy of a term, which takes so many bytes.
    pub fn new(term: Term<'_>, bytes: usize) -> SharedValue {
        Arc::new(Value {
            term: SharedTerm::new(|env| term.in_env(env)),
            cost: bytes,
        })
    }

    /// What it costs to take, in the unit of `Snapshot::cost`.
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// Whether both are the same term (`===`).
    pub fn is(&self, other: &Value) -> bool {
        std::ptr::eq(self, other) || self.term.equals(&other.term)
    }
}

impl Encoder for Value {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        self.term.copy(env)
    }
}
