//! Live queries: the queries of Sync's subscriptions, shared by all processes of the node.
//!
//! ```text
//! subscribe ──► read + arm watch (one transaction) ──► result waits to be taken
//!                        ▲                                   │ watch fires
//!                        └──── re-read + re-arm, once ◄──────┘
//!                                    │
//!                                    └──► {subscription, :ready} to every subscriber
//! ```
//!
//! The `live_state` crate has the state machines; these modules connect them to the database and the VM.
//! Each module imports only modules above it:
//!
//! - [`query`], [`snapshot`], [`shared_term`]: a query, its result, and a change to it as a term.
//! - [`basis`]: what a query relies on beside the keys it reads.
//! - [`events`]: events for telemetry and logs.
//! - [`live_query`]: a query that is kept up to date, with its subscribers.
//! - [`subscription`]: one process's interest.
//! - [`notifier`]: messages to processes. [`planner`]: requests for new plans. [`call`]: processes that
//!   wait to subscribe.
//! - [`registry`]: the live queries of a database.
//! - [`batch`], [`reader`]: many queries read at one version.
//! - [`look`]: checks of the database that read no live query.
//! - [`heartbeat`]: checks while nothing changes. [`settle`]: waits until every subscriber is up to
//!   date.

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
mod reader;
pub mod settle;

use self::registry::Workers;

/// Reads live queries and runs the heartbeat.
pub const WORKERS: Workers = Workers {
    read: reader::start,
    heartbeat: heartbeat::start,
};
