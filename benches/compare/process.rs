//! Programs under test: each is started in its own process group, observed, and killed in any
//! case.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{kill_process_group, Pid, Signal};

/// How long a program may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);

/// The process groups that are running.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// A port of 127.0.0.1 that was free a moment ago.
pub fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// Kills all running process groups.
pub fn kill_all() {
    for group in RUNNING.lock().map(|all| all.clone()).unwrap_or_default() {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// A running server with its child processes.
pub struct Daemon {
    child: Child,
    group: Pid,
    /// How long it took from the start until it accepted a connection.
    pub started_in: Duration,
}

impl Daemon {
    /// Starts the program and waits until it listens. Its output goes to a file.
    pub fn start(command: &mut Command, address: SocketAddr, says: &Path) -> io::Result<Daemon> {
        let output = fs::File::create(says)?;
        command.process_group(0).stdin(Stdio::null());
        command.stdout(output.try_clone()?).stderr(output);
        let start = Instant::now();
        let child = command.spawn()?;
        let group = Pid::from_child(&child);
        if let Ok(mut all) = RUNNING.lock() {
            all.push(group);
        }
        let mut daemon = Daemon {
            child,
            group,
            started_in: Duration::ZERO,
        };
        while TcpStream::connect(address).is_err() {
            if let Some(status) = daemon.child.try_wait()? {
                let said = fs::read_to_string(says).unwrap_or_default();
                return Err(io::Error::other(format!("it ended, {status}: {said}")));
            }
            if start.elapsed() > PATIENCE {
                return Err(io::Error::other("it does not listen"));
            }
            sleep(Duration::from_micros(200));
        }
        daemon.started_in = start.elapsed();
        Ok(daemon)
    }

    /// The CPU time of the process and its children, user and system.
    pub fn cpu(&self) -> Duration {
        let nanoseconds = self.processes().iter().map(|pid| cpu_of(pid)).sum();
        Duration::from_nanos(nanoseconds)
    }

    /// The memory of the process and its children, in KiB, with shared pages divided among the
    /// processes that share them (PSS).
    pub fn pss(&self) -> u64 {
        let processes = self.processes();
        processes.iter().map(|pid| rollup(pid, "Pss:")).sum()
    }

    /// The resident memory of the process and its children, in KiB, including shared pages.
    pub fn resident(&self) -> u64 {
        let processes = self.processes();
        processes.iter().map(|pid| rollup(pid, "Rss:")).sum()
    }

    /// Sends SIGTERM, and waits until the process has ended.
    pub fn end(mut self) -> io::Result<()> {
        rustix::process::kill_process(self.group, Signal::TERM)?;
        let start = Instant::now();
        while self.child.try_wait()?.is_none() && start.elapsed() < PATIENCE {
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// All processes of the group, which child processes inherit.
    fn processes(&self) -> Vec<String> {
        let mut pids = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.bytes().all(|byte| byte.is_ascii_digit())
                && group_of(&name) == Some(self.group.as_raw_nonzero().get())
            {
                pids.push(name);
            }
        }
        pids
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = kill_process_group(self.group, Signal::KILL);
        let _ = self.child.wait();
        if let Ok(mut all) = RUNNING.lock() {
            all.retain(|group| *group != self.group);
        }
    }
}

/// The fields of /proc/PID/stat after the name, which may contain any character.
fn stat(pid: &str) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields = &text[text.rfind(')')? + 1..];
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

fn group_of(pid: &str) -> Option<i32> {
    stat(pid)?.get(2)?.parse().ok()
}

/// The CPU time in nanoseconds, from the scheduler's statistics of each thread (schedstat), or
/// else from the ticks, of which there are 100 per second.
fn cpu_of(pid: &str) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let exact = threads.into_iter().flatten().flatten().map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    exact.sum::<Option<u64>>().unwrap_or_else(|| {
        let fields = stat(pid).unwrap_or_default();
        let ticks = |n: usize| fields.get(n).and_then(|field| field.parse::<u64>().ok());
        (ticks(11).unwrap_or(0) + ticks(12).unwrap_or(0)) * 10_000_000
    })
}

fn rollup(pid: &str, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}
