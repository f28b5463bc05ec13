//! Walks Erlang's external term format without creating terms. Stored bytes must not bring functions,
//! pids, ports, references or new atoms into the VM.
//!
//! The walk needs no stack, however deep a term is: it counts the terms still to come.

use thiserror::Error;

/// The tags that begin a term.
pub const VERSION: u8 = 131;
const LIST: u8 = 108;
const NIL: u8 = 106;
const SMALL_TUPLE: u8 = 104;
const BINARY: u8 = 109;
const SMALL_BIG: u8 = 110;
const SMALL_ATOM_UTF8: u8 = 119;

/// Why bytes are refused. The layer prepends the record's key.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    #[error("it is not an Erlang term")]
    NoTerm,
    #[error("it is not a keyword list")]
    NoKeywordList,
    #[error("it holds a {0}, which is not data")]
    NoData(&'static str),
    #[error("it is compressed")]
    Compressed,
    #[error("the bytes are damaged or cut off")]
    Damaged,
    #[error("bytes follow the term")]
    BytesFollow,
}

/// The kinds of terms that a walk accepts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// Plain data only.
    Data,
    /// Functions, pids, ports and references, too: bytes that are carried along unchanged.
    Anything,
}

/// The progress of a walk.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// The terms end at this position.
    Done(usize),
    /// From this position on, this many terms are still to come.
    More(usize, usize),
}

/// Skips `terms` terms from a position on, at most `budget` of them, counting parts of terms.
pub fn skip(
    bytes: &[u8],
    position: usize,
    terms: usize,
    allowed: Allowed,
    mut budget: usize,
) -> Result<Progress, Refused> {
    let mut walk = Walk::at(bytes, position)?;
    let mut left = terms;
    while left > 0 {
        if budget == 0 {
            return Ok(Progress::More(walk.position, left));
        }
        budget -= 1;
        left = walk.step(left, allowed)?;
    }
    Ok(Progress::Done(walk.position))
}

/// Whether these bytes are a keyword list of plain data without an incomplete versionstamp, which is
/// true of most records. The layer handles the others (and replaces an incomplete versionstamp with the
/// id).
pub fn is_plain_record(bytes: &[u8]) -> bool {
    plain_record(bytes) == Ok(true)
}

fn plain_record(bytes: &[u8]) -> Result<bool, Refused> {
    let (mut walk, count) = keyword_list(bytes)?;
    for _ in 0..count {
        walk.field_name()?;
        if walk.is_incomplete_versionstamp() {
            return Ok(false);
        }
        walk.value(Allowed::Data)?;
    }
    walk.end_of_list(count)?;
    Ok(true)
}

/// A field of an encoded keyword list: its name, and the position of its encoded value.
pub type Field = (String, std::ops::Range<usize>);

/// The fields of an encoded keyword list, with values of any kind.
pub fn fields(bytes: &[u8]) -> Result<Vec<Field>, Refused> {
    let (mut walk, count) = keyword_list(bytes)?;
    let mut fields = Vec::new();
    for _ in 0..count {
        let name = walk.field_name()?.text();
        let start = walk.position;
        walk.value(Allowed::Anything)?;
        fields.push((name, start..walk.position));
    }
    walk.end_of_list(count)?;
    Ok(fields)
}

