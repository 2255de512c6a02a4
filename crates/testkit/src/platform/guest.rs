//! A machine with one virtual CPU and a few pages, and programs for it.

use std::sync::Arc;

use calypte_platform::{
    AddressSpace, Exit, Frame, FrameRange, Machine, Memory, PAGE_SIZE, Protection, Registers, Vcpu,
};

use super::Platform;

/// Where programs are mapped.
pub const CODE: u64 = 0x40_0000;
/// Where a page of data is mapped; its neighbours are not.
pub const DATA: u64 = 0x60_0000;
/// The frame behind [`DATA`].
pub const DATA_FRAME: Frame = Frame(16);
/// The top of a mapped page of stack.
pub const STACK_TOP: u64 = 0x80_0000;
/// Frames that no mapping uses at first start here.
pub const SPARE: Frame = Frame(32);
/// Bytes of a page as an address difference.
pub const PAGE: u64 = PAGE_SIZE as u64;

/// Readable.
pub const READ: Protection = Protection::READ;
/// Readable and writable.
pub const WRITE: Protection = Protection::READ.union(Protection::WRITE);
/// Readable and executable.
pub const EXECUTE: Protection = Protection::READ.union(Protection::EXECUTE);

/// Defines a function that returns the machine code of some assembly lines (which may use labels 2 to 7). The code must
/// not depend on its address.
#[macro_export]
macro_rules! program {
    ($name:ident: $($line:literal),+ $(,)?) => {
        #[allow(unsafe_code)]
        fn $name() -> &'static [u8] {
            let (start, end): (*const u8, *const u8);
            // SAFETY: the code is jumped over; only the two output registers change.
            unsafe {
                std::arch::asm!(
                    "lea {start}, [rip + 8f]",
                    "lea {end}, [rip + 9f]",
                    "jmp 9f",
                    "8:",
                    $($line,)+
                    "9:",
                    start = out(reg) start,
                    end = out(reg) end,
                    options(nomem, nostack, preserves_flags),
                );
            }
            // SAFETY: the two labels enclose the bytes of the program in this binary's code.
            unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
        }
    };
}
pub use crate::program;

/// A guest and the state of its one thread.
pub struct Guest {
    /// The machine.
    pub machine: Arc<dyn Machine>,
    /// Its frames.
    pub memory: Arc<dyn Memory>,
    /// Its address space, as [`new_space`] makes it.
    pub space: Box<dyn AddressSpace>,
    /// Its virtual CPU.
    pub vcpu: Box<dyn Vcpu>,
    /// The thread.
    pub registers: Registers,
}

impl Guest {
    /// A guest about to run `code`, or none, with a message, where the platform is missing.
    pub fn new(platform: &Platform, test: &str, code: &[u8]) -> Option<Self> {
        platform.machine(test, 32768).map(|machine| Self::on(machine, code))
    }

    /// A guest on a machine, about to run `code`.
    pub fn on(machine: Arc<dyn Machine>, code: &[u8]) -> Self {
        let memory = machine.memory();
        memory.grow(SPARE.0 + 32).unwrap();
        let space = new_space(&*machine, code);
        let vcpu = machine.create_vcpu().unwrap();
        Self { machine, memory, space, vcpu, registers: start_registers() }
    }

    /// Runs until the next exit.
    pub fn run(&mut self) -> Exit {
        self.vcpu.run(self.space.token(), &mut self.registers).unwrap()
    }

    /// Runs `code` from its beginning.
    pub fn run_program(&mut self, code: &[u8]) -> Exit {
        self.memory.copy_in(Frame(0), 0, code);
        self.registers = start_registers();
        self.run()
    }

    /// A word of a frame.
    pub fn read_u64(&self, frame: Frame, offset: usize) -> u64 {
        let mut bytes = [0; 8];
        self.memory.copy_out(frame, offset, &mut bytes);
        u64::from_le_bytes(bytes)
    }
}

/// An address space with code, data and stack in the usual places.
pub fn new_space(machine: &dyn Machine, code: &[u8]) -> Box<dyn AddressSpace> {
    assert!(code.len() <= PAGE_SIZE);
    machine.memory().copy_in(Frame(0), 0, code);
    let mut space = machine.create_address_space().unwrap();
    space.map(CODE, FrameRange::one(Frame(0)), EXECUTE).unwrap();
    space.map(STACK_TOP - PAGE, FrameRange::one(Frame(1)), WRITE).unwrap();
    space.map(DATA, FrameRange::one(DATA_FRAME), WRITE).unwrap();
    space
}

/// Registers of a program at its beginning.
pub fn start_registers() -> Registers {
    Registers { rip: CODE, rsp: STACK_TOP, ..Registers::default() }
}
