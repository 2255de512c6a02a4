//! What is told about files: `stat(2)`, `statx(2)`, `statfs(2)`, `access(2)`.

use zerocopy::{Immutable, IntoBytes};

use crate::call::Call;
use crate::errno::Errno;
use crate::fs::metadata::{Metadata, Time};
use crate::fs::walk::Walker;
use crate::fs::{Location, Node};
use crate::outcome::SysResult;
use crate::sys::entry;
use crate::table::SystemCall;

const FILE_SYSTEMS: &str = "file systems of the host have nothing free; no file system has an id";

/// The calls of this family.
pub const CALLS: &[SystemCall] = &[
    entry(4, "stat", stat),
    entry(5, "fstat", fstat),
    entry(6, "lstat", lstat),
    entry(21, "access", access),
    entry(137, "statfs", statfs).supports(FILE_SYSTEMS),
    entry(138, "fstatfs", fstatfs).supports(FILE_SYSTEMS),
    entry(262, "newfstatat", newfstatat),
    entry(269, "faccessat", faccessat),
    entry(332, "statx", statx)
        .supports("STATX_BASIC_STATS, whatever is asked for; no time of birth, attributes or mount id"),
    entry(439, "faccessat2", faccessat2),
];

/// Block size for input and output that `stat` recommends.
const BLOCK_BYTES: u64 = 4096;

/// `struct stat` of x86-64 (`asm/stat.h`).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Stat {
    st_dev: u64,
    st_ino: u64,
    st_nlink: u64,
    st_mode: u32,
    st_uid: u32,
    st_gid: u32,
    padding: u32,
    st_rdev: u64,
    st_size: u64,
    st_blksize: u64,
    st_blocks: u64,
    times: [[u64; 2]; 3],
    unused: [u64; 3],
}

const _: () = assert!(size_of::<Stat>() == 144);

impl Stat {
    fn new(metadata: &Metadata) -> Self {
        let time = |time: Time| [time.seconds.cast_unsigned(), u64::from(time.nanoseconds)];
        Self {
            st_dev: metadata.device,
            st_ino: metadata.inode,
            st_nlink: metadata.links.into(),
            st_mode: metadata.mode,
            st_uid: metadata.uid,
            st_gid: metadata.gid,
            padding: 0,
            st_rdev: metadata.special_device,
            st_size: metadata.size,
            st_blksize: BLOCK_BYTES,
            st_blocks: metadata.blocks,
            times: [time(metadata.accessed), time(metadata.modified), time(metadata.changed)],
            unused: [0; 3],
        }
    }
}

/// `struct statx_timestamp`.
#[derive(IntoBytes, Immutable, Clone, Copy, Default)]
#[repr(C)]
struct StatxTime {
    seconds: i64,
    nanoseconds: u32,
    reserved: i32,
}

/// `struct statx` (`linux/stat.h`).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Statx {
    mask: u32,
    block_bytes: u32,
    attributes: u64,
    links: u32,
    uid: u32,
    gid: u32,
    mode: u16,
    padding: u16,
    inode: u64,
    size: u64,
    blocks: u64,
    attributes_mask: u64,
    accessed: StatxTime,
    born: StatxTime,
    changed: StatxTime,
    modified: StatxTime,
    special_major: u32,
    special_minor: u32,
    device_major: u32,
    device_minor: u32,
    rest: [u64; 14],
}

const _: () = assert!(size_of::<Statx>() == 256);

impl Statx {
    fn new(metadata: &Metadata) -> Self {
        let time = |time: Time| StatxTime { seconds: time.seconds, nanoseconds: time.nanoseconds, reserved: 0 };
        Self {
            mask: libc::STATX_BASIC_STATS,
            block_bytes: BLOCK_BYTES as u32,
            attributes: 0,
            links: metadata.links,
            uid: metadata.uid,
            gid: metadata.gid,
            mode: metadata.mode as u16,
            padding: 0,
            inode: metadata.inode,
            size: metadata.size,
            blocks: metadata.blocks,
            attributes_mask: 0,
            accessed: time(metadata.accessed),
            born: StatxTime::default(),
            changed: time(metadata.changed),
            modified: time(metadata.modified),
            special_major: libc::major(metadata.special_device),
            special_minor: libc::minor(metadata.special_device),
            device_major: libc::major(metadata.device),
            device_minor: libc::minor(metadata.device),
            rest: [0; 14],
        }
    }
}

/// `struct statfs` of x86-64 (`asm-generic/statfs.h`).
#[derive(IntoBytes, Immutable, Default)]
#[repr(C)]
struct Statfs {
    kind: u64,
    block_bytes: u64,
    blocks: u64,
    blocks_free: u64,
    blocks_available: u64,
    files: u64,
    files_free: u64,
    id: u64,
    name_bytes_max: u64,
    fragment_bytes: u64,
    flags: u64,
    spare: [u64; 4],
}

const _: () = assert!(size_of::<Statfs>() == 120);

const MAGIC_TMPFS: u64 = 0x0102_1994;
const MAGIC_OVERLAY: u64 = 0x794c_7630;
const MAGIC_PROC: u64 = 0x9fa0;
const MAGIC_DEVPTS: u64 = 0x1cd1;
const MAGIC_SYSFS: u64 = 0x6265_6572;
const MAGIC_EXT4: u64 = 0xef53;
const MAGIC_PIPEFS: u64 = 0x5049_5045;

fn metadata_at(call: &mut Call<'_>, fd: i32, path: &[u8], flags: i32) -> Result<Metadata, Errno> {
    if path.is_empty() && flags & libc::AT_EMPTY_PATH != 0 && fd != libc::AT_FDCWD {
        let file = call.file_of(fd)?;
        return file.metadata(call.kernel);
    }
    call.locate(fd, path, flags)?.metadata(call.kernel)
}

