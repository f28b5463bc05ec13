//! FoundationDB inside the process.

use std::ffi::c_void;

/// The C API's function of that name.
pub fn symbol(_name: &str) -> Option<*const c_void> {
    None
}
/// stub
pub mod admin {
    /// stub
    pub struct Database;
    /// stub
    pub struct Stats {
        #[allow(missing_docs)]
        pub pending_watches: u64,
        #[allow(missing_docs)]
        pub transactions: u64,
        #[allow(missing_docs)]
        pub commits: u64,
        #[allow(missing_docs)]
        pub reads: u64,
        #[allow(missing_docs)]
        pub read_versions: u64,
    }
    #[allow(missing_docs)]
    impl Database {
        pub fn find(_n: &str) -> Option<Database> {
            None
        }
        pub fn stats(&self) -> Stats {
            todo!()
        }
        pub fn hold_watches(&self, _h: bool) {}
    }
}
