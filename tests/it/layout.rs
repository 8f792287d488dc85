//! The layout stays as `src/lib.rs` and `src/proxy/mod.rs` describe it: imports run down, no files import each other in a
//! circle, and the pure rooms use no runtime, no sockets, no clock.
//!
//! `cargo test --test it layout -- --nocapture` prints the arrows between the rooms.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms of `src/` that are pure: what decides where a session goes can be driven through years of faults in a second
/// only as long as it opens no socket and reads no clock.
const PURE: [&str; 4] = ["cluster", "routing", "protocol", "import"];

/// External paths that make a pure room impure. Types of addresses are data; sockets are not.
const IMPURE: [&str; 12] = [
    "tokio",
    "reqwest",
    "axum",
    "rustix",
    "socket2",
    "std::fs",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::net",
    "std::os",
];

/// Parts of the above that are mere data.
const DATA: [&str; 4] = ["std::net::IpAddr", "std::net::SocketAddr", "std::net::Ipv4Addr", "std::net::Ipv6Addr"];

#[test]
fn imports_run_down_between_the_rooms() {
    let modules = modules();
    let order = order_in("src/lib.rs");
    let mut arrows = BTreeSet::new();
    for (module, paths) in &modules {
        for path in paths.iter().filter_map(|path| resolve(&modules, path)) {
            let (from, to) = (room(module), room(path));
            if from != to {
                arrows.insert((from, to));
            }
        }
    }
    for (from, to) in &arrows {
        println!("{from} → {to}");
    }
    assert!(arrows.len() >= 15, "only {} arrows were found: are imports still read?", arrows.len());
    assert_all_run_down(&arrows, &order);
}

#[test]
fn imports_run_down_within_the_proxy() {
    let modules = modules();
    let order = order_in("src/proxy/mod.rs");
    let within =
        |path: &str| path.strip_prefix("proxy::").map(|rest| rest.split("::").next().unwrap_or(rest).to_owned());
    let mut arrows = BTreeSet::new();
    for (module, paths) in &modules {
        let Some(from) = within(module) else { continue };
        for to in paths.iter().filter_map(|path| within(resolve(&modules, path)?)) {
            if from != to {
                arrows.insert((from.clone(), to));
            }
        }
    }
    let arrows: BTreeSet<(&str, &str)> = arrows.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect();
    assert!(arrows.len() >= 15, "only {} arrows were found: are imports still read?", arrows.len());
    assert_all_run_down(&arrows, &order);
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let modules = modules();
    let imports: BTreeMap<&str, Vec<&str>> = modules
        .iter()
        .map(|(module, paths)| {
            let imported = paths.iter().filter_map(|path| resolve(&modules, path)).filter(|other| other != module);
            (module.as_str(), imported.collect())
        })
        .collect();
    let circles: Vec<String> = imports.keys().filter_map(|start| circle_from(start, &imports)).collect();
    assert!(circles.is_empty(), "these files import each other:\n{}", circles.join("\n"));
}

#[test]
fn the_pure_rooms_use_no_socket_no_clock_and_no_runtime() {
    let modules = modules();
    let pure = modules.iter().filter(|(module, _)| PURE.contains(&room(module)));
    let mut looked_at = 0;
    let mut found = Vec::new();
    for (module, paths) in pure {
        looked_at += 1;
        let is_impure = |path: &&String| {
            let starts = |prefix: &&str| path.as_str() == *prefix || path.starts_with(&format!("{prefix}::"));
            IMPURE.iter().any(&starts) && !DATA.iter().any(starts)
        };
        found.extend(paths.iter().filter(is_impure).map(|path| format!("{module} uses {path}")));
    }
    assert!(looked_at >= 10, "only {looked_at} files were looked at: have the rooms moved?");
    assert!(found.is_empty(), "these do not belong into the pure rooms:\n{}", found.join("\n"));
}

#[test]
fn imports_are_read_in_every_form() {
    let text = "//! use crate::no::comment;\nuse crate::a::{self, b::C, d::{E, f}};\nuse core::net::TcpStream as Socket;\n\
                fn g() { super::h::i(); std::time::Instant::now(); }\n#[cfg(test)]\nmod tests { use crate::not_for_tests; }\n";
    let expected =
        ["a", "a::b::C", "a::d::E", "a::d::f", "room::h::i", "std::net::TcpStream", "std::time::Instant::now"];
    let paths = paths_in(text, "room::file", false);
    assert!(expected.iter().all(|path| paths.contains(*path)), "{paths:?}");
    assert!(
        !paths.iter().any(|path| path.contains("no") && path.contains("comment") || path.contains("not_for")),
        "{paths:?}"
    );
}

fn assert_all_run_down(arrows: &BTreeSet<(&str, &str)>, order: &[String]) {
    let floor = |name: &str| {
        let found = order.iter().position(|listed| listed == name);
        found.unwrap_or_else(|| panic!("\"{name}\" is missing in the order: {order:?}"))
    };
    let up: Vec<String> =
        arrows.iter().filter(|(from, to)| floor(from) > floor(to)).map(|(from, to)| format!("{from} → {to}")).collect();
    assert!(up.is_empty(), "these arrows run back up:\n{}", up.join("\n"));
}

