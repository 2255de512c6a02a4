//! Counters to signal events with: `eventfd(2)`.

pub(crate) mod saved;

use parking_lot::Mutex;

use crate::errno::Errno;
use crate::file::readiness;
use crate::notifier::{Beacon, Notifier};

/// Largest count.
const COUNT_MAX: u64 = u64::MAX - 1;

/// A counter.
#[derive(Debug)]
pub struct EventFd {
    count: Mutex<u64>,
    is_semaphore: bool,
    beacon: Beacon,
}

impl EventFd {
    /// A counter that starts at `count`; a semaphore gives one per read instead of all.
    pub fn new(notifier: &Notifier, count: u64, is_semaphore: bool) -> Self {
        Self { count: Mutex::new(count), is_semaphore, beacon: Beacon::new(notifier) }
    }

    /// Takes the count, as eight bytes. `EAGAIN` at zero.
    pub fn read(&self, length: usize) -> Result<Vec<u8>, Errno> {
        if length < 8 {
            return Err(Errno::EINVAL);
        }
        let mut count = self.count.lock();
        if *count == 0 {
            return Err(Errno::EAGAIN);
        }
        let taken = if self.is_semaphore { 1 } else { *count };
        *count -= taken;
        drop(count);
        self.beacon.ring();
        Ok(taken.to_ne_bytes().to_vec())
    }

    /// Adds to the count. `EAGAIN` if it would exceed its maximum.
    pub fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let added = bytes.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes)).ok_or(Errno::EINVAL)?;
        if added == u64::MAX {
            return Err(Errno::EINVAL);
        }
        let mut count = self.count.lock();
        if added > COUNT_MAX - *count {
            return Err(Errno::EAGAIN);
        }
        *count += added;
        drop(count);
        self.beacon.ring();
        Ok(8)
    }

    /// What can be done now.
    pub fn readiness(&self) -> u32 {
        let count = *self.count.lock();
        readiness::from(count > 0, count < COUNT_MAX)
    }

    /// The bell to wait for.
    pub fn beacon(&self) -> &Beacon {
        &self.beacon
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_takes_everything_or_one() {
        for (is_semaphore, first, second) in [(false, Ok(5u64), Err(Errno::EAGAIN)), (true, Ok(1), Ok(1))] {
            let event = EventFd::new(&Notifier::default(), 3, is_semaphore);
            assert_eq!(event.write(&2u64.to_ne_bytes()), Ok(8));
            assert_eq!(event.read(8), first.map(|count| count.to_ne_bytes().to_vec()));
            assert_eq!(event.read(8), second.map(|count: u64| count.to_ne_bytes().to_vec()));
        }
    }

    #[test]
    fn the_count_is_bounded() {
        let event = EventFd::new(&Notifier::default(), 0, false);
        assert_eq!(event.write(&COUNT_MAX.to_ne_bytes()), Ok(8));
        assert_eq!(event.write(&1u64.to_ne_bytes()), Err(Errno::EAGAIN));
        assert_eq!(event.write(&u64::MAX.to_ne_bytes()), Err(Errno::EINVAL));
        assert_eq!(event.write(&[0; 7]), Err(Errno::EINVAL));
        assert_eq!(event.readiness() & readiness::OUT, 0);
        assert_eq!(event.read(7), Err(Errno::EINVAL));
    }
}
