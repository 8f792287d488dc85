//! The pure core stays pure: what decides where a session goes can be driven through years of faults in a second only
//! as long as it opens no socket and reads no clock.

use std::fs;
use std::path::{Path, PathBuf};

/// The folders of `src/` that are pure; see the map in `src/lib.rs`.
const PURE: [&str; 3] = ["cluster", "routing", "protocol"];

/// Words that give an impure line away.
const FORBIDDEN: [&str; 7] = ["tokio", "reqwest", "std::net", "std::fs", "Instant::now", "SystemTime", "thread::sleep"];

#[test]
fn the_pure_core_knows_no_socket_no_clock_and_no_runtime() {
    let mut looked_at = 0;
    let mut found = Vec::new();
    for folder in PURE {
        for file in pure_files(&source().join(folder)) {
            looked_at += 1;
            found.extend(impurities(&file));
        }
    }
    assert!(looked_at >= 10, "only {looked_at} files were looked at: have the folders moved?");
    assert!(found.is_empty(), "these lines do not belong into the pure core:\n{}", found.join("\n"));
}

#[test]
fn an_impure_line_would_be_found() {
    let text =
        "//! Nothing of tokio here.\nuse std::time::SystemTime; // why\n#[cfg(test)]\nmod tests { use tokio::net; }\n";
    assert_eq!(code_lines(text).collect::<Vec<_>>(), [(1, ""), (2, "use std::time::SystemTime; ")]);
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The files of a folder, but for modules that are compiled for tests only.
fn pure_files(folder: &Path) -> Vec<PathBuf> {
    let root = fs::read_to_string(folder.join("mod.rs")).expect("the folder is a module");
    let for_tests: Vec<String> = root
        .lines()
        .zip(root.lines().skip(1))
        .filter(|(attribute, _)| attribute.trim() == "#[cfg(test)]")
        .filter_map(|(_, line)| Some(line.rsplit_once("mod ")?.1.trim_end_matches(';').to_owned()))
        .collect();
    let entries = fs::read_dir(folder).expect("it is there").filter_map(|entry| Some(entry.ok()?.path()));
    let is_pure = |path: &PathBuf| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        path.extension().is_some_and(|extension| extension == "rs") && !for_tests.contains(&name)
    };
    entries.filter(is_pure).collect()
}

fn impurities(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).expect("is text");
    let impure = code_lines(&text).filter(|(_, line)| FORBIDDEN.iter().any(|word| line.contains(word)));
    impure.map(|(number, line)| format!("{}:{number}: {}", file.display(), line.trim())).collect()
}

/// Lines with their numbers, without comments, up to the tests at the file's end.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    code.lines().enumerate().map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default()))
}
