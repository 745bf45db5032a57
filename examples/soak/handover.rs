//! The soak of connections that are handed over between threads: `soak PROGRAM hand-over
//! REQUESTS`. The program has eight threads. Clients use a connection for a few requests each,
//! and some leave before or during a response. The upstream, over TCP and over TLS, closes at
//! random and sends unrequested responses. Every request has a number; each must arrive once and
//! be answered once, with its own number, and nothing may follow the last response on a
//! connection. Only the client that has logged in by NTLM may be served as that user. Then come
//! POSTs, to an upstream that keeps connections but sometimes closes one while it processes a
//! POST, which must be answered 502 and arrive once. At the end the program must have no more
//! sockets and threads than before.
//!
//! To test the soak itself, it was run on programs that were broken on purpose, each in one way.
//! With 100,000 requests it reported each of these faults: a connection that is kept with a part
//! of a body still to come, or with bytes after its response, which were dropped or left for the
//! next request; an authenticated connection that is kept for other clients; a POST that is
//! repeated on a new connection; a request that is sent twice; a byte of a body that is
//! duplicated or omitted; one kept connection in 50 that its new thread does not watch, or that
//! is never closed; 2 KiB leaked with each request.

use std::fmt::Write as _;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicU8, Ordering::Relaxed};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use openssl::ssl::SslAcceptor;

use crate::checks::Checks;
use crate::connection::{path, Done, Trouble, Wire};
use crate::noise::Noise;
use crate::program::{Program, Route};
use crate::shared::{field, Patient};
use crate::upstream::acceptor;
use crate::{PATIENCE, REPORT_EVERY};

/// Client threads for each of the two programs.
const CLIENTS: u64 = 16;

/// The largest number of requests on a client connection.
const MOST_REQUESTS: u64 = 4;

/// How many of them at most are sent before the first is answered.
const MOST_AHEAD: u64 = 2;

/// One in this many clients leaves without waiting for its responses.
const LEAVES: u64 = 64;

/// The upstream closes after one in this many responses, half of the time without an
/// announcement.
const CLOSES: u64 = 16;

/// One in this many short responses is followed at once by another one that was not requested.
const SPILLS: u64 = 32;

/// One in this many bodies is long, less than `LONGEST` bytes, in two pieces.
const LONG: u64 = 16;
const LONGEST: u64 = 100_000;

/// The longest pause between the two pieces.
const PAUSE_MICROS: u64 = 2_000;

/// One in this many clients logs in with its last request.
const LOGINS: u64 = 16;

/// The upstream closes without a response on one in this many POSTs, after processing it for
/// this long: longer than a FIN may take that was sent before the POST arrived.
const DROPS: u64 = 128;
const WORK: Duration = Duration::from_millis(150);

/// After this many failed client connections the remaining requests are not sent.
const ENOUGH: u64 = 10;

/// Set in a request's count of arrivals if its client has left: it need not arrive.
const LEFT: u8 = 0x80;

/// The same if the upstream has closed its connection: there is no response.
const DROPPED: u8 = 0x40;

/// How the upstream of one program treats requests.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// All requests are GETs, and the upstream closes at random.
    Closes,
    /// Half of them are POSTs, which use kept connections only if the upstream keeps them; it
    /// closes during some POSTs.
    Drops,
}

/// Counts of what has happened to the requests.
struct Tally {
    manner: Manner,
    /// How often each request has arrived.
    arrived: Box<[AtomicU8]>,
    /// How many were answered with their own number.
    answered: AtomicU64,
    /// How many were answered with anything else, more than once, or as the wrong user; or
    /// arrived with a body that is not their own.
    crossed: AtomicU64,
    /// How many were sent on a connection on which an unrequested response had come before.
    misled: AtomicU64,
    /// How many were abandoned by their client.
    left: AtomicU64,
    /// How many were answered 502 because the upstream had closed.
    refused: AtomicU64,
    /// Failed client connections.
    failed: AtomicU64,
    /// Actions of the upstream: unrequested responses, logins, POSTs on which it closed, and
    /// POSTs on connections that had been used before.
    spilt: AtomicU64,
    logins: AtomicU64,
    dropped: AtomicU64,
    reused: AtomicU64,
    /// Upstream connections so far, those that the upstream has closed, those that are open, and
    /// the most that were open at once.
    opened: AtomicU64,
    closed: AtomicU64,
    open: AtomicU64,
    most_open: AtomicU64,
}

