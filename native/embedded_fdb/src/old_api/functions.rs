//! Functions of API versions before 730.

use std::ffi::{c_char, c_int};
use std::sync::Arc;

use crate::c_api::arguments::{borrow, bytes, future, into_c, place, put, text, wrong_kind};
use crate::c_api::database::open_database;
use crate::c_api::network::api_version;
use crate::c_types::{FDBCluster, FDBDatabase, FDBError, FDBFuture};
use crate::error::Error;
use crate::future::Future;
use crate::output::Output;

crate::c_api::c_functions! {
    for_each_legacy_function;

    /// Before 620: the result of a future that returns a version.
    fn fdb_future_get_version(f: *mut FDBFuture, out_version: *mut i64) -> FDBError {
        future(f)?.get(|output| match output {
            Output::Int64(version) => put(out_version, *version).map(|()| 0),
            _ => wrong_kind(),
        })
    }

    /// Before 610: a future of a cluster, by its file.
    fn fdb_create_cluster(cluster_file_path: *const c_char) -> *mut FDBFuture {
        api_version()?;
        let path = text(cluster_file_path)?;
        Ok(into_c(Future::ready(Ok(Output::Cluster(path)))))
    }

    /// Before 610: the cluster of a future.
    fn fdb_future_get_cluster(f: *mut FDBFuture, out_cluster: *mut *mut FDBCluster) -> FDBError {
        future(f)?.get(|output| match output {
            Output::Cluster(path) => {
                let out_cluster = place(out_cluster)?;
                let cluster = Arc::into_raw(Arc::new(path.clone()));
                put(out_cluster, cluster.cast_mut().cast()).map(|()| 0)
            }
            _ => wrong_kind(),
        })
    }

    /// Before 610: sets an option of a cluster; there are none.
    fn fdb_cluster_set_option(_c: *mut FDBCluster, _option: c_int, _value: *const u8, _value_length: c_int) -> FDBError {
        Err(Error::INVALID_OPTION)
    }

    /// Before 610: a future of a cluster's only database, called `DB`.
    fn fdb_cluster_create_database(c: *mut FDBCluster, name: *const u8, name_length: c_int) -> *mut FDBFuture {
        if bytes(name, name_length)? != b"DB" {
            return Err(Error::INVALID_DATABASE_NAME);
        }
        let path: Arc<String> = borrow(c.cast())?;
        Ok(into_c(Future::ready(Ok(Output::Database(path.to_string())))))
    }

    /// Before 610: the database of a future.
    fn fdb_future_get_database(f: *mut FDBFuture, out_database: *mut *mut FDBDatabase) -> FDBError {
        future(f)?.get(|output| match output {
            Output::Database(path) => {
                let out_database = place(out_database)?;
                put(out_database, open_database(path.clone())?).map(|()| 0)
            }
            _ => wrong_kind(),
        })
    }

    /// Before 610: destroys a cluster.
    fn fdb_cluster_destroy(c: *mut FDBCluster) -> () {
        if !c.is_null() {
            drop(Arc::from_raw(c.cast::<String>().cast_const()));
        }
        Ok(())
    }
}
