//! Size estimates, which a cluster's servers make from a sample of the newest data.

use super::*;
use crate::sample;

/// The API version from which on addresses include ports by default.
const PORTS_SINCE: i32 = 630;

impl Transaction {
    pub(crate) fn get_addresses_for_key(self: &Arc<Self>, key: &[u8]) -> Arc<Future> {
        let port_is_told = self.api_version.is_at_least(PORTS_SINCE);
        // No server has the keys that are not stored.
        let is_stored = key < ALL_END;
        self.read(
            |_| Ok(None),
            move |inner, _| {
                inner.plain_space()?;
                if !is_stored {
                    return Ok(Output::Strings(StringArray::new(Vec::new())));
                }
                let address = status::ADDRESS;
                let address = if port_is_told || inner.options.include_port {
                    address
                } else {
                    address.split(':').next().unwrap_or(address)
                };
                let address = std::ffi::CString::new(address);
                let addresses = vec![address.map_err(|_| Error::INTERNAL_ERROR)?];
                Ok(Output::Strings(StringArray::new(addresses)))
            },
        )
    }

    pub(crate) fn get_estimated_range_size_bytes(
        self: &Arc<Self>,
        begin: Key,
        end: Key,
    ) -> Arc<Future> {
        self.estimate(begin, end, |_, space, begin, end| {
            let size = sample::estimate(space.everything(), begin, end);
            Ok(Output::Int64(i64::try_from(size).unwrap_or(i64::MAX)))
        })
    }

    /// Keys that split a range into parts of about `chunk` bytes, including its ends.
    pub(crate) fn get_range_split_points(
        self: &Arc<Self>,
        begin: Key,
        end: Key,
        chunk: i64,
    ) -> Arc<Future> {
        let ends = (begin.clone(), end.clone());
        self.estimate(begin, end, move |inner, space, begin, end| {
            let max_key = inner.max_read_key();
            if ends.0[..] > *max_key || ends.1[..] > *max_key {
                return Err(Error::KEY_OUTSIDE_LEGAL_RANGE);
            }
            let chunk = u64::try_from(chunk).unwrap_or(0);
            let cut = begin.len() - ends.0.len();
            let mut points = vec![ends.0];
            points.extend(
                sample::split_points(space.everything(), begin, end, chunk)
                    .into_iter()
                    .map(|key| Key::from(&key[cut..])),
            );
            if points.last() != Some(&ends.1) {
                points.push(ends.1);
            }
            Ok(Output::Keys(KeyArray::new(points)))
        })
    }

    /// Computes a result from the newest data and a range as stored in the database. It does not count as a
    /// read of the transaction, but a tenant is looked up at its read version.
    fn estimate(
        self: &Arc<Self>,
        begin: Key,
        end: Key,
        f: impl FnOnce(&Inner, &Space, &Key, &Key) -> Result<Output>,
    ) -> Arc<Future> {
        Future::ready(self.with(|inner| {
            if begin > end {
                return Err(Error::INVERTED_RANGE);
            }
            self.check_usable(inner)?;
            let known = inner.max_read_key();
            if begin == end && end[..] <= *known {
                // A client finds no server to ask.
                return Err(Error::INTERNAL_ERROR);
            }
            let newest = self.handle.database.snapshot().map;
            let prefix = match &self.tenant {
                Some(_) => {
                    self.sight(inner)?;
                    inner.sighted()?.tenant?.map(Space::tenant_prefix)
                }
                None => None,
            };
            let space = Space::new(newest, prefix.unwrap_or_default());
            let (begin, end) = (space.outer(&begin), space.outer(&end));
            f(inner, &space, &begin, &end)
        }))
    }
}
