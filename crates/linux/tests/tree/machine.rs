//! A machine that has memory and runs nothing: enough for what the kernel does by itself.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use calypte_platform::{AddressSpace, Frame, FrameRange, Machine, Memory, PAGE_SIZE, PlatformError, Timestamp, Vcpu};

/// Memory without a processor.
#[derive(Default)]
pub(crate) struct Idle(Arc<Pages>);

#[derive(Default)]
struct Pages(Mutex<Vec<[u8; PAGE_SIZE]>>);

fn refuse<T>(operation: &'static str) -> Result<T, PlatformError> {
    Err(PlatformError::Host { operation, source: std::io::ErrorKind::Unsupported.into() })
}

impl Machine for Idle {
    fn platform(&self) -> &'static str {
        "idle"
    }

    fn memory(&self) -> Arc<dyn Memory> {
        self.0.clone()
    }

    fn create_address_space(&self) -> Result<Box<dyn AddressSpace>, PlatformError> {
        refuse("create an address space")
    }

    fn create_vcpu(&self) -> Result<Box<dyn Vcpu>, PlatformError> {
        refuse("create a virtual CPU")
    }

    fn reserved(&self) -> Range<u64> {
        0..0
    }

    fn user_end(&self) -> u64 {
        1 << 47
    }

    fn timestamp(&self) -> Option<Timestamp> {
        None
    }
}

impl Pages {
    fn with<T>(&self, frame: Frame, work: impl FnOnce(&mut [u8; PAGE_SIZE]) -> T) -> T {
        work(&mut self.0.lock().expect("nobody panics with it")[frame.0 as usize])
    }
}

impl Memory for Pages {
    fn frame_count(&self) -> u32 {
        self.0.lock().expect("nobody panics with it").len() as u32
    }

    fn grow(&self, frame_count: u32) -> Result<(), PlatformError> {
        self.0.lock().expect("nobody panics with it").resize(frame_count as usize, [0; PAGE_SIZE]);
        Ok(())
    }

    fn copy_in(&self, frame: Frame, offset: usize, bytes: &[u8]) {
        self.with(frame, |page| page[offset..offset + bytes.len()].copy_from_slice(bytes));
    }

    fn copy_out(&self, frame: Frame, offset: usize, buffer: &mut [u8]) {
        self.with(frame, |page| buffer.copy_from_slice(&page[offset..offset + buffer.len()]));
    }

    fn zero(&self, frames: FrameRange) {
        for frame in frames.iter() {
            self.with(frame, |page| page.fill(0));
        }
    }

    fn discard(&self, frames: FrameRange) {
        self.zero(frames);
    }

    fn load_u32(&self, frame: Frame, offset: usize) -> u32 {
        self.with(frame, |page| u32::from_ne_bytes(page[offset..offset + 4].try_into().expect("four bytes")))
    }

    fn compare_exchange_u32(&self, frame: Frame, offset: usize, current: u32, new: u32) -> Result<u32, u32> {
        let found = self.load_u32(frame, offset);
        if found != current {
            return Err(found);
        }
        self.copy_in(frame, offset, &new.to_ne_bytes());
        Ok(found)
    }
}
