//! The Repo's process that makes new plans when the indexes of a list have changed, once for all of the
//! list's subscribers. Until it answers, they keep their data.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustler::types::atom;
use rustler::{Encoder, Env, LocalPid, OwnedEnv, Resource, ResourceArc, Term};

use super::basis::Basis;
use super::query::Query;
use super::subscription::LiveQuery;

mod atoms {
    rustler::atoms! { replan }
}

/// The planner.
#[derive(Default)]
pub struct Planner(Mutex<Option<LocalPid>>);

/// The reference for the planner's answer: a live query that wants a new plan.
pub struct Request(Weak<LiveQuery>);

#[rustler::resource_impl]
impl Resource for Request {}

/// The planner's answer.
pub enum Answer {
    /// Read this from now on.
    Plan(Query, Option<Arc<Basis>>),
    /// No plan can be made from this basis, for this reason.
    Missing(String, Option<Arc<Basis>>),
}

impl Planner {
    /// Makes the calling process the planner.
    pub fn set(&self, env: Env<'_>) {
        *self.0.lock() = Some(env.pid());
    }

    /// Sends `{:replan, request, asked_for}`. If the planner is gone, the live query gets no answer and
    /// asks again.
    pub fn ask(&self, live_query: &Arc<LiveQuery>) {
        let (Some(planner), Some(asked_for)) =
            (*self.0.lock(), live_query.query.asked_for.as_deref())
        else {
            return;
        };
        let request = ResourceArc::new(Request(Arc::downgrade(live_query)));
        let _ = OwnedEnv::new().send_and_clear(&planner, |env| {
            (atoms::replan(), request, to_term(env, asked_for)).encode(env)
        });
    }
}

fn to_term<'a>(env: Env<'a>, asked_for: &[u8]) -> Term<'a> {
    // SAFETY: these bytes came from `enif_term_to_binary` in this VM.
    let term = unsafe { env.binary_to_term_trusted(asked_for) };
    term.map_or_else(|| atom::nil().encode(env), |(term, _)| term)
}

impl Request {
    /// The live query, if it still has subscribers.
    pub fn live_query(&self) -> Option<Arc<LiveQuery>> {
        self.0.upgrade()
    }
}
