//! See `stepwell::fuzzing::frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stepwell::fuzzing::frames(data));
