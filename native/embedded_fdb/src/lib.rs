//! FoundationDB inside the process: its C API (`fdb_c.h`, API version 730) without a server.
//!
//! # Concepts
//!
//! A **transaction** reads the database as it was at one moment, its **read version**: a number that
//! grows by about a million each second. It sees its own writes on top (*read-your-writes*); others
//! see them only after it **commits**. Its reads are kept as **read conflict ranges**, its writes as
//! **write conflict ranges**. A commit succeeds if none of its read conflict ranges intersects a write
//! conflict range of a transaction that committed after the read version. Otherwise it fails with
//! `not_committed` (1020) and changes nothing. So committed transactions are strictly serializable,
//! without locks. Old versions are kept for five seconds; a transaction that reads or commits later
//! gets `transaction_too_old` (1007).
//!
//! A **snapshot read** adds no read conflict range. An **atomic operation** changes a value without
//! reading it. A **versionstamp** is ten bytes, made of the commit's version, which the commit itself
//! puts into a key or a value; until then such keys are *unreadable* to their transaction (1036). A
//! **watch** is a future that becomes ready when the value of a key has changed.
//!
//! # Sources
//!
//! `mvcc` keeps the versions, `resolver` finds conflicts, `watches` waits for changes; `database`
//! joins them and commits. `write_map` is one transaction's writes, `view` its reads, and
//! `transaction` its life; `round_trips` decides when the answers to its reads arrive. `future` and
//! `network` are the asynchronous side of the C API, whose functions are in [`c_api`], and `output` has
//! the results of futures. `registry` finds the databases of the process by name, `storage` keeps one in
//! a file, and `faults` injects failures. `special` generates the special keys, which are not stored,
//! and `mapped` follows an index in a range read.
//!
//! Two features can be switched off. `management` adds `tenants`, which give a transaction a part of
//! the keys (`space`), and the special keys for management; `old-api` adds the functions of API versions
//! before 730.
//!
//! # Names of databases
//!
//! The cluster file path given to `fdb_create_database` chooses the database:
//!
//! | path                   | database                                                       |
//! |------------------------|----------------------------------------------------------------|
//! | `embedded:memory:NAME` | the one called `NAME`, in memory                               |
//! | `embedded:file:PATH`   | the one in the file `PATH`, which is created if it does not exist |
//! | of a file whose first line is one of the above (`#` begins a comment) | that one; `PATH` is relative to the file's directory |
//! | none, or empty         | the one named by the environment variable `FDB_CLUSTER_FILE`, if set; otherwise the unnamed one, in memory |
//! | any other              | the unnamed one, in memory                                     |
//!
//! All handles of a name share one database, and so do all spellings of a path. A database lives until
//! the process ends.
//!
//! # Files
//!
//! A database in a file is read into memory when it is opened. Every commit is in the file before it is
//! acknowledged or visible to others. Only one process at a time can have a file open: `PATH.lock`,
//! beside `PATH`, names that process. A file that does not contain everything that was committed to it is
//! refused. [`admin::Database::open`] explains why; C clients get `io_error` (1510), `file_corrupt`
//! (1522) or `lock_file_failure` (1529). The module `storage` documents how this works.
//!
//! # Injected faults
//!
//! An application must survive the failures of a cluster: commits that conflict or whose result is
//! unknown, transactions that are too old, watches that fail, answers that come late.
//! [`admin::Database::set_faults`] injects all of these, with probabilities of your choice and a seed that
//! makes them repeatable ([`admin::Faults`]). For C clients, the environment variable
//! `EMBEDDED_FDB_FAULTS` does the same for each database that is opened:
//!
//! ```text
//! EMBEDDED_FDB_FAULTS=seed=1,not_committed=0.1,commit_unknown_result=0.05 my_application_tests
//! ```
//!
//! [`admin::Database::set_outage`] makes part of a database, or all of it, stop answering
//! ([`admin::Outage`]).

pub mod admin;
mod api_version;
pub mod c_api;
pub mod c_types;
mod database;
mod error;
mod faults;
mod future;
#[cfg(all(loom, test))]
mod interleavings;
mod keys;
mod mapped;
mod mutation;
mod mvcc;
mod network;
#[cfg(feature = "old-api")]
mod old_api;
mod options;
mod output;
mod random;
mod range_read;
mod range_set;
mod registry;
mod resolver;
mod round_trips;
mod sample;
mod space;
mod special;
mod status;
mod storage;
mod sync;
#[cfg(feature = "management")]
mod tenants;
#[cfg(not(feature = "management"))]
#[path = "no_tenants.rs"]
mod tenants;
mod transaction;
mod tuple;
mod view;
mod watches;
mod write_map;

pub use c_api::symbol;

/// Runs the README's Rust code as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
