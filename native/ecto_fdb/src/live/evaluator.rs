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

/// The evaluator, and processes of its that wait for an evaluation to do.
pub struct Evaluator {
    pid: Mutex<Option<LocalPid>>,
    idle: Mutex<Vec<LocalPid>>,
    permits: Permits,
    /// For what takes long: it must not hold up all others.
    side: Permits,
}

/// So many evaluations at once for each that may begin, if they take long.
const SIDE: usize = 4;

impl Default for Evaluator {
    fn default() -> Self {
        Evaluator {
            pid: Mutex::new(None),
            idle: Mutex::default(),
            permits: Permits::none(),
            side: Permits::none(),
        }
    }
}

/// So many evaluations may be under way.
struct Permits {
    free: Arc<Semaphore>,
    all: Mutex<usize>,
}

/// Allows an evaluation.
pub type Permit = OwnedSemaphorePermit;

impl Permits {
    fn none() -> Self {
        Permits {
            free: Arc::new(Semaphore::new(0)),
            all: Mutex::new(0),
        }
    }

    fn set(&self, all: usize) {
        let before = std::mem::replace(&mut *self.all.lock(), all);
        self.free.add_permits(all.saturating_sub(before));
        self.free.forget_permits(before.saturating_sub(all));
    }

    async fn wait(&self) -> Permit {
        let free = Arc::clone(&self.free);
        // It is never closed.
        free.acquire_owned().await.expect("permits")
    }

    fn try_take(&self) -> Option<Permit> {
        Arc::clone(&self.free).try_acquire_owned().ok()
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
        self.permits.set(at_once);
        self.side.set(at_once * SIDE);
    }

    /// The calling process waits for an evaluation.
    pub fn idle(&self, env: Env<'_>) {
        self.idle.lock().push(env.pid());
    }

    /// Waits until an evaluation may begin. Those who wait get their turns in order; those who have taken
    /// long before wait by themselves.
    pub async fn permit(&self, side: bool) -> Permit {
        match side {
            true => self.side.wait().await,
            false => self.permits.wait().await,
        }
    }

    /// Another one, if nobody waits for it.
    pub fn another_permit(&self) -> Option<Permit> {
        self.permits.try_take()
    }

    /// One for an evaluation that has begun and takes long.
    pub fn side_permit(&self) -> Option<Permit> {
        self.side.try_take()
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
        let evaluation = ResourceArc::new(Evaluation(Mutex::new(Some(sender))));
        let send = |pid: LocalPid| {
            OwnedEnv::new().send_and_clear(&pid, |env| {
                let woken = match &woken {
                    Some(key) => binary(env, key),
                    None => atom::nil().encode(env),
                };
                let (evaluation, code) = (evaluation.clone(), binary(env, code));
                (atoms::evaluate(), evaluation, code, read_version, woken).encode(env)
            })
        };
        // A process that waits for it begins sooner than the evaluator can start another.
        loop {
            let idle = self.idle.lock().pop();
            match idle.map(send) {
                None => break,
                Some(Ok(())) => return Ok(()),
                Some(Err(_dead)) => {}
            }
        }
        let evaluator = *self.pid.lock();
        match evaluator.map(send) {
            Some(Ok(())) => Ok(()),
            _ => Err(Error::Client(
                "no process of the Repo evaluates functions. Check that the Repo is running".into(),
            )),
        }
    }
}
