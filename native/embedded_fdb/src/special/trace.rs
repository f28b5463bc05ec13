//! The identifiers of a transaction in traces.

use crate::error::{Error, Result};
use crate::keys::{Key, Value};
use crate::random;

pub(crate) const TOKEN: &[u8] = b"\xff\xff/tracing/token";
pub(crate) const TRANSACTION: &[u8] = b"\xff\xff/tracing/transaction_id";

/// The identifiers of a transaction in traces. Nothing is traced here, but a client may pass them on to
/// a tracer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Trace {
    pub(crate) transaction: (u64, u64),
    pub(crate) token: u64,
}

impl Trace {
    /// Its value in special keys.
    pub(crate) fn rows(&self) -> Vec<(Key, Value)> {
        let id = format!("{:016x}{:016x}", self.transaction.0, self.transaction.1);
        let row = |key: &[u8], value: String| (key.into(), value.into_bytes().into());
        vec![row(TOKEN, self.token.to_string()), row(TRANSACTION, id)]
    }

    pub(crate) fn new() -> Self {
        Trace {
            transaction: (random::number(), random::number()),
            token: random::number(),
        }
    }

    /// Sets the value that a key of this module stands for.
    pub(crate) fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if key.ends_with(b"transaction_id") {
            // Other values make a client report an internal error.
            self.transaction = parse_id(value).ok_or(Error::INTERNAL_ERROR)?;
        } else if key.ends_with(b"token") {
            self.token = match value {
                b"true" => random::number(),
                b"false" => 0,
                _ => return Err(Error::SPECIAL_KEYS_API_FAILURE),
            };
        }
        Ok(())
    }
}

/// Two numbers of 16 hexadecimal digits each.
pub(crate) fn parse_id(id: &[u8]) -> Option<(u64, u64)> {
    let digits = std::str::from_utf8(id).ok().filter(|id| id.len() == 32)?;
    let number = |part: Option<&str>| u64::from_str_radix(part?, 16).ok();
    Some((number(digits.get(..16))?, number(digits.get(16..))?))
}
