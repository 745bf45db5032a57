//! The program under test, and the routes through it.

use std::io::{self, BufRead, BufReader, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::attacks::until;
use crate::connection::{Done, Trouble::Wrong, Wire};
use crate::hop::hop;
use crate::shared::cleaned;
use crate::tally::Tally;
use crate::upstream::{acceptor, upstream};
use crate::PATIENCE;

/// The program under test, running.
pub struct Program {
    child: Mutex<Child>,
    id: u32,
    pub address: SocketAddr,
    pub internal_errors: Arc<AtomicU64>,
    /// Reads the log to its end and returns its last line.
    log: Mutex<Option<JoinHandle<String>>>,
}

impl Program {
    /// Starts it with these arguments, after those that all programs get.
    pub fn start(program: &str, args: &[&str]) -> io::Result<Program> {
        let mut command = cleaned(Command::new(program));
        command.args([
            "-b",
            "127.0.0.1",
            "-p",
            "0",
            "--log-lang",
            "en",
            "--threads",
            "2",
            // So short that none is left for the check at the end.
            "--upstream-idle",
            "15",
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

    /// The targets of its open descriptors.
    pub fn descriptors(&self) -> Vec<String> {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.id));
        let targets = entries.into_iter().flatten().flatten();
        // A descriptor may be closed between the two calls.
        let targets = targets.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let targets = targets.map(|target| target.to_string_lossy().into_owned());
        targets.collect()
    }

    fn count(&self, kind: &str) -> usize {
        let descriptors = self.descriptors();
        descriptors.iter().filter(|d| d.starts_with(kind)).count()
    }

    pub fn sockets(&self) -> usize {
        self.count("socket:")
    }

    pub fn pipes(&self) -> usize {
        self.count("pipe:")
    }

    pub fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.id)).map_or(0, Iterator::count)
    }

    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    /// The last line of its log, after it has ended.
    pub fn last_line(&self) -> String {
        let log = self.log.lock().expect("not poisoned").take();
        log.and_then(|log| log.join().ok()).unwrap_or_default()
    }

    /// Sends SIGTERM and returns a description of the exit status. `draining` is called while it
    /// drains.
    pub fn terminate(&self, draining: impl FnOnce()) -> String {
        use rustix::process::{kill_process, Pid, Signal};
        let mut child = self.child.lock().expect("not poisoned");
        if let Err(error) = kill_process(Pid::from_child(&child), Signal::TERM) {
            return error.to_string();
        }
        let accepts = || TcpStream::connect(self.address).is_ok();
        if until("it no longer accepts", || !accepts()).is_err() {
            return "it goes on accepting".to_owned();
        }
        draining();
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

/// One route from the clients to the upstream.
pub struct Route {
    pub name: &'static str,
    pub program: Program,
    /// Connections that the hop on this route has broken.
    pub injected: &'static AtomicU64,
    /// Exchanges that failed in the way that a broken connection makes them fail.
    pub failed: AtomicU64,
}

impl Route {
    /// A route on which no hop breaks connections.
    pub fn unbroken(name: &'static str, program: Program) -> Route {
        Route {
            name,
            program,
            injected: Box::leak(Box::default()),
            failed: AtomicU64::new(0),
        }
    }

    pub fn connect(&self) -> Done<Wire> {
        // A hop never causes a failure to reach the program itself.
        Wire::connect(self.program.address).map_err(|error| Wrong(format!("connect: {error}")))
    }

    /// Sends a request, so that what the program opens once is open.
    pub fn warm_up(&self) -> io::Result<()> {
        let mut wire = Wire::connect(self.program.address)?;
        for _ in 0..20 {
            wire.send(b"GET /warm-up HTTP/1.0\r\n\r\n")
                .map_err(io::Error::other)?;
            let head = wire.head().map_err(io::Error::other)?;
            if head.starts_with("HTTP/1.1 200 ") {
                return Ok(());
            }
            // The hop may have broken the connection.
            wire = Wire::connect(self.program.address)?;
        }
        Err(io::Error::other(format!(
            "{}: no answer to a first request",
            self.name
        )))
    }

    /// The smallest numbers of sockets and threads after the first requests.
    pub fn fewest(&self) -> (usize, usize) {
        let looks = (0..10).map(|_| {
            thread::sleep(Duration::from_millis(20));
            (self.program.sockets(), self.program.threads())
        });
        let fewest = |a: (usize, usize), b: (usize, usize)| (a.0.min(b.0), a.1.min(b.1));
        looks.reduce(fewest).unwrap_or_default()
    }
}

pub fn routes(program: &str, seed: u64, tally: &'static Tally) -> io::Result<Vec<Arc<Route>>> {
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
