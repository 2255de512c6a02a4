//! Namespaces other than the one of mounts, which [`crate::root`] fills.

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::DumpableBehavior;
use rustix::thread::{CapabilitySet, UnshareFlags};

use crate::raw::unshare;
use crate::{Feature, Report};

/// Whether the process may make namespaces without a user namespace.
pub(crate) fn is_privileged() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Enters a user namespace in which the process has every capability, under its own user and group id.
pub(crate) fn enter_user_namespace() -> Result<(), String> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    // The files of a process that is not dumpable belong to root.
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)
        .map_err(|error| format!("the process cannot be made dumpable: {error}"))?;
    unshare(UnshareFlags::NEWUSER).map_err(|error| {
        format!(
            "user namespaces are refused ({error}); see the sysctls user.max_user_namespaces, \
             kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns"
        )
    })?;
    let write = |file: &str, text: String| {
        std::fs::write(file, text).map_err(|error| format!("the user namespace cannot be set up: {file}: {error}"))
    };
    // Required before an ordinary user may map a group (user_namespaces(7)).
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    write("/proc/self/gid_map", format!("{gid} {gid} 1"))
}

/// The next child is the first process of a process id namespace.
pub(crate) fn separate_children() -> Result<String, String> {
    unshare(UnshareFlags::NEWPID).map(|()| "no other process can be named".to_owned()).map_err(refused)
}

/// Puts the process into namespaces of its own, but of the network if it `has_network`. Returns whether its mounts are
/// among them.
pub(crate) fn separate(report: &mut Report, has_network: bool) -> Result<(), String> {
    let mut each = vec![
        (Feature::Ipc, UnshareFlags::NEWIPC, "no object of others is visible"),
        (Feature::HostName, UnshareFlags::NEWUTS, "changes stay inside"),
        (Feature::ControlGroups, UnshareFlags::NEWCGROUP, "no group outside is visible"),
    ];
    if !has_network {
        each.push((Feature::Network, UnshareFlags::NEWNET, "no interface is up"));
    }
    // One call for all of them is the usual case and the cheapest.
    let all = each.iter().fold(UnshareFlags::NEWNS, |all, (_, flag, _)| all | *flag);
    let is_done = unshare(all).is_ok();
    for (feature, flag, detail) in each {
        let outcome = if is_done { Ok(()) } else { unshare(flag).map_err(refused) };
        report.add(feature, outcome.map(|()| detail.to_owned()));
    }
    if !is_done {
        unshare(UnshareFlags::NEWNS).map_err(refused)?;
    }
    // Nothing that is mounted from here on may reach the host, nor anything mounted there this process.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|error| format!("mounts cannot be made private: {error}"))
}

fn refused(error: rustix::io::Errno) -> String {
    match error {
        rustix::io::Errno::PERM => "not permitted here, and no user namespace to permit it".to_owned(),
        error => error.to_string(),
    }
}
