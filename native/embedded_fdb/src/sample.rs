//! The sample of keys from which a storage server estimates the size of a range.
//!
//! Whether a key is in it depends only on the key and the sizes, so the estimates are those of a
//! cluster: 0 for a few small rows, and right on average for many.

use std::ops::Bound::{Excluded, Included};

use crate::keys::{key_after, Key};
use crate::mvcc::Map;

/// About one of this many bytes is in the sample.
const FACTOR: f64 = 250.0;
/// The bytes that every key counts beside its own.
const OVERHEAD: usize = 100;

/// The bytes that a row represents, if it is in the sample.
fn sampled(key: &[u8], value: &[u8]) -> Option<u64> {
    let size = key.len() + value.len();
    let probability = (size as f64 / (key.len() + OVERHEAD) as f64 / FACTOR).min(1.0);
    let chosen = f64::from(hash(key)) / 4_294_967_296.0 < probability;
    chosen.then_some((size as f64 / probability) as u64)
}

fn sampled_keys<'a>(
    map: &'a Map,
    begin: &[u8],
    end: &[u8],
) -> impl Iterator<Item = (&'a Key, u64)> + use<'a> {
    map.range::<_, [u8]>((Included(begin), Excluded(end.max(begin))))
        .filter_map(|(key, value)| Some((key, sampled(key, value)?)))
}

/// The estimated size of a range in bytes.
pub(crate) fn estimate(map: &Map, begin: &[u8], end: &[u8]) -> u64 {
    sampled_keys(map, begin, end).map(|(_, bytes)| bytes).sum()
}

/// Keys after `begin`, up to and including `last`, with more than `chunk` bytes between them.
pub(crate) fn split_points<'a>(
    map: &'a Map,
    begin: &[u8],
    last: &[u8],
    chunk: u64,
) -> Vec<&'a Key> {
    let mut points: Vec<&Key> = Vec::new();
    let mut size = 0;
    let after_last = key_after(last);
    for (key, bytes) in sampled_keys(map, begin, &after_last) {
        size += bytes;
        if size > chunk && key[..] != *begin {
            points.push(key);
            size = bytes;
        }
    }
    points
}

/// Bob Jenkins' lookup3 (`hashlittle`, seed 0), which decides which keys are in the sample.
fn hash(bytes: &[u8]) -> u32 {
    const MIX: [u32; 6] = [4, 6, 8, 16, 19, 4];
    const FINISH: [u32; 7] = [14, 11, 25, 16, 4, 14, 24];
    // All arithmetic is meant to wrap, also that of the length.
    let mut state = [0xdead_beef_u32.wrapping_add(bytes.len() as u32); 3];
    let mut rest = bytes;
    while rest.len() > 12 {
        let (block, others) = rest.split_at(12);
        add(&mut state, block);
        for (i, turn) in MIX.into_iter().enumerate() {
            let (x, y, z) = (i % 3, (i + 2) % 3, (i + 1) % 3);
            state[x] = state[x].wrapping_sub(state[y]) ^ state[y].rotate_left(turn);
            state[y] = state[y].wrapping_add(state[z]);
        }
        rest = others;
    }
    if !rest.is_empty() {
        add(&mut state, rest);
        for (i, turn) in FINISH.into_iter().enumerate() {
            let (x, y) = ((i + 2) % 3, (i + 1) % 3);
            state[x] = (state[x] ^ state[y]).wrapping_sub(state[y].rotate_left(turn));
        }
    }
    state[2]
}

/// Adds up to twelve bytes, as little-endian numbers.
fn add(state: &mut [u32; 3], bytes: &[u8]) {
    for (word, part) in state.iter_mut().zip(bytes.chunks(4)) {
        let mut number = [0; 4];
        number[..part.len()].copy_from_slice(part);
        *word = word.wrapping_add(u32::from_le_bytes(number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Value;

    #[test]
    fn the_hash_is_the_published_one() {
        // The values of the function's own self-test.
        assert_eq!(hash(b""), 0xdead_beef);
        assert_eq!(hash(b"Four score and seven years ago"), 0x1777_0551);
    }

    #[test]
    fn estimates_are_right_on_average_and_parts_are_even() {
        let row = |i: i32| -> (Key, Value) {
            (format!("{i:08}").into_bytes().into(), vec![7; 92].into())
        };
        let map: Map = (0..20_000).map(row).collect();
        let total = estimate(&map, b"", b"\xff") as f64;
        assert!((1_800_000.0..2_200_000.0).contains(&total), "{total}");
        assert_eq!(estimate(&map, b"5", b"4"), 0);
        let points = split_points(&map, b"", b"\xff", 200_000);
        assert!((8..=10).contains(&points.len()), "{points:?}");
        let mut begin: &[u8] = b"";
        for point in points {
            assert!(estimate(&map, begin, point) <= 200_000);
            begin = point;
        }
        // Large values are always in the sample.
        let large = [(Key::from(&b"k"[..]), Value::from(vec![1; 50_000]))];
        let large: Map = large.into_iter().collect();
        assert_eq!(estimate(&large, b"", b"\xff"), 50_001);
    }
}
