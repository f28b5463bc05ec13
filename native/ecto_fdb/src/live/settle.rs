//! Waits until every subscription of the node knows every earlier commit.
//!
//! A read version obtained first defines "earlier". A subscription knows all of these commits when three
//! things have happened, in this order:
//!
//! - Its call has been answered, if it was made before. Later calls don't count: they read newer data.
//! - Its live query is confirmed at that version or a later one, by a read or by a check of its watched
//!   key, on a basis that is valid there; and the round that notifies its subscribers has visited all of
//!   them.
//! - The notifier has sent the messages that were queued until then.
//!
//! Live queries don't report to the waiting process: it checks them again after short pauses. This is for
//! tests, which call it occasionally, and costs live queries nothing otherwise.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout_at, Instant};

use super::basis::MetadataVersion;
use super::look::{self, Bases, LOOKS};
use super::notifier;
use super::registry::LiveQueries;
use super::subscription::LiveQuery;
use crate::error::Error;

/// The pause before hanging reads are checked again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(32);
/// How long one transaction waits for keys that give no answer.
const LONGEST_LOOK: Duration = Duration::from_millis(500);

/// The time is over, and some subscriptions are not up to date.
pub struct Unsettled {
    /// What it waited for.
    pub doing: String,
    /// The database's last error.
    pub error: Option<Error>,
}

/// Returns when all subscriptions know every commit from before the call.
pub async fn settle(live: &Arc<LiveQueries>, deadline: Instant) -> Result<(), Unsettled> {
    let last_call = live.calls.last();
    let mut error = None;
    let mut pauses = Pauses::new(deadline);
    let (version, metadata) = loop {
        match timeout_at(deadline, look::versions(live)).await {
            Ok(Ok(versions)) => break versions,
            Ok(Err(refused)) => {
                live.refused(&refused);
                error = Some(refused);
            }
            Err(_elapsed) => {}
        }
        if !pauses.wait().await {
            let doing = "settling, which begins with a read version".into();
            return Err(Unsettled { doing, error });
        }
    };
    let mut pauses = Pauses::new(deadline);
    loop {
        let Some(missing) = missing(live, last_call, version, &metadata) else {
            break;
        };
        let until = deadline.min(Instant::now() + LONGEST_LOOK);
        if let Ok(Err(refused)) = timeout_at(until, missing.look(live)).await {
            live.refused(&refused);
            error = Some(refused);
        }
        if !pauses.wait().await {
            // The last look may have settled some of them.
            let Some(missing) = self::missing(live, last_call, version, &metadata) else {
                break;
            };
            let doing = missing.to_string();
            return Err(Unsettled { doing, error });
        }
    }
    match timeout_at(deadline, notifier::drained()).await {
        Ok(()) => Ok(()),
        Err(_elapsed) => Err(Unsettled {
            doing: "settling: messages to processes are still being sent".into(),
            error,
        }),
    }
}

struct Pauses {
    deadline: Instant,
    next: Duration,
}

impl Pauses {
    fn new(deadline: Instant) -> Self {
        Pauses {
            deadline,
            next: FIRST_PAUSE,
        }
    }

    /// Waits a little; false when the time is over.
    async fn wait(&mut self) -> bool {
        if Instant::now() >= self.deadline {
            return false;
        }
        sleep(self.next).await;
        self.next = (self.next * 2).min(LONGEST_PAUSE);
        true
    }
}

/// What is missing until all subscriptions are up to date.
struct Missing {
    calls: usize,
    /// Live queries that are not settled.
    unsettled: Vec<Arc<LiveQuery>>,
    /// Bases that have not been checked since.
    bases: Bases,
    version: i64,
}

/// `None` if nothing is missing.
fn missing(
    live: &LiveQueries,
    last_call: u64,
    version: i64,
    metadata: &MetadataVersion,
) -> Option<Missing> {
    let calls = live.calls.open_until(last_call);
    // A subscriber that moves between live queries meanwhile might be missed at both.
    let moves = live.moves();
    let mut unsettled = Vec::new();
    let mut unverified = 0;
    let mut bases = Bases::default();
    live.each(|live_query| {
        if !live_query.is_settled(version) {
            unsettled.push(Arc::clone(live_query));
        }
        let basis = live_query.relies_on();
        if let Some(basis) = basis.filter(|basis| !basis.is_verified_since(metadata)) {
            unverified += 1;
            bases.add(basis, live_query);
        }
    });
    let moving = moves.is_none() || live.moves() != moves;
    let nothing = calls == 0 && unsettled.is_empty() && unverified == 0 && !moving;
    (!nothing).then_some(Missing {
        calls,
        unsettled,
        bases,
        version,
    })
}

impl Missing {
    /// Requests from the database what no other part is about to request.
    async fn look(&self, live: &LiveQueries) -> Result<(), Error> {
        let bases = self.bases.all();
        for some in bases.chunks(LOOKS) {
            look::bases(live, some).await?;
        }
        let wanting: Vec<_> = self
            .unsettled
            .iter()
            .filter(|live_query| live_query.wants_probe(self.version))
            .cloned()
            .collect();
        for some in wanting.chunks(LOOKS) {
            look::watched_keys(live, some, &mut look::open(some)).await?;
        }
        Ok(())
    }
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "settling: ")?;
        if self.calls > 0 {
            return write!(f, "{} calls wait for their first results", self.calls);
        }
        let Some(example) = self.unsettled.first() else {
            return write!(
                f,
                "live queries rely on tenants and indexes that give no answer"
            );
        };
        write!(
            f,
            "{} live queries are not up to date, such as {}, where {}",
            self.unsettled.len(),
            example.query,
            example.hindrance()
        )
    }
}
