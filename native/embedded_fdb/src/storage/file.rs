//! The file of a database: the engine's own header, followed by redb's part.
//!
//! ```text
//! page 0    identifies the file; never written again
//! page 1    the record of an even commit, twice
//! page 2    the record of an odd commit, twice
//! page 3 …  redb
//! ```
//!
//! A record names the last durable commit. It is written after redb has made the commit durable and
//! before the commit is acknowledged. So redb's part of the file can be one commit ahead of the records
//! (after a crash in between), but never behind them.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

use redb::StorageBackend;
use xxhash_rust::xxh3::xxh3_64;

const PAGE: u64 = 4096;
/// Where redb's part begins in the file.
pub(super) const HEADER: u64 = 3 * PAGE;
/// The second copy of a record is in the other half of its page.
const COPIES: [u64; 2] = [0, PAGE / 2];
const MAGIC: [u8; 24] = *b"embedded_fdb, format 1\n\0";
const RECORD: usize = 32;

/// The last durable commit: its number, and the checksum of all keys and values after it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Record {
    pub(super) number: u64,
    pub(super) sum: u128,
}

impl Record {
    fn to_bytes(self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        bytes[..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8..24].copy_from_slice(&self.sum.to_le_bytes());
        let check = xxh3_64(&bytes[..24]);
        bytes[24..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; RECORD]) -> Option<Record> {
        let number = u64::from_le_bytes(bytes[..8].try_into().ok()?);
        let sum = u128::from_le_bytes(bytes[8..24].try_into().ok()?);
        let check = u64::from_le_bytes(bytes[24..].try_into().ok()?);
        (check == xxh3_64(&bytes[..24])).then_some(Record { number, sum })
    }
}

/// The file of a database, opened.
#[derive(Debug)]
pub(super) struct DataFile {
    file: File,
    /// Syncs that succeeded.
    syncs: AtomicU64,
    /// A sync failed: reads then return the operating system's cache, which may differ from the disk.
    doubtful: AtomicBool,
    /// The sync that is made to fail, counted from now; 0 for none.
    #[cfg(test)]
    pub(super) fail_sync: AtomicU64,
    /// Operations on the file.
    #[cfg(test)]
    pub(super) log: crate::sync::Mutex<Vec<Operation>>,
}

/// An operation on the file.
#[cfg(test)]
#[derive(Clone, Debug)]
pub(super) enum Operation {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Sync,
}

impl DataFile {
    pub(super) fn new(file: File) -> DataFile {
        DataFile {
            file,
            syncs: AtomicU64::new(0),
            doubtful: AtomicBool::new(false),
            #[cfg(test)]
            fail_sync: AtomicU64::new(0),
            #[cfg(test)]
            log: Default::default(),
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        crate::sync::lock(&self.log).push(Operation::Write(offset, bytes.to_vec()));
        self.file.write_all_at(bytes, offset)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        #[cfg(test)]
        crate::sync::lock(&self.log).push(Operation::SetLen(length));
        self.file.set_len(length)
    }

    /// Writes the header of a new file.
    pub(super) fn initialize(&self, record: Record) -> io::Result<()> {
        self.set_len(HEADER)?;
        self.write(0, &MAGIC)?;
        for page in [0, 1] {
            self.write_copies(page, record)?;
        }
        Ok(())
    }

    /// Whether the file identifies itself as a database of this engine.
    pub(super) fn has_magic(&self) -> io::Result<bool> {
        let mut magic = [0; MAGIC.len()];
        self.file.read_exact_at(&mut magic, 0)?;
        Ok(magic == MAGIC)
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// The records of the last two commits; none if both copies are damaged.
    pub(super) fn records(&self) -> io::Result<[Option<Record>; 2]> {
        let mut records = [None; 2];
        for (page, record) in (1..).zip(&mut records) {
            for copy in COPIES {
                let mut bytes = [0; RECORD];
                self.file.read_exact_at(&mut bytes, page * PAGE + copy)?;
                *record = (*record).max(Record::from_bytes(&bytes));
            }
        }
        Ok(records)
    }

    /// Writes the record of a commit; durable with the next [`DataFile::sync`].
    pub(super) fn write_record(&self, record: Record) -> io::Result<()> {
        self.write_copies(record.number % 2, record)
    }

    fn write_copies(&self, page: u64, record: Record) -> io::Result<()> {
        for copy in COPIES {
            let at = (1 + page) * PAGE + copy;
            self.write(at, &record.to_bytes())?;
        }
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        let result = self.file.sync_data();
        #[cfg(test)]
        crate::sync::lock(&self.log).push(Operation::Sync);
        #[cfg(test)]
        let result = match self.fail_sync.load(Ordering::Acquire) {
            0 => result,
            left => {
                self.fail_sync.store(left - 1, Ordering::Release);
                result.and_then(|()| match left {
                    1 => Err(io::Error::other("a sync fails on purpose")),
                    _ => Ok(()),
                })
            }
        };
        if result.is_ok() {
            self.syncs.fetch_add(1, Ordering::AcqRel);
        } else {
            self.doubtful.store(true, Ordering::Release);
        }
        result
    }

    /// Whether a sync has failed.
    pub(super) fn is_doubtful(&self) -> bool {
        self.doubtful.load(Ordering::Acquire)
    }

    /// How many syncs have succeeded so far.
    pub(super) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Acquire)
    }

    /// Whether `path` still refers to this file.
    pub(super) fn is_at(&self, path: &Path) -> io::Result<bool> {
        let (here, there) = (self.file.metadata()?, std::fs::metadata(path)?);
        Ok((here.dev(), here.ino()) == (there.dev(), there.ino()))
    }
}

/// redb's part of the file.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    file: Arc<DataFile>,
    retired: Arc<AtomicBool>,
}

impl Backend {
    pub(super) fn new(file: Arc<DataFile>) -> Backend {
        Backend {
            file,
            retired: Arc::default(),
        }
    }

    /// Permanently detaches this backend from the file.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    fn file(&self) -> io::Result<&DataFile> {
        if self.retired.load(Ordering::Acquire) {
            Err(io::Error::other("not used any more after a failure"))
        } else {
            Ok(&self.file)
        }
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file()?.len()?.saturating_sub(HEADER))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file()?.file.read_exact_at(out, HEADER + offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file()?.set_len(HEADER + len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file()?.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file()?.write(HEADER + offset, data)
    }
}
