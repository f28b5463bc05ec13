//! The errors of `bind`. Nothing here ever binds, so the tests share a process.

use std::path::PathBuf;

use foundationdb_sys::*;

fn cluster(path: impl Into<PathBuf>) -> Library {
    Library::Cluster(Some(path.into()))
}

/// A shared library of the system that has none of the C API's functions.
fn system_library() -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("a Linux machine");
    maps.lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .find(|file| file.contains("libc.so") || file.contains("libc-"))
        .expect("this process to use libc")
        .into()
}

#[test]
fn the_error_for_a_missing_library_says_what_to_do() {
    let error = bind(&cluster("/no/such/libfdb_c.so")).unwrap_err();
    assert!(matches!(error, BindError::Load { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("/no/such/libfdb_c.so"), "{text}");
    assert!(text.contains("foundationdb-clients"), "{text}");
    assert!(text.contains("set the path"), "{text}");
    assert_eq!(bound(), None);
}

#[test]
fn the_error_names_a_file_that_is_not_a_library() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let error = bind(&cluster(file)).unwrap_err();
    assert!(matches!(error, BindError::Load { .. }), "{error:?}");
    assert!(error.to_string().contains(file), "{error}");
}

#[test]
fn the_error_names_the_library_and_the_missing_function() {
    let file = system_library();
    let error = bind(&cluster(&file)).unwrap_err();
    assert_eq!(
        error,
        BindError::MissingSymbol {
            symbol: "fdb_get_max_api_version",
            library: cluster(&file),
        }
    );
    let text = error.to_string();
    assert!(text.contains(file.to_str().unwrap()), "{text}");
    assert!(text.contains("FoundationDB 7.3"), "{text}");
}

#[test]
fn calls_before_binding_return_an_error() {
    let mut database = std::ptr::null_mut();
    // SAFETY: nothing is bound, so no pointer is followed; the ones passed are valid or null.
    unsafe {
        assert_eq!(fdb_select_api_version_impl(730, 730), 2200);
        assert_eq!(fdb_setup_network(), 2200);
        assert_eq!(fdb_create_database(std::ptr::null(), &mut database), 2200);
        assert_eq!(fdb_get_max_api_version(), 0);
        assert_eq!(fdb_error_predicate(50000, 1020), 0);
        let text = std::ffi::CStr::from_ptr(fdb_get_error(2200));
        assert!(text.to_str().unwrap().contains("not bound"));
    }
    assert!(database.is_null());
}

#[test]
#[should_panic(expected = "fdb_transaction_commit was called before foundationdb_sys::bind")]
fn calls_with_objects_before_binding_panic() {
    // SAFETY: nothing is bound, so the pointer is not followed.
    unsafe { fdb_transaction_commit(std::ptr::null_mut()) };
}

#[test]
fn an_old_library_is_distinguished_from_a_wrong_one() {
    let directory = std::env::temp_dir().join(format!("foundationdb-sys-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let source = directory.join("old.rs");
    let library = directory.join("libold.so");
    std::fs::write(
        &source,
        "#[no_mangle] pub extern \"C\" fn fdb_get_max_api_version() -> i32 { 630 }",
    )
    .unwrap();
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let status = std::process::Command::new(rustc)
        .args(["--crate-type=cdylib", "-o"])
        .args([&library, &source])
        .status()
        .unwrap();
    assert!(status.success());

    let error = bind(&cluster(&library)).unwrap_err();
    assert_eq!(
        error,
        BindError::ApiVersion {
            library: cluster(&library),
            found: 630,
            wanted: 730,
        }
    );
    std::fs::remove_dir_all(&directory).unwrap();
}
