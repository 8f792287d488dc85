//! The rules of the fuzz targets, held against their seeds and what grows from them. `make fuzz` looks further.

#[path = "../../fuzz/rules.rs"]
mod rules;

use std::fs;
use std::path::Path;

/// For each seed. All of them together take half a second.
const OFFSPRING: usize = 3000;

#[test]
fn openings_keep_their_rule() {
    seeds_keep("opening", rules::opening);
}

#[test]
fn proxy_headers_keep_their_rule() {
    seeds_keep("proxy_header", rules::proxy_header);
}

#[test]
fn cancel_keys_keep_their_rule() {
    seeds_keep("cancel", rules::cancel);
}

#[test]
fn logins_keep_their_rule() {
    seeds_keep("login", rules::login);
}

#[test]
fn framing_keeps_its_rule() {
    seeds_keep("framing", rules::framing);
}

#[test]
fn imports_keep_their_rule() {
    seeds_keep("import", rules::import_file);
}

fn seeds_keep(target: &str, rule: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let files = fs::read_dir(directory).expect("each target has seeds");
    let seeds: Vec<Vec<u8>> = files.map(|file| fs::read(file.expect("a file").path()).expect("can be read")).collect();
    assert!(!seeds.is_empty());
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |most: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % most as u64).expect("below a usize")
    };
    for seed in &seeds {
        rule(seed);
        for _ in 0..OFFSPRING {
            let mut data = seed.clone();
            for _ in 0..=below(3) {
                let at = below(data.len() + 1);
                match below(5) {
                    0 => data.truncate(at),
                    1 => data.insert(at, below(256) as u8),
                    2 => data.extend(&seeds[below(seeds.len())]),
                    3 if at < data.len() => drop(data.remove(at)),
                    _ => data.get_mut(at).map_or((), |byte| *byte ^= 1 << below(8)),
                }
            }
            rule(&data);
        }
    }
}
