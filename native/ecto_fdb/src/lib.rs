//! The NIF of `ecto_fdb_sync`.
