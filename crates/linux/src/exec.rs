//! Starting programs: maps an ELF file and its interpreter into a new address space and builds the first stack (System V ABI
//! AMD64 supplement, "Process Initialization"; `execve(2)`).

use calypte_platform::{PAGE_SIZE, Protection, Registers};

use crate::elf::{ElfError, HEADER_BYTES, Header, Program, Segment};
use crate::errno::Errno;
use crate::file::Mapping;
use crate::frames::Frames;
use crate::fs;
use crate::kernel::Kernel;
use crate::limits::{Resource, STACK_BYTES};
use crate::mm::{Fault, MapRequest, Placement, Source, Space, SpaceId};
use crate::process::{Pid, ProgramFacts};

/// Longest single argument or environment string (`MAX_ARG_STRLEN`).
pub const STRING_BYTES_MAX: usize = 128 * 1024;
/// Most bytes of arguments and environment together, pointers included: a quarter of the stack.
pub const STRINGS_BYTES_MAX: usize = (STACK_BYTES / 4) as usize;
/// Most `#!` lines that lead to each other.
const SCRIPTS_MAX: usize = 4;
/// Bytes of a `#!` line that count (`BINPRM_BUF_SIZE`).
const SCRIPT_LINE_BYTES: usize = 256;
/// Where programs that may be anywhere are put, plus a random distance.
const MOVABLE_BASE: u64 = 0x5555_5555_4000;
/// Random distances are of so many pages: 28 bits as on Linux.
const RANDOM_PAGES_MASK: u64 = (1 << 28) - 1;
/// Room between the stack and the mappings below it.
const STACK_GAP: u64 = 1 << 20;
/// Random distance of the heap from the program, in pages: up to 32 MiB.
const BREAK_PAGES_MASK: u64 = (1 << 13) - 1;
/// CPUID leaf 1, EDX, of every x86-64 processor (`AT_HWCAP`).
const HARDWARE_CAPABILITIES: u64 = 0x078b_fbff;
/// `AT_MINSIGSTKSZ`: the largest signal frame of today's processors with their widest vector and matrix state, rounded up.
const SIGNAL_STACK_BYTES: u64 = 12 * 1024;
/// `AT_CLKTCK`.
pub const TICKS_PER_SECOND: u64 = 100;
/// The length of one.
pub const NS_PER_TICK: u64 = 1_000_000_000 / TICKS_PER_SECOND;
const PLATFORM: &[u8] = b"x86_64\0";
const RFLAGS_AT_START: u64 = 0x202;

/// A program ready to run.
pub(crate) struct Loaded {
    pub(crate) space: SpaceId,
    pub(crate) registers: Registers,
    pub(crate) facts: ProgramFacts,
    /// Name of the program's thread.
    pub(crate) name: Vec<u8>,
}

/// A file to be run, and how it was named.
pub(crate) struct Origin {
    pub(crate) file: fs::ExecutableFile,
    /// What `AT_EXECFN` and the interpreter of a script are told.
    pub(crate) name: Vec<u8>,
    /// Whether the interpreter of a script will find it under that name.
    pub(crate) is_reachable: bool,
}

/// An executable file, checked.
struct Image {
    mapping: Mapping,
    path: Vec<u8>,
    program: Program,
}

/// Where a program ended up.
struct Placed {
    bias: u64,
    entry: u64,
    end: u64,
}

/// Opens a program by a path relative to the process's working directory.
pub(crate) fn open(kernel: &Kernel, pid: Pid, path: &[u8]) -> Result<Origin, Errno> {
    Ok(Origin { file: open_executable(kernel, pid, path)?, name: path.to_vec(), is_reachable: true })
}

