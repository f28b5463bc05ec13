//! Functions that only clients of API versions before 730 use.

pub(crate) mod functions;
