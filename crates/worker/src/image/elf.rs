//! The shared objects that a program needs, found as the dynamic loader would find them (`ld.so(8)`).

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use goblin::elf::Elf;
use goblin::elf::header::{ELFMAG, EM_X86_64};

use super::ImageError;
use crate::trees::FileError;

/// Largest file that is taken for a program or shared object.
const OBJECT_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Most objects of one closure: bounds cycles of odd files.
const OBJECTS_MAX: usize = 10_000;
/// Where loaders look when nothing else says where (glibc on Debian, on others; musl).
const DEFAULT_DIRECTORIES: [&str; 7] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
    "/usr/local/lib",
];
/// `include` nesting of `/etc/ld.so.conf`.
const CONFIGURATION_DEPTH_MAX: usize = 8;

/// The objects a set of programs needs, by the paths at which a loader finds them.
#[derive(Debug)]
pub(super) struct Closure {
    directories: Vec<PathBuf>,
    found: Vec<PathBuf>,
    known: HashSet<PathBuf>,
}

/// What one file says.
struct Object {
    interpreter: Option<PathBuf>,
    needed: Vec<String>,
    rpath: Vec<PathBuf>,
    runpath: Vec<PathBuf>,
}

impl Closure {
    /// Starts with the host's own search directories.
    pub(super) fn new() -> Self {
        let mut directories = Vec::new();
        read_configuration(Path::new("/etc/ld.so.conf"), 0, &mut directories);
        directories.extend(DEFAULT_DIRECTORIES.map(PathBuf::from));
        Self { directories, found: Vec::new(), known: HashSet::new() }
    }

    /// Adds a program or shared object and all that it needs, its loader too. Files that are not 64-bit x86 ELF objects
    /// need nothing.
    pub(super) fn add(&mut self, path: &Path) -> Result<(), ImageError> {
        self.add_with(path, &[])
    }

    /// Adds an object that programs open by name at run time, if the host has it.
    pub(super) fn add_by_name(&mut self, name: &str) -> Result<(), ImageError> {
        match self.directories.iter().map(|directory| directory.join(name)).find(|path| is_object(path)) {
            Some(path) => self.add(&path),
            None => Ok(()),
        }
    }

    /// Everything so far, in the order found.
    pub(super) fn into_paths(self) -> Vec<PathBuf> {
        self.found
    }

    /// `inherited`: the `DT_RPATH`s of the objects that led here, which apply to all that they load.
    fn add_with(&mut self, path: &Path, inherited: &[PathBuf]) -> Result<(), ImageError> {
        if self.known.len() >= OBJECTS_MAX || !self.known.insert(path.to_owned()) {
            return Ok(());
        }
        let Some(object) = Object::read(path)? else { return Ok(()) };
        self.found.push(path.to_owned());
        if let Some(interpreter) = &object.interpreter {
            self.add_with(interpreter, &[])?;
        }
        let rpath = if object.runpath.is_empty() { [&object.rpath[..], inherited].concat() } else { Vec::new() };
        for needed in &object.needed {
            let found = if needed.contains('/') {
                Some(PathBuf::from(needed)).filter(|path| path.is_absolute() && is_object(path))
            } else {
                let directories = rpath.iter().chain(&object.runpath).chain(&self.directories);
                directories.map(|directory| directory.join(needed)).find(|path| is_object(path))
            };
            match found {
                Some(found) => self.add_with(&found, &rpath)?,
                // On musl the loader is the C library too, under whatever name objects ask for it.
                None if needed.starts_with("libc.musl-") => {}
                None => return Err(ImageError::SharedObject { object: path.to_owned(), needed: needed.clone() }),
            }
        }
        Ok(())
    }
}

impl Object {
    fn read(path: &Path) -> Result<Option<Self>, ImageError> {
        let on_error = || FileError::on("read", path);
        let metadata = fs::metadata(path).map_err(on_error())?;
        if !metadata.is_file() || metadata.len() > OBJECT_BYTES_MAX {
            return Ok(None);
        }
        let bytes = fs::read(path).map_err(on_error())?;
        if !bytes.starts_with(ELFMAG) {
            return Ok(None);
        }
        let malformed = |error| FileError::on("understand", path)(io::Error::other(error));
        let elf = Elf::parse(&bytes).map_err(malformed)?;
        if elf.header.e_machine != EM_X86_64 || !elf.is_64 {
            return Ok(None);
        }
        let paths = |lists: &[&str]| {
            let directories = lists.iter().flat_map(|list| list.split(':')).filter(|directory| !directory.is_empty());
            directories.filter_map(|directory| expand(directory, path)).collect()
        };
        Ok(Some(Self {
            interpreter: elf.interpreter.map(PathBuf::from),
            needed: elf.libraries.iter().map(|&name| name.to_owned()).collect(),
            rpath: paths(&elf.rpaths),
            runpath: paths(&elf.runpaths),
        }))
    }
}

/// Replaces the loader's variables. Relative directories depend on where a program is started: left out.
fn expand(directory: &str, object: &Path) -> Option<PathBuf> {
    // The loader takes the directory of the object as it was opened, links resolved.
    let origin = object.canonicalize().ok()?.parent()?.to_str()?.to_owned();
    let mut text = directory.to_owned();
    for (variable, value) in [("ORIGIN", &*origin), ("LIB", "lib/x86_64-linux-gnu"), ("PLATFORM", "x86_64")] {
        text = text.replace(&format!("${{{variable}}}"), value).replace(&format!("${variable}"), value);
    }
    Some(PathBuf::from(text)).filter(|path| path.is_absolute())
}

fn is_object(path: &Path) -> bool {
    let mut start = [0; 5];
    let read = fs::File::open(path).and_then(|mut file| io::Read::read_exact(&mut file, &mut start));
    // Class 2: 64 bits. Multi-arch hosts have the others' objects under the same names.
    read.is_ok() && start.starts_with(ELFMAG) && start[4] == 2
}

/// `/etc/ld.so.conf`: a directory a line, `include PATTERN`, comments. What cannot be read is not there.
fn read_configuration(path: &Path, depth: usize, directories: &mut Vec<PathBuf>) {
    let Ok(text) = fs::read_to_string(path) else { return };
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(pattern) = line.strip_prefix("include ") {
            let pattern = path.parent().unwrap_or(Path::new("/")).join(pattern.trim());
            if depth < CONFIGURATION_DEPTH_MAX {
                included(&pattern).iter().for_each(|path| read_configuration(path, depth + 1, directories));
            }
        } else if line.starts_with('/') {
            directories.push(PathBuf::from(line));
        }
    }
}

/// The files of a pattern with at most one `*`, in its last component, as distributions write it.
fn included(pattern: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (pattern.parent(), pattern.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let Some((start, end)) = name.split_once('*') else { return vec![pattern.to_owned()] };
    let listing = fs::read_dir(directory).into_iter().flatten().flatten();
    let matches = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(start) && name.ends_with(end)
    };
    let mut paths: Vec<PathBuf> = listing.map(|entry| entry.path()).filter(matches).collect();
    paths.sort();
    paths
}
