//! Mappings are in force when the call that changes them returns.
//!
//! The tests of removed and downgraded mappings touch the page first, so that the processor and KVM hold a translation:
//! they fail when an implementation leaves that translation in force.

#![allow(missing_docs, reason = "the names of the tests say what they check")]

use std::sync::mpsc;

use calypte_platform::{Access, Exit, Frame, FrameRange, Protection, Registers};

use super::Platform;
use super::guest::{
    CODE, DATA, DATA_FRAME, EXECUTE, Guest, PAGE, READ, SPARE, WRITE, new_space, program, start_registers,
};

program!(read_write: "2: mov rax, [rdi]", "syscall", "mov [rdi], rsi", "syscall", "jmp 2b");
const WRITE_STEP: u64 = CODE + 5;

fn read_fault(address: u64) -> Exit {
    Exit::PageFault { address, access: Access::Read }
}

fn write_fault(address: u64) -> Exit {
    Exit::PageFault { address, access: Access::Write }
}

/// A guest that has read and written the first word of its data page.
fn touched(platform: &Platform, test: &str) -> Option<Guest> {
    let mut guest = Guest::new(platform, test, read_write())?;
    (guest.registers.rdi, guest.registers.rsi) = (DATA, 11);
    assert_eq!(guest.run(), Exit::SystemCall);
    assert_eq!(guest.run(), Exit::SystemCall);
    assert_eq!(guest.read_u64(DATA_FRAME, 0), 11);
    Some(guest)
}

fn try_read(guest: &mut Guest) -> Exit {
    guest.registers.rip = CODE;
    guest.run()
}

fn try_write(guest: &mut Guest, value: u64) -> Exit {
    guest.registers.rip = WRITE_STEP;
    guest.registers.rsi = value;
    guest.run()
}

pub fn a_removed_mapping_is_gone_at_once(platform: &Platform) {
    let Some(mut guest) = touched(platform, "a_removed_mapping_is_gone_at_once") else { return };
    guest.space.unmap(DATA, PAGE);
    assert_eq!(try_read(&mut guest), read_fault(DATA));
    assert_eq!(try_write(&mut guest, 12), write_fault(DATA));
    assert_eq!(guest.read_u64(DATA_FRAME, 0), 11);
}

pub fn a_page_made_read_only_refuses_writes_at_once(platform: &Platform) {
    let Some(mut guest) = touched(platform, "a_page_made_read_only_refuses_writes_at_once") else { return };
    guest.space.protect(DATA, PAGE, READ);
    assert_eq!(try_write(&mut guest, 12), write_fault(DATA));
    assert_eq!(guest.read_u64(DATA_FRAME, 0), 11);
    assert_eq!(try_read(&mut guest), Exit::SystemCall);
    assert_eq!(guest.registers.rax, 11);
}

pub fn a_page_made_writable_accepts_writes_at_once(platform: &Platform) {
    let Some(mut guest) = touched(platform, "a_page_made_writable_accepts_writes_at_once") else { return };
    for value in 20..40 {
        guest.space.protect(DATA, PAGE, READ);
        assert_eq!(try_read(&mut guest), Exit::SystemCall);
        assert_eq!(try_write(&mut guest, value), write_fault(DATA));
        guest.space.protect(DATA, PAGE, WRITE);
        assert_eq!(try_write(&mut guest, value), Exit::SystemCall);
        assert_eq!(guest.read_u64(DATA_FRAME, 0), value);
    }
}

pub fn a_page_without_access_keeps_its_content(platform: &Platform) {
    let Some(mut guest) = touched(platform, "a_page_without_access_keeps_its_content") else { return };
    guest.space.protect(DATA, PAGE, Protection::empty());
    assert_eq!(try_read(&mut guest), read_fault(DATA));
    assert_eq!(try_write(&mut guest, 12), write_fault(DATA));
    guest.space.protect(DATA, PAGE, READ);
    assert_eq!(try_read(&mut guest), Exit::SystemCall);
    assert_eq!(guest.registers.rax, 11);
}

