//! System calls that differ between Linux and other Unix systems: opening and accepting
//! sockets, and sending what is followed by more. Linux does each by one call; elsewhere
//! two or three calls do the same.

#[cfg(not(portable))]
mod linux;
#[cfg(portable)]
mod portable;

#[cfg(not(portable))]
pub use linux::{accept, open_stream, send_part};
#[cfg(portable)]
pub use portable::{accept, open_stream, send_part};

/// Whether the socket listens, as far as the kernel tells: Apple's does not, and every
/// socket is taken for a listener there.
pub fn is_listener(socket: &socket2::Socket) -> bool {
    #[cfg(not(target_vendor = "apple"))]
    let listens = matches!(socket.is_listener(), Ok(true));
    #[cfg(target_vendor = "apple")]
    let listens = socket.local_addr().is_ok();
    listens
}
