//! The load generator: one epoll loop per thread, each with its share of the connections. Each
//! connection repeats one task, and starts the next unit when the last one is done.

use std::io::{self, ErrorKind::WouldBlock};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use slab::Slab;

use crate::content::{filler, LONG};
use crate::http::{Chunks, Head};
use crate::secured::Connector;
use crate::task::{message, Task};
use crate::wire::{event_buffer, is_readable, Outgoing, Poll, Wire, ROOM};

/// The number of errors that ends a run.
const MAX_ERRORS: u64 = 100;

/// On a connection that streams, the time for this many bytes counts as one latency.
const MARK: u64 = 1024 * 1024;

/// The counters that the generator's threads share with the measurement.
pub struct Tally {
    /// The connections that have received a first response.
    pub begun: AtomicU64,
    /// The requests, messages or upgrades so far.
    pub done: AtomicU64,
    /// The bytes of long responses and of bulk so far.
    pub received: AtomicU64,
    /// The errors so far.
    pub errors: AtomicU64,
    first_error: Mutex<Option<String>>,
    /// Whether latencies are recorded.
    pub measuring: AtomicBool,
    ended: AtomicBool,
    limit: u64,
}

/// The server under load.
#[derive(Clone)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// The TLS connector, if it expects TLS.
    pub connector: Option<Connector>,
}

/// A running generator.
pub struct Generator {
    /// The counters.
    pub tally: Arc<Tally>,
    threads: Vec<JoinHandle<Vec<u32>>>,
}

impl Generator {
    /// Starts `threads` loops that share `connections`, and stops after `limit` units.
    pub fn start(
        target: Target,
        task: Task,
        connections: usize,
        threads: usize,
        limit: u64,
    ) -> Generator {
        let tally = Arc::new(Tally {
            begun: AtomicU64::new(0),
            done: AtomicU64::new(0),
            received: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            first_error: Mutex::new(None),
            measuring: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            limit,
        });
        let threads = threads.min(connections);
        let spawn = |n| {
            let share = connections / threads + usize::from(n < connections % threads);
            let (tally, target) = (tally.clone(), target.clone());
            thread::spawn(move || {
                let mut latencies = Vec::new();
                let run = Loop::new(target, task, tally.clone(), &mut latencies);
                if let Err(error) = run.and_then(|run| run.run(share)) {
                    tally.failed(&error);
                }
                latencies
            })
        };
        Generator {
            threads: (0..threads).map(spawn).collect(),
            tally,
        }
    }

    /// Whether all threads have ended by themselves.
    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Ends the generator, and returns the latencies in nanoseconds, sorted.
    pub fn end(self) -> Vec<u32> {
        self.tally.ended.store(true, Relaxed);
        let mut all = Vec::new();
        for thread in self.threads {
            all.extend(thread.join().unwrap_or_default());
        }
        all.sort_unstable();
        all
    }
}

impl Tally {
    /// The text of the first error.
    pub fn first_error(&self) -> Option<String> {
        self.first_error.lock().ok().and_then(|error| error.clone())
    }

    fn failed(&self, error: &io::Error) {
        self.errors.fetch_add(1, Relaxed);
        if let Ok(mut first) = self.first_error.lock() {
            first.get_or_insert_with(|| error.to_string());
        }
    }

    fn goes_on(&self) -> bool {
        !self.ended.load(Relaxed)
            && self.done.load(Relaxed) < self.limit
            && self.errors.load(Relaxed) < MAX_ERRORS
    }
}

/// What the next bytes of a connection are.
enum Stage {
    Head(Vec<u8>),
    Body(u64),
    Chunks(Chunks),
    /// Messages, of which this many bytes are missing.
    Echo(usize),
    Bulk,
    /// Only the end of the connection.
    End,
}

struct Client {
    wire: Wire,
    /// Whether a first response was received.
    begun: bool,
    stage: Stage,
    out: Outgoing,
    watches_room: bool,
    since: Instant,
    mark: u64,
}

