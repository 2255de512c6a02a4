//! Saved states of guests.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| calypte_fuzz::state::run(input));
