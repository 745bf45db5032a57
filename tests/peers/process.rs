//! Runs real software as processes: each in a process group that is killed with it, with its own
//! address and folder; and the program under test, with timeouts for slow peers.

use std::fs::{self, OpenOptions, Permissions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{kill_process_group, waitid, Pid, Signal, WaitId, WaitIdOptions};

use super::needs::{find, report_if_failing};
use crate::support::*;

/// Debian's Python, for which Debian packages the WebSocket modules.
pub const PYTHON: &str = "/usr/bin/python3";

pub fn number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A loopback address that no other trial listens on, not even one of another run.
pub fn address_of_our_own() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    // Not in 127.0.0.0/16, which other software uses, and not the broadcast address.
    let second = 1 + NEXT.fetch_add(1, Ordering::Relaxed) % 254;
    Ipv4Addr::new(127, second, high, low).into()
}

/// An address with a free port, chosen by the kernel.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((address_of_our_own(), 0));
    let listener = listener.unwrap_or_else(|error| panic!("no free port: {error}"));
    listener.local_addr().expect("it is bound")
}

/// A folder that peers can also use after they drop root.
pub fn open_folder(name: &str) -> Folder {
    let folder = Folder::new(&format!("{name}-{}", number()));
    open_to_all(&folder.0, 0o777);
    folder
}

pub fn open_to_all(path: &Path, mode: u32) {
    let set = fs::set_permissions(path, Permissions::from_mode(mode));
    set.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

pub fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// An installed command, without the proxy variables of the environment.
pub fn command(name: &str) -> Command {
    let path = find(name).unwrap_or_else(|| panic!("{name} is not installed"));
    without_proxy(Command::new(path))
}

pub fn python(script: &str) -> Command {
    let mut command = without_proxy(Command::new(PYTHON));
    command.arg(script_path(script));
    command
}

fn without_proxy(mut command: Command) -> Command {
    for scheme in ["http", "https", "all", "no"] {
        let name = format!("{scheme}_proxy");
        command.env_remove(name.to_uppercase()).env_remove(name);
    }
    command
}

pub fn script_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/peers")
        .join(name)
}

