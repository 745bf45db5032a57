//! Reports the state of the program to the service manager (sd_notify(3)).

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The states that can be reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Connections are being accepted.
    Ready,
    /// No more connections are accepted, and the open ones are being finished.
    Stopping,
}

/// Sends the status to NOTIFY_SOCKET, if it is set. A failure is logged and otherwise ignored.
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

/// The address in NOTIFY_SOCKET: a path, or a name in Linux's abstract namespace after `@`.
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
