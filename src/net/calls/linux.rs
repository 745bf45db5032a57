//! Linux: one call with flags does what takes several calls elsewhere.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

use rustix::net::{SendFlags, SocketFlags};
use socket2::{Domain, Socket, Type};

/// A stream socket that is non-blocking and not inherited by other programs.
pub fn open_stream(domain: Domain) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    Socket::new(domain, kind, None)
}

/// Accepts a client as a non-blocking socket, which inherits the listener's options. A client
/// of a unix socket has no address.
pub fn accept(listener: &TcpListener) -> io::Result<(TcpStream, Option<SocketAddr>)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, peer) = rustix::net::acceptfrom_with(listener, flags)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    Ok((socket.into(), peer))
}

/// Sends as many bytes as fit, with more to follow immediately: the kernel waits for those
/// before it sends a segment that is not full (MSG_MORE).
pub fn send_part(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
    Ok(rustix::net::send(stream, bytes, flags)?)
}
