//! WebSockets that are opened one after the other and then stay idle.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use openssl::ssl::SslStream;

use std::time::Duration;

use crate::client::Target;
use crate::task::{message, UPGRADE};

/// A response that takes longer is an error.
const PATIENCE: Duration = Duration::from_secs(10);

/// Open WebSockets.
pub struct Sockets(Vec<Box<dyn Stream>>);

/// TCP, or TLS over it.
trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Sockets {
    /// Opens `count` WebSockets.
    pub fn open(target: &Target, count: usize) -> io::Result<Sockets> {
        let open = || -> io::Result<Box<dyn Stream>> {
            let socket = connect(target.address)?;
            let Some(connector) = &target.connector else {
                return Ok(Box::new(upgrade(socket, "/echo")?));
            };
            let mut stream = SslStream::new(connector.begin()?, socket)?;
            stream.connect().map_err(io::Error::other)?;
            Ok(Box::new(upgrade(stream, "/echo")?))
        };
        let sockets = (0..count).map(|_| open());
        sockets.collect::<io::Result<_>>().map(Sockets)
    }

    /// Sends a message over each, and waits for its echo.
    pub fn exchange(mut self) -> io::Result<Sockets> {
        let mut echo = message();
        for socket in &mut self.0 {
            socket.write_all(&message())?;
            socket.read_exact(&mut echo)?;
        }
        Ok(self)
    }
}

/// Opens one WebSocket. On `/echo`, nothing may follow the head of the response.
pub fn upgraded(address: SocketAddr, path: &str) -> io::Result<TcpStream> {
    upgrade(connect(address)?, path)
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn upgrade<S: Read + Write>(mut socket: S, path: &str) -> io::Result<S> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: bench.example\r\n{UPGRADE}\r\n");
    socket.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    let mut byte = [0];
    // Other paths are read byte by byte, so that nothing after the head is consumed.
    let mut room = [0; 1024];
    while !head.ends_with(b"\r\n\r\n") {
        let n = match path {
            "/echo" => socket.read(&mut room)?,
            _ => {
                socket.read_exact(&mut byte)?;
                room[0] = byte[0];
                1
            }
        };
        if n == 0 {
            return Err(io::Error::other("no answer to an upgrade"));
        }
        head.extend_from_slice(&room[..n]);
    }
    match head.starts_with(b"HTTP/1.1 101 ") {
        true => Ok(socket),
        false => Err(io::Error::other(format!(
            "an upgrade was refused: {}",
            String::from_utf8_lossy(&head)
        ))),
    }
}
