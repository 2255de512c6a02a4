//! Headers of ELF files.

#![no_main]

use calypte_linux::elf::{HEADER_BYTES, Header, Program};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = Header::parse(&bytes[..bytes.len().min(HEADER_BYTES)]) else { return };
    let wanted = header.program_headers_bytes();
    let from = usize::try_from(header.program_headers_offset).unwrap_or(usize::MAX).min(bytes.len());
    let headers = &bytes[from..bytes.len().min(from.saturating_add(wanted))];
    if headers.len() < wanted {
        return;
    }
    if let Ok(program) = Program::parse(header, headers) {
        let (first, length) = program.extent();
        assert!(first.checked_add(length).is_some(), "segments wrap around: {program:?}");
    }
});
