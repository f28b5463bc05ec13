//! Rows of records as terms. A record is a row, or a row followed by the parts of its split value.

use rustler::{Encoder, Env, Term};

use crate::etf;
use crate::tuple::binary;

/// The tag of a nested tuple in the tuple layer.
pub const NESTED_TUPLE: u8 = 0x05;

/// Whether a key is a part of the split value of the record at `record`: then it continues that key
/// with a nested tuple.
pub fn is_part_of(key: &[u8], record: &[u8]) -> bool {
    key.strip_prefix(record)
        .is_some_and(|rest| rest.first() == Some(&NESTED_TUPLE))
}

/// `[{key, fields | value}]`, in the order of the rows.
pub fn encode_rows<'a, 'r>(
    env: Env<'a>,
    rows: impl Iterator<Item = (&'r [u8], &'r [u8])>,
    reverse: bool,
) -> Term<'a> {
    let mut rows: Vec<_> = rows.collect();
    if reverse {
        rows.reverse();
    }
    let mut record = None;
    let mut terms: Vec<Term<'a>> = rows
        .into_iter()
        .map(|(key, value)| {
            // A part can look like a whole value: the application chooses its bytes.
            let value = if record.is_some_and(|record| is_part_of(key, record)) {
                binary(env, value)
            } else {
                record = Some(key);
                encode_value(env, value)
            };
            (binary(env, key), value).encode(env)
        })
        .collect();
    if reverse {
        terms.reverse();
    }
    terms.encode(env)
}

/// The fields of a record's value; its bytes if the layer must process it further.
fn encode_value<'a>(env: Env<'a>, value: &[u8]) -> Term<'a> {
    decode(env, value).unwrap_or_else(|| binary(env, value))
}

fn decode<'a>(env: Env<'a>, value: &[u8]) -> Option<Term<'a>> {
    if !etf::is_plain_record(value) {
        return None;
    }
    // Fails if it contains an atom that this VM does not know.
    env.binary_to_term(value).map(|(fields, _size)| fields)
}
