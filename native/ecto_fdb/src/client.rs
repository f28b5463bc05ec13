//! The one FoundationDB client of this VM: library, network thread, runtime.
//!
//! The C API is global to an operating system process, and so is the choice of the library. The
//! network starts once, after all checks, and is stopped and joined when the VM exits; Repos may stop
//! and start meanwhile.

use std::ffi::{c_void, CStr};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use foundationdb::api::{FdbApiBuilder, NetworkAutoStop};
use foundationdb::options::NetworkOption;
use foundationdb::FdbError;
use foundationdb_sys::{bind, bound, Library, DEFAULT_FILE, FDB_API_VERSION};
use parking_lot::Mutex;
use rustler::NifMap;
use tokio::runtime::{Builder, Runtime};

use crate::error::Error;
use crate::external;

/// FoundationDB's `network_already_setup`.
const NETWORK_ALREADY_SETUP: i32 = 2009;
/// FoundationDB's `api_version_already_set`.
const API_VERSION_ALREADY_SET: i32 = 2201;
/// The longest interval between two registrations of the exit handler, which take some 32 bytes each.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// A network option as configured.
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its value, for comparison, and for display if it is not secret.
    pub value: String,
    /// The option for the client.
    pub option: NetworkOption,
}

impl Setting {
    /// Its name without the colon of an atom.
    fn shown_name(&self) -> String {
        self.name.trim_start_matches(':').to_owned()
    }

    fn is_secret(&self) -> bool {
        self.name.contains("password") || self.name.contains("key_bytes")
    }

    /// For people.
    fn show(settings: &[&Setting]) -> String {
        let each = settings.iter().map(|setting| match setting.is_secret() {
            true => format!("{}: …", setting.shown_name()),
            false => format!("{}: {}", setting.shown_name(), setting.value),
        });
        format!("[{}]", each.collect::<Vec<_>>().join(", "))
    }
}

/// The state of the client.
#[derive(NifMap)]
#[rustler(encode)]
pub struct Facts {
    /// The library's path; `nil` for the embedded engine.
    library: Option<String>,
    version: String,
    api_version: i32,
    /// The library's version; the cluster's may differ.
    protocol: String,
    /// Names of the network options it was started with, if it has been started.
    options: Option<Vec<String>>,
}

enum State {
    Stopped,
    /// With these options.
    Running(Vec<Setting>),
    /// The client library can't be set up a second time: the reason holds until the VM restarts.
    Failed(Error),
}

static STATE: Mutex<State> = Mutex::new(State::Stopped);
static NETWORK: Mutex<Option<NetworkAutoStop>> = Mutex::new(None);
static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// The runtime for everything that waits for the database.
///
/// # Panics
///
/// If the operating system provides no threads. `start` calls it first, so that the error occurs when
/// the first Repo starts, and not later.
pub fn runtime() -> &'static Runtime {
    RUNTIME.get_or_init(|| {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        Builder::new_multi_thread()
            .worker_threads(workers(threads))
            .thread_name("ecto_fdb")
            .enable_time()
            .build()
            .expect("threads for the FoundationDB client's runtime")
    })
}

/// How many threads the runtime has on a machine of so many. They wait for the database most of the time; where an
/// operation takes 20 to 70 µs of them, four are full when a large machine's schedulers are not.
fn workers(threads: usize) -> usize {
    threads.clamp(2, 4).max((threads / 4).min(16))
}

/// The library that a configuration asks for.
pub fn library(cluster: Option<Option<String>>) -> Library {
    match cluster {
        None => Library::Embedded,
        Some(path) => Library::Cluster(path.map(PathBuf::from)),
    }
}

/// Binds the library, applies the network options, each with its name, and starts the network. A second
/// call with the same library does nothing.
///
/// A Repo without network options uses the client as it is. A Repo with different options is refused,
/// because they would have no effect.
pub fn start(library: &Library, options: Vec<Setting>) -> Result<(), Error> {
    let mut state = STATE.lock();
    bind(library).map_err(|error| Error::Client(error.to_string()))?;
    match &*state {
        State::Running(running) => return agree(running, &options),
        State::Failed(error) => return Err(error.clone()),
        State::Stopped => {}
    }
    options.iter().try_for_each(external::check)?;
    runtime();
    match boot(&options) {
        Ok(network) => {
            *NETWORK.lock() = Some(network);
            runtime().spawn(stop_at_exit());
            *state = State::Running(options);
            Ok(())
        }
        Err(error) => {
            *state = State::Failed(error.clone());
            Err(error)
        }
    }
}

