//! The upstream: one epoll loop per thread, which answers according to the target of a request,
//! over plain TCP, TLS, or through a SOCKS5 proxy that it plays itself.

use std::io::{self, ErrorKind::WouldBlock};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use openssl::ssl::SslAcceptor;
use slab::Slab;
use socket2::{Domain, Socket, Type};

use crate::content::{chunk, filler, page, small, CHUNK, LONG};
use crate::http::Head;
use crate::tls;
use crate::wire::{event_buffer, is_readable, Outgoing, Poll, Wire, ROOM};

/// How many bytes the delivery tests send.
pub const FLOOD: u64 = 4 * 1024 * 1024;

/// The response to the one WebSocket key that the generator sends (RFC 6455 §1.3).
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// How the upstream is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Over plain TCP.
    Plain,
    /// Over TLS.
    Tls,
    /// Through a SOCKS5 proxy, which the upstream plays itself.
    Socks,
}

impl Route {
    /// All routes.
    pub const ALL: [Route; 3] = [Route::Plain, Route::Tls, Route::Socks];
}

/// Keys of the listeners, above those of the connections.
const LISTENERS: usize = usize::MAX - 2;

/// A running upstream; it ends when it is dropped.
pub struct Upstream {
    addresses: [SocketAddr; 3],
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    listeners: [(Route, TcpListener); 3],
    acceptor: SslAcceptor,
    received: AtomicU64,
    ended: AtomicBool,
}

