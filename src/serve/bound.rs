//! An upstream connection that a client has authenticated (RFC 4559 §5): it serves that
//! client's connection and no other, and neither outlives the other.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;

use futures_lite::AsyncRead;

use crate::net::socket::Socket;
use crate::net::stream::Connection;

/// A connection bound to one client's, between two requests.
pub struct Bound {
    /// Nothing behind the last response was read from it.
    connection: Connection,
    server_name: Box<str>,
}

impl Bound {
    /// Binds a connection whose last response is over and left nothing behind. TLS on it was
    /// made for `server_name`.
    pub fn new(connection: Connection, server_name: &str) -> Bound {
        debug_assert!(connection.received.is_empty());
        Bound {
            connection,
            server_name: server_name.into(),
        }
    }

    /// Whether it leads to the server of that name.
    pub fn is_for(&self, server_name: &str) -> bool {
        *self.server_name == *server_name
    }

    /// Waits until the upstream ends the connection, or says something that answers nothing.
    pub async fn ended(&self) {
        poll_fn(|cx| {
            let mut stream = &self.connection.stream;
            // TLS reads tickets here, which give no byte and are no end.
            Pin::new(&mut stream).poll_read(cx, &mut [0]).map(drop)
        })
        .await
    }

    /// The connection for the next request; none when it has ended meanwhile. The kernel is
    /// asked, since the thread may not have been told yet.
    pub fn take(self) -> Option<Connection> {
        let stream = &self.connection.stream;
        stream.with_socket(Socket::look_again);
        match stream.try_read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(self.connection),
            _ => None,
        }
    }
}
