//! The soak of connections that threads hand to each other: `soak PROGRAM hand-over REQUESTS`.
//! Eight threads, clients with a connection for a few requests each, some of which leave
//! before they are answered, and an upstream that closes at random, over TCP and over TLS.
//! Every request has a number; each must arrive once and be answered once, with its own
//! number, and nothing may follow the last answer on a connection.

use std::fmt::Write as _;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicU8, Ordering::Relaxed};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use openssl::ssl::SslAcceptor;

use crate::connection::{path, Done, Trouble, Wire};
use crate::noise::Noise;
use crate::program::Program;
use crate::shared::Patient;
use crate::upstream::acceptor;
use crate::{PATIENCE, REPORT_EVERY};

/// Client threads for each of the two programs.
const CLIENTS: u64 = 16;

/// A client connection is for up to so many requests.
const MOST_REQUESTS: u64 = 4;

/// So many of them at most are sent before the first of them is answered.
const MOST_AHEAD: u64 = 2;

/// One client in so many leaves without waiting for its answers.
const LEAVES: u64 = 64;

/// The upstream closes behind one response in so many, half of the times unannounced.
const CLOSES: u64 = 16;

/// Set in a request's count of arrivals where its client has left: it need not arrive.
const LEFT: u8 = 0x80;

/// What has happened to the requests.
struct Tally {
    /// How often each request has arrived.
    arrived: Box<[AtomicU8]>,
    /// How many were answered with their own number.
    answered: AtomicU64,
    /// How many were answered with anything else, or more than once.
    crossed: AtomicU64,
    /// How many were left by their client.
    left: AtomicU64,
    /// Upstream connections so far, those that the upstream has closed, those that are open,
    /// and the most that were open at once.
    opened: AtomicU64,
    closed: AtomicU64,
    open: AtomicU64,
    most_open: AtomicU64,
}

impl Tally {
    fn new(requests: u64) -> Tally {
        Tally {
            arrived: (0..requests).map(|_| AtomicU8::new(0)).collect(),
            answered: AtomicU64::new(0),
            crossed: AtomicU64::new(0),
            left: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            open: AtomicU64::new(0),
            most_open: AtomicU64::new(0),
        }
    }

    /// How many requests have arrived so often.
    fn arrived(&self, fits: impl Fn(u8) -> bool) -> u64 {
        let counts = self.arrived.iter().map(|count| count.load(Relaxed));
        counts.filter(|count| fits(*count)).count() as u64
    }
}

/// Runs it and gives the number of requests that went wrong.
pub fn hand_over(program: &str, requests: u64, seed: u64) -> io::Result<u64> {
    println!("seed {seed}, {requests} requests");
    let mut wrong = 0;
    for (name, tls) in [("plain", None), ("TLS", Some(acceptor()?))] {
        // A client's numbers are its own.
        let each = (requests / 2).div_ceil(CLIENTS);
        let all = each * CLIENTS;
        let tally = Arc::new(Tally::new(all));
        let mode = if tls.is_some() { "on" } else { "off" };
        let upstream = upstream(tls, tally.clone(), seed)?.to_string();
        let args = ["-d", "-u", &upstream, "--tls", mode, "--threads", "8"];
        let program = Program::start(program, &args)?;
        let start = Instant::now();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (address, tally) = (program.address, tally.clone());
                let numbers = client * each..(client + 1) * each;
                thread::spawn(move || ask(address, numbers, Noise::new(seed ^ client), &tally))
            })
            .collect();
        let mut next_report = start + REPORT_EVERY;
        while clients.iter().any(|client| !client.is_finished()) {
            thread::sleep(PATIENCE / 1000);
            if Instant::now() >= next_report {
                next_report += REPORT_EVERY;
                let done = tally.answered.load(Relaxed) + tally.left.load(Relaxed);
                let rate = done as f64 / start.elapsed().as_secs_f64();
                println!("{name}: {done} of {all} requests, {rate:.0} a second");
            }
        }
        let answered = tally.answered.load(Relaxed);
        let left = tally.left.load(Relaxed);
        let lost = all - answered - left;
        let crossed = tally.crossed.load(Relaxed);
        let doubled = tally.arrived(|count| count & !LEFT > 1);
        let missing = tally.arrived(|count| count == 0);
        let internal = program.internal_errors.load(Relaxed);
        println!(
            "{name}: {all} requests in {:.0} s, {answered} answered, {left} left by their client; \
             {} upstream connections, {} closed by the upstream, at most {} at once",
            start.elapsed().as_secs_f64(),
            tally.opened.load(Relaxed),
            tally.closed.load(Relaxed),
            tally.most_open.load(Relaxed),
        );
        println!(
            "{name}: {lost} lost, {crossed} crossed, {doubled} arrived twice, {missing} never \
             arrived, {internal} internal errors (0 is right)"
        );
        wrong += lost + crossed + doubled + missing + internal;
    }
    Ok(wrong)
}

