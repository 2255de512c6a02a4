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
    /// It is the name meant, whatever comes after it: for calls that make names and take them away.
    Never,
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

/// The rules of `openat2(2)` for a path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resolve {
    /// `RESOLVE_NO_XDEV`: no mount is entered or left.
    pub is_one_mount: bool,
    /// `RESOLVE_NO_MAGICLINKS`: no link of `/proc` that jumps.
    pub has_no_jumps: bool,
    /// `RESOLVE_NO_SYMLINKS`: no link at all.
    pub has_no_links: bool,
    /// `RESOLVE_BENEATH`: what leaves the starting directory is an error.
    pub is_beneath: bool,
    /// `RESOLVE_IN_ROOT`: the starting directory is the root.
    pub is_in_root: bool,
    /// `RESOLVE_CACHED`: nothing that would have to be waited for.
    pub is_cached: bool,
}

impl Resolve {
    /// From the flags. `EINVAL` for unknown ones and for both ways of confinement at once.
    pub fn from_bits(bits: u64) -> Result<Self, Errno> {
        let has = |flag: u64| bits & flag != 0;
        let resolve = Self {
            is_one_mount: has(libc::RESOLVE_NO_XDEV),
            has_no_jumps: has(libc::RESOLVE_NO_MAGICLINKS),
            has_no_links: has(libc::RESOLVE_NO_SYMLINKS),
            is_beneath: has(libc::RESOLVE_BENEATH),
            is_in_root: has(libc::RESOLVE_IN_ROOT),
            is_cached: has(libc::RESOLVE_CACHED),
        };
        let known = libc::RESOLVE_NO_XDEV
            | libc::RESOLVE_NO_MAGICLINKS
            | libc::RESOLVE_NO_SYMLINKS
            | libc::RESOLVE_BENEATH
            | libc::RESOLVE_IN_ROOT
            | libc::RESOLVE_CACHED;
        let is_valid = bits & !known == 0 && !(resolve.is_beneath && resolve.is_in_root);
        if is_valid { Ok(resolve) } else { Err(Errno::EINVAL) }
    }

    /// Whether the starting directory must not be left.
    pub fn is_confined(self) -> bool {
        self.is_beneath || self.is_in_root
    }
}

/// Resolves paths for one process.
#[derive(Clone, Copy)]
pub struct Walker<'k> {
    kernel: &'k Kernel,
    pid: Pid,
    credentials: &'k Credentials,
    resolve: Resolve,
}

impl<'k> Walker<'k> {
    /// For a process, with its rights.
    pub fn new(kernel: &'k Kernel, pid: Pid) -> Result<Self, Errno> {
        let credentials = &kernel.processes.get(&pid).ok_or(Errno::ESRCH)?.credentials;
        Ok(Self { kernel, pid, credentials, resolve: Resolve::default() })
    }

    /// The same with the rules of `openat2(2)`.
    pub fn resolving(self, resolve: Resolve) -> Self {
        Self { resolve, ..self }
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
        let mut at = if path[0] == b'/' { self.root(base)? } else { base.clone() };
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
                    at = self.parent(&at, base)?;
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
            if child.is_mount(&self.kernel.files) {
                self.check_one_mount()?;
            }
            let is_followed = match follow {
                Follow::Yes => true,
                Follow::No => !is_last || is_directory_required,
                Follow::Never => !is_last,
            };
            let Some(target) = (if is_followed { child.link_target(self.kernel, self.pid)? } else { None }) else {
                let found = if is_last { child.found_in(&at, &name) } else { child };
                last = Some((at, name));
                at = found;
                continue;
            };
            links += 1;
            if links > LINKS_MAX || self.resolve.has_no_links {
                return Err(Errno::ELOOP);
            }
            match target {
                Target::Jump(location) => {
                    self.check_jump()?;
                    at = location;
                }
                Target::Path(target) => {
                    if target.first() == Some(&b'/') {
                        at = self.root(base)?;
                    }
                    is_directory_required |= is_last && target.ends_with(b"/");
                    for name in split(&target).rev() {
                        names.push_front(name);
                    }
                }
            }
        }
        if is_directory_required && follow != Follow::Never && !at.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        Ok(Found { last, location: Some(at), is_directory_required })
    }

    /// Resolves a path to a file that exists.
    pub fn existing(&self, base: &Location, path: &[u8], follow: Follow) -> Result<Location, Errno> {
        self.find(base, path, follow)?.location.ok_or(Errno::ENOENT)
    }

    /// Where absolute paths begin.
    fn root(&self, base: &Location) -> Result<Location, Errno> {
        match self.resolve {
            Resolve { is_beneath: true, .. } => Err(Errno::EXDEV),
            Resolve { is_in_root: true, .. } => Ok(base.clone()),
            _ => {
                let root = self.kernel.files.root();
                if base.is_directory() && !base.is_same_mount(&root, &self.kernel.files) {
                    self.check_one_mount()?;
                }
                Ok(root)
            }
        }
    }

    /// `..`.
    fn parent(&self, at: &Location, base: &Location) -> Result<Location, Errno> {
        if self.resolve.is_confined() && at.is_same(base) {
            return if self.resolve.is_beneath { Err(Errno::EXDEV) } else { Ok(at.clone()) };
        }
        if at.is_mount(&self.kernel.files) {
            self.check_one_mount()?;
        }
        Ok(at.parent(&self.kernel.files))
    }

    /// Another mount is about to be entered.
    fn check_one_mount(&self) -> Result<(), Errno> {
        if self.resolve.is_one_mount { Err(Errno::EXDEV) } else { Ok(()) }
    }

    /// A link of `/proc` is about to be followed: out of `/proc`, as far as anybody knows.
    fn check_jump(&self) -> Result<(), Errno> {
        if self.resolve.has_no_jumps {
            return Err(Errno::ELOOP);
        }
        if self.resolve.is_confined() { Err(Errno::EXDEV) } else { self.check_one_mount() }
    }

    fn check_search(&self, directory: &Location) -> Result<(), Errno> {
        if !directory.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        if self.credentials.is_file_root() {
            return Ok(());
        }
        directory.metadata(self.kernel)?.check(self.credentials, MAY_EXECUTE)
    }
}

/// The names of a path.
fn split(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> + '_ {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec)
}