/// Loads a program for a process. The process is not changed.
pub(crate) fn load(
    kernel: &mut Kernel,
    pid: Pid,
    origin: Origin,
    mut arguments: Vec<Vec<u8>>,
    environment: &[Vec<u8>],
) -> Result<Loaded, Errno> {
    let path = origin.name.clone();
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(&path).to_vec();
    let image = open_image(kernel, pid, origin, &mut arguments)?;
    check_strings(&arguments, environment)?;
    let interpreter = match image.program.interpreter {
        Some((offset, length)) => Some(open_interpreter(kernel, pid, &image, offset, length)?),
        None => None,
    };
    let machine = kernel.machine.clone();
    let space = kernel.spaces.create(&*machine).map_err(|error| {
        tracing::warn!(%error, "no address space for a program");
        Errno::ENOMEM
    })?;
    let strings = Strings { path: &path, arguments: &arguments, environment };
    match fill(kernel, pid, space, &image, interpreter.as_ref(), &strings) {
        Ok((registers, facts)) => Ok(Loaded { space, registers, facts, name }),
        Err(errno) => {
            kernel.spaces.release(space, &mut kernel.frames);
            Err(errno)
        }
    }
}

/// Opens a program, following `#!` lines; `arguments` become those of the interpreter.
fn open_image(kernel: &mut Kernel, pid: Pid, origin: Origin, arguments: &mut Vec<Vec<u8>>) -> Result<Image, Errno> {
    let Origin { mut file, name: mut path, is_reachable } = origin;
    for _ in 0..=SCRIPTS_MAX {
        let mut start = [0; SCRIPT_LINE_BYTES];
        let length = read_at(&file.mapping, &mut kernel.frames, 0, &mut start)?;
        let start = &start[..length];
        let Some(line) = start.strip_prefix(b"#!") else {
            let program = read_program(&file.mapping, &mut kernel.frames)?;
            return Ok(Image { mapping: file.mapping, path: file.path, program });
        };
        let (interpreter, argument) = script_line(line).ok_or(Errno::ENOEXEC)?;
        if !is_reachable {
            return Err(Errno::ENOENT);
        }
        let mut replaced = vec![interpreter.to_vec()];
        replaced.extend(argument.map(<[u8]>::to_vec));
        replaced.push(path);
        replaced.extend(arguments.drain(..).skip(1));
        *arguments = replaced;
        path = interpreter.to_vec();
        file = open_executable(kernel, pid, &path)?;
    }
    Err(Errno::ELOOP)
}

/// The interpreter and its argument, the rest of the line.
fn script_line(line: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let end = line.iter().position(|byte| *byte == b'\n').unwrap_or(line.len());
    let line = line[..end].trim_ascii();
    let (interpreter, argument) = match line.iter().position(|byte| matches!(byte, b' ' | b'\t')) {
        Some(space) => (&line[..space], Some(line[space..].trim_ascii())),
        None => (line, None),
    };
    (!interpreter.is_empty()).then_some((interpreter, argument))
}

/// Opens an executable file by a path relative to the working directory.
fn open_executable(kernel: &Kernel, pid: Pid, path: &[u8]) -> Result<fs::ExecutableFile, Errno> {
    let base = kernel.processes.get(&pid).ok_or(Errno::ESRCH)?.cwd();
    fs::open_executable(kernel, pid, &base, path)
}

fn read_program(mapping: &Mapping, frames: &mut Frames) -> Result<Program, Errno> {
    let mut start = [0; HEADER_BYTES];
    let length = read_at(mapping, frames, 0, &mut start)?;
    let header = Header::parse(&start[..length]).map_err(refuse)?;
    let mut headers = vec![0; header.program_headers_bytes()];
    let length = read_at(mapping, frames, header.program_headers_offset, &mut headers)?;
    if length < headers.len() {
        return Err(refuse(ElfError::Malformed("program headers past the end of the file")));
    }
    Program::parse(header, &headers).map_err(refuse)
}

fn refuse(error: ElfError) -> Errno {
    tracing::debug!(%error, "program refused");
    Errno::ENOEXEC
}

