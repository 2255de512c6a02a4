//! The files of one log: finding them, reading from any position.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// One file of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// Position of its first byte in the log.
    pub(super) start: u64,
    /// Its length when it was looked up.
    pub(super) length: u64,
    pub(super) path: PathBuf,
}

impl Segment {
    pub(super) fn end(&self) -> u64 {
        self.start + self.length
    }
}

/// The file of a segment.
pub(super) fn path(directory: &Path, start: u64) -> PathBuf {
    directory.join(format!("{start:020}.log"))
}

/// The segments of a log, the oldest first. A log without a directory has none.
pub(super) fn list(directory: &Path) -> io::Result<Vec<Segment>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut segments = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let start = name.to_str().and_then(|name| name.strip_suffix(".log")).and_then(|digits| digits.parse().ok());
        let Some(start) = start else { continue };
        match entry.metadata() {
            Ok(metadata) => segments.push(Segment { start, length: metadata.len(), path: entry.path() }),
            // Rotated away meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    segments.sort_by_key(|segment| segment.start);
    Ok(segments)
}

/// Up to `bytes_max` bytes at `position` and the position behind them. A position before the oldest segment means its start.
pub(super) fn read(directory: &Path, position: u64, bytes_max: usize) -> io::Result<(Vec<u8>, u64)> {
    for segment in list(directory)? {
        if segment.end() <= position {
            continue;
        }
        let position = position.max(segment.start);
        let length = usize::try_from(segment.end() - position).unwrap_or(usize::MAX).min(bytes_max);
        let bytes = read_at(&segment, position, length)?;
        let end = position + bytes.len() as u64;
        return Ok((bytes, end));
    }
    Ok((Vec::new(), position))
}

/// The last `lines` lines and the position behind them.
pub(super) fn tail(directory: &Path, lines: usize) -> io::Result<(Vec<u8>, u64)> {
    let mut found = Vec::new();
    let mut end = 0;
    for segment in list(directory)?.iter().rev() {
        let length = usize::try_from(segment.length).unwrap_or(usize::MAX);
        let mut bytes = read_at(segment, segment.start, length)?;
        end = end.max(segment.start + bytes.len() as u64);
        bytes.append(&mut found);
        found = bytes;
        if let Some(start) = start_of_last_lines(&found, lines) {
            found.drain(..start);
            break;
        }
    }
    Ok((found, end))
}

/// Where the last `lines` lines begin, `None` if there are not more.
fn start_of_last_lines(bytes: &[u8], lines: usize) -> Option<usize> {
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if lines == 0 {
        return Some(bytes.len());
    }
    let breaks = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    breaks.map(|(index, _)| index + 1).nth(lines - 1)
}

/// Reads at most `length` bytes; fewer if the file has become shorter or is gone.
fn read_at(segment: &Segment, position: u64, length: usize) -> io::Result<Vec<u8>> {
    let file = match File::open(&segment.path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut bytes[filled..], position - segment.start + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}
