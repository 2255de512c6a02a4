//! Container images: the OCI image layout, and what `docker save` writes.
//!
//! Everything is verified before it is used: a blob against the digest that names it, a layer's content against the
//! configuration's `diff_ids`. Format: <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::archive::{self, Pass};
use super::manifest::hexadecimal;
use super::{Description, ImageError, Import, LIMITS, Progress, Step};
use crate::trees::FileError;
use crate::trees::writer::TreeWriter;

/// Longest index, manifest or configuration that is read.
const DOCUMENT_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Most layers of an image; Docker's own limit is 127.
const LAYERS_MAX: usize = 256;
/// Indexes within indexes.
const INDEX_DEPTH_MAX: usize = 4;

/// What kind of layout a directory or tar holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `oci-layout`, `index.json`, `blobs/`.
    Layout,
    /// `manifest.json`.
    DockerSave,
}

/// Why a container image cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// A file that the layout needs is missing or unreadable.
    #[error("its {file:?} cannot be read")]
    Missing {
        /// The file, relative to the layout.
        file: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A document is not what it must be.
    #[error("its {file:?} is malformed")]
    Malformed {
        /// The file, relative to the layout.
        file: String,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A document is too long.
    #[error("its {file:?} is longer than {DOCUMENT_BYTES_MAX} bytes")]
    TooLong {
        /// The file, relative to the layout.
        file: String,
    },
    /// A digest is not a SHA-256 digest in its usual form.
    #[error("digest {digest:?} is not \"sha256:\" and 64 hexadecimal digits, the only kind that is supported")]
    Digest {
        /// As the document has it.
        digest: String,
    },
    /// A blob is not the one that was named.
    #[error("{file:?} is damaged: its digest is sha256:{actual}, expected {expected}")]
    Mismatch {
        /// Which file or layer.
        file: String,
        /// What it is.
        actual: String,
        /// What it should be.
        expected: String,
    },
    /// There is no image for this kind of machine.
    #[error("it holds no image for linux/amd64")]
    Platform,
    /// It is not said which image is meant.
    #[error("it holds {count} images for linux/amd64; export one only")]
    Several {
        /// How many.
        count: usize,
    },
    /// Layers and configuration do not fit together.
    #[error("it has {layers} layers and {diff_ids} layer digests (at most {LAYERS_MAX} of each, equally many)")]
    Layers {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
}

/// A layout, whose files are found inside of it whatever links it holds.
struct Layout {
    root: OwnedFd,
    /// What it was unpacked from, for messages.
    source: PathBuf,
}

#[derive(Deserialize)]
struct Descriptor {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: String,
    platform: Option<PlatformDocument>,
}

#[derive(Deserialize)]
struct PlatformDocument {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct IndexDocument {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct ManifestDocument {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// One image of `docker save`'s `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct ConfigDocument {
    architecture: String,
    os: String,
    #[serde(default)]
    config: ConfigSection,
    rootfs: RootfsSection,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ConfigSection {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
}

#[derive(Deserialize)]
struct RootfsSection {
    diff_ids: Vec<String>,
}

/// Imports the only linux/amd64 image of a layout.
pub(super) fn import(source: &Path, kind: Kind, import: &mut Import<'_>) -> Result<Description, ImageError> {
    let failed = |error| ImageError::Oci { path: source.to_owned(), source: error };
    let directory = unpack(source, import)?;
    let layout = Layout::open(&directory, source)?;
    let image = match kind {
        Kind::Layout => layout.oci_image(),
        Kind::DockerSave => layout.saved_image(),
    };
    let (config, layers) = image.map_err(failed)?;
    if config.os != "linux" || config.architecture != "amd64" {
        return Err(failed(OciError::Platform));
    }
    let diff_ids = &config.rootfs.diff_ids;
    if layers.len() != diff_ids.len() || layers.len() > LAYERS_MAX {
        return Err(failed(OciError::Layers { layers: layers.len(), diff_ids: diff_ids.len() }));
    }
    for (layer, diff_id) in layers.iter().zip(diff_ids) {
        layout.apply_layer(layer, diff_id, import)?;
    }
    Ok(describe(config.config, source))
}

fn describe(config: ConfigSection, source: &Path) -> Description {
    let variables = config.env.unwrap_or_default().into_iter();
    let split = |variable: String| variable.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    Description {
        bootstrap: [config.entrypoint.unwrap_or_default(), config.cmd.unwrap_or_default()].concat(),
        environment: variables.filter_map(split).collect(),
        working_directory: config.working_dir.filter(|directory| directory.starts_with('/')),
        python_version: None,
        source: format!("container image {}", source.display()),
    }
}

/// A directory as it is; an archive extracted into the scratch directory, as hostile as any.
fn unpack(source: &Path, import: &mut Import<'_>) -> Result<PathBuf, ImageError> {
    if source.is_dir() {
        return Ok(source.to_owned());
    }
    let directory = import.scratch.join("layout");
    fs::create_dir(&directory).map_err(FileError::on("create", &directory))?;
    let entry_error = |source| ImageError::Entry { source_name: directory.display().to_string(), source };
    let mut writer = TreeWriter::new(&directory, LIMITS).map_err(entry_error)?;
    let progress = &mut import.progress;
    archive::extract(archive::open(source)?, source, Pass::Plain, &mut writer, &mut |done| {
        progress(Progress { step: Step::Search, done, total: None });
    })?;
    Ok(directory)
}

impl Layout {
    fn open(directory: &Path, source: &Path) -> Result<Self, ImageError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, directory, flags, Mode::empty());
        Ok(Self { root: root.map_err(FileError::on("open", directory))?, source: source.to_owned() })
    }

    fn oci_image(&self) -> Result<(ConfigDocument, Vec<String>), OciError> {
        let index: IndexDocument = self.document("index.json")?;
        let mut found = Vec::new();
        self.find_manifests(index, 0, &mut found)?;
        // Two tags of one image are one image.
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found.dedup_by(|a, b| a.0 == b.0);
        let count = found.len();
        let (_, manifest, config) = found.pop().ok_or(OciError::Platform)?;
        if count > 1 {
            return Err(OciError::Several { count });
        }
        let layers = manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect::<Result<_, _>>()?;
        Ok((config, layers))
    }

    /// The images for this kind of machine, each with its manifest's digest.
    fn find_manifests(
        &self,
        index: IndexDocument,
        depth: usize,
        found: &mut Vec<(String, ManifestDocument, ConfigDocument)>,
    ) -> Result<(), OciError> {
        for descriptor in index.manifests {
            let is_other = |platform: &PlatformDocument| platform.os != "linux" || platform.architecture != "amd64";
            if descriptor.platform.as_ref().is_some_and(is_other) {
                continue;
            }
            let path = blob_path(&descriptor.digest)?;
            let is_index = descriptor.media_type.contains("index") || descriptor.media_type.contains("manifest.list");
            if is_index && depth < INDEX_DEPTH_MAX {
                self.find_manifests(self.document(&path)?, depth + 1, found)?;
            } else if !is_index {
                let manifest: ManifestDocument = self.document(&path)?;
                let config: ConfigDocument = self.document(&blob_path(&manifest.config.digest)?)?;
                if config.os == "linux" && config.architecture == "amd64" {
                    found.push((descriptor.digest, manifest, config));
                }
            }
        }
        Ok(())
    }

    fn saved_image(&self) -> Result<(ConfigDocument, Vec<String>), OciError> {
        let mut images: Vec<SavedImage> = self.document("manifest.json")?;
        let count = images.len();
        let image = images.pop().ok_or(OciError::Platform)?;
        if count > 1 {
            return Err(OciError::Several { count });
        }
        Ok((self.document(&image.config)?, image.layers))
    }

    /// Reads a JSON document; where its path is its digest, verifies it.
    fn document<T: for<'d> Deserialize<'d>>(&self, path: &str) -> Result<T, OciError> {
        let missing = |source| OciError::Missing { file: path.to_owned(), source };
        let mut bytes = Vec::new();
        let file = self.file(path).map_err(missing)?;
        file.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(missing)?;
        if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
            return Err(OciError::TooLong { file: path.to_owned() });
        }
        verify(path, &Sha256::digest(&bytes), path_digest(path))?;
        serde_json::from_slice(&bytes).map_err(|source| OciError::Malformed { file: path.to_owned(), source })
    }

    /// Applies a layer, in two passes. Its content is compared with `diff_id` only after extraction, into the staged tree
    /// that is thrown away if they differ.
    fn apply_layer(&self, layer: &str, diff_id: &str, import: &mut Import<'_>) -> Result<(), ImageError> {
        let failed = |source| ImageError::Oci { path: self.source.clone(), source };
        let unreadable = |source| failed(OciError::Missing { file: layer.to_owned(), source });
        let digest = digest_of(self.file(layer).map_err(unreadable)?).map_err(unreadable)?;
        verify(layer, &digest, path_digest(layer)).map_err(failed)?;
        let diff_path = blob_path(diff_id).map_err(failed)?;
        for pass in [Pass::Whiteouts, Pass::Layer] {
            let inner = self.file(layer).and_then(archive::decompress).map_err(unreadable)?;
            let mut content = Digesting { inner, digest: Sha256::new() };
            let Import { writer, progress, .. } = import;
            archive::extract(&mut content, &self.source.join(layer), pass, writer, &mut |done| {
                progress(Progress { step: Step::Copy, done, total: None });
            })?;
            // What follows the archive's end marker counts as well; it is bounded by the size of an image.
            io::copy(&mut (&mut content).take(LIMITS.bytes_max), &mut io::sink()).map_err(unreadable)?;
            verify(layer, &content.digest.finalize(), path_digest(&diff_path)).map_err(failed)?;
        }
        Ok(())
    }

    fn file(&self, path: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::openat2(&self.root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
    }
}

/// Where a layout keeps the blob of a digest.
fn blob_path(digest: &str) -> Result<String, OciError> {
    let is_hexadecimal = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    match digest.strip_prefix("sha256:") {
        Some(text) if text.len() == 64 && is_hexadecimal(text) => Ok(format!("blobs/sha256/{text}")),
        _ => Err(OciError::Digest { digest: digest.to_owned() }),
    }
}

/// The digest that a path promises, if it does.
fn path_digest(path: &str) -> Option<&str> {
    path.strip_prefix("blobs/sha256/")
}

fn verify(file: &str, digest: &[u8], expected: Option<&str>) -> Result<(), OciError> {
    let actual = hexadecimal(digest);
    match expected {
        Some(expected) if expected != actual => {
            Err(OciError::Mismatch { file: file.to_owned(), actual, expected: format!("sha256:{expected}") })
        }
        _ => Ok(()),
    }
}

fn digest_of(file: File) -> io::Result<[u8; 32]> {
    let mut content = Digesting { inner: file, digest: Sha256::new() };
    io::copy(&mut content, &mut io::sink())?;
    Ok(content.digest.finalize().into())
}

/// Digests what is read through it.
struct Digesting<R> {
    inner: R,
    digest: Sha256,
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.digest.update(&buffer[..count]);
        Ok(count)
    }
}