fn open_interpreter(kernel: &mut Kernel, pid: Pid, image: &Image, offset: u64, length: u64) -> Result<Image, Errno> {
    let mut path = vec![0; usize::try_from(length).map_err(|_| Errno::ENOEXEC)?];
    if read_at(&image.mapping, &mut kernel.frames, offset, &mut path)? < path.len() || path.pop() != Some(0) {
        return Err(Errno::ENOEXEC);
    }
    let file = open_executable(kernel, pid, &path)?;
    let program = read_program(&file.mapping, &mut kernel.frames).map_err(|errno| match errno {
        Errno::ENOEXEC => Errno::ELIBBAD,
        other => other,
    })?;
    Ok(Image { mapping: file.mapping, path: file.path, program })
}

/// Reads from a file: fewer bytes only at its end.
fn read_at(mapping: &Mapping, frames: &mut Frames, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    let mut page = [0; PAGE_SIZE];
    let mut done = 0;
    while done < buffer.len() {
        let at = offset.checked_add(done as u64).ok_or(Errno::ENOEXEC)?;
        let length = mapping.read_pages(at / PAGE_SIZE as u64, frames, &mut page)?;
        let from = (at % PAGE_SIZE as u64) as usize;
        let count = length.saturating_sub(from).min(buffer.len() - done);
        if count == 0 {
            break;
        }
        buffer[done..done + count].copy_from_slice(&page[from..from + count]);
        done += count;
    }
    Ok(done)
}

fn check_strings(arguments: &[Vec<u8>], environment: &[Vec<u8>]) -> Result<(), Errno> {
    let mut total = 0;
    for text in arguments.iter().chain(environment) {
        if text.len() >= STRING_BYTES_MAX {
            return Err(Errno::E2BIG);
        }
        total += text.len() + 1 + size_of::<u64>();
    }
    if total > STRINGS_BYTES_MAX { Err(Errno::E2BIG) } else { Ok(()) }
}

fn fill(
    kernel: &mut Kernel,
    pid: Pid,
    id: SpaceId,
    image: &Image,
    interpreter: Option<&Image>,
    strings: &Strings<'_>,
) -> Result<(Registers, ProgramFacts), Errno> {
    let mut random = [0; 48];
    crate::random::fill(&mut random);
    let distance = |index: usize, mask: u64| {
        let bytes = random[16 + index * 8..24 + index * 8].try_into().expect("eight bytes");
        (u64::from_le_bytes(bytes) & mask) * PAGE_SIZE as u64
    };
    let process = &kernel.processes[&pid];
    let stack_bytes = process.limits.get(Resource::Stack).soft.clamp(STACK_BYTES / 8, STACK_BYTES);
    let credentials = process.credentials.clone();
    let frames = &mut kernel.frames;
    let space = kernel.spaces.space(id);
    let stack_top = space.highest() - PAGE_SIZE as u64 - distance(0, RANDOM_PAGES_MASK >> 6);
    let stack_bottom = (stack_top - stack_bytes) / PAGE_SIZE as u64 * PAGE_SIZE as u64;
    let mut protection = Protection::READ | Protection::WRITE;
    protection.set(Protection::EXECUTE, image.program.has_executable_stack);
    space.map(frames, area(stack_bottom, stack_top - stack_bottom, Placement::Fixed, protection, "[stack]"))?;
    space.set_mmap_top(stack_bottom - STACK_GAP - distance(1, RANDOM_PAGES_MASK >> 6));

    let main_base = MOVABLE_BASE + distance(2, RANDOM_PAGES_MASK >> 6);
    let main = place(space, frames, image, Some(main_base))?;
    let runtime = match interpreter {
        Some(interpreter) => Some(place(space, frames, interpreter, None)?),
        None => None,
    };
    space.set_break(main.end + distance(3, BREAK_PAGES_MASK));
    let vdso = kernel.vdso.map(space, frames)?;

    let mut builder = StackBuilder::new(&random[..16], strings);
    builder.auxiliary = vec![
        (33, vdso),
        (16, HARDWARE_CAPABILITIES),
        (6, PAGE_SIZE as u64),
        (17, TICKS_PER_SECOND),
        (3, image.program.program_headers_address.wrapping_add(main.bias)),
        (4, crate::elf::PROGRAM_HEADER_BYTES as u64),
        (5, u64::from(image.program.header.program_header_count)),
        (7, runtime.as_ref().map_or(0, |placed| placed.bias)),
        (8, 0),
        (9, main.entry),
        (11, u64::from(credentials.uid)),
        (12, u64::from(credentials.uid_effective)),
        (13, u64::from(credentials.gid)),
        (14, u64::from(credentials.gid_effective)),
        (23, 0),
        (26, 0),
        (51, SIGNAL_STACK_BYTES),
    ];
    let (stack_pointer, mut facts) = builder.write(space, frames, stack_top)?;
    facts.path.clone_from(&image.path);
    // It is kept as long as the process runs the program, and there may be many processes.
    let kept = facts.arguments.len() + facts.environment.len() + facts.auxiliary.len() + facts.path.len();
    facts.memory = Some(kernel.files.buffers().reserve(kept)?);
    let registers = Registers {
        rip: runtime.map_or(main.entry, |placed| placed.entry),
        rsp: stack_pointer,
        rflags: RFLAGS_AT_START,
        ..Registers::default()
    };
    Ok((registers, facts))
}