pub fn another_frame_at_the_same_address_is_seen_at_once(platform: &Platform) {
    let Some(mut guest) = touched(platform, "another_frame_at_the_same_address_is_seen_at_once") else { return };
    for round in 0..20 {
        let frame = Frame(SPARE.0 + round);
        guest.memory.copy_in(frame, 0, &u64::from(round + 100).to_le_bytes());
        guest.space.unmap(DATA, PAGE);
        guest.space.map(DATA, FrameRange::one(frame), READ).unwrap();
        assert_eq!(try_read(&mut guest), Exit::SystemCall);
        assert_eq!(guest.registers.rax, u64::from(round + 100));
        assert_eq!(try_write(&mut guest, 1), write_fault(DATA));
    }
}

program!(call_data: "call rdi", "syscall");
program!(just_return: "ret");

pub fn a_page_made_non_executable_refuses_fetches_at_once(platform: &Platform) {
    let name = "a_page_made_non_executable_refuses_fetches_at_once";
    let Some(mut guest) = Guest::new(platform, name, call_data()) else { return };
    guest.memory.copy_in(DATA_FRAME, 0, just_return());
    for _ in 0..3 {
        guest.space.protect(DATA, PAGE, EXECUTE);
        guest.registers = Registers { rdi: DATA, ..start_registers() };
        assert_eq!(guest.run(), Exit::SystemCall);
        guest.space.protect(DATA, PAGE, WRITE);
        guest.registers = Registers { rdi: DATA, ..start_registers() };
        assert_eq!(guest.run(), Exit::PageFault { address: DATA, access: Access::Execute });
    }
}

program!(
    touch_pages: // rdi: first address, rsi: bytes from one to the next, rcx: how many
    "2: add qword ptr [rdi], 1",
    "add rdi, rsi",
    "dec rcx",
    "jnz 2b",
    "ud2",
);

pub fn ranges_across_tables_are_mapped_and_removed_whole(platform: &Platform) {
    let name = "ranges_across_tables_are_mapped_and_removed_whole";
    let Some(mut guest) = Guest::new(platform, name, touch_pages()) else { return };
    guest.memory.grow(4096).unwrap();
    // 1200 pages around a border of 1 GiB: four leaf tables, two tables above.
    let (start, count) = ((5 << 30) - 600 * PAGE, 1200);
    let frames = FrameRange { first: Frame(1000), count };
    guest.space.map(start, frames, WRITE).unwrap();
    let walk = Registers { rdi: start, rsi: PAGE, rcx: u64::from(count), ..start_registers() };
    guest.registers = walk;
    assert_eq!(guest.run(), Exit::Exception { vector: 6, error_code: 0 });
    for frame in frames.iter() {
        assert_eq!(guest.read_u64(frame, 0), 1, "{frame:?}");
    }
    guest.space.protect(start + PAGE, u64::from(count - 2) * PAGE, READ);
    for (page, is_writable) in [(0, true), (1, false), (600, false), (count - 2, false), (count - 1, true)] {
        let address = start + u64::from(page) * PAGE;
        guest.registers = Registers { rdi: address, rcx: 1, ..walk };
        let expected = if is_writable { Exit::Exception { vector: 6, error_code: 0 } } else { write_fault(address) };
        assert_eq!(guest.run(), expected, "page {page}");
    }
    // Nothing but the range itself is in the way of a huge unmap.
    guest.space.unmap(DATA + PAGE, guest.machine.user_end() - DATA - PAGE);
    for page in [0, 1, 600, count - 1] {
        let address = start + u64::from(page) * PAGE;
        guest.registers = Registers { rdi: address, rcx: 1, ..walk };
        assert!(matches!(guest.run(), Exit::PageFault { address: at, .. } if at == address), "page {page}");
    }
    guest.registers = Registers { rdi: DATA, rcx: 1, ..walk };
    assert_eq!(guest.run(), Exit::Exception { vector: 6, error_code: 0 });
}

