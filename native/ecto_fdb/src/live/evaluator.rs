//! The process of the Repo that has functions evaluated: it gets a request for each evaluation, and another
//! process answers.

use std::collections::BTreeSet;
use std::sync::Arc;

use foundationdb::FdbError;
use live_state::Key;
use parking_lot::Mutex;
use rustler::types::atom;
use rustler::{Encoder, Env, LocalPid, OwnedEnv, Resource, ResourceArc};
use tokio::sync::{oneshot, OwnedSemaphorePermit, Semaphore};

use super::basis::Basis;
use super::value::SharedValue;
use crate::error::Error;
use crate::tuple::binary;

mod atoms {
    rustler::atoms! { evaluate }
}

/// The evaluator. As many evaluations may be under way as it has said.
pub struct Evaluator {
    pid: Mutex<Option<LocalPid>>,
    permits: Arc<Semaphore>,
    at_once: Mutex<usize>,
}

impl Default for Evaluator {
    fn default() -> Self {
        Evaluator {
            pid: Mutex::new(None),
            permits: Arc::new(Semaphore::new(0)),
            at_once: Mutex::new(0),
        }
    }
}

/// What an evaluation has read.
#[derive(Default)]
pub struct Dependencies {
    /// The keys that its result relies on, in ascending order.
    pub keys: Vec<Key>,
    /// The tenant, and the sources whose lists it has read.
    pub basis: Option<Arc<Basis>>,
}

/// Why an evaluation gave no result.
pub enum Trouble {
    /// An error of the database's that may pass.
    Retry(FdbError),
    /// What subscribers are told.
    Error(Error),
}

/// What an evaluation gives.
pub struct Outcome {
    /// The function's result.
    pub result: Result<SharedValue, Trouble>,
    /// What it has read until then.
    pub read: Dependencies,
}

/// An evaluation that was asked for. Dropping it, unanswered, tells that its process has ended.
pub struct Evaluation(Mutex<Option<oneshot::Sender<Outcome>>>);

#[rustler::resource_impl]
impl Resource for Evaluation {}

impl Evaluation {
    /// Its answer. Only the first one counts.
    pub fn answer(&self, outcome: Outcome) {
        if let Some(sender) = self.0.lock().take() {
            // Whoever asked may have gone.
            let _ = sender.send(outcome);
        }
    }
}

/// Keys in ascending order, each once.
pub fn in_order(keys: impl IntoIterator<Item = Vec<u8>>) -> Vec<Key> {
    let keys: BTreeSet<Vec<u8>> = keys.into_iter().collect();
    keys.into_iter().map(Key::from).collect()
}

impl Evaluator {
    /// Makes the calling process the evaluator, and allows so many evaluations at once.
    pub fn set(&self, env: Env<'_>, at_once: usize) {
        *self.pid.lock() = Some(env.pid());
        let before = std::mem::replace(&mut *self.at_once.lock(), at_once);
        if at_once > before {
            self.permits.add_permits(at_once - before);
        } else {
            self.permits.forget_permits(before - at_once);
        }
    }

    /// Waits until an evaluation may begin. Those who wait get their turns in order.
    pub async fn permit(&self) -> OwnedSemaphorePermit {
        let permits = Arc::clone(&self.permits);
        // It is never closed.
        permits.acquire_owned().await.expect("permits")
    }

    /// Another one, if nobody waits for it.
    pub fn another_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    /// Has a function evaluated at a read version. `woken` is the key whose change has led to it.
    pub async fn evaluate(&self, code: &[u8], read_version: i64, woken: Option<Key>) -> Outcome {
        let (sender, outcome) = oneshot::channel();
        let asked = self.ask(sender, code, read_version, woken);
        let error = match asked {
            Err(error) => error,
            Ok(()) => match outcome.await {
                Ok(outcome) => return outcome,
                Err(_dropped) => Error::Client(
                    "the Repo's process that evaluated this function has ended".into(),
                ),
            },
        };
        Outcome {
            result: Err(Trouble::Error(error)),
            read: Dependencies::default(),
        }
    }

    /// Sends `{:evaluate, evaluation, code, read_version, key | nil}`.
    fn ask(
        &self,
        sender: oneshot::Sender<Outcome>,
        code: &[u8],
        read_version: i64,
        woken: Option<Key>,
    ) -> Result<(), Error> {
        let pid = *self.pid.lock();
        let evaluation = ResourceArc::new(Evaluation(Mutex::new(Some(sender))));
        let sent = pid.map(|pid| {
            OwnedEnv::new().send_and_clear(&pid, |env| {
                let woken = match woken {
                    Some(key) => binary(env, &key),
                    None => atom::nil().encode(env),
                };
                let code = binary(env, code);
                (atoms::evaluate(), evaluation, code, read_version, woken).encode(env)
            })
        });
        match sent {
            Some(Ok(())) => Ok(()),
            _ => Err(Error::Client(
                "no process of the Repo evaluates functions. Check that the Repo is running".into(),
            )),
        }
    }
}
