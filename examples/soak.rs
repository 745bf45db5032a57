//! The soak that `make soak` runs: `soak PROGRAM [MINUTES]`. The real program stands
//! between clients and an upstream, both in here, by four routes: directly, with TLS, and
//! through SOCKS5 and CONNECT hops that die now and then. Clients fetch, upload, upgrade,
//! pipeline, dawdle, leave and talk nonsense, bounded in number; every answer is checked
//! byte for byte. Only what was made to fail may fail. Afterwards nothing may be left
//! behind: no socket, no memory, no connection cut off at the end.
//!
//! It prints its seed; SEED in the environment repeats it.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use openssl::ssl::{SslAcceptor, SslMethod, SslStream};

/// Longer than anything takes on a slow machine; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Client threads.
const CLIENTS: u64 = 32;

/// How often a line is printed.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Idle upstream connections are closed after 15 s; what is left longer is a leak.
const POOL_EXPIRY: Duration = Duration::from_secs(40);

/// How much a program's memory may have grown since it was warm, in KiB: what a few more
/// connections at the same moment cost.
const MEMORY_SLACK: u64 = 6 * 1024;

/// One hop connection in so many dies during its handshake, and one of the rest later.
const HOP_DIES: u64 = 25;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let program = args.next();
    let minutes = args.next().map_or(Ok(10.0), |minutes| minutes.parse());
    let minutes = minutes.ok().filter(|minutes| (0.01..1e6).contains(minutes));
    let (Some(program), Some(minutes)) = (program, minutes) else {
        eprintln!("usage: soak PROGRAM [MINUTES]");
        return ExitCode::from(2);
    };
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    let clock = since_epoch.map_or(1, |time| time.as_nanos() as u64 % 1_000_000_000);
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    match soak(&program, minutes, seed.unwrap_or(clock)) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs everything and gives the number of checks that failed.
fn soak(program: &str, minutes: f64, seed: u64) -> io::Result<usize> {
    let duration = Duration::from_secs_f64(minutes * 60.0);
    println!("seed {seed}, {minutes} minutes, {CLIENTS} clients");
    let tally: &'static Tally = Box::leak(Box::default());
    let routes = routes(program, seed, tally)?;
    for route in &routes {
        route.warm_up()?;
    }
    let sockets_before: Vec<usize> = routes.iter().map(|route| route.fewest_sockets()).collect();

    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (routes, stop) = (routes.clone(), stop.clone());
            thread::spawn(move || client(number, seed, &routes, &stop, tally))
        })
        .collect();
    let memory = watch(duration, &routes, tally);
    stop.store(true, Relaxed);
    for client in clients {
        if client.join().is_err() {
            tally.unexpected("a client panicked".to_owned());
        }
    }
    println!("{}", tally.line(&routes));

    let mut checks = Checks::default();
    checks.activities(tally);
    checks.errors(&routes, tally);
    checks.leftovers(&routes, &sockets_before);
    checks.memory(&routes, &memory);
    checks.exits(&routes);
    println!("{} passed, {} failed", checks.passed, checks.failed);
    Ok(checks.failed)
}

/// Prints how things stand until the time is over; gives each program's memory when it
/// was warm and at the end, in KiB.
fn watch(duration: Duration, routes: &[Arc<Route>], tally: &Tally) -> Vec<(u64, u64)> {
    let start = Instant::now();
    let mut next_report = start + REPORT_EVERY;
    let mut samples: Vec<Vec<u64>> = vec![Vec::new(); routes.len()];
    while start.elapsed() < duration {
        thread::sleep(Duration::from_millis(200).min(duration));
        for (samples, route) in samples.iter_mut().zip(routes) {
            samples.push(route.program.resident_kib());
        }
        if Instant::now() >= next_report {
            next_report += REPORT_EVERY;
            println!("{}", tally.line(routes));
        }
    }
    // A fifth of the time is for warming up. The highest of a fifth, not an average: a
    // moment with few connections is no measure.
    let highest = |part: &[u64]| part.iter().copied().max().unwrap_or(0);
    let fifths = samples.iter().map(|samples| {
        let fifth = samples.len() / 5;
        let end = samples.len() - fifth;
        (
            highest(&samples[fifth..2 * fifth + 1]),
            highest(&samples[end.saturating_sub(1)..]),
        )
    });
    fifths.collect()
}

// What has happened

/// What the clients do, each counted.
const ACTIVITIES: [&str; 11] = [
    "get",
    "http/1.0",
    "head",
    "upload",
    "expect",
    "websocket",
    "pipeline",
    "slow reader",
    "abort",
    "bad input",
    "upstream fault",
];

#[derive(Default)]
struct Tally {
    activities: [AtomicU64; ACTIVITIES.len()],
    requests: AtomicU64,
    bytes: AtomicU64,
    upstream_faults: AtomicU64,
    aborts: AtomicU64,
    unexpected: AtomicU64,
    /// The first of them in words.
    examples: Mutex<Vec<String>>,
}

impl Tally {
    fn unexpected(&self, what: String) {
        self.unexpected.fetch_add(1, Relaxed);
        let mut examples = self.examples.lock().expect("no panic holds it");
        if examples.len() < 20 {
            println!("UNEXPECTED {what}");
            examples.push(what);
        }
    }

    fn activity(&self, name: &str) -> u64 {
        let at = ACTIVITIES.iter().position(|activity| *activity == name);
        self.activities[at.expect("a known name")].load(Relaxed)
    }

    fn line(&self, routes: &[Arc<Route>]) -> String {
        let hop_faults: u64 = routes
            .iter()
            .map(|route| route.injected.load(Relaxed))
            .sum();
        let failed: u64 = routes.iter().map(|route| route.failed.load(Relaxed)).sum();
        let of_each = |look: fn(&Program) -> u64| {
            let looks = routes.iter().map(|route| look(&route.program).to_string());
            looks.collect::<Vec<_>>().join("/")
        };
        format!(
            "{} requests, {} websockets, {} MiB; injected: {hop_faults} hop faults ({failed} seen), \
             {} upstream faults, {} aborts, {} bad inputs; descriptors {}, resident KiB {}; \
             {} unexpected",
            self.requests.load(Relaxed),
            self.activity("websocket"),
            self.bytes.load(Relaxed) >> 20,
            self.upstream_faults.load(Relaxed),
            self.aborts.load(Relaxed),
            self.activity("bad input"),
            of_each(|program| program.descriptors().len() as u64),
            of_each(Program::resident_kib),
            self.unexpected.load(Relaxed),
        )
    }
}

