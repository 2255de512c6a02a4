//! Extended attributes of files in guest memory: `xattr(7)`.

pub(crate) mod saved;

use std::collections::BTreeMap;

use crate::errno::Errno;
use crate::file::buffers::{Buffers, Reservation};

/// Longest name, its namespace included.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest value.
pub const VALUE_BYTES_MAX: usize = 65_536;
/// Most attributes of one file (those of `user.*` on Linux's tmpfs: as many).
const COUNT_MAX: usize = 128;
/// Most bytes of all attributes of one file.
const BYTES_MAX: usize = 128 * 1024;

/// Namespaces that files in guest memory have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// `user.*`: for whoever may use the file; regular files and directories only.
    User,
    /// `trusted.*`: for root only.
    Trusted,
}

impl Namespace {
    /// Of a name. `EOPNOTSUPP` for the others: security labels, file capabilities and access lists would have no effect.
    pub fn of(name: &[u8]) -> Result<Self, Errno> {
        for (prefix, namespace) in [(&b"user."[..], Self::User), (b"trusted.", Self::Trusted)] {
            if let Some(rest) = name.strip_prefix(prefix) {
                return if rest.is_empty() { Err(Errno::EINVAL) } else { Ok(namespace) };
            }
        }
        Err(Errno::EOPNOTSUPP)
    }
}

/// The attributes of one file.
#[derive(Debug, Default)]
pub struct Attributes {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    memory: Option<Reservation>,
}

impl Attributes {
    /// A value. `ENODATA` if there is none.
    pub fn get(&self, name: &[u8]) -> Result<&[u8], Errno> {
        self.values.get(name).map(Vec::as_slice).ok_or(Errno::ENODATA)
    }

    /// All names, those of root only for root.
    pub fn names(&self, is_root: bool) -> impl Iterator<Item = &[u8]> {
        let is_shown = move |name: &&[u8]| is_root || Namespace::of(name) != Ok(Namespace::Trusted);
        self.values.keys().map(Vec::as_slice).filter(is_shown)
    }

    fn bytes(&self) -> usize {
        self.values.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// `setxattr(2)` with its flags.
    pub fn set(&mut self, name: Vec<u8>, value: Vec<u8>, flags: i32, budget: &Buffers) -> Result<(), Errno> {
        let before = self.values.get(&name);
        if flags & libc::XATTR_CREATE != 0 && before.is_some() {
            return Err(Errno::EEXIST);
        }
        if flags & libc::XATTR_REPLACE != 0 && before.is_none() {
            return Err(Errno::ENODATA);
        }
        let freed = before.map_or(0, |value| name.len() + value.len());
        let bytes = self.bytes() - freed + name.len() + value.len();
        if bytes > BYTES_MAX || before.is_none() && self.values.len() >= COUNT_MAX {
            return Err(Errno::ENOSPC);
        }
        self.memory = Some(budget.reserve(bytes).map_err(|_| Errno::ENOSPC)?);
        self.values.insert(name, value);
        Ok(())
    }

    /// `removexattr(2)`.
    pub fn remove(&mut self, name: &[u8], budget: &Buffers) -> Result<(), Errno> {
        self.values.remove(name).ok_or(Errno::ENODATA)?;
        self.memory = None;
        self.memory = Some(budget.take(self.bytes()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_has_a_bounded_number_and_size() {
        let (mut attributes, budget) = (Attributes::default(), Buffers::default());
        let name = |index: usize| format!("user.{index}").into_bytes();
        for index in 0..COUNT_MAX {
            attributes.set(name(index), vec![0; 10], 0, &budget).unwrap();
        }
        assert_eq!(attributes.set(name(COUNT_MAX), vec![], 0, &budget), Err(Errno::ENOSPC));
        assert_eq!(attributes.set(name(0), vec![0; BYTES_MAX], 0, &budget), Err(Errno::ENOSPC));
        assert_eq!(attributes.remove(&name(0), &budget), Ok(()));
        assert_eq!(attributes.remove(&name(0), &budget), Err(Errno::ENODATA));
        assert_eq!(attributes.names(false).count(), COUNT_MAX - 1);
    }
}
