//! Text for terminals and logs: escapes text that a peer chose, and wraps lines to the width of
//! a terminal.

use std::fmt::{self, Write as _};

/// The most bytes of such text in one line; the rest is cut off.
pub(crate) const LONGEST_TEXT: usize = 2000;

/// Bytes that a peer chose. Displays control characters and invalid UTF-8 as `\xNN`, and cuts
/// very long text off.
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = &self.0[..self.0.len().min(LONGEST_TEXT)];
        // Nearly all text is printable ASCII, mostly to the end, and needs no escapes.
        let is_special = |b: &u8| !matches!(b, b' '..=b'~');
        let plain = cut.iter().position(is_special).unwrap_or(cut.len());
        f.write_str(std::str::from_utf8(&cut[..plain]).unwrap_or_default())?;
        for chunk in cut[plain..].utf8_chunks() {
            for c in chunk.valid().chars() {
                if is_unsafe_in_a_line(c) {
                    let mut bytes = [0; 4];
                    for byte in c.encode_utf8(&mut bytes).bytes() {
                        write!(f, "\\x{byte:02x}")?;
                    }
                } else {
                    f.write_char(c)?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        if cut.len() < self.0.len() {
            f.write_str("...")?;
        }
        Ok(())
    }
}

/// Whether a character is a control or may break or reorder a line on a terminal.
pub(crate) fn is_unsafe_in_a_line(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{61c}'
        )
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The most columns of a line for people.
pub(crate) const COLUMNS: usize = 80;

/// Writes words in lines of at most [`COLUMNS`], if no single word is longer, and ends the last
/// line. The first line continues at column `start`, the others are indented by `indent`. A line
/// may be broken between Chinese characters. A word with a no-break space, which is written as a
/// blank, is never broken.
pub(crate) fn wrap(
    out: &mut impl fmt::Write,
    text: &str,
    start: usize,
    indent: usize,
) -> fmt::Result {
    let mut column = start;
    let mut is_first = true;
    for word in text.split(' ') {
        let mut blank = usize::from(!is_first);
        for piece in pieces(word) {
            let width = width(piece);
            if !is_first && column + blank + width > COLUMNS {
                write!(out, "\n{:indent$}", "")?;
                column = indent;
                blank = 0;
            }
            write!(out, "{:blank$}{}", "", piece.replace('\u{a0}', " "))?;
            column += blank + width;
            blank = 0;
            is_first = false;
        }
    }
    writeln!(out)
}

/// The parts of a word between which a line may be broken.
fn pieces(word: &str) -> impl Iterator<Item = &str> {
    let is_kept = word.contains('\u{a0}');
    let mut rest = word;
    std::iter::from_fn(move || {
        let mut before = rest.chars().next()?;
        let mut chars = rest.char_indices().skip(1);
        let end = chars.find_map(|(at, c)| {
            let may_end = !is_kept
                && (is_wide(before) || is_wide(c))
                && !"，。；：、？！）」”…".contains(c)
                && !"（「“".contains(before);
            before = c;
            may_end.then_some(at)
        });
        let (piece, others) = rest.split_at(end.unwrap_or(rest.len()));
        rest = others;
        Some(piece)
    })
}

/// How many columns a text takes on a terminal.
pub fn width(text: &str) -> usize {
    text.chars().map(|c| 1 + usize::from(is_wide(c))).sum()
}

/// Whether a character takes two columns (UAX #11, as far as Chinese text needs it).
fn is_wide(c: char) -> bool {
    matches!(c, '\u{1100}'..='\u{115f}' | '\u{2e80}'..='\u{a4cf}' | '\u{ac00}'..='\u{d7a3}')
        || matches!(c, '\u{f900}'..='\u{faff}' | '\u{fe30}'..='\u{fe6f}' | '\u{ff00}'..='\u{ff60}')
        || matches!(c, '\u{ffe0}'..='\u{ffe6}' | '\u{1f300}'..='\u{1faff}' | '\u{20000}'..='\u{3fffd}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stay_within_the_columns() {
        let wrapped = |text: &str| {
            let mut out = String::new();
            wrap(&mut out, text, 0, 2).unwrap();
            out
        };
        let long = "word ".repeat(40);
        let text = wrapped(long.trim_end());
        assert!(text.lines().all(|line| width(line) <= COLUMNS), "{text}");
        assert_eq!(text.split_whitespace().count(), 40);
        assert!(text.lines().skip(1).all(|line| line.starts_with("  w")));
        let text = wrapped(&"上游，TLS。".repeat(20));
        assert!(text.lines().all(|line| width(line) <= COLUMNS), "{text}");
        assert!(
            !text.contains("\n  ，") && !text.contains("\n  。"),
            "{text}"
        );
        let kept = format!("{} [env:\u{a0}LISTEN_PORT]", "a".repeat(70));
        assert_eq!(wrapped(&kept).lines().nth(1), Some("  [env: LISTEN_PORT]"));
    }

    #[test]
    fn text_of_a_peer_cannot_forge_a_line() {
        for (bytes, expected) in [
            (&b"/a\r\n2026 b"[..], "/a\\x0d\\x0a2026 b"),
            ("/聊天".as_bytes(), "/聊天"),
            (b"/\xff\xfe", "/\\xff\\xfe"),
            ("/\u{85}\u{202e}x".as_bytes(), "/\\xc2\\x85\\xe2\\x80\\xaex"),
            ("/\u{61c}x".as_bytes(), "/\\xd8\\x9cx"),
            (b"/\x1b[31m", "/\\x1b[31m"),
        ] {
            assert_eq!(Escaped(bytes).to_string(), expected);
        }
        assert_eq!(Escaped(&[b'a'; 5000]).to_string().len(), LONGEST_TEXT + 3);
    }
}
