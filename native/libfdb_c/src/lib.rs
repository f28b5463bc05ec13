//! `libfdb_c.so`: the embedded engine behind exported C symbols.
