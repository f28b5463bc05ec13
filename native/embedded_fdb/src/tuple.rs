//! As much of the tuple layer as mapped range reads need: where the elements of a tuple are.

/// One element, still encoded.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Element<'a>(pub(crate) &'a [u8]);

const BYTES: u8 = 0x01;
const TEXT: u8 = 0x02;

/// The elements of an encoded tuple, `None` where it is not one.
pub(crate) fn elements(mut tuple: &[u8]) -> Option<Vec<Element<'_>>> {
    let mut elements = Vec::new();
    while !tuple.is_empty() {
        let length = element_length(tuple, false)?;
        elements.push(Element(tuple.get(..length)?));
        tuple = &tuple[length..];
    }
    Some(elements)
}

/// The bytes of the element at the beginning of `tuple`.
fn element_length(tuple: &[u8], nested: bool) -> Option<usize> {
    let code = *tuple.first()?;
    let length = match code {
        // Inside a tuple, null has a second byte to tell it from the tuple's end.
        0x00 if nested && tuple.get(1) == Some(&0xff) => 2,
        0x00 => 1,
        BYTES | TEXT => 1 + escaped_length(&tuple[1..])?,
        0x05 => {
            let mut length = 1;
            loop {
                let rest = tuple.get(length..)?;
                if rest.first() == Some(&0) && rest.get(1) != Some(&0xff) {
                    break length + 1;
                }
                length += element_length(rest, true)?;
            }
        }
        // Integers of more than 8 bytes carry their length, inverted for negative ones.
        0x0b => 2 + usize::from(!tuple.get(1)?),
        0x1d => 2 + usize::from(*tuple.get(1)?),
        0x0c..=0x1c => 1 + usize::from(code.abs_diff(0x14)),
        0x20 => 1 + 4,
        0x21 => 1 + 8,
        0x26 | 0x27 => 1,
        0x30 => 1 + 16,
        0x32 => 1 + 8,
        0x33 => 1 + 12,
        _ => return None,
    };
    (length <= tuple.len()).then_some(length)
}

/// The length of a byte string up to and with its end: a zero that is not escaped.
fn escaped_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += bytes.get(at..)?.iter().position(|&byte| byte == 0)? + 1;
        if bytes.get(at) != Some(&0xff) {
            return Some(at);
        }
        at += 1;
    }
}

impl Element<'_> {
    /// The bytes of a byte string or a text, `None` for other elements.
    pub(crate) fn string(self) -> Option<Vec<u8>> {
        let (&code, rest) = self.0.split_first()?;
        if code != BYTES && code != TEXT {
            return None;
        }
        let mut string = Vec::with_capacity(rest.len());
        let mut bytes = rest.split_last()?.1.iter();
        while let Some(&byte) = bytes.next() {
            string.push(byte);
            if byte == 0 {
                bytes.next();
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
            b"\x05\x00\xff\x02x\x00\x05\x15\x01\x00\x00",
            b"\x14",
            b"\x15\x07",
            b"\x13\xfe",
            b"\x1c\x01\x02\x03\x04\x05\x06\x07\x08",
            b"\x1d\x09\x01\x02\x03\x04\x05\x06\x07\x08\x09",
            b"\x0b\xf6\x01\x02\x03\x04\x05\x06\x07\x08\x09",
            b"\x20\x80\x00\x00\x00",
            b"\x21\x80\x00\x00\x00\x00\x00\x00\x00",
            b"\x26",
            b"\x30aaaaaaaaaaaaaaaa",
            b"\x33aaaaaaaaaabb",
        ];
        let tuple = kinds.concat();
        let expected: Vec<_> = kinds.iter().map(|kind| Element(kind)).collect();
        assert_eq!(elements(&tuple), Some(expected));
        for cut in [1, 2, 5] {
            assert_eq!(elements(&kinds[1][..cut]), None);
        }
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
