//! Mutations: the changes that a transaction asks for, and the effect of atomic operations on a value.

use crate::api_version::ApiVersion;
use crate::error::{Error, Result};
use crate::keys::{Key, Value, VALUE_SIZE_LIMIT};

/// The kinds of mutation that change one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    Set,
    Add,
    And,
    /// As `And`, but an absent value becomes the operand.
    AndV2,
    Or,
    Xor,
    AppendIfFits,
    Max,
    Min,
    /// As `Min`, but an absent value becomes the operand.
    MinV2,
    SetVersionstampedKey,
    SetVersionstampedValue,
    ByteMin,
    ByteMax,
    CompareAndClear,
}

impl Op {
    /// The operation for a code of `fdb_transaction_atomic_op`, in an API version.
    pub(crate) fn from_code(code: i32, api_version: ApiVersion) -> Result<Op> {
        Ok(match code {
            2 => Op::Add,
            6 if !api_version.is_at_least(510) => Op::And,
            6 | 19 => Op::AndV2,
            7 => Op::Or,
            8 => Op::Xor,
            9 => Op::AppendIfFits,
            12 => Op::Max,
            13 if !api_version.is_at_least(510) => Op::Min,
            13 | 18 => Op::MinV2,
            14 => Op::SetVersionstampedKey,
            15 => Op::SetVersionstampedValue,
            16 => Op::ByteMin,
            17 => Op::ByteMax,
            20 => Op::CompareAndClear,
            _ => return Err(Error::INVALID_MUTATION_TYPE),
        })
    }

    /// Whether the result depends on the previous value.
    pub(crate) fn is_dependent(self) -> bool {
        !matches!(
            self,
            Op::Set | Op::SetVersionstampedKey | Op::SetVersionstampedValue
        )
    }

    /// Whether `a * (b * c) == (a * b) * c` requires operands of equal length.
    pub(crate) fn is_non_associative(self) -> bool {
        matches!(
            self,
            Op::Add
                | Op::Or
                | Op::Xor
                | Op::Max
                | Op::Min
                | Op::MinV2
                | Op::SetVersionstampedKey
                | Op::SetVersionstampedValue
                | Op::CompareAndClear
        )
    }

    /// The value after the operation; `None` if the key is then absent.
    ///
    /// Versionstamp operations count as the set they become.
    pub(crate) fn apply(self, old: Option<&Value>, operand: &Value) -> Option<Value> {
        let old_bytes: &[u8] = old.map_or(&[], |v| v);
        let zip = |f: fn(u8, u8) -> u8, beyond: fn(u8) -> u8| -> Value {
            operand
                .iter()
                .enumerate()
                .map(|(i, &b)| old_bytes.get(i).map_or_else(|| beyond(b), |&a| f(a, b)))
                .collect()
        };
        Some(match self {
            Op::Set | Op::SetVersionstampedKey | Op::SetVersionstampedValue => operand.clone(),
            Op::Add => add(old_bytes, operand),
            Op::AndV2 | Op::MinV2 | Op::ByteMin | Op::ByteMax if old.is_none() => operand.clone(),
            Op::And | Op::AndV2 => zip(|a, b| a & b, |_| 0),
            Op::Or => zip(|a, b| a | b, |b| b),
            Op::Xor => zip(|a, b| a ^ b, |b| b),
            Op::AppendIfFits => append_if_fits(old_bytes, operand),
            Op::Max => {
                if old_bytes.is_empty() || little_endian_cmp(operand, old_bytes).is_ge() {
                    operand.clone()
                } else {
                    resize(old_bytes, operand.len())
                }
            }
            Op::Min | Op::MinV2 => {
                if little_endian_cmp(operand, old_bytes).is_le() {
                    operand.clone()
                } else {
                    resize(old_bytes, operand.len())
                }
            }
            Op::ByteMin => old
                .filter(|v| v[..] < operand[..])
                .unwrap_or(operand)
                .clone(),
            Op::ByteMax => old
                .filter(|v| v[..] > operand[..])
                .unwrap_or(operand)
                .clone(),
            Op::CompareAndClear => return old.filter(|v| v[..] != operand[..]).cloned(),
        })
    }
}

/// Adds as little-endian integers of the operand's length.
fn add(old: &[u8], operand: &Value) -> Value {
    let mut carry = 0u16;
    operand
        .iter()
        .enumerate()
        .map(|(i, &b)| {
            let sum = u16::from(old.get(i).copied().unwrap_or(0)) + u16::from(b) + carry;
            carry = sum >> 8;
            sum as u8
        })
        .collect()
}

fn append_if_fits(old: &[u8], operand: &Value) -> Value {
    if old.is_empty() {
        operand.clone()
    } else if operand.is_empty() || old.len() + operand.len() > VALUE_SIZE_LIMIT {
        old.into()
    } else {
        [old, operand].concat().into()
    }
}

/// Compares as little-endian integers of `operand`'s length.
fn little_endian_cmp(operand: &[u8], old: &[u8]) -> std::cmp::Ordering {
    (0..operand.len())
        .rev()
        .map(|i| operand[i].cmp(&old.get(i).copied().unwrap_or(0)))
        .find(|order| order.is_ne())
        .unwrap_or(std::cmp::Ordering::Equal)
}

/// The first `len` bytes, padded with zeros.
fn resize(bytes: &[u8], len: usize) -> Value {
    let mut resized = vec![0; len];
    let n = bytes.len().min(len);
    resized[..n].copy_from_slice(&bytes[..n]);
    resized.into()
}

