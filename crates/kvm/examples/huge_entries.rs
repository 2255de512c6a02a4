//! What 2 MiB entries in the guest's page tables would spare: the first touch of pages that are mapped and backed
//! already, through 4 KiB and through 2 MiB entries, where the host's pages are small and where they are huge. The
//! machine here is its own, of a page table and a loop: the platform's address spaces have 4 KiB entries only.
//!
//! `cargo run --release -p calypte-kvm --example huge_entries`

#![allow(clippy::print_stdout, reason = "the figures are its output")]

use std::ptr;
use std::time::{Duration, Instant};

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

const PAGE: u64 = 4096;
/// Bytes that a 2 MiB entry translates.
const HUGE: u64 = 2 << 20;
/// The touched pages, at the same guest-virtual and guest-physical address.
const DATA: u64 = 1 << 30;
/// Bytes of them: 8 MiB.
const DATA_BYTES: u64 = 4 * HUGE;
/// Times that everything is done; the fastest counts.
const ROUNDS: usize = 50;

/// Guest-physical addresses of the tables, level 4 first, and of the code.
const ROOT: u64 = 0x1000;
const LEVEL_3: u64 = 0x2000;
/// Of the first GiB, which holds the code.
const LEVEL_2_CODE: u64 = 0x3000;
const LEVEL_1_CODE: u64 = 0x4000;
/// Of the second, which holds the data.
const LEVEL_2_DATA: u64 = 0x5000;
const LEVEL_1_DATA: u64 = 0x6000;
const CODE: u64 = 0x10000;
/// Bytes of tables and code.
const SYSTEM_BYTES: u64 = 0x20000;

/// Present, writable, for user code, accessed, dirty.
const ENTRY: u64 = 0x67;
/// The entry translates 2 MiB.
const ENTRY_HUGE: u64 = 1 << 7;

/// Adds one to a word of each of rcx pages from rdi on. The end is a fault that nobody handles.
const TOUCH: [u8; 13] = [
    0x48, 0x83, 0x07, 0x01, // add qword ptr [rdi], 1
    0x48, 0x01, 0xf7, // add rdi, rsi
    0x48, 0xff, 0xc9, // dec rcx
    0x75, 0xf4, // jnz to the start
    0xf4, // hlt
];

/// Pages of this process that are the guest's too, until the process ends.
#[derive(Clone, Copy)]
struct Pages {
    start: *mut u8,
    length: usize,
}

impl Pages {
    /// Zeros at an address that is aligned for huge pages.
    fn new(length: u64) -> Self {
        let padded = usize::try_from(length + HUGE).expect("64-bit host");
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address of the kernel's choice affects no existing memory.
        let base = unsafe { libc::mmap(ptr::null_mut(), padded, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        assert_ne!(base, libc::MAP_FAILED, "no memory");
        let start = base.wrapping_byte_add(base.align_offset(HUGE as usize));
        Self { start: start.cast(), length: length as usize }
    }

    fn advise(self, advice: libc::c_int) {
        // SAFETY: the range is inside the mapping, to which no references exist.
        let result = unsafe { libc::madvise(self.start.cast(), self.length, advice) };
        assert_eq!(result, 0, "madvise: {}", std::io::Error::last_os_error());
    }

    /// Makes KVM forget its translations to the pages.
    fn flush(self) {
        for protection in [libc::PROT_WRITE, libc::PROT_READ | libc::PROT_WRITE] {
            // SAFETY: the range is inside the mapping, which nobody reads meanwhile: the only virtual CPU is stopped.
            let result = unsafe { libc::mprotect(self.start.cast(), self.length, protection) };
            assert_eq!(result, 0, "mprotect: {}", std::io::Error::last_os_error());
        }
    }

    fn word(self, offset: u64) -> *mut u64 {
        assert!(offset + 8 <= self.length as u64 && offset.is_multiple_of(8), "a word inside the mapping");
        self.start.wrapping_add(offset as usize).cast()
    }

    fn set(self, offset: u64, value: u64) {
        // SAFETY: the word is inside the mapping and aligned (checked by `word`), and the only virtual CPU is stopped.
        unsafe { self.word(offset).write_volatile(value) };
    }

    fn get(self, offset: u64) -> u64 {
        // SAFETY: as in `set`.
        unsafe { self.word(offset).read_volatile() }
    }

    /// Shows the pages to the guest at a guest-physical address.
    fn add_to(self, vm: &VmFd, slot: u32, address: u64) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: address,
            memory_size: self.length as u64,
            userspace_addr: self.start as u64,
        };
        // SAFETY: the pages are never unmapped, and nothing else is reached through the slot.
        unsafe { vm.set_user_memory_region(region) }.expect("a memory slot");
    }
}

