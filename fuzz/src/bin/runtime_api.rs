//! The Lambda Runtime API of the monitor: connections, HTTP, invocations.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: &[u8]| calypte_monitor::fuzz::fuzz_runtime_api(script));
