//! A walk over Erlang's external term format, without making terms: stored bytes must not bring
//! functions, pids, ports or references into the VM.

const VERSION: u8 = 131;
const LIST: u8 = 108;
const NIL: u8 = 106;
const SMALL_TUPLE: u8 = 104;

/// Whether these bytes are a keyword list whose values are plain data and no tuples. (An incomplete
/// versionstamp is a tuple, and the layer puts the id in its place.) All records but few are; the
/// others are left to the layer, which knows what to say about them.
pub fn is_plain_record(bytes: &[u8]) -> bool {
    let mut walk = Walk { rest: bytes };
    walk.plain_record().is_some() && walk.rest.is_empty()
}

struct Walk<'b> {
    rest: &'b [u8],
}

impl<'b> Walk<'b> {
    fn plain_record(&mut self) -> Option<()> {
        if self.byte()? != VERSION {
            return None;
        }
        match self.byte()? {
            NIL => return Some(()),
            LIST => {}
            _ => return None,
        }
        for _ in 0..self.u32()? {
            if self.byte()? != SMALL_TUPLE || self.byte()? != 2 || !self.atom()? {
                return None;
            }
            if matches!(self.rest.first()?, 104 | 105) {
                return None;
            }
            self.value()?;
        }
        (self.byte()? == NIL).then_some(())
    }

    fn atom(&mut self) -> Option<bool> {
        let length = match self.byte()? {
            115 | 119 => usize::from(self.byte()?),
            100 | 118 => self.u16()?,
            _ => return Some(false),
        };
        self.skip(length)?;
        Some(true)
    }

    /// Skips one term. No recursion: stored bytes choose the depth.
    fn value(&mut self) -> Option<()> {
        let mut left = 1usize;
        while left > 0 {
            left -= 1;
            match self.byte()? {
                97 => self.skip(1)?,
                98 => self.skip(4)?,
                70 => self.skip(8)?,
                99 => self.skip(31)?,
                NIL => {}
                115 | 119 => self.skip_sized(1, 0)?,
                100 | 107 | 118 => self.skip_sized(2, 0)?,
                109 => self.skip_sized(4, 0)?,
                77 => self.skip_sized(4, 1)?,
                110 => self.skip_sized(1, 1)?,
                111 => self.skip_sized(4, 1)?,
                SMALL_TUPLE => left = left.checked_add(self.byte()?.into())?,
                105 => left = left.checked_add(self.u32()?)?,
                LIST => left = left.checked_add(self.u32()?)?.checked_add(1)?,
                116 => left = left.checked_add(self.u32()?.checked_mul(2)?)?,
                _ => return None,
            }
        }
        Some(())
    }

    /// Skips a length of so many bytes, more bytes, and as many as the length says.
    fn skip_sized(&mut self, length: usize, more: usize) -> Option<()> {
        let size = self
            .take(length)?
            .iter()
            .fold(0usize, |size, byte| size << 8 | usize::from(*byte));
        self.skip(size.checked_add(more)?)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<usize> {
        self.take(2)
            .map(|b| usize::from(u16::from_be_bytes([b[0], b[1]])))
    }

    fn u32(&mut self) -> Option<usize> {
        self.take(4)
            .map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize)
    }

    fn skip(&mut self, n: usize) -> Option<()> {
        self.take(n).map(|_| ())
    }

    fn take(&mut self, n: usize) -> Option<&'b [u8]> {
        if n > self.rest.len() {
            return None;
        }
        let (taken, rest) = self.rest.split_at(n);
        self.rest = rest;
        Some(taken)
    }
}
