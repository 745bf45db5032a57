//! Text that a peer chose, made safe for a terminal and for a log.

use std::fmt::{self, Write as _};

/// The longest such text in one line; the rest is cut.
pub const LONGEST_TEXT: usize = 2000;

/// Bytes that a peer chose: control characters and what is not UTF-8 appear as `\xNN`, and
/// very long text is cut.
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = &self.0[..self.0.len().min(LONGEST_TEXT)];
        for chunk in cut.utf8_chunks() {
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

/// Controls, and the characters that break or reorder a line on a terminal.
pub fn is_unsafe_in_a_line(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_chose_cannot_forge_a_line() {
        for (bytes, expected) in [
            (&b"/a\r\n2026 b"[..], "/a\\x0d\\x0a2026 b"),
            ("/聊天".as_bytes(), "/聊天"),
            (b"/\xff\xfe", "/\\xff\\xfe"),
            ("/\u{85}\u{202e}x".as_bytes(), "/\\xc2\\x85\\xe2\\x80\\xaex"),
            (b"/\x1b[31m", "/\\x1b[31m"),
        ] {
            assert_eq!(Escaped(bytes).to_string(), expected);
        }
        assert_eq!(Escaped(&[b'a'; 5000]).to_string().len(), LONGEST_TEXT + 3);
    }
}
