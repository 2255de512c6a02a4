//! Landlock: the process reads beneath its directories and opens nothing else, whatever descriptors it comes by.

use std::os::fd::OwnedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

/// Newest version of the interface that is made use of.
const NEWEST: ABI = ABI::V6;

/// Restricts the process; TCP only unless it `has_network`.
pub(crate) fn restrict(directories: &[OwnedFd], has_network: bool) -> Result<String, String> {
    let status = ruleset(directories, has_network).map_err(|error| error.to_string())?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => Ok("files, TCP, signals and abstract sockets".to_owned()),
        RulesetStatus::PartiallyEnforced => Ok("as far as this kernel's version of it goes".to_owned()),
        RulesetStatus::NotEnforced => {
            Err("not part of this kernel, or not enabled: it needs `lsm=landlock,…` and Linux 5.13".to_owned())
        }
    }
}

fn ruleset(directories: &[OwnedFd], has_network: bool) -> Result<landlock::RestrictionStatus, RulesetError> {
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let rules = directories.iter().map(|directory| Ok::<_, RulesetError>(PathBeneath::new(directory, read)));
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?;
    if !has_network {
        ruleset = ruleset.handle_access(AccessNet::from_all(NEWEST))?;
    }
    ruleset.create()?.add_rules(rules)?.restrict_self()
}
