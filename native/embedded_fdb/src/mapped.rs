//! Mapped range reads: for each row of an index, read the key or range of the record it leads to.
//!
//! A mapper is a tuple. `{K[2]}` in it stands for element 2 of the index row's key, `{V[0]}` for
//! element 0 of its value; `{...}` at the end asks for the range below the mapped key instead of the
//! one key. `{{` and `}}` are braces.

use std::cell::LazyCell;

use crate::error::{Error, Result};
use crate::keys::Key;
use crate::tuple::{elements, encode_bytes, Element};

enum Part {
    /// Encoded already.
    Literal(Vec<u8>),
    /// An element that is not a number is an error when a row is mapped; a number that is too low or too
    /// high, when that row is split.
    FromKey(Result<i32>),
    FromValue(Result<i32>),
}

/// A mapper that has been checked.
pub(crate) struct Mapper {
    parts: Vec<Part>,
    /// Whether each row leads to a range.
    pub(crate) range: bool,
}

impl Mapper {
    pub(crate) fn parse(mapper: &[u8]) -> Result<Mapper> {
        let elements = elements(mapper).ok_or(Error::MAPPER_NOT_TUPLE)?;
        let mut parsed = Mapper {
            parts: Vec::new(),
            range: false,
        };
        for (i, element) in elements.iter().enumerate() {
            let part = match element.string() {
                Some(string) if string == b"{...}" => {
                    if i + 1 != elements.len() {
                        return Err(Error::MAPPER_BAD_RANGE_DECRIPTOR);
                    }
                    parsed.range = true;
                    continue;
                }
                Some(string) => parse_string(*element, &string),
                None => Part::Literal(element.0.to_vec()),
            };
            parsed.parts.push(part);
        }
        Ok(parsed)
    }

    /// The key that an index row leads to.
    pub(crate) fn map(&self, key: &[u8], value: &[u8]) -> Result<Key> {
        // Split once, and only if needed.
        let key = LazyCell::new(|| elements(key).ok_or(Error::KEY_NOT_TUPLE));
        let value = LazyCell::new(|| elements(value).ok_or(Error::VALUE_NOT_TUPLE));
        let mut mapped = Vec::new();
        for part in &self.parts {
            mapped.extend_from_slice(match part {
                Part::Literal(bytes) => bytes,
                Part::FromKey(index) => pick(&key, (*index)?)?,
                Part::FromValue(index) => pick(&value, (*index)?)?,
            });
        }
        Ok(mapped.into())
    }
}

fn pick<'t>(elements: &Result<Vec<Element<'t>>>, index: i32) -> Result<&'t [u8]> {
    let elements = elements.as_ref().map_err(|error| *error)?;
    let element = usize::try_from(index).ok();
    let element = element.and_then(|index| elements.get(index));
    let element = element.ok_or(Error::MAPPER_BAD_INDEX)?;
    Ok(element.0)
}

fn parse_string(element: Element, string: &[u8]) -> Part {
    let unescaped = unescape(&unescape(string, b'{'), b'}');
    if unescaped != string {
        return Part::Literal(encode_bytes(&unescaped));
    }
    let number = |rest: &[u8]| leading_number(rest).ok_or(Error::MAPPER_BAD_INDEX);
    match string {
        [b'{', b'K', b'[', rest @ .., b']', b'}'] if !rest.is_empty() => {
            Part::FromKey(number(rest))
        }
        [b'{', b'V', b'[', rest @ .., b']', b'}'] if !rest.is_empty() => {
            Part::FromValue(number(rest))
        }
        _ => Part::Literal(element.0.to_vec()),
    }
}

/// The number at the beginning of a text, as C's `strtol` reads it: the rest is ignored.
fn leading_number(text: &[u8]) -> Option<i32> {
    let text = text.trim_ascii_start();
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let end = digits.iter().position(|byte| !byte.is_ascii_digit());
    let digits = &digits[..end.unwrap_or(digits.len())];
    let number: i32 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(if negative { -number } else { number })
}

/// Unescapes doubled braces.
fn unescape(string: &[u8], brace: u8) -> Vec<u8> {
    let mut bytes = string.iter().peekable();
    let mut unescaped = Vec::with_capacity(string.len());
    while let Some(&byte) = bytes.next() {
        unescaped.push(byte);
        if byte == brace && bytes.peek() == Some(&&brace) {
            bytes.next();
        }
    }
    unescaped
}

/// The end of the keys that begin with `prefix`; `None` if there is none.
pub(crate) fn prefix_end(prefix: &[u8]) -> Option<Key> {
    let last = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(strings: &[&str]) -> Vec<u8> {
        strings
            .iter()
            .flat_map(|s| encode_bytes(s.as_bytes()))
            .collect()
    }

    fn map(mapper: &[&str]) -> Result<Vec<u8>> {
        let mapper = Mapper::parse(&tuple(mapper))?;
        mapper
            .map(&tuple(&["k0", "k1"]), &tuple(&["v0"]))
            .map(|key| key.to_vec())
    }

    #[test]
    fn references_are_filled_in() {
        let mapped = map(&["users", "{K[1]}", "{V[0]}", "{{x}}", "{...}"]);
        assert_eq!(mapped, Ok(tuple(&["users", "k1", "v0", "{x}"])));
    }

    #[test]
    fn numbers_are_read_as_c_reads_them() {
        assert_eq!(map(&["{K[ +1x]}"]), Ok(tuple(&["k1"])));
        assert_eq!(map(&["{K[-0]}"]), Ok(tuple(&["k0"])));
        assert_eq!(map(&["{K[]}", "{k[0]}"]), Ok(tuple(&["{K[]}", "{k[0]}"])));
    }

    #[test]
    fn mistakes_have_errors_of_their_own() {
        assert_eq!(map(&["{K[2]}"]), Err(Error::MAPPER_BAD_INDEX));
        assert_eq!(map(&["{K[x]}"]), Err(Error::MAPPER_BAD_INDEX));
        assert_eq!(map(&["{K[-1]}"]), Err(Error::MAPPER_BAD_INDEX));
        assert_eq!(map(&["{V[99999999999]}"]), Err(Error::MAPPER_BAD_INDEX));
        assert_eq!(map(&["{...}", "x"]), Err(Error::MAPPER_BAD_RANGE_DECRIPTOR));
        assert_eq!(Mapper::parse(b"\xfe").err(), Some(Error::MAPPER_NOT_TUPLE));
        let by_key = Mapper::parse(&tuple(&["{K[0]}"])).and_then(|m| m.map(b"\xfe", b""));
        assert_eq!(by_key, Err(Error::KEY_NOT_TUPLE));
        let by_key = Mapper::parse(&tuple(&["{K[-1]}"])).and_then(|m| m.map(b"\xfe", b""));
        assert_eq!(by_key, Err(Error::KEY_NOT_TUPLE), "the key is split first");
    }

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        assert_eq!(prefix_end(b"a\xff\xff").as_deref(), Some(&b"b"[..]));
        assert_eq!(prefix_end(b"\xff"), None);
    }
}
