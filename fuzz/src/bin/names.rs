//! Questions about names of a hostile guest, and answers of a hostile name server.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| calypte_fuzz::egress::ask(input));