/// One change, as passed to the committer. Order matters within a transaction.
#[derive(Clone, Debug)]
pub(crate) enum Mutation {
    Single { op: Op, key: Key, operand: Value },
    ClearRange { begin: Key, end: Key },
}

impl Mutation {
    /// The size that counts towards the transaction's limit: FoundationDB adds the size of its own
    /// record to the two strings.
    pub(crate) fn size(&self) -> usize {
        const RECORD: usize = 44;
        RECORD
            + match self {
                Mutation::Single { key, operand, .. } => key.len() + operand.len(),
                Mutation::ClearRange { begin, end } => begin.len() + end.len(),
            }
    }
}

/// The position of a versionstamp: the last four bytes, little-endian.
///
/// Returns the position and the length without the four bytes.
pub(crate) fn versionstamp_position(bytes: &[u8]) -> Result<(usize, usize)> {
    let body = bytes
        .len()
        .checked_sub(4)
        .ok_or(Error::CLIENT_INVALID_OPERATION)?;
    let mut tail = [0; 4];
    tail.copy_from_slice(&bytes[body..]);
    let position =
        usize::try_from(i32::from_le_bytes(tail)).map_err(|_| Error::CLIENT_INVALID_OPERATION)?;
    if position + 10 > body {
        return Err(Error::CLIENT_INVALID_OPERATION);
    }
    Ok((position, body))
}

/// The ten bytes of a versionstamp.
pub(crate) fn versionstamp(version: i64, batch: u16) -> [u8; 10] {
    let mut stamp = [0; 10];
    stamp[..8].copy_from_slice(&version.to_be_bytes());
    stamp[8..].copy_from_slice(&batch.to_be_bytes());
    stamp
}

/// `bytes` with `stamp` at the position given by its last four bytes, without those four.
pub(crate) fn place_versionstamp(bytes: &[u8], stamp: &[u8; 10]) -> Key {
    match versionstamp_position(bytes) {
        Ok((position, body)) => {
            let mut placed = bytes[..body].to_vec();
            placed[position..position + 10].copy_from_slice(stamp);
            placed.into()
        }
        Err(_) => bytes[..bytes.len().saturating_sub(4)].into(),
    }
}

/// `bytes` with the position of its versionstamp moved by the length of a new prefix.
pub(crate) fn shift_versionstamp(bytes: &[u8], by: usize) -> Key {
    let mut shifted = bytes.to_vec();
    if let Some(tail) = shifted.last_chunk_mut::<4>() {
        let position = u32::from_le_bytes(*tail).saturating_add(u32::try_from(by).unwrap_or(0));
        *tail = position.to_le_bytes();
    }
    shifted.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(op: Op, old: Option<&[u8]>, operand: &[u8]) -> Option<Vec<u8>> {
        op.apply(old.map(Value::from).as_ref(), &Value::from(operand))
            .map(|v| v.to_vec())
    }

    #[test]
    fn arithmetic_takes_the_length_of_the_operand() {
        assert_eq!(run(Op::Add, Some(&[255, 1]), &[1, 0]), Some(vec![0, 2]));
        assert_eq!(run(Op::Add, Some(&[255, 9, 9]), &[1]), Some(vec![0]));
        assert_eq!(run(Op::Add, None, &[7, 7]), Some(vec![7, 7]));
        assert_eq!(run(Op::Max, Some(&[1, 2, 3]), &[9, 0]), Some(vec![1, 2]));
        assert_eq!(run(Op::Min, Some(&[1]), &[0, 5]), Some(vec![1, 0]));
        assert_eq!(run(Op::Xor, Some(&[1]), &[3, 4]), Some(vec![2, 4]));
    }

    #[test]
    fn an_absent_value_is_not_an_empty_one() {
        assert_eq!(run(Op::AndV2, None, &[3]), Some(vec![3]));
        assert_eq!(run(Op::AndV2, Some(&[]), &[3]), Some(vec![0]));
        assert_eq!(run(Op::And, None, &[3]), Some(vec![0]));
        assert_eq!(run(Op::MinV2, None, &[3]), Some(vec![3]));
        assert_eq!(run(Op::Min, None, &[3]), Some(vec![0]));
        assert_eq!(run(Op::ByteMin, Some(&[]), &[3]), Some(vec![]));
        assert_eq!(run(Op::CompareAndClear, None, &[]), None);
        assert_eq!(run(Op::CompareAndClear, Some(&[]), &[]), None);
        assert_eq!(run(Op::CompareAndClear, Some(&[1]), &[]), Some(vec![1]));
    }

    #[test]
    fn append_stops_at_the_value_limit() {
        let big = vec![1; VALUE_SIZE_LIMIT - 1];
        assert_eq!(
            run(Op::AppendIfFits, Some(&big), &[1]).map(|v| v.len()),
            Some(VALUE_SIZE_LIMIT)
        );
        assert_eq!(run(Op::AppendIfFits, Some(&big), &[1, 1]), Some(big));
    }

    #[test]
    fn versionstamps_are_placed_where_the_last_bytes_say() {
        let stamp = versionstamp(1, 2);
        let mut key = b"ab".to_vec();
        key.extend([0xff; 10]);
        key.extend(2u32.to_le_bytes());
        assert_eq!(
            &place_versionstamp(&key, &stamp)[..],
            b"ab\0\0\0\0\0\0\0\x01\0\x02"
        );
        assert_eq!(
            versionstamp_position(&[1, 2, 3]),
            Err(Error::CLIENT_INVALID_OPERATION)
        );
        assert_eq!(
            versionstamp_position(&key[1..]),
            Err(Error::CLIENT_INVALID_OPERATION)
        );
    }
}
