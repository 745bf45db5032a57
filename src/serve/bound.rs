//! An upstream connection that a client has authenticated (RFC 4559 §5). It serves that client's
//! connection only, and when either ends, so does the other.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;

use futures_lite::AsyncRead;

use crate::net::socket::Socket;
use crate::net::stream::Connection;

/// An upstream connection that is bound to one client connection, between two requests.
pub struct Bound {
    /// No byte after the last response was read from it.
    connection: Connection,
    server_name: Box<str>,
}

impl Bound {
    /// Binds a connection whose last response was read whole, with no byte after it. Its TLS was
    /// set up for `server_name`.
    pub fn new(connection: Connection, server_name: &str) -> Bound {
        debug_assert!(connection.received.is_empty());
        Bound {
            connection,
            server_name: server_name.into(),
        }
    }

    /// Whether it was made for this server name.
    pub fn is_for(&self, server_name: &str) -> bool {
        *self.server_name == *server_name
    }

    /// Waits until the upstream ends the connection, or sends bytes that belong to no response.
    pub async fn ended(&self) {
        poll_fn(|cx| {
            let mut stream = &self.connection.stream;
            // TLS session tickets are read here: they give no byte and are not an end.
            Pin::new(&mut stream).poll_read(cx, &mut [0]).map(drop)
        })
        .await
    }

    /// The connection for the next request; `None` when it has ended meanwhile. This asks the
    /// kernel, since the reactor may not have seen the end yet.
    pub fn take(self) -> Option<Connection> {
        let stream = &self.connection.stream;
        stream.with_socket(Socket::look_again);
        match stream.try_read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(self.connection),
            _ => None,
        }
    }
}
