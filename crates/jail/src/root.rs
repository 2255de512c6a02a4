//! The root directory of a jail: an empty file system, with the directories that the process needs as separate read-only
//! trees. They stand beside the root and not in it, so that not even `..` leads from one to another. What is mounted in
//! them of the host's kernel (`/proc`, `/sys`) is covered: guests have their own, which the monitor makes up.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount, move_mount, open_tree, unmount,
};
use rustix::process::{fchdir, pivot_root};

use crate::{JailError, raw};

/// Size of the empty file system, which nothing is ever written to.
const ROOT_BYTES: &str = "4096";

/// File systems that show the host's kernel and processes and have no files in them.
const KERNEL_FILE_SYSTEMS: &[&str] = &[
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "efivarfs",
    "fusectl",
    "mqueue",
    "nfsd",
    "proc",
    "pstore",
    "resctrl",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "sysfs",
    "tracefs",
];

/// Opens the directories and, in a mount namespace of its own, leaves everything else behind.
pub(crate) fn open_directories(
    directories: &[PathBuf],
    namespace: Result<(), String>,
) -> Result<(Vec<OwnedFd>, Result<String, String>), JailError> {
    let opened = directories.iter().map(|directory| open(directory)).collect::<Result<Vec<_>, _>>()?;
    if let Err(reason) = namespace {
        return Ok((opened, Err(reason)));
    }
    let covered = cover_kernel(directories);
    let trees = match opened.iter().map(copy_tree).collect::<io::Result<Vec<_>>>() {
        Ok(trees) => trees,
        Err(error) => return Ok((opened, Err(format!("directories cannot be mounted read-only: {error}")))),
    };
    match leave_root() {
        Ok(()) => Ok((trees, covered.map(|()| "nothing is visible but the guest's files, read-only".to_owned()))),
        Err(error) => Ok((trees, Err(format!("an empty root cannot be made: {error}")))),
    }
}

fn open(directory: &Path) -> Result<OwnedFd, JailError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(directory, flags, Mode::empty())
        .map_err(|error| JailError::Directory { directory: directory.to_owned(), source: error.into() })
}

/// Covers what is mounted beneath the directories of the host's kernel, in the mount namespace of this process.
fn cover_kernel(directories: &[PathBuf]) -> Result<(), String> {
    let describe = |what: &Path| {
        let what = what.display().to_string();
        move |error: io::Error| format!("{what} cannot be covered: {error}")
    };
    let mounts = Path::new("/proc/self/mountinfo");
    let text = std::fs::read(mounts).map_err(describe(mounts))?;
    // Their real paths are what mounts have. One that is not there is not shown either.
    let shown: Vec<PathBuf> = directories.iter().filter_map(|directory| directory.canonicalize().ok()).collect();
    let places = kernel_mounts(&text).into_iter().filter(|place| shown.iter().any(|shown| place.starts_with(shown)));
    for place in places {
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        match mount("none", &place, "tmpfs", flags, Some(c"size=4096,mode=0555")) {
            // Beneath one that is covered already, or covered by something else.
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => return Err(describe(&place)(error.into())),
        }
    }
    Ok(())
}

/// Where such file systems are mounted, according to `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`), in the order in which
/// they were.
fn kernel_mounts(mountinfo: &[u8]) -> Vec<PathBuf> {
    const PLACE: usize = 4;
    let lines = mountinfo.split(|byte| *byte == b'\n');
    let places = lines.filter_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        // Optional fields end with a hyphen, behind which is the type.
        let kind = fields.iter().skip_while(|field| **field != b"-").nth(1)?;
        let is_kernels = KERNEL_FILE_SYSTEMS.iter().any(|name| name.as_bytes() == *kind);
        let place = fields.get(PLACE).filter(|_| is_kernels)?;
        Some(PathBuf::from(OsString::from_vec(unescaped(place))))
    });
    places.collect()
}

/// A field in which blanks and backslashes are written as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, others)) = rest.split_first() {
        let digits =
            others.get(..3).filter(|digits| *first == b'\\' && digits.iter().all(|d| (b'0'..b'8').contains(d)));
        match digits {
            Some(digits) => {
                let value = digits.iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                bytes.push((value & 0xff) as u8);
                rest = &others[3..];
            }
            None => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    bytes
}

/// A copy of what is mounted at and beneath a directory, in no namespace: its root has no parent.
fn copy_tree(directory: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(directory, "", flags)?;
    raw::restrict_mounts(tree.as_fd())?;
    Ok(tree)
}

/// Makes an empty file system the root and forgets the old one.
fn leave_root() -> io::Result<()> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "size", ROOT_BYTES)?;
    fsconfig_set_string(context.as_fd(), "mode", "0555")?;
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let empty = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    // pivot_root(2) wants a mount point; the old root will do, as nothing is looked up in it any more.
    move_mount(&empty, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    fchdir(&empty)?;
    // The old root ends up on top of the new one, from where it is unmounted; see "pivot_root(".", ".")" in the manual.
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_the_kernel_are_found() {
        let text = b"22 28 0:21 / /sys rw,nosuid - sysfs sysfs rw\n\
                     24 28 0:5 / /dev rw shared:2 - devtmpfs udev rw\n\
                     23 28 0:22 / /proc rw,relatime shared:14 master:1 - proc proc rw\n\
                     30 28 8:1 / /data\\040disk rw - ext4 /dev/sda1 rw\n\
                     31 30 0:22 / /data\\040disk/a\\134b/proc rw - proc proc rw\n\
                     broken\n";
        let expected: Vec<PathBuf> = ["/sys", "/proc", "/data disk/a\\b/proc"].map(PathBuf::from).into();
        assert_eq!(kernel_mounts(text), expected);
    }

    #[test]
    fn what_is_no_escape_stays_as_it_is() {
        for (field, expected) in [("a\\04", "a\\04"), ("\\", "\\"), ("\\089", "\\089"), ("\\101\\040", "A ")] {
            assert_eq!(unescaped(field.as_bytes()), expected.as_bytes(), "{field}");
        }
    }
}
