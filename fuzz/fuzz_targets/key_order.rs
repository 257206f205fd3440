//! See `stepwell::fuzzing::key_order`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stepwell::fuzzing::key_order(data));
