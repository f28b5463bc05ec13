//! Range reads of the database alone, split between client and storage servers as on a cluster.
//!
//! A server returns rows until a limit of the request is reached; if that is not enough, the client
//! asks again. Both determine where a reply ends, and what it says about the rows that follow. All
//! keys are on one server, as in a small cluster.

use crate::error::Result;
use crate::keys::{key_after, Key, KeySelector, Limits, Rows, Value, ALL_END};
use crate::space::Space;

/// The bytes and rows that a reply may have.
pub(crate) const REPLY_LIMIT: usize = 80_000;
/// The bytes that a server counts for each row beside its key and value.
pub(crate) const ROW_RECORD: usize = 24;

/// What one request to a server may return.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
    pub(crate) reverse: bool,
}

impl Request {
    fn new(limits: &Limits, reverse: bool) -> Request {
        let (rows, bytes) = match limits.bytes {
            // No more rows than bytes are needed.
            Some(0) => (limits.min_rows, REPLY_LIMIT),
            bytes => (
                limits
                    .rows
                    .map_or(REPLY_LIMIT, |rows| rows.min(REPLY_LIMIT)),
                bytes.map_or(REPLY_LIMIT, |bytes| bytes.min(REPLY_LIMIT)),
            ),
        };
        Request {
            rows,
            bytes,
            reverse,
        }
    }
}

/// A server's answer.
pub(crate) struct Reply<R> {
    pub(crate) rows: Vec<R>,
    /// A limit of the request was reached.
    pub(crate) more: bool,
}

/// A row of an answer.
pub(crate) trait Row {
    fn key(&self) -> &Key;
    /// Subtracts the row from the client's limits.
    fn count(&self, limits: &mut Limits);
}

impl Row for (Key, Value) {
    fn key(&self) -> &Key {
        &self.0
    }

    fn count(&self, limits: &mut Limits) {
        limits.count(&self.0, &self.1);
    }
}

/// A storage server that reads ranges.
pub(crate) trait Server {
    type Row: Row;

    fn space(&self) -> &Space;

    /// The rows between two keys.
    fn read(&self, begin: &[u8], end: &[u8], request: Request) -> Result<Reply<Self::Row>>;
}

impl Server for &Space {
    type Row = (Key, Value);

    fn space(&self) -> &Space {
        self
    }

    fn read(&self, begin: &[u8], end: &[u8], request: Request) -> Result<Reply<(Key, Value)>> {
        Ok(read_rows(self, begin, end, request))
    }
}

/// Rows until a limit is reached; at least one, if there is one.
pub(crate) fn read_rows(
    space: &Space,
    begin: &[u8],
    end: &[u8],
    request: Request,
) -> Reply<(Key, Value)> {
    let mut rows = Vec::new();
    let mut bytes = 0;
    let mut run = space.range(begin, end);
    while rows.len() < request.rows && bytes < request.bytes {
        let next = if request.reverse {
            run.next_back()
        } else {
            run.next()
        };
        let Some((key, value)) = next else { break };
        bytes += ROW_RECORD + key.len() + value.len();
        rows.push((key, value.clone()));
    }
    let more = rows.len() >= request.rows || bytes >= request.bytes;
    Reply { rows, more }
}

/// Where a selector resolves to in the database, system keys included.
pub(crate) struct Landing {
    pub(crate) key: Key,
    /// The selector ran off the first or the last key.
    pub(crate) off_edge: bool,
}

/// Resolves a selector without the transaction's writes. `""` is before the first key, and
/// `\xff\xff` after the last.
pub(crate) fn resolve(space: &Space, selector: &KeySelector) -> Landing {
    let selector = selector.clone().without_or_equal();
    let first = |keys: Option<(Key, &Value)>| keys.map(|(key, _)| key);
    if selector.offset > 0 {
        let mut skip = selector.offset.unsigned_abs() as usize - 1;
        let mut keys = space.range(&selector.key, ALL_END);
        while skip > 0 && keys.next().is_some() {
            skip -= 1;
        }
        match first(keys.next()) {
            Some(key) => Landing {
                key,
                off_edge: false,
            },
            // The end itself is still an answer that storage returns.
            None => Landing {
                key: ALL_END.into(),
                off_edge: skip > 0,
            },
        }
    } else {
        let skip = selector.offset.unsigned_abs() as usize;
        match first(space.range(&[], &selector.key).nth_back(skip)) {
            Some(key) => Landing {
                key,
                off_edge: false,
            },
            None => Landing {
                key: [][..].into(),
                off_edge: true,
            },
        }
    }
}

