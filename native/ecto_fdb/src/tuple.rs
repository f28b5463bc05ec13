//! Terms to and from the tuple layer.
//!
//! | term | tuple layer |
//! | --- | --- |
//! | `nil`, `:null` | null |
//! | binary | bytes |
//! | `{:utf8, binary}` | unicode string |
//! | integer of any size | integer |
//! | float, `{:float, f}` | double, single |
//! | `true`, `false` | boolean |
//! | `{:uuid, <<_::128>>}` | UUID |
//! | `{:versionstamp, id, batch, user}` | versionstamp; the commit fills in `id` 0xffffffffffffffff and `batch` 0xffff |
//! | tuple, list | nested tuple |

use std::borrow::Cow;

use foundationdb::tuple::{self, Bytes, Element, Versionstamp};
use rustler::types::atom;
use rustler::types::tuple::{get_tuple, make_tuple};
use rustler::{Atom, Binary, Encoder, Env, Error, NewBinary, NifResult, Term, TermType};

mod atoms {
    rustler::atoms! { null, utf8, float, uuid, versionstamp }
}

const INCOMPLETE_ID: u64 = u64::MAX;
const INCOMPLETE_BATCH: u16 = u16::MAX;

/// Packs a tuple or list. With an incomplete versionstamp inside, appends the offset that
/// `SET_VERSIONSTAMPED_KEY` needs.
pub fn pack(term: Term<'_>) -> NifResult<Vec<u8>> {
    let elements = elements(term)?;
    Ok(if elements.iter().any(is_incomplete) {
        tuple::pack_with_versionstamp(&elements)
    } else {
        tuple::pack(&elements)
    })
}

/// Unpacks bytes to a tuple.
pub fn unpack<'a>(env: Env<'a>, bytes: &[u8]) -> NifResult<Term<'a>> {
    let elements: Vec<Element<'_>> = tuple::unpack(bytes)
        .map_err(|error| expected("a packed tuple", &format!("{} bytes: {error}", bytes.len())))?;
    encode_all(env, &elements)
}

fn is_incomplete(element: &Element<'_>) -> bool {
    match element {
        Element::Versionstamp(stamp) => !stamp.is_complete(),
        Element::Tuple(inner) => inner.iter().any(is_incomplete),
        _ => false,
    }
}

fn elements(term: Term<'_>) -> NifResult<Vec<Element<'_>>> {
    match term.get_type() {
        TermType::Tuple => get_tuple(term)?.into_iter().map(element).collect(),
        // rustler panics when it traverses an improper list.
        TermType::List if term.list_length().is_err() => {
            Err(expected("a proper list to pack", &format!("{term:?}")))
        }
        TermType::List => term
            .decode::<Vec<Term<'_>>>()?
            .into_iter()
            .map(element)
            .collect(),
        _ => Err(expected("a tuple or list to pack", &format!("{term:?}"))),
    }
}

fn element(term: Term<'_>) -> NifResult<Element<'_>> {
    match term.get_type() {
        TermType::Binary => term.decode::<Binary<'_>>().map(bytes).map_err(|_| {
            expected(
                "an element of a tuple",
                &format!("{term:?}, which is a bitstring, not a binary"),
            )
        }),
        TermType::Integer => match term.decode::<i64>() {
            Ok(int) => Ok(Element::Int(int)),
            Err(_) => big_integer(term),
        },
        TermType::Float => Ok(Element::Double(term.decode()?)),
        TermType::Atom => {
            let value: Atom = term.decode()?;
            if value == atom::nil() || value == atoms::null() {
                Ok(Element::Nil)
            } else if value == atom::true_() {
                Ok(Element::Bool(true))
            } else if value == atom::false_() {
                Ok(Element::Bool(false))
            } else {
                Err(expected("an element of a tuple", &format!("{term:?}")))
            }
        }
        TermType::Tuple => tagged(term),
        TermType::List => Ok(Element::Tuple(elements(term)?)),
        _ => Err(expected("an element of a tuple", &format!("{term:?}"))),
    }
}

