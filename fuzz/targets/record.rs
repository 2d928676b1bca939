#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| onceonly_fuzz::record(data));
