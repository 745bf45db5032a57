//! What Connection says (RFC 9110 §7.6.1), and which fields go no further than one hop.

use crate::http::fields::{values, Header};
use crate::http::syntax::list;

/// The most Connection options in one head.
const MAX_CONNECTION_OPTIONS: usize = 32;

/// What all Connection fields of a head say together (RFC 9110 §7.6.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionOptions {
    /// `close`
    pub close: bool,
    /// `keep-alive`
    pub keep_alive: bool,
    /// `upgrade`
    pub upgrade: bool,
    /// Some option names a field that is for this hop only.
    names_fields: bool,
}

impl ConnectionOptions {
    /// Collects the options of every Connection field. More of them than anyone needs would
    /// only cost time: each is compared with each field.
    pub fn of(fields: &[Header<'_>]) -> Result<ConnectionOptions, &'static str> {
        let mut options = ConnectionOptions::default();
        let mut left = MAX_CONNECTION_OPTIONS;
        for value in values(fields, "connection") {
            for option in list(value) {
                left = left.checked_sub(1).ok_or("too many Connection options")?;
                if option.eq_ignore_ascii_case(b"close") {
                    options.close = true;
                } else if option.eq_ignore_ascii_case(b"keep-alive") {
                    options.keep_alive = true;
                } else if option.eq_ignore_ascii_case(b"upgrade") {
                    options.upgrade = true;
                } else {
                    options.names_fields = true;
                }
            }
        }
        Ok(options)
    }

    /// Whether the field goes no further than this hop. Framing fields and Host are
    /// never dropped by a peer's wish; their writers decide.
    pub fn drop_field(&self, name: &str, fields: &[Header<'_>]) -> bool {
        const HOP_BY_HOP: [&str; 7] = [
            "connection",
            "keep-alive",
            "proxy-connection",
            "proxy-authorization",
            "proxy-authenticate",
            "te",
            "upgrade",
        ];
        const KEPT: [&str; 3] = ["host", "content-length", "transfer-encoding"];
        let is_in = |names: &[&str]| names.iter().any(|n| n.eq_ignore_ascii_case(name));
        if is_in(&HOP_BY_HOP) {
            return true;
        }
        self.names_fields
            && !is_in(&KEPT)
            && values(fields, "connection")
                .any(|value| list(value).any(|o| o.eq_ignore_ascii_case(name.as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field<'b>(name: &'b str, value: &'b str) -> Header<'b> {
        Header {
            name,
            value: value.as_bytes(),
        }
    }

    #[test]
    fn connection_options_drop_what_they_name_but_never_framing() {
        let fields = [
            field("Connection", "Close, x-a ,,"),
            field("connection", "X-B\t,host, content-length"),
        ];
        let options = ConnectionOptions::of(&fields).expect("few");
        assert!(options.close && !options.keep_alive && !options.upgrade);
        for (name, dropped) in [
            ("X-A", true),
            ("x-b", true),
            ("X-C", false),
            ("Host", false),
            ("Content-Length", false),
            ("Keep-Alive", true),
            ("Proxy-Authorization", true),
            ("TE", true),
            ("Trailer", false),
        ] {
            assert_eq!(options.drop_field(name, &fields), dropped, "{name}");
        }
        let many = "a,".repeat(MAX_CONNECTION_OPTIONS);
        assert!(ConnectionOptions::of(&[field("Connection", &many)]).is_ok());
        let more = [field("Connection", &many), field("Connection", "b")];
        assert!(ConnectionOptions::of(&more).is_err());
    }
}
