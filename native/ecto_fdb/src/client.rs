//! The one FoundationDB client of this VM: library, network thread, runtime.
//!
//! The C API is global to an operating system process, so the choice of the library is too. The
//! network starts once, after everything that can be checked has been, and is stopped and joined
//! when the VM exits: Repos may stop and start meanwhile.

use std::ffi::c_void;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use foundationdb::api::{FdbApiBuilder, NetworkAutoStop};
use foundationdb::options::NetworkOption;
use foundationdb::FdbError;
use foundationdb_sys::{bind, Library};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};

use crate::error::Error;

/// FoundationDB's `network_already_setup`.
const NETWORK_ALREADY_SETUP: i32 = 2009;
/// FoundationDB's `api_version_already_set`.
const API_VERSION_ALREADY_SET: i32 = 2201;
/// The longest time between two registrations of the exit handler, of some 32 bytes each.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

enum State {
    Stopped,
    Running,
    /// The client library can't be set up a second time: the reason stands until the VM restarts.
    Failed(Error),
}

static STATE: Mutex<State> = Mutex::new(State::Stopped);
static NETWORK: Mutex<Option<NetworkAutoStop>> = Mutex::new(None);
static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// The runtime on which everything waits for the database.
///
/// # Panics
///
/// Where the operating system gives it no threads. `start` calls it first, so that this is an
/// error of the first Repo's start and of nothing later.
pub fn runtime() -> &'static Runtime {
    RUNTIME.get_or_init(|| {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        Builder::new_multi_thread()
            .worker_threads(threads.clamp(2, 4))
            .thread_name("ecto_fdb")
            .enable_time()
            .build()
            .expect("threads for the FoundationDB client's runtime")
    })
}

/// The library that a configuration asks for.
pub fn library(cluster: Option<Option<String>>) -> Library {
    match cluster {
        None => Library::Embedded,
        Some(path) => Library::Cluster(path.map(PathBuf::from)),
    }
}

/// Binds the library, applies the network options, each with its name, and starts the network. Again
/// with the same library: nothing happens.
pub fn start(library: &Library, options: Vec<(String, NetworkOption)>) -> Result<(), Error> {
    let mut state = STATE.lock();
    bind(library).map_err(|error| Error::Client(error.to_string()))?;
    match &*state {
        State::Running => return Ok(()),
        State::Failed(error) => return Err(error.clone()),
        State::Stopped => {}
    }
    runtime();
    match boot(options) {
        Ok(network) => {
            *NETWORK.lock() = Some(network);
            runtime().spawn(stop_at_exit());
            *state = State::Running;
            Ok(())
        }
        Err(error) => {
            *state = State::Failed(error.clone());
            Err(error)
        }
    }
}

fn boot(options: Vec<(String, NetworkOption)>) -> Result<NetworkAutoStop, Error> {
    let failed = |error| explain(error, "");
    let mut network = FdbApiBuilder::default().build().map_err(failed)?;
    for (name, option) in options {
        network = network
            .set_option(option)
            .map_err(|error| explain(error, &format!(", {name} is wrong")))?;
    }
    // SAFETY: the network is stopped and joined by `stop_network` before the process exits.
    unsafe { network.boot() }.map_err(failed)
}

/// `reason`: what is known beside the error, to follow on "did not start".
fn explain(error: FdbError, reason: &str) -> Error {
    match error.code() {
        code @ (NETWORK_ALREADY_SETUP | API_VERSION_ALREADY_SET) => Error::Explained(
            code,
            format!(
                "{}: another FoundationDB client in this VM (erlfdb, for example) has already set \
                 up libfdb_c, which allows only one. Remove it from this VM, or start it in a VM of \
                 its own, and restart",
                error.message()
            ),
        ),
        code => Error::Explained(
            code,
            format!(
                "the FoundationDB client did not start{reason}: {}. Check the \
                 network_options: of the Repo, and restart the VM: libfdb_c can be set up only once",
                error.message().trim_end_matches('.')
            ),
        ),
    }
}

/// Has the network stopped before the process exits.
///
/// libfdb_c makes some of its C++ objects when it first needs them, and its network thread uses them
/// to the end. What was made or registered last goes first at exit: a handler registered now would
/// stop that thread only after such objects have been destroyed under it, and the VM would crash while
/// it exits. So the handler is registered again and again, ever more rarely.
async fn stop_at_exit() {
    let mut pause = Duration::from_millis(1);
    loop {
        // SAFETY: `stop_network` takes no arguments, and the library is pinned, so that it is still
        // there when the process exits.
        unsafe { libc::atexit(stop_network) };
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Stops the network and waits for its thread, once.
extern "C" fn stop_network() {
    let network = NETWORK.lock().take();
    let _ = std::panic::catch_unwind(AssertUnwindSafe(|| drop(network)));
}

/// Keeps this library mapped until the process exits: its threads run in it, whatever the VM does
/// with the module.
#[cfg(unix)]
pub fn pin() -> Result<(), Error> {
    use libloading::os::unix::{Library, RTLD_NOW};
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: `dladdr` only writes to `info`; the address is one of this library's functions.
    let found = unsafe { libc::dladdr(pin as *const c_void, info.as_mut_ptr()) };
    let failed = |reason: String| Error::Client(format!("can't pin the NIF's library: {reason}"));
    if found == 0 {
        return Err(failed("dladdr does not know it".into()));
    }
    // SAFETY: `dladdr` has filled it, and `dli_fname` is a C string that lives with the library.
    let path = unsafe { std::ffi::CStr::from_ptr(info.assume_init().dli_fname) };
    // SAFETY: the library is already loaded: no initialisers run. It is never closed.
    let library = unsafe {
        Library::open(
            Some(path.to_string_lossy().as_ref()),
            RTLD_NOW | libc::RTLD_NODELETE,
        )
    };
    std::mem::forget(library.map_err(|error| failed(error.to_string()))?);
    Ok(())
}
