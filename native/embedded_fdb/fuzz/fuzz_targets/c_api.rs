//! Random sequences of calls of the C functions, with allowed arguments and with forbidden ones that the
//! engine can detect: null pointers, lengths below zero, unknown options and modes, keys and values at
//! and beyond their limits. Handles are null or alive: no C library can check that one rule. There is a
//! database in memory and one in a file, with and without injected faults; the network is started once
//! and not stopped.
//!
//! It looks for crashes, for invalid memory (with the address sanitizer), for futures that are never
//! ready after they were cancelled, and for callbacks called twice.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run c_api -- -max_total_time=300 -rss_limit_mb=4096`

#![no_main]

use std::ffi::{c_int, c_void, CString};
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, Once};
use std::time::Duration;

use embedded_fdb::admin::{self, Faults};
use embedded_fdb::c_api::*;
use embedded_fdb::c_types::*;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

/// Slightly more than the largest allowed value.
static LONG: [u8; 100_010] = [b'k'; 100_010];

/// A pointer and a length.
#[derive(Arbitrary, Debug)]
enum Bytes {
    Null {
        length: i8,
    },
    Negative {
        length: u16,
    },
    Short(u8, u8),
    Text(Vec<u8>),
    /// Around the limit of keys.
    LongKey {
        more: i8,
    },
    /// Around the limit of values.
    LongValue {
        more: i8,
    },
    /// A system key or a special key.
    System {
        special: bool,
        rest: Vec<u8>,
    },
    Named(Name),
}

#[derive(Arbitrary, Debug)]
enum Name {
    MetadataVersion,
    TenantMap,
    Status,
    ConflictingKeys,
    ReadConflictRange,
    WriteConflictRange,
    ConnectionString,
    Database,
    Mapper,
    Stamped { offset: u32 },
    Number(i64),
}

impl Bytes {
    fn with<T>(&self, call: impl FnOnce(*const u8, c_int) -> T) -> T {
        let owned = match self {
            Bytes::Null { length } => return call(ptr::null(), c_int::from(*length)),
            Bytes::Negative { length } => {
                return call(LONG.as_ptr(), -1 - c_int::from(*length));
            }
            Bytes::LongKey { more } => {
                return call(LONG.as_ptr(), 10_000 + c_int::from(*more) / 16)
            }
            Bytes::LongValue { more } => {
                return call(LONG.as_ptr(), 100_000 + c_int::from(*more) / 16)
            }
            Bytes::Short(one, two) => vec![*one % 8, *two % 8],
            Bytes::Text(bytes) => bytes.clone(),
            Bytes::System { special, rest } => {
                let mut key = vec![0xFF; 1 + usize::from(*special)];
                key.extend(rest);
                key
            }
            Bytes::Named(name) => match name {
                Name::MetadataVersion => b"\xFF/metadataVersion".to_vec(),
                Name::TenantMap => b"\xFF\xFF/management/tenant/map/t".to_vec(),
                Name::Status => b"\xFF\xFF/status/json".to_vec(),
                Name::ConflictingKeys => b"\xFF\xFF/transaction/conflicting_keys/".to_vec(),
                Name::ReadConflictRange => b"\xFF\xFF/transaction/read_conflict_range/".to_vec(),
                Name::WriteConflictRange => b"\xFF\xFF/transaction/write_conflict_range/".to_vec(),
                Name::ConnectionString => b"\xFF\xFF/connection_string".to_vec(),
                Name::Database => b"DB".to_vec(),
                Name::Mapper => b"\x02r\0\x02{K[0]}\0\x02{...}\0".to_vec(),
                Name::Stamped { offset } => [&[0; 12][..], &offset.to_le_bytes()].concat(),
                Name::Number(number) => number.to_le_bytes().to_vec(),
            },
        };
        // Memory of exactly this length, so that the sanitizer guards it.
        let owned = owned.into_boxed_slice();
        call(owned.as_ptr(), owned.len() as c_int)
    }
}

/// Calls with two keys, or a key and a value.
fn both<T>(
    one: &Bytes,
    two: &Bytes,
    call: impl FnOnce(*const u8, c_int, *const u8, c_int) -> T,
) -> T {
    one.with(|p, l| two.with(|q, m| call(p, l, q, m)))
}

