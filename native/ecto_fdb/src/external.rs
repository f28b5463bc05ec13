//! Client libraries of other versions, which an upgrade of the cluster needs beside the VM's own. They
//! are checked before the client loads them, because the client skips a wrong one or reports only a
//! number.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use foundationdb::options::NetworkOption;
use foundationdb_sys::{check_library, DEFAULT_FILE};

use crate::client::Setting;
use crate::error::Error;

/// Checks that the libraries that an option names can be loaded.
pub fn check(setting: &Setting) -> Result<(), Error> {
    let name = &setting.name;
    match &setting.option {
        NetworkOption::ExternalClientLibrary(file) => library(name, Path::new(file)),
        NetworkOption::ExternalClientDirectory(directory) => {
            let directory = Path::new(directory);
            let libraries = libraries(directory).map_err(|reason| {
                Error::Configuration(format!(
                    "{name}: can't read the directory {}: {reason}. It contains the {DEFAULT_FILE} of other \
                     versions of FoundationDB; leave the option out if there are none",
                    directory.display()
                ))
            })?;
            if libraries.is_empty() {
                return Err(Error::Configuration(format!(
                    "{name}: the directory {} contains no client library. Expected files that end in .{}, the \
                     {DEFAULT_FILE} of other versions of FoundationDB",
                    directory.display(),
                    extension()
                )));
            }
            libraries.iter().try_for_each(|file| library(name, file))
        }
        _ => Ok(()),
    }
}

fn extension() -> &'static str {
    DEFAULT_FILE.rsplit('.').next().unwrap_or_default()
}

/// The files in a directory that the client loads as libraries.
fn libraries(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new(extension())) {
            libraries.push(path);
        }
    }
    libraries.sort();
    Ok(libraries)
}

fn library(option: &str, file: &Path) -> Result<(), Error> {
    check_library(file).map_err(|reason| {
        Error::Configuration(format!(
            "{option}: {} is not a usable client library: {reason}. Remove the file, or put \
             the {DEFAULT_FILE} of a version of FoundationDB for this machine in its place",
            file.display()
        ))
    })
}
