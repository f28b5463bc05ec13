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
use crate::live::basis::METADATA_VERSION;
use crate::live::registry::LiveQueries;
use crate::operation::{Answer, Operation, Started};
use crate::reply::{Gate, Reply};
use crate::stats::{count, Gauge, Sizes};

mod atoms {
    rustler::atoms! { unexpected }
}

/// FoundationDB's `not_committed`.
const NOT_COMMITTED: i32 = 1020;
/// FoundationDB's `commit_unknown_result`.
const COMMIT_UNKNOWN_RESULT: i32 = 1021;
/// FoundationDB's `used_during_commit`.
const USED_DURING_COMMIT: i32 = 2017;
/// FoundationDB's `transaction_cancelled`.
const TRANSACTION_CANCELLED: i32 = 1025;

/// A command to a transaction.
pub enum Command {
    /// Run operations in order.
    Run(Vec<Operation>, Reply),
    /// Run operations in order and commit.
    Commit(Commit, Reply),
    /// Back off and reset after this error code, or say that it can't be retried.
    OnError(i32, Reply),
}

/// What a commit begins with.
pub struct Commit {
    /// The last operations.
    pub operations: Vec<Operation>,
    /// The metadata version under which all of this is right: under another one nothing is done.
    pub expected: Option<Vec<u8>>,
}

/// A transaction's handle in Elixir. Its process may well have no more use for it while it waits for
/// an answer: when it is collected, what was commanded is still done and answered.
pub struct TransactionHandle {
    commands: mpsc::UnboundedSender<Command>,
    task: Mutex<Task>,
    gate: Gate,
    /// Its reads and writes so far.
    pub sizes: Arc<Sizes>,
}

/// The task that owns the transaction.
enum Task {
    /// It begins with the first command, so that one wake-up of a thread does for both.
    Waits(Box<Beginning>),
    Runs(AbortHandle),
    Ended,
}

/// What a task begins with.
struct Beginning {
    about: About,
    attempts: Attempts,
    commands: mpsc::UnboundedReceiver<Command>,
}

#[rustler::resource_impl]
impl Resource for TransactionHandle {
    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.cancel();
    }
}

impl TransactionHandle {
    /// A new transaction of the calling process, whose attempts all are as given.
    pub fn new(
        env: Env<'_>,
        live: &Arc<LiveQueries>,
        attempts: Attempts,
    ) -> ResourceArc<TransactionHandle> {
        let (commands, receiver) = mpsc::unbounded_channel();
        let sizes = Arc::<Sizes>::default();
        let about = About {
            live: Arc::clone(live),
            sizes: Arc::clone(&sizes),
            begun: Instant::now(),
        };
        let beginning = Beginning {
            about,
            attempts,
            commands: receiver,
        };
        let handle = ResourceArc::new(TransactionHandle {
            commands,
            task: Mutex::new(Task::Waits(Box::new(beginning))),
            gate: Gate::default(),
            sizes,
        });
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
        let mut task = self.task.lock();
        if let Task::Ended = *task {
            drop(task);
            let reply = Reply::new(env, reference, Gate::default());
            let error = Error::from(FdbError::from_code(TRANSACTION_CANCELLED));
            client::runtime().spawn(async move { reply.error(&error) });
            return;
        }
        let reply = Reply::new(env, reference, self.gate.clone());
        // Where the task has gone this very moment, so has its process.
        let _ = self.commands.send(command(reply));
        // It is started under the lock, so that a process that is dying now finds it there.
        *task = match std::mem::replace(&mut *task, Task::Ended) {
            Task::Waits(beginning) => {
                Task::Runs(client::runtime().spawn(serve(*beginning)).abort_handle())
            }
            other => other,
        };
    }

    /// Drops the transaction and everything in flight: when this returns, no answer will be sent.
    pub fn cancel(&self) {
        match std::mem::replace(&mut *self.task.lock(), Task::Ended) {
            Task::Runs(task) => {
                task.abort();
                self.gate.shut();
            }
            Task::Waits(_) | Task::Ended => {}
        }
    }
}

impl Reply {
    fn error(self, error: &Error) {
        self.send(|env| (atom::error(), error).encode(env));
    }
}

/// What all attempts of a transaction have.
pub struct Attempts {
    /// Their options, which FoundationDB forgets with each of them.
    pub options: Vec<TransactionOption>,
    /// The version they read at, if it is not the newest.
    pub read_version: Option<i64>,
}

