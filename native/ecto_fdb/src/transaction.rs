//! Transactions that belong to Elixir processes.
//!
//! Each has a task that owns the database's transaction and takes commands in order. Reads continue
//! beside it; a commit waits for them, as FoundationDB's does. The transaction ends with its process.

use std::sync::Arc;
use std::time::Instant;

use foundationdb::future::FdbSlice;
use foundationdb::options::TransactionOption;
use foundationdb::{FdbError, Transaction, TransactionCommitError};
use futures::future::try_join_all;
use parking_lot::Mutex;
use rustler::types::atom;
use rustler::{Encoder, Env, LocalPid, Monitor, NewBinary, Reference, Resource, ResourceArc, Term};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::client;
use crate::error::Error;
use crate::live::registry::LiveQueries;
use crate::operation::{Answer, Operation, Started};
use crate::reply::{Gate, Reply};
use crate::stats::{Gauge, Sizes};

/// FoundationDB's `used_during_commit`.
const USED_DURING_COMMIT: i32 = 2017;
/// FoundationDB's `transaction_cancelled`.
const TRANSACTION_CANCELLED: i32 = 1025;

/// A command to a transaction.
pub enum Command {
    /// Run operations in order.
    Run(Vec<Operation>, Reply),
    /// Commit.
    Commit(Reply),
    /// Back off and reset after this error code, or return that it can't be retried.
    OnError(i32, Reply),
}

/// A transaction's handle in Elixir. Its process may have no further use for it while it waits for an
/// answer: when the handle is collected, pending commands are still done and answered.
pub struct TransactionHandle {
    commands: mpsc::UnboundedSender<Command>,
    task: Mutex<Option<AbortHandle>>,
    gate: Gate,
    /// Its reads and writes so far.
    pub sizes: Arc<Sizes>,
}

#[rustler::resource_impl]
impl Resource for TransactionHandle {
    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.cancel();
    }
}

impl TransactionHandle {
    /// A new transaction of the calling process, with these options in every attempt.
    pub fn new(
        env: Env<'_>,
        live: &Arc<LiveQueries>,
        options: Vec<TransactionOption>,
    ) -> ResourceArc<TransactionHandle> {
        let (commands, receiver) = mpsc::unbounded_channel();
        let handle = ResourceArc::new(TransactionHandle {
            commands,
            task: Mutex::new(None),
            gate: Gate::default(),
            sizes: Arc::default(),
        });
        // The task is started under the lock, and before the monitor, so that a process that is dying
        // now finds it there.
        let mut task = handle.task.lock();
        let about = About {
            live: Arc::clone(live),
            sizes: Arc::clone(&handle.sizes),
            begun: Instant::now(),
        };
        let started = client::runtime().spawn(serve(about, options, receiver));
        *task = Some(started.abort_handle());
        drop(task);
        if env.monitor(&handle, &env.pid()).is_none() {
            handle.cancel();
        }
        handle
    }

    /// Hands over a command, with the answer that the calling process waits for.
    pub fn tell(
        &self,
        env: Env<'_>,
        reference: Reference<'_>,
        command: impl FnOnce(Reply) -> Command,
    ) {
        if self.task.lock().is_some() {
            let reply = Reply::new(env, reference, self.gate.clone());
            // If the task has just ended, so has its process.
            let _ = self.commands.send(command(reply));
        } else {
            let reply = Reply::new(env, reference, Gate::default());
            let error = Error::from(FdbError::from_code(TRANSACTION_CANCELLED));
            client::runtime().spawn(async move { reply.error(&error) });
        }
    }

    /// Drops the transaction and everything in flight: when this returns, no answer will be sent.
    pub fn cancel(&self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
            self.gate.shut();
        }
    }
}

impl Reply {
    fn error(self, error: &Error) {
        self.send(|env| (atom::error(), error).encode(env));
    }
}

/// The results to report of a transaction's attempt.
#[derive(Clone)]
struct About {
    /// The live queries of its database, which learn how the database responds.
    live: Arc<LiveQueries>,
    sizes: Arc<Sizes>,
    /// When the attempt began.
    begun: Instant,
}

impl About {
    fn answers(&self, reply: Reply, answers: Result<Vec<Answer>, Error>) {
        match answers {
            Ok(answers) => {
                let mut asked = false;
                for (keys, bytes) in answers.iter().filter_map(Answer::read) {
                    asked = true;
                    self.sizes.read(keys, bytes);
                }
                if asked {
                    self.live.transaction_answered(self.begun);
                }
                reply.send(|env| (atom::ok(), answers).encode(env));
            }
            Err(error) => self.error(reply, error),
        }
    }

    fn error(&self, reply: Reply, error: Error) {
        self.live.transaction_failed(&error);
        reply.error(&self.live.database.explain(error));
    }
}

/// The transaction between commands.
enum State {
    Active(Arc<Transaction>),
    /// A commit failed; `on_error` may make the transaction active again.
    Failed(TransactionCommitError),
    /// It was used when it was not allowed; every further use returns this error.
    Unusable(Error),
}