/// The same term with strings in place of unknown atoms, and `{:reference, encoded}` in place of
/// references. Other terms that are not data are refused.
pub fn foreign(bytes: &[u8], exists: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>, Refused> {
    let mut walk = Walk::at(bytes, 0)?;
    if walk.byte() != Ok(VERSION) {
        return Err(Refused::NoTerm);
    }
    let mut result = vec![VERSION];
    let mut left = 1usize;
    while left > 0 {
        let start = walk.position;
        let piece = walk.piece()?;
        let encoded = &bytes[start..walk.position];
        match piece.kind {
            Kind::Atom(name) if !exists(encoded) => {
                push_binary(&mut result, name.text().as_bytes());
            }
            Kind::Data | Kind::Atom(_) => result.extend_from_slice(encoded),
            Kind::Reference => {
                let tag = b"reference";
                result.extend_from_slice(&[SMALL_TUPLE, 2, SMALL_ATOM_UTF8, tag.len() as u8]);
                result.extend_from_slice(tag);
                push_binary(&mut result, encoded);
            }
            Kind::Function | Kind::Pid | Kind::Port => return Err(piece.kind.refused()),
        }
        left = walk.left(left, piece.children)?;
    }
    match walk.rest().is_empty() {
        true => Ok(result),
        false => Err(Refused::BytesFollow),
    }
}

fn push_binary(to: &mut Vec<u8>, bytes: &[u8]) {
    to.push(BINARY);
    // A piece of a value is shorter than FoundationDB's longest value.
    to.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    to.extend_from_slice(bytes);
}

/// A walk at the first field, and the number of fields.
fn keyword_list(bytes: &[u8]) -> Result<(Walk<'_>, usize), Refused> {
    let mut walk = Walk::at(bytes, 0)?;
    let no_list = |_| Refused::NoKeywordList;
    if walk.byte().map_err(no_list)? != VERSION {
        return Err(Refused::NoKeywordList);
    }
    match walk.byte().map_err(no_list)? {
        NIL => Ok((walk, 0)),
        LIST => {
            let count = walk.number(4)?;
            Ok((walk, count))
        }
        _ => Err(Refused::NoKeywordList),
    }
}

/// The relevant kinds of terms.
#[derive(Clone, Copy)]
enum Kind<'b> {
    Data,
    Atom(Name<'b>),
    Function,
    Pid,
    Port,
    Reference,
}

impl Kind<'_> {
    fn refused(self) -> Refused {
        Refused::NoData(match self {
            Kind::Function => "function",
            Kind::Pid => "pid",
            Kind::Port => "port",
            Kind::Reference => "reference",
            Kind::Data | Kind::Atom(_) => return Refused::Damaged,
        })
    }

    fn is_data(self) -> bool {
        matches!(self, Kind::Data | Kind::Atom(_))
    }
}

/// An atom's name.
#[derive(Clone, Copy)]
struct Name<'b> {
    bytes: &'b [u8],
    latin1: bool,
}

impl Name<'_> {
    fn text(self) -> String {
        if self.latin1 {
            self.bytes.iter().copied().map(char::from).collect()
        } else {
            String::from_utf8_lossy(self.bytes).into_owned()
        }
    }
}

/// A term without its elements.
struct Piece<'b> {
    kind: Kind<'b>,
    /// The number of its elements, which follow.
    children: usize,
}

struct Walk<'b> {
    bytes: &'b [u8],
    position: usize,
}

impl<'b> Walk<'b> {
    fn at(bytes: &'b [u8], position: usize) -> Result<Self, Refused> {
        match position <= bytes.len() {
            true => Ok(Walk { bytes, position }),
            false => Err(Refused::Damaged),
        }
    }

