//! The FoundationDB C API, bound at run time.
