//! The lines of the tables, and how each is measured.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::contenders::{Proxy, Route, Who, Wire};
use crate::name_server::{Mood, NameServer};
use crate::way::Way;
use crate::{far, Options, FAR, PATIENCE};

/// How much over a goal is noise, in round trips: less than a whole one.
pub const NOISE: f64 = 0.75;

pub const PEERS: [Who; 2] = [Who::Nginx, Who::Haproxy];

/// The environment of all measurements.
pub struct Lab<'a> {
    pub options: &'a Options,
    pub folder: &'a Path,
    /// Whether the program has the flag for spare connections.
    pub spares: bool,
    pub way: Arc<Way>,
    pub names: NameServer,
}

impl Lab<'_> {
    fn start(&self, who: Who, route: Route, more: &[&str]) -> io::Result<Option<Proxy>> {
        Proxy::start(who, route, more, self.folder)
    }

    /// Starts the program with one of the SOCKS5 proxies, to the upstream over TLS.
    fn through(&self, who: Who, port: u16, more: &[&str]) -> io::Result<Proxy> {
        let socks = format!("socks5://user:word@{FAR}:{port}");
        let words = ["-u", "bench.example:443", "-s", &socks];
        let proxy = Proxy::start_with(who, Route::Both, &[&words[..], more].concat(), self.folder);
        Ok(proxy?.ok_or(io::ErrorKind::NotFound)?)
    }

    fn trips(&self, took: Duration) -> Option<f64> {
        Some(took.as_secs_f64() / self.options.rtt.as_secs_f64())
    }

    /// Sends a request from each of `clients` clients at once, and waits for any responses.
    fn crowd(&self, proxy: &Proxy, clients: usize) -> io::Result<()> {
        let request = b"GET / HTTP/1.1\r\nHost: bench.example\r\n\r\n";
        let ask = |_| {
            let mut wire = Wire::open(Some(proxy), Route::Plain)?;
            wire.write_all(request)?;
            Ok(wire)
        };
        let wires: io::Result<Vec<Wire>> = (0..clients).map(ask).collect();
        for mut wire in wires? {
            wire.read_exact(&mut [0; 12])?;
        }
        Ok(())
    }
}

/// The least of five times, because noise of the machine only adds.
fn least(mut attempt: impl FnMut() -> io::Result<Duration>) -> io::Result<Duration> {
    let mut least = attempt()?;
    for _ in 1..5 {
        least = least.min(attempt()?);
    }
    Ok(least)
}

/// The unit of a line in the first table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unit {
    Trips,
    Number,
    Seconds,
}

impl Unit {
    /// How much over a goal is noise.
    pub fn noise(self) -> f64 {
        match self {
            Unit::Trips => NOISE,
            Unit::Number => 0.0,
            Unit::Seconds => 0.01,
        }
    }
}

/// A line of the first table: what is done, its goal, the peers that can do it, and how it is
/// measured.
pub struct Wait {
    pub name: &'static str,
    pub goal: f64,
    pub unit: Unit,
    pub peers: &'static [Who],
    pub measure: fn(Who, &Lab) -> io::Result<Option<f64>>,
}

