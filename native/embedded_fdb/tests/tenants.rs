//! Tenants, through the C functions: the published Rust client has them only behind a feature.

mod common;

use std::ffi::{c_int, CString};
use std::ptr::{null, null_mut};

use embedded_fdb::c_api::*;
use embedded_fdb::c_types::*;

use common::take;

const MAP: &[u8] = b"\xff\xff/management/tenant/map/";
const SPECIAL_KEY_SPACE_ENABLE_WRITES: c_int = 714;
const READ_SYSTEM_KEYS: c_int = 302;

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// A transaction of a database or of a tenant.
struct Transaction(*mut FDBTransaction);

impl Drop for Transaction {
    fn drop(&mut self) {
        // SAFETY: made by `Client`, and used only by it.
        unsafe { fdb_transaction_destroy(self.0) };
    }
}

fn len(bytes: &[u8]) -> c_int {
    bytes.len() as c_int
}

/// Bytes for C code.
///
/// # Safety
///
/// `pointer` points to `length` bytes.
unsafe fn copy(pointer: *const u8, length: c_int) -> Vec<u8> {
    // SAFETY: by the contract above.
    unsafe { std::slice::from_raw_parts(pointer, length as usize) }.to_vec()
}

// SAFETY of all methods: the handle lives as long as `self`, and slices give valid pointers.
impl Transaction {
    fn option(&self, code: c_int) {
        assert_eq!(
            unsafe { fdb_transaction_set_option(self.0, code, null(), 0) },
            0
        );
    }

    fn set(&self, key: &[u8], value: &[u8]) {
        unsafe { fdb_transaction_set(self.0, key.as_ptr(), len(key), value.as_ptr(), len(value)) };
    }

    fn clear(&self, key: &[u8]) {
        unsafe { fdb_transaction_clear(self.0, key.as_ptr(), len(key)) };
    }

    fn commit(&self) -> Result<(), c_int> {
        take(unsafe { fdb_transaction_commit(self.0) }, |_| ())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, c_int> {
        let future = unsafe { fdb_transaction_get(self.0, key.as_ptr(), len(key), 0) };
        take(future, |future| unsafe {
            let (mut present, mut pointer, mut length) = (0, null(), 0);
            assert_eq!(
                fdb_future_get_value(future, &mut present, &mut pointer, &mut length),
                0
            );
            (present != 0).then(|| copy(pointer, length))
        })
    }

    fn rows(&self, begin: &[u8], end: &[u8]) -> Result<Rows, c_int> {
        let future = unsafe {
            fdb_transaction_get_range(
                self.0,
                begin.as_ptr(),
                len(begin),
                0,
                1,
                end.as_ptr(),
                len(end),
                0,
                1,
                0,
                0,
                -2,
                1,
                0,
                0,
            )
        };
        take(future, |future| unsafe {
            let (mut rows, mut count, mut more) = (null(), 0, 0);
            assert_eq!(
                fdb_future_get_keyvalue_array(future, &mut rows, &mut count, &mut more),
                0
            );
            (0..count as usize)
                .map(|i| {
                    let row: FDBKeyValue = *rows.add(i);
                    (
                        copy(row.key, row.key_length),
                        copy(row.value, row.value_length),
                    )
                })
                .collect()
        })
    }

    fn last_key(&self) -> Result<Vec<u8>, c_int> {
        let future = unsafe { fdb_transaction_get_key(self.0, b"\xff".as_ptr(), 1, 0, 0, 0) };
        take(future, |future| unsafe {
            let (mut pointer, mut length) = (null(), 0);
            assert_eq!(fdb_future_get_key(future, &mut pointer, &mut length), 0);
            copy(pointer, length)
        })
    }

    fn watch(&self, key: &[u8]) -> *mut FDBFuture {
        unsafe { fdb_transaction_watch(self.0, key.as_ptr(), len(key)) }
    }
}

struct Client {
    database: *mut FDBDatabase,
}

impl Client {
    fn new(name: &str) -> Self {
        common::boot();
        let path = CString::new(format!("embedded:memory:{name}")).expect("no zero in a name");
        let mut database = null_mut();
        // SAFETY: both pointers are valid.
        assert_eq!(
            unsafe { fdb_create_database(path.as_ptr(), &mut database) },
            0
        );
        Client { database }
    }

