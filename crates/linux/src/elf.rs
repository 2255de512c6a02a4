//! Reading ELF programs (`elf(5)`, System V ABI AMD64 supplement). Pure: bytes in, a checked description out. The bytes come
//! from guests, so every field is bounded here and callers need not look twice.

use calypte_platform::{PAGE_SIZE, Protection};
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// Bytes of the file that [`Header::parse`] wants to see: as many as Linux looks at first.
pub const HEADER_BYTES: usize = 64;
/// Most program headers: what fits into 64 KiB, Linux's limit.
pub const PROGRAM_HEADERS_MAX: u16 = (65_536 / PROGRAM_HEADER_BYTES) as u16;
/// Longest path of an interpreter, with its final zero (`PATH_MAX`).
pub const INTERPRETER_BYTES_MAX: u64 = 4096;
/// Bytes of one program header.
pub const PROGRAM_HEADER_BYTES: usize = 56;
/// No address of a program lies above: keeps sums far from overflow.
const ADDRESS_MAX: u64 = 1 << 47;

const TYPE_EXECUTABLE: u16 = 2;
const TYPE_DYNAMIC: u16 = 3;
const MACHINE_X86_64: u16 = 62;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_INTERPRETER: u32 = 3;
const SEGMENT_PROGRAM_HEADERS: u32 = 6;
const SEGMENT_STACK: u32 = 0x6474_e551;

/// Why a file cannot be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// Another kind of file.
    #[error("not a 64-bit x86 ELF program")]
    NotElf,
    /// A header contradicts itself or the limits.
    #[error("malformed ELF program: {0}")]
    Malformed(&'static str),
}

/// What the first bytes of the file say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Address at which the program begins, before it is moved.
    pub entry: u64,
    /// Whether it may be put anywhere (`ET_DYN`).
    pub is_movable: bool,
    /// Where in the file the program headers are.
    pub program_headers_offset: u64,
    /// How many there are.
    pub program_header_count: u16,
}

#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct RawHeader {
    identification: [u8; 16],
    kind: u16,
    machine: u16,
    version: u32,
    entry: u64,
    program_headers_offset: u64,
    section_headers_offset: u64,
    flags: u32,
    header_bytes: u16,
    program_header_bytes: u16,
    program_header_count: u16,
    section_header_bytes: u16,
    section_header_count: u16,
    section_names: u16,
}

#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct RawProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    physical_address: u64,
    file_bytes: u64,
    memory_bytes: u64,
    alignment: u64,
}

/// A part of the file to be mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Address before the program is moved.
    pub address: u64,
    /// Offset in the file; congruent to the address modulo the page size.
    pub offset: u64,
    /// Bytes from the file.
    pub file_bytes: u64,
    /// Bytes in memory, not less; those beyond the file's are zero.
    pub memory_bytes: u64,
    /// What the program may do with it.
    pub protection: Protection,
}

/// A program as its headers describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The header.
    pub header: Header,
    /// Parts to map, ascending; at least one.
    pub segments: Vec<Segment>,
    /// Offset and length in the file of the interpreter's path.
    pub interpreter: Option<(u64, u64)>,
    /// Address of the program headers in memory, before the program is moved; zero if they are not mapped.
    pub program_headers_address: u64,
    /// Whether the stack must be executable.
    pub has_executable_stack: bool,
    /// Largest alignment that a segment asks for, at least a page.
    pub alignment: u64,
}

impl Header {
    /// Checks the first [`HEADER_BYTES`] of a file.
    pub fn parse(bytes: &[u8]) -> Result<Self, ElfError> {
        let (raw, _) = RawHeader::read_from_prefix(bytes).map_err(|_| ElfError::NotElf)?;
        let is_64_bit_little_endian = raw.identification[..6] == *b"\x7fELF\x02\x01";
        if !is_64_bit_little_endian || raw.machine != MACHINE_X86_64 {
            return Err(ElfError::NotElf);
        }
        if raw.kind != TYPE_EXECUTABLE && raw.kind != TYPE_DYNAMIC {
            return Err(ElfError::NotElf);
        }
        if usize::from(raw.program_header_bytes) != PROGRAM_HEADER_BYTES {
            return Err(ElfError::Malformed("size of program headers"));
        }
        if raw.program_header_count == 0 || raw.program_header_count > PROGRAM_HEADERS_MAX {
            return Err(ElfError::Malformed("number of program headers"));
        }
        if raw.program_headers_offset > i64::MAX as u64 || raw.entry >= ADDRESS_MAX {
            return Err(ElfError::Malformed("offsets out of range"));
        }
        Ok(Self {
            entry: raw.entry,
            is_movable: raw.kind == TYPE_DYNAMIC,
            program_headers_offset: raw.program_headers_offset,
            program_header_count: raw.program_header_count,
        })
    }

    /// Bytes that the program headers take.
    pub fn program_headers_bytes(&self) -> usize {
        usize::from(self.program_header_count) * PROGRAM_HEADER_BYTES
    }
}

