//! Proxies for both SOCKS5 and CONNECT: one that sometimes breaks connections, one with few
//! slots, and one that never answers.

use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::connection::{path, Done, Trouble::Wrong, Wire};
use crate::noise::Noise;
use crate::shared::read_some;
use crate::tally::Tally;

/// One in this many connections is broken during the handshake, and as many of the others later.
const HOP_DIES: u64 = 25;

/// Starts a SOCKS5 and CONNECT proxy that sometimes breaks connections, each counted in
/// `injected`; returns its address.
pub fn hop(seed: u64, injected: &'static AtomicU64) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for (number, socket) in listener.incoming().flatten().enumerate() {
            let noise = Noise::new(seed ^ (number as u64) << 8);
            thread::spawn(move || {
                if let Ok(wire) = Wire::new(socket) {
                    // The peers have to notice however it ends.
                    let _ = hop_connection(wire, noise, injected);
                }
            });
        }
    });
    Ok(address)
}

fn hop_connection(mut wire: Wire, mut noise: Noise, injected: &AtomicU64) -> Done {
    let dies = noise.below(HOP_DIES) == 0;
    let by_reset = noise.below(2) == 0;
    let (destination, mut answer) = destination(&mut wire)?;
    if dies {
        injected.fetch_add(1, Relaxed);
        answer.truncate(noise.split(answer.len() - 1));
        wire.send(&answer)?;
        if by_reset {
            wire.reset();
        }
        return Ok(());
    }
    let upstream = Wire::connect(destination)?;
    // The number of bytes, in both directions, after which it is broken.
    let dies_after = match noise.below(HOP_DIES) {
        0 => Some(noise.mostly_small(21) as u64),
        _ => None,
    };
    let cut = noise.split(answer.len());
    wire.send(&answer[..cut])?;
    wire.send(&answer[cut..])?;
    tunnel(wire, upstream, dies_after, injected)
}

/// Starts a proxy that allows `slots` connections at once and refuses the others: by closing
/// them, or with a reply. Returns its address.
pub fn few_slots(slots: usize) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let taken = Arc::new(AtomicUsize::new(0));
    thread::spawn(move || {
        for (number, socket) in listener.incoming().flatten().enumerate() {
            let taken = taken.clone();
            thread::spawn(move || {
                let take = |taken| (taken < slots).then_some(taken + 1);
                let has_slot = taken.fetch_update(Relaxed, Relaxed, take).is_ok();
                if has_slot || number % 2 == 0 {
                    if let Ok(wire) = Wire::new(socket) {
                        let _ = slot_connection(wire, has_slot);
                    }
                }
                if has_slot {
                    taken.fetch_sub(1, Relaxed);
                }
            });
        }
    });
    Ok(address)
}

fn slot_connection(mut wire: Wire, has_slot: bool) -> Done {
    let (destination, mut answer) = destination(&mut wire)?;
    if !has_slot {
        // A general failure (RFC 1928 §6).
        answer[1] = 1;
        wire.send(&answer)?;
        return wire.rest().map(drop);
    }
    let upstream = Wire::connect(destination)?;
    wire.send(&answer)?;
    tunnel(wire, upstream, None, &AtomicU64::new(0))
}

/// The connections of a proxy that never answers.
#[derive(Default)]
pub struct Silent {
    pub accepted: AtomicU64,
    pub ended: AtomicU64,
}

/// Starts a proxy that never answers; returns its address and counts.
pub fn silent(tally: &'static Tally) -> io::Result<(SocketAddr, &'static Silent)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let counts: &'static Silent = Box::leak(Box::default());
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            counts.accepted.fetch_add(1, Relaxed);
            thread::spawn(move || {
                let said = Wire::new(socket).map(|mut wire| wire.rest());
                match said {
                    // The greeting of SOCKS5 has three bytes, or four with a password.
                    Ok(Ok(said)) if said.len() > 4 => {
                        tally.unexpected("a request to a proxy that said nothing".to_owned());
                    }
                    Ok(Err(Wrong(words))) => tally.unexpected(format!("silent proxy: {words}")),
                    _ => {}
                }
                counts.ended.fetch_add(1, Relaxed);
            });
        }
    });
    Ok((address, counts))
}

/// The destination of a client, and the answer that grants it.
fn destination(wire: &mut Wire) -> Done<(SocketAddr, Vec<u8>)> {
    let bad = || Wrong("this is no request to a proxy".to_owned());
    let first = wire.exactly(1)?;
    if first == [5] {
        let methods = wire.exactly(1)?[0];
        wire.exactly(methods.into())?;
        wire.send(&[5, 0])?;
        let request = wire.exactly(10)?;
        let port = u16::from_be_bytes([request[8], request[9]]);
        let ip = [request[4], request[5], request[6], request[7]];
        return Ok(((ip, port).into(), vec![5, 0, 0, 1, 127, 0, 0, 1, 4, 56]));
    }
    let head = wire.head()?;
    let address = path(&head).parse().map_err(|_| bad())?;
    Ok((
        address,
        b"HTTP/1.1 200 Connection established\r\n\r\n".to_vec(),
    ))
}

/// Two joined connections, and how they end.
struct Tunnel {
    /// How many bytes are left before it is broken, if it is to be.
    left: Mutex<Option<u64>>,
    died: AtomicBool,
    /// It was broken here, or one of its ends was reset.
    broken: AtomicBool,
}

fn tunnel(a: Wire, b: Wire, dies_after: Option<u64>, injected: &AtomicU64) -> Done {
    let tunnel = Tunnel {
        left: Mutex::new(dies_after),
        died: AtomicBool::new(false),
        broken: AtomicBool::new(false),
    };
    thread::scope(|scope| {
        scope.spawn(|| tunnel.carry(&a.socket, &b.socket, &a.ahead));
        tunnel.carry(&b.socket, &a.socket, &b.ahead);
    });
    if tunnel.died.load(Relaxed) {
        injected.fetch_add(1, Relaxed);
    }
    // A reset is passed on as a reset: a FIN would be the valid end of a body that is delimited
    // by the close of the connection.
    if tunnel.broken.load(Relaxed) {
        b.reset();
        a.reset();
    }
    Ok(())
}

impl Tunnel {
    /// Copies one direction.
    fn carry(&self, mut from: &TcpStream, mut to: &TcpStream, ahead: &[u8]) {
        // Short, to notice the end of the other direction.
        let _ = from.set_read_timeout(Some(Duration::from_millis(100)));
        let mut piece = vec![0; 32 * 1024];
        let mut sent = to.write_all(ahead);
        while sent.is_ok() && !self.broken.load(Relaxed) {
            let n = match read_some(&mut from, &mut piece) {
                Ok(0) => {
                    let _ = to.shutdown(Shutdown::Write);
                    return;
                }
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(_) => break,
            };
            let lasts = self.take(n);
            sent = to.write_all(&piece[..lasts]);
            if lasts < n {
                self.died.store(true, Relaxed);
                break;
            }
        }
        self.broken.store(true, Relaxed);
    }

    /// How many of `n` bytes are still passed on.
    fn take(&self, n: usize) -> usize {
        let mut left = self.left.lock().expect("not poisoned");
        let lasts = left.map_or(n, |left| n.min(left as usize));
        *left = left.map(|left| left - lasts as u64);
        lasts
    }
}
