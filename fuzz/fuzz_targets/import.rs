//! See `import_file` in `rules.rs`.

#![no_main]

#[path = "../rules.rs"]
#[allow(dead_code, reason = "each target has one of them")]
mod rules;

libfuzzer_sys::fuzz_target!(|data: &[u8]| rules::import_file(data));