impl Upstream {
    /// Starts `threads` loops that share the listeners.
    pub fn start(threads: usize) -> io::Result<Upstream> {
        let listeners = [
            (Route::Plain, listen()?),
            (Route::Tls, listen()?),
            (Route::Socks, listen()?),
        ];
        let addresses = [
            listeners[0].1.local_addr()?,
            listeners[1].1.local_addr()?,
            listeners[2].1.local_addr()?,
        ];
        let shared = Arc::new(Shared {
            listeners,
            acceptor: tls::acceptor()?,
            received: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let spawn = |_| {
            let shared = shared.clone();
            thread::spawn(move || {
                if let Err(error) = (Loop::new(shared)).and_then(Loop::run) {
                    eprintln!("the upstream failed: {error}");
                    std::process::exit(1);
                }
            })
        };
        Ok(Upstream {
            addresses,
            threads: (0..threads).map(spawn).collect(),
            shared,
        })
    }

    /// The address for a route.
    pub fn address(&self, route: Route) -> SocketAddr {
        self.addresses[route as usize]
    }

    /// The bytes of uploads and of bulk that have arrived so far.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Relaxed)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.ended.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn listen() -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// What the next bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A SOCKS5 greeting.
    Greeting,
    /// A SOCKS5 request.
    Connect,
    /// The head of a request.
    Head,
    /// The body of a request, of which this many bytes are left.
    Body(u64),
    /// Messages to be echoed.
    Echo,
    /// Bytes to be discarded.
    Discard,
    /// Bytes to be discarded until the end, after which a flood is sent.
    AwaitEnd,
}

struct Connection {
    wire: Wire,
    stage: Stage,
    input: Vec<u8>,
    out: Outgoing,
    /// Whether the socket is watched for writing.
    watches_room: bool,
    /// Whether to end the sending side after the remaining bytes.
    closing: bool,
    shut: bool,
}

struct Loop {
    shared: Arc<Shared>,
    poll: Poll,
    connections: Slab<Connection>,
    room: Vec<u8>,
}

impl Loop {
    fn new(shared: Arc<Shared>) -> io::Result<Loop> {
        let poll = Poll::new()?;
        for (n, (_, listener)) in shared.listeners.iter().enumerate() {
            poll.add(listener, LISTENERS + n, false)?;
        }
        Ok(Loop {
            shared,
            poll,
            connections: Slab::new(),
            room: vec![0; ROOM],
        })
    }

    fn run(mut self) -> io::Result<()> {
        let mut events = event_buffer();
        while !self.shared.ended.load(Relaxed) {
            self.poll.wait(&mut events)?;
            for event in &events {
                let key = event.data.u64() as usize;
                if key >= LISTENERS {
                    self.accept(key - LISTENERS)?;
                } else if let Some(connection) = self.connections.get_mut(key) {
                    let readable = is_readable(event);
                    let alive = connection.turn(readable, &mut self.room, &self.shared.received);
                    let alive = alive.unwrap_or(false) && connection.watch(&self.poll, key).is_ok();
                    if !alive {
                        self.connections.remove(key);
                    }
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self, listener: usize) -> io::Result<()> {
        let (route, listener) = &self.shared.listeners[listener];
        // Only a few at a time, so that open connections are served in between.
        for _ in 0..16 {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == WouldBlock => break,
                // A client that has gone, or too few descriptors, which the results will show.
                Err(_) => break,
            };
            let acceptor = (*route == Route::Tls).then_some(&self.shared.acceptor);
            let connection = Connection {
                wire: Wire::new(stream, acceptor)?,
                stage: match route {
                    Route::Socks => Stage::Greeting,
                    _ => Stage::Head,
                },
                input: Vec::new(),
                out: Outgoing::default(),
                watches_room: false,
                closing: false,
                shut: false,
            };
            let entry = self.connections.vacant_entry();
            self.poll.add(&connection.wire, entry.key(), false)?;
            entry.insert(connection);
        }
        Ok(())
    }
}

impl Connection {
    /// Reads, answers and sends. False when the connection is over.
    fn turn(&mut self, readable: bool, room: &mut [u8], received: &AtomicU64) -> io::Result<bool> {
        let mut ended = false;
        for _ in 0..if readable { 16 } else { 0 } {
            let discards = matches!(self.stage, Stage::Discard | Stage::Body(ROOM_LEFT..));
            let outcome = match discards {
                true => self.wire.discard(room),
                false => self.wire.read(room),
            };
            match outcome {
                Ok(0) if self.stage == Stage::AwaitEnd => {
                    self.stage = Stage::Discard;
                    self.flood();
                    break;
                }
                Ok(0) => {
                    ended = true;
                    break;
                }
                Ok(n) => {
                    if discards {
                        self.discarded(n as u64, received);
                    } else {
                        self.take(&room[..n], received)?;
                    }
                    if n < room.len() && !self.wire.reads_to_the_end() {
                        break;
                    }
                }
                Err(error) if error.kind() == WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.out.send(&mut self.wire)?;
        if self.closing && self.out.is_empty() && !self.shut {
            self.shut = true;
            if let Wire::Tls(stream) = &mut self.wire {
                let _ = stream.shutdown();
            }
            self.wire.socket().shutdown(Shutdown::Write)?;
        }
        Ok(!ended || self.closing && !self.out.is_empty())
    }

    /// Updates the events to wait for if they have changed.
    fn watch(&mut self, poll: &Poll, key: usize) -> io::Result<()> {
        let wants_room = !self.out.is_empty();
        if wants_room != self.watches_room {
            self.watches_room = wants_room;
            poll.modify(&self.wire, key, wants_room)?;
        }
        Ok(())
    }

    fn discarded(&mut self, n: u64, received: &AtomicU64) {
        received.fetch_add(n, Relaxed);
        if let Stage::Body(left) = &mut self.stage {
            *left -= n;
        }
    }

    fn take(&mut self, mut bytes: &[u8], received: &AtomicU64) -> io::Result<()> {
        while !bytes.is_empty() {
            bytes = match self.stage {
                Stage::Echo => {
                    self.out.push(bytes);
                    &[]
                }
                Stage::Discard => {
                    self.discarded(bytes.len() as u64, received);
                    &[]
                }
                Stage::AwaitEnd => &[],
                Stage::Body(left) => {
                    let n = left.min(bytes.len() as u64);
                    self.discarded(n, received);
                    if n == left {
                        self.out
                            .push(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n");
                        self.stage = Stage::Head;
                    }
                    &bytes[n as usize..]
                }
                Stage::Greeting | Stage::Connect => {
                    self.socks(bytes);
                    &[]
                }
                Stage::Head => self.head(bytes)?,
            };
        }
        Ok(())
    }

    /// Plays a SOCKS5 proxy that has reached the upstream (RFC 1928).
    fn socks(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        let input = &self.input;
        if self.stage == Stage::Greeting {
            if input.len() >= 2 && input.len() >= 2 + usize::from(input[1]) {
                self.out.push(&[5, 0]);
                self.input.clear();
                self.stage = Stage::Connect;
            }
        } else if input.len() >= 10 && input[3] == 1 {
            self.out.push(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 1]);
            self.input = Vec::new();
            self.stage = Stage::Head;
        }
    }

    /// Answers a request once its head is complete, and returns the bytes after it.
    fn head<'a>(&mut self, bytes: &'a [u8]) -> io::Result<&'a [u8]> {
        let before = self.input.len();
        let parsed = match before {
            0 => Head::request(bytes),
            _ => {
                self.input.extend_from_slice(bytes);
                Head::request(&self.input)
            }
        };
        let Some(head) = parsed.map_err(io::Error::other)? else {
            if before == 0 {
                self.input.extend_from_slice(bytes);
            }
            return Ok(&[]);
        };
        self.input = Vec::new();
        self.answer(&head);
        Ok(&bytes[head.length - before..])
    }

    fn answer(&mut self, head: &Head) {
        if head.upgrade {
            self.out.push(SWITCHING);
            self.stage = match head.target.as_str() {
                "/bulk" => {
                    self.out.repeat(filler(), u64::MAX, b"");
                    Stage::Discard
                }
                "/flood" => {
                    self.flood();
                    Stage::Discard
                }
                "/flood-at-end" => Stage::AwaitEnd,
                _ => Stage::Echo,
            };
            return;
        }
        self.closing |= head.close;
        match head.target.as_str() {
            "/upload" => self.stage = Stage::Body(head.content_length),
            "/download" => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LONG}\r\n\r\n");
                self.out.push(head.as_bytes());
                self.out.repeat(filler(), LONG, b"");
            }
            "/chunked" => {
                let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                let chunk = chunk();
                self.out.push(head);
                let coded = LONG / CHUNK as u64 * chunk.len() as u64;
                self.out.repeat(chunk, coded, b"0\r\n\r\n");
            }
            "/page" => self.out.push(page()),
            _ => self.out.push(small()),
        }
    }

    /// Sends much, and then ends.
    fn flood(&mut self) {
        self.out.repeat(filler(), FLOOD, b"");
        self.closing = true;
    }
}

/// A body is discarded in the kernel while at least this many bytes of it are left.
const ROOM_LEFT: u64 = ROOM as u64 + 1;
