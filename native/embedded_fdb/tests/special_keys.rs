//! Special keys: reads across their parts, and writes that change system keys.

mod common;

use common::{begin, code, database, put};
use foundationdb::options::{ConflictRangeType, MutationType, TransactionOption};
use foundationdb::{Database, KeySelector, RangeOption, Transaction};
use futures::executor::block_on;

/// A special key by its name, which begins with a slash.
fn key(name: &str) -> Vec<u8> {
    [b"\xff\xff", name.as_bytes()].concat()
}

fn writer(database: &Database) -> Transaction {
    let transaction = begin(database);
    transaction
        .set_option(TransactionOption::SpecialKeySpaceEnableWrites)
        .expect("an option");
    transaction
}

fn get(transaction: &Transaction, name: &str) -> Result<Option<String>, i32> {
    let value =
        block_on(transaction.get(&key(name), false)).map_err(foundationdb::FdbError::code)?;
    Ok(value.map(|value| String::from_utf8_lossy(&value).into_owned()))
}

/// The names of the keys between two of them.
fn names(transaction: &Transaction, begin: KeySelector, end: &str) -> Result<Vec<String>, i32> {
    let options = RangeOption {
        begin,
        end: KeySelector::first_greater_or_equal(key(end)),
        ..RangeOption::default()
    };
    let rows = block_on(transaction.get_range(&options, 1, false));
    let rows = rows.map_err(foundationdb::FdbError::code)?;
    let name = |key: &[u8]| String::from_utf8_lossy(&key[2..]).into_owned();
    Ok(rows.iter().map(|row| name(row.key())).collect())
}

fn from(name: &str) -> KeySelector<'static> {
    KeySelector::first_greater_or_equal(key(name))
}

fn commit(transaction: Transaction) -> Result<(), i32> {
    block_on(transaction.commit())
        .map(|_| ())
        .map_err(|error| error.code())
}

#[test]
fn a_management_range_has_the_rows_of_its_parts() {
    let database = database("special-parts");
    let transaction = begin(&database);
    assert_eq!(
        names(&transaction, from("/management/"), "/management0"),
        // A client cuts the end of the tenants' part to a key before its begin.
        Ok(vec![
            "/management/auto_coordinators".to_owned(),
            "/management/data_distribution/mode".to_owned()
        ])
    );
    let before_tenants = KeySelector::last_less_than(key("/management/tenant/"));
    assert_eq!(
        names(&transaction, before_tenants, "/management/tenant/map/"),
        Ok(vec!["/management/data_distribution/mode".to_owned()])
    );
    assert_eq!(
        names(
            &transaction,
            from("/management/tenant/map/"),
            "/management0"
        ),
        Err(2005)
    );
    assert_eq!(
        names(&transaction, from("/status/json"), "/tracing/"),
        Err(2112)
    );
    assert_eq!(
        names(&transaction, from("/nothing"), "/nothing0"),
        Err(2113)
    );
    assert_eq!(
        names(&transaction, from("/actor_lineage/"), "/actor_lineage0"),
        Err(2117)
    );
}

#[test]
fn management_writes_are_stored_with_the_commit() {
    let database = database("special-management");
    let transaction = writer(&database);
    transaction.set(&key("/management/maintenance/zone"), b"60");
    transaction.set(&key("/management/consistency_check_suspended"), b"");
    transaction.set(&key("/management/excluded/10.0.0.1:4500"), b"x");
    transaction.set(&key("/management/data_distribution/mode"), b"1");
    assert_eq!(
        get(&transaction, "/management/maintenance/zone"),
        Ok(Some("60".into()))
    );
    assert_eq!(commit(transaction), Ok(()));
    let reader = begin(&database);
    let value = get(&reader, "/management/maintenance/zone");
    assert_eq!(value, Ok(Some("59".into())), "whole seconds are left");
    assert_eq!(
        get(&reader, "/management/consistency_check_suspended"),
        Ok(Some(String::new()))
    );
    assert_eq!(
        get(&reader, "/management/excluded/10.0.0.1:4500"),
        Ok(Some(String::new()))
    );
    assert_eq!(
        get(&reader, "/management/data_distribution/mode"),
        Ok(Some("1".into()))
    );
    let transaction = writer(&database);
    transaction.clear_range(
        &key("/management/maintenance/"),
        &key("/management/maintenance0"),
    );
    transaction.clear(&key("/management/consistency_check_suspended"));
    assert_eq!(commit(transaction), Ok(()));
    let reader = begin(&database);
    assert_eq!(get(&reader, "/management/maintenance/zone"), Ok(None));
    assert_eq!(
        get(&reader, "/management/consistency_check_suspended"),
        Ok(None)
    );
}

