//! System calls that differ between Linux and other Unix systems: opening and accepting
//! sockets, and sending bytes that more will follow. Linux does each with one call; other
//! systems take two or three to open and accept, and have no flag for the last.

#[cfg(not(portable))]
mod linux;
#[cfg(portable)]
mod portable;

#[cfg(not(portable))]
pub use linux::{accept, open_stream, send_part};
#[cfg(portable)]
pub use portable::{accept, open_stream, send_part};

/// Whether the socket listens. Apple's kernel does not say, so every socket with a local
/// address counts as a listener there.
pub fn is_listener(socket: &socket2::Socket) -> bool {
    #[cfg(not(target_vendor = "apple"))]
    let listens = matches!(socket.is_listener(), Ok(true));
    #[cfg(target_vendor = "apple")]
    let listens = socket.local_addr().is_ok();
    listens
}