#[derive(Arbitrary, Debug)]
struct Selector {
    key: Bytes,
    or_equal: i8,
    offset: i32,
    /// Most of the offsets that matter are small.
    small: Option<i8>,
}

impl Selector {
    /// What follows the key.
    fn rest(&self) -> (FDBBool, c_int) {
        let offset = self.small.map_or(self.offset, c_int::from);
        (FDBBool::from(self.or_equal), offset)
    }
}

#[derive(Arbitrary, Debug)]
struct Limits {
    rows: i16,
    bytes: i16,
    mode: i8,
    iteration: i8,
    snapshot: bool,
    reverse: bool,
}

/// Selects a handle; one in sixteen is null.
type Pick = u8;

#[derive(Arbitrary, Debug)]
enum Call {
    Global(Global),
    CreateDatabase {
        path: u8,
        out: bool,
    },
    DestroyDatabase(Pick),
    DatabaseOption {
        database: Pick,
        option: i16,
        value: Bytes,
    },
    DatabaseOther {
        database: Pick,
        which: u8,
        key: Bytes,
    },
    OpenTenant {
        database: Pick,
        name: Bytes,
        out: bool,
    },
    Tenant {
        tenant: Pick,
        which: u8,
        key: Bytes,
    },
    CreateTransaction {
        database: Pick,
        out: bool,
    },
    DestroyTransaction(Pick),
    Cancel(Pick),
    Reset(Pick),
    TransactionOption {
        transaction: Pick,
        option: i16,
        value: Bytes,
    },
    SetReadVersion {
        transaction: Pick,
        version: i64,
    },
    Simple {
        transaction: Pick,
        which: u8,
        key: Bytes,
    },
    Get {
        transaction: Pick,
        key: Bytes,
        snapshot: bool,
    },
    GetKey {
        transaction: Pick,
        selector: Selector,
        snapshot: bool,
    },
    GetRange {
        transaction: Pick,
        begin: Selector,
        end: Selector,
        /// Makes it a mapped range.
        mapper: Option<Bytes>,
        limits: Limits,
    },
    Set {
        transaction: Pick,
        key: Bytes,
        value: Bytes,
    },
    Atomic {
        transaction: Pick,
        key: Bytes,
        operand: Bytes,
        operation: i8,
    },
    Clear {
        transaction: Pick,
        key: Bytes,
    },
    Range {
        transaction: Pick,
        begin: Bytes,
        end: Bytes,
        what: Range,
    },
    OnError {
        transaction: Pick,
        code: i16,
    },
    CommittedVersion {
        transaction: Pick,
        out: bool,
    },
    Future {
        future: Pick,
        which: u8,
        out: bool,
    },
    /// How clients of old versions begin.
    Cluster {
        cluster: Pick,
        which: u8,
        name: Bytes,
    },
    /// Injects faults from now on, or stops that.
    Faults {
        percent: Option<u8>,
        seed: u8,
    },
}

/// The operation on a range.
#[derive(Arbitrary, Debug)]
enum Range {
    Clear,
    Conflict(i8),
    Estimate,
    Split(i64),
}

#[derive(Arbitrary, Debug)]
enum Global {
    GetError(i32),
    Predicate(i32, i32),
    SelectVersion(i16, i16),
    NetworkOption(i16, Bytes),
    SetUpNetwork,
    Versions,
    HookWithoutFunction,
}

/// The live handles.
#[derive(Default)]
struct Client {
    databases: Vec<*mut FDBDatabase>,
    tenants: Vec<*mut FDBTenant>,
    transactions: Vec<*mut FDBTransaction>,
    futures: Vec<*mut FDBFuture>,
    callbacks: Vec<&'static AtomicU32>,
    clusters: Vec<*mut FDBCluster>,
}

fn pick<T>(handles: &[*mut T], pick: Pick) -> *mut T {
    if pick >= 240 || handles.is_empty() {
        return ptr::null_mut();
    }
    handles[usize::from(pick) % handles.len()]
}

/// Takes a handle out, to destroy it.
fn take<T>(handles: &mut Vec<*mut T>, pick: Pick) -> *mut T {
    if pick >= 240 || handles.is_empty() {
        return ptr::null_mut();
    }
    let at = usize::from(pick) % handles.len();
    handles.swap_remove(at)
}

