//! A platform that runs no guest code: its virtual CPUs do what a [`Script`] says. It holds the callers to the contract.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use calypte_platform::{
    AddressSpace, Exit, FpuState, Frame, FrameRange, Kicker, Machine, Memory, PAGE_SIZE, PlatformError, Protection,
    Registers, SpaceToken, Timestamp, Vcpu,
};
use parking_lot::Mutex;

use crate::guest::SCRATCH;
use crate::script::{Script, Step};

/// Bytes of a saved floating-point state: the legacy area and the header.
const FPU_BYTES: usize = 576;
/// One past the highest address of user code.
const USER_END: u64 = 0x7fff_ffff_f000;

/// A guest's machine.
pub struct ScriptedMachine {
    shared: Arc<Shared>,
}

struct Shared {
    frames: Mutex<Vec<Box<[u8; PAGE_SIZE]>>>,
    frames_max: u32,
    spaces: Mutex<Spaces>,
    script: Arc<Mutex<Script>>,
}

#[derive(Default)]
struct Spaces {
    last: u64,
    mappings: BTreeMap<u64, BTreeMap<u64, (Frame, Protection)>>,
}

impl ScriptedMachine {
    /// A machine of up to `frames_max` frames whose virtual CPUs share `script`.
    pub fn new(frames_max: u32, script: Arc<Mutex<Script>>) -> Arc<Self> {
        let shared = Shared { frames: Mutex::default(), frames_max, spaces: Mutex::default(), script };
        Arc::new(Self { shared: Arc::new(shared) })
    }
}

impl Machine for ScriptedMachine {
    fn platform(&self) -> &'static str {
        "scripted"
    }

    fn memory(&self) -> Arc<dyn Memory> {
        self.shared.clone()
    }

    fn create_address_space(&self) -> Result<Box<dyn AddressSpace>, PlatformError> {
        let mut spaces = self.shared.spaces.lock();
        spaces.last += 1;
        let token = spaces.last;
        spaces.mappings.insert(token, BTreeMap::new());
        Ok(Box::new(ScriptedSpace { shared: self.shared.clone(), token }))
    }

    fn create_vcpu(&self) -> Result<Box<dyn Vcpu>, PlatformError> {
        Ok(Box::new(ScriptedVcpu { shared: self.shared.clone(), kicked: Arc::default(), fpu: initial_fpu() }))
    }

    fn reserved(&self) -> Range<u64> {
        0x1000..0x1_0000
    }

    fn user_end(&self) -> u64 {
        USER_END
    }

    fn timestamp(&self) -> Option<Timestamp> {
        None
    }
}

impl Memory for Shared {
    fn frame_count(&self) -> u32 {
        self.frames.lock().len() as u32
    }

    fn grow(&self, frame_count: u32) -> Result<(), PlatformError> {
        if frame_count > self.frames_max {
            return Err(PlatformError::OutOfFrames { maximum: self.frames_max });
        }
        let mut frames = self.frames.lock();
        while frames.len() < frame_count as usize {
            frames.push(Box::new([0; PAGE_SIZE]));
        }
        Ok(())
    }

    fn copy_in(&self, frame: Frame, offset: usize, bytes: &[u8]) {
        self.frames.lock()[frame.0 as usize][offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn copy_out(&self, frame: Frame, offset: usize, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.frames.lock()[frame.0 as usize][offset..offset + buffer.len()]);
    }

    fn zero(&self, range: FrameRange) {
        let mut frames = self.frames.lock();
        range.iter().for_each(|frame| frames[frame.0 as usize].fill(0));
    }

    fn discard(&self, range: FrameRange) {
        let spaces = self.spaces.lock();
        for mapping in spaces.mappings.values() {
            assert!(!mapping.values().any(|(frame, _)| range.iter().any(|gone| gone == *frame)), "a mapped frame goes");
        }
        self.zero(range);
    }

    fn load_u32(&self, frame: Frame, offset: usize) -> u32 {
        let mut word = [0; 4];
        self.copy_out(frame, offset, &mut word);
        u32::from_le_bytes(word)
    }

    fn compare_exchange_u32(&self, frame: Frame, offset: usize, current: u32, new: u32) -> Result<u32, u32> {
        let found = self.load_u32(frame, offset);
        if found != current {
            return Err(found);
        }
        self.copy_in(frame, offset, &new.to_le_bytes());
        Ok(found)
    }
}

struct ScriptedSpace {
    shared: Arc<Shared>,
    token: u64,
}

impl ScriptedSpace {
    fn change(
        &self,
        address: u64,
        length: u64,
        change: impl FnOnce(&mut BTreeMap<u64, (Frame, Protection)>, Range<u64>),
    ) {
        let page = PAGE_SIZE as u64;
        assert!(address.is_multiple_of(page) && length.is_multiple_of(page), "{length:#x} at {address:#x}");
        let end = address.checked_add(length).filter(|end| *end <= USER_END).expect("a range of user code");
        assert!(address >= 0x1_0000, "{address:#x} is the platform's");
        let mut spaces = self.shared.spaces.lock();
        change(spaces.mappings.get_mut(&self.token).expect("this space exists"), address / page..end / page);
    }
}

impl AddressSpace for ScriptedSpace {
    fn token(&self) -> SpaceToken {
        SpaceToken(self.token)
    }

