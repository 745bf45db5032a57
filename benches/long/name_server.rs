//! A name server for the benchmark, and programs whose system resolver uses it.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

/// Its address; the port is 53, because resolv.conf cannot name another one.
pub const ADDRESS: &str = "127.0.0.53";

/// The type of a question for IPv6 addresses (RFC 3596 §2.1).
const AAAA: u16 = 28;

/// Which questions it answers.
#[derive(Clone, Copy, PartialEq)]
pub enum Mood {
    /// All questions.
    Alive,
    /// All questions except those for AAAA.
    LosesAaaa,
    /// None.
    Dead,
}

/// A name server that resolves every name to the same A record and no AAAA record.
#[derive(Clone)]
pub struct NameServer(Arc<Mutex<Mood>>);

impl NameServer {
    /// Serves until the process ends. Writes the resolver's configuration into the folder.
    pub fn start(address: Ipv4Addr, folder: &Path) -> io::Result<NameServer> {
        let socket = UdpSocket::bind((ADDRESS, 53))?;
        fs::write(
            folder.join("resolv.conf"),
            format!("nameserver {ADDRESS}\n"),
        )?;
        fs::write(folder.join("nsswitch.conf"), "hosts: files dns\n")?;
        let mood = Arc::new(Mutex::new(Mood::Alive));
        let shared = mood.clone();
        thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((n, from)) = socket.recv_from(&mut question) {
                let mood = *shared.lock().expect("no panic holds it");
                if let Some(answer) = answer(&question[..n], address, mood) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Ok(NameServer(mood))
    }

    pub fn is(&self, mood: Mood) {
        *self.0.lock().expect("no panic holds it") = mood;
    }
}

/// The answer to a question, which it repeats (RFC 1035 §4.1).
fn answer(question: &[u8], address: Ipv4Addr, mood: Mood) -> Option<Vec<u8>> {
    // The type follows the name, which ends with an empty label.
    let end = 13 + question.get(12..)?.iter().position(|&byte| byte == 0)?;
    let kind = u16::from_be_bytes(question.get(end..end + 2)?.try_into().ok()?);
    if mood == Mood::Dead || (mood == Mood::LosesAaaa && kind == AAAA) {
        return None;
    }
    let mut answer = question.get(..end + 4)?.to_vec();
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]);
    if kind == 1 {
        answer[7] = 1;
        // A pointer to the name in the question, type A, class IN, TTL 0, 4 bytes of data.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

/// A command that runs another one in a mount namespace whose resolver uses the name server.
pub fn asking(folder: &Path) -> Command {
    let mut command = Command::new("unshare");
    // The resolver gives up after five seconds.
    command.env("RES_OPTIONS", "timeout:5 attempts:1");
    let script = "mount --bind \"$1/resolv.conf\" /etc/resolv.conf && \
        mount --bind \"$1/nsswitch.conf\" /etc/nsswitch.conf && shift && exec \"$@\"";
    command.args(["-m", "sh", "-c", script, "sh"]).arg(folder);
    command
}