/// An out pointer, or null.
fn place<T>(out: &mut T, given: bool) -> *mut T {
    if given {
        out
    } else {
        ptr::null_mut()
    }
}

/// Reads all of a block of memory that a future returned.
unsafe fn touch(pointer: *const u8, length: c_int) {
    if length > 0 {
        let length = usize::try_from(length).unwrap();
        // SAFETY: the engine claims that it has this length; that is what is tested.
        let bytes = unsafe { std::slice::from_raw_parts(pointer, length) };
        std::hint::black_box(bytes.iter().fold(0_u8, |sum, byte| sum ^ byte));
    }
}

unsafe extern "C" fn count_call(_: *mut FDBFuture, counter: *mut c_void) {
    // SAFETY: the parameter is a counter, which is never freed.
    let counter = unsafe { &*counter.cast::<AtomicU32>() };
    counter.fetch_add(1, Ordering::SeqCst);
}

impl Client {
    fn keep(&mut self, future: *mut FDBFuture) {
        assert!(!future.is_null(), "a function answered no future");
        self.futures.push(future);
        if self.futures.len() > 64 {
            let oldest = self.futures.remove(0);
            // SAFETY: alive until now.
            unsafe { fdb_future_destroy(oldest) };
        }
    }

    /// Makes one call.
    ///
    /// # Safety
    ///
    /// None: that is what is tested.
    unsafe fn call(&mut self, call: &Call) {
        unsafe {
            match call {
                Call::Global(global) => global.call(),
                Call::CreateDatabase { path, out } => {
                    let paths = [
                        "",
                        MEMORY,
                        file(),
                        file(),
                        "embedded:",
                        "embedded:disk:x",
                        "embedded:file:/no/such/directory/db",
                        "no such file",
                    ];
                    let from_string = path & 0x80 != 0;
                    let path = paths[usize::from(*path) % paths.len()];
                    FILE_USED.fetch_or(path == file(), Ordering::SeqCst);
                    let path = CString::new(path).unwrap();
                    let mut database = ptr::null_mut();
                    let place = place(&mut database, *out);
                    let create = if from_string {
                        fdb_create_database_from_connection_string
                    } else {
                        fdb_create_database
                    };
                    if create(path.as_ptr(), place) == 0 {
                        self.databases.push(database);
                    }
                }
                Call::DestroyDatabase(which) => {
                    fdb_database_destroy(take(&mut self.databases, *which))
                }
                Call::DatabaseOption {
                    database,
                    option,
                    value,
                } => {
                    let database = pick(&self.databases, *database);
                    value
                        .with(|p, l| fdb_database_set_option(database, c_int::from(*option), p, l));
                }
                Call::DatabaseOther {
                    database,
                    which,
                    key,
                } => {
                    let database = pick(&self.databases, *database);
                    let future = key.with(|p, l| match which % 8 {
                        0 => fdb_database_get_client_status(database),
                        1 => fdb_database_get_server_protocol(database, 0),
                        2 => fdb_database_reboot_worker(database, p, l, 0, -1),
                        3 => fdb_database_force_recovery_with_data_loss(database, p, l),
                        4 => fdb_database_create_snapshot(database, p, l, p, l),
                        5 => fdb_database_blobbify_range(database, p, l, p, l),
                        6 => fdb_database_list_blobbified_ranges(database, p, l, p, l, -1),
                        _ => fdb_database_verify_blob_range(database, p, l, p, l, -1),
                    });
                    fdb_database_get_main_thread_busyness(database);
                    self.keep(future);
                }
                Call::OpenTenant {
                    database,
                    name,
                    out,
                } => {
                    let database = pick(&self.databases, *database);
                    let mut tenant = ptr::null_mut();
                    let place = place(&mut tenant, *out);
                    if name.with(|p, l| fdb_database_open_tenant(database, p, l, place)) == 0 {
                        self.tenants.push(tenant);
                    }
                }
                Call::Tenant { tenant, which, key } => match which % 4 {
                    0 => fdb_tenant_destroy(take(&mut self.tenants, *tenant)),
                    1 => {
                        let future = fdb_tenant_get_id(pick(&self.tenants, *tenant));
                        self.keep(future);
                    }
                    2 => {
                        let tenant = pick(&self.tenants, *tenant);
                        let future = key.with(|p, l| fdb_tenant_blobbify_range(tenant, p, l, p, l));
                        self.keep(future);
                    }
                    _ => {
                        let mut transaction = ptr::null_mut();
                        let tenant = pick(&self.tenants, *tenant);
                        if fdb_tenant_create_transaction(tenant, &mut transaction) == 0 {
                            self.transactions.push(transaction);
                        }
                    }
                },
                Call::CreateTransaction { database, out } => {
                    let database = pick(&self.databases, *database);
                    let mut transaction = ptr::null_mut();
                    let place = place(&mut transaction, *out);
                    if fdb_database_create_transaction(database, place) == 0 {
                        self.transactions.push(transaction);
                    }
                }
                Call::DestroyTransaction(which) => {
                    fdb_transaction_destroy(take(&mut self.transactions, *which));
                }
                Call::Cancel(which) => fdb_transaction_cancel(self.transaction(*which)),
                Call::Reset(which) => fdb_transaction_reset(self.transaction(*which)),
                Call::TransactionOption {
                    transaction,
                    option,
                    value,
                } => {
                    let transaction = self.transaction(*transaction);
                    value.with(|p, l| {
                        fdb_transaction_set_option(transaction, c_int::from(*option), p, l)
                    });
                }
                Call::SetReadVersion {
                    transaction,
                    version,
                } => {
                    fdb_transaction_set_read_version(self.transaction(*transaction), *version);
                }
                Call::Simple {
                    transaction,
                    which,
                    key,
                } => {
                    let transaction = self.transaction(*transaction);
                    let future = key.with(|p, l| match which % 8 {
                        0 => fdb_transaction_get_read_version(transaction),
                        1 => fdb_transaction_get_versionstamp(transaction),
                        2 => fdb_transaction_get_approximate_size(transaction),
                        3 => fdb_transaction_get_total_cost(transaction),
                        4 => fdb_transaction_get_tag_throttled_duration(transaction),
                        5 => fdb_transaction_get_addresses_for_key(transaction, p, l),
                        6 => fdb_transaction_watch(transaction, p, l),
                        _ => fdb_transaction_commit(transaction),
                    });
                    self.keep(future);
                }
                Call::Get {
                    transaction,
                    key,
                    snapshot,
                } => {
                    let transaction = self.transaction(*transaction);
                    let snapshot = FDBBool::from(*snapshot);
                    let future = key.with(|p, l| fdb_transaction_get(transaction, p, l, snapshot));
                    self.keep(future);
                }
                Call::GetKey {
                    transaction,
                    selector,
                    snapshot,
                } => {
                    let transaction = self.transaction(*transaction);
                    let (or_equal, offset) = selector.rest();
                    let snapshot = FDBBool::from(*snapshot);
                    let future = selector.key.with(|p, l| {
                        fdb_transaction_get_key(transaction, p, l, or_equal, offset, snapshot)
                    });
                    self.keep(future);
                }
                Call::GetRange {
                    transaction,
                    begin,
                    end,
                    mapper,
                    limits,
                } => {
                    let transaction = self.transaction(*transaction);
                    let future = both(&begin.key, &end.key, |bp, bl, ep, el| {
                        let (begin_or_equal, begin_offset) = begin.rest();
                        let (end_or_equal, end_offset) = end.rest();
                        let (rows, bytes) = (limits.rows.into(), limits.bytes.into());
                        let (mode, iteration) = (limits.mode.into(), limits.iteration.into());
                        let (snapshot, reverse) = (limits.snapshot.into(), limits.reverse.into());
                        match mapper {
                            None => fdb_transaction_get_range(
                                transaction,
                                bp,
                                bl,
                                begin_or_equal,
                                begin_offset,
                                ep,
                                el,
                                end_or_equal,
                                end_offset,
                                rows,
                                bytes,
                                mode,
                                iteration,
                                snapshot,
                                reverse,
                            ),
                            Some(mapper) => mapper.with(|mp, ml| {
                                fdb_transaction_get_mapped_range(
                                    transaction,
                                    bp,
                                    bl,
                                    begin_or_equal,
                                    begin_offset,
                                    ep,
                                    el,
                                    end_or_equal,
                                    end_offset,
                                    mp,
                                    ml,
                                    rows,
                                    bytes,
                                    mode,
                                    iteration,
                                    snapshot,
                                    reverse,
                                )
                            }),
                        }
                    });
                    self.keep(future);
                }
                Call::Set {
                    transaction,
                    key,
                    value,
                } => {
                    let tr = self.transaction(*transaction);
                    both(key, value, |kp, kl, vp, vl| {
                        fdb_transaction_set(tr, kp, kl, vp, vl)
                    });
                }
                Call::Atomic {
                    transaction,
                    key,
                    operand,
                    operation,
                } => {
                    let (tr, op) = (self.transaction(*transaction), c_int::from(*operation));
                    both(key, operand, |kp, kl, vp, vl| {
                        fdb_transaction_atomic_op(tr, kp, kl, vp, vl, op)
                    });
                }
                Call::Clear { transaction, key } => {
                    let transaction = self.transaction(*transaction);
                    key.with(|p, l| fdb_transaction_clear(transaction, p, l));
                }
                Call::Range {
                    transaction,
                    begin,
                    end,
                    what,
                } => {
                    let tr = self.transaction(*transaction);
                    let future = both(begin, end, |bp, bl, ep, el| match *what {
                        Range::Clear => {
                            fdb_transaction_clear_range(tr, bp, bl, ep, el);
                            None
                        }
                        Range::Conflict(kind) => {
                            fdb_transaction_add_conflict_range(tr, bp, bl, ep, el, kind.into());
                            None
                        }
                        Range::Estimate => Some(fdb_transaction_get_estimated_range_size_bytes(
                            tr, bp, bl, ep, el,
                        )),
                        Range::Split(size) => Some(fdb_transaction_get_range_split_points(
                            tr, bp, bl, ep, el, size,
                        )),
                    });
                    future.into_iter().for_each(|future| self.keep(future));
                }
                Call::OnError { transaction, code } => {
                    let future =
                        fdb_transaction_on_error(self.transaction(*transaction), (*code).into());
                    self.keep(future);
                }
                Call::CommittedVersion { transaction, out } => {
                    let mut version = 0;
                    let place = place(&mut version, *out);
                    fdb_transaction_get_committed_version(self.transaction(*transaction), place);
                }
                Call::Future { future, which, out } => self.future(*future, *which, *out),
                Call::Cluster {
                    cluster,
                    which,
                    name,
                } => match which % 4 {
                    0 => {
                        let future = fdb_create_cluster(c"embedded:memory:fuzz".as_ptr());
                        self.keep(future);
                    }
                    1 => {
                        let mut made = ptr::null_mut();
                        if fdb_future_get_cluster(pick(&self.futures, *cluster), &mut made) == 0 {
                            self.clusters.push(made);
                        }
                    }
                    2 => {
                        let cluster = pick(&self.clusters, *cluster);
                        let future = name.with(|p, l| fdb_cluster_create_database(cluster, p, l));
                        self.keep(future);
                    }
                    _ => fdb_cluster_destroy(take(&mut self.clusters, *cluster)),
                },
                Call::Faults { percent, seed } => {
                    set_faults(percent.map(|percent| (percent, *seed)))
                }
            }
        }
    }