pub const WAITS: [Wait; 13] = [
    Wait {
        name: "WebSocket, a kept connection idle",
        goal: 1.05,
        unit: Unit::Trips,
        peers: &PEERS,
        measure: |who, lab| {
            let Some(proxy) = lab.start(who, Route::Both, &["--threads", "1"])? else {
                return Ok(None);
            };
            let took = least(|| {
                proxy.get()?;
                // The connection goes back to the pool shortly after the end of the response.
                sleep(lab.options.rtt / 4);
                proxy.websocket().map(|(took, _)| took)
            });
            Ok(lab.trips(took?))
        },
    },
    Wait {
        name: "WebSocket, nothing kept, the name just used, `--spares 1`",
        goal: 1.1,
        unit: Unit::Trips,
        peers: &[],
        measure: |who, lab| {
            if !lab.spares {
                return Ok(None);
            }
            let Some(proxy) = lab.start(who, Route::Both, &["--spares", "1"])? else {
                return Ok(None);
            };
            drop(proxy.websocket()?);
            let took = least(|| {
                // A spare is dialed over the whole route, possibly after a pause.
                sleep(lab.options.rtt * 10 + Duration::from_millis(500));
                proxy.websocket().map(|(took, _)| took)
            });
            Ok(lab.trips(took?))
        },
    },
    Wait {
        name: "WebSocket, nothing kept",
        goal: 6.1,
        unit: Unit::Trips,
        peers: &[],
        measure: |who, lab| {
            let Some(proxy) = lab.start(who, Route::Both, &[])? else {
                return Ok(None);
            };
            Ok(lab.trips(least(|| proxy.websocket().map(|(took, _)| took))?))
        },
    },
    Wait {
        name: "the same over TLS 1.2",
        goal: 7.1,
        unit: Unit::Trips,
        peers: &[],
        measure: |who, lab| {
            let proxy = lab.through(who, far::SOCKS_TLS_1_2, &[])?;
            Ok(lab.trips(least(|| proxy.websocket().map(|(took, _)| took))?))
        },
    },
    Wait {
        name: "30 GETs from new clients, `--threads 16`: how many wait for a new connection",
        goal: 1.0,
        unit: Unit::Number,
        peers: &PEERS,
        measure: |who, lab| {
            let Some(proxy) = lab.start(who, Route::Both, &["--threads", "16"])? else {
                return Ok(None);
            };
            let mut paid = 0;
            for _ in 0..30 {
                let took = proxy.get()?;
                paid += usize::from(took > lab.options.rtt * 5 / 2);
                sleep(lab.options.rtt / 4);
            }
            Ok(Some(paid as f64))
        },
    },
    Wait {
        name: "GET after a pause",
        goal: 1.0,
        unit: Unit::Trips,
        peers: &PEERS,
        measure: |who, lab| {
            let Some(proxy) = lab.start(who, Route::Both, &[])? else {
                return Ok(None);
            };
            proxy.get()?;
            sleep(lab.options.rest);
            Ok(lab.trips(proxy.get()?))
        },
    },
    Wait {
        name: "POST after a pause of 3 s",
        goal: 1.0,
        unit: Unit::Trips,
        peers: &PEERS,
        measure: |who, lab| {
            let Some(proxy) = lab.start(who, Route::Both, &[])? else {
                return Ok(None);
            };
            proxy.get()?;
            let took = least(|| {
                sleep(Duration::from_secs(3));
                proxy.post()
            });
            Ok(lab.trips(took?))
        },
    },
    Wait {
        name: "24 GETs over a proxy with 4 slots, `--threads 8`: failures",
        goal: 0.0,
        unit: Unit::Number,
        peers: &[],
        measure: |who, lab| {
            let more = ["--threads", "8"];
            let proxy = lab.through(who, far::FEW, &more)?;
            let failed = (0..24).filter(|_| {
                sleep(lab.options.rtt / 4);
                proxy.get().is_err()
            });
            Ok(Some(failed.count() as f64))
        },
    },
    Wait {
        name: "name server dead, name known: seconds more than with it alive",
        goal: 1.0,
        unit: Unit::Seconds,
        peers: &PEERS,
        measure: |who, lab| {
            lab.names.is(Mood::Alive);
            let Some(proxy) = lab.start(who, Route::Name, &[])? else {
                return Ok(None);
            };
            let alive = least(|| proxy.get())?;
            lab.names.is(Mood::Dead);
            // The first request begins a lookup, which the later ones find in progress.
            let dead = proxy.get();
            lab.names.is(Mood::Alive);
            Ok(Some(dead?.as_secs_f64() - alive.as_secs_f64()))
        },
    },
    Wait {
        name: "AAAA answer lost, name not known: seconds more than with it",
        goal: 0.06,
        unit: Unit::Seconds,
        peers: &[Who::Nginx],
        measure: |who, lab| {
            // With both answers, and then with one lost; a fresh program each time.
            let mut took = [Mood::Alive, Mood::LosesAaaa].map(|mood| {
                least(|| {
                    lab.names.is(Mood::Alive);
                    let proxy = lab.start(who, Route::NameAsked, &[])?;
                    lab.names.is(mood);
                    proxy.ok_or(io::ErrorKind::NotFound)?.get()
                })
            });
            lab.names.is(Mood::Alive);
            if matches!(&took[0], Err(error) if error.kind() == io::ErrorKind::NotFound) {
                return Ok(None);
            }
            let lost = std::mem::replace(&mut took[1], Ok(Duration::ZERO))?;
            let both = std::mem::replace(&mut took[0], Ok(Duration::ZERO))?;
            Ok(Some(lost.as_secs_f64() - both.as_secs_f64()))
        },
    },
    Wait {
        name: "700 clients, name server dead: threads left",
        goal: 0.0,
        unit: Unit::Number,
        peers: &[],
        measure: |who, lab| {
            let times = ["--connect-timeout", "2"];
            lab.names.is(Mood::Dead);
            let left = lab.start(who, Route::Name, &times).and_then(|proxy| {
                let proxy = proxy.ok_or(io::ErrorKind::NotFound)?;
                let before = proxy.threads()?;
                lab.crowd(&proxy, 700)?;
                // The resolver gives up after five seconds, an idle thread soon after.
                let start = Instant::now();
                while proxy.threads()? > before && start.elapsed() < PATIENCE {
                    sleep(Duration::from_millis(100));
                }
                Ok(proxy.threads()? - before)
            });
            lab.names.is(Mood::Alive);
            Ok(Some(left?))
        },
    },
    Wait {
        name: "a NAT has forgotten the kept connection, GET directly: seconds to the answer",
        goal: 2.0,
        unit: Unit::Seconds,
        peers: &PEERS,
        measure: |who, lab| forgotten(who, Route::Tls, lab),
    },
    Wait {
        name: "the same through SOCKS5, whose dial takes three round trips more",
        goal: 2.0,
        unit: Unit::Seconds,
        peers: &[],
        measure: |who, lab| forgotten(who, Route::Both, lab),
    },
];

