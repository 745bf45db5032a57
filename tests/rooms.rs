//! The rooms of the library: each uses only the rooms below it.

use libtest_mimic::Trial;
use std::fs;
use std::path::{Path, PathBuf};

/// The tests of this file.
pub fn trials() -> Vec<Trial> {
    trials![
        use_only_those_below_them,
        contain_the_names_in_contributing,
        use_cfg_portable_and_not_its_feature,
    ]
}

/// The rooms from top to bottom. Files outside all rooms are plain data, at the bottom.
const ROOMS: [&str; 8] = [
    "check", "serve", "report", "route", "cli", "http", "net", DATA,
];
const DATA: &str = "plain data";

fn floor(room: &str) -> usize {
    let found = ROOMS.iter().position(|known| *known == room);
    found.unwrap_or(ROOMS.len() - 1)
}

/// Collects the Rust sources in a folder and its subfolders.
pub fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            found.push(path);
        }
    }
}

/// The rooms and files that a source names after `crate::`, outside its tests.
fn used(source: &str) -> impl Iterator<Item = &str> {
    let code = source
        .split("\n#[cfg(test)]\nmod ")
        .next()
        .unwrap_or(source);
    code.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        &rest[..end.unwrap_or(rest.len())]
    })
}

pub fn use_only_those_below_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 40, "the sources are in {root:?}");
    let mut problems = Vec::new();
    for path in &files {
        let name = path.strip_prefix(&root).expect("it is below the root");
        let mut parts = name.iter().map(|part| part.to_str().expect("UTF-8"));
        let (first, in_room) = (parts.next().expect("a name"), parts.next().is_some());
        if matches!(first, "main.rs" | "lib.rs") {
            continue;
        }
        let room = if in_room { first } else { DATA };
        assert!(ROOMS.contains(&room), "{room} is not in ROOMS");
        let source = fs::read_to_string(path).expect("a source");
        for other in used(&source) {
            if floor(other) < floor(room) {
                problems.push(format!(
                    "{}: {room} uses {other}, which is above it",
                    name.display()
                ));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// The names that CONTRIBUTING.md gives for where to change something are in those files.
pub fn contain_the_names_in_contributing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("CONTRIBUTING.md")).expect("a guide");
    let mut checked = 0;
    for row in text.lines().filter(|line| line.contains("`src/")) {
        for way in row.split("`src/").skip(1) {
            let mut quoted = way.split('`');
            let file = quoted.next().expect("a file");
            let Some(mark) = quoted.nth(1).filter(|_| way.contains("`: `")) else {
                continue;
            };
            let source = fs::read_to_string(root.join("src").join(file));
            let source = source.unwrap_or_else(|error| panic!("src/{file}: {error}"));
            let last = mark.rsplit("::").next().expect("a name");
            assert!(source.contains(last), "src/{file} has no {mark}");
            checked += 1;
        }
    }
    assert_eq!(checked, 8, "names in the table");
}

/// `build.rs` sets `cfg(portable)` for the feature and for every system except Linux, so a
/// condition on the feature alone would be wrong on the other systems.
pub fn use_cfg_portable_and_not_its_feature() {
    let mut files = Vec::new();
    sources(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut files,
    );
    for path in files {
        let source = fs::read_to_string(&path).expect("a source");
        let asks = source.contains("feature = \"portable\"");
        assert!(!asks, "{}: write cfg(portable)", path.display());
    }
}
