//! The file around the state: header, table of sections, sections. Nothing here knows what a section says.
//!
//! `docs/state-format.md` is the description. All numbers are little-endian.

use std::borrow::Cow;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::BorrowedFd;

use calypte_platform::PAGE_SIZE;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::StateError;

/// The first bytes of a state.
pub const MAGIC: [u8; 8] = *b"CALYSTAT";
/// The version of header and table. That of what a section says is the section's own.
pub const FORMAT_VERSION: u32 = 1;
/// Sections begin at multiples of this: the page section can be mapped from the file.
pub const ALIGNMENT: usize = 4096;
/// Most sections of a state.
pub const SECTIONS_MAX: usize = 64;
/// Longest section other than the pages, bytes: it is read into the monitor's memory.
pub const SECTION_BYTES_MAX: u64 = 128 << 20;

/// Bit of `flags`: a reader that does not know the section must refuse the state.
const REQUIRED: u16 = 1;

/// What a section holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SectionId {
    /// What has written the state, and what it needs to go on.
    Identity,
    /// Clock, scheduler, waits, console and the like.
    Kernel,
    /// Processes and their threads.
    Processes,
    /// Address spaces and the frames that are in use.
    Memory,
    /// File systems, files and descriptions of open files.
    Files,
    /// Sockets and services.
    Network,
    /// Which frames the pages are of.
    PageIndex,
    /// The content of frames that are not zero, one after the other.
    Pages,
}

/// One row of the table of sections. The version of its body is the one that is written, and the only one that is read.
struct Known {
    id: SectionId,
    number: u32,
    name: &'static str,
    version: u16,
}

const fn known(id: SectionId, number: u32, name: &'static str, version: u16) -> Known {
    Known { id, number, name, version }
}

/// All sections, in the order in which they are written. Each stands in every state.
const SECTIONS: [Known; 8] = [
    known(SectionId::Identity, 1, "identity", 1),
    known(SectionId::Kernel, 2, "kernel", 1),
    known(SectionId::Processes, 3, "processes", 2),
    known(SectionId::Memory, 4, "memory", 1),
    known(SectionId::Files, 5, "files", 2),
    known(SectionId::Network, 6, "network", 2),
    known(SectionId::PageIndex, 7, "page index", 1),
    known(SectionId::Pages, 8, "pages", 1),
];

impl SectionId {
    fn known(self) -> &'static Known {
        &SECTIONS[self as usize]
    }

    /// Its name in messages.
    pub fn name(self) -> &'static str {
        self.known().name
    }
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    sections: U32,
    /// Of the header with this field zero, and the table.
    checksum: [u8; 32],
    reserved: [u8; 16],
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Row {
    number: U32,
    version: U16,
    flags: U16,
    offset: U64,
    length: U64,
    checksum: [u8; 32],
    reserved: [u8; 8],
}

const HEADER_BYTES: usize = size_of::<Header>();
const ROW_BYTES: usize = size_of::<Row>();
const _: () = assert!(SectionId::Pages as usize == SECTIONS.len() - 1 && ALIGNMENT.is_multiple_of(PAGE_SIZE));
const _: () =
    assert!(HEADER_BYTES == 64 && ROW_BYTES == 64 && HEADER_BYTES + SECTIONS_MAX * ROW_BYTES <= 2 * ALIGNMENT);

/// Writes a state, section by section in the order of `SECTIONS`, and at last what stands before them.
pub(super) struct Writer<W> {
    target: W,
    rows: Vec<u8>,
    /// Where the last section ends.
    end: u64,
}

/// The body of a section while it is written.
pub(super) struct Body<'w, W> {
    target: &'w mut W,
    checksum: blake3::Hasher,
    length: u64,
}

impl<W: Write> Write for Body<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.target.write(bytes)?;
        self.checksum.update(&bytes[..count]);
        self.length += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.target.flush()
    }
}

impl<W: Write + Seek> Writer<W> {
    /// Begins a state at the beginning of `target`.
    pub(super) fn new(target: W) -> Self {
        Self { target, rows: Vec::new(), end: (HEADER_BYTES + SECTIONS.len() * ROW_BYTES) as u64 }
    }

