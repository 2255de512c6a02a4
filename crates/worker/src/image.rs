//! Runtime images: the root file systems that functions run on, and how each is started.
//!
//! ```text
//! <data>/runtimes/<name>.json                the names, each pointing to an image
//! <data>/runtimes/images/<digest>/rootfs     the images; equal content is stored once
//! ```
//!
//! The digest is the SHA-256 of the canonical manifest of the tree: path, kind, mode, size and content of every entry
//! (`manifest`). An image never changes, so it may be used while others are added or removed; [`Images::pin`] keeps one
//! from being removed. Everything here blocks: call it from a thread that may.

mod archive;
mod elf;
mod host;
mod manifest;
mod mirror;
mod oci;
mod python;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

pub use host::{HostPython, discover_host_pythons};
pub use oci::OciError;

use crate::trees::writer::{EntryError, TreeLimits, TreeWriter};
use crate::trees::{FileError, Staging, TreePin, TreeStore, write_atomically};

/// Largest image, in bytes of file content: Lambda's limit of container images.
pub const IMAGE_BYTES_MAX: u64 = 10 * 1024 * 1024 * 1024;
/// Most files, directories and links of an image.
pub const IMAGE_ENTRIES_MAX: u64 = 1_000_000;
/// Longest name of a runtime, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

const LIMITS: TreeLimits = TreeLimits { bytes_max: IMAGE_BYTES_MAX, entries_max: IMAGE_ENTRIES_MAX };
/// Version of the `<name>.json` files.
const FORMAT: u32 = 1;
/// Longest `<name>.json` that is read.
const RECORD_BYTES_MAX: u64 = 1024 * 1024;
/// Where functions find their code, layers, scratch space and the runtime's own files: always there.
const MOUNT_POINTS: [&str; 6] = ["var/task", "opt", "tmp", "dev", "proc", "var/runtime"];

/// A runtime: a root file system and how a function is started on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeImage {
    /// As functions name it: `python3.11`, `provided.al2023`.
    pub name: String,
    /// SHA-256 of the image's manifest, in hexadecimal.
    pub digest: String,
    /// Directory on the host that is the guest's `/`. Its symbolic links are the guest's: never follow them on the host.
    #[serde(skip)]
    pub root: PathBuf,
    /// Program and arguments that start the runtime; empty if functions bring their own (`/var/task/bootstrap`).
    pub bootstrap: Vec<String>,
    /// Variables that the image itself asks for (container images).
    pub environment: Vec<(String, String)>,
    /// Working directory that the image asks for; else functions start in `/var/task`.
    pub working_directory: Option<String>,
    /// Version of its Python, if it is a managed Python runtime.
    pub python_version: Option<String>,
    /// Where it came from, for people.
    pub source: String,
    /// Bytes of file content.
    pub size_bytes: u64,
    /// Files, directories and links.
    pub entry_count: u64,
    /// When the name was given, in seconds since the Unix epoch.
    pub created_s: u64,
}

/// How far an import is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub step: Step,
    /// How much of it, in the step's own unit.
    pub done: u64,
    /// How much there is to do, where that is known.
    pub total: Option<u64>,
}

/// The steps of an import, in order; not every import has all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Finding out what belongs into the image. Counts files.
    Search,
    /// Copying or extracting. Counts bytes.
    Copy,
    /// Compiling Python modules. Counts nothing.
    Compile,
    /// Computing the digest. Counts bytes.
    Digest,
    /// Waiting until everything is on disk. Counts nothing.
    Sync,
}

impl Step {
    /// A few words for a progress bar.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Search => "finding files",
            Self::Copy => "copying",
            Self::Compile => "compiling modules",
            Self::Digest => "computing digest",
            Self::Sync => "writing to disk",
        }
    }
}

/// Called now and then during an import.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress);

/// Why an operation on runtime images failed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is no runtime of this name.
    #[error("there is no runtime {name:?}; {}", known_runtimes(known))]
    Unknown {
        /// As asked for.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// The name is not one.
    #[error(
        "{name:?} is not a runtime name: use 1 to {NAME_BYTES_MAX} lower-case letters, digits, '.', '-' and '_', starting with a letter or digit"
    )]
    Name {
        /// As given.
        name: String,
    },
    /// The program to import is not a usable Python.
    #[error("cannot import {program:?}: {problem}")]
    Program {
        /// As given.
        program: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A shared object that the program needs is not on this host.
    #[error("{} needs the shared object {needed:?}, which is not on this host", object.display())]
    SharedObject {
        /// Who needs it.
        object: PathBuf,
        /// The missing one.
        needed: String,
    },
    /// An entry of an archive or directory cannot be part of an image.
    #[error("{source_name} cannot be imported")]
    Entry {
        /// The archive, layer or directory.
        source_name: String,
        /// The entry and the reason.
        #[source]
        source: EntryError,
    },
    /// An archive's structure is damaged or of an unsupported kind.
    #[error("{} is not an archive that can be imported: {problem}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A container image is damaged or not supported.
    #[error("{} is not a container image that can be imported", path.display())]
    Oci {
        /// The layout or archive.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: OciError,
    },
    /// A name file in the data folder cannot be understood.
    #[error("{} is damaged: {problem}; remove the runtime and add it again", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
}

