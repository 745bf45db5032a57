//! Whether what was sent arrives although the other direction ends, or does not.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use crate::idle::upgraded;
use crate::stats::{Metric, Sample};
use crate::upstream::FLOOD;

/// What the slow client takes, and how often.
const SIP: usize = 64 * 1024;
const PAUSE: Duration = Duration::from_millis(3);

/// The upstream sends much and closes while the client, slow to read, still sends.
pub fn upstream_closes(address: SocketAddr) -> std::io::Result<Sample> {
    let mut socket = upgraded(address, "/flood")?;
    let mut received = 0;
    let mut room = vec![0; SIP];
    loop {
        // What it sends is small: a failed write is not what is measured here.
        let _ = socket.write(&room[..512]);
        match socket.read(&mut room) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => break,
            Ok(n) => received += n,
        }
        sleep(PAUSE);
    }
    Ok(delivered(received))
}

/// The client ends its side; what the upstream sends after that is still for it.
pub fn client_ends(address: SocketAddr) -> std::io::Result<Sample> {
    let mut socket = upgraded(address, "/flood-at-end")?;
    socket.write_all(b"the end")?;
    socket.shutdown(Shutdown::Write)?;
    let mut received = 0;
    let mut room = vec![0; SIP];
    loop {
        match socket.read(&mut room) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => break,
            Ok(n) => received += n,
        }
    }
    Ok(delivered(received))
}

fn delivered(received: usize) -> Sample {
    let mut sample = Sample::default();
    sample.set(Metric::Delivered, received as f64 / FLOOD as f64);
    sample
}
