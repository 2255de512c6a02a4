//! How many virtual CPUs there can be.

use crate::guest::platform;

#[test]
fn a_machine_has_at_most_eight_virtual_cpus() {
    let Some(machine) = platform().machine("a_machine_has_at_most_eight_virtual_cpus", 1) else { return };
    let _vcpus: Vec<_> = (0..8).map(|_| machine.create_vcpu().unwrap()).collect();
    let error = machine.create_vcpu().err().expect("a ninth is one too many");
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("at most 8 virtual CPUs"), "{error}");
}
