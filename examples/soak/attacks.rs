//! Attacks during the mixed load, each on a separate program, one round after the other: idle
//! clients flood a program with a limit, a program is its own upstream, the proxy of a program
//! has few slots, and the proxy of another never answers. Each round checks the effect on other
//! clients.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Visit, UPGRADE};
use crate::connection::Trouble::{Cut, Wrong};
use crate::connection::{Done, Wire};
use crate::hop::{few_slots, silent, Silent};
use crate::noise::Noise;
use crate::program::{Program, Route};
use crate::shared::{field, read_some};
use crate::tally::Tally;
use crate::upstream::upstream;
use crate::PATIENCE;

/// The limit of connections of the flooded program.
const LIMIT: usize = 16;

/// Idle clients that are kept open: more than the limit and the places beyond it.
const IDLE: usize = 48;

/// A round of the flood ends when this many idle clients have given way.
const SHED: u64 = 24;

/// A client that has been idle for this long may be closed. The program allows a second,
/// measured by a clock that starts later.
const MAY_BE_CLOSED: Duration = Duration::from_millis(950);

/// The slots of the proxy with few of them.
const SLOTS: usize = 4;

/// The clients at once for that proxy, and the requests of each in a round.
const CROWD: u64 = 12;
const REQUESTS: u64 = 5;

/// How many clients reset at once while connections are dialled for them.
const DIALS: u64 = 8;

/// The pause between two rounds, which leaves the machine to the mixed load.
const PAUSE: Duration = Duration::from_millis(300);

enum Attack {
    Flood,
    Loop,
    Storm,
    SilentProxy(&'static Silent),
}

/// One attack, and the program under attack.
pub struct Siege {
    pub route: Arc<Route>,
    attack: Attack,
    pub rounds: AtomicU64,
    /// The count that `effect` describes: clients that gave way, requests answered.
    pub effects: AtomicU64,
}

pub fn sieges(program: &str, tally: &'static Tally) -> io::Result<Vec<Siege>> {
    let upstream = upstream(None, tally)?.to_string();
    let socks = format!("socks5://{}", few_slots(SLOTS)?);
    let (silent_address, silent) = silent(tally)?;
    let nothing = format!("socks5://{silent_address}");
    let own = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let (port, itself) = (own.to_string(), format!("localhost:{own}"));
    // No timeout may end a wait.
    let waits = ["--connect-timeout", "600"];
    let limit = LIMIT.to_string();
    let limit = ["--max-connections", &limit, "--health-path", "/healthz"];
    let siege = |name, attack, args: &[&[&str]]| -> io::Result<Siege> {
        let program = Program::start(program, &args.concat())?;
        Ok(Siege {
            route: Arc::new(Route::unbroken(name, program)),
            attack,
            rounds: AtomicU64::new(0),
            effects: AtomicU64::new(0),
        })
    };
    Ok(vec![
        siege("idle flood", Attack::Flood, &[&["-u", &upstream], &limit])?,
        siege("loop", Attack::Loop, &[&["-p", &port, "-u", &itself]])?,
        siege(
            "storm",
            Attack::Storm,
            &[&["-s", &socks, "-u", &upstream], &waits],
        )?,
        siege(
            "silent proxy",
            Attack::SilentProxy(silent),
            &[&["-s", &nothing, "-u", &upstream], &waits],
        )?,
    ])
}

impl Siege {
    /// Attacks at least once, until `stop` is set.
    pub fn run(&self, seed: u64, stop: &AtomicBool, tally: &Tally) {
        let mut noise = Noise::new(seed);
        loop {
            self.round(&mut noise, tally);
            if stop.load(Relaxed) {
                return;
            }
            thread::sleep(PAUSE);
        }
    }

