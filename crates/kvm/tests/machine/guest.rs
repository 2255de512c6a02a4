//! KVM for the conformance suite and for the tests of its own.

use calypte_kvm::{Config, create_machine, probe};
use calypte_testkit::platform::Platform;
use calypte_testkit::platform::guest::Guest;

/// The platform under test.
pub(crate) fn platform() -> Platform {
    Platform {
        create: |frames_max| create_machine(&Config::new(frames_max)),
        missing: probe().err().map(|reason| reason.to_string()),
    }
}

/// A guest about to run `code`, or none, with a message, where there is no KVM.
pub(crate) fn guest(test: &str, code: &[u8]) -> Option<Guest> {
    Guest::new(&platform(), test, code)
}

/// As [`guest`], on a machine with a limit of page tables.
pub(crate) fn guest_with_tables(test: &str, code: &[u8], memory_frames_max: u32, tables_max: u32) -> Option<Guest> {
    let config = Config { memory_frames_max, tables_max: Some(tables_max) };
    platform().machine(test, 1).map(|_| Guest::on(create_machine(&config).unwrap(), code))
}
