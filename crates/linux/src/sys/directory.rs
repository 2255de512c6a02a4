//! Directories: `getdents64(2)`, `getcwd(2)`, `chdir(2)`, `mkdir(2)`, `rmdir(2)`.

use crate::call::{Call, PATH_BYTES_MAX};
use crate::errno::Errno;
use crate::file::{Body, Listing};
use crate::fs::Location;
use crate::fs::change::{self, Made};
use crate::fs::listing::Entry;
use crate::fs::metadata::MAY_EXECUTE;
use crate::fs::walk::Walker;
use crate::outcome::SysResult;
use crate::sys::entry;
use crate::sys::vector::BYTES_MAX;
use crate::table::SystemCall;

const NAMES: &str = "directories of up to 100,000 names (EOVERFLOW)";

/// The calls of this family.
pub const CALLS: &[SystemCall] = &[
    entry(78, "getdents", getdents).supports(NAMES),
    entry(79, "getcwd", getcwd),
    entry(80, "chdir", chdir),
    entry(81, "fchdir", fchdir),
    entry(83, "mkdir", mkdir),
    entry(84, "rmdir", rmdir),
    entry(217, "getdents64", getdents64).supports(NAMES),
    entry(258, "mkdirat", mkdirat),
];

/// One record as the guest gets it; `next` is the position of the record after it.
type Encode = fn(entry: &Entry, next: u64) -> Vec<u8>;

/// `struct linux_dirent64`.
fn encode64(entry: &Entry, next: u64) -> Vec<u8> {
    let length = (8 + 8 + 2 + 1 + entry.name.len() + 1).next_multiple_of(8);
    let mut record = Vec::with_capacity(length);
    record.extend_from_slice(&entry.inode.to_ne_bytes());
    record.extend_from_slice(&next.to_ne_bytes());
    record.extend_from_slice(&(length as u16).to_ne_bytes());
    record.push(entry.kind);
    record.extend_from_slice(&entry.name);
    record.resize(length, 0);
    record
}

/// `struct linux_dirent`: the type is in the last byte.
fn encode_old(entry: &Entry, next: u64) -> Vec<u8> {
    let length = (8 + 8 + 2 + entry.name.len() + 1 + 1).next_multiple_of(8);
    let mut record = Vec::with_capacity(length);
    record.extend_from_slice(&entry.inode.to_ne_bytes());
    record.extend_from_slice(&next.to_ne_bytes());
    record.extend_from_slice(&(length as u16).to_ne_bytes());
    record.extend_from_slice(&entry.name);
    record.resize(length - 1, 0);
    record.push(entry.kind);
    record
}

fn read_entries(call: &mut Call<'_>, encode: Encode) -> SysResult {
    let file = call.usable_file(0)?;
    let Body::Directory(cached) = &file.body else { return Err(Errno::ENOTDIR.into()) };
    let room = usize::try_from(call.args[2]).unwrap_or(usize::MAX).min(BYTES_MAX);
    let location = file.location.as_ref().ok_or(Errno::ENOTDIR)?;
    if cached.lock().is_none() {
        let entries = location.list(call.kernel, call.pid)?;
        *cached.lock() = Some(Listing::new(entries, call.kernel.files.buffers())?);
    }
    let mut records = Vec::new();
    let mut position = file.offset();
    {
        let cached = cached.lock();
        let entries = cached.as_ref().map_or(&[][..], |listing| &listing.entries);
        let first = usize::try_from(position).unwrap_or(usize::MAX).min(entries.len());
        for entry in &entries[first..] {
            let record = encode(entry, position + 1);
            if records.len() + record.len() > room {
                if records.is_empty() {
                    return Err(Errno::EINVAL.into());
                }
                break;
            }
            records.extend_from_slice(&record);
            position += 1;
        }
    }
    call.write_bytes(call.args[1], &records)?;
    file.tell(libc::IN_ACCESS);
    file.set_offset(position);
    Ok(records.len() as u64)
}

fn getdents64(call: &mut Call<'_>) -> SysResult {
    read_entries(call, encode64)
}

fn getdents(call: &mut Call<'_>) -> SysResult {
    read_entries(call, encode_old)
}

fn getcwd(call: &mut Call<'_>) -> SysResult {
    let cwd = call.process().cwd();
    let mut path = cwd.path(&call.kernel.files).ok_or(Errno::ENOENT)?;
    path.push(0);
    if path.len() > PATH_BYTES_MAX {
        return Err(Errno::ENAMETOOLONG.into());
    }
    if (path.len() as u64) > call.args[1] {
        return Err(Errno::ERANGE.into());
    }
    call.write_bytes(call.args[0], &path)?;
    Ok(path.len() as u64)
}

fn change_to(call: &mut Call<'_>, location: Location) -> SysResult {
    if !location.is_directory() {
        return Err(Errno::ENOTDIR.into());
    }
    let credentials = Walker::new(call.kernel, call.pid)?.credentials();
    location.metadata(call.kernel)?.check(credentials, MAY_EXECUTE)?;
    call.process().set_cwd(location);
    Ok(0)
}

fn chdir(call: &mut Call<'_>) -> SysResult {
    let path = call.read_path(call.args[0])?;
    let location = call.locate(libc::AT_FDCWD, &path, 0)?;
    change_to(call, location)
}

fn fchdir(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let location = file.location.clone().ok_or(Errno::ENOTDIR)?;
    change_to(call, location)
}

fn make_directory(call: &mut Call<'_>, fd: i32, path_address: u64, mode: u64) -> SysResult {
    let path = call.read_path(path_address)?;
    let permissions = call.permissions(mode) & 0o1777;
    let base = call.base(fd, &path)?;
    change::make(call.kernel, call.pid, &base, &path, Made::Directory, permissions)?;
    Ok(0)
}

fn mkdir(call: &mut Call<'_>) -> SysResult {
    make_directory(call, libc::AT_FDCWD, call.args[0], call.args[1])
}

fn mkdirat(call: &mut Call<'_>) -> SysResult {
    make_directory(call, call.int(0), call.args[1], call.args[2])
}

fn rmdir(call: &mut Call<'_>) -> SysResult {
    let path = call.read_path(call.args[0])?;
    let base = call.base(libc::AT_FDCWD, &path)?;
    change::remove_directory(call.kernel, call.pid, &base, &path)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_aligned_and_hold_name_and_type() {
        for length in 1..20 {
            let entry = Entry { inode: 7, kind: libc::DT_REG, name: vec![b'n'; length] };
            let (record, old) = (encode64(&entry, 3), encode_old(&entry, 3));
            assert_eq!((record.len() % 8, old.len() % 8), (0, 0));
            assert_eq!(usize::from(u16::from_ne_bytes([record[16], record[17]])), record.len());
            assert_eq!((record[18], old[old.len() - 1]), (libc::DT_REG, libc::DT_REG));
            assert_eq!((record[19 + length], old[18 + length]), (0, 0), "the name ends with a zero");
        }
    }
}
