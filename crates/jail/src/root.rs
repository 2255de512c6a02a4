//! The root directory of a jail: an empty file system, with the directories that the process needs as separate read-only
//! trees. They stand beside the root and not in it, so that not even `..` leads from one to another.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};
use rustix::process::{fchdir, pivot_root};

use crate::{JailError, raw};

/// Size of the empty file system, which nothing is ever written to.
const ROOT_BYTES: &str = "4096";

/// Opens the directories and, in a mount namespace of its own, leaves everything else behind.
pub(crate) fn open_directories(
    directories: &[PathBuf],
    namespace: Result<(), String>,
) -> Result<(Vec<OwnedFd>, Result<String, String>), JailError> {
    let opened = directories.iter().map(|directory| open(directory)).collect::<Result<Vec<_>, _>>()?;
    if let Err(reason) = namespace {
        return Ok((opened, Err(reason)));
    }
    let trees = match opened.iter().map(copy_tree).collect::<io::Result<Vec<_>>>() {
        Ok(trees) => trees,
        Err(error) => return Ok((opened, Err(format!("directories cannot be mounted read-only: {error}")))),
    };
    match leave_root() {
        Ok(()) => Ok((trees, Ok("nothing is visible but the guest's files, read-only".to_owned()))),
        Err(error) => Ok((trees, Err(format!("an empty root cannot be made: {error}")))),
    }
}

fn open(directory: &Path) -> Result<OwnedFd, JailError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(directory, flags, Mode::empty())
        .map_err(|error| JailError::Directory { directory: directory.to_owned(), source: error.into() })
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
