//! Who and what a line of the log is about: a client's connection, or one of its requests.

use std::fmt::{self, Display};
use std::time::Duration;

use crate::net::peer::Peer;
use crate::net::reactor::now;
use crate::net::tick::Tick;
use crate::report::combined::Access;
use crate::report::json::Value;
use crate::report::line::Member;
use crate::text::{Escaped, LONGEST_TEXT};

/// Whose lines they are: every line of a connection names it in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The number of its connection.
    pub connection: u64,
    /// Its address and port.
    pub address: Peer,
}

impl Client {
    /// What names it in every line, in JSON.
    pub(super) fn members(&self) -> [Member<'_>; 2] {
        [
            ("connection", Value::Number(self.connection)),
            ("client", Value::Shown(&self.address)),
        ]
    }
}

/// What the log calls one request, kept after its head is gone.
pub struct Subject {
    client: Client,
    method: Vec<u8>,
    path: Vec<u8>,
    start: Tick,
    access: Option<Box<Access>>,
}

impl Subject {
    /// For the requests of one client.
    pub(crate) fn new(client: Client) -> Subject {
        Subject {
            client,
            method: Vec::new(),
            path: Vec::new(),
            start: now(),
            access: Access::wanted(),
        }
    }

    /// Remembers method and path, no more of either than a line shows, and the time; the
    /// query stays out of the log.
    pub(crate) fn set(&mut self, method: &str, path: &[u8]) {
        self.start = now();
        for (kept, text) in [
            (&mut self.method, method.as_bytes()),
            (&mut self.path, without_query(path)),
        ] {
            let shown = text.len().min(LONGEST_TEXT + 1);
            kept.clear();
            kept.extend_from_slice(&text[..shown]);
        }
    }

    /// Who sends it.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// What the access log says of the request, where one is kept.
    pub(crate) fn access(&mut self) -> &mut Option<Box<Access>> {
        &mut self.access
    }

    /// What the access log will say of the upgrade that the request became.
    pub(crate) fn into_access(self) -> Option<Box<Access>> {
        self.access
    }

    /// Writes the request's line into the access log, where one is kept: it was answered by
    /// so many bytes of body.
    pub(crate) fn answered(&mut self, status: u16, bytes: u64) {
        if let Some(access) = &mut self.access {
            access.answered(&self.client, status, bytes);
        }
    }

    /// The method.
    pub(crate) fn method(&self) -> &[u8] {
        &self.method
    }

    /// The path, without query.
    pub(crate) fn path(&self) -> &[u8] {
        &self.path
    }

    /// How long ago the request's head was there.
    pub(crate) fn elapsed(&self) -> Duration {
        now().since(self.start)
    }

    /// What names it in every line, in JSON.
    pub(super) fn members(&self) -> [Member<'_>; 4] {
        let [connection, client] = self.client.members();
        [
            connection,
            client,
            ("method", Value::Bytes(&self.method)),
            ("path", Value::Bytes(&self.path)),
        ]
    }
}

impl Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", Escaped(&self.method), Escaped(&self.path))
    }
}

/// How long a request took, and who sent it: what ends its line.
pub(super) struct Took<'a>(pub(super) Duration, pub(super) &'a Client);

impl Display for Took<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Took(time, client) = self;
        write!(f, "{} ms, {}", time.as_millis(), client.address.host())
    }
}

/// A target without its query, which may hold tokens.
pub(super) fn without_query(path: &[u8]) -> &[u8] {
    path.split(|&b| b == b'?').next().unwrap_or_default()
}