// What must hold afterwards

#[derive(Default)]
struct Checks {
    passed: usize,
    failed: usize,
}

impl Checks {
    fn check(&mut self, holds: bool, what: &str) {
        if holds {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
        println!("{} {what}", if holds { "ok    " } else { "FAILED" });
    }

    /// A soak that did not do something has not tested it.
    fn activities(&mut self, tally: &Tally) {
        for (name, count) in ACTIVITIES.iter().zip(&tally.activities) {
            let count = count.load(Relaxed);
            self.check(count > 0, &format!("{count} times: {name}"));
        }
    }

    fn errors(&mut self, routes: &[Arc<Route>], tally: &Tally) {
        let unexpected = tally.unexpected.load(Relaxed);
        self.check(unexpected == 0, &format!("{unexpected} unexpected errors"));
        for route in routes {
            let (failed, injected) = (route.failed.load(Relaxed), route.injected.load(Relaxed));
            let what = format!("{}: {failed} failures of {injected} injected", route.name);
            self.check(failed <= injected, &what);
            let internal = route.program.internal_errors.load(Relaxed);
            self.check(
                internal == 0,
                &format!("{}: {internal} internal errors logged", route.name),
            );
        }
    }

    fn leftovers(&mut self, routes: &[Arc<Route>], before: &[usize]) {
        let deadline = Instant::now() + POOL_EXPIRY;
        let are_back = || {
            let now = routes.iter().map(|route| route.program.sockets());
            now.zip(before).all(|(now, before)| now <= *before)
        };
        while !are_back() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(100));
        }
        for (route, before) in routes.iter().zip(before) {
            let now = route.program.sockets();
            let what = format!("{}: {now} sockets as at the start, {before}", route.name);
            self.check(now <= *before, &what);
            // Pipes for bulk are kept for reuse: two ends of at most 16 in each thread.
            let pipes = route.program.pipes();
            let what = format!("{}: {pipes} pipe ends kept, at most 70", route.name);
            self.check(pipes <= 70, &what);
        }
    }

    fn memory(&mut self, routes: &[Arc<Route>], memory: &[(u64, u64)]) {
        for (route, (warm, end)) in routes.iter().zip(memory) {
            let what = format!(
                "{}: {warm} KiB when warm, {end} at the end, {MEMORY_SLACK} more allowed",
                route.name
            );
            self.check(*end <= warm + MEMORY_SLACK, &what);
        }
    }

    fn exits(&mut self, routes: &[Arc<Route>]) {
        for route in routes {
            let status = route.program.terminate();
            let what = format!("{}: SIGTERM ends it: {status}", route.name);
            let ended = status.starts_with("exit status");
            self.check(status == "exit status: 0", &what);
            let last = match ended {
                true => route.program.last_line(),
                false => String::new(),
            };
            let what = format!("{}: its last words: {last}", route.name);
            self.check(last.ends_with("stopped, 0 connections cut off"), &what);
        }
    }
}

// The program

/// The program under test, running.
struct Program {
    child: Mutex<Child>,
    id: u32,
    address: SocketAddr,
    internal_errors: Arc<AtomicU64>,
    /// Reads the log to its end and gives its last line.
    log: Mutex<Option<JoinHandle<String>>>,
}

impl Program {
    fn start(program: &str, args: &[&str]) -> io::Result<Program> {
        let mut command = Command::new(program);
        for name in [
            "UPSTREAM_HOST",
            "LISTEN_PORT",
            "SOCKS_PROXY",
            "HTTP_PROXY",
            "HTTPS_PROXY",
        ] {
            command.env_remove(name);
        }
        command.env_remove("JOURNAL_STREAM");
        command.args([
            "-b",
            "127.0.0.1",
            "-p",
            "0",
            "--log-lang",
            "en",
            "--threads",
            "2",
        ]);
        command
            .args(args)
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let stderr = child.stderr.take().ok_or(ErrorKind::BrokenPipe)?;
        let mut lines = BufReader::new(stderr).split(b'\n');
        let first = lines.next().ok_or(ErrorKind::UnexpectedEof)??;
        let first = String::from_utf8_lossy(&first).into_owned();
        let address = first
            .rsplit(' ')
            .next()
            .and_then(|address| address.parse().ok());
        let address = address.ok_or_else(|| io::Error::other(format!("no address: {first}")))?;
        let internal_errors = Arc::new(AtomicU64::new(0));
        let counted = internal_errors.clone();
        let log = thread::spawn(move || {
            let mut last = String::new();
            for line in lines.map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                if [
                    "internal error",
                    "a thread cannot serve",
                    "accepting paused",
                ]
                .iter()
                .any(|words| line.contains(words))
                {
                    counted.fetch_add(1, Relaxed);
                    println!("LOGGED {line}");
                }
                last = line.into_owned();
            }
            last
        });
        Ok(Program {
            id: child.id(),
            child: Mutex::new(child),
            address,
            internal_errors,
            log: Mutex::new(Some(log)),
        })
    }

    /// What its descriptors stand for.
    fn descriptors(&self) -> Vec<String> {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.id));
        let targets = entries.into_iter().flatten().flatten();
        // One may be closed between the two looks.
        let targets = targets.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let targets = targets.map(|target| target.to_string_lossy().into_owned());
        targets.collect()
    }

    fn count(&self, kind: &str) -> usize {
        let descriptors = self.descriptors();
        descriptors.iter().filter(|d| d.starts_with(kind)).count()
    }

    fn sockets(&self) -> usize {
        self.count("socket:")
    }

    fn pipes(&self) -> usize {
        self.count("pipe:")
    }

    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    /// The last line of its log, once it has ended.
    fn last_line(&self) -> String {
        let log = self.log.lock().expect("no panic holds it").take();
        log.and_then(|log| log.join().ok()).unwrap_or_default()
    }

    /// Its exit status behind SIGTERM, in words.
    fn terminate(&self) -> String {
        use rustix::process::{kill_process, Pid, Signal};
        let mut child = self.child.lock().expect("no panic holds it");
        if let Err(error) = kill_process(Pid::from_child(&child), Signal::TERM) {
            return error.to_string();
        }
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match child.try_wait() {
                Ok(Some(status)) => return status.to_string(),
                Ok(None) => thread::sleep(Duration::from_millis(20)),
                Err(error) => return error.to_string(),
            }
        }
        "it does not end".to_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Ok(child) = self.child.get_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// One way from the clients to the upstream.
