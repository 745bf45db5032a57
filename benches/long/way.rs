//! The long way: two TUN devices joined by a forwarder that delays, paces and loses packets,
//! and forgets connections as a NAT does. It needs no queueing discipline of the kernel's,
//! which many kernels lack.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{channel, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::ioctl::{ioctl, opcode, Setter};

/// What happens to packets in each direction.
pub struct Way {
    /// How long one is on its way.
    pub delay: Duration,
    /// Bits per second; may change at any time.
    pub rate: AtomicU64,
    /// How many of a million are lost.
    pub loss: u64,
    /// The connections, by the port at the near end.
    pub nat: Mutex<Nat>,
}

/// What the middlebox remembers.
#[derive(Default)]
pub struct Nat {
    known: HashSet<u16>,
    forgotten: HashSet<u16>,
}

impl Nat {
    /// Forgets all connections: what is sent on them is lost from now on.
    pub fn forget(&mut self) {
        self.forgotten.extend(self.known.drain());
    }

    /// Whether a packet passes. One that opens a connection always does.
    fn passes(&mut self, packet: &[u8], is_outbound: bool) -> bool {
        /// The protocol's number in an IPv4 header (RFC 9293 §7).
        const TCP: u8 = 6;
        if packet.len() < 40 || packet[0] != 0x45 || packet[9] != TCP {
            return true;
        }
        let at = if is_outbound { 20 } else { 22 };
        let port = u16::from_be_bytes([packet[at], packet[at + 1]]);
        let opens = packet[33] & 0x12 == 0x02;
        if opens {
            self.forgotten.remove(&port);
        }
        if self.forgotten.contains(&port) {
            return false;
        }
        self.known.insert(port);
        true
    }
}

/// More than this waiting to be sent is dropped, as a router's queue would.
const QUEUE: Duration = Duration::from_secs(1);

/// `struct ifreq` as TUNSETIFF takes it (netdevice(7)).
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// IP packets (IFF_TUN), without a header of the driver's own (IFF_NO_PI).
const FLAGS: u16 = 0x0001 | 0x1000;

/// The number that the kernel's headers give as `_IOW('T', 202, int)`.
const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 202);

/// Makes a TUN device in the namespace of this process. It can be moved to another one; the
/// file goes on to hold its packets.
pub fn device(name: &str) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    let mut request = Request {
        name: [0; 16],
        flags: FLAGS,
        rest: [0; 22],
    };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads one `struct ifreq`, which `Request` has the layout and the size
    // of, and keeps no pointer to it.
    #[allow(unsafe_code)]
    unsafe {
        ioctl(&file, Setter::<TUNSETIFF, Request>::new(request))?;
    }
    Ok(file)
}

/// Carries the packets of each device to the other for as long as the process lives.
pub fn join(near: File, far: File, way: &Arc<Way>) -> io::Result<()> {
    let (to_near, to_far) = (near.try_clone()?, far.try_clone()?);
    carry(near, to_far, way.clone(), true);
    carry(far, to_near, way.clone(), false);
    Ok(())
}

fn carry(mut from: File, to: File, way: Arc<Way>, is_outbound: bool) {
    let (queue, due) = channel();
    thread::spawn(move || deliver(to, due));
    thread::spawn(move || {
        let mut packet = vec![0; 65536];
        let mut line_free = Instant::now();
        let mut noise: u64 = 0x9e37_79b9_7f4a_7c15;
        while let Ok(n) = from.read(&mut packet) {
            let now = Instant::now();
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            let is_lost = noise % 1_000_000 < way.loss || line_free > now + QUEUE;
            let mut nat = way.nat.lock().expect("no panic holds it");
            if !nat.passes(&packet[..n], is_outbound) || is_lost {
                continue;
            }
            drop(nat);
            let nanoseconds = n as u64 * 8 * 1_000_000_000 / way.rate.load(Relaxed);
            line_free = line_free.max(now) + Duration::from_nanos(nanoseconds);
            if queue
                .send((line_free + way.delay, packet[..n].to_vec()))
                .is_err()
            {
                return;
            }
        }
    });
}

fn deliver(mut to: File, due: Receiver<(Instant, Vec<u8>)>) {
    for (at, packet) in due {
        thread::sleep(at.saturating_duration_since(Instant::now()));
        // A device that is down takes none, like a line that is cut.
        let _ = to.write(&packet);
    }
}
