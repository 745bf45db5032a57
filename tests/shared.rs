//! What the tests and the soak share: a clean environment for the program, pseudorandom bytes,
//! reads and writes that are repeated after a signal, field values, WebSocket frames.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;

/// The same command with none of the program's settings in its environment.
pub fn cleaned(mut command: Command) -> Command {
    for name in [
        "UPSTREAM_HOST",
        "LISTEN_PORT",
        "SOCKS_PROXY",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "JOURNAL_STREAM",
    ] {
        command.env_remove(name);
    }
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"SIMPLE_PROXY_") {
            command.env_remove(name);
        }
    }
    // The language of help, errors and `--check`.
    command.env("LC_ALL", "C.UTF-8");
    // A lost DNS answer costs 2 s instead of the default 5 s.
    command.env("RES_OPTIONS", "timeout:2 attempts:2");
    command
}

/// Reproducible pseudorandom bytes (xorshift).
pub struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Noise {
        Noise(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

/// Reads once, and again after EINTR: the kernel does not restart a read on a socket with a
/// timeout after a signal (signal(7)).
pub fn read_some(stream: &mut (impl Read + ?Sized), room: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(room) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// A socket whose reads and writes are repeated after EINTR, which OpenSSL would take for a
/// failure.
#[derive(Debug)]
pub struct Patient(pub TcpStream);

impl Read for Patient {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        read_some(&mut self.0, room)
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                outcome => return outcome,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A field's value in a head, without the blanks around it.
pub fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// One binary WebSocket frame (RFC 6455 §5.2); a client's has a mask.
pub fn frame(payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let bit = if mask.is_some() { 0x80 } else { 0 };
    let mut frame = vec![0x82];
    match payload.len() {
        n @ 0..=125 => frame.push(bit | n as u8),
        n @ 126..=65535 => {
            frame.push(bit | 126);
            frame.extend((n as u16).to_be_bytes());
        }
        n => {
            frame.push(bit | 127);
            frame.extend((n as u64).to_be_bytes());
        }
    }
    let mask = mask.inspect(|mask| frame.extend(mask)).unwrap_or_default();
    let masked = payload.iter().zip(mask.iter().cycle());
    frame.extend(masked.map(|(byte, mask)| byte ^ mask));
    frame
}