    /// Writes the next section.
    pub(super) fn section(
        &mut self,
        id: SectionId,
        write: impl FnOnce(&mut Body<'_, W>) -> io::Result<()>,
    ) -> io::Result<()> {
        let known = id.known();
        assert_eq!(self.rows.len(), id as usize * ROW_BYTES, "sections are written in their order");
        let offset = self.end.next_multiple_of(ALIGNMENT as u64);
        // What is skipped reads as zero.
        self.target.seek(SeekFrom::Start(offset))?;
        let mut body = Body { target: &mut self.target, checksum: blake3::Hasher::new(), length: 0 };
        write(&mut body)?;
        let row = Row {
            number: known.number.into(),
            version: known.version.into(),
            flags: REQUIRED.into(),
            offset: offset.into(),
            length: body.length.into(),
            checksum: *body.checksum.finalize().as_bytes(),
            reserved: [0; 8],
        };
        self.end = offset + body.length;
        self.rows.extend_from_slice(row.as_bytes());
        Ok(())
    }

    /// Writes header and table. The target, and how long the state is.
    pub(super) fn finish(mut self) -> io::Result<(W, u64)> {
        assert_eq!(self.rows.len(), SECTIONS.len() * ROW_BYTES, "every section has been written");
        let mut header = Header {
            magic: MAGIC,
            version: FORMAT_VERSION.into(),
            sections: (SECTIONS.len() as u32).into(),
            checksum: [0; 32],
            reserved: [0; 16],
        };
        header.checksum = header_checksum(&header, &self.rows);
        self.target.seek(SeekFrom::Start(0))?;
        self.target.write_all(header.as_bytes())?;
        self.target.write_all(&self.rows)?;
        self.target.flush()?;
        Ok((self.target, self.end))
    }
}

fn header_checksum(header: &Header, rows: &[u8]) -> [u8; 32] {
    let header = Header { checksum: [0; 32], ..*header };
    *blake3::Hasher::new().update(header.as_bytes()).update(rows).finalize().as_bytes()
}

/// Where the bytes of a state are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'b> {
    /// In memory.
    Bytes(&'b [u8]),
    /// In a file, of this length.
    File(BorrowedFd<'b>, u64),
}

impl<'b> Source<'b> {
    /// A file, as long as it is now.
    pub(super) fn file(file: BorrowedFd<'b>) -> Result<Self, StateError> {
        let status = rustix::fs::fstat(file).map_err(|error| StateError::Read(error.into()))?;
        Ok(Self::File(file, u64::try_from(status.st_size).unwrap_or(0)))
    }

    fn length(self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, length) => length,
        }
    }

    /// Some bytes. `None` if there are not as many.
    fn get(self, start: u64, length: u64) -> Result<Option<Cow<'b, [u8]>>, StateError> {
        let Some(end) = start.checked_add(length).filter(|end| *end <= self.length()) else { return Ok(None) };
        match self {
            Self::Bytes(bytes) => Ok(Some(Cow::Borrowed(&bytes[start as usize..end as usize]))),
            Self::File(file, _) => {
                let mut bytes = vec![0; length as usize];
                read_exact(file, start, &mut bytes).map_err(StateError::Read)?;
                Ok(Some(Cow::Owned(bytes)))
            }
        }
    }
}

fn read_exact(file: BorrowedFd<'_>, mut position: u64, mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pread(file, &mut *bytes, position) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                bytes = &mut bytes[count..];
                position += count as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The content of the section `pages`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pages<'b> {
    /// In memory, checksum verified.
    Bytes(&'b [u8]),
    /// In a file: where they begin and how long they are. Their checksum has not been looked at.
    File {
        /// The file.
        file: BorrowedFd<'b>,
        /// Where the section begins, a multiple of [`ALIGNMENT`].
        position: u64,
        /// How long it is.
        length: u64,
    },
}

impl Pages<'_> {
    /// How many bytes they are.
    pub(super) fn length(self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { length, .. } => length,
        }
    }
}

/// The bodies of a state's sections, checksums verified, but for the pages of a file.
#[derive(Debug)]
pub(super) struct Sections<'b> {
    bodies: [Cow<'b, [u8]>; SECTIONS.len() - 1],
    pages: Pages<'b>,
}

