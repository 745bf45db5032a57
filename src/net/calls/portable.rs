//! Every Unix: only calls that POSIX defines.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use socket2::{Domain, SockRef, Socket, Type};

/// A stream socket that is non-blocking and not inherited by other programs.
pub fn open_stream(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Accepts a client as a non-blocking socket with the options that a listener's clients have.
/// A client of a unix socket has no address.
pub fn accept(listener: &TcpListener) -> io::Result<(TcpStream, Option<SocketAddr>)> {
    let (socket, peer) = SockRef::from(listener).accept()?;
    // Setting options fails on a client that has already gone, which concerns it alone.
    let aborted = |_| io::Error::from(io::ErrorKind::ConnectionAborted);
    socket.set_nonblocking(true).map_err(aborted)?;
    let peer = peer.as_socket();
    if peer.is_some() {
        crate::net::socket::set_options(&socket).map_err(aborted)?;
    }
    Ok((socket.into(), peer))
}

/// Sends as many bytes as fit.
pub fn send_part(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    stream.write(bytes)
}
