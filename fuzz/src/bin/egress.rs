//! The egress process with a hostile monitor.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| calypte_fuzz::egress::serve(input));
