//! The options of the Connection field (RFC 9110 §7.6.1), and which fields are hop-by-hop.

use crate::http::fields::{values, Header};
use crate::http::known::Known;
use crate::http::syntax::list;

/// The most Connection options in one head: far more than any peer needs, and few enough that
/// looking up each field among them stays cheap.
const MAX_CONNECTION_OPTIONS: usize = 32;

/// The options of all Connection fields of a head (RFC 9110 §7.6.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionOptions {
    /// `close`
    pub close: bool,
    /// `keep-alive`
    pub keep_alive: bool,
    /// `upgrade`
    pub upgrade: bool,
    /// The other fields that Connection names, in lower case and sorted for binary search.
    /// Nearly always empty.
    named: Vec<Vec<u8>>,
}

impl ConnectionOptions {
    /// Collects the options of every Connection field.
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
                } else if !Known::of(option)
                    .is_some_and(|known| known.is_for_one_hop() || known.is_never_dropped())
                {
                    options.named.push(option.to_ascii_lowercase());
                }
            }
        }
        options.named.sort_unstable();
        Ok(options)
    }

    /// Whether the field is hop-by-hop, and so not forwarded.
    pub fn drops(&self, name: &str) -> bool {
        self.drops_known(Known::of(name.as_bytes()), name)
    }

    /// The same for a field whose name has already been looked up by `Known::of`.
    pub fn drops_known(&self, known: Option<Known>, name: &str) -> bool {
        known.is_some_and(Known::is_for_one_hop)
            || (!self.named.is_empty() && self.names(name.as_bytes()))
    }

    #[cold]
    fn names(&self, name: &[u8]) -> bool {
        self.named.binary_search(&name.to_ascii_lowercase()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::fields::tests::field;

    #[test]
    fn connection_options_drop_what_they_name_but_never_framing() {
        let fields = [
            field("Connection", "Close, x-a ,,"),
            field("connection", "X-B\t,host, content-length"),
        ];
        let options = ConnectionOptions::of(&fields).expect("few options");
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
            assert_eq!(options.drops(name), dropped, "{name}");
        }
        let many = "a,".repeat(MAX_CONNECTION_OPTIONS);
        assert!(ConnectionOptions::of(&[field("Connection", &many)]).is_ok());
        let more = [field("Connection", &many), field("Connection", "b")];
        assert!(ConnectionOptions::of(&more).is_err());
        // Empty elements do not count (RFC 9110 §5.6.1).
        let empty = ",".repeat(31_000);
        assert!(ConnectionOptions::of(&[field("Connection", &empty)]).is_ok());
    }
}
