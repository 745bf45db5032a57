//! A name server that never answers, during the mixed load. The program asks it through the
//! system's resolver, whose configuration allows no other port than 53. Therefore all of this
//! runs in separate namespaces (network and mount, also user when not root), and is skipped
//! where they cannot be created.

use std::io::{self, Write};
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::attacks::until;
use crate::checks::Checks;
use crate::connection::{Done, Trouble, Trouble::Wrong};
use crate::program::{Program, Route};
use crate::tally::Tally;
use crate::upstream::upstream;
use crate::LOOKUPS_END;

/// Clients at once while the name server is silent.
const CLIENTS: usize = 60;

/// How many threads lookups may use: one for each family, and one more of each while an
/// abandoned lookup ends.
const LOOKUP_THREADS: usize = 4;

/// Brings the loopback interface up and mounts the resolver's configuration.
const PREPARE: &str = "ip link set lo up && mount --bind \"$1\" /etc/resolv.conf && \
                       mount --bind \"$2\" /etc/nsswitch.conf && shift 2 && exec \"$@\"";

/// The process that runs in the namespaces, or why there is none.
pub type Running = Result<Child, String>;

/// The folder of the resolver's configuration.
fn folder() -> PathBuf {
    std::env::temp_dir().join(format!("simple-proxy-soak-{}", std::process::id()))
}

/// Starts this program again, in the namespaces, for this many minutes.
pub fn start(program: &str, minutes: f64) -> io::Result<Running> {
    let folder = folder();
    std::fs::create_dir_all(&folder)?;
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).map(|()| path)
    };
    let resolver = file("resolv.conf", "nameserver 127.0.0.1\n")?;
    let services = file("nsswitch.conf", "hosts: files dns\n")?;
    let inside = |namespaces: &str| {
        let mut command = Command::new("unshare");
        command.args([namespaces, "sh", "-c", PREPARE, "sh"]);
        command.arg(&resolver).arg(&services).stdin(Stdio::null());
        command
    };
    let mut reason = String::new();
    for namespaces in ["-mn", "-Umnr"] {
        match inside(namespaces).arg("true").output() {
            Ok(output) if output.status.success() => {
                let mut command = inside(namespaces);
                command.arg(std::env::current_exe()?);
                command.args([program, "dead-names", &minutes.to_string()]);
                return Ok(Ok(command.stdout(Stdio::piped()).spawn()?));
            }
            Ok(output) => reason = String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => reason = format!("unshare: {error}"),
        }
    }
    Ok(Err(reason))
}

/// How the name server answers all queries.
const NOTHING: u8 = 0;
const NO_SUCH_NAME: u8 = 1;
const HERE: u8 = 2;

/// In the namespaces: clients send requests while the name server is silent, for this many
/// minutes. Returns the number of failed checks.
pub fn dead_names(program: &str, minutes: f64) -> io::Result<u64> {
    let end = Instant::now() + Duration::from_secs_f64(minutes * 60.0);
    let says = Arc::new(AtomicU8::new(NO_SUCH_NAME));
    name_server(says.clone())?;
    let tally: &'static Tally = Box::leak(Box::default());
    let upstream = format!("app.example:{}", upstream(None, tally)?.port());
    let program = Program::start(program, &["-u", &upstream, "--connect-timeout", "2"])?;
    let route = Arc::new(Route::unbroken("dead names", program));
    let round = |what, expected: &[&str], clients| -> Done<usize> {
        says.store(what, Relaxed);
        // Answers to earlier queries may come first.
        until("an answer that fits", || ask(&route, expected, 1).is_ok())?;
        ask(&route, expected, clients)
    };
    let mut rounds = 0;
    let mut most = 0;
    let mut before = Vec::new();
    let mut memory = (0, 0);
    while rounds < 2 || Instant::now() < end {
        // A good answer is used for an hour, unless the name server answers that there is no
        // such name.
        let done = round(HERE, &["200"], CLIENTS).and_then(|_| round(NO_SUCH_NAME, &["502"], 1));
        if rounds == 0 {
            thread::sleep(LOOKUPS_END);
            before = vec![route.fewest()];
        }
        // A lookup that ends while a client waits for it is a 502.
        let done = done.and_then(|_| round(NOTHING, &["504", "502"], CLIENTS));
        match done {
            Ok(threads) => most = most.max(threads),
            Err(Trouble::Cut(words) | Wrong(words)) => tally.unexpected(words),
        }
        rounds += 1;
        memory.1 = route.program.resident_kib();
        if rounds == 1 {
            memory.0 = memory.1;
        }
    }
    let mut checks = Checks::default();
    let allowed = before[0].1 + LOOKUP_THREADS;
    let what = format!("dead names: {rounds} rounds, {most} threads (at most {allowed})");
    checks.check(most <= allowed, &what);
    let routes = [route];
    checks.leftovers(&routes, &before);
    checks.memory(&routes, &[memory]);
    checks.exits(&routes, 1, tally);
    checks.errors(&routes, tally);
    Ok(checks.failed as u64)
}

