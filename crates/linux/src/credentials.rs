//! Who a process is: `credentials(7)`.

use serde::{Deserialize, Serialize};

/// Most supplementary groups (Linux's `NGROUPS_MAX` is 65,536; ours bounds what a call copies).
pub const GROUPS_MAX: usize = 64;

/// User and group ids. Zero by default: the guest's root, which is nobody on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Real user id.
    pub uid: u32,
    /// Effective user id.
    pub uid_effective: u32,
    /// Saved user id.
    pub uid_saved: u32,
    /// The user id that file permissions are checked against: it follows the effective one (`setfsuid(2)`).
    pub uid_file: u32,
    /// Real group id.
    pub gid: u32,
    /// Effective group id.
    pub gid_effective: u32,
    /// Saved group id.
    pub gid_saved: u32,
    /// The group id that file permissions are checked against.
    pub gid_file: u32,
    /// Supplementary groups, at most [`GROUPS_MAX`].
    pub groups: Vec<u32>,
}

impl Credentials {
    /// Whether file permissions do not bind it.
    pub fn is_file_root(&self) -> bool {
        self.uid_file == 0
    }

    /// What `execve(2)` does: the saved ids are the effective ones from now on.
    pub fn settle(&mut self) {
        (self.uid_saved, self.uid_file) = (self.uid_effective, self.uid_effective);
        (self.gid_saved, self.gid_file) = (self.gid_effective, self.gid_effective);
    }

    /// Those that `access(2)` checks: of the real user.
    pub fn of_real_user(&self) -> Self {
        Self { uid_file: self.uid, gid_file: self.gid, ..self.clone() }
    }

    /// Whether files of a group are used with the group's permissions.
    pub fn is_member(&self, gid: u32) -> bool {
        self.gid_file == gid || self.groups.contains(&gid)
    }
}
