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
//! - [`query`], [`snapshot`], [`shared_term`]: what is read, what was, and its change as a term.
//!   [`stream_change`]: its change for a page that keeps no records.
//! - [`basis`]: what a query relies on beside the keys it reads.
//! - [`events`]: events for telemetry and logs.
//! - [`live_query`]: a query that is kept up to date, with its subscribers.
//! - [`subscription`]: one process's interest.
//! - [`notifier`]: messages to processes. [`planner`]: requests for new plans. [`call`]: processes that
//!   wait to subscribe.
//! - [`registry`]: the live queries of a database.
//! - [`batch`], [`reader`]: many queries read at one version.
//! - [`look`]: what is asked of the database beside live queries.
//! - [`heartbeat`]: what is asked while nothing changes. [`settle`]: what is asked until everybody knows
//!   everything. [`listing`]: what an operator sees.

pub mod basis;
pub mod query;
pub mod shared_term;
pub mod snapshot;
mod stream_change;
pub mod value;

pub mod events;
pub mod live_query;
pub mod subscription;

pub mod call;
pub mod evaluator;
pub mod notifier;
pub mod planner;

pub mod registry;

mod batch;
mod evaluation;
mod look;

mod functions;
mod heartbeat;
pub mod listing;
mod reader;
pub mod settle;

use self::registry::Workers;

/// Reads live queries and runs the heartbeat.
pub const WORKERS: Workers = Workers {
    read: reader::start,
    evaluate: functions::start,
    heartbeat: heartbeat::start,
};
