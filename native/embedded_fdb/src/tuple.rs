//! The part of the tuple layer that mapped range reads need: finding the elements of a tuple.

/// One element, still encoded.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Element<'a>(pub(crate) &'a [u8]);

const BYTES: u8 = 0x01;
const TEXT: u8 = 0x02;

/// The elements of an encoded tuple; `None` if it is not one.
///
/// Works like a storage server: it supports no nested tuples, large integers or UUIDs, and accepts a
/// truncated last element.
pub(crate) fn elements(tuple: &[u8]) -> Option<Vec<Element<'_>>> {
    let mut elements = Vec::new();
    let mut rest = tuple;
    while let Some(&code) = rest.first() {
        let length = match code {
            BYTES | TEXT => 1 + string_length(&rest[1..]),
            0x0c..=0x1c => 1 + usize::from(code.abs_diff(0x14)),
            0x20 => 1 + 4,
            0x21 => 1 + 8,
            0x00 | 0x26 | 0x27 => 1,
            0x33 => 1 + 12,
            _ => return None,
        };
        let (element, others) = rest.split_at(length.min(rest.len()));
        elements.push(Element(element));
        rest = others;
    }
    Some(elements)
}

/// The length of a byte string including its end: a zero that is not escaped.
fn string_length(bytes: &[u8]) -> usize {
    let mut at = 0;
    while at + 1 < bytes.len() && (bytes[at] != 0 || bytes[at + 1] == 0xff) {
        at += if bytes[at] == 0 { 2 } else { 1 };
    }
    at + 1
}

impl Element<'_> {
    /// The bytes of a byte string or a text; `None` for other elements.
    pub(crate) fn string(self) -> Option<Vec<u8>> {
        let (&code, rest) = self.0.split_first()?;
        if code != BYTES && code != TEXT {
            return None;
        }
        let mut string = Vec::with_capacity(rest.len());
        let mut bytes = rest.iter();
        while let Some(&byte) = bytes.next() {
            // A zero is either escaped or the end.
            if byte != 0 || bytes.next().is_some() {
                string.push(byte);
            }
        }
        Some(string)
    }
}

/// Encodes a byte string as an element.
pub(crate) fn encode_bytes(bytes: &[u8]) -> Vec<u8> {
    let mut encoded = vec![BYTES];
    for &byte in bytes {
        encoded.push(byte);
        if byte == 0 {
            encoded.push(0xff);
        }
    }
    encoded.push(0);
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_every_kind_are_found() {
        let kinds: &[&[u8]] = &[
            b"\x00",
            b"\x01a\x00\xffb\x00",
            b"\x02text\x00",
            b"\x14",
            b"\x15\x07",
            b"\x13\xfe",
            b"\x1c\x01\x02\x03\x04\x05\x06\x07\x08",
            b"\x20\x80\x00\x00\x00",
            b"\x21\x80\x00\x00\x00\x00\x00\x00\x00",
            b"\x26",
            b"\x33aaaaaaaaaabb",
        ];
        let tuple = kinds.concat();
        let expected: Vec<_> = kinds.iter().map(|kind| Element(kind)).collect();
        assert_eq!(elements(&tuple), Some(expected));
        for unknown in [&b"\x05\x00"[..], b"\x0b\xfe", b"\x1d\x01", b"\x30", b"\xff"] {
            assert_eq!(elements(unknown), None);
        }
    }

    #[test]
    fn the_last_element_may_be_cut_off() {
        for cut in [
            &b"\x01ab"[..],
            b"\x01a\0\xff",
            b"\x01",
            b"\x16\x01",
            b"\x33",
        ] {
            assert_eq!(elements(cut), Some(vec![Element(cut)]));
        }
        assert_eq!(Element(b"\x01ab").string(), Some(b"ab".to_vec()));
        assert_eq!(Element(b"\x01a\0\xff").string(), Some(b"a\0".to_vec()));
    }

    #[test]
    fn strings_are_decoded_and_encoded() {
        assert_eq!(
            Element(b"\x01a\x00\xffb\x00").string(),
            Some(b"a\0b".to_vec())
        );
        assert_eq!(encode_bytes(b"a\0b"), b"\x01a\x00\xffb\x00");
        assert_eq!(Element(b"\x14").string(), None);
    }
}
