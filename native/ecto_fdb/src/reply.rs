//! Answers: one message `{ref, answer}` to the process that asked.

use std::sync::Arc;

use parking_lot::Mutex;
use rustler::env::SavedTerm;
use rustler::{Encoder, Env, LocalPid, OwnedEnv, Reference, Term};

/// The gate that answers pass through while somebody waits for them.
#[derive(Clone, Default)]
pub struct Gate(Arc<Mutex<bool>>);

impl Gate {
    /// When this returns, no answer will pass any more.
    pub fn shut(&self) {
        *self.0.lock() = true;
    }
}

/// The caller and its reference. Sent at most once.
pub struct Reply {
    gate: Gate,
    env: OwnedEnv,
    reference: SavedTerm,
    pid: LocalPid,
}

impl Reply {
    /// An answer owed to the calling process, while the gate is open.
    pub fn new(env: Env<'_>, reference: Reference<'_>, gate: Gate) -> Self {
        let owned = OwnedEnv::new();
        let reference = owned.save(reference);
        Reply {
            gate,
            env: owned,
            reference,
            pid: env.pid(),
        }
    }

    /// Sends `{ref, answer}`. Must not be called on a scheduler thread. If the process is gone, nothing
    /// happens: its monitors clean up after it.
    pub fn send<F>(mut self, answer: F)
    where
        F: for<'a> FnOnce(Env<'a>) -> Term<'a>,
    {
        let reference = self.reference;
        // Building the term may take long, and a scheduler may wait for the gate: only the sending, which
        // hands over the environment, happens inside.
        let owned = &self.env;
        let message = owned.run(|env| owned.save((reference.load(env), answer(env)).encode(env)));
        let shut = self.gate.0.lock();
        if *shut {
            return;
        }
        let _ = self.env.send_and_clear(&self.pid, |env| message.load(env));
    }
}
