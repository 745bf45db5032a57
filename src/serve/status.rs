//! The status page and its data, on a separate port: a page for people, `/status.json` and
//! `/metrics`.
//!
//! The page shows addresses of clients. It is therefore served only under a Host that cannot be
//! the result of DNS rebinding, and no other origin can read it: no response allows that, and
//! the page can be neither framed nor loaded as a resource of another page.

use std::sync::LazyLock;

use base64::prelude::{Engine, BASE64_STANDARD};

use crate::config::Language;

const PAGE: &str = include_str!("status/page.html");
const STYLE: &str = include_str!("status/style.css");
const SCRIPT: &str = include_str!("status/script.js");

/// The page, in the log's language.
pub fn page(language: Language) -> String {
    let lang = match language {
        Language::Chinese => "zh-CN",
        Language::English => "en",
    };
    PAGE.replace("{lang}", lang)
        .replace("{style}", STYLE)
        .replace("{script}", SCRIPT)
}

/// The fields that isolate the page. Its only script and style are allowed by their digests, and
/// nothing is loaded from anywhere else.
pub static PAGE_FIELDS: LazyLock<String> = LazyLock::new(|| {
    let digest = |text: &str| BASE64_STANDARD.encode(openssl::sha::sha256(text.as_bytes()));
    format!(
        "Content-Security-Policy: default-src 'none'; script-src 'sha256-{}'; \
         style-src 'sha256-{}'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'\r\n{DATA_FIELDS}",
        digest(SCRIPT),
        digest(STYLE),
    )
});

/// The fields of everything on this port.
pub const DATA_FIELDS: &str = "X-Content-Type-Options: nosniff\r\n\
     Referrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: same-origin\r\n\
     Cache-Control: no-store\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_complete_and_loads_nothing_from_elsewhere() {
        for language in [Language::Chinese, Language::English] {
            let page = page(language);
            for placeholder in ["{lang}", "{style}", "{script}"] {
                assert!(!page.contains(placeholder), "{placeholder}");
            }
            let page = page.replace("http://www.w3.org/2000/svg", "");
            assert!(!page.contains("http://") && !page.contains("https://"));
            assert!(
                !page.contains("innerHTML"),
                "text of peers must not be set as markup"
            );
        }
    }

    /// A word that is missing in one language would be shown as `undefined`.
    #[test]
    fn every_word_exists_in_both_languages() {
        let names = |from: &str, to: &str| {
            let section = SCRIPT.split(from).nth(1).expect("a language");
            let section = section.split(to).next().expect("its end");
            let mut names: Vec<String> = section
                .split([',', '\n', '{'])
                .filter_map(|part| part.trim().split_once(':'))
                .map(|(name, _)| name.trim().to_owned())
                .filter(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
                .collect();
            names.sort();
            names
        };
        let (english, chinese) = (names("\n  en: {", "\n  zh: {"), names("\n  zh: {", "\n};"));
        assert!(english.len() > 30, "{english:?}");
        assert_eq!(english, chinese);
    }
}
