//! The emulated path: two TUN devices joined by a forwarder that delays, paces and drops packets,
//! and forgets connections as a NAT does. It needs no queueing discipline (netem), which many
//! kernels lack.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{channel, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::ioctl::{ioctl, opcode, Setter};

/// The properties of the path, in each direction.
pub struct Way {
    /// The delay of a packet.
    pub delay: Duration,
    /// The rate in bits per second, which may change at any time.
    pub rate: AtomicU64,
    /// How many packets of a million are lost.
    pub loss: u64,
    /// The connections, by the port at the near end.
    pub nat: Mutex<Nat>,
}

/// The connections that the emulated NAT knows and has forgotten.
#[derive(Default)]
pub struct Nat {
    known: HashSet<u16>,
    forgotten: HashSet<u16>,
}

impl Nat {
    /// Forgets all connections, so that their packets are dropped from now on.
    pub fn forget(&mut self) {
        self.forgotten.extend(self.known.drain());
    }

    /// Whether a packet passes. One that opens a connection always passes.
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

/// The longest queue, as in a router: further packets are dropped.
const QUEUE: Duration = Duration::from_secs(1);

/// `struct ifreq` as TUNSETIFF takes it (netdevice(7)).
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// IP packets (IFF_TUN), without the driver's header (IFF_NO_PI).
const FLAGS: u16 = 0x0001 | 0x1000;

/// The ioctl number, `_IOW('T', 202, int)` in the kernel's headers.
const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 202);

/// Creates a TUN device in the namespace of this process. It can be moved to another one, and
/// the file keeps carrying its packets.
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
    // SAFETY: TUNSETIFF reads one `struct ifreq`, whose layout and size `Request` has, and keeps
    // no pointer to it.
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
        // Writing fails while the device is down, which counts as a lost packet.
        let _ = to.write(&packet);
    }
}