impl Program {
    /// Checks the program headers, `bytes` being [`Header::program_headers_bytes`] long.
    pub fn parse(header: Header, bytes: &[u8]) -> Result<Self, ElfError> {
        let mut program = Self {
            header,
            segments: Vec::new(),
            interpreter: None,
            program_headers_address: 0,
            has_executable_stack: false,
            alignment: PAGE_SIZE as u64,
        };
        let mut named_headers_address = None;
        for bytes in bytes.chunks_exact(PROGRAM_HEADER_BYTES) {
            let raw = RawProgramHeader::read_from_bytes(bytes).map_err(|_| ElfError::Malformed("program header"))?;
            match raw.kind {
                SEGMENT_LOAD => program.add_segment(&raw)?,
                SEGMENT_INTERPRETER if program.interpreter.is_none() => {
                    if raw.file_bytes < 2 || raw.file_bytes > INTERPRETER_BYTES_MAX || raw.offset > i64::MAX as u64 {
                        return Err(ElfError::Malformed("path of the interpreter"));
                    }
                    program.interpreter = Some((raw.offset, raw.file_bytes));
                }
                SEGMENT_PROGRAM_HEADERS => named_headers_address = Some(raw.address).filter(|at| *at < ADDRESS_MAX),
                SEGMENT_STACK => program.has_executable_stack = raw.flags & 1 != 0,
                _ => {}
            }
        }
        if program.segments.is_empty() {
            return Err(ElfError::Malformed("nothing to load"));
        }
        program.program_headers_address =
            named_headers_address.or_else(|| program.address_of(header.program_headers_offset)).unwrap_or(0);
        Ok(program)
    }

    fn add_segment(&mut self, raw: &RawProgramHeader) -> Result<(), ElfError> {
        if raw.memory_bytes == 0 {
            return Ok(());
        }
        let fits = |value: u64| value < ADDRESS_MAX;
        if !fits(raw.address) || !fits(raw.memory_bytes) || !fits(raw.address + raw.memory_bytes) {
            return Err(ElfError::Malformed("segment out of range"));
        }
        if raw.file_bytes > raw.memory_bytes || !fits(raw.offset) {
            return Err(ElfError::Malformed("segment longer in the file than in memory"));
        }
        let page = PAGE_SIZE as u64;
        if raw.offset % page != raw.address % page {
            return Err(ElfError::Malformed("segment not aligned"));
        }
        if self.segments.last().is_some_and(|last| raw.address < last.address) {
            return Err(ElfError::Malformed("segments not ascending"));
        }
        if raw.alignment.is_power_of_two() && raw.alignment <= 1 << 30 {
            self.alignment = self.alignment.max(raw.alignment);
        }
        let mut protection = Protection::empty();
        protection.set(Protection::EXECUTE, raw.flags & 1 != 0);
        protection.set(Protection::WRITE, raw.flags & 2 != 0);
        protection.set(Protection::READ, raw.flags & 7 != 0);
        self.segments.push(Segment {
            address: raw.address,
            offset: raw.offset,
            file_bytes: raw.file_bytes,
            memory_bytes: raw.memory_bytes,
            protection,
        });
        Ok(())
    }

    /// The address at which a byte of the file is mapped.
    fn address_of(&self, offset: u64) -> Option<u64> {
        self.segments
            .iter()
            .find(|segment| segment.offset <= offset && offset - segment.offset < segment.file_bytes)
            .map(|segment| segment.address + (offset - segment.offset))
    }

    /// The pages that all segments together span, before the program is moved: first address and length.
    pub fn extent(&self) -> (u64, u64) {
        let page = PAGE_SIZE as u64;
        let first = self.segments[0].address / page * page;
        let end = self.segments.iter().map(|segment| segment.address + segment.memory_bytes).max().unwrap_or(first);
        (first, end.next_multiple_of(page) - first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header_bytes(kind: u16) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        bytes.extend(kind.to_le_bytes());
        bytes.extend(62_u16.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        for value in [0x1040_u64, 64, 0] {
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend([0; 4]);
        for value in [64_u16, 56, 1, 64, 0, 0] {
            bytes.extend(value.to_le_bytes());
        }
        bytes
    }

    fn segment_bytes(fields: [u64; 6]) -> Vec<u8> {
        let mut bytes = 1_u32.to_le_bytes().to_vec();
        bytes.extend(5_u32.to_le_bytes());
        for value in fields {
            bytes.extend(value.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn a_sound_program_is_described() {
        let header = Header::parse(&header_bytes(3)).unwrap();
        let program = Program::parse(header, &segment_bytes([0, 0, 0, 0x2345, 0x3000, 0x20_0000])).unwrap();
        assert_eq!((program.program_headers_address, program.alignment), (64, 0x20_0000));
        assert_eq!(program.extent(), (0, 0x3000));
        assert_eq!(program.segments[0].protection, Protection::READ | Protection::EXECUTE);
    }

    #[test]
    fn unsound_segments_are_refused() {
        let header = Header::parse(&header_bytes(2)).unwrap();
        let cases = [
            [0, 1 << 47, 0, 1, 1, 1],
            [0, 0x1000, 0, 1, u64::MAX, 1],
            [0, 0x1000, 0, 2, 1, 1],
            [1, 0x1000, 0, 1, 1, 1],
            [u64::MAX - 4095, 0x1000, 0, 1, 1, 1],
            [0, 0x1000, 0, 0, 0, 1],
        ];
        for case in cases {
            assert!(Program::parse(header, &segment_bytes(case)).is_err(), "{case:#x?}");
        }
    }

    #[test]
    fn no_mutation_of_a_program_makes_the_reader_panic() {
        let mut sound = header_bytes(3);
        sound.extend(segment_bytes([0, 0, 0, 0x2345, 0x3000, 0x1000]));
        for position in 0..sound.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = sound.clone();
                bytes[position] = value;
                if let Ok(header) = Header::parse(&bytes)
                    && let Ok(program) = Program::parse(header, &bytes[HEADER_BYTES..])
                {
                    let (first, length) = program.extent();
                    assert!(first + length <= ADDRESS_MAX + PAGE_SIZE as u64);
                }
            }
        }
        for length in 0..sound.len() {
            let _ = Header::parse(&sound[..length]);
        }
    }
}
