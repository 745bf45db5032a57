//! The far end: an upstream in TLS, directly and behind SOCKS5 proxies with a password, one
//! of which allows few connections.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::Arc;
use std::thread;

use openssl::ssl::SslAcceptor;

/// The ports, in a namespace of their own.
pub const TLS: u16 = 443;
pub const SOCKS: u16 = 1080;
pub const FEW: u16 = 1081;

/// Connections that the proxy on `FEW` allows.
const SLOTS: usize = 4;

/// The answer to the one WebSocket key that the client sends (RFC 6455 §1.3).
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Says how long it keeps a connection, so that a POST may take a kept one.
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=120\r\nContent-Length: 5\r\n\r\nhello";

/// Serves until it is killed. Says so once it listens.
pub fn serve() -> io::Result<()> {
    let acceptor = Arc::new(crate::tls::acceptor()?);
    let open = Arc::new(AtomicUsize::new(0));
    for port in [TLS, SOCKS, FEW] {
        let listener = TcpListener::bind(("0.0.0.0", port))?;
        let (acceptor, open) = (acceptor.clone(), open.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (acceptor, open) = (acceptor.clone(), open.clone());
                thread::spawn(move || {
                    // A peer that goes away is not of interest.
                    let _ = connection(stream, port, &acceptor, &open);
                });
            }
        });
    }
    println!("ready");
    // Ends with the bench, whose pipe this is.
    io::stdin().read_to_end(&mut Vec::new()).map(drop)
}

fn connection(
    mut stream: TcpStream,
    port: u16,
    acceptor: &SslAcceptor,
    open: &AtomicUsize,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if port == TLS {
        return requests(stream, acceptor);
    }
    login(&mut stream)?;
    let taken = open.fetch_add(1, SeqCst);
    let served = if port == FEW && taken >= SLOTS {
        // General failure, as proxies with too many connections say (RFC 1928 §6).
        stream.write_all(&[5, 1, 0, 1, 0, 0, 0, 0, 0, 0])
    } else {
        stream
            .write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])
            .and_then(|()| requests(stream, acceptor))
    };
    open.fetch_sub(1, SeqCst);
    served
}

/// Greeting, user and password (RFC 1929), and the request for a name.
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

fn requests(stream: TcpStream, acceptor: &SslAcceptor) -> io::Result<()> {
    let mut stream = acceptor.accept(stream).map_err(io::Error::other)?;
    let mut head = Vec::new();
    loop {
        let mut byte = [0; 4096];
        let n = stream.read(&mut byte)?;
        if n == 0 {
            return Ok(());
        }
        head.extend_from_slice(&byte[..n]);
        let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let Some(end) = text.find("\r\n\r\n") else {
            continue;
        };
        if text.contains("\r\nupgrade: websocket\r\n") {
            stream.write_all(SWITCHING)?;
            return io::copy(&mut stream, &mut io::sink()).map(drop);
        }
        let body = match text.starts_with("post ") {
            true => crate::BODY.len(),
            false => 0,
        };
        if head.len() < end + 4 + body {
            continue;
        }
        head.clear();
        stream.write_all(ANSWER)?;
    }
}