struct Route {
    name: &'static str,
    program: Program,
    /// Connections that the hop on this way has broken.
    injected: &'static AtomicU64,
    /// Exchanges that failed as a broken hop makes them fail.
    failed: AtomicU64,
}

impl Route {
    /// One request, so that what is opened once is open.
    fn warm_up(&self) -> io::Result<()> {
        let mut wire = Wire::connect(self.program.address)?;
        for _ in 0..20 {
            wire.send(b"GET /warm-up HTTP/1.0\r\n\r\n")
                .map_err(io::Error::other)?;
            let head = wire.head().map_err(io::Error::other)?;
            if head.starts_with("HTTP/1.1 200 ") {
                return Ok(());
            }
            // The hop may have died.
            wire = Wire::connect(self.program.address)?;
        }
        Err(io::Error::other(format!(
            "{}: no answer to a first request",
            self.name
        )))
    }

    /// How many sockets are open once the first request is over.
    fn fewest_sockets(&self) -> usize {
        let looks = (0..10).map(|_| {
            thread::sleep(Duration::from_millis(20));
            self.program.sockets()
        });
        looks.min().unwrap_or(0)
    }
}

fn routes(program: &str, seed: u64, tally: &'static Tally) -> io::Result<Vec<Arc<Route>>> {
    let plain = upstream(None, tally)?.to_string();
    let secure = upstream(Some(acceptor()?), tally)?.to_string();
    let route = |name, injected, args: &[&str]| -> io::Result<Arc<Route>> {
        Ok(Arc::new(Route {
            name,
            program: Program::start(program, args)?,
            injected,
            failed: AtomicU64::new(0),
        }))
    };
    let counter = || -> &'static AtomicU64 { Box::leak(Box::default()) };
    let (by_socks, by_connect) = (counter(), counter());
    let socks = format!("socks5://{}", hop(seed ^ 1, by_socks)?);
    let connect = format!("http://{}", hop(seed ^ 2, by_connect)?);
    Ok(vec![
        route("direct", counter(), &["-d", "-u", &plain])?,
        route(
            "direct TLS",
            counter(),
            &["-d", "--tls", "on", "-u", &secure],
        )?,
        route("SOCKS5", by_socks, &["-s", &socks, "-u", &plain])?,
        route(
            "CONNECT TLS",
            by_connect,
            &["--http-proxy", &connect, "--tls", "on", "-u", &secure],
        )?,
    ])
}

// Noise

/// Repeatable noise (xorshift).
struct Noise(u64);

impl Noise {
    fn new(seed: u64) -> Noise {
        Noise(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        // The low bits are the weak ones.
        (self.next() >> 11) % limit
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }

    /// Mostly small, up to 1 MiB; now and then 8 MiB, which comes in bulk.
    fn size(&mut self) -> usize {
        if self.below(150) == 0 {
            return 8 << 20;
        }
        self.mostly_small(20)
    }

    /// Below two to the power of `most`, each power as likely as the next.
    fn mostly_small(&mut self, most: u64) -> usize {
        let magnitude = self.below(most + 1);
        self.below(1 << magnitude) as usize
    }

    /// Where to cut something in two.
    fn split(&mut self, length: usize) -> usize {
        self.below(length as u64 + 1) as usize
    }
}

/// What an upload is answered with (FNV-1a).
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

// Connections

/// Why an exchange did not come to its end.
enum Trouble {
    /// The connection ended, or the program says that the upstream could not be reached:
    /// what a broken hop or upstream leads to.
    Cut(String),
    /// Anything else: wrong bytes, a wrong status, silence.
    Wrong(String),
}

use Trouble::{Cut, Wrong};

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        use ErrorKind::*;
        match error.kind() {
            ConnectionReset | BrokenPipe | UnexpectedEof | ConnectionAborted | NotConnected => {
                Cut(error.to_string())
            }
            WouldBlock | TimedOut => Wrong("nothing moves any more".to_owned()),
            _ => Wrong(error.to_string()),
        }
    }
}

impl From<Trouble> for Box<dyn std::error::Error + Send + Sync> {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Cut(words) | Wrong(words) => words.into(),
        }
    }
}

type Done<T = ()> = Result<T, Trouble>;

