//! The file around the state: header, table of sections, sections. Nothing here knows what a section says.
//!
//! `docs/state-format.md` is the description. All numbers are little-endian.

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
const _: () =
    assert!(HEADER_BYTES == 64 && ROW_BYTES == 64 && HEADER_BYTES + SECTIONS_MAX * ROW_BYTES <= 2 * ALIGNMENT);

/// Puts a state together from the bodies of its sections, in the order of `SECTIONS`.
pub(super) fn assemble(bodies: [Vec<u8>; SECTIONS.len()]) -> Vec<u8> {
    let mut offset = (HEADER_BYTES + SECTIONS.len() * ROW_BYTES).next_multiple_of(ALIGNMENT);
    let total = bodies.iter().fold(offset, |end, body| end.next_multiple_of(ALIGNMENT) + body.len());
    let mut rows = Vec::with_capacity(SECTIONS.len() * ROW_BYTES);
    let mut bytes = Vec::with_capacity(total);
    bytes.resize(offset, 0);
    for (known, body) in SECTIONS.iter().zip(bodies) {
        offset = offset.next_multiple_of(ALIGNMENT);
        let row = Row {
            number: known.number.into(),
            version: known.version.into(),
            flags: REQUIRED.into(),
            offset: (offset as u64).into(),
            length: (body.len() as u64).into(),
            checksum: *blake3::hash(&body).as_bytes(),
            reserved: [0; 8],
        };
        rows.extend_from_slice(row.as_bytes());
        bytes.resize(offset, 0);
        offset += body.len();
        bytes.extend_from_slice(&body);
    }
    let mut header = Header {
        magic: MAGIC,
        version: FORMAT_VERSION.into(),
        sections: (SECTIONS.len() as u32).into(),
        checksum: [0; 32],
        reserved: [0; 16],
    };
    header.checksum = header_checksum(&header, &rows);
    bytes[..HEADER_BYTES].copy_from_slice(header.as_bytes());
    bytes[HEADER_BYTES..HEADER_BYTES + rows.len()].copy_from_slice(&rows);
    bytes
}

fn header_checksum(header: &Header, rows: &[u8]) -> [u8; 32] {
    let header = Header { checksum: [0; 32], ..*header };
    *blake3::Hasher::new().update(header.as_bytes()).update(rows).finalize().as_bytes()
}

/// The bodies of a state's sections, checksums verified.
#[derive(Debug)]
pub(super) struct Sections<'b> {
    bodies: [&'b [u8]; SECTIONS.len()],
}

impl<'b> Sections<'b> {
    /// Takes a state apart.
    pub(super) fn read(bytes: &'b [u8]) -> Result<Self, StateError> {
        let rows = rows(bytes)?;
        let mut bodies = [None; SECTIONS.len()];
        let mut end = HEADER_BYTES + rows.len() * ROW_BYTES;
        for row in rows {
            let known = SECTIONS.iter().position(|known| known.number == row.number.get());
            let name = known.map_or("unknown", |index| SECTIONS[index].name);
            let start = end.next_multiple_of(ALIGNMENT);
            let is_next = row.offset.get() == start as u64;
            let length = usize::try_from(row.length.get()).ok();
            let body = length.and_then(|length| bytes.get(start..start.checked_add(length)?)).filter(|_| is_next);
            let body = body.ok_or(StateError::Bounds { section: name, number: row.number.get() })?;
            if bytes[end..start].iter().any(|byte| *byte != 0) || row.reserved != [0; 8] {
                return Err(StateError::Padding { section: name });
            }
            end = start + body.len();
            let Some(index) = known else {
                if row.flags.get() & REQUIRED != 0 {
                    return Err(StateError::UnknownSection { number: row.number.get() });
                }
                continue;
            };
            let known = &SECTIONS[index];
            if row.version.get() != known.version {
                let (found, supported) = (row.version.get(), known.version);
                return Err(StateError::SectionVersion { section: name, found, supported });
            }
            if known.id != SectionId::Pages && row.length.get() > SECTION_BYTES_MAX {
                return Err(StateError::Bounds { section: name, number: known.number });
            }
            if blake3::hash(body) != row.checksum {
                return Err(StateError::Checksum { section: name });
            }
            if bodies[index].replace(body).is_some() {
                return Err(StateError::Repeated { section: name });
            }
        }
        if end != bytes.len() {
            return Err(StateError::Length { expected: end, found: bytes.len() });
        }
        let mut found = [&[][..]; SECTIONS.len()];
        for (known, (found, body)) in SECTIONS.iter().zip(found.iter_mut().zip(bodies)) {
            *found = body.ok_or(StateError::Missing { section: known.name })?;
        }
        Ok(Self { bodies: found })
    }

    /// The body of a section.
    pub(super) fn get(&self, id: SectionId) -> &'b [u8] {
        self.bodies[id as usize]
    }
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
