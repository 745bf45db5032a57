//! Names: the system's resolver asks a name server in the test, which a mount namespace makes it
//! use. Run with the peers, since this needs root.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::*;

const A: u16 = 1;
const AAAA: u16 = 28;

/// How the name server answers a query.
#[derive(Clone, Copy)]
enum Says {
    Address(Ipv4Addr),
    /// The name has no address of this family.
    Empty,
    NoSuchName,
    Failure,
    Nothing,
}

/// A name server that gives one answer to A queries and one to AAAA queries.
struct NameServer {
    says: Arc<Mutex<[Says; 2]>>,
    asked: Arc<Mutex<Vec<u16>>>,
    folder: Folder,
}

impl NameServer {
    /// Listens on port 53 of the given address: a resolver's configuration cannot name another
    /// port.
    fn start(name: &str, address: IpAddr) -> NameServer {
        let socket = UdpSocket::bind(SocketAddr::new(address, 53)).unwrap();
        let says = Arc::new(Mutex::new([Says::Nothing; 2]));
        let asked = Arc::<Mutex<Vec<u16>>>::default();
        let folder = Folder::new(name);
        folder.write("resolv.conf", &format!("nameserver {address}\n"));
        folder.write("nsswitch.conf", "hosts: files dns\n");
        let (script, count) = (says.clone(), asked.clone());
        thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((n, from)) = socket.recv_from(&mut question) {
                let question = &question[..n];
                // The type follows the name, which ends with an empty label.
                let end = 12 + question[12..].iter().position(|&b| b == 0).unwrap();
                let kind = u16::from_be_bytes([question[end + 1], question[end + 2]]);
                count.lock().unwrap().push(kind);
                let says = script.lock().unwrap()[usize::from(kind == AAAA)];
                if let Some(answer) = answer(&question[..end + 5], says) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        NameServer {
            says,
            asked,
            folder,
        }
    }

    fn say(&self, a: Says, aaaa: Says) {
        *self.says.lock().unwrap() = [a, aaaa];
    }

    fn asked(&self, kind: u16) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|&&one| one == kind).count()
    }

    /// The program, with a resolver that asks this server.
    fn program(&self, args: &[&str]) -> Proxy {
        let mut command = cleaned(Command::new("unshare"));
        command.env("RES_OPTIONS", "timeout:5 attempts:1");
        command.args([
            "-m",
            "sh",
            "-c",
            "mount --bind \"$1\" /etc/resolv.conf && mount --bind \"$2\" /etc/nsswitch.conf &&
             shift 2 && exec \"$@\"",
            "sh",
        ]);
        command.arg(self.folder.path("resolv.conf"));
        command.arg(self.folder.path("nsswitch.conf"));
        command.arg(PROGRAM);
        command
            .args(["-b", "127.0.0.1", "-p", "0", "-d"])
            .args(args);
        Proxy::spawn(&mut command)
    }
}

/// An answer, which repeats the question (RFC 1035 §4.1).
fn answer(question: &[u8], says: Says) -> Option<Vec<u8>> {
    let code = match says {
        Says::Nothing => return None,
        Says::Address(_) | Says::Empty => 0,
        Says::Failure => 2,
        Says::NoSuchName => 3,
    };
    let mut answer = question.to_vec();
    answer[2..12].copy_from_slice(&[0x81, 0x80 | code, 0, 1, 0, 0, 0, 0, 0, 0]);
    if let Says::Address(address) = says {
        answer[7] = 1;
        // The question's name, A, IN, no time to live.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

/// An origin whose connections are not kept, so that each request needs a dial.
fn unkept() -> SocketAddr {
    origin(|mut client| {
        client.head();
        client.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    })
}

pub fn a_lost_answer_and_a_dead_name_server_cost_little(address: IpAddr) {
    let server = NameServer::start("names", address);
    let upstream = unkept();
    let name = format!("app.example:{}", upstream.port());
    let proxy = server.program(&["-u", &name, "--connect-timeout", "60"]);
    let here = Says::Address(Ipv4Addr::LOCALHOST);
    // AAAA queries are lost; the resolver would wait for five seconds.
    server.say(here, Says::Nothing);
    let started = Instant::now();
    assert_eq!(proxy.get("/").text(), "ok");
    assert!(started.elapsed() < Duration::from_secs(4), "{started:?}");
    assert!(server.asked(A) > 0 && server.asked(AAAA) > 0);
    // The name server does not answer any more: the last answer is used.
    server.say(Says::Nothing, Says::Nothing);
    let started = Instant::now();
    assert_eq!(proxy.get("/").text(), "ok");
    assert!(started.elapsed() < Duration::from_secs(4), "{started:?}");
    // It answers with failures: the last answer is used, for as long as this goes on.
    server.say(Says::Failure, Says::Failure);
    let asked = server.asked(A);
    wait_until("another lookup", || {
        assert_eq!(proxy.get("/").text(), "ok");
        server.asked(A) > asked
    });
    assert_eq!(proxy.get("/").text(), "ok");
    // An answer that there is no such name is believed, and the last answer is forgotten.
    server.say(Says::NoSuchName, Says::NoSuchName);
    wait_until("no such name", || proxy.get("/").status() == 502);
    proxy.log.wait_for("[resolve] app.example:");
    server.say(Says::Failure, Says::Failure);
    assert_eq!(proxy.get("/").status(), 502);
    server.say(here, Says::Empty);
    wait_until("the name is back", || proxy.get("/").status() == 200);
}

pub fn hundreds_of_clients_and_a_dead_name_server_leave_no_threads(address: IpAddr) {
    const CLIENTS: usize = 300;
    allow_descriptors(4096);
    let server = NameServer::start("storm", address);
    let upstream = unkept();
    let name = format!("app.example:{}", upstream.port());
    let proxy = server.program(&["-u", &name, "--connect-timeout", "2", "--threads", "2"]);
    server.say(Says::Failure, Says::Failure);
    assert_eq!(proxy.get("/").status(), 502);
    let threads = || proxy.threads();
    let before = threads();
    server.say(Says::Nothing, Says::Nothing);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    let mut most = 0;
    for client in &mut clients {
        assert_eq!(client.response().status(), 504);
        most = most.max(threads());
    }
    assert!(most <= before + 4, "{most} threads, {before} before");
    // The blocked lookups end when the resolver times out.
    wait_until("the threads end", || threads() <= before);
    server.say(Says::Address(Ipv4Addr::LOCALHOST), Says::Empty);
    wait_until("the name is back", || proxy.get("/").status() == 200);
}