/// The time of a GET whose kept connection is silently lost.
fn forgotten(who: Who, route: Route, lab: &Lab) -> io::Result<Option<f64>> {
    let Some(proxy) = lab.start(who, route, &["--threads", "1"])? else {
        return Ok(None);
    };
    proxy.get()?;
    // The program expects a NAT to forget a connection after 5 seconds of silence at the earliest.
    sleep(Duration::from_secs(6));
    lab.way.nat.lock().expect("no panic holds it").forget();
    Ok(Some(proxy.get()?.as_secs_f64()))
}

/// A line of the second table: what the client sees without a proxy and through one.
pub struct Beside {
    pub name: &'static str,
    pub unit: &'static str,
    pub route: Route,
    pub goal: Goal,
    /// How often it is measured, each time with a fresh program.
    pub attempts: usize,
    /// Measures one figure, or a median and a p99.
    pub measure: fn(Option<&Proxy>, Route, &Lab) -> io::Result<Vec<f64>>,
}

/// A goal, compared with the client without a proxy.
#[derive(Clone, Copy)]
pub enum Goal {
    /// At least this fraction of its figure.
    AtLeast(f64),
    /// At most this multiple of its figure; a difference up to the second value is noise of the
    /// machine.
    AtMost(f64, f64),
    /// At most this, whatever its figure is.
    Is(f64),
}

impl Goal {
    pub fn words(self) -> String {
        match self {
            Goal::AtLeast(part) => format!("at least {part} of the client"),
            Goal::AtMost(times, noise) => format!("at most {times} of the client, or {noise} more"),
            Goal::Is(most) => format!("{most}"),
        }
    }

    pub fn is_met(self, ours: &[f64], client: &[f64]) -> bool {
        ours.iter().zip(client).all(|(ours, client)| match self {
            Goal::AtLeast(part) => *ours >= part * client,
            Goal::AtMost(times, noise) => *ours <= (times * client).max(client + noise),
            Goal::Is(most) => *ours <= most,
        })
    }

    /// Whether one figure is better than another.
    pub fn prefers(self, one: &[f64], other: &[f64]) -> bool {
        match self {
            Goal::AtLeast(_) => one[0] > other[0],
            Goal::AtMost(..) | Goal::Is(_) => one[one.len() - 1] < other[other.len() - 1],
        }
    }
}