impl<'b> Sections<'b> {
    /// Takes a state apart.
    pub(super) fn read(source: Source<'b>) -> Result<Self, StateError> {
        let start = source.get(0, source.length().min(2 * ALIGNMENT as u64))?.unwrap_or_default();
        let rows = rows(&start)?;
        let mut bodies = [const { None }; SECTIONS.len() - 1];
        let mut pages = None;
        let mut end = (HEADER_BYTES + rows.len() * ROW_BYTES) as u64;
        for row in rows {
            let known = SECTIONS.iter().find(|known| known.number == row.number.get());
            let name = known.map_or("unknown", |known| known.name);
            let out_of_bounds = || StateError::Bounds { section: name, number: row.number.get() };
            let start = end.next_multiple_of(ALIGNMENT as u64);
            let length = row.length.get();
            if row.offset.get() != start {
                return Err(out_of_bounds());
            }
            let padding = source.get(end, start - end)?.ok_or_else(out_of_bounds)?;
            if padding.iter().any(|byte| *byte != 0) || row.reserved != [0; 8] {
                return Err(StateError::Padding { section: name });
            }
            end = start.checked_add(length).filter(|end| *end <= source.length()).ok_or_else(out_of_bounds)?;
            let Some(known) = known else {
                if row.flags.get() & REQUIRED != 0 {
                    return Err(StateError::UnknownSection { number: row.number.get() });
                }
                continue;
            };
            if row.version.get() != known.version {
                let (found, supported) = (row.version.get(), known.version);
                return Err(StateError::SectionVersion { section: name, found, supported });
            }
            let is_repeated = if let Some(place) = bodies.get_mut(known.id as usize) {
                if length > SECTION_BYTES_MAX {
                    return Err(out_of_bounds());
                }
                let body = source.get(start, length)?.ok_or_else(out_of_bounds)?;
                check(&body, row, name)?;
                place.replace(body).is_some()
            } else {
                let found = match source {
                    Source::Bytes(bytes) => {
                        let body = &bytes[start as usize..end as usize];
                        check(body, row, name)?;
                        Pages::Bytes(body)
                    }
                    Source::File(file, _) => Pages::File { file, position: start, length },
                };
                pages.replace(found).is_some()
            };
            if is_repeated {
                return Err(StateError::Repeated { section: name });
            }
        }
        if end != source.length() {
            return Err(StateError::Length { expected: end, found: source.length() });
        }
        let missing = |id: SectionId| StateError::Missing { section: id.name() };
        let mut found = [const { Cow::Owned(Vec::new()) }; SECTIONS.len() - 1];
        for (known, (found, body)) in SECTIONS.iter().zip(found.iter_mut().zip(bodies)) {
            *found = body.ok_or_else(|| missing(known.id))?;
        }
        Ok(Self { bodies: found, pages: pages.ok_or_else(|| missing(SectionId::Pages))? })
    }

    /// The body of a section other than the pages.
    pub(super) fn get(&self, id: SectionId) -> &[u8] {
        &self.bodies[id as usize]
    }

    /// The section `pages`.
    pub(super) fn pages(&self) -> Pages<'b> {
        self.pages
    }
}

fn check(body: &[u8], row: &Row, name: &'static str) -> Result<(), StateError> {
    if blake3::hash(body) == row.checksum { Ok(()) } else { Err(StateError::Checksum { section: name }) }
}

fn rows(bytes: &[u8]) -> Result<&[Row], StateError> {
    let (header, rest) = Header::ref_from_prefix(bytes).map_err(|_| StateError::NotAState)?;
    if header.magic != MAGIC {
        return Err(StateError::NotAState);
    }
    if header.version.get() != FORMAT_VERSION {
        return Err(StateError::Version { found: header.version.get(), supported: FORMAT_VERSION });
    }
    let count = header.sections.get() as usize;
    let table = rest.get(..count.saturating_mul(ROW_BYTES)).filter(|_| count <= SECTIONS_MAX);
    let table = table.ok_or(StateError::Checksum { section: "header" })?;
    if header_checksum(header, table) != header.checksum || header.reserved != [0; 16] {
        return Err(StateError::Checksum { section: "header" });
    }
    <[Row]>::ref_from_bytes(table).map_err(|_| StateError::Checksum { section: "header" })
}
