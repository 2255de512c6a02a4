//! Seals of `memfd_create(2)` files: what may not be done to them any more (`F_ADD_SEALS` of `fcntl(2)`).

use serde::{Deserialize, Serialize};

use crate::errno::Errno;

/// A set of seals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seals(Option<u32>);

const ALL: u32 =
    (libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE | libc::F_SEAL_FUTURE_WRITE)
        as u32
        | SEAL_EXEC;
/// The mode's bits for executing cannot change (`linux/fcntl.h`).
pub const SEAL_EXEC: u32 = 0x20;
/// No further seals.
pub const SEAL_SEAL: u32 = libc::F_SEAL_SEAL as u32;

impl Seals {
    /// Of a file that cannot be sealed.
    pub const NONE: Seals = Seals(None);

    /// Of a file of `memfd_create`, with the seals it begins with.
    pub fn of_memfd(initial: u32) -> Self {
        Self(Some(initial))
    }

    /// `F_GET_SEALS`. `EINVAL` for files that have none.
    pub fn get(self) -> Result<u32, Errno> {
        self.0.ok_or(Errno::EINVAL)
    }

    /// `F_ADD_SEALS`. `has_writers`: the file is mapped shared and writable somewhere.
    pub fn add(&mut self, seals: u32, has_writers: bool) -> Result<(), Errno> {
        let held = self.get()?;
        if seals & !ALL != 0 {
            return Err(Errno::EINVAL);
        }
        if held & SEAL_SEAL != 0 {
            return Err(Errno::EPERM);
        }
        let is_write_new = seals & libc::F_SEAL_WRITE as u32 != 0 && held & libc::F_SEAL_WRITE as u32 == 0;
        if is_write_new && has_writers {
            return Err(Errno::EBUSY);
        }
        self.0 = Some(held | seals);
        Ok(())
    }

    fn has(self, seals: i32) -> bool {
        self.0.is_some_and(|held| held & seals as u32 != 0)
    }

    /// Whether bytes may not be changed, nor be mapped to be changed.
    pub fn forbid_writing(self) -> bool {
        self.has(libc::F_SEAL_WRITE | libc::F_SEAL_FUTURE_WRITE)
    }

    /// Whether the bits for executing may not be changed.
    pub fn forbid_mode(self, old: u32, new: u32) -> bool {
        self.has(SEAL_EXEC as i32) && (old ^ new) & 0o111 != 0
    }

    /// `EPERM` if a seal forbids the change of length.
    pub fn check_size(self, old: u64, new: u64) -> Result<(), Errno> {
        let is_forbidden = new < old && self.has(libc::F_SEAL_SHRINK) || new > old && self.has(libc::F_SEAL_GROW);
        if is_forbidden { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// `EPERM` if a seal forbids bytes to be written up to `end`.
    pub fn check_write(self, size: u64, end: u64) -> Result<(), Errno> {
        if self.forbid_writing() {
            return Err(Errno::EPERM);
        }
        self.check_size(size, size.max(end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seals_are_added_until_sealed() {
        let mut seals = Seals::of_memfd(0);
        assert_eq!(seals.add(libc::F_SEAL_GROW as u32, true), Ok(()));
        assert_eq!(seals.check_size(1, 2), Err(Errno::EPERM));
        assert_eq!(seals.check_size(2, 1), Ok(()));
        assert_eq!(seals.add(libc::F_SEAL_WRITE as u32, true), Err(Errno::EBUSY));
        assert_eq!(seals.add(1 << 20, false), Err(Errno::EINVAL));
        assert_eq!(seals.add(libc::F_SEAL_WRITE as u32 | SEAL_SEAL, false), Ok(()));
        assert_eq!(seals.check_write(5, 5), Err(Errno::EPERM));
        assert_eq!(seals.add(0, false), Err(Errno::EPERM));
        let mut none = Seals::NONE;
        assert_eq!((none.get(), none.add(0, false)), (Err(Errno::EINVAL), Err(Errno::EINVAL)));
    }
}