/// How many bytes are moved to measure throughput, and the goal: clients notice larger losses.
const SIZE: usize = 64 << 20;
const THROUGHPUT: Goal = Goal::AtLeast(0.97);
const LATENCY: Goal = Goal::AtMost(1.03, 2.0);

/// The number of connections at a time for measuring latency, and of exchanges on each.
const CONNECTIONS: usize = 16;
const EXCHANGES: usize = 40;

/// The rate of the path for the line about bulk, in bits per second.
const NARROW: u64 = 2_000_000;

pub const BESIDES: [Beside; 10] = [
    Beside {
        name: "download",
        unit: "Mbit/s",
        route: Route::Plain,
        goal: THROUGHPUT,
        attempts: 3,
        measure: download,
    },
    Beside {
        name: "upload",
        unit: "Mbit/s",
        route: Route::Plain,
        goal: THROUGHPUT,
        attempts: 3,
        measure: upload,
    },
    Beside {
        name: "download, TLS",
        unit: "Mbit/s",
        route: Route::Tls,
        goal: THROUGHPUT,
        attempts: 3,
        measure: download,
    },
    Beside {
        name: "upload, TLS",
        unit: "Mbit/s",
        route: Route::Tls,
        goal: THROUGHPUT,
        attempts: 3,
        measure: upload,
    },
    Beside {
        name: "download, SOCKS5",
        unit: "Mbit/s",
        route: Route::Socks,
        goal: THROUGHPUT,
        attempts: 3,
        measure: download,
    },
    Beside {
        name: "upload, SOCKS5",
        unit: "Mbit/s",
        route: Route::Socks,
        goal: THROUGHPUT,
        attempts: 3,
        measure: upload,
    },
    Beside {
        name: "echo of 64 B, p50 / p99",
        unit: "ms",
        route: Route::Both,
        goal: LATENCY,
        attempts: 3,
        measure: |proxy, route, _| echo(proxy, route, &[far::MESSAGE]),
    },
    Beside {
        name: "bursts of 16 messages of 1 KiB, p50 / p99",
        unit: "ms",
        route: Route::Both,
        goal: LATENCY,
        attempts: 3,
        measure: |proxy, route, _| echo(proxy, route, &[1024; 16]),
    },
    Beside {
        name: "a message every 20 ms: between two, p50 / p99",
        unit: "ms",
        route: Route::Both,
        goal: LATENCY,
        attempts: 3,
        measure: stream,
    },
    Beside {
        name: "64 B behind bulk, 2 Mbit/s",
        unit: "s",
        route: Route::Both,
        goal: Goal::Is(6.0),
        attempts: 1,
        measure: behind_bulk,
    },
];

fn megabits(start: Instant) -> Vec<f64> {
    vec![SIZE as f64 * 8.0 / 1e6 / start.elapsed().as_secs_f64()]
}

fn download(proxy: Option<&Proxy>, route: Route, _: &Lab) -> io::Result<Vec<f64>> {
    let start = Instant::now();
    let mut wire = Wire::open(proxy, route)?;
    let request = format!("GET /download/{SIZE} HTTP/1.1\r\nHost: bench.example\r\n\r\n");
    wire.ask(request.as_bytes(), "200")?;
    let mut bytes = vec![0; 256 * 1024];
    let mut left = SIZE;
    while left > 0 {
        match wire.read(&mut bytes)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => left -= n.min(left),
        }
    }
    Ok(megabits(start))
}

fn upload(proxy: Option<&Proxy>, route: Route, _: &Lab) -> io::Result<Vec<f64>> {
    let start = Instant::now();
    let mut wire = Wire::open(proxy, route)?;
    let request =
        format!("POST /upload HTTP/1.1\r\nHost: bench.example\r\nContent-Length: {SIZE}\r\n\r\n");
    wire.write_all(request.as_bytes())?;
    let bytes = vec![b'.'; 256 * 1024];
    for _ in 0..SIZE / bytes.len() {
        wire.write_all(&bytes)?;
    }
    wire.ask(b"", "200")?;
    Ok(megabits(start))
}