/// Sends requests from this many clients at once, each of which must get one of these statuses;
/// returns the largest number of threads of the program.
fn ask(route: &Route, expected: &[&str], clients: usize) -> Done<usize> {
    let mut wires = Vec::new();
    for _ in 0..clients {
        let mut wire = route.connect()?;
        wire.send(b"GET /warm-up HTTP/1.1\r\nHost: soak.test\r\n\r\n")?;
        wires.push(wire);
    }
    let most = AtomicUsize::new(0);
    for mut wire in wires {
        let head = wire.head()?;
        most.fetch_max(route.program.threads(), Relaxed);
        if !head
            .get(9..12)
            .is_some_and(|status| expected.contains(&status))
        {
            return Err(Wrong(format!("{expected:?} expected: {head:?}")));
        }
    }
    Ok(most.into_inner())
}

fn name_server(says: Arc<AtomicU8>) -> io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:53")?;
    thread::spawn(move || {
        let mut room = [0; 512];
        while let Ok((n, from)) = socket.recv_from(&mut room) {
            let says = says.load(Relaxed);
            // At least a header and a question (RFC 1035 §4.1); anything after them is dropped.
            let name = room[..n]
                .get(12..)
                .and_then(|name| name.iter().position(|&b| b == 0));
            let question = name.and_then(|end| room[..n].get(..12 + end + 5));
            let (Some(question), NO_SUCH_NAME | HERE) = (question, says) else {
                continue;
            };
            let wants_ipv4 = question.ends_with(&[0, 1, 0, 1]);
            let mut answer = question.to_vec();
            let code = 0x80 | if says == NO_SUCH_NAME { 3 } else { 0 };
            let has_address = says == HERE && wants_ipv4;
            answer[2..12].copy_from_slice(&[0x81, code, 0, 1, 0, has_address.into(), 0, 0, 0, 0]);
            if has_address {
                // The question's name, A, IN, no time to live.
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
            }
            let _ = socket.send_to(&answer, from);
        }
    });
    Ok(())
}

impl Checks {
    /// Adds the checks made in the namespaces, which will end soon, or reports that they are
    /// skipped.
    pub fn dead_names(&mut self, running: Running) {
        let output = running.map(Child::wait_with_output);
        let _ = std::fs::remove_dir_all(folder());
        let output = match output {
            Ok(output) => output,
            Err(reason) => {
                self.skipped += 1;
                println!(
                    "SKIPPED dead names: no namespaces for a name server of its own: {reason}"
                );
                return;
            }
        };
        let said = output.as_ref().map_or(&[][..], |output| &output.stdout);
        let _ = io::stdout().write_all(said);
        let said = String::from_utf8_lossy(said);
        let count = |start| said.lines().filter(|line| line.starts_with(start)).count();
        self.passed += count("ok ");
        self.failed += count("FAILED ");
        let ended = output.map_or_else(
            |error| error.to_string(),
            |output| output.status.to_string(),
        );
        let what = format!("dead names: it ended with {ended} (0 is right)");
        self.check(ended == "exit status: 0", &what);
    }
}