struct Loop<'a> {
    target: Target,
    task: Task,
    request: String,
    tally: Arc<Tally>,
    latencies: &'a mut Vec<u32>,
    poll: Poll,
    clients: Slab<Client>,
    room: Vec<u8>,
}

/// Whether a connection is used again.
#[derive(PartialEq)]
enum Then {
    GoesOn,
    /// A new connection takes its place.
    IsOver,
}

impl Loop<'_> {
    fn new(
        target: Target,
        task: Task,
        tally: Arc<Tally>,
        latencies: &mut Vec<u32>,
    ) -> io::Result<Loop<'_>> {
        Ok(Loop {
            target,
            task,
            request: task.request(),
            tally,
            latencies,
            poll: Poll::new()?,
            clients: Slab::new(),
            room: vec![0; ROOM],
        })
    }

    fn run(mut self, connections: usize) -> io::Result<()> {
        for _ in 0..connections {
            self.open()?;
        }
        let mut events = event_buffer();
        while self.tally.goes_on() {
            self.poll.wait(&mut events)?;
            for event in &events {
                let key = event.data.u64() as usize;
                let outcome = self.turn(key, is_readable(event));
                if let Err(error) = &outcome {
                    self.tally.failed(error);
                }
                if !matches!(outcome, Ok(Then::GoesOn)) && self.tally.goes_on() {
                    self.clients.remove(key);
                    self.open()?;
                }
            }
        }
        Ok(())
    }

    /// Opens a connection and sends the first request on it.
    fn open(&mut self) -> io::Result<()> {
        let since = Instant::now();
        // On loopback, connecting does not block.
        let stream = TcpStream::connect(self.target.address)?;
        let mut client = Client {
            wire: Wire::client(stream, self.target.connector.as_ref())?,
            begun: false,
            stage: Stage::Head(Vec::new()),
            out: Outgoing::default(),
            watches_room: false,
            since,
            mark: 0,
        };
        client.ask(self.task, &self.request)?;
        let entry = self.clients.vacant_entry();
        client.watches_room = client.wants_room();
        self.poll
            .add(&client.wire, entry.key(), client.watches_room)?;
        entry.insert(client);
        Ok(())
    }

    fn turn(&mut self, key: usize, readable: bool) -> io::Result<Then> {
        if readable && self.receive(key)? == Then::IsOver {
            return Ok(Then::IsOver);
        }
        let Some(client) = self.clients.get_mut(key) else {
            return Ok(Then::GoesOn);
        };
        client.out.send(&mut client.wire)?;
        let wants_room = client.wants_room();
        if wants_room != client.watches_room {
            client.watches_room = wants_room;
            self.poll.modify(&client.wire, key, wants_room)?;
        }
        Ok(Then::GoesOn)
    }

    /// Processes what has arrived, including what TLS still holds after a read.
    fn receive(&mut self, key: usize) -> io::Result<Then> {
        let Some(client) = self.clients.get_mut(key) else {
            return Ok(Then::GoesOn);
        };
        loop {
            let n = match client.read(&mut self.room) {
                Ok(n) => n,
                Err(error) if error.kind() == WouldBlock => return Ok(Then::GoesOn),
                // Not every server ends TLS with close_notify.
                Err(_) if matches!(client.stage, Stage::End) => return Ok(Then::IsOver),
                Err(error) => return Err(error),
            };
            if n == 0 {
                return match client.stage {
                    Stage::End => Ok(Then::IsOver),
                    _ => Err(io::Error::other("the connection ended early")),
                };
            }
            let mut bytes = &self.room[..n];
            while !bytes.is_empty() {
                let (used, over) = client.take(bytes, self.task, &self.tally)?;
                bytes = &bytes[used..];
                if over {
                    let now = Instant::now();
                    if self.tally.measuring.load(Relaxed) {
                        let taken = now.duration_since(client.since).as_nanos();
                        self.latencies.push(taken.try_into().unwrap_or(u32::MAX));
                    }
                    client.since = now;
                    if self.task != Task::Bulk {
                        self.tally.done.fetch_add(1, Relaxed);
                    }
                    match self.task {
                        Task::NewConnection => client.stage = Stage::End,
                        Task::Open => return Ok(Then::IsOver),
                        Task::Bulk => {}
                        _ if !self.tally.goes_on() => return Ok(Then::GoesOn),
                        Task::Echo => client.out.push(&message()),
                        _ => client.ask(self.task, &self.request)?,
                    }
                }
            }
            if !client.wire.holds_more() {
                return Ok(Then::GoesOn);
            }
        }
    }
}

