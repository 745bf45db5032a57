//! The clients: what they do, and which responses they must get.

use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::connection::Trouble::{Cut, Wrong};
use crate::connection::{chunks, Done, Wire};
use crate::noise::{checksum, Noise};
use crate::program::Route;
use crate::shared::{field, frame, read_some};
use crate::tally::{Tally, ACTIVITIES};
use crate::upstream::FAULTS;

/// One client: performs random activities on all routes until told to stop.
pub fn client(number: u64, seed: u64, routes: &[Arc<Route>], stop: &AtomicBool, tally: &Tally) {
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

/// Connections at several stages of an exchange.
pub fn in_the_middle(route: &Route, seed: u64, tally: &Tally) -> Vec<Wire> {
    let mut noise = Noise::new(seed);
    let mut begun = |stage| {
        let mut wire = route.connect().ok()?;
        let reached = Visit::new(route, &mut noise, tally).begin(&mut wire, stage);
        reached.ok().map(|()| wire)
    };
    let stages = ["head", "request", "response", "upload", "upgrade", "relay"];
    stages.into_iter().filter_map(&mut begun).collect()
}

/// A hop counts a connection that it broke only once both directions have ended, so this waits
/// for a moment.
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

/// A random index into the activities; ordinary ones are more frequent.
fn pick(noise: &mut Noise) -> usize {
    const WEIGHTS: [u64; ACTIVITIES.len()] = [30, 6, 6, 15, 4, 8, 6, 2, 8, 6, 6, 6];
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
pub struct Visit<'a> {
    route: &'a Route,
    noise: &'a mut Noise,
    tally: &'a Tally,
    /// The kept-alive connection from the last visit, if any.
    line: Option<Wire>,
}

impl<'a> Visit<'a> {
    /// A visit of a client that has no connection yet.
    pub fn new(route: &'a Route, noise: &'a mut Noise, tally: &'a Tally) -> Visit<'a> {
        Visit {
            route,
            noise,
            tally,
            line: None,
        }
    }

    pub fn run(&mut self, activity: &str) -> Done {
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
            "login" => self.login(),
            _ => self.upstream_fault(),
        }
    }

    fn connect(&self) -> Done<Wire> {
        self.route.connect()
    }

    /// The kept-alive connection, or a new one.
    fn take_line(&mut self) -> Done<Wire> {
        match self.line.take() {
            Some(wire) => Ok(wire),
            None => self.connect(),
        }
    }

    fn target(&mut self) -> Target {
        // Over unverified TLS, a body that ends with the upstream's connection also ends the
        // client's, so later requests of a pipeline get no response.
        let kinds = if self.route.name.ends_with("TLS") {
            2
        } else {
            3
        };
        let framings = ["length", "chunked", "close"];
        Target {
            framing: framings[self.noise.below(kinds) as usize],
            seed: self.noise.below(1 << 40),
            size: self.noise.size(),
        }
    }

    /// Counts one response, which must be a 200, or a 502 because the upstream cannot be
    /// reached.
    fn expect_200(&self, head: &str) -> Done {
        self.tally.requests.fetch_add(1, Relaxed);
        match head.get(..12) {
            Some("HTTP/1.1 200") => Ok(()),
            Some("HTTP/1.1 502") => Err(Cut(head.replace("\r\n", " | "))),
            _ => Err(Wrong(format!("answered {head:?}"))),
        }
    }

    /// Reads the response to a GET or HEAD and compares it. A 502 is reported even if it leaves
    /// the connection usable.
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
        // Without a length, the end of the connection is the end of the body.
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
        // The first message may be in the segment of the handshake.
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
            // If one fails, those after it may get no response.
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

    /// Leaves in the middle of an exchange.
    fn abort(&mut self) -> Done {
        self.tally.aborts.fetch_add(1, Relaxed);
        let stages = [
            "head", "request", "silence", "response", "upload", "upgrade", "relay",
        ];
        let stage = stages[self.noise.below(stages.len() as u64) as usize];
        let mut wire = self.connect()?;
        let reached = self.begin(&mut wire, stage);
        if self.noise.below(2) == 0 {
            wire.reset();
            // Otherwise a hop has already broken the connection.
            if reached.is_ok() {
                self.tally.reset_at(stage, 1);
            }
        }
        Ok(())
    }

    /// Advances an exchange to this stage, to leave there.
    fn begin(&mut self, wire: &mut Wire, stage: &str) -> Done {
        let target = self.target();
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
        // A client that leaves ignores failures from here on, also a response shorter than the
        // part that it waits for.
        let _ = wire.socket.set_read_timeout(Some(Duration::from_secs(1)));
        let message = frame(&[7; 50_000], Some([1, 2, 3, 4]));
        match stage {
            "head" => wire.send(&head_alone[..self.noise.split(head_alone.len() - 1)]),
            "request" => wire.send(&head_alone),
            "silence" => {
                wire.send(b"GET /silent HTTP/1.1\r\nHost: soak.test\r\n\r\n")?;
                // The upstream may have received it by then.
                thread::sleep(Duration::from_millis(self.noise.below(20)));
                Ok(())
            }
            "response" => {
                let wanted = self.noise.split(target.size.min(100_000));
                wire.send(&head_alone)?;
                wire.exactly(wanted).map(drop)
            }
            "upload" => wire.send(&half_upload),
            "upgrade" => {
                let mut upgrade = UPGRADE.as_bytes().to_vec();
                upgrade.extend(&message[..self.noise.split(message.len())]);
                wire.send(&upgrade)
            }
            // Messages in flight in both directions.
            _ => {
                wire.send(UPGRADE.as_bytes())?;
                wire.head()?;
                for _ in 0..4 {
                    wire.send(&message)?;
                }
                wire.exactly(self.noise.split(message.len())).map(drop)
            }
        }
    }

    /// The upstream resets a relay after half a message.
    fn broken_relay(&mut self) -> Done {
        let mut wire = self.connect()?;
        wire.send(UPGRADE.replacen("/ws", "/ws/reset", 1).as_bytes())?;
        let head = wire.head()?;
        if !head.starts_with("HTTP/1.1 101 ") {
            return self.expect_200(&head);
        }
        self.tally.reset_at("relay, by the upstream", 1);
        match wire.frame() {
            Ok(_) => Err(Wrong("a message as a whole".to_owned())),
            Err(Cut(_)) => Ok(()),
            Err(wrong) => Err(wrong),
        }
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

    /// Logs in as with NTLM, which authenticates the upstream connection as one user, while
    /// others use the same program without a login.
    fn login(&mut self) -> Done {
        let user = format!("user-{}", self.noise.below(1 << 40));
        let mut wire = self.connect()?;
        self.ask_who(&mut wire, Some("begin"), None)?;
        self.ask_who(&mut wire, Some(&user), Some(&user))?;
        let mut stranger = self.connect()?;
        self.ask_who(&mut stranger, None, None)?;
        self.ask_who(&mut wire, None, Some(&user))
    }

    /// Checks as which user it is served: as `expected`, or with a 401 as none.
    fn ask_who(&self, wire: &mut Wire, login: Option<&str>, expected: Option<&str>) -> Done {
        let credentials = login.map_or(String::new(), |word| {
            format!("Authorization: NTLM {word}\r\n")
        });
        wire.send(format!("GET /who HTTP/1.1\r\nHost: soak.test\r\n{credentials}\r\n").as_bytes())?;
        let head = wire.head()?;
        let body = wire.body(&head)?;
        let served = String::from_utf8_lossy(&body);
        match (head.get(9..12), expected) {
            (Some("401"), None) => {
                self.tally.requests.fetch_add(1, Relaxed);
                Ok(())
            }
            (Some("200"), Some(user)) if served == user => self.expect_200(&head),
            (Some("502"), _) => self.expect_200(&head),
            _ => Err(Wrong(format!(
                "served as {served:?} in place of {expected:?}: {head:?}"
            ))),
        }
    }

    fn upstream_fault(&mut self) -> Done {
        if self.noise.below(8) == 0 {
            return self.broken_relay();
        }
        let (fault, has_status) = FAULTS[self.noise.below(FAULTS.len() as u64) as usize];
        let mut wire = self.take_line()?;
        wire.send(format!("GET /fault/{fault} HTTP/1.1\r\nHost: soak.test\r\n\r\n").as_bytes())?;
        let head = match wire.head() {
            Err(Cut(words)) => return Err(Wrong(format!("{fault}: no answer: {words}"))),
            head => head?,
        };
        match head.get(9..12) {
            // A hop may have broken the connection as well, and a reset destroys bytes in
            // flight.
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

/// The response that a GET requests.
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

pub const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: soak.test\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c29hayBzb2FrIHNvYWsh\r\n\r\n";

/// Requests that are not forwarded, and the status of each. The upstream knows none of these
/// paths.
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
