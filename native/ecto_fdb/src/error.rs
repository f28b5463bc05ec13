//! Errors that travel to Elixir, as `{:fdb, code, message}`, `{:tenant_gone, name}` or `{:raised, raised,
//! message}`.

use std::sync::Arc;

use foundationdb::directory::DirectoryError;
use foundationdb::tuple::hca::HcaError;
use foundationdb::FdbError;
use rustler::{Encoder, Env, Term};

use crate::tuple::binary;

mod atoms {
    rustler::atoms! { fdb, tenant_gone, raised }
}

/// An error of a call.
#[derive(thiserror::Error, Debug, Clone)]
pub enum Error {
    /// An error of the database or its client, with FoundationDB's code.
    #[error("{}", .0.message())]
    Fdb(#[from] FdbError),
    /// An error of this library, which has no FoundationDB code.
    #[error("{0}")]
    Client(String),
    /// FoundationDB's code with a more detailed message than FoundationDB's own.
    #[error("{1}")]
    Explained(i32, String),
    /// A mistake in the Repo's configuration.
    #[error("{0}")]
    Configuration(String),
    /// A function of the application did not return: `{kind, reason, stacktrace}` as an external term, and
    /// what to say of it.
    #[error("{1}")]
    Raised(Arc<[u8]>, String),
    /// The tenant of this name was deleted or moved, or made again under the same name.
    #[error("tenant {0:?} is gone: it was deleted, moved, or made again under the same name")]
    TenantGone(String),
}

impl Error {
    /// FoundationDB's code, or 0.
    pub fn code(&self) -> i32 {
        match self {
            Error::Fdb(error) => error.code(),
            Error::Client(_)
            | Error::Configuration(_)
            | Error::Raised(..)
            | Error::TenantGone(_) => 0,
            Error::Explained(code, _) => *code,
        }
    }
}

impl From<DirectoryError> for Error {
    fn from(error: DirectoryError) -> Self {
        match error {
            // Keeps its code, so that the caller's retry loop works.
            DirectoryError::FdbError(error)
            | DirectoryError::HcaError(HcaError::FdbError(error)) => Error::Fdb(error),
            other => Error::Client(format!("directory layer: {other:?}")),
        }
    }
}

impl Encoder for Error {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        match self {
            Error::TenantGone(name) => (atoms::tenant_gone(), name).encode(env),
            Error::Raised(raised, message) => {
                (atoms::raised(), binary(env, raised), message).encode(env)
            }
            _ => (atoms::fdb(), self.code(), self.to_string()).encode(env),
        }
    }
}