fn bytes(binary: Binary<'_>) -> Element<'_> {
    Element::Bytes(Bytes(Cow::Borrowed(binary.as_slice())))
}

fn big_integer(term: Term<'_>) -> NifResult<Element<'_>> {
    // rustler and the tuple crate use different major versions of num-bigint: convert via bytes.
    let big: rustler::BigInt = term.decode()?;
    let big = num_bigint::BigInt::from_signed_bytes_be(&big.to_signed_bytes_be());
    if big.bits() > 255 * 8 {
        return Err(expected(
            "an integer of at most 255 bytes",
            &format!("an integer of {} bits", big.bits()),
        ));
    }
    Ok(Element::BigInt(big))
}

fn tagged(term: Term<'_>) -> NifResult<Element<'_>> {
    let parts = get_tuple(term)?;
    let tag = parts.first().and_then(|tag| tag.decode::<Atom>().ok());
    match (tag, parts.len()) {
        (Some(tag), 2) if tag == atoms::utf8() => {
            let text: &str = parts[1].decode().map_err(|_| {
                expected("valid UTF-8 in {:utf8, binary}", &format!("{:?}", parts[1]))
            })?;
            Ok(Element::String(Cow::Borrowed(text)))
        }
        (Some(tag), 2) if tag == atoms::float() => {
            let float: f64 = parts[1]
                .decode()
                .map_err(|_| expected("a float in {:float, float}", &format!("{:?}", parts[1])))?;
            Ok(Element::Float(float as f32))
        }
        (Some(tag), 2) if tag == atoms::uuid() => {
            let uuid = parts[1]
                .decode::<Binary<'_>>()
                .ok()
                .and_then(|binary| uuid::Uuid::from_slice(binary.as_slice()).ok())
                .ok_or_else(|| {
                    expected("16 bytes in {:uuid, binary}", &format!("{:?}", parts[1]))
                })?;
            Ok(Element::Uuid(uuid))
        }
        (Some(tag), 4) if tag == atoms::versionstamp() => {
            let numbers = (
                parts[1].decode::<u64>().ok(),
                small(parts[2]),
                small(parts[3]),
            );
            match numbers {
                (Some(id), Some(batch), Some(user)) => {
                    Ok(Element::Versionstamp(versionstamp(id, batch, user)))
                }
                _ => Err(expected(
                    "integers of 64, 16 and 16 bits in {:versionstamp, id, batch, user}",
                    &format!("{term:?}"),
                )),
            }
        }
        _ => Ok(Element::Tuple(
            parts.into_iter().map(element).collect::<NifResult<_>>()?,
        )),
    }
}

/// An integer of 16 bits. Rustler's own decoding keeps the low bits of a larger one.
fn small(term: Term<'_>) -> Option<u16> {
    u16::try_from(term.decode::<u64>().ok()?).ok()
}

fn versionstamp(id: u64, batch: u16, user: u16) -> Versionstamp {
    if id == INCOMPLETE_ID && batch == INCOMPLETE_BATCH {
        return Versionstamp::incomplete(user);
    }
    let mut stamp = [0u8; 10];
    stamp[..8].copy_from_slice(&id.to_be_bytes());
    stamp[8..].copy_from_slice(&batch.to_be_bytes());
    Versionstamp::complete(stamp, user)
}

fn encode_all<'a>(env: Env<'a>, elements: &[Element<'_>]) -> NifResult<Term<'a>> {
    let terms: Vec<Term<'a>> = elements
        .iter()
        .map(|element| encode(env, element))
        .collect::<NifResult<_>>()?;
    Ok(make_tuple(env, &terms))
}

fn encode<'a>(env: Env<'a>, element: &Element<'_>) -> NifResult<Term<'a>> {
    Ok(match element {
        Element::Nil => atom::nil().encode(env),
        Element::Bytes(bytes) => binary(env, bytes),
        Element::String(text) => (atoms::utf8(), text.as_ref()).encode(env),
        Element::Tuple(inner) => encode_all(env, inner)?,
        Element::Int(int) => int.encode(env),
        Element::BigInt(big) => {
            rustler::BigInt::from_signed_bytes_be(&big.to_signed_bytes_be()).encode(env)
        }
        Element::Float(float) => (atoms::float(), f64::from(*float)).encode(env),
        Element::Double(double) => double.encode(env),
        Element::Bool(value) => value.encode(env),
        Element::Uuid(uuid) => (atoms::uuid(), binary(env, uuid.as_bytes())).encode(env),
        Element::Versionstamp(stamp) => {
            let bytes = stamp.transaction_version();
            let (id, batch) = bytes.split_at(8);
            let id = id
                .iter()
                .fold(0u64, |acc, byte| acc << 8 | u64::from(*byte));
            let batch = batch
                .iter()
                .fold(0u16, |acc, byte| acc << 8 | u16::from(*byte));
            (atoms::versionstamp(), id, batch, stamp.user_version()).encode(env)
        }
    })
}

/// Bytes as a separate binary term.
pub fn binary<'a>(env: Env<'a>, bytes: &[u8]) -> Term<'a> {
    Term::from(NewBinary::from_slice(env, bytes))
}

/// The text of an `ArgumentError`: the expected and the given value.
pub fn expected(what: &str, got: &str) -> Error {
    Error::RaiseTerm(Box::new(format!("expected {what}, got: {got}")))
}