pub fn address_spaces_are_separate(platform: &Platform) {
    let Some(mut guest) = touched(platform, "address_spaces_are_separate") else { return };
    let mut other = new_space(&*guest.machine, read_write());
    other.unmap(DATA, PAGE);
    assert_eq!(try_read(&mut guest), Exit::SystemCall, "still mapped here");
    other.map(DATA, FrameRange::one(SPARE), WRITE).unwrap();
    guest.memory.copy_in(SPARE, 0, &22_u64.to_le_bytes());
    let mut registers = Registers { rdi: DATA, ..start_registers() };
    for _ in 0..10 {
        registers.rip = CODE;
        assert_eq!(guest.vcpu.run(other.token(), &mut registers).unwrap(), Exit::SystemCall);
        assert_eq!(registers.rax, 22);
        assert_eq!(try_read(&mut guest), Exit::SystemCall);
        assert_eq!(guest.registers.rax, 11);
    }
    drop(other);
    assert_eq!(try_read(&mut guest), Exit::SystemCall);
}

program!(spin_writing: "mov rsp, rdi", "2: inc rax", "mov [rdi], rax", "jmp 2b");

pub fn a_mapping_disappears_under_a_running_virtual_cpu(platform: &Platform) {
    let name = "a_mapping_disappears_under_a_running_virtual_cpu";
    let Some(mut guest) = Guest::new(platform, name, spin_writing()) else { return };
    let (machine, token) = (guest.machine.clone(), guest.space.token());
    let (exits, exits_received) = mpsc::channel();
    let (go_ons, go_ons_received) = mpsc::channel::<()>();
    let runner = std::thread::spawn(move || {
        let mut vcpu = machine.create_vcpu().unwrap();
        let mut registers = Registers { rdi: DATA, ..start_registers() };
        loop {
            exits.send(vcpu.run(token, &mut registers).unwrap()).unwrap();
            if go_ons_received.recv().is_err() {
                return;
            }
        }
    });
    let value = |guest: &Guest| guest.read_u64(DATA_FRAME, 0);
    let wait_for_writes = |guest: &Guest| {
        let seen = value(guest);
        while value(guest) == seen {
            std::thread::yield_now();
        }
    };
    for round in 0..300 {
        wait_for_writes(&guest);
        if round % 2 == 0 {
            guest.space.protect(DATA, PAGE, READ);
        } else {
            guest.space.unmap(DATA, PAGE);
        }
        let last = value(&guest);
        assert_eq!(exits_received.recv().unwrap(), write_fault(DATA), "round {round}");
        assert_eq!(value(&guest), last, "round {round}: a write after the change");
        if round % 2 == 0 {
            guest.space.protect(DATA, PAGE, WRITE);
        } else {
            guest.space.map(DATA, FrameRange::one(DATA_FRAME), WRITE).unwrap();
        }
        go_ons.send(()).unwrap();
    }
    guest.space.unmap(DATA, PAGE);
    exits_received.recv().unwrap();
    drop(go_ons);
    runner.join().unwrap();
}

pub fn flushes_do_not_disturb_a_running_virtual_cpu(platform: &Platform) {
    let Some(mut guest) = Guest::new(platform, "flushes_do_not_disturb_a_running_virtual_cpu", spin_writing()) else {
        return;
    };
    // Neighbours of the frame that the guest writes to: their flush is joined to one range with it.
    let neighbours = [Frame(DATA_FRAME.0 - 1), Frame(DATA_FRAME.0 + 1)];
    for (page, frame) in (1..).zip(neighbours) {
        guest.space.map(DATA + page * PAGE, FrameRange::one(frame), WRITE).unwrap();
    }
    let (machine, token) = (guest.machine.clone(), guest.space.token());
    let runner = std::thread::spawn(move || {
        let mut vcpu = machine.create_vcpu().unwrap();
        let mut registers = Registers { rdi: DATA, ..start_registers() };
        let exit = vcpu.run(token, &mut registers).unwrap();
        (exit, registers.rax)
    });
    while guest.read_u64(DATA_FRAME, 0) == 0 {
        std::thread::yield_now();
    }
    for round in 0..1000 {
        let protection = if round % 2 == 0 { READ } else { WRITE };
        guest.space.protect(DATA + PAGE, 2 * PAGE, protection);
    }
    guest.space.unmap(DATA, PAGE);
    let (exit, count) = runner.join().unwrap();
    assert_eq!(exit, write_fault(DATA));
    // The last increment was not stored.
    assert_eq!(guest.read_u64(DATA_FRAME, 0), count - 1);
}
