//! Tells the service manager how it stands (sd_notify(3)).

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// What the service manager can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Connections are being accepted.
    Ready,
    /// No more are, and the rest is being finished.
    Stopping,
}

/// Sends the status to NOTIFY_SOCKET, if there is one. A manager that does not listen is
/// no reason to stop.
pub fn notify(status: Status) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let message: &[u8] = match status {
        Status::Ready => b"READY=1\n",
        Status::Stopping => b"STOPPING=1\n",
    };
    let sent = address(&socket)
        .and_then(|address| Ok((UnixDatagram::unbound()?, address)))
        .and_then(|(socket, address)| socket.send_to_addr(message, &address));
    if let Err(error) = sent {
        crate::report::log::not_notified(&crate::error::describe(&error));
    }
}

/// What NOTIFY_SOCKET names: a path, or behind `@` a name of Linux's own.
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    match socket.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => {
            use std::os::linux::net::SocketAddrExt;
            SocketAddr::from_abstract_name(name)
        }
        _ => SocketAddr::from_pathname(socket),
    }
}
