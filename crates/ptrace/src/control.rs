//! What the stubs of one virtual CPU share with it: the code that they run for us, the calls it makes, and the stack on
//! which the host's kernel describes exceptions.
//!
//! A stub may read the first two and write the last. One stub of a virtual CPU runs at a time, and what is left on the
//! stack is erased once read, so no process of the guest finds registers of another there.

use std::arch::global_asm;

use calypte_platform::{PAGE_SIZE, PlatformError};

use crate::layout::{CALLS, CODE, CONTROL_BYTES, RESERVED_END, SIGNAL_STACK};
use crate::shared::SharedFile;

// The first byte is the handler of signals and a breakpoint; the loop makes the calls of which `r12` is the first and
// `r13` the number, until one fails, and ends at a breakpoint. The compiler may split this crate into several objects, so the
// labels are symbols for all of them, and for nobody outside this program.
global_asm!(
    ".globl calypte_ptrace_stub_start, calypte_ptrace_stub_calls, calypte_ptrace_stub_return, calypte_ptrace_stub_end",
    ".hidden calypte_ptrace_stub_start, calypte_ptrace_stub_calls, calypte_ptrace_stub_return, calypte_ptrace_stub_end",
    ".pushsection .rodata.calypte_ptrace_stub, \"a\", @progbits",
    "calypte_ptrace_stub_start:",
    "int3",
    "calypte_ptrace_stub_calls:",
    "2: test r13, r13",
    "jz 3f",
    "mov rax, [r12]",
    "mov rdi, [r12 + 8]",
    "mov rsi, [r12 + 16]",
    "mov rdx, [r12 + 24]",
    "mov r10, [r12 + 32]",
    "mov r8, [r12 + 40]",
    "mov r9, [r12 + 48]",
    "syscall",
    "calypte_ptrace_stub_return:",
    "cmp rax, -4095",
    "jae 3f",
    "add r12, 56",
    "dec r13",
    "jmp 2b",
    "3: int3",
    "calypte_ptrace_stub_end:",
    ".popsection",
);

unsafe extern "C" {
    #[link_name = "calypte_ptrace_stub_start"]
    safe static STUB_START: u8;
    #[link_name = "calypte_ptrace_stub_calls"]
    safe static STUB_CALLS: u8;
    #[link_name = "calypte_ptrace_stub_return"]
    safe static STUB_RETURN: u8;
    #[link_name = "calypte_ptrace_stub_end"]
    safe static STUB_END: u8;
}

/// The breakpoint that is also the signal handler.
pub(crate) const BREAKPOINT: u64 = CODE;

fn address_of(label: &u8) -> u64 {
    CODE + (std::ptr::from_ref(label) as u64 - std::ptr::from_ref(&STUB_START) as u64)
}

/// Where the loop of calls begins.
pub(crate) fn loop_address() -> u64 {
    address_of(&STUB_CALLS)
}

/// The address after the loop's `syscall`: the only one from which the host serves a stub.
pub(crate) fn return_address() -> u64 {
    address_of(&STUB_RETURN)
}

fn code() -> &'static [u8] {
    let length = (address_of(&STUB_END) - CODE) as usize;
    // SAFETY: the labels enclose the bytes of the code in this binary's read-only data.
    unsafe { std::slice::from_raw_parts(&raw const STUB_START, length) }
}

/// A system call that a stub makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    /// Its number.
    pub(crate) number: libc::c_long,
    /// Its arguments.
    pub(crate) arguments: [u64; 6],
}

const CALL_WORDS: usize = 7;
const WORD_BYTES: usize = size_of::<u64>();
/// Most calls that can be made at once.
pub(crate) const CALLS_MAX: usize = PAGE_SIZE / (CALL_WORDS * WORD_BYTES);
/// Where in the page of calls data for a call can be. Fewer calls can then be made with it.
const DATA_OFFSET: usize = PAGE_SIZE / 2;

/// The shared pages of one virtual CPU.
#[derive(Debug)]
pub(crate) struct Control(SharedFile);

/// What the host's kernel says of an exception.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExceptionFrame {
    /// The vector.
    pub(crate) vector: u64,
    /// The error code.
    pub(crate) error_code: u64,
    /// The address of a page fault.
    pub(crate) address: u64,
}

impl Control {
    /// Shared pages with the code in them.
    pub(crate) fn new() -> Result<Self, PlatformError> {
        let file = SharedFile::new(c"calypte-control", CONTROL_BYTES as usize)?;
        file.write(0, code());
        Ok(Self(file))
    }

    /// The file, laid out as it is mapped from [`CODE`] on.
    pub(crate) fn file(&self) -> &SharedFile {
        &self.0
    }

    /// Says what calls are to be made.
    pub(crate) fn write_calls(&self, calls: &[Call]) {
        assert!(calls.len() <= CALLS_MAX, "{} calls do not fit", calls.len());
        let words = calls.iter().flat_map(|call| {
            let number = call.number.cast_unsigned();
            std::iter::once(number).chain(call.arguments)
        });
        let bytes: Vec<u8> = words.flat_map(u64::to_ne_bytes).collect();
        self.0.write(CALLS - CODE, &bytes);
    }

    /// Puts data beside the calls, up to half a page; its address in a stub.
    pub(crate) fn write_data(&self, data: &[u8]) -> u64 {
        assert!(data.len() <= PAGE_SIZE - DATA_OFFSET, "{} bytes do not fit", data.len());
        let address = CALLS + DATA_OFFSET as u64;
        self.0.write(address - CODE, data);
        address
    }

    /// Words at the start of the page of calls, for a stub in preparation.
    pub(crate) fn read_words(&self) -> [u64; 2] {
        let mut bytes = [[0; WORD_BYTES]; 2];
        self.0.read(CALLS - CODE, bytes.as_flattened_mut());
        bytes.map(u64::from_ne_bytes)
    }

    /// Writes what [`Control::read_words`] reads.
    pub(crate) fn write_words(&self, words: [u64; 2]) {
        self.0.write(CALLS - CODE, words.map(u64::to_ne_bytes).as_flattened());
    }

    /// Takes the description of an exception off the stack whose pointer the handler was entered with. None if that is not
    /// where the kernel puts it.
    pub(crate) fn take_frame(&self, stack_pointer: u64) -> Option<ExceptionFrame> {
        /// Of `struct rt_sigframe` (`arch/x86/include/asm/sigframe.h`): return address, then `struct ucontext` with flags,
        /// link and stack before `struct sigcontext`, in which error code, vector, mask and address follow 19 words.
        const ERROR_CODE: u64 = 8 + 16 + 24 + 19 * 8;
        const WORDS: usize = 4;
        let frame = stack_pointer.checked_add(ERROR_CODE).filter(|_| stack_pointer >= SIGNAL_STACK)?;
        if frame + (WORDS * WORD_BYTES) as u64 > RESERVED_END {
            return None;
        }
        let mut bytes = [[0; WORD_BYTES]; WORDS];
        self.0.read(frame - CODE, bytes.as_flattened_mut());
        let [error_code, vector, _, address] = bytes.map(u64::from_ne_bytes);
        self.0.clear(stack_pointer - CODE, (RESERVED_END - stack_pointer) as usize);
        Some(ExceptionFrame { vector, error_code, address })
    }
}
