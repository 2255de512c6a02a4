//! As whom a jailed process goes on, and with which rights.

use rustix::process::{DumpableBehavior, Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// The user and group of a jailed process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// Those of the caller: the process reads the files of the user who started it. In a user namespace if possible.
    Keep,
    /// A user and a group that no other process has. Only root can change to them; others keep theirs, in a user
    /// namespace.
    Own {
        /// User and group id.
        id: u32,
    },
}

/// Empties the set of capabilities that could ever be had. To be called while there are some: it takes one.
pub(crate) fn close_capabilities() {
    // Without the right to do so there is nothing in the bounding set that could be had.
    for capability in CapabilitySet::all() {
        if rustix::thread::capability_is_in_bounding_set(capability) == Ok(true) {
            let _ = rustix::thread::remove_capability_from_bounding_set(capability);
        }
    }
}

/// Changes the user, unless there is a user namespace, in which there is but the one.
pub(crate) fn change(identity: Identity, user_namespace: Option<&Result<(), String>>) -> Result<String, String> {
    match identity {
        _ if matches!(user_namespace, Some(Ok(()))) => Ok("user namespace".to_owned()),
        Identity::Keep if rustix::process::geteuid().is_root() => {
            Ok("stays root, without any capability, to read the files of root".to_owned())
        }
        Identity::Own { id } if rustix::process::geteuid().is_root() => {
            let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
            let change = || {
                rustix::thread::set_thread_groups(&[])?;
                rustix::thread::set_thread_res_gid(gid, gid, gid)?;
                rustix::thread::set_thread_res_uid(uid, uid, uid)
            };
            change().map(|()| format!("user {id}")).map_err(|error| format!("cannot become user {id}: {error}"))
        }
        Identity::Keep | Identity::Own { .. } => {
            Err(user_namespace.and_then(|outcome| outcome.clone().err()).unwrap_or_default())
        }
    }
}

/// Gives up every capability and every way to get one.
pub(crate) fn drop_privileges() -> Result<String, String> {
    let attempt = |step: &str, result: rustix::io::Result<()>| result.map_err(|error| format!("{step}: {error}"));
    attempt("ambient capabilities", rustix::thread::clear_ambient_capability_set())?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    attempt("capabilities", rustix::thread::set_capabilities(None, none))?;
    attempt("no new privileges", rustix::thread::set_no_new_privs(true))?;
    let not_dumpable = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    attempt("non-dumpable", not_dumpable)?;
    Ok("no capabilities, no new privileges, cannot be traced".to_owned())
}
