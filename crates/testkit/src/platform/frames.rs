//! The guest's frames as the monitor uses them.

#![allow(missing_docs, reason = "the names of the tests say what they check")]

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use calypte_platform::{FilePages, Frame, FrameRange, Memory, PAGE_SIZE, PlatformError};

use super::Platform;

pub fn frames_are_zero_until_written_and_after_discarding(platform: &Platform) {
    let Some(machine) = platform.machine("frames_are_zero_until_written_and_after_discarding", 1 << 20) else { return };
    let memory = machine.memory();
    assert_eq!(memory.frame_count(), 0);
    memory.grow(1).unwrap();
    let first_count = memory.frame_count();
    memory.grow(first_count + 1).unwrap();
    assert!(memory.frame_count() > first_count);
    let last = Frame(memory.frame_count() - 1);
    let read = |frame: Frame| {
        let mut page = [1; PAGE_SIZE];
        memory.copy_out(frame, 0, &mut page);
        page
    };
    assert_eq!(read(last), [0; PAGE_SIZE]);
    let clearings: [fn(&dyn Memory, FrameRange); 2] = [
        |memory, frames| memory.zero(frames),
        |memory, frames| {
            memory.discard(frames);
        },
    ];
    for clear in clearings {
        for count in [1, 3, 100] {
            let frames = FrameRange { first: Frame(last.0 - 200), count };
            let around = [Frame(frames.first.0 - 1), Frame(frames.first.0 + count)];
            frames.iter().chain(around).for_each(|frame| memory.copy_in(frame, 0, &[7; PAGE_SIZE]));
            clear(&*memory, frames);
            frames.iter().for_each(|frame| assert_eq!(read(frame), [0; PAGE_SIZE]));
            around.into_iter().for_each(|frame| assert_eq!(read(frame), [7; PAGE_SIZE]));
        }
    }
}

pub fn frames_have_the_pages_of_a_file_until_they_are_written(platform: &Platform) {
    const NAME: &str = "frames_have_the_pages_of_a_file_until_they_are_written";
    let content: Vec<u8> = (1..=40_u8).flat_map(|page| [page; PAGE_SIZE]).collect();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&content).unwrap();
    // Two machines share the file. Runs of one page, of few, and of many; out of order in the file.
    let run = |first, count, page: u64| FilePages {
        frames: FrameRange { first: Frame(first), count },
        position: page * PAGE_SIZE as u64,
    };
    let pages = [run(2, 1, 39), run(5, 3, 0), run(10, 30, 5)];
    let (Some(one), Some(other)) = (platform.machine(NAME, 100), platform.machine(NAME, 100)) else { return };
    let byte = |memory: &dyn Memory, frame| {
        let mut page = [0; PAGE_SIZE];
        memory.copy_out(Frame(frame), 0, &mut page);
        assert!(page.iter().all(|byte| *byte == page[0]), "frame {frame} is of one piece");
        page[0]
    };
    let memories = [one.memory(), other.memory()];
    for memory in &memories {
        memory.grow(100).unwrap();
        memory.map_file(file.as_fd(), &pages).unwrap();
        let expected = [(1, 0), (2, 40), (3, 0), (5, 1), (7, 3), (8, 0), (10, 6), (39, 35), (40, 0)];
        expected.iter().for_each(|(frame, value)| assert_eq!(byte(&**memory, *frame), *value, "frame {frame}"));
    }
    let [memory, untouched] = memories;
    memory.copy_in(Frame(12), 0, &[99; PAGE_SIZE]);
    memory.zero(FrameRange { first: Frame(13), count: 2 });
    // What is given back reads as zero, and not as the file.
    memory.discard(FrameRange { first: Frame(20), count: 10 });
    memory.discard(FrameRange { first: Frame(5), count: 3 });
    let expected =
        [(11, 7), (12, 99), (13, 0), (14, 0), (15, 11), (19, 15), (20, 0), (29, 0), (30, 26), (5, 0), (7, 0)];
    expected.iter().for_each(|(frame, value)| assert_eq!(byte(&*memory, *frame), *value, "frame {frame}"));
    (10..40).for_each(|frame| assert_eq!(byte(&*untouched, frame), (frame - 4) as u8, "frame {frame} elsewhere"));
    let mut after = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut after).unwrap();
    assert!(after == content, "the file is as it was");
    // A file that is too short is noticed, whatever the length of the run.
    for count in [2, 30] {
        let error = untouched.map_file(file.as_fd(), &[run(50, count, 39)]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}");
    }
}

pub fn words_are_read_and_exchanged_whole(platform: &Platform) {
    let Some(machine) = platform.machine("words_are_read_and_exchanged_whole", 100) else { return };
    let memory = machine.memory();
    memory.grow(100).unwrap();
    memory.copy_in(Frame(99), 4092, &[1, 2, 3, 4]);
    assert_eq!(memory.load_u32(Frame(99), 4092), 0x0403_0201);
    assert_eq!(memory.compare_exchange_u32(Frame(99), 4092, 0, 5), Err(0x0403_0201));
    assert_eq!(memory.compare_exchange_u32(Frame(99), 4092, 0x0403_0201, 5), Ok(0x0403_0201));
    assert_eq!(memory.load_u32(Frame(99), 4092), 5);
}

pub fn growth_ends_at_the_maximum(platform: &Platform) {
    let Some(machine) = platform.machine("growth_ends_at_the_maximum", 10_000) else { return };
    let memory = machine.memory();
    memory.grow(9_999).unwrap();
    assert!(memory.frame_count() <= 10_000);
    memory.grow(10_000).unwrap();
    assert_eq!(memory.frame_count(), 10_000);
    let error = memory.grow(10_001).unwrap_err();
    assert!(matches!(error, PlatformError::OutOfFrames { maximum: 10_000 }), "{error}");
    memory.copy_in(Frame(9_999), 0, &[1; PAGE_SIZE]);
}

pub fn accesses_outside_backed_frames_are_caught(platform: &Platform) {
    let Some(machine) = platform.machine("accesses_outside_backed_frames_are_caught", 100) else { return };
    let memory = machine.memory();
    memory.grow(100).unwrap();
    let bad: [(&str, &dyn Fn()); 8] = [
        ("frame not backed", &|| memory.copy_in(Frame(100), 0, &[1])),
        ("last frame number", &|| memory.copy_in(Frame(u32::MAX), 0, &[1])),
        ("past the end of a frame", &|| memory.copy_in(Frame(0), 4090, &[0; 7])),
        ("offset past the frame", &|| memory.copy_out(Frame(0), 4097, &mut [])),
        ("range past the end", &|| memory.zero(FrameRange { first: Frame(99), count: 2 })),
        ("range that wraps", &|| memory.discard(FrameRange { first: Frame(99), count: u32::MAX })),
        ("word across frames", &|| assert_eq!(memory.load_u32(Frame(0), 4094), 0)),
        ("word not aligned", &|| assert_eq!(memory.compare_exchange_u32(Frame(0), 2, 0, 0), Ok(0))),
    ];
    for (name, access) in bad {
        assert!(catch_unwind(AssertUnwindSafe(access)).is_err(), "{name}");
    }
}