    /// Performs one round, which fails as a whole.
    pub fn round(&self, noise: &mut Noise, tally: &Tally) {
        let outcome = match self.attack {
            Attack::Flood => self.flood(),
            Attack::Loop => self.ask_itself(),
            Attack::Storm => self.storm(noise, tally),
            Attack::SilentProxy(proxy) => self.leave_dials(proxy, noise, tally),
        };
        self.rounds.fetch_add(1, Relaxed);
        if let Err(Cut(words) | Wrong(words)) = outcome {
            tally.unexpected(format!("{}: {words}", self.route.name));
        }
    }

    /// Describes the effects of this attack.
    pub fn effect(&self) -> &'static str {
        match self.attack {
            Attack::Flood => "idle clients gave way, with every busy or new client served",
            Attack::Loop => "requests refused as a loop",
            Attack::Storm => "requests answered by way of 4 slots",
            Attack::SilentProxy(_) => "dials ended with their clients",
        }
    }

    /// Idle clients take every slot and every place beyond the limit, while busy clients go on
    /// and new ones come.
    fn flood(&self) -> Done {
        let over = &AtomicBool::new(false);
        thread::scope(|scope| {
            let served = [true, true, true, false, false]
                .map(|keeps| scope.spawn(move || self.be_served(keeps, over)));
            let shed = self.fill();
            over.store(true, Relaxed);
            for client in served {
                client
                    .join()
                    .map_err(|_| Wrong("a client panicked".to_owned()))??;
            }
            self.effects.fetch_add(shed?, Relaxed);
            Ok(())
        })
    }

    /// Keeps idle clients open, of three kinds, until enough of them have given way.
    fn fill(&self) -> Done<u64> {
        let mut idle: Vec<TcpStream> = Vec::new();
        let mut shed = 0;
        let deadline = Instant::now() + PATIENCE;
        while shed < SHED {
            while idle.len() < IDLE {
                let mut wire = self.route.connect()?;
                let sent: &[u8] = match (shed as usize + idle.len()) % 3 {
                    0 => b"",
                    1 => b"GET / HTTP/1.1\r\nHost: soak.test\r\nX: ",
                    _ => SMALL,
                };
                // It may already have given way.
                let _ = wire.send(sent);
                wire.socket.set_nonblocking(true)?;
                idle.push(wire.socket);
            }
            thread::sleep(Duration::from_millis(50));
            let before = idle.len();
            idle.retain(|socket| !has_ended(socket));
            shed += (before - idle.len()) as u64;
            if Instant::now() > deadline {
                return Err(Wrong(format!("only {shed} idle clients gave way")));
            }
        }
        Ok(shed)
    }