/// Reads once, whatever interrupts it: a read with a timeout is not restarted by the kernel
/// (signal(7)).
fn read_some(stream: &mut (impl Read + ?Sized), room: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(room) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// TCP, or TLS over it.
trait Bytes: Read + Write + Send {
    fn close(&mut self) {}
}

impl Bytes for TcpStream {}

impl Bytes for SslStream<Patient> {
    fn close(&mut self) {
        let _ = self.shutdown();
    }
}

/// One end of a connection, with what was read too far.
struct Wire {
    stream: Box<dyn Bytes>,
    socket: TcpStream,
    ahead: Vec<u8>,
}

impl Wire {
    fn connect(address: SocketAddr) -> io::Result<Wire> {
        Wire::new(TcpStream::connect(address)?)
    }

    fn new(socket: TcpStream) -> io::Result<Wire> {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        Ok(Wire {
            stream: Box::new(socket.try_clone()?),
            socket,
            ahead: Vec::new(),
        })
    }

    fn send(&mut self, bytes: &[u8]) -> Done {
        Ok(self.stream.write_all(bytes)?)
    }

    fn read_more(&mut self) -> io::Result<usize> {
        let mut piece = [0; 64 * 1024];
        let n = read_some(&mut self.stream, &mut piece)?;
        self.ahead.extend_from_slice(&piece[..n]);
        Ok(n)
    }

    fn need_more(&mut self) -> Done {
        match self.read_more()? {
            0 => Err(Cut("the connection ended".to_owned())),
            _ => Ok(()),
        }
    }

    /// Up to and with `end`.
    fn until(&mut self, end: &[u8]) -> Done<String> {
        loop {
            let found = self.ahead.windows(end.len()).position(|bytes| bytes == end);
            if let Some(at) = found {
                let bytes: Vec<u8> = self.ahead.drain(..at + end.len()).collect();
                return String::from_utf8(bytes).map_err(|_| Wrong("a head is no text".to_owned()));
            }
            if self.ahead.len() > 64 * 1024 {
                return Err(Wrong("a head without an end".to_owned()));
            }
            self.need_more()?;
        }
    }

    fn head(&mut self) -> Done<String> {
        self.until(b"\r\n\r\n")
    }

    fn exactly(&mut self, count: usize) -> Done<Vec<u8>> {
        while self.ahead.len() < count {
            self.need_more()?;
        }
        let rest = self.ahead.split_off(count);
        Ok(std::mem::replace(&mut self.ahead, rest))
    }

    fn rest(&mut self) -> Done<Vec<u8>> {
        while self.read_more()? > 0 {}
        Ok(std::mem::take(&mut self.ahead))
    }

    fn chunked(&mut self) -> Done<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.until(b"\r\n")?;
            let size = usize::from_str_radix(line.trim_end(), 16);
            let size = size.map_err(|_| Wrong(format!("a chunk of size {line:?}")))?;
            body.extend(self.exactly(size)?);
            if self.exactly(2)? != b"\r\n" {
                return Err(Wrong("a chunk does not end where it should".to_owned()));
            }
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn body(&mut self, head: &str) -> Done<Vec<u8>> {
        if let Some(length) = field(head, "content-length") {
            let length = length
                .parse()
                .map_err(|_| Wrong(format!("length {length:?}")))?;
            self.exactly(length)
        } else if field(head, "transfer-encoding").is_some() {
            self.chunked()
        } else {
            self.rest()
        }
    }

    /// Closes with a reset.
    fn reset(self) {
        let socket = socket2::SockRef::from(&self.socket);
        let _ = socket.set_linger(Some(Duration::ZERO));
    }

    /// The payload of one WebSocket frame; None for a close frame (RFC 6455 §5.2).
    fn frame(&mut self) -> Done<Option<Vec<u8>>> {
        let start = self.exactly(2)?;
        let length = match start[1] & 0x7f {
            126 => {
                let bytes = self.exactly(2)?;
                usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))
            }
            127 => {
                let bytes = self.exactly(8)?;
                bytes
                    .iter()
                    .fold(0, |length, byte| length << 8 | usize::from(*byte))
            }
            length => length.into(),
        };
        let mask = match start[1] & 0x80 {
            0 => vec![0; 4],
            _ => self.exactly(4)?,
        };
        let mut payload = self.exactly(length)?;
        for (i, byte) in payload.iter_mut().enumerate() {
            *byte ^= mask[i % 4];
        }
        Ok((start[0] & 0x0f != 8).then_some(payload))
    }
}

/// One binary WebSocket frame, masked where a mask is given.
fn frame(payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
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
    frame.extend(
        payload
            .iter()
            .enumerate()
            .map(|(i, byte)| byte ^ mask[i % 4]),
    );
    frame
}

fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn path(head: &str) -> &str {
    head.split(' ').nth(1).unwrap_or_default()
}

/// Chunks of random sizes.
fn chunks(body: &[u8], noise: &mut Noise) -> Vec<u8> {
    let mut coded = Vec::with_capacity(body.len() + 1024);
    let mut rest = body;
    while !rest.is_empty() {
        let size = rest.len().min(16 + noise.mostly_small(17));
        coded.extend(format!("{size:x}\r\n").bytes());
        coded.extend(&rest[..size]);
        coded.extend(b"\r\n");
        rest = &rest[size..];
    }
    coded.extend(b"0\r\n\r\n");
    coded
}

// The upstream

fn acceptor() -> io::Result<SslAcceptor> {
    use openssl::{asn1::Asn1Time, ec::*, hash::MessageDigest, nid::Nid, pkey::PKey, x509::X509};
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
    let mut certificate = X509::builder()?;
    certificate.set_pubkey(&key)?;
    certificate.set_not_before(Asn1Time::days_from_now(0)?.as_ref())?;
    certificate.set_not_after(Asn1Time::days_from_now(2)?.as_ref())?;
    certificate.sign(&key, MessageDigest::sha256())?;
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls())?;
    acceptor.set_certificate(&certificate.build())?;
    acceptor.set_private_key(&key)?;
    Ok(acceptor.build())
}

/// Starts an upstream; gives its address.
fn upstream(tls: Option<SslAcceptor>, tally: &'static Tally) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let tls = tls.clone();
            thread::spawn(move || {
                let Ok(mut wire) = Wire::new(socket) else {
                    return;
                };
                if let Some(tls) = tls {
                    let Ok(socket) = wire.socket.try_clone() else {
                        return;
                    };
                    // A hop that dies leaves half a handshake.
                    let Ok(stream) = tls.accept(Patient(socket)) else {
                        return;
                    };
                    wire.stream = Box::new(stream);
                }
                match serve(wire, tally) {
                    // Its peer is gone: the program has told its client, or the client left.
                    Ok(()) | Err(Cut(_)) => {}
                    Err(Wrong(words)) => tally.unexpected(format!("upstream: {words}")),
                }
            });
        }
    });
    Ok(address)
}

/// A socket whose reads and writes go on after an interruption, which OpenSSL would take for a
/// failure.
struct Patient(TcpStream);

