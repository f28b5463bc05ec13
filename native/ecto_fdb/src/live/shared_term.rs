//! A term that is made once and copied to many processes.

use rustler::sys::ErlNifTerm;
use rustler::{Env, OwnedEnv, Term};

/// The number of processes from which on a shared term is worthwhile.
pub const MANY: usize = 8;

/// A term in its own environment.
pub struct SharedTerm {
    env: OwnedEnv,
    term: ErlNifTerm,
}

// SAFETY: nothing is added to or removed from the environment after `new`. Threads only read its terms,
// and the VM's counters that copying changes (of binaries' references) are atomic.
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
            // SAFETY: `new` has made this term in this environment, which has not been cleared since.
            unsafe { Term::new(env, self.term) }.in_env(to)
        })
    }
}