fn area(address: u64, length: u64, placement: Placement, protection: Protection, name: &'static str) -> MapRequest {
    MapRequest {
        address,
        length,
        placement,
        protection,
        is_shared: false,
        may_write: true,
        source: Source::Anonymous,
        populate: false,
        grows_down: false,
        is_locked: false,
        top: u64::MAX,
        name,
    }
}

/// Maps a program's segments, at `base` or anywhere if it may be moved.
fn place(space: &mut Space, frames: &mut Frames, image: &Image, base: Option<u64>) -> Result<Placed, Errno> {
    let program = &image.program;
    let (first, length) = program.extent();
    let bias = if program.header.is_movable {
        // A trial mapping finds room for all segments together, with room to align.
        let room = length.checked_add(2 * program.alignment).ok_or(Errno::ENOMEM)?;
        let trial = area(base.unwrap_or(0), room, Placement::Hint, Protection::empty(), "");
        let found = space.map(frames, trial)?;
        space.unmap(frames, found, room)?;
        found.next_multiple_of(program.alignment).wrapping_sub(first / program.alignment * program.alignment)
    } else {
        0
    };
    for segment in &program.segments {
        map_segment(space, frames, image, segment, segment.address.wrapping_add(bias))?;
    }
    Ok(Placed {
        bias,
        entry: program.header.entry.wrapping_add(bias),
        end: first.wrapping_add(bias).wrapping_add(length),
    })
}

fn map_segment(
    space: &mut Space,
    frames: &mut Frames,
    image: &Image,
    segment: &Segment,
    address: u64,
) -> Result<(), Errno> {
    let page = PAGE_SIZE as u64;
    let in_page = address % page;
    let start = address - in_page;
    let file_end = address.checked_add(segment.file_bytes).ok_or(Errno::ENOEXEC)?;
    let memory_end = address.checked_add(segment.memory_bytes).ok_or(Errno::ENOEXEC)?;
    let mut mapped_end = start;
    if segment.file_bytes > 0 {
        let source = Source::File { mapping: image.mapping.clone(), offset: segment.offset - in_page };
        let request = MapRequest { source, ..area(start, file_end - start, Placement::Fixed, segment.protection, "") };
        space.map(frames, request)?;
        mapped_end = file_end.next_multiple_of(page);
        let zeros = mapped_end.min(memory_end) - file_end;
        if zeros > 0 && segment.protection.contains(Protection::WRITE) {
            space
                .write(frames, file_end, &vec![0; (mapped_end - file_end) as usize])
                .map_err(|fault| if fault == Fault::OutOfMemory { Errno::ENOMEM } else { Errno::ENOEXEC })?;
        }
    }
    if memory_end > mapped_end {
        space.map(frames, area(mapped_end, memory_end - mapped_end, Placement::Fixed, segment.protection, ""))?;
    }
    Ok(())
}

