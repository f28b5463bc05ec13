//! The operations of a transaction: decoded on the caller's scheduler, run on the runtime's threads.

use std::future::Future;
use std::sync::Arc;

use foundationdb::directory::{Directory, DirectoryLayer, DirectoryOutput};
use foundationdb::future::{FdbSlice, FdbValues, MappedKeyValues};
use foundationdb::options::{ConflictRangeType, MutationType, StreamingMode};
use foundationdb::{FdbResult, KeySelector, RangeOption, Transaction};
use futures::future::BoxFuture;
use futures::FutureExt;
use rustler::types::atom;
use rustler::types::tuple::get_tuple;
use rustler::{Atom, Binary, Encoder, Env, NifResult, ResourceArc, Term, TermType};
use smallvec::SmallVec;

use crate::error::Error;
use crate::options;
use crate::record;
use crate::tuple::{self, binary, expected};
use crate::watch::Watch;

mod atoms {
    rustler::atoms! {
        get, get_range, get_mapped_range, set, clear, clear_range, atomic, read_conflict,
        watch, pack, directory, create_or_open, create, open, exists, remove, list,
        limit, reverse, snapshot, records,
    }
}

/// The range `[begin, end)`, and how to read it.
pub struct Range {
    begin: Vec<u8>,
    end: Vec<u8>,
    limit: Option<usize>,
    reverse: bool,
    snapshot: bool,
    /// Whether the rows are records, whose values are to be decoded.
    records: bool,
}

impl Range {
    fn options(&self) -> RangeOption<'_> {
        RangeOption {
            limit: self.limit,
            mode: StreamingMode::WantAll,
            reverse: self.reverse,
            ..RangeOption::from((self.begin.as_slice(), self.end.as_slice()))
        }
    }

    fn rows(&self) -> Rows {
        Rows {
            records: self.records,
            reverse: self.reverse,
        }
    }

    /// The whole range, in as many batches as necessary.
    async fn read(&self, transaction: &Transaction) -> FdbResult<Vec<FdbValues>> {
        let mut batches = Vec::new();
        let mut rest = Some(self.options());
        while let Some(range) = rest {
            let batch = transaction
                .get_range(&range, batches.len() + 1, self.snapshot)
                .await?;
            rest = range.next_range(&batch);
            batches.push(batch);
        }
        Ok(batches)
    }
}

/// The action of a directory operation.
pub enum DirectoryCall {
    /// Creates or opens it; returns its prefix.
    CreateOrOpen,
    /// Creates it; returns its prefix.
    Create,
    /// Opens it; returns its prefix.
    Open,
    /// Whether it exists.
    Exists,
    /// Removes it with its contents; returns whether it existed.
    Remove,
    /// The names of its subdirectories.
    List,
}

/// One operation, as `EctoFoundationDB.Native.op()` describes it.
pub enum Operation {
    /// A key's value.
    Get { key: Vec<u8>, snapshot: bool },
    /// The pairs of a range.
    GetRange(Range),
    /// The entries of a range and the pairs that each entry leads to.
    GetMappedRange { range: Range, mapper: Vec<u8> },
    /// Sets a key.
    Set { key: Vec<u8>, value: Vec<u8> },
    /// Clears a key.
    Clear { key: Vec<u8> },
    /// Clears a range.
    ClearRange { begin: Vec<u8>, end: Vec<u8> },
    /// An atomic operation.
    Atomic {
        mutation: MutationType,
        key: Vec<u8>,
        param: Vec<u8>,
    },
    /// Adds a read conflict range.
    ReadConflict { begin: Vec<u8>, end: Vec<u8> },
    /// A call of the directory layer.
    Directory {
        call: DirectoryCall,
        path: Vec<String>,
    },
    /// A watch, whose reference is the result.
    Watch {
        key: Vec<u8>,
        watch: ResourceArc<Watch>,
    },
}

impl Operation {
    /// Whether a later commit has something to write.
    pub fn writes(&self) -> bool {
        matches!(
            self,
            Operation::Set { .. }
                | Operation::Clear { .. }
                | Operation::ClearRange { .. }
                | Operation::Atomic { .. }
                | Operation::Directory { .. }
        )
    }