impl Read for Patient {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(room) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return outcome,
            }
        }
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return outcome,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Serves one connection for as long as it lasts.
fn serve(mut wire: Wire, tally: &Tally) -> Done {
    loop {
        let head = match wire.head() {
            // Idle for longer than the pool keeps it: a leak.
            Err(Wrong(words)) => return Err(Wrong(format!("waiting for a request: {words}"))),
            head => head?,
        };
        let parts: Vec<&str> = path(&head).split('/').skip(1).collect();
        let number = |at: usize| -> u64 { parts.get(at).and_then(|n| n.parse().ok()).unwrap_or(0) };
        match parts[..] {
            ["warm-up"] => {
                wire.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")?;
                return Ok(());
            }
            ["body", framing, ..] => {
                answer(&mut wire, &head, framing, number(2), number(3) as usize)?;
                if framing == "close" && !head.starts_with("HEAD ") {
                    wire.stream.close();
                    return Ok(());
                }
            }
            ["sum"] => {
                if field(&head, "expect").is_some() {
                    wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")?;
                }
                let body = wire.body(&head)?;
                let sum = format!("{} bytes, {:016x}", body.len(), checksum(&body));
                let length = sum.len();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{sum}");
                wire.send(answer.as_bytes())?;
            }
            ["ws"] => return echo(&mut wire, &head),
            // A client that leaves within its upload must never look like one that is done.
            ["abandoned"] => {
                wire.body(&head)?;
                return Err(Wrong("half an upload came as a whole one".to_owned()));
            }
            ["fault", fault] => {
                tally.upstream_faults.fetch_add(1, Relaxed);
                return fail(wire, &head, fault);
            }
            _ => return Err(Wrong(format!("this was never asked: {head:?}"))),
        }
    }
}

fn answer(wire: &mut Wire, head: &str, framing: &str, seed: u64, size: usize) -> Done {
    let body = Noise::new(seed).bytes(size);
    let mut out = b"HTTP/1.1 200 OK\r\n".to_vec();
    match framing {
        "length" => out.extend(format!("Content-Length: {size}\r\n\r\n").bytes()),
        "chunked" => out.extend(b"Transfer-Encoding: chunked\r\n\r\n"),
        _ => out.extend(b"\r\n"),
    }
    if head.starts_with("HEAD ") {
        return wire.send(&out);
    }
    match framing {
        "chunked" => out.extend(chunks(&body, &mut Noise::new(seed ^ 7))),
        _ => out.extend(body),
    }
    // In one piece or in two, the cut anywhere, the head included.
    let cut = Noise::new(seed ^ 9).split(out.len());
    wire.send(&out[..cut])?;
    wire.send(&out[cut..])
}

fn echo(wire: &mut Wire, head: &str) -> Done {
    if field(head, "upgrade") != Some("websocket") {
        return Err(Wrong(format!("no upgrade: {head:?}")));
    }
    let switching =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    wire.send(switching.as_bytes())?;
    while let Some(payload) = wire.frame()? {
        wire.send(&frame(&payload, None))?;
    }
    wire.send(&[0x88, 0])?;
    wire.stream.close();
    let _ = wire.socket.shutdown(Shutdown::Write);
    match wire.rest() {
        Ok(rest) if !rest.is_empty() => Err(Wrong("bytes behind a close frame".to_owned())),
        _ => Ok(()),
    }
}

/// What an upstream can do wrong, and whether the client is told so by a status, rather
/// than by the end of its connection.
const FAULTS: [(&str, bool); 9] = [
    ("reset", true),
    ("close", true),
    ("half-head", true),
    ("garbage", true),
    ("two-lengths", true),
    ("short", false),
    ("half-chunk", false),
    ("bad-chunk", false),
    ("endless", false),
];

fn fail(mut wire: Wire, head: &str, fault: &str) -> Done {
    let half = vec![b'h'; 20_000];
    let (start, with_body) = match fault {
        "half-head" => ("HTTP/1.1 200 OK\r\nContent-Le", false),
        "garbage" => ("SSH-2.0-OpenSSH_9.6\r\n", false),
        "two-lengths" => (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            true,
        ),
        "short" => ("HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n", true),
        "half-chunk" => (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n",
            true,
        ),
        "bad-chunk" => (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4e20\r\n",
            true,
        ),
        "endless" => ("HTTP/1.1 200 OK\r\n\r\n", true),
        _ => ("", false),
    };
    wire.send(start.as_bytes())?;
    if with_body {
        wire.send(&half)?;
    }
    if fault == "bad-chunk" {
        wire.send(b"xx\r\n5\r\nhello\r\n0\r\n\r\n")?;
        wire.rest()?;
        return Ok(());
    }
    // A close alone ends this one well.
    if fault == "reset" || fault == "endless" || head.len() % 2 == 0 {
        wire.reset();
    }
    Ok(())
}

// The hops

/// Starts a SOCKS5 and CONNECT proxy in one that breaks connections now and then, each
/// counted in `injected`; gives its address.
fn hop(seed: u64, injected: &'static AtomicU64) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for (number, socket) in listener.incoming().flatten().enumerate() {
            let noise = Noise::new(seed ^ (number as u64) << 8);
            thread::spawn(move || {
                if let Ok(wire) = Wire::new(socket) {
                    // Whatever ends it here, its peers have to see.
                    let _ = hop_connection(wire, noise, injected);
                }
            });
        }
    });
    Ok(address)
}

fn hop_connection(mut wire: Wire, mut noise: Noise, injected: &AtomicU64) -> Done {
    let dies = noise.below(HOP_DIES) == 0;
    let by_reset = noise.below(2) == 0;
    let (destination, mut answer) = destination(&mut wire)?;
    if dies {
        injected.fetch_add(1, Relaxed);
        answer.truncate(noise.split(answer.len() - 1));
        wire.send(&answer)?;
        if by_reset {
            wire.reset();
        }
        return Ok(());
    }
    let upstream = Wire::connect(destination)?;
    // Behind so many bytes, either way.
    let dies_after = match noise.below(HOP_DIES) {
        0 => Some(noise.mostly_small(21) as u64),
        _ => None,
    };
    let cut = noise.split(answer.len());
    wire.send(&answer[..cut])?;
    wire.send(&answer[cut..])?;
    tunnel(wire, upstream, dies_after, injected)
}

