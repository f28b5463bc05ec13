//! A process's call that waits for its subscriptions to be established.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use rustler::types::atom;
use rustler::{Encoder, LocalPid, ResourceArc};

use super::basis::Basis;
use super::query::Query;
use super::subscription::{Subscribed, Subscription};
use crate::error::Error;
use crate::reply::Reply;

mod atoms {
    rustler::atoms! { replan }
}

/// One of a subscription's live queries, before the subscription is established.
pub enum Wanted {
    /// To be read with the next batch.
    Read(Arc<Query>),
    /// Taken over from an earlier subscription, with the data that the process has.
    Kept(Subscribed),
}

/// A subscription that is not established yet.
pub struct Pending {
    /// The subscription.
    pub subscription: ResourceArc<Subscription>,
    /// What the queries to be read rely on.
    pub basis: Option<Arc<Basis>>,
    /// Its queries.
    pub wanted: Vec<Wanted>,
}

impl Pending {
    /// The queries to be read, with their places.
    pub fn reads(&self) -> impl Iterator<Item = (u32, &Arc<Query>)> {
        (0..)
            .zip(&self.wanted)
            .filter_map(|(place, wanted)| match wanted {
                Wanted::Read(query) => Some((place, query)),
                Wanted::Kept(_) => None,
            })
    }
}

/// The calls that have begun and not ended, by their tickets, which rise.
#[derive(Clone, Default)]
pub struct OpenCalls(Arc<Mutex<Tickets>>);

#[derive(Default)]
struct Tickets {
    last: u64,
    open: BTreeSet<u64>,
}

impl OpenCalls {
    /// A call begins.
    pub fn begin(&self) -> OpenCall {
        let mut tickets = self.0.lock();
        tickets.last += 1;
        let ticket = tickets.last;
        tickets.open.insert(ticket);
        OpenCall {
            ticket,
            calls: self.clone(),
        }
    }

    /// The ticket of the latest call.
    pub fn last(&self) -> u64 {
        self.0.lock().last
    }

    /// How many calls up to this ticket are still open.
    pub fn open_until(&self, ticket: u64) -> usize {
        self.0.lock().open.range(..=ticket).count()
    }
}

/// A call that has begun. Dropping this ends it.
pub struct OpenCall {
    /// Its ticket.
    pub ticket: u64,
    calls: OpenCalls,
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.calls.0.lock().open.remove(&self.ticket);
    }
}

/// A call.
pub struct Call {
    /// Dropped with the call: when it has been answered, or nobody waits for it.
    pub open: OpenCall,
    /// Its subscriptions.
    pub subscriptions: Vec<Pending>,
    /// The process.
    pub caller: LocalPid,
    /// What the process waits for.
    pub reply: Option<Reply>,
}

impl Call {
    /// Whether nobody waits for it any more.
    pub fn is_over(&self) -> bool {
        self.subscriptions
            .iter()
            .all(|pending| pending.subscription.is_over())
    }

    /// A subscription that reports, once the call is queued, whether its process has died before.
    pub fn witness(&self) -> Option<ResourceArc<Subscription>> {
        let last = self.subscriptions.last()?;
        Some(last.subscription.clone())
    }

    /// The queries to be read.
    pub fn queries(&self) -> impl Iterator<Item = &Arc<Query>> {
        self.subscriptions
            .iter()
            .flat_map(|pending| pending.reads().map(|(_, query)| query))
    }

    /// What they rely on.
    pub fn bases(&self) -> impl Iterator<Item = &Arc<Basis>> {
        self.subscriptions
            .iter()
            .filter_map(|pending| pending.basis.as_ref())
    }

    /// How many queries are to be read; at least one.
    pub fn size(&self) -> usize {
        self.queries().count().max(1)
    }

    /// Ends its subscriptions, and answers with this error.
    pub fn refuse(mut self, error: &Error) {
        self.answer(|reply| reply.send(|env| (atom::error(), error).encode(env)));
    }

    /// Ends its subscriptions, and answers that the call must be planned again.
    pub fn replan(mut self) {
        self.answer(|reply| reply.send(|env| atoms::replan().encode(env)));
    }

    fn answer(&mut self, answer: impl FnOnce(Reply)) {
        let Some(reply) = self.reply.take() else {
            return;
        };
        let Some((last, others)) = self.subscriptions.split_last() else {
            return answer(reply);
        };
        for pending in others {
            pending.subscription.end();
        }
        last.subscription.refuse(|| answer(reply));
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // Only a panic drops a call without an answer.
        if self.reply.is_some() && !self.is_over() {
            let error = Error::Client(
                "reading live queries panicked: a bug in ecto_fdb_sync. Its VM's standard error has the \
                 message"
                    .into(),
            );
            self.answer(|reply| reply.send(|env| (atom::error(), error).encode(env)));
        }
    }
}