    /// How many bytes of keys and values it writes; `None` if it writes none, or the directory layer
    /// writes them.
    pub fn written(&self) -> Option<usize> {
        match self {
            Operation::Set { key, value } => Some(key.len() + value.len()),
            Operation::Clear { key } => Some(key.len()),
            Operation::ClearRange { begin, end } => Some(begin.len() + end.len()),
            Operation::Atomic { key, param, .. } => Some(key.len() + param.len()),
            _ => None,
        }
    }

    /// Starts it. Operations without an answer are done when this returns.
    pub fn start(self, transaction: &Arc<Transaction>) -> Started {
        let done = Started::Done(Ok(Answer::Done));
        match self {
            Operation::Get { key, snapshot } => {
                reading(transaction.get(&key, snapshot), Answer::Value)
            }
            Operation::GetRange(range) => {
                let transaction = Arc::clone(transaction);
                let rows = range.rows();
                let read = async move { range.read(&transaction).await };
                reading(read, move |batches| Answer::Rows(batches, rows))
            }
            Operation::GetMappedRange { range, mapper } => {
                let transaction = Arc::clone(transaction);
                let rows = range.rows();
                let read = async move { mapped_range(&transaction, &range, &mapper).await };
                reading(read, move |batches| Answer::MappedRows(batches, rows))
            }
            Operation::Set { key, value } => {
                transaction.set(&key, &value);
                done
            }
            Operation::Clear { key } => {
                transaction.clear(&key);
                done
            }
            Operation::ClearRange { begin, end } => {
                transaction.clear_range(&begin, &end);
                done
            }
            Operation::Atomic {
                mutation,
                key,
                param,
            } => {
                transaction.atomic_op(&key, &param, mutation);
                done
            }
            Operation::ReadConflict { begin, end } => Started::Done(
                transaction
                    .add_conflict_range(&begin, &end, ConflictRangeType::Read)
                    .map(|()| Answer::Done)
                    .map_err(Error::from),
            ),
            Operation::Directory { call, path } => {
                let transaction = Arc::clone(transaction);
                Started::InOrder(async move { directory(&transaction, call, &path).await }.boxed())
            }
            Operation::Watch { key, watch } => {
                Watch::start(&watch, transaction.watch(&key));
                Started::Done(Ok(Answer::Watch(watch)))
            }
        }
    }
}

