//! Tar archives: whole root file systems, and layers of container images with their whiteouts.
//!
//! The archive is hostile. Entries are read raw, so that the extension headers that carry long names are bounded here;
//! where an entry goes and how much it may hold is [`TreeWriter`]'s to check.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tar::EntryType;

use super::{ImageError, Import, Progress, Step};
use crate::trees::FileError;
use crate::trees::writer::{EntryError, TreeWriter};

/// Longest extension header (long name, PAX records) that is read.
const EXTENSION_BYTES_MAX: u64 = 1024 * 1024;
/// Prefix of the names that mark something of a lower layer as gone.
const WHITEOUT: &[u8] = b".wh.";
/// Name that marks all of a directory in lower layers as gone.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// One pass over an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// Extract everything; names are taken as they are.
    Plain,
    /// Only do what the whiteouts of a layer say. Comes first: they concern lower layers, wherever in the layer they are.
    Whiteouts,
    /// Extract a layer without its whiteouts.
    Layer,
}

/// Extracts an archive as the root of an image.
pub(super) fn extract_root(path: &Path, import: &mut Import<'_>) -> Result<(), ImageError> {
    let Import { writer, progress, .. } = import;
    extract(open(path)?, path, Pass::Plain, writer, &mut |done| {
        progress(Progress { step: Step::Copy, done, total: None });
    })
}

/// Opens a file and decompresses it if it is compressed with gzip or Zstandard, whatever its name says.
pub(super) fn open(path: &Path) -> Result<Box<dyn Read>, ImageError> {
    decompress(File::open(path).map_err(FileError::on("open", path))?)
        .map_err(|problem| ImageError::Archive { path: path.to_owned(), problem: problem.to_string() })
}

/// Decompresses by the first bytes.
pub(super) fn decompress(file: File) -> io::Result<Box<dyn Read>> {
    let mut reader = BufReader::with_capacity(256 * 1024, file);
    let start = io::BufRead::fill_buf(&mut reader)?;
    if start.starts_with(&[0x1f, 0x8b]) {
        // Several members after each other are one stream.
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(reader)));
    }
    if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoder = ruzstd::decoding::StreamingDecoder::new(reader).map_err(io::Error::other)?;
        return Ok(Box::new(decoder));
    }
    Ok(Box::new(reader))
}

/// Reads a whole archive. `name` is for messages; `on_bytes` is told how much has been written.
pub(super) fn extract(
    reader: impl Read,
    name: &Path,
    pass: Pass,
    writer: &mut TreeWriter,
    on_bytes: &mut dyn FnMut(u64),
) -> Result<(), ImageError> {
    let damaged = |problem: String| ImageError::Archive { path: name.to_owned(), problem };
    let unreadable = |error: io::Error| damaged(format!("it cannot be read ({error})"));
    let mut archive = tar::Archive::new(reader);
    let mut extensions = Extensions::default();
    let mut is_empty = true;
    for entry in archive.entries().map_err(unreadable)?.raw(true) {
        let mut entry = entry.map_err(|error| match error.kind() {
            // Of the reader of tar itself, which quotes what it took for a header.
            io::ErrorKind::Other if is_empty => damaged("it is no tar archive, nor a compressed one".to_owned()),
            _ => unreadable(error),
        })?;
        is_empty = false;
        if extensions.take(&mut entry).map_err(damaged)? {
            continue;
        }
        let extensions = std::mem::take(&mut extensions);
        let path = extensions.path.unwrap_or_else(|| entry.path_bytes().into_owned());
        let link = extensions.link.or_else(|| entry.link_name_bytes().map(std::borrow::Cow::into_owned));
        let entry = Entry { path: PathBuf::from(OsStr::from_bytes(&path)), link, data: &mut entry };
        entry.apply(pass, writer).map_err(|error| match error {
            Refusal::Entry(source) => ImageError::Entry { source_name: name.display().to_string(), source },
            Refusal::Kind(problem) => damaged(problem),
        })?;
        on_bytes(writer.bytes());
    }
    // The reader takes a stream that ends before its first header for an empty archive.
    if is_empty && pass == Pass::Plain { Err(damaged("it has no entries".to_owned())) } else { Ok(()) }
}