/// The median and the 99th percentile, in milliseconds.
fn percentiles(times: Vec<io::Result<Vec<Duration>>>) -> io::Result<Vec<f64>> {
    let times: io::Result<Vec<Vec<Duration>>> = times.into_iter().collect();
    let mut times = times?.concat();
    times.sort();
    let at = |part: usize| times[times.len() * part / 100].as_secs_f64() * 1000.0;
    Ok(vec![at(50), at(99)])
}

/// Runs the same on each of `CONNECTIONS` connections at once.
fn on_each(
    proxy: Option<&Proxy>,
    route: Route,
    path: &str,
    work: impl Fn(Wire) -> io::Result<Vec<Duration>> + Sync,
) -> io::Result<Vec<f64>> {
    let one = || {
        let mut wire = Wire::open(proxy, route)?;
        wire.upgrade(path)?;
        work(wire)
    };
    let times = thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(one)).collect();
        let times = threads.into_iter().map(|thread| thread.join());
        times.map(|times| times.expect("no panic")).collect()
    });
    percentiles(times)
}

/// Sends messages of these sizes in one piece, and waits for all echoes.
fn echo(proxy: Option<&Proxy>, route: Route, sizes: &[usize]) -> io::Result<Vec<f64>> {
    let bytes = vec![b'.'; sizes.iter().sum()];
    on_each(proxy, route, "/echo", |mut wire| {
        let mut room = bytes.clone();
        let mut exchange = || {
            let start = Instant::now();
            wire.write_all(&bytes)?;
            wire.read_exact(&mut room)?;
            Ok(start.elapsed())
        };
        (0..EXCHANGES).map(|_| exchange()).collect()
    })
}

/// The time between the messages that the upstream sends.
fn stream(proxy: Option<&Proxy>, route: Route, _: &Lab) -> io::Result<Vec<f64>> {
    on_each(proxy, route, "/stream", |mut wire| {
        let mut last: Option<Instant> = None;
        let mut between = Vec::new();
        for _ in 0..far::MESSAGES {
            wire.read_exact(&mut [0; far::MESSAGE])?;
            let now = Instant::now();
            between.extend(last.map(|last| now - last));
            last = Some(now);
        }
        Ok(between)
    })
}

/// A client that sends as fast as the connection allows, with little unsent in its own socket,
/// and then a message whose response is timed.
fn behind_bulk(proxy: Option<&Proxy>, route: Route, lab: &Lab) -> io::Result<Vec<f64>> {
    let mut wire = Wire::open(proxy, route)?;
    wire.upgrade("/mark")?;
    socket2::SockRef::from(wire.socket()).set_tcp_notsent_lowat(16 * 1024)?;
    wire.socket().set_nonblocking(true)?;
    let rate = lab.way.rate.swap(NARROW, Relaxed);
    let took = wait_behind(&mut wire);
    lab.way.rate.store(rate, Relaxed);
    Ok(vec![took?.as_secs_f64()])
}

fn wait_behind(wire: &mut Wire) -> io::Result<Duration> {
    let bulk = vec![b'.'; 16 * 1024];
    let writable = |wire: &Wire| is_writable(wire.socket());
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) {
        if !writable(wire)? {
            continue;
        }
        match wire.write(&bulk) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
    }
    wire.socket().set_nonblocking(false)?;
    let mut message = [b'.'; far::MESSAGE];
    message[far::MESSAGE - 1] = far::MARK;
    let start = Instant::now();
    wire.write_all(&message)?;
    wire.read_exact(&mut [0])?;
    Ok(start.elapsed())
}

/// Waits at most a tenth of a second until the socket is writable, that is until less than its
/// limit is unsent.
fn is_writable(socket: &TcpStream) -> io::Result<bool> {
    use rustix::event::{poll, PollFd, PollFlags, Timespec};
    let mut sockets = [PollFd::new(socket, PollFlags::OUT)];
    let tenth = Timespec {
        tv_sec: 0,
        tv_nsec: 100_000_000,
    };
    Ok(poll(&mut sockets, Some(&tenth))? > 0)
}
