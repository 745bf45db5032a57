//! Whether bytes are delivered completely after the other direction has ended.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use crate::idle::upgraded;
use crate::stats::{Metric, Sample};
use crate::upstream::FLOOD;

/// How much the slow client reads at a time, and how long it pauses.
const SIP: usize = 64 * 1024;
const PAUSE: Duration = Duration::from_millis(3);

/// The upstream sends much and closes while the client, slow to read, still sends.
pub fn upstream_closes(address: SocketAddr) -> std::io::Result<Sample> {
    let mut socket = upgraded(address, "/flood")?;
    let mut received = 0;
    let mut room = vec![0; SIP];
    loop {
        // A failed write does not matter: only delivery to the client is measured.
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

/// The client ends its side, and the upstream sends much after that.
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