/// What extension headers say about the entry after them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Extensions {
    /// Whether the entry is an extension header; if so, it has been read.
    fn take(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<bool, String> {
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName => self.path = Some(c_text(read_extension(entry)?)),
            EntryType::GNULongLink => self.link = Some(c_text(read_extension(entry)?)),
            EntryType::XHeader => self.take_pax(&read_extension(entry)?)?,
            // Global records are comments (`git archive` writes one); no field of one entry is taken from them.
            EntryType::XGlobalHeader => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn take_pax(&mut self, records: &[u8]) -> Result<(), String> {
        for record in tar::PaxExtensions::new(records) {
            let record = record.map_err(|error| format!("a PAX header is malformed ({error})"))?;
            match record.key_bytes() {
                b"path" => self.path = Some(record.value_bytes().to_vec()),
                b"linkpath" => self.link = Some(record.value_bytes().to_vec()),
                b"size" => return Err("it has a file of more than 8 GiB, which is not supported".to_owned()),
                _ => {}
            }
        }
        Ok(())
    }
}

fn read_extension(entry: &mut tar::Entry<'_, impl Read>) -> Result<Vec<u8>, String> {
    if entry.size() > EXTENSION_BYTES_MAX {
        return Err(format!("an extension header is longer than {EXTENSION_BYTES_MAX} bytes"));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(|error| format!("an extension header cannot be read ({error})"))?;
    Ok(bytes)
}

fn c_text(mut bytes: Vec<u8>) -> Vec<u8> {
    let length = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    bytes.truncate(length);
    bytes
}

struct Entry<'e, 'r, R: Read> {
    path: PathBuf,
    link: Option<Vec<u8>>,
    data: &'e mut tar::Entry<'r, R>,
}

enum Refusal {
    Entry(EntryError),
    Kind(String),
}

impl From<EntryError> for Refusal {
    fn from(error: EntryError) -> Self {
        Self::Entry(error)
    }
}

impl<R: Read> Entry<'_, '_, R> {
    fn apply(self, pass: Pass, writer: &mut TreeWriter) -> Result<(), Refusal> {
        let name = self.path.file_name().unwrap_or_default().as_bytes();
        match pass {
            Pass::Plain => {}
            Pass::Layer if name.starts_with(WHITEOUT) => return Ok(()),
            Pass::Layer => {}
            Pass::Whiteouts => {
                let parent = self.path.parent().unwrap_or(Path::new(""));
                if name == OPAQUE {
                    writer.clear(parent)?;
                } else if let Some(hidden) = name.strip_prefix(WHITEOUT) {
                    if matches!(hidden, b"" | b"." | b"..") {
                        return Err(Refusal::Kind(format!("{:?} hides nothing that can be hidden", self.path)));
                    }
                    writer.remove(&parent.join(OsStr::from_bytes(hidden)))?;
                }
                return Ok(());
            }
        }
        self.extract(writer)
    }

    fn extract(self, writer: &mut TreeWriter) -> Result<(), Refusal> {
        let path = self.path;
        let header = self.data.header();
        let unsupported = |what: &str| Err(Refusal::Kind(format!("{:?} is {what}, which is not supported", path)));
        let link = || match &self.link {
            Some(link) => Ok(Path::new(OsStr::from_bytes(link))),
            None => Err(Refusal::Kind(format!("{path:?} is a link without a target"))),
        };
        match header.entry_type() {
            EntryType::Directory => Ok(writer.directory(&path)?),
            EntryType::Regular | EntryType::Continuous if path.as_os_str().as_bytes().ends_with(b"/") => {
                // Archives older than POSIX.1-1988 mark directories so.
                Ok(writer.directory(&path)?)
            }
            EntryType::Regular | EntryType::Continuous => {
                let (mode, size) = (header.mode().unwrap_or(0o644), self.data.size());
                let written = writer.file(&path, mode, self.data)?;
                if written == size {
                    return Ok(());
                }
                Err(Refusal::Kind(format!("it ends within {path:?}: it has been cut short")))
            }
            EntryType::Symlink => Ok(writer.symlink(&path, link()?.as_os_str())?),
            EntryType::Link => Ok(writer.hard_link(&path, link()?)?),
            // `/dev` is the monitor's; images that carry device nodes never need theirs.
            EntryType::Char | EntryType::Block | EntryType::Fifo => Ok(()),
            EntryType::GNUSparse => unsupported("a sparse file"),
            kind => unsupported(&format!("an entry of type {:?}", char::from(kind.as_byte()))),
        }
    }
}