/// Whether the client runs with these options.
fn agree(running: &[Setting], wanted: &[Setting]) -> Result<(), Error> {
    let missing = |from: &[Setting], in_these: &[Setting]| -> Vec<usize> {
        let has = |one: &Setting| {
            in_these
                .iter()
                .any(|other| (&other.name, &other.value) == (&one.name, &one.value))
        };
        (0..from.len()).filter(|at| !has(&from[*at])).collect()
    };
    let (more, less) = (missing(wanted, running), missing(running, wanted));
    if wanted.is_empty() || (more.is_empty() && less.is_empty()) {
        return Ok(());
    }
    let show = |settings: &[Setting], at: &[usize]| {
        Setting::show(&at.iter().map(|at| &settings[*at]).collect::<Vec<_>>())
    };
    Err(Error::Configuration(format!(
        "network_options: this VM's only client runs without {} and with {}. Give all Repos of the VM the \
         same network_options, or none to those that start later; and restart the VM after a change",
        show(wanted, &more),
        show(running, &less)
    )))
}

/// The state of the client, once a Repo has started it.
pub fn facts() -> Facts {
    let (version, protocol) = version();
    Facts {
        library: match bound() {
            Some(Library::Cluster(None)) => Some(DEFAULT_FILE.into()),
            Some(Library::Cluster(Some(path))) => Some(path.display().to_string()),
            Some(Library::Embedded) | None => None,
        },
        version,
        api_version: FDB_API_VERSION as i32,
        protocol,
        options: match &*STATE.lock() {
            State::Running(running) => Some(running.iter().map(Setting::shown_name).collect()),
            State::Stopped | State::Failed(_) => None,
        },
    }
}

/// The library's release and protocol.
pub fn version() -> (String, String) {
    // SAFETY: the library returns a C string that lives as long as the process.
    let text = unsafe { CStr::from_ptr(foundationdb_sys::fdb_get_client_version()) };
    // release,source,protocol
    let text = text.to_string_lossy();
    let mut parts = text.split(',');
    let release = parts.next().unwrap_or_default().to_owned();
    (release, parts.nth(1).unwrap_or_default().to_owned())
}

fn boot(options: &[Setting]) -> Result<NetworkAutoStop, Error> {
    let failed = |error| explain(error, "");
    let mut network = FdbApiBuilder::default().build().map_err(failed)?;
    for Setting { name, option, .. } in options {
        network = network
            .set_option(option.clone())
            .map_err(|error| explain(error, &format!(", {name} is wrong")))?;
    }
    // SAFETY: the network is stopped and joined by `stop_network` before the process exits.
    unsafe { network.boot() }.map_err(failed)
}

/// `reason`: details beside the error, appended to "did not start".
fn explain(error: FdbError, reason: &str) -> Error {
    match error.code() {
        code @ (NETWORK_ALREADY_SETUP | API_VERSION_ALREADY_SET) => Error::Explained(
            code,
            format!(
                "{}: another FoundationDB client in this VM (erlfdb, for example) has already set \
                 up libfdb_c, which allows only one. Remove it from this VM, or start it in a separate \
                 VM, and restart",
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

/// Stops the network before the process exits.
///
/// libfdb_c creates some of its C++ objects when it first needs them, and its network thread uses them
/// until it stops. At exit, the objects created last are destroyed first. A handler registered now would
/// therefore stop the thread only after some of its objects were destroyed, and the VM would crash while
/// it exits. So the handler is registered again and again, at growing intervals.
async fn stop_at_exit() {
    let mut pause = Duration::from_millis(1);
    loop {
        // SAFETY: `stop_network` takes no arguments, and the pinned library is still mapped when the
        // process exits.
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
