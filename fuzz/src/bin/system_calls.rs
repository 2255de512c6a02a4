//! System calls with arguments of the fuzzer's choice, from a guest without guest code.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: &[u8]| calypte_fuzz::guest::run(script));