/// Tables, which translate the data by entries of one of the two sizes, and the code.
fn system_pages(is_huge: bool) -> Pages {
    let pages = Pages::new(SYSTEM_BYTES);
    let entry = |table: u64, index: u64, value: u64| pages.set(table + index * 8, value | ENTRY);
    entry(ROOT, 0, LEVEL_3);
    entry(LEVEL_3, 0, LEVEL_2_CODE);
    entry(LEVEL_3, 1, LEVEL_2_DATA);
    entry(LEVEL_2_CODE, 0, LEVEL_1_CODE);
    entry(LEVEL_1_CODE, CODE / PAGE, CODE);
    for number in 0..DATA_BYTES / HUGE {
        if is_huge {
            entry(LEVEL_2_DATA, number, (DATA + number * HUGE) | ENTRY_HUGE);
        } else {
            entry(LEVEL_2_DATA, number, LEVEL_1_DATA + number * PAGE);
        }
    }
    for number in 0..DATA_BYTES / PAGE {
        entry(LEVEL_1_DATA, number, DATA + number * PAGE);
    }
    let mut code = TOUCH.to_vec();
    code.resize(TOUCH.len().next_multiple_of(8), 0);
    for (number, word) in code.chunks_exact(8).enumerate() {
        pages.set(CODE + number as u64 * 8, u64::from_le_bytes(word.try_into().expect("8 bytes")));
    }
    pages
}

/// User code in 64-bit mode.
fn user_mode(start: kvm_sregs) -> kvm_sregs {
    let data = kvm_segment {
        limit: u32::MAX,
        selector: 0x23,
        type_: 3,
        present: 1,
        dpl: 3,
        db: 1,
        s: 1,
        g: 1,
        ..kvm_segment::default()
    };
    let code = kvm_segment { selector: 0x2b, type_: 11, db: 0, l: 1, ..data };
    let mut sregs = kvm_sregs { cs: code, ds: data, es: data, fs: data, gs: data, ss: data, ..start };
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (0x8005_0033, ROOT, 0x620, 0xd01);
    (sregs.gdt.limit, sregs.idt.limit) = (0, 0);
    sregs
}

/// Has the guest touch every page of the data once.
fn touch(vcpu: &mut VcpuFd, start: kvm_sregs) -> Duration {
    vcpu.set_sregs(&user_mode(start)).expect("user mode");
    let registers =
        kvm_regs { rdi: DATA, rsi: PAGE, rcx: DATA_BYTES / PAGE, rip: CODE, rflags: 2, ..kvm_regs::default() };
    vcpu.set_regs(&registers).expect("registers");
    let started = Instant::now();
    let exit = vcpu.run().expect("the guest runs");
    assert!(matches!(exit, VcpuExit::Shutdown), "{exit:?}");
    started.elapsed()
}

/// The shortest time of a touch of all data, µs for a page.
fn measure(kvm: &Kvm, is_huge: bool, is_host_huge: bool) -> f64 {
    let vm = kvm.create_vm().expect("a virtual machine");
    system_pages(is_huge).add_to(&vm, 0, 0);
    let data = Pages::new(DATA_BYTES);
    data.advise(if is_host_huge { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE });
    data.advise(libc::MADV_POPULATE_WRITE);
    data.add_to(&vm, 1, DATA);
    let mut vcpu = vm.create_vcpu(0).expect("a virtual CPU");
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).expect("what the host supports");
    vcpu.set_cpuid2(&cpuid).expect("what the host supports");
    let start = vcpu.get_sregs().expect("registers");
    let times = (0..ROUNDS).map(|_| {
        data.flush();
        touch(&mut vcpu, start)
    });
    let shortest = times.min().unwrap_or_default();
    for page in 0..DATA_BYTES / PAGE {
        assert_eq!(data.get(page * PAGE), ROUNDS as u64, "page {page} was not touched once in each round");
    }
    shortest.as_secs_f64() * 1e6 / (DATA_BYTES / PAGE) as f64
}

fn main() {
    let kvm = Kvm::new().expect("this needs a usable /dev/kvm");
    for (host, is_host_huge) in [("small", false), ("huge", true)] {
        for (size, is_huge) in [("4 KiB", false), ("2 MiB", true)] {
            let time = measure(&kvm, is_huge, is_host_huge);
            println!("a page touched first, entries of {size}, {host} pages of the host {time:>10.3} µs");
        }
    }
}
