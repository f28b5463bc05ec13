//! Answers: one message `{ref, answer}` to the process that asked.

use rustler::env::SavedTerm;
use rustler::{Encoder, Env, LocalPid, OwnedEnv, Reference, Term};

/// Who asked, and under which reference. Sent at most once.
pub struct Reply {
    env: OwnedEnv,
    reference: SavedTerm,
    pid: LocalPid,
}

impl Reply {
    /// An answer owed to the calling process.
    pub fn new(env: Env<'_>, reference: Reference<'_>) -> Self {
        let owned = OwnedEnv::new();
        let reference = owned.save(reference);
        Reply {
            env: owned,
            reference,
            pid: env.pid(),
        }
    }

    /// Sends `{ref, answer}`. Must not be called on a scheduler thread. Nobody to hear it is no
    /// error: the process's monitors clean up after it.
    pub fn send<F>(mut self, answer: F)
    where
        F: for<'a> FnOnce(Env<'a>) -> Term<'a>,
    {
        let reference = self.reference;
        let _ = self.env.send_and_clear(&self.pid, |env| {
            (reference.load(env), answer(env)).encode(env)
        });
    }
}