/// Sends requests with these numbers.
fn ask(program: SocketAddr, mut numbers: Range<u64>, mut noise: Noise, tally: &Tally) {
    while !numbers.is_empty() {
        let end = numbers.start + 1 + noise.below(MOST_REQUESTS);
        let mut some = numbers.start..end.min(numbers.end);
        let outcome = visit(program, &mut some, &mut noise, tally);
        numbers.start = some.start;
        if let Err(Trouble::Wrong(words) | Trouble::Cut(words)) = outcome {
            println!("before {}: {words}", some.start);
        }
    }
}

/// Sends some requests over a connection of their own. What is left of the numbers has not
/// been sent.
fn visit(program: SocketAddr, numbers: &mut Range<u64>, noise: &mut Noise, tally: &Tally) -> Done {
    let mut wire = Wire::connect(program)?;
    while !numbers.is_empty() {
        let end = numbers.start + 1 + noise.below(MOST_AHEAD);
        let sent = numbers.start..end.min(numbers.end);
        let is_last = sent.end == numbers.end;
        numbers.start = sent.end;
        let mut requests = String::new();
        for number in sent.clone() {
            let close = match is_last && number + 1 == sent.end {
                true => "Connection: close\r\n",
                false => "",
            };
            let _ = write!(
                requests,
                "GET /{number} HTTP/1.1\r\nHost: a.example\r\n{close}\r\n"
            );
        }
        if noise.below(LEAVES) == 0 {
            for number in sent.clone() {
                tally.arrived[number as usize].fetch_or(LEFT, Relaxed);
            }
            tally.left.fetch_add(sent.end - sent.start, Relaxed);
            wire.send(requests.as_bytes())?;
            if noise.below(2) == 0 {
                wire.reset();
            }
            return Ok(());
        }
        wire.send(requests.as_bytes())?;
        for number in sent {
            let head = wire.head()?;
            let body = wire.body(&head)?;
            if !head.starts_with("HTTP/1.1 200 ") {
                return Err(Trouble::Wrong(format!("{number} was answered {head:?}")));
            }
            if body != format!("/{number}").as_bytes() {
                tally.crossed.fetch_add(1, Relaxed);
                let body = String::from_utf8_lossy(&body);
                return Err(Trouble::Wrong(format!("{number} was answered {body:?}")));
            }
            tally.answered.fetch_add(1, Relaxed);
        }
        let more = match is_last {
            true => wire.rest()?,
            false => std::mem::take(&mut wire.ahead),
        };
        if !more.is_empty() {
            tally.crossed.fetch_add(1, Relaxed);
            let more = String::from_utf8_lossy(&more);
            return Err(Trouble::Wrong(format!("an answer too many: {more:?}")));
        }
    }
    Ok(())
}

/// Answers with the path, counts the numbers, and closes at random.
fn upstream(tls: Option<SslAcceptor>, tally: Arc<Tally>, seed: u64) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for (n, socket) in listener.incoming().flatten().enumerate() {
            let (tls, tally) = (tls.clone(), tally.clone());
            let noise = Noise::new(seed ^ (n as u64) << 16);
            thread::spawn(move || {
                tally.opened.fetch_add(1, Relaxed);
                let open = tally.open.fetch_add(1, Relaxed) + 1;
                tally.most_open.fetch_max(open, Relaxed);
                // Whatever ends it, the clients see.
                let _ = connection(socket, tls, noise, &tally);
                tally.open.fetch_sub(1, Relaxed);
            });
        }
    });
    Ok(address)
}

fn connection(
    socket: std::net::TcpStream,
    tls: Option<SslAcceptor>,
    mut noise: Noise,
    tally: &Tally,
) -> Done {
    let mut wire = Wire::new(socket)?;
    if let Some(tls) = tls {
        let stream = Patient(wire.socket.try_clone()?);
        let stream = tls.accept(stream).map_err(io::Error::other)?;
        wire.stream = Box::new(stream);
    }
    loop {
        let head = wire.head()?;
        let path = path(&head);
        let number = path[1..].parse::<usize>().ok();
        if let Some(count) = number.and_then(|number| tally.arrived.get(number)) {
            count.fetch_add(1, Relaxed);
        }
        let closes = noise.below(CLOSES) == 0;
        let says_so = closes && noise.below(2) == 0;
        let close = if says_so { "Connection: close\r\n" } else { "" };
        let length = path.len();
        let answer = format!("HTTP/1.1 200 OK\r\n{close}Content-Length: {length}\r\n\r\n{path}");
        wire.send(answer.as_bytes())?;
        if closes {
            tally.closed.fetch_add(1, Relaxed);
            return Ok(());
        }
    }
}
