//! Mapped range reads: an index and the records it leads to, in one request to a storage server.

use super::conflicts::range_conflict;
use super::*;
use crate::faults::Outage;
use crate::mapped::{prefix_end, Mapper};
use crate::output::MappedRow;
use crate::range_read::{
    get_range, read_rows, resolve, Reply, Request, Row, Server, REPLY_LIMIT, ROW_RECORD,
};
use crate::view::{Answer, Stop};

/// How many rows of the index a server maps before it checks its limit again.
const BATCH: usize = 10;
/// The most that one row of the index may lead to.
const ROWS_OF_A_RANGE: usize = 2_000;
const BYTES_OF_A_RANGE: usize = 10_000_000;

/// A server that maps the rows it reads.
struct MappingServer<'a> {
    space: &'a Space,
    mapper: &'a [u8],
}

impl Row for MappedRow {
    fn key(&self) -> &Key {
        &self.key
    }

    fn count(&self, limits: &mut Limits) {
        limits.count(&self.key, &self.value);
    }
}

impl MappedRow {
    /// The bytes of the records that the row leads to.
    fn size(&self) -> usize {
        let rows = self.rows.iter();
        let bytes: usize = rows.map(|(key, value)| key.len() + value.len()).sum();
        if self.is_range {
            self.rows.len() * ROW_RECORD + bytes
        } else {
            self.begin.len() + self.rows.first().map_or(0, |(_, value)| value.len())
        }
    }
}

impl MappingServer<'_> {
    fn follow(&self, mapper: &Mapper, key: Key, value: Value) -> Result<MappedRow> {
        let begin = mapper.map(&key, &value)?;
        let (end, rows, more) = if mapper.range {
            let end = prefix_end(&begin).unwrap_or_else(|| ALL_END.into());
            let request = Request {
                rows: ROWS_OF_A_RANGE,
                bytes: BYTES_OF_A_RANGE,
                reverse: false,
            };
            let reply = read_rows(self.space, &begin, &end, request);
            (end, reply.rows, reply.more)
        } else {
            let row = self.space.get(&begin);
            let row = row.map(|value| (begin.clone(), value.clone()));
            (key_after(&begin), row.into_iter().collect(), false)
        };
        Ok(MappedRow {
            key,
            value,
            begin,
            end,
            rows,
            more,
            is_range: mapper.range,
        })
    }
}

impl Server for MappingServer<'_> {
    type Row = MappedRow;

    fn space(&self) -> &Space {
        self.space
    }

    fn read(&self, begin: &[u8], end: &[u8], request: Request) -> Result<Reply<MappedRow>> {
        if !self.space.is_tenant() && tenants::any_in(self.space.everything(), begin, end) {
            return Err(Error::TENANT_NAME_REQUIRED);
        }
        // The index may take a fifth of the bytes.
        let bytes = request.bytes.min(REPLY_LIMIT) / 5;
        let index = read_rows(self.space, begin, end, Request { bytes, ..request });
        let mapper = Mapper::parse(self.mapper)?;
        let (mut rows, mut bytes) = (Vec::with_capacity(index.rows.len()), 0);
        let mut left = index.rows.into_iter();
        while bytes < request.bytes && !left.as_slice().is_empty() {
            for (key, value) in left.by_ref().take(BATCH) {
                bytes += ROW_RECORD + key.len() + value.len();
                let row = self.follow(&mapper, key, value)?;
                bytes += row.size();
                rows.push(row);
            }
        }
        let more = index.more || !left.as_slice().is_empty();
        if more && rows.is_empty() {
            // A client reports that as a server's error.
            return Err(Error::INTERNAL_ERROR);
        }
        if !mapper.range {
            // Only the first and last rows include their index keys.
            let inner = rows.len().saturating_sub(1).max(1);
            for row in rows.iter_mut().take(inner).skip(1) {
                (row.key, row.value) = Default::default();
            }
        }
        Ok(Reply { rows, more })
    }
}

impl Inner {
    pub(super) fn mapped_range(
        &mut self,
        begin: &KeySelector,
        end: &KeySelector,
        mapper: &[u8],
        limits: Limits,
        reverse: bool,
        outage: Option<&Outage>,
    ) -> Answer<Output> {
        let max_key = self.max_read_key();
        self.failure().map_or(Ok(()), Err)?;
        let space = self.sighted()?.space.clone();
        let mut last = end.clone();
        if reverse && last.offset > 1 {
            let key = resolve(&space, &last).key;
            last = KeySelector::first_greater_or_equal(key.min(max_key.into()));
        }
        let mut read = Rows::default();
        if begin.offset < last.offset || begin.key < last.key {
            let space = &space;
            let server = MappingServer { space, mapper };
            read = get_range(server, begin, &last, limits, reverse)?;
        }
        let keys = |row: &MappedRow| (row.key.clone(), row.value.clone());
        let index = Rows {
            rows: read.rows.iter().map(keys).collect(),
            more: read.more,
            read_to_begin: read.read_to_begin,
            read_through_end: read.read_through_end,
            rounds: read.rounds,
        };
        let (from, to) = range_conflict(begin, end, &index, reverse, max_key);
        if let Some(outage) = outage {
            let ranges = read.rows.iter().map(|row| (&row.begin, &row.end));
            let silent = |(begin, end): (&Key, &Key)| {
                outage.silences_read(&space.outer(begin), &space.outer(end))
            };
            if silent((&from, &to)) || ranges.into_iter().any(silent) {
                return Err(Stop::Silent);
            }
        }
        self.add_unwritten_conflict(from, to)?;
        for row in &read.rows {
            let end = match row.rows.last() {
                Some((last, _)) if row.more => key_after(last),
                _ => row.end.clone(),
            };
            self.add_unwritten_conflict(row.begin.clone(), end)?;
        }
        Ok(Output::Mapped(MappedRows::new(read.rows, read.more)))
    }

    /// Adds a read conflict range up to the first own write in it, which is an error.
    fn add_unwritten_conflict(&mut self, begin: Key, end: Key) -> Result<()> {
        for (key, segment, next) in self.writes.segments(&begin, &end) {
            if !segment.is_unmodified() {
                return Err(Error::GET_MAPPED_RANGE_READS_YOUR_WRITES);
            }
            let from = begin.clone().max(key.clone());
            let to: Key = next.min(&end[..]).into();
            if from < to {
                self.approximate_size += begin.len() + end.len() + RANGE_RECORD;
                self.read_conflicts.insert(from, to);
            }
        }
        Ok(())
    }
}
