//! Which platform executes guest code: the one place that decides.

use calypte_wire::monitor::Platform;

/// What a user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// KVM if it can be used, ptrace otherwise.
    #[default]
    Auto,
    /// This one or none.
    Only(Platform),
}

/// What is used.
#[derive(Debug)]
pub struct Chosen {
    /// The platform.
    pub platform: Platform,
    /// Why it is not KVM, if nobody has asked for ptrace. The message ends with what to do about it.
    pub fallback: Option<calypte_kvm::ProbeError>,
}

/// Why there is no platform.
#[derive(Debug, thiserror::Error)]
pub enum ChoiceError {
    /// KVM was asked for.
    #[error("virtual machines cannot be used: {0}")]
    Kvm(calypte_kvm::ProbeError),
    /// Ptrace was asked for.
    #[error("ptrace cannot be used: {0}")]
    Ptrace(calypte_ptrace::ProbeError),
    /// Any would have done.
    #[error("virtual machines cannot be used: {kvm}. Neither can ptrace, which needs none: {ptrace}")]
    Neither {
        /// Why not KVM.
        kvm: calypte_kvm::ProbeError,
        /// Why not ptrace.
        ptrace: calypte_ptrace::ProbeError,
    },
}

/// The platform for a choice on this host.
pub fn choose(choice: Choice) -> Result<Chosen, ChoiceError> {
    decide(choice, calypte_kvm::probe, calypte_ptrace::probe)
}

fn decide(
    choice: Choice,
    kvm: impl FnOnce() -> Result<(), calypte_kvm::ProbeError>,
    ptrace: impl FnOnce() -> Result<(), calypte_ptrace::ProbeError>,
) -> Result<Chosen, ChoiceError> {
    let chosen = |platform| Chosen { platform, fallback: None };
    match choice {
        Choice::Only(Platform::Kvm) => kvm().map(|()| chosen(Platform::Kvm)).map_err(ChoiceError::Kvm),
        Choice::Only(Platform::Ptrace) => ptrace().map(|()| chosen(Platform::Ptrace)).map_err(ChoiceError::Ptrace),
        Choice::Auto => match kvm() {
            Ok(()) => Ok(chosen(Platform::Kvm)),
            Err(reason) => match ptrace() {
                Ok(()) => Ok(Chosen { platform: Platform::Ptrace, fallback: Some(reason) }),
                Err(ptrace) => Err(ChoiceError::Neither { kvm: reason, ptrace }),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_kvm() -> Result<(), calypte_kvm::ProbeError> {
        Err(calypte_kvm::ProbeError::Missing)
    }

    fn no_ptrace() -> Result<(), calypte_ptrace::ProbeError> {
        Err(calypte_ptrace::ProbeError::Forbidden { scope: 3, fix: "fix it" })
    }

    #[test]
    fn kvm_is_preferred_and_what_was_asked_for_is_all_there_is() {
        let platform = |chosen: Result<Chosen, _>| chosen.map(|chosen| (chosen.platform, chosen.fallback.is_some()));
        let (kvm, ptrace) = (Choice::Only(Platform::Kvm), Choice::Only(Platform::Ptrace));
        let check = |choice, has_kvm, has_ptrace, expected| {
            let result = decide(
                choice,
                || if has_kvm { Ok(()) } else { no_kvm() },
                || if has_ptrace { Ok(()) } else { no_ptrace() },
            );
            assert_eq!(platform(result).ok(), expected, "{choice:?} {has_kvm} {has_ptrace}");
        };
        check(Choice::Auto, true, true, Some((Platform::Kvm, false)));
        check(Choice::Auto, true, false, Some((Platform::Kvm, false)));
        check(Choice::Auto, false, true, Some((Platform::Ptrace, true)));
        check(Choice::Auto, false, false, None);
        check(kvm, true, true, Some((Platform::Kvm, false)));
        check(kvm, false, true, None);
        check(ptrace, true, true, Some((Platform::Ptrace, false)));
        check(ptrace, true, false, None);
    }

    #[test]
    fn refusals_say_what_to_do() {
        let error = decide(Choice::Auto, no_kvm, no_ptrace).unwrap_err().to_string();
        assert!(error.contains("--device /dev/kvm") && error.contains("fix it"), "{error}");
    }
}
