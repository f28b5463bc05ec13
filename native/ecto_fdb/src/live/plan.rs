//! Plans follow migrations: a query that reads an index holds only as long as that index is there.
//!
//! Every batch compares the metadata version with the one under which a query was planned, and the
//! heartbeat does where nothing else is read. Where they differ, the Repo's planner process is
//! asked for a new plan, once for all pages; until it answers they keep what they have.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustler::types::atom;
use rustler::{Encoder, Env, LocalPid, OwnedEnv, Resource, ResourceArc, Term};

use super::entry::Entry;
use super::query::{MetadataVersion, Query};
use crate::client;
use crate::error::Error;

mod atoms {
    rustler::atoms! { replan }
}

/// The process that makes plans.
#[derive(Default)]
pub struct Planner(Mutex<Option<LocalPid>>);

/// What the planner answers to: one entry that wants a new plan.
pub struct Request(Weak<Entry>);

#[rustler::resource_impl]
impl Resource for Request {}

/// The planner's answer.
pub enum Answer {
    /// Read this from now on.
    Plan(Query),
    /// There is no plan: the data stay, stale, for this reason.
    None(String),
}

impl Planner {
    /// Makes the calling process the planner.
    pub fn set(&self, env: Env<'_>) {
        *self.0.lock() = Some(env.pid());
    }

    /// Sends `{:replan, request, what_was_asked_for}`. Nobody may be there to hear it: whoever gets no
    /// answer asks again.
    pub fn ask(&self, entry: &Arc<Entry>) {
        let (Some(planner), Some(plan)) = (*self.0.lock(), entry.query.plan.as_deref()) else {
            return;
        };
        let request = ResourceArc::new(Request(Arc::downgrade(entry)));
        let _ = OwnedEnv::new().send_and_clear(&planner, |env| {
            (atoms::replan(), request, plan_term(env, plan)).encode(env)
        });
    }
}

/// Why data are stale that no plan has been made for.
pub fn unanswered() -> Error {
    Error::Client(
        "the indexes of the database have changed, and the Repo's process has not said how to read \
         the list now: is it running?"
            .into(),
    )
}

fn plan_term<'a>(env: Env<'a>, plan: &[u8]) -> Term<'a> {
    // SAFETY: these bytes came from `enif_term_to_binary` in this VM.
    let term = unsafe { env.binary_to_term_trusted(plan) };
    term.map_or_else(|| atom::nil().encode(env), |(term, _)| term)
}

/// Puts a plan, made under this metadata version, in place.
pub fn answer(request: &Request, answer: Answer, version: MetadataVersion) {
    let Some(entry) = request.0.upgrade() else {
        return;
    };
    // There may be many subscribers to move: not on a scheduler.
    client::runtime().spawn(async move {
        match answer {
            Answer::None(reason) => entry.unplanned(Error::Client(reason), version),
            Answer::Plan(query) if query == *entry.query => entry.planned(version),
            Answer::Plan(query) => entry.replace(query, version),
        }
    });
}
