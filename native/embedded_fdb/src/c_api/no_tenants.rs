//! The functions of tenants when the feature `management` is off. They return
//! `unsupported_operation`.

use std::ffi::c_int;

use crate::c_types::{FDBDatabase, FDBError, FDBFuture, FDBTenant, FDBTransaction};
use crate::error::Error;

c_functions! {
    for_each_tenant_function;

    /// Needs the feature `management`.
    fn fdb_database_open_tenant(_d: *mut FDBDatabase, _name: *const u8, _name_length: c_int, _out_tenant: *mut *mut FDBTenant) -> FDBError {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// Needs the feature `management`.
    fn fdb_tenant_create_transaction(_t: *mut FDBTenant, _out_transaction: *mut *mut FDBTransaction) -> FDBError {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// Needs the feature `management`.
    fn fdb_tenant_get_id(_t: *mut FDBTenant) -> *mut FDBFuture {
        Err(Error::UNSUPPORTED_OPERATION)
    }

    /// There is nothing to destroy.
    fn fdb_tenant_destroy(_t: *mut FDBTenant) -> () {
        Ok(())
    }
}
