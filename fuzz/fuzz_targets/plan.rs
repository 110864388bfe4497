#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| sliderun_fuzz::targets::plan(data));
