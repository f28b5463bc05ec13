//! What a live query relies on beside the keys it reads: its tenant is at the same prefix, and its source
//! has the indexes that its plan was made from.
//!
//! `\xff/metadataVersion` comes free with every read version. While it is the version under which a basis
//! was last confirmed, nothing has changed. It is global to the cluster, so a different value proves
//! nothing: then the basis is read and compared. All live queries of a source share one basis.

use std::hash::{Hash, Hasher};

use foundationdb::options::{StreamingMode, TransactionOption};
use foundationdb::{FdbResult, RangeOption, Transaction};
use futures::future::try_join_all;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use smallvec::SmallVec;

/// A value of `\xff/metadataVersion`. The bytes only grow.
pub type MetadataVersion = Option<Box<[u8]>>;

/// It changes with every change of a tenant or an index, of any tenant.
pub const METADATA_VERSION: &[u8] = b"\xff/metadataVersion";

/// Reads the metadata version, which FoundationDB sends along with every read version.
pub async fn metadata_version(transaction: &Transaction) -> FdbResult<MetadataVersion> {
    transaction.set_option(TransactionOption::ReadSystemKeys)?;
    let value = transaction.get(METADATA_VERSION, true).await?;
    Ok(value.map(|value| value[..].into()))
}

/// A tenant's entry in the directory layer.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct TenantEntry {
    /// The key of its entry.
    pub key: Box<[u8]>,
    /// The entry's value: the prefix of the tenant's keys.
    pub prefix: Box<[u8]>,
    /// Its name, for messages.
    pub name: Box<str>,
}

/// The indexes of a source that a plan was made from.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct SourceIndexes {
    /// The first key of their descriptions.
    pub begin: Box<[u8]>,
    /// The end of their descriptions, exclusive.
    pub end: Box<[u8]>,
    /// The key of the source's migration claim.
    pub claim: Box<[u8]>,
    /// A digest of all of these.
    pub fingerprint: [u8; 32],
}

/// The result of checking a basis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is unchanged.
    Right,
    /// The tenant was deleted, moved, or created again.
    TenantGone,
    /// The source has different indexes, or its migration has progressed.
    SourceChanged,
}

/// The basis of live queries.
#[derive(Debug)]
pub struct Basis {
    /// Their tenant, if they have one.
    pub tenant: Option<TenantEntry>,
    /// For lists, which are plans: their source. For functions: the sources whose lists they have read.
    pub sources: SmallVec<[SourceIndexes; 1]>,
    /// The newest metadata version under which it was found right.
    verified: Mutex<MetadataVersion>,
}

impl PartialEq for Basis {
    fn eq(&self, other: &Self) -> bool {
        self.tenant == other.tenant && self.sources == other.sources
    }
}

impl Eq for Basis {}

impl Hash for Basis {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.tenant.hash(state);
        self.sources.hash(state);
    }
}

impl Basis {
    /// A basis confirmed under this metadata version.
    pub fn new(
        tenant: Option<TenantEntry>,
        sources: impl IntoIterator<Item = SourceIndexes>,
        version: MetadataVersion,
    ) -> Self {
        Basis {
            tenant,
            sources: sources.into_iter().collect(),
            verified: Mutex::new(version),
        }
    }

    /// Whether it is confirmed under this metadata version.
    pub fn is_verified(&self, version: &MetadataVersion) -> bool {
        *self.verified.lock() == *version
    }

    /// Whether it is confirmed under this metadata version or a later one.
    pub fn is_verified_since(&self, version: &MetadataVersion) -> bool {
        *self.verified.lock() >= *version
    }

    /// Confirms it under this metadata version.
    pub fn verify(&self, version: &MetadataVersion) {
        let mut verified = self.verified.lock();
        if *verified < *version {
            verified.clone_from(version);
        }
    }

    /// Takes over the knowledge of an equal basis.
    pub fn learn_from(&self, other: &Basis) {
        self.verify(&other.verified.lock());
    }

    /// The database was replaced, so nothing is confirmed.
    pub fn forget(&self) {
        *self.verified.lock() = None;
    }

    /// Checks it, at the transaction's read version.
    pub async fn check(&self, transaction: &Transaction) -> FdbResult<Verdict> {
        // All reads are in flight together.
        let tenant = async {
            match &self.tenant {
                Some(tenant) => tenant.is_there(transaction).await,
                None => Ok(true),
            }
        };
        let sources = try_join_all(
            self.sources
                .iter()
                .map(|source| source.is_same(transaction)),
        );
        let (there, same) = futures::try_join!(tenant, sources)?;
        Ok(match (there, same.into_iter().all(|same| same)) {
            (false, _) => Verdict::TenantGone,
            (true, false) => Verdict::SourceChanged,
            (true, true) => Verdict::Right,
        })
    }
}

impl TenantEntry {
    async fn is_there(&self, transaction: &Transaction) -> FdbResult<bool> {
        let prefix = transaction.get(&self.key, true).await?;
        Ok(prefix.as_deref() == Some(&self.prefix[..]))
    }
}

impl SourceIndexes {
    async fn is_same(&self, transaction: &Transaction) -> FdbResult<bool> {
        let claim = transaction.get(&self.claim, true);
        let rows = rows(transaction, &self.begin, &self.end);
        let (claim, rows) = futures::try_join!(claim, rows)?;
        Ok(fingerprint(&rows, claim.as_deref()) == self.fingerprint)
    }
}

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

async fn rows(transaction: &Transaction, begin: &[u8], end: &[u8]) -> FdbResult<Rows> {
    let mut rows = Rows::new();
    let mut rest = Some(RangeOption {
        mode: StreamingMode::WantAll,
        ..RangeOption::from((begin, end))
    });
    let mut iteration = 1;
    while let Some(range) = rest {
        let batch = transaction.get_range(&range, iteration, true).await?;
        rows.extend(
            batch
                .iter()
                .map(|row| (row.key().to_vec(), row.value().to_vec())),
        );
        iteration += 1;
        rest = range.next_range(&batch);
    }
    Ok(rows)
}

/// The digest of index descriptions and a claim. `EctoFoundationDB.Layer.Metadata` computes the same.
fn fingerprint(rows: &Rows, claim: Option<&[u8]>) -> [u8; 32] {
    let mut digest = Sha256::new();
    for bytes in rows.iter().flat_map(|(key, value)| [key, value]) {
        digest.update(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        digest.update(bytes);
    }
    match claim {
        None => digest.update([0]),
        Some(claim) => {
            digest.update([1]);
            digest.update(claim);
        }
    }
    digest.finalize().into()
}
