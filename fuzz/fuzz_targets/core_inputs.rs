//! See `stepwell::fuzzing::core_inputs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stepwell::fuzzing::core_inputs(data));