/// An operation in progress.
pub enum Started {
    /// Its answer is known.
    Done(Result<Answer, Error>),
    /// A read that may be in flight beside others.
    Reading(BoxFuture<'static, Result<Answer, Error>>),
    /// Several reads and writes: nothing else may start before it is done.
    InOrder(BoxFuture<'static, Result<Answer, Error>>),
}

fn reading<F, T>(future: F, answer: impl FnOnce(T) -> Answer + Send + 'static) -> Started
where
    F: Future<Output = FdbResult<T>> + Send + 'static,
    T: 'static,
{
    let mut future = future.boxed();
    // The embedded engine answers immediately, which saves a task.
    match (&mut future).now_or_never() {
        Some(result) => Started::Done(result.map(answer).map_err(Error::from)),
        None => {
            Started::Reading(async move { future.await.map(answer).map_err(Error::from) }.boxed())
        }
    }
}

async fn mapped_range(
    transaction: &Transaction,
    range: &Range,
    mapper: &[u8],
) -> FdbResult<Vec<MappedKeyValues>> {
    let mut batches: Vec<MappedKeyValues> = Vec::new();
    let mut options = range.options();
    loop {
        let batch = transaction
            .get_mapped_range(&options, mapper, batches.len() + 1, range.snapshot)
            .await?;
        let last = batch.last().map(|entry| entry.parent_key().to_vec());
        let (more, count) = (batch.more(), batch.len());
        batches.push(batch);
        let left = options.limit.map(|limit| limit.saturating_sub(count));
        match last {
            Some(last) if more && left != Some(0) => {
                options.limit = left;
                if range.reverse {
                    options.end = KeySelector::first_greater_or_equal(last);
                } else {
                    options.begin = KeySelector::first_greater_than(last);
                }
            }
            _ => return Ok(batches),
        }
    }
}

async fn directory(
    transaction: &Transaction,
    call: DirectoryCall,
    path: &[String],
) -> Result<Answer, Error> {
    let layer = DirectoryLayer::default();
    let prefix = |output: DirectoryOutput| -> Result<Answer, Error> {
        Ok(Answer::Prefix(output.bytes()?.to_vec()))
    };
    match call {
        DirectoryCall::CreateOrOpen => {
            prefix(layer.create_or_open(transaction, path, None, None).await?)
        }
        DirectoryCall::Create => prefix(layer.create(transaction, path, None, None).await?),
        DirectoryCall::Open => prefix(layer.open(transaction, path, None).await?),
        DirectoryCall::Exists => Ok(Answer::Boolean(layer.exists(transaction, path).await?)),
        DirectoryCall::Remove => Ok(Answer::Boolean(
            layer.remove_if_exists(transaction, path).await?,
        )),
        DirectoryCall::List => Ok(Answer::Names(layer.list(transaction, path).await?)),
    }
}

/// The meaning of the rows of an answer, and their form.
#[derive(Clone, Copy)]
pub struct Rows {
    records: bool,
    reverse: bool,
}

impl Rows {
    fn encode<'a, 'r>(
        self,
        env: Env<'a>,
        rows: impl Iterator<Item = (&'r [u8], &'r [u8])>,
    ) -> Term<'a> {
        if self.records {
            return record::encode_rows(env, rows, self.reverse);
        }
        rows.map(|(key, value)| (binary(env, key), binary(env, value)))
            .collect::<Vec<_>>()
            .encode(env)
    }
}

/// The answer to one operation.
pub enum Answer {
    /// `:ok`
    Done,
    /// A value, or `nil`.
    Value(Option<FdbSlice>),
    /// `[{key, value}]`
    Rows(Vec<FdbValues>, Rows),
    /// `[{key, value, [{key, value}]}]`
    MappedRows(Vec<MappedKeyValues>, Rows),
    /// `true` or `false`.
    Boolean(bool),
    /// A directory's prefix.
    Prefix(Vec<u8>),
    /// Names of directories.
    Names(Vec<String>),
    /// A watch's reference.
    Watch(ResourceArc<Watch>),
}

impl Answer {
    /// How many keys the database has returned in it, and how many bytes of keys and values; `None` if
    /// it was not asked.
    pub fn read(&self) -> Option<(usize, usize)> {
        match self {
            Answer::Done | Answer::Watch(_) => None,
            Answer::Value(value) => Some((1, value.as_ref().map_or(0, |value| value.len()))),
            Answer::Rows(batches, _) => Some(sum(batches
                .iter()
                .flat_map(|batch| batch.iter().map(|row| row.key().len() + row.value().len())))),
            Answer::MappedRows(batches, _) => {
                let entries = batches.iter().flat_map(|batch| batch.iter());
                Some(sum(entries.flat_map(|entry| {
                    let entry_itself = entry.parent_key().len() + entry.parent_value().len();
                    let rows = entry.key_values().iter();
                    std::iter::once(entry_itself)
                        .chain(rows.map(|row| row.key().len() + row.value().len()))
                        .collect::<SmallVec<[usize; 4]>>()
                })))
            }
            Answer::Boolean(_) | Answer::Prefix(_) | Answer::Names(_) => Some((0, 0)),
        }
    }
}

fn sum(sizes: impl Iterator<Item = usize>) -> (usize, usize) {
    sizes.fold((0, 0), |(keys, bytes), size| (keys + 1, bytes + size))
}

impl Encoder for Answer {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        match self {
            Answer::Done => atom::ok().encode(env),
            Answer::Value(None) => atom::nil().encode(env),
            Answer::Value(Some(value)) => binary(env, value),
            Answer::Rows(batches, how) => {
                let rows = batches.iter().flat_map(|batch| batch.iter());
                how.encode(env, rows.map(|row| (row.key(), row.value())))
            }
            Answer::MappedRows(batches, how) => batches
                .iter()
                .flat_map(|batch| batch.iter())
                .map(|entry| {
                    // These are in the order of their keys, even if the entries were read in reverse.
                    let how = Rows {
                        reverse: false,
                        ..*how
                    };
                    let rows = entry.key_values().iter();
                    let rows = how.encode(env, rows.map(|row| (row.key(), row.value())));
                    let (key, value) = (entry.parent_key(), entry.parent_value());
                    (binary(env, key), binary(env, value), rows).encode(env)
                })
                .collect::<Vec<_>>()
                .encode(env),
            Answer::Boolean(boolean) => boolean.encode(env),
            Answer::Prefix(prefix) => binary(env, prefix),
            Answer::Names(names) => names.encode(env),
            Answer::Watch(watch) => watch.encode(env),
        }
    }
}

/// A key: a binary, or `{:pack, tuple}`.
pub fn key(term: Term<'_>) -> NifResult<Vec<u8>> {
    if let Ok(binary) = term.decode::<Binary<'_>>() {
        return Ok(binary.as_slice().to_vec());
    }
    match term.decode::<(Atom, Term<'_>)>() {
        Ok((tag, elements)) if tag == atoms::pack() => tuple::pack(elements),
        _ => Err(expected(
            "a key: a binary or {:pack, tuple}",
            &format!("{term:?}"),
        )),
    }
}

