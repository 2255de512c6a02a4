//! Page-table pages: used again without bringing old translations back, and not without end.

use calypte_platform::{Access, Exit, Frame, FrameRange, PlatformError, Registers};
use calypte_testkit::platform::guest::{DATA, PAGE, SPARE, WRITE, new_space, start_registers};
use calypte_testkit::program;

use crate::guest::guest_with_tables;

program!(read: "mov rax, [rdi]", "syscall");

/// More address spaces, one after the other, than the arena has room for at once: its chunks are recycled.
///
/// KVM forgets old shadow pages by itself when there are many for the size of the memory. This machine has enough memory
/// for it to keep all that the arena can hand out, and the test fails when the arena deletes no slots.
#[test]
fn recycled_tables_bring_no_translations_back() {
    let name = "recycled_tables_bring_no_translations_back";
    let Some(mut guest) = guest_with_tables(name, read(), 2 << 20, 100) else { return };
    guest.memory.grow(2 << 20).unwrap();
    let frame_of = |round: u32| Frame(SPARE.0 + round % 29);
    for round in 0..29 {
        guest.memory.copy_in(frame_of(round), 0, &u64::from(round).to_le_bytes());
    }
    let mut kept = Vec::new();
    for round in 0..5000_u32 {
        let mut space = new_space(&*guest.machine, read());
        // A different place each time, so that tables take different parts.
        let address = (u64::from(round % 5) << 39 | u64::from(round % 7) << 21) + DATA + PAGE;
        space.map(address, FrameRange::one(frame_of(round)), WRITE).unwrap();
        let mut registers = Registers { rdi: address, ..start_registers() };
        assert_eq!(guest.vcpu.run(space.token(), &mut registers).unwrap(), Exit::SystemCall, "round {round}");
        assert_eq!(registers.rax, u64::from(round % 29), "round {round}");
        // What an earlier user of these tables had mapped is not there.
        for other in (0..35).filter(|other| other % 5 != round % 5 || other % 7 != round % 7) {
            let old = (u64::from(other % 5) << 39 | u64::from(other % 7) << 21) + DATA + PAGE;
            if other % 11 == round % 11 {
                let mut registers = Registers { rdi: old, ..start_registers() };
                let exit = guest.vcpu.run(space.token(), &mut registers).unwrap();
                assert!(matches!(exit, Exit::PageFault { .. }), "round {round}: {exit:?} at {old:#x}");
            }
        }
        // Some live longer than others.
        if round % 97 == 0 {
            kept.push((round, address, space));
        }
        if kept.len() > 8 {
            kept.swap_remove(round as usize % 8);
        }
    }
    for (round, address, space) in &kept {
        let mut registers = Registers { rdi: *address, ..start_registers() };
        assert_eq!(guest.vcpu.run(space.token(), &mut registers).unwrap(), Exit::SystemCall);
        assert_eq!(registers.rax, u64::from(round % 29));
    }
}

#[test]
fn running_out_of_tables_changes_nothing() {
    let name = "running_out_of_tables_changes_nothing";
    let Some(mut guest) = guest_with_tables(name, read(), 32768, 20) else { return };
    let frames = FrameRange { first: SPARE, count: 2 };
    let mut failures = 0;
    for step in 1..40_u64 {
        // The last page of one table and the first of the next, far from everything else.
        let address = step << 40 | ((2 << 20) - PAGE);
        match guest.space.map(address, frames, WRITE) {
            Ok(()) => {}
            Err(PlatformError::OutOfTables) => {
                failures += 1;
                guest.registers = Registers { rdi: address, ..start_registers() };
                assert_eq!(guest.run(), Exit::PageFault { address, access: Access::Read });
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(failures > 30, "{failures}");
    guest.registers = Registers { rdi: DATA, ..start_registers() };
    assert_eq!(guest.run(), Exit::SystemCall, "what was mapped still is");
    assert!(matches!(guest.machine.create_address_space(), Err(PlatformError::OutOfTables)));
}

/// One address space maps and unmaps at more places than there are tables for at once. What stays mapped stays, what was
/// unmapped is gone, and what is mapped is what the processor finds.
#[test]
fn tables_that_say_nothing_make_room() {
    let name = "tables_that_say_nothing_make_room";
    let Some(mut guest) = guest_with_tables(name, read(), 2 << 20, 40) else { return };
    guest.memory.grow(2 << 20).unwrap();
    let frame_of = |round: u64| Frame(SPARE.0 + (round % 29) as u32);
    for round in 0..29 {
        guest.memory.copy_in(frame_of(round), 0, &round.to_le_bytes());
    }
    // Neighbours share upper tables, and places come again when their tables have gone.
    let address_of = |round: u64| (1 + round % 97) << 39 | (round % 3) << 30 | (round % 5) << 21;
    let mut kept: Vec<u64> = Vec::new();
    for round in 0..6000_u64 {
        let address = address_of(round);
        if kept.iter().any(|&other| address_of(other) == address) {
            continue;
        }
        guest.space.map(address, FrameRange::one(frame_of(round)), WRITE).unwrap();
        kept.push(round);
        for &mapped in &kept {
            guest.registers = Registers { rdi: address_of(mapped), ..start_registers() };
            assert_eq!(guest.run(), Exit::SystemCall, "round {round}, mapped in round {mapped}");
            assert_eq!(guest.registers.rax, mapped % 29, "round {round}, mapped in round {mapped}");
        }
        if kept.len() > 4 {
            let gone = address_of(kept.swap_remove(round as usize % 3));
            guest.space.unmap(gone, PAGE);
            guest.registers = Registers { rdi: gone, ..start_registers() };
            assert_eq!(guest.run(), Exit::PageFault { address: gone, access: Access::Read }, "round {round}");
        }
    }
}