    fn begin(&self) -> Transaction {
        let mut transaction = null_mut();
        // SAFETY: the database is live.
        let error = unsafe { fdb_database_create_transaction(self.database, &mut transaction) };
        assert_eq!(error, 0);
        Transaction(transaction)
    }

    /// Opens a tenant for the rest of the process.
    fn open(&self, name: &[u8]) -> *mut FDBTenant {
        let mut tenant = null_mut();
        // SAFETY: the database is live, and the slice gives a valid pointer.
        let error = unsafe {
            fdb_database_open_tenant(self.database, name.as_ptr(), len(name), &mut tenant)
        };
        assert_eq!(error, 0);
        tenant
    }

    fn manage(&self, change: impl FnOnce(&Transaction)) -> Result<(), c_int> {
        let transaction = self.begin();
        transaction.option(SPECIAL_KEY_SPACE_ENABLE_WRITES);
        change(&transaction);
        transaction.commit()
    }

    fn create(&self, name: &[u8]) -> Result<(), c_int> {
        self.manage(|transaction| transaction.set(&[MAP, name].concat(), b""))
    }

    fn delete(&self, name: &[u8]) -> Result<(), c_int> {
        self.manage(|transaction| transaction.clear(&[MAP, name].concat()))
    }
}

fn begin_in(tenant: *mut FDBTenant) -> Transaction {
    let mut transaction = null_mut();
    // SAFETY: tenants of these tests live forever.
    assert_eq!(
        unsafe { fdb_tenant_create_transaction(tenant, &mut transaction) },
        0
    );
    Transaction(transaction)
}

fn id(tenant: *mut FDBTenant) -> Result<i64, c_int> {
    // SAFETY: as above.
    take(unsafe { fdb_tenant_get_id(tenant) }, |future| {
        let mut id = 0;
        // SAFETY: the future is live and the pointer valid.
        assert_eq!(unsafe { fdb_future_get_int64(future, &mut id) }, 0);
        id
    })
}

#[test]
fn tenants_keep_their_keys_apart() {
    let client = Client::new("tenants-apart");
    let early = client.open(b"one");
    assert_eq!(begin_in(early).get(b"k"), Err(2131), "not created yet");
    assert_eq!(client.create(b"one"), Ok(()));
    assert_eq!(client.create(b"two"), Ok(()));
    assert_eq!(id(early), Err(2131), "a name is looked up once");
    let (one, two) = (client.open(b"one"), client.open(b"two"));
    assert_eq!((id(one), id(two)), (Ok(1), Ok(2)));
    for (tenant, value) in [(one, b"1"), (two, b"2")] {
        let transaction = begin_in(tenant);
        transaction.set(b"k", value);
        assert_eq!(transaction.commit(), Ok(()));
    }
    let transaction = begin_in(two);
    assert_eq!(transaction.get(b"k"), Ok(Some(b"2".to_vec())));
    assert_eq!(
        transaction.rows(b"", b"\xff"),
        Ok(vec![(b"k".to_vec(), b"2".to_vec())])
    );
    assert_eq!(transaction.last_key(), Ok(b"k".to_vec()));
    // Outside, the keys are below the tenant's number.
    let outside = client.begin().rows(b"", b"\xff").map(|rows| rows.len());
    assert_eq!(outside, Ok(2));
    assert_eq!(
        client.begin().get(b"\0\0\0\0\0\0\0\x02k"),
        Ok(Some(b"2".to_vec()))
    );
}

#[test]
fn conflicts_and_watches_are_scoped_to_the_tenant() {
    let client = Client::new("tenants-conflicts");
    assert_eq!(client.create(b"one"), Ok(()));
    assert_eq!(client.create(b"two"), Ok(()));
    let (one, two) = (client.open(b"one"), client.open(b"two"));
    let reader = begin_in(one);
    assert_eq!(reader.get(b"k"), Ok(None));
    reader.set(b"other", b"");
    let watcher = begin_in(one);
    let watch = watcher.watch(b"k");
    assert_eq!(watcher.commit(), Ok(()));
    let elsewhere = begin_in(two);
    elsewhere.set(b"k", b"2");
    assert_eq!(elsewhere.commit(), Ok(()));
    // SAFETY: the watch is live.
    assert_eq!(unsafe { fdb_future_is_ready(watch) }, 0);
    let here = begin_in(one);
    here.set(b"k", b"1");
    assert_eq!(here.commit(), Ok(()));
    assert_eq!(take(watch, |_| ()), Ok(()));
    assert_eq!(reader.commit(), Err(1020));
}

#[test]
fn tenants_are_managed_through_special_keys() {
    let client = Client::new("tenants-managed");
    for name in [&b"b"[..], b"a", b"c"] {
        assert_eq!(client.create(name), Ok(()));
    }
    assert_eq!(
        client.create(b"a"),
        Ok(()),
        "creating again changes nothing"
    );
    assert_eq!(client.create(b"\xffx"), Err(2134));
    let listed = client.begin().rows(MAP, b"\xff\xff/management/tenant/map0");
    let names: Vec<_> = listed
        .into_iter()
        .flatten()
        .map(|(key, value)| {
            let tenant: serde_json::Value = serde_json::from_slice(&value).expect("JSON");
            (key[MAP.len()..].to_vec(), tenant["id"].as_i64())
        })
        .collect();
    let name = |name: &[u8]| name.to_vec();
    assert_eq!(
        names,
        [
            (name(b"a"), Some(2)),
            (name(b"b"), Some(1)),
            (name(b"c"), Some(3))
        ]
    );

    let tenant = client.open(b"a");
    let transaction = begin_in(tenant);
    transaction.set(b"k", b"");
    assert_eq!(transaction.commit(), Ok(()));
    assert_eq!(client.delete(b"a"), Err(2133), "not empty");
    let rename = b"\xff\xff/management/tenant/rename/a";
    assert_eq!(
        client.manage(|transaction| transaction.set(rename, b"b")),
        Err(2132)
    );
    assert_eq!(
        client.manage(|transaction| transaction.set(rename, b"z")),
        Ok(())
    );
    let renamed = begin_in(client.open(b"z"));
    assert_eq!(renamed.get(b"k"), Ok(Some(Vec::new())));
    renamed.clear(b"k");
    assert_eq!(renamed.commit(), Ok(()));
    assert_eq!(client.delete(b"z"), Ok(()));
    assert_eq!(
        client.delete(b"z"),
        Ok(()),
        "deleting again changes nothing"
    );
    assert_eq!(begin_in(tenant).get(b"k"), Err(2131));
}

#[test]
fn a_tenant_cannot_read_outside() {
    let client = Client::new("tenants-inside");
    assert_eq!(client.create(b"one"), Ok(()));
    let tenant = client.open(b"one");
    let transaction = begin_in(tenant);
    transaction.option(READ_SYSTEM_KEYS);
    assert_eq!(transaction.get(b"k"), Err(2007));
    assert_eq!(begin_in(tenant).get(b"\xff\xff/tracing/token"), Err(2138));
    assert_eq!(
        begin_in(tenant)
            .get(b"\xff/metadataVersion")
            .map(|v| v.map(|v| v.len())),
        Ok(Some(10))
    );
    assert_eq!(begin_in(tenant).get(b"\xff/x"), Err(2004));
}
