//! Functions' turns: each evaluates a function for all who wait for it, calls and its live query, in a
//! transaction of its own. As many turns are under way as the Repo evaluates at once, in the order in which
//! they were wanted; each function has one at a time. What takes long goes on at the side, in bounded number,
//! so that it holds up nobody.

use std::collections::HashSet;
use std::sync::Arc;

use live_state::Lane;

use super::batch::{Batch, Refresh};
use super::live_query::SLOW;
use super::query::Query;
use super::reader;
use super::registry::LiveQueries;
use super::subscription::FirstResults;
use crate::client;

/// Starts the turns of a function. They end when nobody waits for one.
pub fn start(live: Arc<LiveQueries>, function: Arc<Query>) {
    client::runtime().spawn(run(live, function));
}

async fn run(live: Arc<LiveQueries>, function: Arc<Query>) {
    loop {
        let side = live.find(&function).is_some_and(|found| found.is_side());
        let permit = live.evaluator.permit(side).await;
        let Some((calls, refresh)) = live.next_turn(&function) else {
            return;
        };
        let queries = calls.iter().flat_map(|(_, call)| call.queries());
        let functions: HashSet<&Arc<Query>> =
            queries.filter(|query| query.function().is_some()).collect();
        // A call may want several at one version: they are evaluated side by side if there is room.
        let more: Vec<_> = (1..functions.len())
            .map_while(|_| live.evaluator.another_permit())
            .collect();
        let refreshes: Vec<_> = refresh
            .into_iter()
            .filter(|live_query| live_query.begin_read())
            .collect();
        let batch = Batch {
            calls,
            refreshes: refreshes.iter().cloned().map(Refresh::new).collect(),
            first_results: FirstResults::default(),
            evaluations: 1 + more.len(),
        };
        let reading = reader::read_guarded(&live, batch, Lane::Side, &refreshes);
        tokio::pin!(reading);
        let mut permits = vec![permit];
        permits.extend(more);
        if tokio::time::timeout(SLOW, &mut reading).await.is_err() {
            // It goes on at the side, if there is room.
            if let Some(permit) = live.evaluator.side_permit() {
                permits = vec![permit];
            }
            reading.await;
        }
        drop(permits);
    }
}
