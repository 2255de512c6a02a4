//! What first touches of guest pages, changes of mappings and exits cost on this host: the parts of a program's time that
//! KVM and the monitor take, each by itself. Where KVM shadows the guest's page tables, the first touch of a page that is
//! mapped and backed already is KVM's alone: no line of the monitor runs.
//!
//! `cargo run --release -p calypte-kvm --example first_touch`

#![allow(clippy::print_stdout, reason = "the figures are its output")]

use std::time::{Duration, Instant};

use calypte_kvm::{Config, create_machine};
use calypte_platform::{Exit, Frame, FrameRange, Registers};
use calypte_testkit::platform::guest::{CODE, Guest, PAGE, READ, WRITE, program, start_registers};

/// Pages touched in one go: 8 MiB.
const PAGES: u32 = 2048;
/// Pages of a chunk as allocators map them: 256 KiB.
const CHUNK_PAGES: u32 = 64;
/// Times that everything is done; the fastest counts.
const ROUNDS: usize = 50;
/// Where the touched pages are: aligned for huge pages.
const AREA: u64 = 64 << 30;
/// The first of their frames.
const FRAMES: Frame = Frame(512 * 8);

program!(
    touch_pages: // rdi: first address, rsi: bytes from one to the next, rcx: how many
    "2: add qword ptr [rdi], 1",
    "add rdi, rsi",
    "dec rcx",
    "jnz 2b",
    "syscall",
);

/// The shortest, in µs: what others on the machine take is no part of it.
fn fastest(times: impl IntoIterator<Item = Duration>) -> f64 {
    times.into_iter().min().unwrap_or_default().as_secs_f64() * 1e6
}

fn frames(first: u32, count: u32) -> FrameRange {
    FrameRange { first: Frame(FRAMES.0 + first), count }
}

/// Has the guest touch pages from `address` on.
fn touch(guest: &mut Guest, address: u64, pages: u32) -> Duration {
    guest.registers = Registers { rdi: address, rsi: PAGE, rcx: u64::from(pages), rip: CODE, ..start_registers() };
    let started = Instant::now();
    assert_eq!(guest.run(), Exit::SystemCall);
    started.elapsed()
}

fn timed(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

/// Repeats `round`, which gives a time: the shortest, µs.
fn measure(guest: &mut Guest, mut round: impl FnMut(&mut Guest, usize) -> Duration) -> f64 {
    fastest((0..ROUNDS).map(|number| round(guest, number)))
}

fn main() {
    let machine = create_machine(&Config::new(1 << 18)).expect("this needs a usable /dev/kvm");
    let mut guest = Guest::on(machine, touch_pages());
    guest.memory.grow(FRAMES.0 + 4 * PAGES).unwrap();
    guest.memory.prepare(frames(0, 4 * PAGES));
    let all = frames(0, PAGES);
    let bytes = |pages: u32| u64::from(pages) * PAGE;

    let exit = measure(&mut guest, |guest, _| (0..10).map(|_| touch(guest, CODE + 0x40_0000 - PAGE, 1)).sum());
    println!("{:<76} {:>8.2} µs", "a system call: exit and entry", exit / 10.0);
    let again = measure(&mut guest, |guest, _| {
        guest.space.map(AREA, all, WRITE).unwrap();
        touch(guest, AREA, PAGES);
        let time = touch(guest, AREA, PAGES);
        guest.space.unmap(AREA, bytes(PAGES));
        time
    });
    println!("{:<76} {:>8.2} µs", "a page touched again", again / f64::from(PAGES));
    let cold = measure(&mut guest, |guest, round| {
        let address = AREA + (round as u64 + 1) * (1 << 30);
        guest.space.map(address, all, WRITE).unwrap();
        let time = touch(guest, address, PAGES);
        guest.space.unmap(address, bytes(PAGES));
        time
    });
    println!("{:<76} {:>8.2} µs", "a page touched first, of 8 MiB at an address never used", cold / f64::from(PAGES));
    let warm = measure(&mut guest, |guest, _| {
        guest.space.map(AREA + PAGE, all, WRITE).unwrap();
        let time = touch(guest, AREA + PAGE, PAGES);
        guest.space.unmap(AREA + PAGE, bytes(PAGES));
        time
    });
    println!("{:<76} {:>8.2} µs", "a page touched first, of 8 MiB at an address used before", warm / f64::from(PAGES));
    for (name, pages) in [("4 KiB", 1), ("256 KiB", CHUNK_PAGES), ("1 MiB", 4 * CHUNK_PAGES), ("8 MiB", PAGES)] {
        let range = frames(0, pages);
        let (mut touches, mut maps) = (Vec::new(), Vec::new());
        let unmap = measure(&mut guest, |guest, _| {
            maps.push(timed(|| guest.space.map(AREA + PAGE, range, WRITE).unwrap()));
            touches.push(touch(guest, AREA + PAGE, pages));
            timed(|| guest.space.unmap(AREA + PAGE, bytes(pages)))
        });
        println!("{:<76} {:>8.2} µs", format!("map of {name}"), fastest(maps));
        println!("{:<76} {:>8.2} µs", format!("touch of {name}, a page"), fastest(touches) / f64::from(pages));
        println!("{:<76} {:>8.2} µs", format!("unmap of {name}, touched"), unmap);
        let protect = measure(&mut guest, |guest, _| {
            guest.space.map(AREA + PAGE, range, WRITE).unwrap();
            touch(guest, AREA + PAGE, pages);
            let time = timed(|| guest.space.protect(AREA + PAGE, bytes(pages), READ));
            guest.space.unmap(AREA + PAGE, bytes(pages));
            time
        });
        println!("{:<76} {:>8.2} µs", format!("protect of {name}, touched"), protect);
        let zero = measure(&mut guest, |guest, _| timed(|| guest.memory.zero(range)));
        println!("{:<76} {:>8.2} µs", format!("zeros into {name}"), zero);
    }
    let scattered = measure(&mut guest, |guest, round| {
        let address = |number: u32| AREA + (round as u64 * 64 + u64::from(number) + 1000) * (7 << 30);
        for number in 0..16 {
            guest.space.map(address(number), frames(number * CHUNK_PAGES, CHUNK_PAGES), WRITE).unwrap();
        }
        let time = (0..16).map(|number| touch(guest, address(number), CHUNK_PAGES)).sum();
        for number in 0..16 {
            guest.space.unmap(address(number), bytes(CHUNK_PAGES));
        }
        time
    });
    let pages = f64::from(16 * CHUNK_PAGES);
    println!("{:<76} {:>8.2} µs", "touch of 256 KiB at an address far from all others, a page", scattered / pages);
}