impl State {
    /// FoundationDB forgets options with each attempt.
    fn begin(transaction: Transaction, options: &[TransactionOption]) -> State {
        let set = |option: &TransactionOption| transaction.set_option(option.clone());
        match options.iter().try_for_each(set) {
            Ok(()) => State::Active(Arc::new(transaction)),
            Err(error) => State::Unusable(error.into()),
        }
    }
}

async fn serve(
    mut about: About,
    options: Vec<TransactionOption>,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let database = Arc::clone(&about.live.database);
    let _counted = Gauge::new(&database.stats.transactions);
    let mut state = match database.transaction() {
        Ok(transaction) => State::begin(transaction, &options),
        Err(error) => State::Unusable(error),
    };
    let mut reads = JoinSet::new();
    let mut wrote = false;
    while let Some(command) = commands.recv().await {
        while reads.try_join_next().is_some() {}
        state = match (command, state) {
            (Command::Run(operations, reply), State::Active(transaction)) => {
                wrote |= operations.iter().any(Operation::writes);
                for bytes in operations.iter().filter_map(Operation::written) {
                    about.sizes.wrote(bytes);
                }
                run(&about, &transaction, operations, reply, &mut reads).await;
                State::Active(transaction)
            }
            (Command::Commit(reply), State::Active(transaction)) => {
                while reads.join_next().await.is_some() {}
                commit(&about, &options, transaction, wrote, reply).await
            }
            (Command::OnError(code, reply), state) => {
                reads.shutdown().await;
                wrote = false;
                let state = on_error(&options, state, code, reply).await;
                about.begun = Instant::now();
                state
            }
            (Command::Run(_, reply) | Command::Commit(reply), State::Failed(error)) => {
                reply.error(&Error::from(*error));
                State::Failed(error)
            }
            (Command::Run(_, reply) | Command::Commit(reply), State::Unusable(error)) => {
                reply.error(&error);
                State::Unusable(error)
            }
        };
    }
    while reads.join_next().await.is_some() {}
}

async fn run(
    about: &About,
    transaction: &Arc<Transaction>,
    operations: Vec<Operation>,
    reply: Reply,
    reads: &mut JoinSet<()>,
) {
    let mut answers = Vec::with_capacity(operations.len());
    let mut reading = Vec::new();
    for operation in operations {
        let answer = match operation.start(transaction) {
            Started::Done(answer) => answer,
            Started::InOrder(answer) => answer.await,
            Started::Reading(read) => {
                reading.push((answers.len(), read));
                Ok(Answer::Done)
            }
        };
        match answer {
            Ok(answer) => answers.push(answer),
            Err(error) => return about.error(reply, error),
        }
    }
    if reading.is_empty() {
        return about.answers(reply, Ok(answers));
    }
    let about = about.clone();
    reads.spawn(async move {
        let reads = reading
            .into_iter()
            .map(|(place, read)| async move { read.await.map(|answer| (place, answer)) });
        let read = try_join_all(reads).await.map(|read| {
            for (place, answer) in read {
                answers[place] = answer;
            }
            answers
        });
        about.answers(reply, read);
    });
}

async fn commit(
    about: &About,
    options: &[TransactionOption],
    transaction: Arc<Transaction>,
    wrote: bool,
    reply: Reply,
) -> State {
    let Ok(transaction) = Arc::try_unwrap(transaction) else {
        // Every read holds it only until its answer, and all of them were awaited.
        let error = Error::from(FdbError::from_code(USED_DURING_COMMIT));
        reply.error(&error);
        return State::Unusable(error);
    };
    let stamp = wrote.then(|| transaction.get_versionstamp());
    match transaction.commit().await {
        Ok(committed) => {
            let version = committed.committed_version().unwrap_or(-1);
            let stamp: Option<FdbSlice> = match stamp {
                // A transaction that wrote nothing has none.
                Some(stamp) if version >= 0 => stamp.await.ok(),
                _ => None,
            };
            // A transaction that wrote nothing asked no server.
            if version >= 0 {
                about.live.transaction_answered(about.begun);
            }
            reply.send(|env| (atom::ok(), version, stamp.as_deref().map(Stamp)).encode(env));
            State::begin(committed.reset(), options)
        }
        Err(error) => {
            about.error(reply, Error::from(*error));
            State::Failed(error)
        }
    }
}

async fn on_error(options: &[TransactionOption], state: State, code: i32, reply: Reply) -> State {
    let error = FdbError::from_code(code);
    let result = match state {
        State::Active(transaction) => match Arc::try_unwrap(transaction) {
            Ok(transaction) => transaction.on_error(error).await,
            Err(_) => Err(FdbError::from_code(USED_DURING_COMMIT)),
        },
        State::Failed(failed) => failed.on_error().await,
        State::Unusable(error) => {
            reply.error(&error);
            return State::Unusable(error);
        }
    };
    match result {
        Ok(transaction) => {
            reply.send(|env| atom::ok().encode(env));
            State::begin(transaction, options)
        }
        Err(error) => {
            let error = Error::from(error);
            reply.error(&error);
            State::Unusable(error)
        }
    }
}

/// A versionstamp as a binary.
struct Stamp<'b>(&'b [u8]);

impl Encoder for Stamp<'_> {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        Term::from(NewBinary::from_slice(env, self.0))
    }
}