fn bytes(term: Term<'_>) -> NifResult<Vec<u8>> {
    match term.decode::<Binary<'_>>() {
        Ok(binary) => Ok(binary.as_slice().to_vec()),
        // A key as a value: index entries point to their records.
        Err(_) => key(term),
    }
}

fn range<'a>(begin: Term<'a>, end: Term<'a>, options: Term<'a>) -> NifResult<Range> {
    let get = |name: Atom| options.map_get(name).ok();
    if options.get_type() != TermType::Map {
        return Err(expected("a map of range options", &format!("{options:?}")));
    }
    let limit: usize = get(atoms::limit()).map_or(Ok(0), Term::decode)?;
    Ok(Range {
        begin: key(begin)?,
        end: key(end)?,
        limit: (limit > 0).then_some(limit),
        reverse: get(atoms::reverse()).map_or(Ok(false), Term::decode)?,
        snapshot: get(atoms::snapshot()).map_or(Ok(false), Term::decode)?,
        records: get(atoms::records()).map_or(Ok(false), Term::decode)?,
    })
}

/// Decodes a list of operations. Each watch gets its resource, which monitors the calling process.
pub fn decode_all<'a>(env: Env<'a>, terms: Term<'a>) -> NifResult<Vec<Operation>> {
    terms
        .into_list_iterator()?
        .map(|term| decode(env, term))
        .collect()
}

fn decode<'a>(env: Env<'a>, term: Term<'a>) -> NifResult<Operation> {
    let unknown = || expected("an operation", &format!("{term:?}"));
    let parts = get_tuple(term).map_err(|_| unknown())?;
    let name: Atom = parts
        .first()
        .ok_or_else(unknown)?
        .decode()
        .map_err(|_| unknown())?;
    Ok(match parts[1..] {
        [k, v] if name == atoms::set() => Operation::Set {
            key: key(k)?,
            value: bytes(v)?,
        },
        [k, snapshot] if name == atoms::get() => Operation::Get {
            key: key(k)?,
            snapshot: snapshot.decode()?,
        },
        [begin, end, options] if name == atoms::get_range() => {
            Operation::GetRange(range(begin, end, options)?)
        }
        [mutation, k, param] if name == atoms::atomic() => Operation::Atomic {
            mutation: options::mutation(env, mutation.decode()?)?,
            key: key(k)?,
            param: bytes(param)?,
        },
        [k] if name == atoms::clear() => Operation::Clear { key: key(k)? },
        [begin, end] if name == atoms::clear_range() => Operation::ClearRange {
            begin: key(begin)?,
            end: key(end)?,
        },
        [begin, end, mapper, options] if name == atoms::get_mapped_range() => {
            Operation::GetMappedRange {
                range: range(begin, end, options)?,
                mapper: key(mapper)?,
            }
        }
        [begin, end] if name == atoms::read_conflict() => Operation::ReadConflict {
            begin: key(begin)?,
            end: key(end)?,
        },
        [k] if name == atoms::watch() => Operation::Watch {
            key: key(k)?,
            watch: Watch::new(env),
        },
        [call, path] if name == atoms::directory() => Operation::Directory {
            call: directory_call(call.decode()?).ok_or_else(unknown)?,
            path: path.decode()?,
        },
        _ => return Err(unknown()),
    })
}

fn directory_call(name: Atom) -> Option<DirectoryCall> {
    Some(match name {
        name if name == atoms::create_or_open() => DirectoryCall::CreateOrOpen,
        name if name == atoms::create() => DirectoryCall::Create,
        name if name == atoms::open() => DirectoryCall::Open,
        name if name == atoms::exists() => DirectoryCall::Exists,
        name if name == atoms::remove() => DirectoryCall::Remove,
        name if name == atoms::list() => DirectoryCall::List,
        _ => return None,
    })
}
