//! Live queries: what Sync's subscriptions read and watch, shared by all processes of the node.
//!
//! ```text
//! subscribe ──► read + arm watch (one transaction) ──► result waits to be taken
//!                        ▲                                   │ watch fires
//!                        └──── re-read + re-arm, once ◄──────┘
//!                                    │
//!                                    └──► {subscription, :ready} to every subscriber
//! ```
//!
//! The state machines are in the `live_state` crate; here are the database and the VM around them.
//! Each module imports only modules above it:
//!
//! - [`query`], [`snapshot`], [`shared_term`]: what is read, what was, and its change as a term.
//! - [`basis`]: what a query relies on beside the keys it reads.
//! - [`events`]: what telemetry and logs hear of.
//! - [`live_query`]: a query that is kept up to date, with its subscribers.
//! - [`subscription`]: one process's interest.
//! - [`notifier`]: messages to processes. [`planner`]: who makes new plans. [`call`]: who waits to
//!   subscribe.
//! - [`registry`]: the live queries of a database.
//! - [`batch`], [`reader`]: many queries read at one version.
//! - [`look`]: what is asked of the database beside live queries.
//! - [`heartbeat`]: what is asked while nothing changes. [`settle`]: what is asked until everybody knows
//!   everything. [`listing`]: what an operator sees.

pub mod basis;
pub mod query;
pub mod shared_term;
pub mod snapshot;

pub mod events;
pub mod live_query;
pub mod subscription;

pub mod call;
pub mod notifier;
pub mod planner;

pub mod registry;

mod batch;
mod look;

mod heartbeat;
pub mod listing;
mod reader;
pub mod settle;

use self::registry::Workers;

/// What reads live queries and looks after them.
pub const WORKERS: Workers = Workers {
    read: reader::start,
    heartbeat: heartbeat::start,
};
