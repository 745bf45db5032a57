//! Every Unix: calls that POSIX has.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use socket2::{Domain, SockRef, Socket, Type};

/// A stream socket that is non-blocking and not inherited by other programs.
pub fn open_stream(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Accepts a client, non-blocking as well; it has the listener's options. On a unix socket it
/// has no address.
pub fn accept(listener: &TcpListener) -> io::Result<(TcpStream, Option<SocketAddr>)> {
    let (socket, peer) = SockRef::from(listener).accept()?;
    // A client that is gone by now cannot be given options; it concerns nobody else.
    let aborted = |_| io::Error::from(io::ErrorKind::ConnectionAborted);
    socket.set_nonblocking(true).map_err(aborted)?;
    let peer = peer.as_socket();
    if peer.is_some() {
        crate::net::socket::set_options(&socket).map_err(aborted)?;
    }
    Ok((socket.into(), peer))
}

/// Sends what fits.
pub fn send_part(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    stream.write(bytes)
}
