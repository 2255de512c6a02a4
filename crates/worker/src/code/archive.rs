//! Reading a zip file.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{Cursor, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use calypte_types::limits;
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::{CodeError, refused};
use crate::trees::writer::{TreeWriter, checked_path};

/// Longest target of a symbolic link: Linux's `PATH_MAX`.
const LINK_BYTES_MAX: u64 = 4096;
/// Bytes of a central directory record before its name, and its first four bytes (APPNOTE.TXT 4.3.12).
const RECORD_BYTES: usize = 46;
const RECORD_SIGNATURE: &[u8] = b"PK\x01\x02";

/// First bytes of an end record and of its larger form, which holds counts that the first has no room for (4.3.16, 4.3.14).
const END_SIGNATURE: &[u8] = b"PK\x05\x06";
const END_64_SIGNATURE: &[u8] = b"PK\x06\x06";

/// Extracts every member, or none that stays: the caller throws the directory away after an error.
pub(super) fn extract(zip: &[u8], writer: &mut TreeWriter) -> Result<(), CodeError> {
    check_declared_count(zip)?;
    let mut archive = ZipArchive::new(Cursor::new(zip)).map_err(corrupt)?;
    let start = usize::try_from(archive.central_directory_start()).unwrap_or(usize::MAX);
    let names = member_names(zip.get(start..).unwrap_or_default())?;
    if names.is_empty() {
        return Err(CodeError::Empty);
    }
    if names.len() > limits::CODE_FILES_MAX {
        return Err(CodeError::TooManyFiles);
    }
    check_names(&names)?;
    if archive.len() != names.len() {
        return Err(CodeError::Corrupt { problem: "its directory contradicts itself".to_owned() });
    }
    let declared = (0..archive.len()).try_fold(0_u64, |sum, index| {
        Ok::<_, CodeError>(sum.saturating_add(archive.by_index_raw(index).map_err(corrupt)?.size()))
    })?;
    if declared > limits::CODE_BYTES_MAX {
        return Err(CodeError::TooLarge);
    }
    let mut links = Vec::new();
    for index in 0..archive.len() {
        extract_member(&mut archive, index, writer, &mut links)?;
    }
    // Only now is it known where a link that goes through another one ends.
    match links.into_iter().find(|link| writer.leads_out(link)) {
        Some(link) => {
            let problem = "is a symbolic link that leads out of the function's code, or in circles".to_owned();
            Err(CodeError::Member { name: link.display().to_string(), problem })
        }
        None => Ok(()),
    }
}