impl Tally {
    fn new(manner: Manner, requests: u64) -> Tally {
        Tally {
            manner,
            arrived: (0..requests).map(|_| AtomicU8::new(0)).collect(),
            answered: AtomicU64::new(0),
            crossed: AtomicU64::new(0),
            misled: AtomicU64::new(0),
            left: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            spilt: AtomicU64::new(0),
            logins: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            reused: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            open: AtomicU64::new(0),
            most_open: AtomicU64::new(0),
        }
    }

    /// How many requests have a count of arrivals that fits.
    fn arrived(&self, fits: impl Fn(u8) -> bool) -> u64 {
        let counts = self.arrived.iter().map(|count| count.load(Relaxed));
        counts.filter(|count| fits(*count)).count() as u64
    }

    fn done(&self) -> u64 {
        let done = [&self.answered, &self.left, &self.refused];
        done.map(|count| count.load(Relaxed)).iter().sum()
    }

    /// Whether a request is a POST.
    fn is_post(&self, number: u64) -> bool {
        self.manner == Manner::Drops && number % 2 == 1
    }

    /// What should have happened and has not: it was not tested.
    fn untested(&self) -> Vec<&'static str> {
        let wanted = match self.manner {
            Manner::Closes => [
                ("left by their client", &self.left),
                ("responses too many", &self.spilt),
                ("logins", &self.logins),
            ],
            Manner::Drops => [
                ("left by their client", &self.left),
                ("POSTs ended", &self.dropped),
                ("POSTs on kept connections", &self.reused),
            ],
        };
        let missed = wanted.iter().filter(|(_, count)| count.load(Relaxed) == 0);
        missed.map(|(name, _)| *name).collect()
    }
}

/// The body of the response to a request, or of a POST.
fn body_of(number: u64, most: u64) -> Vec<u8> {
    let mut noise = Noise::new(number ^ most);
    let mut body = format!("/{number}\n").into_bytes();
    if noise.below(LONG) == 0 {
        let more = noise.below(most) as usize;
        body.extend(noise.bytes(more));
    }
    body
}

/// The body of a POST, which may be empty.
fn posted(number: u64) -> Vec<u8> {
    match number % 3 {
        0 => Vec::new(),
        _ => body_of(number, LONGEST / 2),
    }
}

/// Runs the soak and returns the number of failed requests and checks.
pub fn hand_over(program: &str, requests: u64, seed: u64) -> io::Result<u64> {
    println!("seed {seed}, {requests} requests");
    let mut wrong = 0;
    for (name, tls, manner) in [
        ("plain", None, Manner::Closes),
        ("TLS", Some(acceptor()?), Manner::Closes),
        ("POSTs", None, Manner::Drops),
    ] {
        // Each client has its own range of numbers.
        let each = (requests / 3).div_ceil(CLIENTS);
        wrong += run(program, name, tls, manner, each, seed)?;
    }
    Ok(wrong)
}

