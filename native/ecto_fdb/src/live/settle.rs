//! Waits until every subscription of the node knows all that was committed before.
//!
//! A read version that is obtained first says what "before" is. From then on a subscription knows all of it
//! when three things have happened, in this order:
//!
//! - Its call has been answered, if it was made before. Nobody waits for later ones: they read more.
//! - Its live query is confirmed at that version or a later one, by a read or by a look at its watched key,
//!   on a basis that is right there; and the round that tells its subscribers has visited all of them.
//! - The notifier has sent what was queued until then.
//!
//! Live queries do not report to anybody who waits here: this looks at them again after short pauses. It is
//! for tests, which call it now and then, and costs live queries nothing that do without it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout_at, Instant};

use super::basis::MetadataVersion;
use super::look::{self, Bases, LOOKS};
use super::notifier;
use super::registry::LiveQueries;
use super::subscription::LiveQuery;
use crate::error::Error;

/// The pause before what hangs is looked at again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(32);
/// How long one transaction waits for keys that give no answer.
const LONGEST_LOOK: Duration = Duration::from_millis(500);

/// The time is over, and not everybody knows everything.
pub struct Unsettled {
    /// What was waited for.
    pub doing: String,
    /// The last error that the database gave.
    pub error: Option<Error>,
}

/// Returns when everybody knows everything that was committed before it was called.
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

/// What is missing until everybody knows everything.
struct Missing {
    calls: usize,
    /// Live queries that are not settled.
    unsettled: Vec<Arc<LiveQuery>>,
    /// What live queries rely on, which nobody has looked at since.
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
    // Subscribers that move to another live query meanwhile might be met at neither.
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
    /// Asks the database for what nobody else is about to ask it.
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
            return write!(f, "{} calls wait for what they sync", self.calls);
        }
        let Some(example) = self.unsettled.first() else {
            return write!(
                f,
                "live queries rely on tenants and indexes that give no answer"
            );
        };
        write!(
            f,
            "{} live queries are not up to date, such as the one that watches the key \"{}\", where {}",
            self.unsettled.len(),
            example.query.watch.escape_ascii(),
            example.hindrance()
        )
    }
}