/// Calls `ask` until it returns a value, or until `patience` is over.
pub fn poll<T>(patience: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        let answer = ask();
        if answer.is_some() || Instant::now() > deadline {
            return answer;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// A process and its output; its descendants are killed with it.
pub struct Process {
    name: String,
    pub guard: Guard,
    pub folder: Folder,
}

pub struct Finished {
    pub code: i32,
    pub output: Vec<u8>,
    pub errors: String,
}

impl Process {
    pub fn spawn(name: &str, folder: Folder, command: &mut Command) -> Process {
        let stream = |name: &str| {
            let path = folder.path(name);
            let file = OpenOptions::new().append(true).create(true).open(&path);
            let file = file.unwrap_or_else(|error| panic!("{path}: {error}"));
            open_to_all(Path::new(&path), 0o666);
            file
        };
        command.stdout(stream("stdout")).stderr(stream("stderr"));
        Process {
            name: name.to_owned(),
            // In a new process group, so that its workers can be killed with it.
            guard: Guard::spawn(command.process_group(0)),
            folder,
        }
    }

    /// Its exit code, 255 for a signal, once it has exited. It is not reaped, so its process id
    /// stays valid.
    pub fn ended(&self) -> Option<i32> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(Pid::from_child(&self.guard.0)), options);
        let status = status.unwrap_or_else(|error| panic!("waitid: {error}"))?;
        Some(status.exit_status().unwrap_or(255))
    }

    pub fn read(&self, stream: &str) -> Vec<u8> {
        fs::read(self.folder.path(stream)).unwrap_or_default()
    }

    pub fn said(&self) -> String {
        let all = [self.read("stdout"), self.read("stderr")].concat();
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Waits until it accepts connections; fails with its output.
    pub fn listens(&self, address: SocketAddr) -> Result<(), String> {
        let outcome = poll(PATIENCE, || match self.ended() {
            Some(code) => Some(Err(format!("exit {code}\n{}", self.said()))),
            None => TcpStream::connect(address).ok().map(|_| Ok(())),
        });
        outcome.unwrap_or_else(|| Err(format!("{address} never opened\n{}", self.said())))
    }

    pub fn waits_to_say(&self, words: &str) {
        let outcome = poll(PATIENCE, || match self.said().contains(words) {
            true => Some(true),
            false => self.ended().map(|_| false),
        });
        assert_eq!(outcome, Some(true), "no {words:?} from {}", self.name);
    }

    pub fn finish(self, patience: Duration) -> Finished {
        let code = poll(patience, || self.ended());
        let code = code.unwrap_or_else(|| panic!("{} does not end", self.name));
        Finished {
            code,
            output: self.read("stdout"),
            errors: String::from_utf8_lossy(&self.read("stderr")).into_owned(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        report_if_failing(&self.name, || self.said());
        // The process id is valid until the guard reaps the process.
        let group = Pid::from_child(&self.guard.0);
        // SIGTERM first, so that squid removes its shared memory.
        let _ = kill_process_group(group, Signal::TERM);
        poll(Duration::from_secs(10), || self.ended());
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Runs a command that must succeed.
pub fn run(name: &str, command: &mut Command, patience: Duration) -> Finished {
    let process = Process::spawn(name, open_folder(name), command);
    let finished = process.finish(patience);
    let output = String::from_utf8_lossy(&finished.output);
    let (code, errors) = (finished.code, &finished.errors);
    assert!(code == 0, "{name}: exit {code}\n{output}{errors}");
    finished
}

/// A peer that listens.
pub struct Server {
    pub process: Process,
    pub address: SocketAddr,
}

impl Server {
    /// Starts it at the address from `choose`, and once more at another if it does not listen.
    pub fn start(
        name: &str,
        choose: impl Fn() -> SocketAddr,
        prepare: impl Fn(&Folder, SocketAddr) -> Command,
    ) -> Server {
        let attempt = || {
            let (address, folder) = (choose(), open_folder(name));
            let mut command = prepare(&folder, address);
            let process = Process::spawn(name, folder, command.stdin(Stdio::null()));
            process
                .listens(address)
                .map(|()| Server { process, address })
        };
        attempt()
            .or_else(|_| attempt())
            .unwrap_or_else(|words| panic!("{name} does not start: {words}"))
    }
}

/// The program under test, whose log is shown if the trial fails.
pub struct Tested(pub Proxy);

impl Tested {
    /// Starts it with timeouts long enough for a slow peer.
    pub fn start(upstream: impl ToString, flags: &[String]) -> Tested {
        let upstream = upstream.to_string();
        let mut all = vec!["-u", &upstream, "--connect-timeout", "60"];
        all.extend(flags.iter().map(String::as_str));
        Tested(Proxy::start(&all))
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.0.address)
    }
}

impl Drop for Tested {
    fn drop(&mut self) {
        report_if_failing("simple-proxy", || self.0.log.text());
    }
}

/// Lets one browser run at a time, because a small machine cannot bear more.
pub fn one_browser() -> MutexGuard<'static, ()> {
    static BROWSER: Mutex<()> = Mutex::new(());
    BROWSER.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn curl_with(stdin: Stdio, args: &[&str]) -> Finished {
    let mut command = command("curl");
    command.args(["-q", "-sS", "--noproxy", "*", "-m", "60"]);
    run("curl", command.args(args).stdin(stdin), 2 * PATIENCE)
}

pub fn curl(args: &[&str]) -> Finished {
    curl_with(Stdio::null(), args)
}

pub fn curl_text(args: &[&str]) -> String {
    String::from_utf8_lossy(&curl(args).output).into_owned()
}
