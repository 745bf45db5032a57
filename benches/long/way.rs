//! The long way: two TUN devices joined by a forwarder that delays, paces and loses packets.
//! It needs no queueing discipline of the kernel's, which many kernels lack.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::sync::mpsc::{channel, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::ioctl::{ioctl, opcode, Setter};

/// What happens to packets in each direction.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// How long one is on its way.
    pub delay: Duration,
    /// Bits per second.
    pub rate: u64,
    /// How many of a million are lost.
    pub loss: u64,
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
pub fn join(a: File, b: File, way: Way) -> io::Result<()> {
    let (to_a, to_b) = (a.try_clone()?, b.try_clone()?);
    carry(a, to_b, way);
    carry(b, to_a, way);
    Ok(())
}

fn carry(mut from: File, to: File, way: Way) {
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
            if noise % 1_000_000 < way.loss || line_free > now + QUEUE {
                continue;
            }
            let on_the_line = Duration::from_nanos(n as u64 * 8 * 1_000_000_000 / way.rate);
            line_free = line_free.max(now) + on_the_line;
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