impl Client {
    fn wants_room(&self) -> bool {
        !self.out.is_empty() && self.wire.is_open()
    }

    fn ask(&mut self, task: Task, request: &str) -> io::Result<()> {
        self.stage = Stage::Head(Vec::new());
        self.out.push(request.as_bytes());
        if task == Task::Upload {
            self.out.repeat(filler(), LONG, b"");
        }
        self.out.send(&mut self.wire)
    }

    /// Reads what has arrived; bulk and long bodies are discarded in the kernel if possible.
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self.stage {
            Stage::Bulk => self.wire.discard(room),
            Stage::Body(left @ 4096..) => {
                let most = room.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                self.wire.discard(&mut room[..most])
            }
            _ => self.wire.read(room),
        }
    }

    /// Processes bytes. Returns how many were used, and whether a unit of the task is done.
    fn take(&mut self, bytes: &[u8], task: Task, tally: &Tally) -> io::Result<(usize, bool)> {
        let long = matches!(task, Task::Download | Task::Chunked);
        match &mut self.stage {
            Stage::Head(before) => {
                let had = before.len();
                let mut head = Ok(None);
                if had == 0 {
                    head = Head::response(bytes);
                }
                if matches!(head, Ok(None)) {
                    before.extend_from_slice(bytes);
                    head = Head::response(before);
                }
                let Some(head) = head.map_err(io::Error::other)? else {
                    return Ok((bytes.len(), false));
                };
                if !std::mem::replace(&mut self.begun, true) {
                    tally.begun.fetch_add(1, Relaxed);
                }
                Ok((head.length - had, self.begin(&head, task)?))
            }
            Stage::Body(left) => {
                let n = (*left).min(bytes.len() as u64);
                *left -= n;
                if long {
                    tally.received.fetch_add(n, Relaxed);
                }
                Ok((n as usize, *left == 0))
            }
            Stage::Chunks(chunks) => {
                let (used, content) = chunks.take(bytes).map_err(io::Error::other)?;
                if long {
                    tally.received.fetch_add(content, Relaxed);
                }
                Ok((used, chunks.done()))
            }
            Stage::Echo(left) => {
                let n = (*left).min(bytes.len());
                *left -= n;
                let over = *left == 0;
                if over {
                    *left = message().len();
                }
                Ok((n, over))
            }
            Stage::Bulk => {
                let n = bytes.len() as u64;
                tally.received.fetch_add(n, Relaxed);
                self.mark += n;
                let over = self.mark >= MARK;
                if over {
                    self.mark = 0;
                }
                Ok((bytes.len(), over))
            }
            Stage::End => Err(io::Error::other("bytes after the response")),
        }
    }

    /// Processes a head. True if the unit is done with it.
    fn begin(&mut self, head: &Head, task: Task) -> io::Result<bool> {
        let upgrades = matches!(task, Task::Echo | Task::Bulk | Task::Open);
        let wanted = if upgrades { 101 } else { 200 };
        if head.status != wanted {
            let problem = format!("status {} came", head.status);
            return Err(io::Error::other(problem));
        }
        self.stage = match task {
            Task::Open => return Ok(true),
            Task::Echo => {
                self.out.push(&message());
                self.since = Instant::now();
                Stage::Echo(message().len())
            }
            Task::Bulk => {
                self.out.repeat(filler(), u64::MAX, b"");
                self.since = Instant::now();
                Stage::Bulk
            }
            _ if head.chunked => Stage::Chunks(Chunks::default()),
            _ => Stage::Body(head.content_length),
        };
        Ok(false)
    }
}
