//! Whether this host lets us run virtual machines, and what to do if not.

use std::io;
use std::os::unix::fs::MetadataExt;

use kvm_bindings::{KVM_API_VERSION, KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS};
use kvm_ioctls::{Cap, Kvm};

use crate::arena::CHUNKS_MIN;
use crate::layout::TABLE_SLOT;

/// The device.
const DEVICE: &str = "/dev/kvm";
/// Permission bits of a device that its group may read and write.
const GROUP_MAY_USE: u32 = 0o060;

/// Why virtual machines cannot be run. Each message ends with what to do.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The device is not there.
    #[error(
        "/dev/kvm does not exist. On the host itself: `sudo modprobe kvm_intel` or `sudo modprobe kvm_amd`, with \
         virtualisation enabled in the firmware. In a virtual machine: enable nested virtualisation for it. In a \
         container: start it with `--device /dev/kvm`"
    )]
    Missing,
    /// The device is there and the user may not open it.
    #[error("no permission to open /dev/kvm: {fix}")]
    Denied {
        /// The command that gives the permission.
        fix: String,
    },
    /// The device cannot be opened for another reason.
    #[error("/dev/kvm cannot be opened; if virtualisation is disabled in the firmware, enable it there")]
    Open(#[source] io::Error),
    /// The device does something else than expected.
    #[error("/dev/kvm lacks {lacking}: a Linux kernel from 5.10 on, for 64-bit x86, is needed")]
    Unsuitable {
        /// What is missing.
        lacking: &'static str,
    },
}

/// Checks that this process can run virtual machines.
pub fn probe() -> Result<(), ProbeError> {
    open_device().map(drop)
}

/// Opens the device and checks that it can do what is needed.
pub(crate) fn open_device() -> Result<Kvm, ProbeError> {
    let kvm = Kvm::new().map_err(|error| open_error(error.into()))?;
    let synced = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
    let requirements = [
        (kvm.get_api_version() == KVM_API_VERSION as i32, "the stable API"),
        (kvm.check_extension(Cap::UserMemory), "KVM_CAP_USER_MEMORY"),
        (kvm.check_extension(Cap::ImmediateExit), "KVM_CAP_IMMEDIATE_EXIT"),
        (kvm.check_extension(Cap::Xsave), "KVM_CAP_XSAVE"),
        (kvm.check_extension_int(Cap::SyncRegs) as u32 & synced == synced, "KVM_CAP_SYNC_REGS"),
        (kvm.get_nr_memslots() >= (TABLE_SLOT + CHUNKS_MIN) as usize, "memory slots"),
    ];
    match requirements.into_iter().find(|(is_met, _)| !is_met) {
        Some((_, lacking)) => Err(ProbeError::Unsuitable { lacking }),
        None => Ok(kvm),
    }
}

fn open_error(error: io::Error) -> ProbeError {
    match error.kind() {
        io::ErrorKind::NotFound => ProbeError::Missing,
        io::ErrorKind::PermissionDenied => {
            let device = std::fs::metadata(DEVICE).ok();
            let group =
                device.filter(|device| device.mode() & GROUP_MAY_USE == GROUP_MAY_USE).map(|device| device.gid());
            let group = group.filter(|&gid| gid != 0).and_then(group_name);
            ProbeError::Denied { fix: permission_fix(group.as_deref()) }
        }
        _ => ProbeError::Open(error),
    }
}

/// The command that lets the user open a device which `group` may use, if any group may.
fn permission_fix(group: Option<&str>) -> String {
    match group {
        Some(group) => format!("run `sudo usermod -aG {group} $USER`, then log in again"),
        None => {
            format!(
                "run `sudo setfacl -m u:$USER:rw {DEVICE}` (until the next boot), or make the device belong to a group"
            )
        }
    }
}

fn group_name(gid: u32) -> Option<String> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_names_the_fix() {
        let missing = open_error(io::Error::from_raw_os_error(libc::ENOENT)).to_string();
        assert!(missing.contains("modprobe kvm_intel") && missing.contains("--device /dev/kvm"), "{missing}");
        let denied = open_error(io::Error::from_raw_os_error(libc::EACCES)).to_string();
        assert!(denied.contains("sudo "), "{denied}");
        assert!(permission_fix(Some("kvm")).contains("usermod -aG kvm $USER"));
        assert!(permission_fix(None).contains("setfacl -m u:$USER:rw /dev/kvm"));
    }

    #[test]
    fn group_names_are_found() {
        assert_eq!(group_name(0).as_deref(), Some("root"));
        assert_eq!(group_name(u32::MAX - 7), None);
    }
}
