//! From a path to a file: `path_resolution(7)`. Names are looked up one by one in our own tree; the root is never left.

use std::collections::VecDeque;

use crate::credentials::Credentials;
use crate::errno::Errno;
use crate::fs::metadata::MAY_EXECUTE;
use crate::fs::node::{Location, Target};
use crate::kernel::Kernel;
use crate::process::Pid;

/// Most symbolic links followed for one path.
pub const LINKS_MAX: usize = 40;
/// Longest name of a file.
pub const NAME_BYTES_MAX: usize = 255;

/// What becomes of a symbolic link at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// It is followed.
    Yes,
    /// It is the file meant (unless a slash comes after it).
    No,
}

/// Where a path has led.
#[derive(Debug)]
pub struct Found {
    /// The directory of the last name, and that name. `None` if the path ended in `.`, `..`, `/` or a jump.
    pub last: Option<(Location, Vec<u8>)>,
    /// The file; `None` if the directory has none of that name.
    pub location: Option<Location>,
    /// The path ended in a slash: the file must be a directory.
    pub is_directory_required: bool,
}

/// Resolves paths for one process.
#[derive(Clone, Copy)]
pub struct Walker<'k> {
    kernel: &'k Kernel,
    pid: Pid,
    credentials: &'k Credentials,
}

impl<'k> Walker<'k> {
    /// For a process, with its rights.
    pub fn new(kernel: &'k Kernel, pid: Pid) -> Result<Self, Errno> {
        let credentials = &kernel.processes.get(&pid).ok_or(Errno::ESRCH)?.credentials;
        Ok(Self { kernel, pid, credentials })
    }

    /// The rights that files are checked against.
    pub fn credentials(&self) -> &'k Credentials {
        self.credentials
    }

    /// Resolves a path whose last name need not exist.
    pub fn find(&self, base: &Location, path: &[u8], follow: Follow) -> Result<Found, Errno> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        let mut at = if path[0] == b'/' { self.kernel.files.root() } else { base.clone() };
        let mut names: VecDeque<Vec<u8>> = split(path).collect();
        let mut is_directory_required = path.ends_with(b"/") || path.ends_with(b"/.");
        let mut last = None;
        let mut links = 0;
        while let Some(name) = names.pop_front() {
            let is_last = names.is_empty();
            self.check_search(&at)?;
            last = None;
            match &*name {
                b"." => continue,
                b".." => {
                    at = at.parent(&self.kernel.files);
                    continue;
                }
                _ if name.len() > NAME_BYTES_MAX => return Err(Errno::ENAMETOOLONG),
                _ => {}
            }
            let Some(child) = at.lookup(self.kernel, self.pid, &name)? else {
                if !is_last {
                    return Err(Errno::ENOENT);
                }
                return Ok(Found { last: Some((at, name)), location: None, is_directory_required });
            };
            let is_followed = !is_last || follow == Follow::Yes || is_directory_required;
            match if is_followed { child.link_target(self.kernel, self.pid)? } else { None } {
                None => {
                    last = Some((at, name));
                    at = child;
                }
                Some(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::ELOOP);
                    }
                    match target {
                        Target::Jump(location) => at = location,
                        Target::Path(target) => {
                            if target.first() == Some(&b'/') {
                                at = self.kernel.files.root();
                            }
                            is_directory_required |= is_last && target.ends_with(b"/");
                            for name in split(&target).rev() {
                                names.push_front(name);
                            }
                        }
                    }
                }
            }
        }
        if is_directory_required && !at.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        Ok(Found { last, location: Some(at), is_directory_required })
    }

    /// Resolves a path to a file that exists.
    pub fn existing(&self, base: &Location, path: &[u8], follow: Follow) -> Result<Location, Errno> {
        self.find(base, path, follow)?.location.ok_or(Errno::ENOENT)
    }

    fn check_search(&self, directory: &Location) -> Result<(), Errno> {
        if !directory.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        if self.credentials.uid_effective == 0 {
            return Ok(());
        }
        directory.metadata(self.kernel)?.check(self.credentials, MAY_EXECUTE)
    }
}

/// The names of a path.
fn split(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> + '_ {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec)
}