/// What is to be told of a transaction's attempt.
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

    /// Takes note of what operations are to write: whether there is anything.
    fn writes(&self, operations: &[Operation]) -> bool {
        for bytes in operations.iter().filter_map(Operation::written) {
            self.sizes.wrote(bytes);
        }
        operations.iter().any(Operation::writes)
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
    fn begin(transaction: Transaction, attempts: &Attempts) -> State {
        let set = |option: &TransactionOption| transaction.set_option(option.clone());
        if let Some(version) = attempts.read_version {
            transaction.set_read_version(version);
        }
        match attempts.options.iter().try_for_each(set) {
            Ok(()) => State::Active(Arc::new(transaction)),
            Err(error) => State::Unusable(error.into()),
        }
    }
}

async fn serve(beginning: Beginning) {
    let Beginning {
        mut about,
        attempts,
        mut commands,
    } = beginning;
    let database = Arc::clone(&about.live.database);
    let _counted = Gauge::new(&database.stats.transactions);
    let mut state = match database.transaction() {
        Ok(transaction) => State::begin(transaction, &attempts),
        Err(error) => State::Unusable(error),
    };
    let mut reads = JoinSet::new();
    let mut wrote = false;
    while let Some(command) = commands.recv().await {
        while reads.try_join_next().is_some() {}
        state = match (command, state) {
            (Command::Run(operations, reply), State::Active(transaction)) => {
                wrote |= about.writes(&operations);
                run(&about, &transaction, operations, reply, &mut reads).await;
                State::Active(transaction)
            }
            (Command::Commit(begin, reply), State::Active(transaction)) => {
                while reads.join_next().await.is_some() {}
                match before_commit(&about, &transaction, begin, &mut wrote).await {
                    Ok(None) => commit(&about, &attempts, transaction, wrote, reply).await,
                    Ok(Some(Unexpected(version))) => {
                        let version = version.as_deref().map(Bytes);
                        reply.send(|env| (atoms::unexpected(), version).encode(env));
                        State::Active(transaction)
                    }
                    Err(error) => {
                        about.error(reply, error);
                        State::Active(transaction)
                    }
                }
            }
            (Command::OnError(code, reply), state) => {
                reads.shutdown().await;
                wrote = false;
                let state = on_error(&about, &attempts, state, code, reply).await;
                about.begun = Instant::now();
                state
            }
            (Command::Run(_, reply) | Command::Commit(_, reply), State::Failed(error)) => {
                reply.error(&Error::from(*error));
                State::Failed(error)
            }
            (Command::Run(_, reply) | Command::Commit(_, reply), State::Unusable(error)) => {
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

/// The metadata version is another one than was expected.
struct Unexpected(Option<FdbSlice>);

/// Runs a commit's operations, if the metadata version is the expected one. A cluster sends it along with
/// the read version, which the commit needs anyway.
async fn before_commit(
    about: &About,
    transaction: &Arc<Transaction>,
    Commit {
        operations,
        expected,
    }: Commit,
    wrote: &mut bool,
) -> Result<Option<Unexpected>, Error> {
    if let Some(expected) = expected {
        let version = transaction.get(METADATA_VERSION, true).await?;
        if version.as_deref() != Some(&expected[..]) {
            return Ok(Some(Unexpected(version)));
        }
    }
    *wrote |= about.writes(&operations);
    for operation in operations {
        match operation.start(transaction) {
            Started::Done(answer) => answer?,
            Started::InOrder(answer) | Started::Reading(answer) => answer.await?,
        };
    }
    Ok(None)
}

async fn commit(
    about: &About,
    attempts: &Attempts,
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
            count(&about.live.database.stats.commits, 1);
            let stamp: Option<FdbSlice> = match stamp {
                // A transaction that wrote nothing has none.
                Some(stamp) if version >= 0 => stamp.await.ok(),
                _ => None,
            };
            // A transaction that wrote nothing asked no server.
            if version >= 0 {
                about.live.transaction_answered(about.begun);
            }
            reply.send(|env| (atom::ok(), version, stamp.as_deref().map(Bytes)).encode(env));
            State::begin(committed.reset(), attempts)
        }
        Err(error) => {
            let stats = &about.live.database.stats;
            match error.code() {
                NOT_COMMITTED => count(&stats.conflicts, 1),
                COMMIT_UNKNOWN_RESULT => count(&stats.unknown_results, 1),
                _ => {}
            }
            about.error(reply, Error::from(*error));
            State::Failed(error)
        }
    }
}

async fn on_error(
    about: &About,
    attempts: &Attempts,
    state: State,
    code: i32,
    reply: Reply,
) -> State {
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
            count(&about.live.database.stats.transaction_retries, 1);
            reply.send(|env| atom::ok().encode(env));
            State::begin(transaction, attempts)
        }
        Err(error) => {
            let error = Error::from(error);
            reply.error(&error);
            State::Unusable(error)
        }
    }
}

/// A versionstamp or a metadata version as a binary.
struct Bytes<'b>(&'b [u8]);

impl Encoder for Bytes<'_> {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        Term::from(NewBinary::from_slice(env, self.0))
    }
}
