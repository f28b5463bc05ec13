//! Binding again while the embedded engine is bound.

use foundationdb_sys::*;

#[test]
fn binding_the_same_library_again_succeeds_and_a_different_one_fails() {
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| bind(&Library::Embedded).unwrap());
        }
    });
    assert_eq!(bound(), Some(&Library::Embedded));
    bind(&Library::Embedded).unwrap();

    let wanted = Library::Cluster(None);
    let error = bind(&wanted).unwrap_err();
    assert_eq!(
        error,
        BindError::AlreadyBound {
            bound: Library::Embedded,
            wanted,
        }
    );
    let text = error.to_string();
    assert!(text.contains("the embedded engine"), "{text}");
    assert!(text.contains("libfdb_c"), "{text}");
}
