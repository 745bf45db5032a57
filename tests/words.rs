//! Checks in the sources that every text for people outside the log exists in English and in
//! Chinese, with the same number of values.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::rooms::sources;

/// The tests of this file.
pub fn trials() -> Vec<Trial> {
    trials![exist_in_both_languages]
}

/// How the source of a text in two languages begins.
const MAKERS: [&str; 4] = ["both!(", "Words::new(", "Text::new(", "en: "];

/// The string literal at the beginning of a piece of source, and the source after it.
fn literal(source: &str) -> Option<(String, &str)> {
    let inside = source.trim_start().strip_prefix('"')?;
    let mut text = String::new();
    let mut chars = inside.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((text, &inside[at + 1..])),
            // Escaped characters, and blanks after an escaped line end, do not matter here.
            '\\' => _ = chars.next(),
            c => text.push(c),
        }
    }
    None
}

/// The pairs of texts in a source, without its tests. Definitions of macros are skipped, since
/// they contain no literals.
fn pairs(source: &str) -> Vec<(String, String)> {
    let code = source
        .split("\n#[cfg(test)]\nmod ")
        .next()
        .unwrap_or(source);
    let makers = MAKERS.iter().flat_map(|maker| code.split(maker).skip(1));
    let pairs = makers.filter_map(|rest| {
        let (english, rest) = literal(rest)?;
        let rest = rest.trim_start().strip_prefix(',').unwrap_or(rest);
        let rest = rest.trim_start().strip_prefix("zh:").unwrap_or(rest);
        let (chinese, _) = literal(rest).unwrap_or_default();
        Some((english, chinese))
    });
    pairs.collect()
}

fn values(text: &str) -> usize {
    text.matches('{').count()
}

pub fn exist_in_both_languages() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![root.join("examples/demo.rs")];
    sources(&root.join("src"), &mut files);
    let mut found = 0;
    for path in files {
        let source = fs::read_to_string(&path).expect("a source");
        for (english, chinese) in pairs(&source) {
            found += 1;
            let place = format!("{}: {english:?}, {chinese:?}", path.display());
            assert!(english.is_ascii(), "not English: {place}");
            // A value such as `zh` is the same in both languages.
            let is_chinese = chinese
                .chars()
                .any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c));
            assert!(is_chinese || english == chinese, "not Chinese: {place}");
            assert_eq!(values(&english), values(&chinese), "values differ: {place}");
        }
    }
    assert!(found > 150, "only {found} texts were found");
}
