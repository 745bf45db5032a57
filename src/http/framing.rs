//! How a body ends (RFC 9112 §6.3), and the field that says so.

use crate::http::fields::write_field;
use crate::http::syntax::push_number;

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// The body ends after this many bytes.
    Length(u64),
    /// The body ends with its last chunk.
    Chunked,
    /// The body ends with the connection.
    UntilClose,
}

impl Framing {
    /// Appends the field that announces this framing. `name` is the name of the received field,
    /// whose letter case is kept if it is the right field.
    pub(crate) fn write_field(self, out: &mut Vec<u8>, name: &str) {
        match self {
            Framing::None | Framing::UntilClose => {}
            Framing::Length(length) => {
                let name = match name.len() {
                    14 => name,
                    _ => "Content-Length",
                };
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(b": ");
                push_number(out, length);
                out.extend_from_slice(b"\r\n");
            }
            Framing::Chunked => {
                let name = match name.len() {
                    17 => name,
                    _ => "Transfer-Encoding",
                };
                write_field(out, name, b"chunked");
            }
        }
    }
}
