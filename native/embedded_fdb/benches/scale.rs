//! A million keys and a million watches: `cargo bench -p embedded_fdb --bench scale`.
//!
//! Prints times, and the growth of the process's memory, including the allocator's overhead.

mod client;

use std::time::{Duration, Instant};

use client::Database;

const COUNT: u64 = 1_000_000;
/// Keys of 16 bytes and values of 84: a hundred together.
const VALUE: [u8; 84] = [7; 84];

fn key(number: u64) -> [u8; 16] {
    let mut key = *b"key/\0\0\0\0\0\0\0\0\0\0\0\0";
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

/// The process's resident memory in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
    1024 * kilobytes
        .and_then(|number| number.parse::<u64>().ok())
        .expect("a number")
}

/// Does something a million times; prints the time and the memory it took.
fn measure<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let (memory, start) = (resident(), Instant::now());
    let result = work();
    let took = start.elapsed();
    let grown = resident().saturating_sub(memory);
    println!(
        "{what:<44} {:>7.2} s  {:>8.2} µs each  {:>6} bytes each",
        took.as_secs_f64(),
        took.as_secs_f64() * 1e6 / COUNT as f64,
        grown / COUNT
    );
    result
}

fn in_transactions(database: &Database, mut work: impl FnMut(&client::Transaction, u64)) {
    for part in 0..COUNT / 1_000 {
        let transaction = database.begin();
        for number in part * 1_000..(part + 1) * 1_000 {
            work(&transaction, number);
        }
        transaction.commit();
    }
}

fn main() {
    // Cargo passes options for criterion.
    let database = Database::open("embedded:memory:scale");
    database.set_max_watches(COUNT as i64);

    measure("set 1,000,000 keys, 1,000 in a transaction", || {
        in_transactions(&database, |transaction, number| {
            transaction.set(&key(number), &VALUE);
        });
    });
    measure("read them by ranges of 10,000", || {
        let mut found = 0;
        for part in 0..COUNT / 10_000 {
            let transaction = database.begin();
            let (begin, end) = (part * 10_000, (part + 1) * 10_000);
            let mut at = begin;
            while at < end {
                at += transaction.get_range(&key(at), &key(end), 0) as u64;
            }
            found += at - begin;
        }
        assert_eq!(found, COUNT);
    });
    let mut watches = Vec::with_capacity(COUNT as usize);
    measure("watch each of them", || {
        in_transactions(&database, |transaction, number| {
            watches.push(transaction.watch(&key(number)));
        });
    });
    // Old versions leave the history while new ones are added.
    std::thread::sleep(Duration::from_secs(6));
    measure("change all of them and wait for all watches", || {
        in_transactions(&database, |transaction, number| {
            transaction.set(&key(number), &VALUE[1..]);
        });
        for watch in &watches {
            watch.wait();
        }
    });
}