/// Where a client wants to go, and the whole answer that takes it there.
fn destination(wire: &mut Wire) -> Done<(SocketAddr, Vec<u8>)> {
    let bad = || Wrong("this is no request to a proxy".to_owned());
    let first = wire.exactly(1)?;
    if first == [5] {
        let methods = wire.exactly(1)?[0];
        wire.exactly(methods.into())?;
        wire.send(&[5, 0])?;
        let request = wire.exactly(10)?;
        let port = u16::from_be_bytes([request[8], request[9]]);
        let ip = [request[4], request[5], request[6], request[7]];
        return Ok(((ip, port).into(), vec![5, 0, 0, 1, 127, 0, 0, 1, 4, 56]));
    }
    let head = wire.head()?;
    let address = path(&head).parse().map_err(|_| bad())?;
    Ok((
        address,
        b"HTTP/1.1 200 Connection established\r\n\r\n".to_vec(),
    ))
}

/// Two joined connections, and how they come to their end.
struct Tunnel {
    /// How many bytes are left before it dies, if it is to.
    left: Mutex<Option<u64>>,
    died: AtomicBool,
    /// It died, or one of its ends was reset.
    broken: AtomicBool,
}

fn tunnel(a: Wire, b: Wire, dies_after: Option<u64>, injected: &AtomicU64) -> Done {
    let tunnel = Tunnel {
        left: Mutex::new(dies_after),
        died: AtomicBool::new(false),
        broken: AtomicBool::new(false),
    };
    thread::scope(|scope| {
        scope.spawn(|| tunnel.carry(&a.socket, &b.socket, &a.ahead));
        tunnel.carry(&b.socket, &a.socket, &b.ahead);
    });
    if tunnel.died.load(Relaxed) {
        injected.fetch_add(1, Relaxed);
    }
    // What was a reset stays one: a mere end would be the good end of a body that is as
    // long as its connection.
    if tunnel.broken.load(Relaxed) {
        b.reset();
        a.reset();
    }
    Ok(())
}

impl Tunnel {
    /// Carries one direction.
    fn carry(&self, mut from: &TcpStream, mut to: &TcpStream, ahead: &[u8]) {
        // Short, to see what became of the other direction.
        let _ = from.set_read_timeout(Some(Duration::from_millis(100)));
        let mut piece = vec![0; 32 * 1024];
        let mut sent = to.write_all(ahead);
        while sent.is_ok() && !self.broken.load(Relaxed) {
            let n = match read_some(&mut from, &mut piece) {
                Ok(0) => {
                    let _ = to.shutdown(Shutdown::Write);
                    return;
                }
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(_) => break,
            };
            let lasts = self.take(n);
            sent = to.write_all(&piece[..lasts]);
            if lasts < n {
                self.died.store(true, Relaxed);
                break;
            }
        }
        self.broken.store(true, Relaxed);
    }

    /// How many of `n` bytes are still carried.
    fn take(&self, n: usize) -> usize {
        let mut left = self.left.lock().expect("no panic holds it");
        let lasts = left.map_or(n, |left| n.min(left as usize));
        *left = left.map(|left| left - lasts as u64);
        lasts
    }
}

// The clients

/// One client: does this and that over all routes until told to stop.
fn client(number: u64, seed: u64, routes: &[Arc<Route>], stop: &AtomicBool, tally: &Tally) {
    let mut noise = Noise::new(seed.wrapping_mul(1000) ^ number);
    let mut lines: Vec<Option<Wire>> = routes.iter().map(|_| None).collect();
    while !stop.load(Relaxed) {
        let at = noise.below(routes.len() as u64) as usize;
        let route = &routes[at];
        let activity = ACTIVITIES[pick(&mut noise)];
        let mut visit = Visit {
            route,
            noise: &mut noise,
            tally,
            line: lines[at].take(),
        };
        let outcome = visit.run(activity);
        lines[at] = visit.line.take();
        let done = ACTIVITIES.iter().position(|name| *name == activity);
        tally.activities[done.expect("a known name")].fetch_add(1, Relaxed);
        let context = format!("client {number}, {}, {activity}", route.name);
        match outcome {
            Ok(()) => {}
            Err(Cut(words)) => {
                lines[at] = None;
                let failed = 1 + route.failed.fetch_add(1, Relaxed);
                if failed > route.injected.load(Relaxed) && !may_yet_be_counted(route) {
                    tally.unexpected(format!("{context}: {words}"));
                }
            }
            Err(Wrong(words)) => {
                lines[at] = None;
                tally.unexpected(format!("{context}: {words}"));
            }
        }
    }
}

/// A hop counts what it broke only once both directions have ended: give it a moment.
fn may_yet_be_counted(route: &Route) -> bool {
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        if route.failed.load(Relaxed) <= route.injected.load(Relaxed) {
            return true;
        }
        thread::sleep(Duration::from_millis(10));
    }
    false
}

/// An activity's place in the list, the ordinary ones more often.
fn pick(noise: &mut Noise) -> usize {
    const WEIGHTS: [u64; ACTIVITIES.len()] = [30, 6, 6, 15, 4, 8, 6, 2, 8, 6, 6];
    let mut left = noise.below(WEIGHTS.iter().sum());
    for (at, weight) in WEIGHTS.iter().enumerate() {
        if left < *weight {
            return at;
        }
        left -= weight;
    }
    0
}

/// One activity of one client.
struct Visit<'a> {
    route: &'a Route,
    noise: &'a mut Noise,
    tally: &'a Tally,
    /// The kept-alive connection from the last visit, if any.
    line: Option<Wire>,
}