/// Sends `each` requests from each client through one program.
fn run(
    program: &str,
    name: &'static str,
    tls: Option<SslAcceptor>,
    manner: Manner,
    each: u64,
    seed: u64,
) -> io::Result<u64> {
    let all = each * CLIENTS;
    let tally = Arc::new(Tally::new(manner, all));
    let mode = if tls.is_some() { "on" } else { "off" };
    let upstream = upstream(tls, tally.clone(), seed)?.to_string();
    let args = ["-d", "-u", &upstream, "--tls", mode, "--threads", "8"];
    // Leaked connections are to be noticed soon.
    let args = [&args[..], &["--upstream-idle", "2"]].concat();
    let route = Arc::new(Route::unbroken(name, Program::start(program, &args)?));
    let program = &route.program;
    let before = (program.sockets(), program.threads());
    let start = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (address, tally) = (program.address, tally.clone());
            let numbers = client * each..(client + 1) * each;
            thread::spawn(move || ask(address, numbers, Noise::new(seed ^ client), &tally))
        })
        .collect();
    let mut next_report = start + REPORT_EVERY;
    let mut warm = 0;
    while clients.iter().any(|client| !client.is_finished()) {
        thread::sleep(PATIENCE / 1000);
        if tally.done() < all / 3 {
            warm = program.resident_kib().max(warm);
        }
        if Instant::now() >= next_report {
            next_report += REPORT_EVERY;
            let done = tally.done();
            let rate = done as f64 / start.elapsed().as_secs_f64();
            println!("{name}: {done} of {all} requests, {rate:.0} a second");
        }
    }
    let took = start.elapsed().as_secs_f64();
    let memory = (warm, program.resident_kib());
    let count = |count: &AtomicU64| count.load(Relaxed);
    let lost = all - tally.done();
    let crossed = count(&tally.crossed);
    let misled = count(&tally.misled);
    let doubled = tally.arrived(|count| count & !(LEFT | DROPPED) > 1);
    let missing = tally.arrived(|count| count == 0);
    let internal = program.internal_errors.load(Relaxed);
    println!(
        "{name}: {all} requests in {took:.0} s, {} answered, {} left by their client, {} refused \
         for {} that the upstream ended; {} logins, {} responses too many; {} upstream \
         connections, {} closed by the upstream, at most {} at once",
        count(&tally.answered),
        count(&tally.left),
        count(&tally.refused),
        count(&tally.dropped),
        count(&tally.logins),
        count(&tally.spilt),
        count(&tally.opened),
        count(&tally.closed),
        count(&tally.most_open),
    );
    println!(
        "{name}: {lost} lost, {crossed} crossed, {misled} on a connection with a response too \
         many, {doubled} arrived twice, {missing} never arrived, {internal} internal errors (0 is \
         right)"
    );
    let untested = tally.untested();
    for what in &untested {
        println!("{name}: no {what}: too few requests for a test");
    }
    let mut checks = Checks::default();
    let route = [route];
    checks.leftovers(&route, &[before]);
    checks.memory(&route, &[memory]);
    let failed = untested.len() + checks.failed;
    Ok(lost + crossed + misled + doubled + missing + internal + failed as u64)
}

/// Sends requests with these numbers.
fn ask(program: SocketAddr, mut numbers: Range<u64>, mut noise: Noise, tally: &Tally) {
    while !numbers.is_empty() && tally.failed.load(Relaxed) < ENOUGH {
        let end = numbers.start + 1 + noise.below(MOST_REQUESTS);
        let mut some = numbers.start..end.min(numbers.end);
        let outcome = visit(program, &mut some, &mut noise, tally);
        numbers.start = some.start;
        if let Err(Trouble::Wrong(words) | Trouble::Cut(words)) = outcome {
            tally.failed.fetch_add(1, Relaxed);
            println!("before {}: {words}", some.start);
        }
    }
}