/// Refuses a zip with too many members before the library reads them all: when there are too many directory records and an
/// end record declares too many. One of the two alone may be by chance, or of another zip that is a member of this one.
fn check_declared_count(zip: &[u8]) -> Result<(), CodeError> {
    let is_record = |window: &&[u8]| *window == RECORD_SIGNATURE;
    if zip.windows(RECORD_SIGNATURE.len()).filter(is_record).take(limits::CODE_FILES_MAX + 1).count()
        <= limits::CODE_FILES_MAX
    {
        return Ok(());
    }
    let number = |at: usize, length: usize| {
        let bytes = zip.get(at..at + length)?;
        Some(bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
    };
    let is_over = zip.windows(END_SIGNATURE.len()).enumerate().any(|(at, window)| {
        let count = match window {
            END_SIGNATURE => number(at + 10, 2),
            END_64_SIGNATURE => number(at + 32, 8),
            _ => None,
        };
        count.is_some_and(|count| count > limits::CODE_FILES_MAX as u64)
    });
    if is_over { Err(CodeError::TooManyFiles) } else { Ok(()) }
}

/// The names in the zip's directory, as they are: the library keeps one of several equal ones, and which one a runtime
/// would see must not depend on that.
fn member_names(mut directory: &[u8]) -> Result<Vec<Vec<u8>>, CodeError> {
    let mut names = Vec::new();
    while directory.starts_with(RECORD_SIGNATURE) {
        let length_at =
            |offset: usize| directory.get(offset..offset + 2).map(|b| usize::from(b[0]) | usize::from(b[1]) << 8);
        let lengths = (length_at(28), length_at(30), length_at(32));
        let (Some(name), Some(extra), Some(comment)) = lengths else { return Err(cut_short()) };
        names.push(directory.get(RECORD_BYTES..RECORD_BYTES + name).ok_or_else(cut_short)?.to_vec());
        directory = directory.get(RECORD_BYTES + name + extra + comment..).ok_or_else(cut_short)?;
        if names.len() > limits::CODE_FILES_MAX {
            return Err(CodeError::TooManyFiles);
        }
    }
    Ok(names)
}

fn check_names(names: &[Vec<u8>]) -> Result<(), CodeError> {
    let mut seen = HashSet::new();
    for name in names {
        let refuse = |problem: &str| {
            Err(CodeError::Member { name: String::from_utf8_lossy(name).into_owned(), problem: problem.to_owned() })
        };
        if name.contains(&b'\\') {
            return refuse("has a backslash in its name; use '/' between directories");
        }
        let path = match checked_path(Path::new(OsStr::from_bytes(name))) {
            Ok(path) => path,
            Err(error) => return Err(refused(&String::from_utf8_lossy(name), error)),
        };
        if path.as_os_str().is_empty() && !name.ends_with(b"/") {
            return refuse("has no name");
        }
        if !seen.insert(path) {
            return refuse("is there twice");
        }
    }
    Ok(())
}

fn extract_member(
    archive: &mut ZipArchive<Cursor<&[u8]>>,
    index: usize,
    writer: &mut TreeWriter,
    links: &mut Vec<PathBuf>,
) -> Result<(), CodeError> {
    let raw = archive.by_index_raw(index).map_err(corrupt)?;
    let (is_encrypted, method) = (raw.encrypted(), raw.compression());
    let name = String::from_utf8_lossy(raw.name_raw()).into_owned();
    drop(raw);
    let refuse = |problem: String| Err(CodeError::Member { name: name.clone(), problem });
    if is_encrypted {
        return refuse("is encrypted; functions cannot have a password".to_owned());
    }
    if !matches!(method, CompressionMethod::Stored | CompressionMethod::Deflated) {
        return refuse(format!("is compressed in an unsupported way ({method:?}); use deflate"));
    }
    let mut member = match archive.by_index(index) {
        Ok(member) => member,
        Err(error) => return refuse(format!("cannot be read ({error})")),
    };
    let path = PathBuf::from(OsStr::from_bytes(member.name_raw()));
    let failed = |error| refused(&name, error);
    if member.is_dir() {
        return writer.directory(&path).map_err(failed);
    }
    if member.is_symlink() {
        let mut target = Vec::new();
        let read = (&mut member).take(LINK_BYTES_MAX + 1).read_to_end(&mut target);
        if let Err(error) = read {
            return refuse(format!("is damaged ({error})"));
        }
        if leaves(&path, &target) {
            return refuse("is a symbolic link that leads out of the function's code; use a relative link".to_owned());
        }
        writer.symlink(&path, OsStr::from_bytes(&target)).map_err(failed)?;
        links.push(path);
        return Ok(());
    }
    let (mode, size) = (member.unix_mode().unwrap_or(0o644), member.size());
    let written = writer.file(&path, mode, &mut member).map_err(failed)?;
    if written != size {
        return refuse(format!("has {written} bytes but declares {size}"));
    }
    Ok(())
}

/// Whether the text of a link's target leads above the root. Links through links are checked after extraction.
fn leaves(link: &Path, target: &[u8]) -> bool {
    if target.starts_with(b"/") {
        return true;
    }
    let mut depth = link.components().count().saturating_sub(1);
    for component in target.split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." if depth == 0 => return true,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

fn corrupt(error: ZipError) -> CodeError {
    CodeError::Corrupt { problem: error.to_string() }
}

fn cut_short() -> CodeError {
    CodeError::Corrupt { problem: "its directory is cut short".to_owned() }
}