    fn map(&mut self, address: u64, frames: FrameRange, protection: Protection) -> Result<(), PlatformError> {
        assert!(frames.first.0 + frames.count <= self.shared.frame_count(), "a frame that is not backed");
        self.change(address, u64::from(frames.count) * PAGE_SIZE as u64, |mapping, pages| {
            for (page, frame) in pages.zip(frames.iter()) {
                assert!(mapping.insert(page, (frame, protection)).is_none(), "page {page:#x} is mapped already");
            }
        });
        Ok(())
    }

    fn unmap(&mut self, address: u64, length: u64) {
        self.change(address, length, |mapping, pages| {
            let gone: Vec<u64> = mapping.range(pages).map(|(page, _)| *page).collect();
            gone.iter().for_each(|page| _ = mapping.remove(page));
        });
    }

    fn protect(&mut self, address: u64, length: u64, protection: Protection) {
        self.change(address, length, |mapping, pages| {
            mapping.range_mut(pages).for_each(|(_, (_, current))| *current = protection);
        });
    }
}

impl Drop for ScriptedSpace {
    fn drop(&mut self) {
        self.shared.spaces.lock().mappings.remove(&self.token);
    }
}

struct ScriptedVcpu {
    shared: Arc<Shared>,
    kicked: Arc<Kicked>,
    fpu: FpuState,
}

#[derive(Default)]
struct Kicked(AtomicBool);

impl Kicker for Kicked {
    fn kick(&self) {
        self.0.store(true, Ordering::Release);
    }
}

fn initial_fpu() -> FpuState {
    FpuState(vec![0; FPU_BYTES].into_boxed_slice())
}

impl ScriptedVcpu {
    /// Writes as guest code would: where it may.
    fn write(&self, token: u64, address: u64, bytes: &[u8]) {
        for (distance, byte) in bytes.iter().enumerate() {
            let at = address + distance as u64;
            let place = self.shared.spaces.lock().mappings[&token].get(&(at / PAGE_SIZE as u64)).copied();
            if let Some((frame, protection)) = place
                && protection.contains(Protection::WRITE)
            {
                self.shared.copy_in(frame, at as usize % PAGE_SIZE, &[*byte]);
            }
        }
    }
}

impl Vcpu for ScriptedVcpu {
    fn run(&mut self, space: SpaceToken, registers: &mut Registers) -> Result<Exit, PlatformError> {
        assert!(self.shared.spaces.lock().mappings.contains_key(&space.0), "an address space that is gone");
        if self.kicked.0.swap(false, Ordering::AcqRel) {
            return Ok(Exit::Preempted);
        }
        loop {
            let step = self.shared.script.lock().step(registers);
            match step {
                Step::Write(offset, bytes) => self.write(space.0, SCRATCH + offset, &bytes),
                Step::Exit(exit) => return Ok(exit),
            }
        }
    }

    fn fpu(&mut self) -> Result<FpuState, PlatformError> {
        Ok(self.fpu.clone())
    }

    fn set_fpu(&mut self, state: &FpuState) -> Result<(), PlatformError> {
        assert!(state.0.len() >= FPU_BYTES, "a floating-point state that was cut off");
        self.fpu = state.clone();
        Ok(())
    }

    fn initial_fpu(&self) -> FpuState {
        initial_fpu()
    }

    fn kicker(&self) -> Arc<dyn Kicker> {
        self.kicked.clone()
    }
}
