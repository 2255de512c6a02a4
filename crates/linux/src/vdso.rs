//! The vDSO: code of the monitor that runs in the guest, and the page of clock data below it.

pub(crate) mod saved;

use calypte_platform::{Frame, FrameRange, PAGE_SIZE, Protection};

use crate::clock::Clock;
use crate::errno::Errno;
use crate::frames::{Charge, Frames};
use crate::mm::{MapRequest, Placement, Source, Space};

/// The shared object that `build.rs` compiles from `vdso/vdso.c`.
static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/vdso.so"));

/// The frames of the vDSO, shared by all processes.
pub struct Vdso {
    data: Frame,
    code: Vec<FrameRange>,
}

impl Vdso {
    /// Fills frames with the vDSO and keeps `clock`'s data up to date in one of them.
    pub fn new(frames: &mut Frames, clock: &mut Clock) -> Result<Self, Errno> {
        let data = frames.allocate(Charge::Memory)?;
        clock.publish(frames.memory(), data);
        let mut code = Vec::new();
        for part in OBJECT.chunks(PAGE_SIZE) {
            let frame = frames.allocate(Charge::Memory)?;
            frames.memory().copy_in(frame, 0, part);
            code.push(FrameRange::one(frame));
        }
        Ok(Self { data, code })
    }

    /// Maps it into a process; the address of its ELF header (`AT_SYSINFO_EHDR`).
    pub(crate) fn map(&self, space: &mut Space, frames: &mut Frames) -> Result<u64, Errno> {
        let page = PAGE_SIZE as u64;
        let code_length = self.code.len() as u64 * page;
        let reservation = request(0, page + code_length, Placement::Hint, Source::Anonymous, Protection::empty(), "");
        let start = space.map(frames, reservation)?;
        let data = Source::Monitor(vec![FrameRange::one(self.data)]);
        space.map(frames, request(start, page, Placement::Fixed, data, Protection::READ, "[vvar]"))?;
        let code = Source::Monitor(self.code.clone());
        let protection = Protection::READ | Protection::EXECUTE;
        space.map(frames, request(start + page, code_length, Placement::Fixed, code, protection, "[vdso]"))
    }
}

fn request(
    address: u64,
    length: u64,
    placement: Placement,
    source: Source,
    protection: Protection,
    name: &'static str,
) -> MapRequest {
    MapRequest {
        address,
        length,
        placement,
        protection,
        is_shared: false,
        may_write: false,
        source,
        populate: false,
        grows_down: false,
        is_locked: false,
        top: u64::MAX,
        name,
    }
}
