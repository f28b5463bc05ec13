//! FoundationDB inside the process.
