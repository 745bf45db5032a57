//! What a log line is about: a client's connection, or one of its requests.

use std::fmt::{self, Display};
use std::time::Duration;

use crate::net::peer::Peer;
use crate::net::reactor::now;
use crate::net::tick::Tick;
use crate::report::combined::Access;
use crate::report::json::Value;
use crate::report::line::Member;
use crate::text::{Escaped, LONGEST_TEXT};

/// The client connection that log lines belong to: in JSON, each of its lines names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The number of the connection.
    pub connection: u64,
    /// The client's address and port.
    pub address: Peer,
}

impl Client {
    /// The JSON members that identify the connection.
    pub(super) fn members(&self) -> [Member<'_>; 2] {
        [
            ("connection", Value::Number(self.connection)),
            ("client", Value::Shown(&self.address)),
        ]
    }
}

/// What the log needs of a request after its head has been dropped from the buffer.
pub struct Subject {
    client: Client,
    method: Vec<u8>,
    path: Vec<u8>,
    start: Tick,
    access: Option<Box<Access>>,
}

impl Subject {
    /// A subject without a request yet, to be reused for all requests of a connection.
    pub(crate) fn new(client: Client) -> Subject {
        Subject {
            client,
            method: Vec::new(),
            path: Vec::new(),
            start: now(),
            access: Access::wanted(),
        }
    }

    /// Stores the time, the method and the path without the query, truncated to what a line
    /// shows.
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

    /// The client that sent it.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The request's entry for the access log, if one is written.
    pub(crate) fn access(&mut self) -> &mut Option<Box<Access>> {
        &mut self.access
    }

    /// Takes the entry for the access log, for the upgrade that the request became.
    pub(crate) fn into_access(self) -> Option<Box<Access>> {
        self.access
    }

    /// Writes the request's line to the access log, if one is written; `bytes` is the length of
    /// the response body.
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

    /// The time since the request's head arrived.
    pub(crate) fn elapsed(&self) -> Duration {
        now().since(self.start)
    }

    /// The JSON members that identify the request and its connection.
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

/// The end of a request's line: how long it took, and the client's address.
pub(super) struct Took<'a>(pub(super) Duration, pub(super) &'a Client);

impl Display for Took<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Took(time, client) = self;
        write!(f, "{} ms, {}", time.as_millis(), client.address.host())
    }
}

/// A target without its query, which may contain tokens.
pub(super) fn without_query(path: &[u8]) -> &[u8] {
    path.split(|&b| b == b'?').next().unwrap_or_default()
}