impl Visit<'_> {
    fn run(&mut self, activity: &str) -> Done {
        match activity {
            "get" => self.get("GET"),
            "http/1.0" => self.get_1_0(),
            "head" => self.get("HEAD"),
            "upload" => self.upload(false),
            "expect" => self.upload(true),
            "websocket" => self.websocket(),
            "pipeline" => self.pipeline(),
            "slow reader" => self.slow_reader(),
            "abort" => self.abort(),
            "bad input" => self.bad_input(),
            _ => self.upstream_fault(),
        }
    }

    fn connect(&self) -> Done<Wire> {
        // Not reaching the program itself is never what a hop does.
        Wire::connect(self.route.program.address)
            .map_err(|error| Wrong(format!("connect: {error}")))
    }

    /// The kept-alive connection, or a new one.
    fn take_line(&mut self) -> Done<Wire> {
        match self.line.take() {
            Some(wire) => Ok(wire),
            None => self.connect(),
        }
    }

    fn target(&mut self) -> Target {
        let framings = ["length", "chunked", "close"];
        Target {
            framing: framings[self.noise.below(3) as usize],
            seed: self.noise.below(1 << 40),
            size: self.noise.size(),
        }
    }

    /// Counts one answer, which must be a 200 or the word that the upstream is out of
    /// reach.
    fn expect_200(&self, head: &str) -> Done {
        self.tally.requests.fetch_add(1, Relaxed);
        match head.get(..12) {
            Some("HTTP/1.1 200") => Ok(()),
            Some("HTTP/1.1 502") => Err(Cut(head.replace("\r\n", " | "))),
            _ => Err(Wrong(format!("answered {head:?}"))),
        }
    }

    /// Takes the answer to a GET or HEAD and compares it. A 502 that leaves the
    /// connection usable is reported all the same.
    fn expect_body(&self, wire: &mut Wire, target: &Target, is_head: bool) -> Done<bool> {
        let head = wire.head()?;
        self.expect_200(&head)?;
        let length = field(&head, "content-length");
        if target.framing == "length" && length != Some(target.size.to_string().as_str()) {
            return Err(Wrong(format!("length {length:?} of {}", target.size)));
        }
        if !is_head {
            let body = wire.body(&head)?;
            self.compare(&body, &Noise::new(target.seed).bytes(target.size))?;
        }
        Ok(field(&head, "connection") != Some("close"))
    }

    fn compare(&self, found: &[u8], expected: &[u8]) -> Done {
        self.tally.bytes.fetch_add(found.len() as u64, Relaxed);
        if found == expected {
            return Ok(());
        }
        let at = found.iter().zip(expected).position(|(a, b)| a != b);
        let (found, expected) = (found.len(), expected.len());
        Err(Wrong(format!(
            "{found} bytes of {expected}, other from byte {at:?}"
        )))
    }

    fn get(&mut self, method: &str) -> Done {
        let target = self.target();
        let mut wire = self.take_line()?;
        wire.send(target.request(method).as_bytes())?;
        if self.expect_body(&mut wire, &target, method == "HEAD")? {
            self.line = Some(wire);
        }
        Ok(())
    }

    fn get_1_0(&mut self) -> Done {
        let target = self.target();
        let mut wire = self.connect()?;
        let request = target.request("GET").replace("HTTP/1.1", "HTTP/1.0");
        wire.send(request.as_bytes())?;
        let head = wire.head()?;
        self.expect_200(&head)?;
        // The end of the connection is the end of the body, where there is no length.
        let body = wire.rest()?;
        if field(&head, "content-length").is_some_and(|length| length != body.len().to_string()) {
            return Err(Cut(format!("{} bytes", body.len())));
        }
        self.compare(&body, &Noise::new(target.seed).bytes(target.size))
    }

    fn upload(&mut self, expect: bool) -> Done {
        let size = self.noise.size();
        let body = self.noise.bytes(size);
        let chunked = self.noise.below(2) == 0;
        let mut request = "POST /sum HTTP/1.1\r\nHost: soak.test\r\n".to_owned();
        if expect {
            request += "Expect: 100-continue\r\n";
        }
        let coded = match chunked {
            true => {
                request += "Transfer-Encoding: chunked\r\n\r\n";
                chunks(&body, self.noise)
            }
            false => {
                request += &format!("Content-Length: {size}\r\n\r\n");
                body.clone()
            }
        };
        let mut wire = self.take_line()?;
        if expect {
            wire.send(request.as_bytes())?;
            let head = wire.head()?;
            if !head.starts_with("HTTP/1.1 100 ") {
                self.expect_200(&head)?;
                return Err(Wrong("an answer before the upload".to_owned()));
            }
            wire.send(&coded)?;
        } else {
            let mut all = request.into_bytes();
            all.extend(coded);
            let cut = self.noise.split(all.len());
            wire.send(&all[..cut])?;
            wire.send(&all[cut..])?;
        }
        let head = wire.head()?;
        self.expect_200(&head)?;
        let answer = wire.body(&head)?;
        let sum = format!("{size} bytes, {:016x}", checksum(&body));
        self.tally.bytes.fetch_add(size as u64, Relaxed);
        self.compare(&answer, sum.as_bytes())?;
        if field(&head, "connection") != Some("close") {
            self.line = Some(wire);
        }
        Ok(())
    }

    fn websocket(&mut self) -> Done {
        let mut wire = self.connect()?;
        let mut request = UPGRADE.as_bytes().to_vec();
        let messages: Vec<Vec<u8>> = (0..1 + self.noise.below(10))
            .map(|_| {
                let size = self.noise.mostly_small(18);
                self.noise.bytes(size)
            })
            .collect();
        let mask = Some((self.noise.next() as u32).to_ne_bytes());
        // The first one may be in the segment of the handshake.
        let eager = self.noise.below(2) == 0;
        if eager {
            request.extend(frame(&messages[0], mask));
        }
        wire.send(&request)?;
        let head = wire.head()?;
        if !head.starts_with("HTTP/1.1 101 ") {
            self.expect_200(&head)?;
            return Err(Wrong("an upgrade answered with 200".to_owned()));
        }
        for (n, message) in messages.iter().enumerate() {
            if n > 0 || !eager {
                wire.send(&frame(message, mask))?;
            }
            let echo = wire
                .frame()?
                .ok_or(Wrong("a close frame too early".to_owned()))?;
            self.compare(&echo, message)?;
        }
        wire.send(&[0x88, 0x80, 0, 0, 0, 0])?;
        match wire.frame()? {
            None => {}
            Some(_) => return Err(Wrong("a message behind the close frame".to_owned())),
        }
        match wire.rest()? {
            rest if rest.is_empty() => Ok(()),
            _ => Err(Wrong("bytes behind the close frame".to_owned())),
        }
    }

    fn pipeline(&mut self) -> Done {
        let targets: Vec<Target> = (0..2 + self.noise.below(8))
            .map(|_| {
                let mut target = self.target();
                // Nothing is read while this is being sent.
                target.size = target.size.min(20_000);
                target
            })
            .collect();
        let requests: String = targets.iter().map(|target| target.request("GET")).collect();
        let mut wire = self.take_line()?;
        wire.send(requests.as_bytes())?;
        for target in &targets {
            // Where one breaks, those behind it may be left without an answer.
            if !self.expect_body(&mut wire, target, false)? {
                return Err(Cut("closed within a pipeline".to_owned()));
            }
        }
        self.line = Some(wire);
        Ok(())
    }

    fn slow_reader(&mut self) -> Done {
        let mut target = self.target();
        target.size = 4 << 20;
        let mut wire = self.connect()?;
        let _ = socket2::SockRef::from(&wire.socket).set_recv_buffer_size(128 * 1024);
        let close = target
            .request("GET")
            .replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        wire.send(close.as_bytes())?;
        let mut piece = [0; 64 * 1024];
        loop {
            match read_some(&mut wire.stream, &mut piece)? {
                0 => break,
                n => wire.ahead.extend_from_slice(&piece[..n]),
            }
            thread::sleep(Duration::from_millis(2));
        }
        self.expect_body(&mut wire, &target, false).map(drop)
    }

    /// Leaves in the middle of something.
    fn abort(&mut self) -> Done {
        self.tally.aborts.fetch_add(1, Relaxed);
        let target = self.target();
        let mut wire = self.connect()?;
        let head_alone = target.request("GET").into_bytes();
        let half_upload = {
            let mut request = b"POST /abandoned HTTP/1.1\r\nHost: soak.test\r\n".to_vec();
            let body = self.noise.bytes(100_000);
            if self.noise.below(2) == 0 {
                request.extend(b"Content-Length: 100000\r\n\r\n");
                request.extend(&body[..self.noise.split(99_999)]);
            } else {
                request.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                let coded = chunks(&body, self.noise);
                request.extend(&coded[..self.noise.split(coded.len() - 1)]);
            }
            request
        };
        // Whether anything fails from here on does not matter to one who leaves, nor does
        // an answer that is shorter than the wanted part of one.
        let _ = wire.socket.set_read_timeout(Some(Duration::from_secs(1)));
        let _ = match self.noise.below(5) {
            0 => wire.send(&head_alone[..self.noise.split(head_alone.len() - 1)]),
            1 => wire.send(&head_alone),
            2 => {
                let wanted = self.noise.split(target.size.min(100_000));
                wire.send(&head_alone)
                    .and_then(|()| wire.exactly(wanted).map(drop))
            }
            3 => wire.send(&half_upload),
            _ => {
                let mut upgrade = UPGRADE.as_bytes().to_vec();
                let message = frame(&[7; 50_000], Some([1, 2, 3, 4]));
                upgrade.extend(&message[..self.noise.split(message.len())]);
                wire.send(&upgrade)
            }
        };
        if self.noise.below(2) == 0 {
            wire.reset();
        }
        Ok(())
    }

    fn bad_input(&mut self) -> Done {
        let (request, status) = BAD[self.noise.below(BAD.len() as u64) as usize];
        let mut wire = self.connect()?;
        let cut = self.noise.split(request.len());
        wire.send(&request.as_bytes()[..cut])?;
        // It may have been refused already.
        let _ = wire.send(&request.as_bytes()[cut..]);
        let head = match wire.head() {
            Err(Cut(words)) => return Err(Wrong(format!("{request:?}: {words}"))),
            head => head?,
        };
        if head.get(9..12) != Some(status) {
            return Err(Wrong(format!("{request:?} answered {head:?}")));
        }
        wire.body(&head).map_err(|_| Wrong("no body".to_owned()))?;
        let _ = wire.socket.shutdown(Shutdown::Write);
        match wire.rest() {
            Ok(rest) if !rest.is_empty() => Err(Wrong(format!("{request:?}: more answers"))),
            _ => Ok(()),
        }
    }

    fn upstream_fault(&mut self) -> Done {
        let (fault, has_status) = FAULTS[self.noise.below(FAULTS.len() as u64) as usize];
        let mut wire = self.take_line()?;
        wire.send(format!("GET /fault/{fault} HTTP/1.1\r\nHost: soak.test\r\n\r\n").as_bytes())?;
        let head = match wire.head() {
            Err(Cut(words)) => return Err(Wrong(format!("{fault}: no answer: {words}"))),
            head => head?,
        };
        match head.get(9..12) {
            // A hop may have died as well, and a reset destroys what was on its way.
            Some("502") => {
                wire.body(&head)?;
                if field(&head, "connection") != Some("close") {
                    self.line = Some(wire);
                }
                Ok(())
            }
            Some("200") if !has_status => match wire.body(&head) {
                Ok(body) => Err(Wrong(format!("{fault}: {} bytes as a whole", body.len()))),
                Err(Cut(_)) => Ok(()),
                Err(wrong) => Err(wrong),
            },
            _ => Err(Wrong(format!("{fault} answered {head:?}"))),
        }
    }
}

