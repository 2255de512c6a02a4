//! A machine with one virtual CPU and a few pages, and programs for it.

use std::sync::Arc;

use calypte_kvm::{Config, create_machine, probe};
use calypte_platform::{
    AddressSpace, Exit, Frame, FrameRange, Machine, Memory, PAGE_SIZE, Protection, Registers, Vcpu,
};

/// Where programs are mapped.
pub(crate) const CODE: u64 = 0x40_0000;
/// Where a page of data is mapped; its neighbours are not.
pub(crate) const DATA: u64 = 0x60_0000;
/// The frame behind [`DATA`].
pub(crate) const DATA_FRAME: Frame = Frame(16);
/// The top of a mapped page of stack.
pub(crate) const STACK_TOP: u64 = 0x80_0000;
/// Frames that no mapping uses at first start here.
pub(crate) const SPARE: Frame = Frame(32);
/// Bytes of a page as an address difference.
pub(crate) const PAGE: u64 = PAGE_SIZE as u64;

pub(crate) const READ: Protection = Protection::READ;
pub(crate) const WRITE: Protection = Protection::READ.union(Protection::WRITE);
pub(crate) const EXECUTE: Protection = Protection::READ.union(Protection::EXECUTE);

/// Defines a function that returns the machine code of some assembly lines (which may use labels 2 to 7). The code must
/// not depend on its address.
macro_rules! program {
    ($name:ident: $($line:literal),+ $(,)?) => {
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
pub(crate) use program;

/// Whether there is a machine to test with; says so if not.
pub(crate) fn has_kvm(test: &str) -> bool {
    match probe() {
        Ok(()) => true,
        Err(reason) => {
            eprintln!("SKIP {test}: {reason}");
            false
        }
    }
}

pub(crate) struct Guest {
    pub(crate) machine: Arc<dyn Machine>,
    pub(crate) memory: Arc<dyn Memory>,
    pub(crate) space: Box<dyn AddressSpace>,
    pub(crate) vcpu: Box<dyn Vcpu>,
    pub(crate) registers: Registers,
}

impl Guest {
    /// A guest about to run `code`, or none if the host has no KVM.
    pub(crate) fn new(test: &str, code: &[u8]) -> Option<Self> {
        Self::with_config(test, code, &Config::new(32768))
    }

    pub(crate) fn with_config(test: &str, code: &[u8], config: &Config) -> Option<Self> {
        if !has_kvm(test) {
            return None;
        }
        let machine = create_machine(config).unwrap();
        let memory = machine.memory();
        memory.grow(SPARE.0 + 32).unwrap();
        let space = new_space(&*machine, code);
        let vcpu = machine.create_vcpu().unwrap();
        Some(Self { machine, memory, space, vcpu, registers: start_registers() })
    }

    /// Runs until the next exit.
    pub(crate) fn run(&mut self) -> Exit {
        self.vcpu.run(self.space.token(), &mut self.registers).unwrap()
    }

    /// Runs `code` from its beginning.
    pub(crate) fn run_program(&mut self, code: &[u8]) -> Exit {
        self.memory.copy_in(Frame(0), 0, code);
        self.registers = start_registers();
        self.run()
    }

    pub(crate) fn read_u64(&self, frame: Frame, offset: usize) -> u64 {
        let mut bytes = [0; 8];
        self.memory.copy_out(frame, offset, &mut bytes);
        u64::from_le_bytes(bytes)
    }
}

/// An address space with code, data and stack in the usual places.
pub(crate) fn new_space(machine: &dyn Machine, code: &[u8]) -> Box<dyn AddressSpace> {
    assert!(code.len() <= PAGE_SIZE);
    machine.memory().copy_in(Frame(0), 0, code);
    let mut space = machine.create_address_space().unwrap();
    space.map(CODE, FrameRange::one(Frame(0)), EXECUTE).unwrap();
    space.map(STACK_TOP - PAGE, FrameRange::one(Frame(1)), WRITE).unwrap();
    space.map(DATA, FrameRange::one(DATA_FRAME), WRITE).unwrap();
    space
}

/// Registers of a program at its beginning.
pub(crate) fn start_registers() -> Registers {
    Registers { rip: CODE, rsp: STACK_TOP, ..Registers::default() }
}
