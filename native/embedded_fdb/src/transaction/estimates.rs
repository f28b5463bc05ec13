//! What a cluster would estimate, and here is known.

use super::*;

impl Transaction {
    pub(crate) fn get_addresses_for_key(self: &Arc<Self>) -> Arc<Future> {
        self.read(|_, _| {
            let address = std::ffi::CString::new("127.0.0.1:4500");
            let addresses = vec![address.map_err(|_| Error::INTERNAL_ERROR)?];
            Ok(Output::Strings(StringArray::new(addresses)))
        })
    }

    pub(crate) fn get_estimated_range_size_bytes(
        self: &Arc<Self>,
        begin: Key,
        end: Key,
    ) -> Arc<Future> {
        self.read(move |_, inner| {
            if begin > end {
                return Err(Error::INVERTED_RANGE);
            }
            inner.check_fresh()?;
            let space = &inner.sighted()?.space;
            let size: usize = bytes_in(space, &begin, &end).map(|(_, size)| size).sum();
            Ok(Output::Int64(i64::try_from(size).unwrap_or(i64::MAX)))
        })
    }

    /// Keys that divide a range into parts of about `chunk` bytes, its ends included.
    pub(crate) fn get_range_split_points(
        self: &Arc<Self>,
        begin: Key,
        end: Key,
        chunk: i64,
    ) -> Arc<Future> {
        self.read(move |_, inner| {
            if begin > end {
                return Err(Error::INVERTED_RANGE);
            }
            let max_key = inner.max_read_key();
            if begin[..] > *max_key || end[..] > *max_key {
                return Err(Error::KEY_OUTSIDE_LEGAL_RANGE);
            }
            let chunk = usize::try_from(chunk).ok().filter(|&chunk| chunk > 0);
            let chunk = chunk.ok_or(Error::CLIENT_INVALID_OPERATION)?;
            inner.check_fresh()?;
            let space = &inner.sighted()?.space;
            let mut points = vec![begin.clone()];
            let mut size = 0;
            for (key, bytes) in bytes_in(space, &begin, &end) {
                if size >= chunk {
                    points.push(key.clone());
                    size = 0;
                }
                size += bytes;
            }
            points.push(end);
            Ok(Output::Keys(KeyArray::new(points)))
        })
    }
}

/// Keys in a range with the bytes of key and value.
fn bytes_in<'a>(
    space: &'a Space,
    begin: &Key,
    end: &Key,
) -> impl Iterator<Item = (Key, usize)> + use<'a> {
    space.range(begin, end).map(|(key, value)| {
        let size = key.len() + value.len();
        (key, size)
    })
}