    fn transaction(&self, which: Pick) -> *mut FDBTransaction {
        pick(&self.transactions, which)
    }

    unsafe fn future(&mut self, which: Pick, what: u8, out: bool) {
        let f = pick(&self.futures, which);
        unsafe {
            match what % 18 {
                0 => fdb_future_cancel(f),
                1 => fdb_future_release_memory(f),
                2 => fdb_future_destroy(take(&mut self.futures, which)),
                3 => {
                    fdb_future_cancel(f);
                    fdb_future_block_until_ready(f);
                    assert!(f.is_null() || fdb_future_is_ready(f) != 0);
                }
                4 => {
                    fdb_future_get_error(f);
                }
                5 => {
                    // A callback may run at any later time, so a counter is never freed.
                    static COUNTERS: Mutex<Vec<&'static AtomicU32>> = Mutex::new(Vec::new());
                    let counter: &AtomicU32 = Box::leak(Box::new(AtomicU32::new(0)));
                    COUNTERS.lock().unwrap().push(counter);
                    let parameter = ptr::from_ref(counter).cast_mut().cast();
                    let function: FutureCallback = if out { Some(count_call) } else { None };
                    fdb_future_set_callback(f, function, parameter);
                    self.callbacks.push(counter);
                }
                6 => {
                    let mut value = 0;
                    fdb_future_get_int64(f, place(&mut value, out));
                }
                7 => {
                    let mut value = 0;
                    fdb_future_get_uint64(f, place(&mut value, out));
                }
                8 => {
                    let mut value = 0.0;
                    fdb_future_get_double(f, place(&mut value, out));
                }
                9 => {
                    let (mut key, mut length) = (ptr::null(), 0);
                    let place = place(&mut length, out);
                    if fdb_future_get_key(f, &mut key, place) == 0 {
                        touch(key, length);
                    }
                }
                10 => {
                    let (mut present, mut value, mut length) = (0, ptr::null(), 0);
                    let place = place(&mut present, out);
                    if fdb_future_get_value(f, place, &mut value, &mut length) == 0 && present != 0
                    {
                        touch(value, length);
                    }
                }
                11 => {
                    let (mut rows, mut count, mut more) = (ptr::null(), 0, 0);
                    let place = place(&mut more, out);
                    if fdb_future_get_keyvalue_array(f, &mut rows, &mut count, place) == 0 {
                        for row in 0..count as usize {
                            let row = rows.cast::<u8>().add(row * size_of::<FDBKeyValue>());
                            let row = row.cast::<FDBKeyValue>().read_unaligned();
                            touch(row.key, row.key_length);
                            touch(row.value, row.value_length);
                        }
                    }
                }
                12 => {
                    let (mut rows, mut count, mut more) = (ptr::null(), 0, 0);
                    let place = place(&mut count, out);
                    if fdb_future_get_mappedkeyvalue_array(f, &mut rows, place, &mut more) == 0 {
                        for row in 0..count as usize {
                            let row = rows.add(row).read_unaligned();
                            touch(row.key.key, row.key.key_length);
                            touch(row.value.key, row.value.key_length);
                            for found in 0..row.get_range.size as usize {
                                let found = row.get_range.data.add(found).read_unaligned();
                                touch(found.key, found.key_length);
                                touch(found.value, found.value_length);
                            }
                        }
                    }
                }
                13 => {
                    let (mut keys, mut count) = (ptr::null(), 0);
                    let place = place(&mut count, out);
                    if fdb_future_get_key_array(f, &mut keys, place) == 0 {
                        for key in 0..count as usize {
                            let key = keys.add(key).read_unaligned();
                            touch(key.key, key.key_length);
                        }
                    }
                }
                14 => {
                    let (mut strings, mut count) = (ptr::null(), 0);
                    let place = place(&mut count, out);
                    if fdb_future_get_string_array(f, &mut strings, place) == 0 {
                        for string in 0..count as usize {
                            let string = std::ffi::CStr::from_ptr(*strings.add(string));
                            std::hint::black_box(string.to_bytes().len());
                        }
                    }
                }
                15 => {
                    let mut value = 0;
                    fdb_future_get_bool(f, &mut value);
                }
                16 => {
                    let (mut ranges, mut count) = (ptr::null(), 0);
                    fdb_future_get_keyrange_array(f, &mut ranges, &mut count);
                }
                _ => {
                    let mut database = ptr::null_mut();
                    if fdb_future_get_database(f, &mut database) == 0 {
                        self.databases.push(database);
                    }
                }
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // SAFETY: all of them are alive, and destroyed once. Databases go first, which is allowed.
        unsafe {
            self.databases
                .drain(..)
                .for_each(|handle| fdb_database_destroy(handle));
            self.tenants
                .drain(..)
                .for_each(|handle| fdb_tenant_destroy(handle));
            self.transactions
                .drain(..)
                .for_each(|handle| fdb_transaction_destroy(handle));
            self.futures
                .drain(..)
                .for_each(|handle| fdb_future_destroy(handle));
            self.clusters
                .drain(..)
                .for_each(|handle| fdb_cluster_destroy(handle));
        }
        for counter in &self.callbacks {
            assert!(
                counter.load(Ordering::SeqCst) <= 1,
                "a callback was called twice"
            );
        }
    }
}

impl Global {
    unsafe fn call(&self) {
        unsafe {
            match self {
                Global::GetError(code) => {
                    let text = std::ffi::CStr::from_ptr(fdb_get_error(*code));
                    assert!(!text.is_empty());
                }
                Global::Predicate(test, code) => {
                    fdb_error_predicate(*test, *code);
                }
                Global::SelectVersion(runtime, header) => {
                    let code = fdb_select_api_version_impl((*runtime).into(), (*header).into());
                    assert_ne!(code, 0, "an API version was selected twice");
                }
                Global::NetworkOption(option, value) => {
                    value.with(|p, l| fdb_network_set_option(c_int::from(*option), p, l));
                }
                Global::SetUpNetwork => assert_ne!(fdb_setup_network(), 0),
                Global::Versions => {
                    assert_eq!(fdb_get_max_api_version(), 730);
                    assert!(!fdb_get_client_version().is_null());
                }
                Global::HookWithoutFunction => {
                    fdb_add_network_thread_completion_hook(None, ptr::null_mut());
                }
            }
        }
    }
}

const MEMORY: &str = "embedded:memory:fuzz";

/// The database in a file may contain data of an earlier run.
static FILE_USED: AtomicBool = AtomicBool::new(false);

/// The name of a database in a file, new in each process; if possible, in a file system in memory.
fn file() -> &'static str {
    static FILE: LazyLock<String> = LazyLock::new(|| {
        let memory = Path::new("/dev/shm");
        let elsewhere = std::env::temp_dir();
        let directory = if memory.is_dir() { memory } else { &elsewhere };
        let directory = directory.join("embedded_fdb_fuzz");
        // From an earlier process, if any; only one fuzzer runs at a time.
        let _none = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).unwrap();
        format!("embedded:file:{}/db", directory.display())
    });
    &FILE
}