/// The order that a file's documentation states, in its line of arrows.
fn order_in(file: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(file)).expect("is text");
    let line = text.lines().find(|line| line.starts_with("//!") && line.matches('→').count() > 3);
    let line = line.unwrap_or_else(|| panic!("{file} states no order")).trim_start_matches("//!");
    line.split('→').map(|name| name.trim().trim_matches(['`', '.']).to_owned()).collect()
}

/// A circle that begins and ends at `start`, in words.
fn circle_from(start: &str, imports: &BTreeMap<&str, Vec<&str>>) -> Option<String> {
    let mut paths = vec![vec![start]];
    let mut seen = BTreeSet::new();
    while let Some(path) = paths.pop() {
        for next in &imports[path[path.len() - 1]] {
            if *next == start {
                return Some([&path[..], &[start]].concat().join(" → "));
            }
            if seen.insert(*next) {
                paths.push([&path[..], &[*next]].concat());
            }
        }
    }
    None
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn room(path: &str) -> &str {
    path.split("::").next().unwrap_or(path)
}

/// The longest beginning of `path` that is a module.
fn resolve<'m>(modules: &'m BTreeMap<String, BTreeSet<String>>, path: &str) -> Option<&'m str> {
    let mut end = path.len();
    loop {
        if let Some((module, _)) = modules.get_key_value(&path[..end]) {
            return Some(module);
        }
        end = path[..end].rfind("::")?;
    }
}

/// Every module of `src/` that is a file of its own and not for tests only, with the paths that it uses.
fn modules() -> BTreeMap<String, BTreeSet<String>> {
    let source = root().join("src");
    let mut files = Vec::new();
    collect(&source, &mut files);
    let mut modules = BTreeMap::new();
    for file in files {
        let relative = file.strip_prefix(&source).expect("is below").with_extension("");
        let mut names: Vec<String> = relative.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        let is_root = names.last().is_some_and(|name| name == "mod");
        if is_root {
            names.pop();
        }
        let module = names.join("::");
        let text = fs::read_to_string(&file).expect("is text");
        modules.insert(module.clone(), paths_in(&text, &module, is_root));
    }
    modules
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).expect("is a folder").filter_map(|entry| Some(entry.ok()?.path()));
    for path in entries {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if ["tests", "simulation", "fixtures", "world", "main", "lib"].contains(&name.as_str()) {
            continue; // for tests only, or above every room
        }
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The paths that a module uses outside of its tests, by `use` or in full, from the crate's root on or from the name of
/// another crate.
fn paths_in(text: &str, module: &str, is_root: bool) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let code: String = code.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n").collect();
    let mut paths = BTreeSet::new();
    for statement in code.split("use ").skip(1).filter_map(|rest| rest.split(';').next()) {
        if statement.contains("::") && !statement.contains(['(', '"', '=']) {
            let compact: String = statement.split(" as ").next().unwrap_or_default().split_whitespace().collect();
            expand("", &compact, &mut paths);
        }
    }
    for word in code.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')) {
        let is_path =
            ["crate::", "super::", "self::", "std::", "core::", "tokio::"].iter().any(|start| word.starts_with(start));
        if is_path && !word.ends_with(':') {
            paths.insert(word.to_owned()); // one that ends so is the beginning of a tree, see above
        }
    }
    paths.iter().filter_map(|path| absolute(path, module, is_root)).collect()
}

/// `a::{b, c::{d, e}}` is `a::b`, `a::c::d` and `a::c::e`.
fn expand(prefix: &str, tree: &str, paths: &mut BTreeSet<String>) {
    let Some((head, body)) = tree.split_once('{') else {
        let path = format!("{prefix}{tree}");
        paths.insert(path.trim_end_matches("::self").to_owned());
        return;
    };
    let body = body.strip_suffix('}').unwrap_or(body);
    let (mut depth, mut from) = (0, 0);
    for (at, letter) in body.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&format!("{prefix}{head}"), &body[from..at], paths);
                from = at + 1;
            }
            _ => {}
        }
    }
    if from < body.len() {
        expand(&format!("{prefix}{head}"), &body[from..], paths);
    }
}

fn absolute(path: &str, module: &str, is_root: bool) -> Option<String> {
    let mut here: Vec<&str> = module.split("::").collect();
    if !is_root {
        here.pop();
    }
    let mut rest = path;
    if let Some(inside) = rest.strip_prefix("crate::") {
        return Some(inside.to_owned());
    }
    if let Some(std) = rest.strip_prefix("core::") {
        return Some(format!("std::{std}"));
    }
    if let Some(below) = rest.strip_prefix("self::") {
        let below = if is_root { below } else { return None };
        return Some([&here[..], &[below]].concat().join("::"));
    }
    if !rest.starts_with("super::") {
        return Some(rest.to_owned());
    }
    if !is_root {
        rest = &rest["super::".len()..]; // the file's own folder
    }
    while let Some(above) = rest.strip_prefix("super::") {
        here.pop()?;
        rest = above;
    }
    Some([&here[..], &[rest]].concat().join("::"))
}