    fn rest(&self) -> &'b [u8] {
        &self.bytes[self.position..]
    }

    /// Skips one term, of any depth.
    fn value(&mut self, allowed: Allowed) -> Result<(), Refused> {
        let mut left = 1;
        while left > 0 {
            left = self.step(left, allowed)?;
        }
        Ok(())
    }

    /// Skips a piece of a term; returns the number of terms left.
    fn step(&mut self, left: usize, allowed: Allowed) -> Result<usize, Refused> {
        let Piece { kind, children } = self.piece()?;
        if allowed == Allowed::Data && !kind.is_data() {
            return Err(kind.refused());
        }
        self.left(left, children)
    }

    fn left(&self, left: usize, children: usize) -> Result<usize, Refused> {
        let left = (left - 1).checked_add(children).ok_or(Refused::Damaged)?;
        // Each takes at least a byte, so a wrong count is detected early.
        match left <= self.rest().len() {
            true => Ok(left),
            false => Err(Refused::Damaged),
        }
    }

    fn field_name(&mut self) -> Result<Name<'b>, Refused> {
        if !self.rest().starts_with(&[SMALL_TUPLE, 2]) {
            return Err(Refused::NoKeywordList);
        }
        self.skip(2)?;
        match self.piece()?.kind {
            Kind::Atom(name) => Ok(name),
            _ => Err(Refused::NoKeywordList),
        }
    }

    fn end_of_list(&mut self, count: usize) -> Result<(), Refused> {
        // The empty list is its own tail.
        let end: &[u8] = if count == 0 { &[] } else { &[NIL] };
        match self.rest() == end {
            true => Ok(()),
            false => Err(Refused::NoKeywordList),
        }
    }

    /// `{:versionstamp, 0xFFFFFFFFFFFFFFFF, _, _}`
    fn is_incomplete_versionstamp(&self) -> bool {
        const ID: [u8; 11] = [SMALL_BIG, 8, 0, 255, 255, 255, 255, 255, 255, 255, 255];
        let mut walk = Walk { ..*self };
        walk.take(2) == Ok(&[SMALL_TUPLE, 4])
            && matches!(
                walk.piece(),
                Ok(Piece { kind: Kind::Atom(name), .. }) if name.bytes == b"versionstamp"
            )
            && walk.rest().starts_with(&ID)
    }

    fn piece(&mut self) -> Result<Piece<'b>, Refused> {
        let mut kind = Kind::Data;
        let mut children = 0;
        match self.byte()? {
            97 => self.skip(1)?,
            98 => self.skip(4)?,
            70 => self.skip(8)?,
            99 => self.skip(31)?,
            NIL => {}
            115 => kind = self.atom(1, true)?,
            100 => kind = self.atom(2, true)?,
            SMALL_ATOM_UTF8 => kind = self.atom(1, false)?,
            118 => kind = self.atom(2, false)?,
            107 => self.skip_sized(2, 0)?,
            BINARY => self.skip_sized(4, 0)?,
            77 => self.skip_sized(4, 1)?,
            SMALL_BIG => self.skip_sized(1, 1)?,
            111 => self.skip_sized(4, 1)?,
            SMALL_TUPLE => children = self.number(1)?,
            105 => children = self.number(4)?,
            LIST => children = self.number(4)?.checked_add(1).ok_or(Refused::Damaged)?,
            116 => children = self.number(4)?.checked_mul(2).ok_or(Refused::Damaged)?,
            113 => (kind, children) = (Kind::Function, 3),
            112 => {
                // The size includes itself.
                let size = self.number(4)?.checked_sub(4).ok_or(Refused::Damaged)?;
                self.skip(size)?;
                kind = Kind::Function;
            }
            103 => kind = self.of_node(Kind::Pid, 9)?,
            88 => kind = self.of_node(Kind::Pid, 12)?,
            102 => kind = self.of_node(Kind::Port, 5)?,
            89 => kind = self.of_node(Kind::Port, 8)?,
            120 => kind = self.of_node(Kind::Port, 12)?,
            101 => kind = self.of_node(Kind::Reference, 5)?,
            114 => {
                let words = self.number(2)?;
                kind = self.of_node(Kind::Reference, 1 + 4 * words)?;
            }
            90 => {
                let words = self.number(2)?;
                kind = self.of_node(Kind::Reference, 4 + 4 * words)?;
            }
            117 => return Err(Kind::Function.refused()),
            80 => return Err(Refused::Compressed),
            _ => return Err(Refused::Damaged),
        }
        Ok(Piece { kind, children })
    }

    fn atom(&mut self, length: usize, latin1: bool) -> Result<Kind<'b>, Refused> {
        let size = self.number(length)?;
        let bytes = self.take(size)?;
        Ok(Kind::Atom(Name { bytes, latin1 }))
    }

    /// The node's name, an atom, and this many bytes.
    fn of_node(&mut self, kind: Kind<'b>, size: usize) -> Result<Kind<'b>, Refused> {
        match self.byte()? {
            115 | SMALL_ATOM_UTF8 => self.skip_sized(1, 0)?,
            100 | 118 => self.skip_sized(2, 0)?,
            _ => return Err(Refused::Damaged),
        }
        self.skip(size).map(|()| kind)
    }

    /// Skips a length of this many bytes, more bytes, and as many bytes as the length says.
    fn skip_sized(&mut self, length: usize, more: usize) -> Result<(), Refused> {
        let size = self.number(length)?;
        self.skip(size.checked_add(more).ok_or(Refused::Damaged)?)
    }

    fn byte(&mut self) -> Result<u8, Refused> {
        self.take(1).map(|bytes| bytes[0])
    }

    /// An unsigned number of this many bytes, four at most.
    fn number(&mut self, length: usize) -> Result<usize, Refused> {
        let bytes = self.take(length)?;
        Ok(bytes
            .iter()
            .fold(0usize, |number, byte| number << 8 | usize::from(*byte)))
    }

    fn skip(&mut self, n: usize) -> Result<(), Refused> {
        self.take(n).map(|_| ())
    }

    fn take(&mut self, n: usize) -> Result<&'b [u8], Refused> {
        let taken = self.rest().get(..n).ok_or(Refused::Damaged)?;
        self.position += n;
        Ok(taken)
    }
}