/// Injects all faults into both databases, each with a probability of up to a tenth.
fn set_faults(percent: Option<(u8, u8)>) {
    let faults = percent.map(|(percent, seed)| {
        let p = f64::from(percent % 11) / 100.0;
        let ms = Duration::from_millis(1);
        Faults {
            seed: seed.into(),
            not_committed: p,
            commit_unknown_result: p,
            transaction_too_old: p,
            future_version: p,
            process_behind: p,
            slow_read: p,
            read_version_failure: p,
            slow_read_version: p,
            read_delay: ms,
            watch_failure: p,
            slow_watch: p,
            watch_delay: ms,
        }
    });
    for name in [MEMORY, file()] {
        let database = admin::Database::open(name).unwrap();
        database.set_faults(faults.clone()).unwrap();
    }
}

/// Starts the network once, and gives each run a database and a transaction to begin with.
fn start() -> Client {
    static NETWORK: Once = Once::new();
    let mut client = Client::default();
    // SAFETY: as fdb_c.h requires.
    unsafe {
        NETWORK.call_once(|| {
            assert_eq!(fdb_select_api_version_impl(730, 730), 0);
            assert_eq!(fdb_setup_network(), 0);
            std::thread::spawn(|| fdb_run_network());
        });
        set_faults(None);
        let file_used = FILE_USED.swap(false, Ordering::SeqCst);
        for name in [Some(MEMORY), file_used.then(file)].into_iter().flatten() {
            let name = CString::new(name).unwrap();
            let mut database = ptr::null_mut();
            assert_eq!(fdb_create_database(name.as_ptr(), &mut database), 0);
            client.databases.push(database);
            // Leftovers of earlier runs would make runs depend on each other.
            let mut transaction = ptr::null_mut();
            assert_eq!(
                fdb_database_create_transaction(database, &mut transaction),
                0
            );
            fdb_transaction_clear_range(transaction, ptr::null(), 0, b"\xFF".as_ptr(), 1);
            let commit = fdb_transaction_commit(transaction);
            fdb_future_block_until_ready(commit);
            assert_eq!(fdb_future_get_error(commit), 0);
            fdb_future_destroy(commit);
            fdb_transaction_reset(transaction);
            client.transactions.push(transaction);
        }
    }
    client
}

fuzz_target!(|calls: Vec<Call>| {
    let mut client = start();
    for call in calls.iter().take(200) {
        // SAFETY: see the module's docs for the one rule that is kept.
        unsafe { client.call(call) };
    }
});
