//! The API version that a client has selected.

/// 730, or an older one with the feature `old-api`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ApiVersion(i32);

impl ApiVersion {
    /// The newest API version that this library supports.
    pub(crate) const NEWEST: i32 = 730;
    /// The oldest one. Still older clients would need functions of other shapes.
    #[cfg(feature = "old-api")]
    pub(crate) const OLDEST: i32 = 510;
    /// The oldest one.
    #[cfg(not(feature = "old-api"))]
    pub(crate) const OLDEST: i32 = ApiVersion::NEWEST;

    pub(crate) fn new(version: i32) -> ApiVersion {
        ApiVersion(version)
    }

    /// Whether a client of this version has the features introduced with `version`.
    #[cfg(feature = "old-api")]
    pub(crate) fn is_at_least(self, version: i32) -> bool {
        self.0 >= version
    }

    /// Whether a client of this version has the features introduced with `version`.
    #[cfg(not(feature = "old-api"))]
    pub(crate) const fn is_at_least(self, version: i32) -> bool {
        version <= ApiVersion::NEWEST
    }
}