    /// A busy client, on one connection for as long as it may keep it, or on a new one each
    /// time.
    fn be_served(&self, keeps: bool, over: &AtomicBool) -> Done {
        let mut kept = None;
        // Never later than the start of the program's own measurement.
        let mut idle_since = Instant::now();
        while !over.load(Relaxed) {
            let mut wire = match kept.take() {
                Some(wire) => wire,
                None => {
                    idle_since = Instant::now();
                    self.route.connect()?
                }
            };
            let asked = Instant::now();
            let sent = wire.send(SMALL);
            let was_prompt = idle_since.elapsed() < MAY_BE_CLOSED;
            idle_since = asked;
            let head = match sent.and_then(|()| wire.head()) {
                // On a machine this busy, the program saw an idle client.
                Err(Cut(_)) if !was_prompt => continue,
                Err(Cut(words)) => return Err(Wrong(format!("a busy client: {words}"))),
                head => head?,
            };
            if !head.starts_with("HTTP/1.1 200 ") || wire.body(&head)?.len() != 100 {
                return Err(Wrong(format!("a busy client: {head:?}")));
            }
            if keeps && field(&head, "connection") != Some("close") {
                kept = Some(wire);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Whether all slots are free again: as many clients as there are slots are served, and none
    /// of them has to give way. `None` where there is no limit.
    pub fn has_all_slots(&self) -> Option<bool> {
        let has_all = || -> Done<bool> {
            let mut clients = Vec::new();
            for _ in 0..LIMIT {
                let mut wire = self.route.connect()?;
                wire.send(SMALL)?;
                let head = wire.head()?;
                if field(&head, "connection") == Some("close") {
                    return Ok(false);
                }
                wire.body(&head)?;
                clients.push(wire);
            }
            // An idle client may give way after a second.
            thread::sleep(MAY_BE_CLOSED);
            for wire in &clients {
                wire.socket.set_nonblocking(true)?;
            }
            Ok(!clients.iter().any(|wire| has_ended(&wire.socket)))
        };
        // Some clients of the last round may still hold their slots.
        let tries = || (0..10).any(|_| has_all().unwrap_or(false));
        matches!(self.attack, Attack::Flood).then(tries)
    }

    /// Sends requests that the program would send to itself.
    fn ask_itself(&self) -> Done {
        let mut wires = Vec::new();
        for _ in 0..8 {
            let mut wire = self.route.connect()?;
            wire.send(SMALL)?;
            wires.push(wire);
        }
        for mut wire in wires {
            let head = wire.head()?;
            let status = field(&head, "proxy-status").unwrap_or_default();
            let refused = head.starts_with("HTTP/1.1 502 ");
            if !refused || !status.ends_with("error=proxy_loop_detected") {
                return Err(Wrong(format!("{head:?}")));
            }
            self.effects.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// Runs more clients than the proxy has slots; each of them is served.
    fn storm(&self, noise: &mut Noise, tally: &Tally) -> Done {
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CROWD)
                .map(|_| {
                    let mut noise = Noise::new(noise.next());
                    scope.spawn(move || -> Done {
                        for _ in 0..REQUESTS {
                            let activity = ["get", "upload", "websocket"][noise.below(3) as usize];
                            Visit::new(&self.route, &mut noise, tally).run(activity)?;
                            self.effects.fetch_add(1, Relaxed);
                        }
                        Ok(())
                    })
                })
                .collect();
            for client in clients {
                client
                    .join()
                    .map_err(|_| Wrong("a client panicked".to_owned()))??;
            }
            Ok(())
        })
    }

    /// Clients reset while the program dials for them, which ends the dials, and no request is
    /// sent on them.
    fn leave_dials(&self, proxy: &Silent, noise: &mut Noise, tally: &Tally) -> Done {
        let before = proxy.accepted.load(Relaxed);
        let mut clients = Vec::new();
        for _ in 0..DIALS {
            let mut wire = self.route.connect()?;
            wire.send([SMALL, UPGRADE.as_bytes(), POST][noise.below(3) as usize])?;
            clients.push(wire);
        }
        until("every dial has begun", || {
            proxy.accepted.load(Relaxed) >= before + DIALS
        })?;
        clients.into_iter().for_each(Wire::reset);
        tally.reset_at("dial", DIALS);
        until("the dials end with their clients", || {
            proxy.ended.load(Relaxed) == proxy.accepted.load(Relaxed)
        })?;
        self.effects.fetch_add(DIALS, Relaxed);
        Ok(())
    }
}

const SMALL: &[u8] = b"GET /body/length/1/100 HTTP/1.1\r\nHost: soak.test\r\n\r\n";

const POST: &[u8] =
    b"POST /abandoned HTTP/1.1\r\nHost: soak.test\r\nContent-Length: 100\r\n\r\nhalf";

/// Whether a non-blocking socket has ended, after reading what has arrived.
fn has_ended(mut socket: &TcpStream) -> bool {
    let mut room = [0; 4096];
    loop {
        match read_some(&mut socket, &mut room) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

/// Waits until a condition holds, for at most `PATIENCE`.
pub fn until(what: &str, holds: impl Fn() -> bool) -> Done {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > deadline {
            return Err(Wrong(format!("not seen: {what}")));
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