/// What a GET asks for.
struct Target {
    framing: &'static str,
    seed: u64,
    size: usize,
}

impl Target {
    fn request(&self, method: &str) -> String {
        let Target {
            framing,
            seed,
            size,
        } = self;
        format!("{method} /body/{framing}/{seed}/{size} HTTP/1.1\r\nHost: soak.test\r\n\r\n")
    }
}

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: soak.test\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c29hayBzb2FrIHNvYWsh\r\n\r\n";

/// Requests that go no further, and the status that says so. The upstream knows none of
/// these paths.
const BAD: [(&str, &str); 12] = [
    ("GET /bad HTTP/1.1\r\n\r\n", "400"),
    ("GET /bad HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"),
    ("GET /bad HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", "400"),
    ("GET /bad HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", "400"),
    ("GET /bad HTTP/1.1\nHost: a\n\n", "400"),
    (
        "POST /bad HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "400",
    ),
    ("POST /bad HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", "400"),
    ("POST /bad HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", "400"),
    ("GET /bad HTTP/2.0\r\nHost: a\r\n\r\n", "505"),
    ("CONNECT bad:443 HTTP/1.1\r\nHost: bad:443\r\n\r\n", "501"),
    ("\x16\x03\x01\x02\x00\x01\x00\x01", "400"),
    ("GET http:///bad HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
];