/// Asks a server for the rows between two selectors; `None` if one of them runs off an edge.
fn ask<S: Server>(
    server: &S,
    begin: &KeySelector,
    end: &KeySelector,
    request: Request,
) -> Result<Option<Reply<S::Row>>> {
    let land = |selector: &KeySelector| {
        if selector.is_first_greater_or_equal() {
            return Some(selector.key.clone());
        }
        let landing = resolve(server.space(), selector);
        (!landing.off_edge).then_some(landing.key)
    };
    let (Some(from), Some(to)) = (land(begin), land(end)) else {
        return Ok(None);
    };
    if from >= to {
        let (rows, more) = (Vec::new(), false);
        return Ok(Some(Reply { rows, more }));
    }
    server.read(&from, &to, request).map(Some)
}

/// A range read, which may take several requests. The selectors have no `or_equal`.
pub(crate) fn get_range<S: Server>(
    server: S,
    begin: &KeySelector,
    end: &KeySelector,
    limits: Limits,
    reverse: bool,
) -> Result<Rows<S::Row>> {
    let original = (begin, end, limits);
    let (mut begin, mut end, mut limits) = (begin.clone(), end.clone(), limits);
    let mut output = Rows::default();
    if begin.key.is_empty() && begin.offset < 1 {
        output.read_to_begin = true;
        begin = KeySelector::first_greater_or_equal(begin.key);
    }
    loop {
        if end.key.is_empty() && end.offset <= 1 {
            return Ok(output);
        }
        let request = Request::new(&limits, reverse);
        output.rounds += 1;
        let Some(reply) = ask(&server, &begin, &end, request)? else {
            let rounds = output.rounds;
            let mut output = by_keys(&server, original.0, original.1, original.2, reverse)?;
            output.rounds += rounds;
            return Ok(output);
        };
        for row in &reply.rows {
            row.count(&mut limits);
        }
        output.append(reply.rows);
        let last = output.rows.last().filter(|_| reply.more);
        let Some(last) = last.filter(|_| !limits.reached() && !limits.has_satisfied_min_rows())
        else {
            output.more = limits.reached() || reply.more;
            return Ok(output);
        };
        let next = last.key().clone();
        if reverse {
            end = KeySelector::first_greater_or_equal(next);
        } else {
            begin = KeySelector::first_greater_or_equal(key_after(&next));
        }
    }
}

/// The slow path of a range read: resolves the selectors first.
fn by_keys<S: Server>(
    server: &S,
    begin: &KeySelector,
    end: &KeySelector,
    limits: Limits,
    reverse: bool,
) -> Result<Rows<S::Row>> {
    let land = |selector: &KeySelector| {
        if selector.is_first_greater_or_equal() {
            selector.key.clone()
        } else {
            resolve(server.space(), selector).key
        }
    };
    // Both in flight at once.
    let lookups = !begin.is_first_greater_or_equal() || !end.is_first_greater_or_equal();
    let (from, to) = (land(begin), land(end));
    let mut output = Rows::default();
    if from < to {
        output = between(server, &from, &to, limits, reverse)?;
    }
    output.rounds += u32::from(lookups);
    if from >= to {
        return Ok(output);
    }
    output.read_to_begin = from.is_empty() && !(reverse && output.more);
    output.read_through_end = to[..] == *ALL_END && (reverse || !output.more);
    Ok(output)
}

/// The rows between two keys.
fn between<S: Server>(
    server: &S,
    from: &Key,
    to: &Key,
    mut limits: Limits,
    reverse: bool,
) -> Result<Rows<S::Row>> {
    let mut output = Rows::default();
    let (mut from, mut to) = (from.clone(), to.clone());
    loop {
        let reply = server.read(&from, &to, Request::new(&limits, reverse))?;
        output.rounds += 1;
        for row in &reply.rows {
            row.count(&mut limits);
        }
        output.append(reply.rows);
        let last = output.rows.last().filter(|_| reply.more);
        if limits.reached() {
            output.more = true;
            return Ok(output);
        }
        match last {
            Some(last) if reverse => to = last.key().clone(),
            Some(last) => from = key_after(last.key()),
            None => return Ok(output),
        }
        if from >= to {
            return Ok(output);
        }
        if limits.has_satisfied_min_rows() {
            output.more = true;
            return Ok(output);
        }
    }
}