fn store(call: &mut Call<'_>, address: u64, metadata: &Metadata) -> SysResult {
    call.write(address, &Stat::new(metadata))?;
    Ok(0)
}

fn stat(call: &mut Call<'_>) -> SysResult {
    let path = call.read_path(call.args[0])?;
    let metadata = metadata_at(call, libc::AT_FDCWD, &path, 0)?;
    store(call, call.args[1], &metadata)
}

fn lstat(call: &mut Call<'_>) -> SysResult {
    let path = call.read_path(call.args[0])?;
    let metadata = metadata_at(call, libc::AT_FDCWD, &path, libc::AT_SYMLINK_NOFOLLOW)?;
    store(call, call.args[1], &metadata)
}

fn fstat(call: &mut Call<'_>) -> SysResult {
    let metadata = call.file(0)?.metadata(call.kernel)?;
    store(call, call.args[1], &metadata)
}

fn newfstatat(call: &mut Call<'_>) -> SysResult {
    let flags = call.int(3);
    if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let path = call.read_path(call.args[1])?;
    let metadata = metadata_at(call, call.int(0), &path, flags)?;
    store(call, call.args[2], &metadata)
}

fn statx(call: &mut Call<'_>) -> SysResult {
    let flags = call.int(2);
    let known = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT | libc::AT_STATX_SYNC_TYPE;
    let is_contradictory = flags & libc::AT_STATX_SYNC_TYPE == libc::AT_STATX_SYNC_TYPE;
    let is_reserved = call.args[3] as u32 & libc::STATX__RESERVED.cast_unsigned() != 0;
    if flags & !known != 0 || is_contradictory || is_reserved {
        return Err(Errno::EINVAL.into());
    }
    let path = call.read_path(call.args[1])?;
    let metadata = metadata_at(call, call.int(0), &path, flags)?;
    call.write(call.args[4], &Statx::new(&metadata))?;
    Ok(0)
}

fn check_access(call: &mut Call<'_>, fd: i32, path_address: u64, mode: i32, flags: i32) -> SysResult {
    if mode & !7 != 0 || flags & !(libc::AT_EACCESS | libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let path = call.read_path(path_address)?;
    let location = call.locate(fd, &path, flags)?;
    let metadata = location.metadata(call.kernel)?;
    let wanted = mode.cast_unsigned();
    if wanted & crate::fs::metadata::MAY_WRITE != 0 && matches!(location.node, Node::Host(_)) && !metadata.is_link() {
        return Err(Errno::EROFS.into());
    }
    let mut credentials = Walker::new(call.kernel, call.pid)?.credentials().clone();
    if flags & libc::AT_EACCESS == 0 {
        credentials = credentials.of_real_user();
    }
    metadata.check(&credentials, wanted)?;
    Ok(0)
}

fn access(call: &mut Call<'_>) -> SysResult {
    check_access(call, libc::AT_FDCWD, call.args[0], call.int(1), 0)
}

fn faccessat(call: &mut Call<'_>) -> SysResult {
    check_access(call, call.int(0), call.args[1], call.int(2), 0)
}

fn faccessat2(call: &mut Call<'_>) -> SysResult {
    check_access(call, call.int(0), call.args[1], call.int(2), call.int(3))
}

fn statfs_of(call: &Call<'_>, location: &Location) -> Result<Statfs, Errno> {
    let common =
        Statfs { block_bytes: BLOCK_BYTES, fragment_bytes: BLOCK_BYTES, name_bytes_max: 255, ..Statfs::default() };
    let frames = &call.kernel.frames;
    Ok(match &location.node {
        Node::Tmp(inode) => {
            let fs = inode.file_system();
            let (limit, used) = (u64::from(frames.limit(fs.charge())), u64::from(frames.used(fs.charge())));
            let (files, files_max) = fs.inode_counts();
            let free = limit.saturating_sub(used);
            Statfs {
                kind: if fs.is_overlay() { MAGIC_OVERLAY } else { MAGIC_TMPFS },
                blocks: limit,
                blocks_free: free,
                blocks_available: free,
                files: files_max,
                files_free: files_max.saturating_sub(files),
                ..common
            }
        }
        Node::Host(entry) => {
            let host = entry.statfs()?;
            // The space that the host has free is not the guest's business, and not for it to use.
            Statfs { kind: MAGIC_EXT4, blocks: host.f_blocks, files: host.f_files, flags: libc::ST_RDONLY, ..common }
        }
        Node::Pts(_) => Statfs { kind: MAGIC_DEVPTS, ..common },
        Node::Proc(_) => Statfs { kind: MAGIC_PROC, ..common },
        Node::Fixed(_) => Statfs { kind: MAGIC_SYSFS, ..common },
        Node::Open(file) => match &file.location {
            Some(location) if !matches!(location.node, Node::Open(_)) => return statfs_of(call, location),
            _ => Statfs { kind: MAGIC_PIPEFS, ..common },
        },
    })
}

fn statfs(call: &mut Call<'_>) -> SysResult {
    let path = call.read_path(call.args[0])?;
    let location = call.locate(libc::AT_FDCWD, &path, 0)?;
    call.kernel.frames.reclaim();
    let found = statfs_of(call, &location)?;
    call.write(call.args[1], &found)?;
    Ok(0)
}

fn fstatfs(call: &mut Call<'_>) -> SysResult {
    call.file(0)?;
    let location = call.location_of(call.int(0))?;
    call.kernel.frames.reclaim();
    let found = statfs_of(call, &location)?;
    call.write(call.args[1], &found)?;
    Ok(0)
}
