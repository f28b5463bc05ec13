//! The state machines behind live queries.
//!
//! A live query is read, watched, planned, kept fresh and fanned out to its subscribers. Each of
//! these is a small machine here. A transition takes what happened and the time, changes the
//! machine, and returns [`Effects`]: what the caller has to do once it has released its lock. The
//! machines know neither the VM nor a database, so they are tested by themselves: with properties
//! against a model of a database (`tests/model.rs`), and with loom where threads meet
//! (`tests/threads.rs`).
//!
//! - [`LiveQueryState`]: one live query, made of [`WatchSet`], [`Reads`], [`Plan`], [`Freshness`]
//!   and [`FanOut`].
//! - [`SubscriptionState`]: one subscription: whether its message may be sent.
//! - [`Pulse`]: whether the database answers at all.
//! - [`Queue`], [`Storm`]: what waits for the next batch, and when mounts gather.
//! - [`places`]: what has moved in a list.
//! - [`Turns`]: what waits for the next evaluation of a function.

mod backoff;
mod fan_out;
mod freshness;
mod live_query;
pub mod places;
mod plan;
mod pulse;
mod queue;
mod reads;
mod storm;
mod subscription;
mod turns;
mod watch;

pub use backoff::{Backoff, LONGEST_DELAY};
pub use fan_out::FanOut;
pub use freshness::{Freshness, Turn};
pub use live_query::{Effects, LiveQueryState, NewRead, Probe};
pub use plan::{Plan, Stage};
pub use pulse::Pulse;
pub use queue::{Batch, Full, Lane, Queue};
pub use reads::{Reads, Schedule};
pub use storm::{Storm, LONGEST_WAIT, LONGEST_WINDOW, LULL};
pub use subscription::{Phase, SubscriptionState};
pub use turns::{Share, Turns};
pub use watch::{Armed, Arming, Key, Places, Released, WatchSet, Watched};