/// Sends some requests over a new connection. What remains of `numbers` has not been sent.
fn visit(program: SocketAddr, numbers: &mut Range<u64>, noise: &mut Noise, tally: &Tally) -> Done {
    let mut wire = Wire::connect(program)?;
    let logs_in = tally.manner == Manner::Closes && noise.below(LOGINS) == 0;
    while !numbers.is_empty() {
        let end = numbers.start + 1 + noise.below(MOST_AHEAD);
        let sent = numbers.start..end.min(numbers.end);
        let is_last = sent.end == numbers.end;
        numbers.start = sent.end;
        let user = (is_last && logs_in).then_some(sent.end - 1);
        let mut requests = Vec::new();
        for number in sent.clone() {
            let method = if tally.is_post(number) { "POST" } else { "GET" };
            let mut head = format!("{method} /{number} HTTP/1.1\r\nHost: a.example\r\n");
            if user == Some(number) {
                let _ = write!(head, "Authorization: NTLM {number}\r\n");
            }
            if is_last && number + 1 == sent.end {
                head += "Connection: close\r\n";
            }
            let mut body = Vec::new();
            if tally.is_post(number) {
                body = posted(number);
                let _ = write!(head, "Content-Length: {}\r\n", body.len());
            }
            requests.extend(head.into_bytes());
            requests.extend(b"\r\n");
            requests.extend(body);
        }
        if noise.below(LEAVES) == 0 {
            for number in sent.clone() {
                tally.arrived[number as usize].fetch_or(LEFT, Relaxed);
            }
            tally.left.fetch_add(sent.end - sent.start, Relaxed);
            wire.send(&requests)?;
            if noise.below(2) == 0 {
                // In the middle of a response.
                let _ = wire.exactly(1);
            }
            if noise.below(2) == 0 {
                wire.reset();
            }
            return Ok(());
        }
        wire.send(&requests)?;
        for number in sent {
            answered(&mut wire, number, user, tally)?;
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

/// Reads the response to one request, which may be that of an authenticated user.
fn answered(wire: &mut Wire, number: u64, user: Option<u64>, tally: &Tally) -> Done {
    let head = wire.head()?;
    let body = wire.body(&head)?;
    let was_dropped = tally.arrived[number as usize].load(Relaxed) & DROPPED != 0;
    if was_dropped && head.starts_with("HTTP/1.1 502 ") {
        tally.refused.fetch_add(1, Relaxed);
        return Ok(());
    }
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(Trouble::Wrong(format!("{number} was answered {head:?}")));
    }
    let user = user.filter(|user| *user == number);
    let served_as = field(&head, "user");
    if body != body_of(number, LONGEST) || served_as != user.map(|n| n.to_string()).as_deref() {
        tally.crossed.fetch_add(1, Relaxed);
        let start = String::from_utf8_lossy(&body[..body.len().min(80)]);
        let words = format!("{number} was answered {head:?} {start:?}");
        return Err(Trouble::Wrong(words));
    }
    tally.answered.fetch_add(1, Relaxed);
    Ok(())
}

/// The upstream: answers each number with its body, counts the arrivals, and closes at random.
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
                // The clients notice however it ends.
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
    // The authenticated user, and whether an unrequested response was sent.
    let mut user: Option<String> = None;
    let mut has_spilt = false;
    let mut is_used = false;
    loop {
        let head = wire.head()?;
        let number = path(&head)[1..].parse::<u64>().unwrap_or(u64::MAX);
        let Some(count) = tally.arrived.get(number as usize) else {
            tally.crossed.fetch_add(1, Relaxed);
            return Err(Trouble::Wrong(format!("this was never asked: {head:?}")));
        };
        let body = match tally.is_post(number) {
            true => wire.body(&head)?,
            false => Vec::new(),
        };
        count.fetch_add(1, Relaxed);
        tally.misled.fetch_add(has_spilt.into(), Relaxed);
        if tally.is_post(number) {
            tally.reused.fetch_add(is_used.into(), Relaxed);
            let is_its_own = body == posted(number);
            tally.crossed.fetch_add((!is_its_own).into(), Relaxed);
            if noise.below(DROPS) == 0 {
                count.fetch_or(DROPPED, Relaxed);
                tally.dropped.fetch_add(1, Relaxed);
                thread::sleep(WORK);
                return Ok(());
            }
        }
        is_used = true;
        if let Some(name) = field(&head, "authorization").and_then(|f| f.strip_prefix("NTLM ")) {
            tally.logins.fetch_add(1, Relaxed);
            user = Some(name.to_owned());
        }
        let closes = tally.manner == Manner::Closes && noise.below(CLOSES) == 0;
        let says_so = closes && noise.below(2) == 0;
        let close = if says_so { "Connection: close\r\n" } else { "" };
        let user = user.as_ref().map(|name| format!("User: {name}\r\n"));
        let user = user.unwrap_or_default();
        let body = body_of(number, LONGEST);
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\n{close}{user}Content-Length: {length}\r\n\r\n");
        let mut answer = head.into_bytes();
        answer.extend(body);
        if answer.len() > 1_000 {
            let cut = noise.split(answer.len());
            wire.send(&answer[..cut])?;
            thread::sleep(Duration::from_micros(noise.below(PAUSE_MICROS)));
            wire.send(&answer[cut..])?;
        } else {
            // In the same segment, so that it arrives together with the response.
            if tally.manner == Manner::Closes && noise.below(SPILLS) == 0 {
                answer.extend(STRAY);
                has_spilt = true;
                tally.spilt.fetch_add(1, Relaxed);
            }
            wire.send(&answer)?;
        }
        if closes {
            tally.closed.fetch_add(1, Relaxed);
            return Ok(());
        }
    }
}

/// An unrequested response.
const STRAY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray";
