//! Tenants.

use std::ffi::c_int;
use std::sync::Arc;

use super::Tenant;
use crate::c_api::arguments::{database, into_c, key, place, put, tenant};
use crate::c_api::network::api_version;
use crate::c_types::{FDBDatabase, FDBError, FDBFuture, FDBTenant, FDBTransaction};
use crate::future::Future;
use crate::output::Output;
use crate::transaction::Transaction;

crate::c_api::c_functions! {
    for_each_tenant_function;

    /// Opens a tenant by name. If it does not exist, using it fails.
    fn fdb_database_open_tenant(d: *mut FDBDatabase, name: *const u8, name_length: c_int, out_tenant: *mut *mut FDBTenant) -> FDBError {
        let out_tenant = place(out_tenant)?;
        let tenant = Tenant::open(database(d)?, key(name, name_length)?);
        put(out_tenant, Arc::into_raw(tenant).cast_mut().cast()).map(|()| 0)
    }

    /// Begins a transaction in a tenant.
    fn fdb_tenant_create_transaction(t: *mut FDBTenant, out_transaction: *mut *mut FDBTransaction) -> FDBError {
        let out_transaction = place(out_transaction)?;
        let tenant = tenant(t)?;
        let transaction = Transaction::new(tenant.handle.clone(), Some(tenant), api_version()?);
        put(out_transaction, Arc::into_raw(transaction).cast_mut().cast()).map(|()| 0)
    }

    /// The number of a tenant.
    fn fdb_tenant_get_id(t: *mut FDBTenant) -> *mut FDBFuture {
        Ok(into_c(Future::ready(tenant(t)?.id().map(Output::Int64))))
    }

    /// Destroys a handle of a tenant; the tenant stays.
    fn fdb_tenant_destroy(t: *mut FDBTenant) -> () {
        if !t.is_null() {
            drop(Arc::from_raw(t.cast::<Tenant>().cast_const()));
        }
        Ok(())
    }
}