/// What a program is told.
struct Strings<'a> {
    path: &'a [u8],
    arguments: &'a [Vec<u8>],
    environment: &'a [Vec<u8>],
}

/// Lays out the first stack: strings at the top, below them the vectors that point to them, lowest the argument count.
struct StackBuilder {
    strings: Vec<u8>,
    arguments: Vec<usize>,
    environment: Vec<usize>,
    path: usize,
    random: usize,
    platform: usize,
    argument_bytes: std::ops::Range<usize>,
    environment_bytes: std::ops::Range<usize>,
    auxiliary: Vec<(u64, u64)>,
}

impl StackBuilder {
    fn new(random: &[u8], texts: &Strings<'_>) -> Self {
        let Strings { path, arguments, environment } = *texts;
        let mut strings = random.to_vec();
        let platform = strings.len();
        strings.extend_from_slice(PLATFORM);
        let mut add_all = |texts: &[Vec<u8>]| {
            let first = strings.len();
            let positions: Vec<usize> = texts
                .iter()
                .map(|text| {
                    let at = strings.len();
                    strings.extend_from_slice(text);
                    strings.push(0);
                    at
                })
                .collect();
            (positions, first..strings.len())
        };
        let (arguments, argument_bytes) = add_all(arguments);
        let (environment, environment_bytes) = add_all(environment);
        let path_at = strings.len();
        strings.extend_from_slice(path);
        strings.push(0);
        Self {
            strings,
            arguments,
            environment,
            path: path_at,
            random: 0,
            platform,
            argument_bytes,
            environment_bytes,
            auxiliary: Vec::new(),
        }
    }

    /// Writes the stack below `top`; the stack pointer.
    fn write(self, space: &mut Space, frames: &mut Frames, top: u64) -> Result<(u64, ProgramFacts), Errno> {
        let base = (top - 8 - self.strings.len() as u64) / 16 * 16;
        let at = |position: usize| base + position as u64;
        let mut auxiliary: Vec<u64> = self.auxiliary.iter().flat_map(|(kind, value)| [*kind, *value]).collect();
        auxiliary.extend([25, at(self.random), 31, at(self.path), 15, at(self.platform), 0, 0]);
        let mut words = vec![self.arguments.len() as u64];
        words.extend(self.arguments.iter().map(|position| at(*position)));
        words.push(0);
        words.extend(self.environment.iter().map(|position| at(*position)));
        words.push(0);
        words.extend(&auxiliary);
        let bytes_of = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        let stack_pointer = (base - words.len() as u64 * 8) / 16 * 16;
        let written = space
            .write(frames, base, &self.strings)
            .and_then(|()| space.write(frames, stack_pointer, &bytes_of(&words)));
        written.map_err(|fault| if fault == Fault::OutOfMemory { Errno::ENOMEM } else { Errno::E2BIG })?;
        let facts = ProgramFacts {
            path: Vec::new(),
            arguments: self.strings[self.argument_bytes].to_vec(),
            environment: self.strings[self.environment_bytes].to_vec(),
            auxiliary: bytes_of(&auxiliary),
            stack_start: stack_pointer,
            memory: None,
        };
        Ok((stack_pointer, facts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn script_lines_have_an_interpreter_and_one_argument() {
        type Expected = Option<(&'static [u8], Option<&'static [u8]>)>;
        let cases: [(&[u8], Expected); 5] = [
            (b"/bin/sh\nrest", Some((b"/bin/sh", None))),
            (b" /usr/bin/env  python3 -u \n", Some((b"/usr/bin/env", Some(b"python3 -u")))),
            (b"/bin/sh", Some((b"/bin/sh", None))),
            (b"\n/bin/sh", None),
            (b"  ", None),
        ];
        for (line, expected) in cases {
            assert_eq!(script_line(line), expected, "{line:?}");
        }
    }
}