#[test]
fn a_refused_change_says_why() {
    let database = database("special-refused");
    let refused = |name: &str, value: &[u8]| {
        let transaction = writer(&database);
        transaction.set(&key(name), value);
        commit(transaction)
    };
    assert_eq!(refused("/management/excluded/nowhere", b""), Err(2117));
    assert_eq!(
        refused("/management/data_distribution/mode", b"7"),
        Err(2117)
    );
    assert_eq!(refused("/management/db_locked", b"short"), Err(2117));
    assert_eq!(refused("/management/maintenance/zone", b"-1"), Err(2117));
    let written = |f: &dyn Fn(&Transaction)| {
        let transaction = writer(&database);
        f(&transaction);
        get(&transaction, "/error_message").err()
    };
    assert_eq!(written(&|t| t.set(&key("/nothing"), b"")), Some(2115));
    assert_eq!(
        written(&|t| t.clear_range(&key("/management/excluded/"), &key("/management/failed0"))),
        Some(2116)
    );
    assert_eq!(written(&|t| t.clear(&key("/tracing/token"))), Some(2117));
    let transaction = begin(&database);
    transaction.set(&key("/management/db_locked"), b"");
    assert_eq!(get(&transaction, "/error_message"), Err(2114));
}

#[test]
fn a_locked_database_serves_lock_aware_transactions() {
    let database = database("special-lock");
    put(&database, b"k", b"v");
    let id = "0123456789abcdef0123456789abcdef";
    let before = begin(&database);
    block_on(before.get_read_version()).expect("not locked yet");
    before.set(b"k", b"w");
    let transaction = writer(&database);
    transaction.set(&key("/management/db_locked"), id.as_bytes());
    assert_eq!(commit(transaction), Ok(()));
    assert_eq!(commit(before), Err(1038));
    let ignorant = begin(&database);
    assert_eq!(code(block_on(ignorant.get(b"k", false)).map(|_| ())), 1038);
    let aware = begin(&database);
    aware
        .set_option(TransactionOption::LockAware)
        .expect("an option");
    assert!(block_on(aware.get(b"k", false)).is_ok());
    assert_eq!(get(&aware, "/management/db_locked"), Ok(Some(id.into())));
    aware.set(b"k", b"x");
    assert_eq!(commit(aware), Ok(()));
    let transaction = writer(&database);
    transaction
        .set_option(TransactionOption::LockAware)
        .expect("an option");
    transaction.clear(&key("/management/db_locked"));
    assert_eq!(commit(transaction), Ok(()));
    assert!(block_on(begin(&database).get(b"k", false)).is_ok());
}

#[test]
fn client_side_keys_can_be_read_after_a_transaction_has_ended() {
    let database = database("special-ended");
    let transaction = begin(&database);
    transaction
        .add_conflict_range(b"a", b"b", ConflictRangeType::Write)
        .expect("a range");
    let transaction = transaction.cancel();
    let transaction: &Transaction = &transaction.reset();
    assert_eq!(
        get(transaction, "/transaction/write_conflict_range/a"),
        Ok(None)
    );
    // After a failed range read, reading the read conflict ranges fails, too.
    transaction.set_read_version(1);
    assert_eq!(
        code(block_on(transaction.get(b"k", false)).map(|_| ())),
        1007
    );
    assert_eq!(
        get(transaction, "/transaction/read_conflict_range/k"),
        Err(1007)
    );
    assert_eq!(
        get(transaction, "/connection_string").map(|s| s.is_some()),
        Ok(true)
    );
}

#[test]
fn the_conflict_range_of_a_versionstamped_key_ends_with_the_user_keys() {
    let database = database("stamped-conflict");
    let transaction = begin(&database);
    let key = [&b"..........x"[..], &[0; 4]].concat();
    transaction.atomic_op(&key, b"v", MutationType::SetVersionstampedKey);
    let conflicts = "/transaction/write_conflict_range/";
    let names = names(
        &transaction,
        from(conflicts),
        "/transaction/write_conflict_range0",
    );
    let ends: Vec<_> = names
        .iter()
        .flatten()
        .map(|name| name.ends_with('x'))
        .collect();
    assert_eq!(ends, [true, false]);
}

#[test]
fn global_configuration_names_are_cut_by_length() {
    let database = database("global-config");
    let transaction = begin(&database);
    let end = "/global_config0";
    assert_eq!(
        names(&transaction, from("/global_config/"), end),
        Ok(vec![])
    );
    assert_eq!(
        names(&transaction, from("/global_config/a"), end),
        Err(2005)
    );
    assert_eq!(
        names(&transaction, from("/global_config/a"), "/global_config/b"),
        Ok(vec![])
    );
}
