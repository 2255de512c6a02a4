//! What a guest without guest code does, read from the fuzzer's bytes.

use calypte_linux::table;
use calypte_platform::{Access, Exit, Registers};

use crate::guest::{PATH_OFFSETS, PATHS, SCRATCH, SCRATCH_BYTES};

/// Most steps of one script: enough to get anywhere, few enough that an input takes milliseconds.
pub const STEPS_MAX: usize = 200;
/// Results that later arguments can refer to.
const RESULTS: usize = 8;
/// Number of `exit_group`.
const EXIT_GROUP: u64 = 231;

/// Bytes that have not been read yet.
#[derive(Debug)]
pub struct Script {
    bytes: Vec<u8>,
    at: usize,
    steps: usize,
    results: [u64; RESULTS],
}

/// The bytes of a step that writes to scratch memory, at an offset.
pub fn write(offset: u16, content: &[u8]) -> Vec<u8> {
    let length =
        u8::try_from(content.len()).ok().filter(|length| *length < 64).expect("a step writes 63 bytes at most");
    [&[0][..], &offset.to_be_bytes(), &[length], content].concat()
}

/// The bytes of a step that makes a system call.
pub fn call(number: u16, arguments: &[u64]) -> Vec<u8> {
    let mut bytes = vec![38];
    bytes.extend(number.to_be_bytes());
    for index in 0..6 {
        bytes.push(255);
        bytes.extend(arguments.get(index).copied().unwrap_or(0).to_be_bytes());
    }
    bytes
}

/// One step.
#[derive(Debug)]
pub enum Step {
    /// The program writes to its scratch memory, at an offset.
    Write(u64, Vec<u8>),
    /// The program needs the monitor.
    Exit(Exit),
}

impl Script {
    /// A script of these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), at: 0, steps: 0, results: [0; RESULTS] }
    }

    /// Whether all of it has been done.
    pub fn is_over(&self) -> bool {
        self.at >= self.bytes.len() || self.steps >= STEPS_MAX
    }

    /// How many steps have been made.
    pub fn steps(&self) -> usize {
        self.steps
    }

    fn byte(&mut self) -> u8 {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte
    }

    fn number(&mut self, bytes: usize) -> u64 {
        (0..bytes).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    /// The next step; `registers` are those of the thread, with the result of its last call, and become those of the exit.
    pub fn step(&mut self, registers: &mut Registers) -> Step {
        self.results[self.steps % RESULTS] = registers.rax;
        self.steps += 1;
        if self.is_over() {
            registers.rax = EXIT_GROUP;
            return Step::Exit(Exit::SystemCall);
        }
        match self.byte() {
            0..=31 => {
                let offset = self.number(2) % SCRATCH_BYTES;
                let length = usize::from(self.byte()) % 64;
                Step::Write(offset, (0..length).map(|_| self.byte()).collect())
            }
            32..=35 => {
                let access = [Access::Read, Access::Write, Access::Execute][usize::from(self.byte()) % 3];
                Step::Exit(Exit::PageFault { address: self.argument(), access })
            }
            36 => Step::Exit(Exit::Exception { vector: self.byte() % 32, error_code: self.number(2) }),
            37 => Step::Exit(Exit::Preempted),
            38..=47 => {
                registers.rax = self.number(2);
                self.arguments(registers)
            }
            _ => {
                let all = table::all().count();
                let chosen = self.number(2) as usize % all;
                registers.rax = table::all().nth(chosen).map_or(0, |call| u64::from(call.number));
                self.arguments(registers)
            }
        }
    }

    fn arguments(&mut self, registers: &mut Registers) -> Step {
        registers.rdi = self.argument();
        registers.rsi = self.argument();
        registers.rdx = self.argument();
        registers.r10 = self.argument();
        registers.r8 = self.argument();
        registers.r9 = self.argument();
        Step::Exit(Exit::SystemCall)
    }

    /// A value as programs give them: a small number, a flag, a result, an address, anything.
    fn argument(&mut self) -> u64 {
        match self.byte() {
            kind @ 0..=63 => u64::from(kind % 16),
            64..=95 => u64::from(self.byte()),
            96..=111 => 1 << (self.byte() % 64),
            112..=127 => self.results[usize::from(self.byte()) % RESULTS],
            128..=143 => PATHS + PATH_OFFSETS[usize::from(self.byte()) % PATH_OFFSETS.len()],
            144..=191 => SCRATCH + self.number(2) % SCRATCH_BYTES,
            192..=199 => (SCRATCH + self.number(2) % SCRATCH_BYTES) & !0xfff,
            200..=207 => self.number(2) << 12,
            208..=215 => 0_u64.wrapping_sub(u64::from(self.byte())),
            216..=223 => u64::from(self.byte()) << 32 | self.number(4),
            224..=231 => 0x7fff_ffff_f000 - self.number(2),
            _ => self.number(8),
        }
    }
}
