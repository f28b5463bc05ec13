//! `if_cfg_api_versions!`, with which the `foundationdb` crate selects code for an API version.

/// Keeps the code of a version range if the range contains [`FDB_API_VERSION`](crate::FDB_API_VERSION),
/// the only version this crate declares; with `{…} else {…}` it is one or the other block.
///
/// ```
/// use foundationdb_sys::if_cfg_api_versions;
///
/// let newest = if_cfg_api_versions!(min = 730 => { "7.3" } else { "older" });
/// assert_eq!(newest, "7.3");
/// let oldest = if_cfg_api_versions!(min = 510, max = 600 => { "older" } else { "7.3" });
/// assert_eq!(oldest, "7.3");
/// if_cfg_api_versions!(min = 710 =>
///     let both = [newest, oldest];
///     assert_eq!(both, ["7.3", "7.3"])
/// );
/// ```
///
/// Several statements are a block.
#[macro_export]
macro_rules! if_cfg_api_versions {
    (@yes { $($then:tt)* } else { $($else:tt)* }) => {{ $($then)* }};
    (@yes $first:stmt; $second:stmt $(; $more:stmt)* $(;)?) => {{ $first; $second; $($more;)* }};
    (@yes $($then:tt)*) => { $($then)* };
    (@no { $($then:tt)* } else { $($else:tt)* }) => {{ $($else)* }};
    (@no $($then:tt)*) => {};

    (min = 510, max = 600 => $($code:tt)*) => { $crate::if_cfg_api_versions! { @no $($code)* } };
    (min = 610 => $($code:tt)*) => { $crate::if_cfg_api_versions! { @yes $($code)* } };
    (min = 620 => $($code:tt)*) => { $crate::if_cfg_api_versions! { @yes $($code)* } };
    (min = 630 => $($code:tt)*) => { $crate::if_cfg_api_versions! { @yes $($code)* } };
    (min = 700 => $($code:tt)*) => { $crate::if_cfg_api_versions! { @yes $($code)* } };
    (min = 710 => $($code:tt)*) => { $crate::if_cfg_api_versions! { @yes $($code)* } };
    (min = 730 => $($code:tt)*) => { $crate::if_cfg_api_versions! { @yes $($code)* } };
    (min = 740 => $($code:tt)*) => { $crate::if_cfg_api_versions! { @no $($code)* } };
    ($($range:tt)*) => {
        compile_error!(
            "if_cfg_api_versions! knows `min = 610, 620, 630, 700, 710, 730 or 740` and \
             `min = 510, max = 600`; add this range to native/foundationdb-sys/src/versions.rs"
        );
    };
}
