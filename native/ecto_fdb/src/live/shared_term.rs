//! A term that is made once and copied into many processes.

use rustler::sys::ErlNifTerm;
use rustler::{Env, OwnedEnv, Term};

/// So many processes take a term that was made once.
pub const MANY: usize = 8;

/// A term in an environment of its own.
pub struct SharedTerm {
    env: OwnedEnv,
    term: ErlNifTerm,
}

// SAFETY: nothing is added to the environment, and nothing removed from it, after `new`. Threads only
// read its terms, and what they count while they copy (binaries' references) the VM counts atomically.
unsafe impl Sync for SharedTerm {}

impl SharedTerm {
    /// Makes a term.
    pub fn new(make: impl for<'a> FnOnce(Env<'a>) -> Term<'a>) -> Self {
        let env = OwnedEnv::new();
        let term = env.run(|env| make(env).as_c_arg());
        SharedTerm { env, term }
    }

    /// Whether both are the same term (`===`).
    pub fn equals(&self, other: &SharedTerm) -> bool {
        self.env.run(|mine| {
            other.env.run(|theirs| {
                // SAFETY: `new` has made each of these terms in its environment, which was not cleared since.
                unsafe { Term::new(mine, self.term) == Term::new(theirs, other.term) }
            })
        })
    }

    /// A copy of it.
    pub fn copy<'a>(&self, to: Env<'a>) -> Term<'a> {
        self.env.run(|env| {
            // SAFETY: `new` has made this term in this environment, which was not cleared since.
            unsafe { Term::new(env, self.term) }.in_env(to)
        })
    }
}
