//! See `stepwell::fuzzing::stored`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stepwell::fuzzing::stored(data));