fn known_runtimes(known: &[String]) -> String {
    match known {
        [] => "there are none yet, add one with `calypte runtime add`".to_owned(),
        names => format!("there are: {}", names.join(", ")),
    }
}

/// Where an import works.
struct Import<'a> {
    /// The image's root.
    writer: TreeWriter,
    /// A directory for intermediate files; gone afterwards, also when the process is killed.
    scratch: PathBuf,
    progress: OnProgress<'a>,
}

/// What an import found out, besides the files.
#[derive(Debug, Default)]
struct Description {
    bootstrap: Vec<String>,
    environment: Vec<(String, String)>,
    working_directory: Option<String>,
    python_version: Option<String>,
    source: String,
}

#[derive(Serialize, Deserialize)]
struct Record {
    format: u32,
    #[serde(flatten)]
    image: RuntimeImage,
}

/// The runtime images of a data folder. Cheap to clone; several processes may use one folder.
#[derive(Debug, Clone)]
pub struct Images {
    directory: PathBuf,
    trees: TreeStore,
}

impl Images {
    /// Opens `<data>/runtimes`, creates it if need be, and removes what interrupted imports left behind.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, ImageError> {
        let directory = directory.into();
        let directory = match fs::create_dir_all(&directory).and_then(|()| directory.canonicalize()) {
            Ok(absolute) => absolute,
            Err(source) => return Err(FileError { action: "create", path: directory, source }.into()),
        };
        let trees = TreeStore::open(&directory.join("images"))?;
        Ok(Self { directory, trees })
    }

    /// The runtimes, by name.
    pub fn list(&self) -> Result<Vec<RuntimeImage>, ImageError> {
        let names = self.names()?;
        names
            .iter()
            .map(|name| self.get(name))
            .filter(|image| !matches!(image, Err(ImageError::Unknown { .. })))
            .collect()
    }

    /// The runtime of this name.
    pub fn get(&self, name: &str) -> Result<RuntimeImage, ImageError> {
        let path = self.record_path(name)?;
        let text = match fs::metadata(&path).and_then(|metadata| Ok((metadata.len(), fs::read(&path)?))) {
            Ok((length, _)) if length > RECORD_BYTES_MAX => {
                return Err(ImageError::Record { path, problem: "it is longer than 1 MiB".to_owned() });
            }
            Ok((_, text)) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ImageError::Unknown { name: name.to_owned(), known: self.names()? });
            }
            Err(source) => return Err(FileError { action: "read", path, source }.into()),
        };
        let damaged = |problem: String| ImageError::Record { path: path.clone(), problem };
        let record: Record = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if record.format != FORMAT {
            return Err(damaged(format!("its format is {} and this version reads {FORMAT}", record.format)));
        }
        if record.image.digest.len() != 64 || !record.image.digest.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(damaged("its digest is not 64 hexadecimal digits".to_owned()));
        }
        let root = self.trees.path(&record.image.digest).join("rootfs");
        if !root.is_dir() {
            return Err(damaged(format!("the image {} is not there", root.display())));
        }
        Ok(RuntimeImage { name: name.to_owned(), root, ..record.image })
    }

    /// Keeps the files of an image from being removed while the pin lives; `None` if they are gone already.
    pub fn pin(&self, image: &RuntimeImage) -> Result<Option<TreePin>, ImageError> {
        Ok(self.trees.pin(&image.digest)?)
    }

    /// Removes a name, and its image when it was the last name of it and nobody holds it.
    pub fn remove(&self, name: &str) -> Result<(), ImageError> {
        let path = self.record_path(name)?;
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ImageError::Unknown { name: name.to_owned(), known: self.names()? });
            }
            Err(source) => return Err(FileError { action: "remove", path, source }.into()),
        }
        self.tidy();
        Ok(())
    }

    /// Removes images that no name points to and nobody holds; how many.
    pub fn remove_unnamed(&self) -> Result<usize, ImageError> {
        // A name that cannot be read may point to any of them.
        let named: Vec<String> = self.list()?.into_iter().map(|image| image.digest).collect();
        Ok(self.trees.retain(|digest| named.iter().any(|name| name == digest))?)
    }

    /// Imports a Python of this host: interpreter, standard library and every shared object that they need, but no
    /// installed packages. `program` is a path or a name in `PATH`, the default name is `python3.11` or the like.
    pub fn add_from_host(
        &self,
        name: Option<&str>,
        program: &str,
        progress: OnProgress<'_>,
    ) -> Result<RuntimeImage, ImageError> {
        let python = HostPython::of_program(program)?;
        let default_name = python.runtime_name();
        self.add(name.unwrap_or(&default_name), progress, |import| python::import(&python, import))
    }

    /// Imports a directory as the whole root file system.
    pub fn add_from_directory(
        &self,
        name: &str,
        source: &Path,
        progress: OnProgress<'_>,
    ) -> Result<RuntimeImage, ImageError> {
        self.add(name, progress, |import| {
            mirror::copy_directory(source, import)?;
            Ok(Description { source: format!("directory {}", source.display()), ..Description::default() })
        })
    }

    /// Imports a `.tar`, `.tar.gz` or `.tar.zst` as the whole root file system.
    pub fn add_from_tar(
        &self,
        name: &str,
        source: &Path,
        progress: OnProgress<'_>,
    ) -> Result<RuntimeImage, ImageError> {
        self.add(name, progress, |import| {
            archive::extract_root(source, import)?;
            Ok(Description { source: format!("archive {}", source.display()), ..Description::default() })
        })
    }

    /// Imports a container image from an OCI image layout: a directory, or a tar of one.
    pub fn add_from_oci_layout(
        &self,
        name: &str,
        source: &Path,
        progress: OnProgress<'_>,
    ) -> Result<RuntimeImage, ImageError> {
        self.add(name, progress, |import| oci::import(source, oci::Kind::Layout, import))
    }

    /// Imports a container image from the output of `docker save`.
    pub fn add_from_docker_save(
        &self,
        name: &str,
        source: &Path,
        progress: OnProgress<'_>,
    ) -> Result<RuntimeImage, ImageError> {
        self.add(name, progress, |import| oci::import(source, oci::Kind::DockerSave, import))
    }

    /// Builds a tree with `import`, makes it permanent and names it.
    fn add(
        &self,
        name: &str,
        progress: OnProgress<'_>,
        fill: impl FnOnce(&mut Import<'_>) -> Result<Description, ImageError>,
    ) -> Result<RuntimeImage, ImageError> {
        let record_path = self.record_path(name)?;
        let staging: Staging = self.trees.stage()?;
        let (root, scratch) = (staging.path().join("rootfs"), staging.path().join("scratch"));
        for path in [&root, &scratch] {
            fs::create_dir(path).map_err(FileError::on("create", path))?;
        }
        let entry_error = |source| ImageError::Entry { source_name: name.to_owned(), source };
        let writer = TreeWriter::new(&root, LIMITS).map_err(entry_error)?;
        let mut import = Import { writer, scratch, progress: &mut *progress };
        let description = fill(&mut import)?;
        for path in MOUNT_POINTS {
            import.writer.directory(Path::new(path)).map_err(entry_error)?;
        }
        fs::remove_dir_all(&import.scratch).map_err(FileError::on("remove", &import.scratch))?;
        let summary = manifest::summarise(&root, progress)?;
        progress(Progress { step: Step::Sync, done: 0, total: None });
        let mut image = RuntimeImage {
            name: name.to_owned(),
            digest: summary.digest,
            root: PathBuf::new(),
            bootstrap: description.bootstrap,
            environment: description.environment,
            working_directory: description.working_directory,
            python_version: description.python_version,
            source: description.source,
            size_bytes: summary.bytes,
            entry_count: summary.entries,
            created_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        };
        let tree = self.trees.publish(staging, &image.digest, || -> Result<(), ImageError> {
            let record = Record { format: FORMAT, image: image.clone() };
            let text = serde_json::to_vec_pretty(&record)
                .map_err(|error| ImageError::Record { path: record_path.clone(), problem: error.to_string() })?;
            Ok(write_atomically(&record_path, &text)?)
        })?;
        image.root = tree.join("rootfs");
        // The name may have pointed to another image before.
        self.tidy();
        Ok(image)
    }

    /// What was asked for is done already: an image that stays costs space only, and goes another time.
    fn tidy(&self) {
        if let Err(error) = self.remove_unnamed() {
            tracing::warn!(error = &error as &dyn std::error::Error, "runtime images without a name are left in place");
        }
    }

    fn names(&self) -> Result<Vec<String>, ImageError> {
        let on_error = || FileError::on("list", &self.directory);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(on_error())? {
            let file_name = entry.map_err(on_error())?.file_name();
            let name = file_name.to_str().and_then(|name| name.strip_suffix(".json"));
            names.extend(name.filter(|name| is_name(name)).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    fn record_path(&self, name: &str) -> Result<PathBuf, ImageError> {
        if is_name(name) {
            Ok(self.directory.join(format!("{name}.json")))
        } else {
            Err(ImageError::Name { name: name.to_owned() })
        }
    }
}

fn is_name(name: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| is_plain(b) || matches!(b, b'.' | b'-' | b'_'))
        && name.bytes().next().is_some_and(is_plain)
}
