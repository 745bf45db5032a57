//! The far end: an upstream over plain TCP and TLS, reachable directly and through SOCKS5 proxies
//! with a password, one of which allows few connections.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use openssl::ssl::{SslAcceptor, SslVersion};

/// The ports, in a private network namespace.
pub const PLAIN: u16 = 80;
pub const TLS: u16 = 443;
/// Plain TCP, without kept connections.
pub const CLOSING: u16 = 81;
/// SOCKS5 proxies: to the upstream over TLS; with few connections; over TLS 1.2; over plain TCP.
pub const SOCKS: u16 = 1080;
pub const FEW: u16 = 1081;
pub const SOCKS_TLS_1_2: u16 = 1082;
pub const SOCKS_PLAIN: u16 = 1083;

/// The last byte of bulk, which occurs nowhere else in it.
pub const MARK: u8 = b'!';

/// The messages of a stream: their size, their number, and the time between them.
pub const MESSAGE: usize = 64;
pub const MESSAGES: usize = 150;
const EVERY: Duration = Duration::from_millis(20);

/// The most connections that the proxy on `FEW` allows.
const SLOTS: usize = 4;

/// The response to the one WebSocket key that the client sends (RFC 6455 §1.3).
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A response that promises to keep the connection, so that a POST may use a kept one.
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=120\r\nContent-Length: 5\r\n\r\nhello";

/// Both versions of TLS.
struct Acceptors {
    newest: SslAcceptor,
    tls_1_2: SslAcceptor,
}

impl Acceptors {
    fn new() -> io::Result<Acceptors> {
        let mut old = crate::tls::builder()?;
        old.set_max_proto_version(Some(SslVersion::TLS1_2))?;
        Ok(Acceptors {
            newest: crate::tls::acceptor()?,
            tls_1_2: old.build(),
        })
    }
}

/// Serves until it is killed. Prints a line once it listens.
pub fn serve() -> io::Result<()> {
    let acceptors = Arc::new(Acceptors::new()?);
    let open = Arc::new(AtomicUsize::new(0));
    let ports = [PLAIN, TLS, CLOSING, SOCKS, FEW, SOCKS_TLS_1_2, SOCKS_PLAIN];
    for port in ports {
        let listener = TcpListener::bind(("0.0.0.0", port))?;
        let (acceptors, open) = (acceptors.clone(), open.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (acceptors, open) = (acceptors.clone(), open.clone());
                thread::spawn(move || {
                    // Errors mean that the peer has closed, which does not matter.
                    let _ = connection(stream, port, &acceptors, &open);
                });
            }
        });
    }
    println!("ready");
    // The bench holds the other end of standard input, which ends with it.
    io::stdin().read_to_end(&mut Vec::new()).map(drop)
}

fn connection(
    mut stream: TcpStream,
    port: u16,
    acceptors: &Acceptors,
    open: &AtomicUsize,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if matches!(port, PLAIN | TLS | CLOSING) {
        return upstream(stream, port, acceptors);
    }
    login(&mut stream)?;
    let taken = open.fetch_add(1, SeqCst);
    let served = if port == FEW && taken >= SLOTS {
        // General failure, as proxies with too many connections reply (RFC 1928 §6).
        stream.write_all(&[5, 1, 0, 1, 0, 0, 0, 0, 0, 0])
    } else {
        stream
            .write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])
            .and_then(|()| upstream(stream, port, acceptors))
    };
    open.fetch_sub(1, SeqCst);
    served
}

fn upstream(stream: TcpStream, port: u16, acceptors: &Acceptors) -> io::Result<()> {
    let acceptor = match port {
        PLAIN | SOCKS_PLAIN => return requests(stream, true),
        CLOSING => return requests(stream, false),
        SOCKS_TLS_1_2 => &acceptors.tls_1_2,
        _ => &acceptors.newest,
    };
    requests(acceptor.accept(stream).map_err(io::Error::other)?, true)
}

/// Reads the greeting, user and password (RFC 1929), and the request for a name.
fn login(stream: &mut TcpStream) -> io::Result<()> {
    let mut two = [0; 2];
    let mut text = [0; 255];
    stream.read_exact(&mut two)?;
    stream.read_exact(&mut text[..usize::from(two[1])])?;
    stream.write_all(&[5, 2])?;
    stream.read_exact(&mut two)?;
    stream.read_exact(&mut text[..usize::from(two[1])])?;
    stream.read_exact(&mut two[..1])?;
    stream.read_exact(&mut text[..usize::from(two[0])])?;
    stream.write_all(&[1, 0])?;
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    stream.read_exact(&mut text[..usize::from(head[4]) + 2])
}

fn requests(mut stream: impl Read + Write, keeps: bool) -> io::Result<()> {
    let mut ahead = Vec::new();
    let mut bytes = vec![0; 256 * 1024];
    loop {
        let Some(end) = ahead.windows(4).position(|four| four == b"\r\n\r\n") else {
            match stream.read(&mut bytes)? {
                0 => return Ok(()),
                n => ahead.extend_from_slice(&bytes[..n]),
            }
            continue;
        };
        let head = String::from_utf8_lossy(&ahead[..end + 4]).to_ascii_lowercase();
        ahead.drain(..end + 4);
        let path = head.split(' ').nth(1).unwrap_or_default();
        if head.contains("\r\nupgrade: websocket\r\n") {
            stream.write_all(SWITCHING)?;
            stream.write_all(&ahead)?;
            return tunnel(stream, path);
        }
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut left = length - ahead.len().min(length);
        ahead.drain(..ahead.len().min(length));
        while left > 0 {
            let most = left.min(bytes.len());
            match stream.read(&mut bytes[..most])? {
                0 => return Ok(()),
                n => left -= n,
            }
        }
        if let Some(size) = path.strip_prefix("/download/") {
            let size: u64 = size.parse().map_err(io::Error::other)?;
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")?;
            io::copy(&mut io::repeat(b'.').take(size), &mut stream)?;
        } else if keeps {
            stream.write_all(ANSWER)?;
        } else {
            let close = "\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello";
            return stream.write_all(format!("HTTP/1.1 200 OK{close}").as_bytes());
        }
    }
}

/// Serves a connection after its upgrade.
fn tunnel(mut stream: impl Read + Write, path: &str) -> io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    if path == "/stream" {
        for _ in 0..MESSAGES {
            stream.write_all(&[b'.'; MESSAGE])?;
            thread::sleep(EVERY);
        }
    }
    loop {
        let n = stream.read(&mut bytes)?;
        if n == 0 {
            return Ok(());
        }
        match path {
            "/echo" => stream.write_all(&bytes[..n])?,
            "/mark" if bytes[..n].contains(&MARK) => stream.write_all(&[MARK])?,
            _ => {}
        }
    }
}
