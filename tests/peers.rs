//! Real peers: proxies, origins and WebSocket clients as they are installed. A trial whose
//! peers are missing is ignored and says so in its name; with SIMPLE_PROXY_REQUIRE_PEERS
//! set it fails instead.

mod ends;
mod secured;
mod under_another_name;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use rustix::process::{kill_process_group, waitid, Pid, Signal, WaitId, WaitIdOptions};

use crate::serve::drain::NEW_PID_NAMESPACE;
use crate::support::*;

/// Debian's Python, which its packages with WebSocket modules belong to.
const PYTHON: &str = "/usr/bin/python3";

const SQUID_HELPER: &str = "/usr/lib/squid/basic_ncsa_auth";

const PRIVOXY_FOLDER: &str = "/etc/privoxy";

const APACHE_MODULES: &str = "/usr/lib/apache2/modules";

const APACHE_GSSAPI: &str = "/usr/lib/apache2/modules/mod_auth_gssapi.so";

/// What makes NTLM known to GSSAPI.
const NTLM_MECHANISM: &str = "/etc/gss/mech.d/mech.ntlmssp.conf";

/// The user of every proxy that asks for a password.
const USER: &str = "alice";

const MESSAGE: &str = "Hello, 世界";

const FIVE_MIB: usize = 5 << 20;

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (row, client) in Talker::ALL.into_iter().enumerate() {
        for (column, with_tls) in [false, true].into_iter().enumerate() {
            let one = (row + column) % 2 == 0;
            let socks = if one {
                Proxying::Microsocks
            } else {
                Proxying::Dante
            };
            let connect = if one {
                Proxying::Squid
            } else {
                Proxying::Tinyproxy
            };
            for via in [Some(socks), Some(connect), None] {
                trials.push(websocket_trial(client, via, with_tls));
            }
        }
    }
    for (via, locked) in Proxying::CONFIGURATIONS {
        let name = |what: &str| format!("{}_{what}", via.name(locked));
        let needs = via.needs(locked);
        trials.push(trial(&name("carries_http_and_tls"), &needs, move || {
            carries_http_and_tls(via, locked)
        }));
        trials.push(trial(
            &name("names_a_refused_upstream"),
            &needs,
            move || names_a_refused_upstream(via, locked),
        ));
        if locked {
            let name = name("refuses_a_wrong_or_missing_password");
            trials.push(trial(&name, &needs, move || {
                refuses_a_wrong_or_missing_password(via)
            }));
        }
    }
    for (first, second) in [
        (Proxying::Microsocks, Proxying::Dante),
        (Proxying::Dante, Proxying::Microsocks),
        (Proxying::Tinyproxy, Proxying::Squid),
    ] {
        let name = format!("{}_and_{}_in_turn", first.command(), second.command());
        let needs = [first.needs(false), second.needs(false)].concat();
        trials.push(trial(&name, &needs, move || two_in_turn(first, second)));
    }
    let needs = ["sshd", "ssh", "ssh-keygen"].map(Need::Command);
    trials.push(trial(
        "ssh_carries_and_names_a_dead_target",
        &needs,
        ssh_carries_and_names_a_dead_target,
    ));
    trials.push(trial(
        "goaccess_counts_right",
        &[Need::Command("goaccess")],
        crate::report::access::goaccess_counts_right,
    ));
    let needs = [Need::Command("chromium"), Need::Command("node")];
    trials.push(trial("chromium_shows_the_status_page", &needs, || {
        let _turn = one_browser();
        let profile = open_folder("profile");
        crate::report::status::a_browser_shows_what_happens(|url| {
            let mut command = command("node");
            command.arg(script_path("status.mjs")).arg(url);
            command.arg(&profile.0);
            command
        });
    }));
    trials.push(trial(
        "openssl_that_speaks_tls_1_0_alone",
        &[Need::Command("openssl")],
        openssl_that_speaks_tls_1_0_alone,
    ));
    trials.push(trial(
        "openssl_that_demands_a_client_certificate",
        &[Need::Command("openssl")],
        openssl_that_demands_a_client_certificate,
    ));
    trials.push(trial(
        "promtool_has_no_complaint",
        &[Need::Command("promtool")],
        crate::report::watch::promtool_has_no_complaint,
    ));
    trials.push(trial(
        "works_as_pid_1",
        &[Need::PidNamespace],
        crate::serve::drain::works_as_pid_1,
    ));
    let needs = ["unshare", "ip", "sh"].map(Need::Command);
    trials.push(trial(
        "a_link_local_upstream_is_dialled_on_its_link",
        &[&needs[..], &[Need::NetworkNamespace]].concat(),
        crate::route::unix::a_link_local_upstream_is_dialled_on_its_link,
    ));
    let needs = ["unshare", "mount", "sh"].map(Need::Command);
    let needs = [&needs[..], &[Need::MountNamespace, Need::Port53]].concat();
    for (name, body) in [
        (
            "a_lost_answer_and_a_dead_name_server_cost_little",
            crate::route::names::a_lost_answer_and_a_dead_name_server_cost_little as fn(IpAddr),
        ),
        (
            "hundreds_of_clients_and_a_dead_name_server_leave_no_threads",
            crate::route::names::hundreds_of_clients_and_a_dead_name_server_leave_no_threads,
        ),
    ] {
        trials.push(trial(name, &needs, move || body(address_of_our_own())));
    }
    let needs = [
        Need::Command("apache2"),
        Need::Path(APACHE_GSSAPI),
        Need::Path(NTLM_MECHANISM),
        Need::Python("requests_ntlm"),
    ];
    let name = "apache_ntlm_users_are_nobody_else";
    trials.push(trial(name, &needs, apache_ntlm_users_are_nobody_else));
    let needs = [Need::Command("nginx"), Need::Command("curl")];
    for (name, body) in [
        ("nginx_get_and_head", nginx_get_and_head as fn()),
        (
            "nginx_five_mebibytes_each_way",
            nginx_five_mebibytes_each_way,
        ),
        ("nginx_chunked_upload", nginx_chunked_upload),
        (
            "nginx_upload_that_expects_100",
            nginx_upload_that_expects_100,
        ),
        ("nginx_keep_alive", nginx_keep_alive),
        ("nginx_on_a_unix_socket", nginx_on_a_unix_socket),
        ("nginx_gzip_passes", nginx_gzip_passes),
    ] {
        trials.push(trial(name, &needs, body));
    }
    let needs_filter = ["unshare", "bash", "ip", "ss", "curl"].map(Need::Command);
    let more = [Need::Python("http.server"), Need::PacketFilter];
    trials.push(trial(
        "a_way_that_a_nat_has_forgotten",
        &[&needs_filter[..], &more].concat(),
        a_way_that_a_nat_has_forgotten,
    ));
    let uwsgi = [Need::Command("uwsgi"), Need::Path(UWSGI_PYTHON)];
    for (name, slow) in [("uwsgi_posts", false), ("uwsgi_posts_slow_to_close", true)] {
        trials.push(trial(name, &uwsgi, move || uwsgi_posts(slow)));
    }
    let needs = [&needs[..], &[Need::Command("openssl")]].concat();
    for (name, body) in [
        (
            "nginx_three_vhosts_by_sni",
            nginx_three_vhosts_by_sni as fn(),
        ),
        (
            "nginx_that_demands_a_client_certificate",
            nginx_that_demands_a_client_certificate,
        ),
        (
            "nginx_three_vhosts_over_one_connection",
            nginx_three_vhosts_over_one_connection,
        ),
    ] {
        trials.push(trial(name, &needs, body));
    }
    trials.extend(ends::trials());
    trials.extend(secured::trials());
    trials.extend(under_another_name::trials());
    trials
}

// What a trial needs.

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Need {
    Command(&'static str),
    /// A module of Debian's Python.
    Python(&'static str),
    /// The one from npm, with a node that runs it.
    Wscat,
    /// A file or folder that comes with a peer.
    Path(&'static str),
    /// The right to listen on port 443.
    Port443,
    /// The right to answer on port 53 over UDP.
    Port53,
    /// The right to replace files in a private mount namespace.
    MountNamespace,
    /// The right to make a PID namespace.
    PidNamespace,
    /// The right to make a network namespace.
    NetworkNamespace,
    /// The right to drop packets in it.
    PacketFilter,
}

/// Why a need is not met; each is looked at once.
fn unmet(need: Need) -> Option<String> {
    static KNOWN: Mutex<Option<HashMap<Need, Option<String>>>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    known.entry(need).or_insert_with(|| look_for(need)).clone()
}

fn look_for(need: Need) -> Option<String> {
    let (met, reason) = match need {
        Need::Command(name) => (find(name).is_some(), format!("{name} is not installed")),
        Need::Python(module) => {
            let import = format!("import {module}");
            let met = succeeds(Command::new(PYTHON).args(["-c", &import]));
            (met, format!("the Python module {module} is not installed"))
        }
        Need::Wscat => match find("wscat") {
            None => (false, "wscat is not installed".to_owned()),
            Some(path) => {
                let met = succeeds(Command::new(path).arg("--version"));
                (met, "wscat does not run".to_owned())
            }
        },
        Need::Path(path) => (Path::new(path).exists(), format!("{path} is missing")),
        Need::Port443 => match TcpListener::bind((address_of_our_own(), 443)) {
            Ok(_) => return None,
            Err(error) => (
                false,
                format!("port 443 cannot be listened on: {}", error.kind()),
            ),
        },
        Need::Port53 => match UdpSocket::bind((address_of_our_own(), 53)) {
            Ok(_) => return None,
            Err(error) => (
                false,
                format!("port 53 cannot be answered on: {}", error.kind()),
            ),
        },
        Need::MountNamespace => {
            let mut command = Command::new("unshare");
            command.args(["-m", "mount", "--bind", "/etc/shadow", "/etc/shadow"]);
            let met = succeeds(&mut command) && File::open("/etc/shadow").is_ok();
            (met, "a private mount namespace needs root".to_owned())
        }
        Need::NetworkNamespace => {
            let mut command = Command::new("unshare");
            command.args(["-n", "true"]);
            let reason = "a network namespace needs root";
            (succeeds(&mut command), reason.to_owned())
        }
        Need::PacketFilter => {
            let mut command = Command::new("unshare");
            command.args(["-n", "iptables", "-A", "OUTPUT", "-p", "tcp", "-j", "DROP"]);
            let reason = "packets cannot be dropped by iptables in a network namespace";
            (succeeds(&mut command), reason.to_owned())
        }
        Need::PidNamespace => {
            let mut command = Command::new("unshare");
            command.args(NEW_PID_NAMESPACE).arg("true");
            let reason = "a PID namespace needs root";
            (succeeds(&mut command), reason.to_owned())
        }
    };
    (!met).then_some(reason)
}

fn succeeds(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null());
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// A command on PATH, or among the daemons.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join(name))
        .find(|file| {
            let metadata = fs::metadata(file);
            metadata.is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
        })
}

fn trial(name: &str, needs: &[Need], body: impl FnOnce() + Send + 'static) -> Trial {
    let name = format!("peers::{name}");
    let Some(reason) = needs.iter().find_map(|&need| unmet(need)) else {
        return Trial::test(name, move || reported(body));
    };
    let required = std::env::var_os("SIMPLE_PROXY_REQUIRE_PEERS").is_some_and(|v| !v.is_empty());
    let name = if required {
        name
    } else {
        format!("{name} [{reason}]")
    };
    Trial::test(name, move || Err(reason.into())).with_ignored_flag(!required)
}

thread_local! {
    /// What the processes of a failing trial said.
    static LAST_WORDS: RefCell<Vec<String>> = RefCell::default();
}

/// Runs a trial; should it panic, its failure also shows what its processes said.
fn reported(body: impl FnOnce()) -> Result<(), Failed> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|panic| {
        let message = match panic.downcast::<String>() {
            Ok(message) => *message,
            Err(panic) => panic
                .downcast::<&str>()
                .map_or("panicked".to_owned(), |m| m.to_string()),
        };
        let mut report = vec![message];
        report.extend(LAST_WORDS.take());
        report.join("\n").into()
    })
}

/// Keeps what a process said if the trial is failing.
fn testify(name: &str, said: impl FnOnce() -> String) {
    if thread::panicking() {
        let said = said();
        let last: Vec<&str> = said.lines().rev().take(60).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        let words = format!("---- {name} said:\n{}", last.join("\n"));
        LAST_WORDS.with_borrow_mut(|all| all.push(words));
    }
}

// Processes and addresses.

fn number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A loopback address that no other trial, also of another run, listens on.
fn address_of_our_own() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    // Neither 127.0.0.0/16, where the machine has its own, nor the broadcast address.
    let second = 1 + NEXT.fetch_add(1, Ordering::Relaxed) % 254;
    Ipv4Addr::new(127, second, high, low).into()
}

/// An address with a free port, chosen by the kernel.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((address_of_our_own(), 0));
    let listener = listener.unwrap_or_else(|error| panic!("no free port: {error}"));
    listener.local_addr().expect("it is bound")
}

fn free_address_at_443() -> SocketAddr {
    SocketAddr::new(address_of_our_own(), 443)
}

/// A folder that peers which give up root can use, too.
fn open_folder(name: &str) -> Folder {
    let folder = Folder::new(&format!("{name}-{}", number()));
    open_to_all(&folder.0, 0o777);
    folder
}

fn open_to_all(path: &Path, mode: u32) {
    let set = fs::set_permissions(path, Permissions::from_mode(mode));
    set.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// An installed command, which talks to nothing but what it is told to.
fn command(name: &str) -> Command {
    let path = find(name).unwrap_or_else(|| panic!("{name} is not installed"));
    without_proxy(Command::new(path))
}

fn python(script: &str) -> Command {
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

fn script_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/peers")
        .join(name)
}

/// Asks again until there is an answer, at most so long.
fn poll<T>(patience: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        let answer = ask();
        if answer.is_some() || Instant::now() > deadline {
            return answer;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// A process with its descendants, which all end with it, and what it wrote.
struct Process {
    name: String,
    guard: Guard,
    folder: Folder,
}

struct Finished {
    code: i32,
    output: Vec<u8>,
    errors: String,
}

impl Process {
    fn spawn(name: &str, folder: Folder, command: &mut Command) -> Process {
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
            // A group of its own, so that workers can be ended with it.
            guard: Guard::spawn(command.process_group(0)),
            folder,
        }
    }

    /// Its exit code, 255 for a signal, once it has ended. Its number stays taken.
    fn ended(&self) -> Option<i32> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(Pid::from_child(&self.guard.0)), options);
        let status = status.unwrap_or_else(|error| panic!("waitid: {error}"))?;
        Some(status.exit_status().unwrap_or(255))
    }

    fn read(&self, stream: &str) -> Vec<u8> {
        fs::read(self.folder.path(stream)).unwrap_or_default()
    }

    fn said(&self) -> String {
        let all = [self.read("stdout"), self.read("stderr")].concat();
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Waits until it accepts connections; fails with what it said.
    fn listens(&self, address: SocketAddr) -> Result<(), String> {
        let outcome = poll(PATIENCE, || match self.ended() {
            Some(code) => Some(Err(format!("exit {code}\n{}", self.said()))),
            None => TcpStream::connect(address).ok().map(|_| Ok(())),
        });
        outcome.unwrap_or_else(|| Err(format!("{address} never opened\n{}", self.said())))
    }

    fn waits_to_say(&self, words: &str) {
        let outcome = poll(PATIENCE, || match self.said().contains(words) {
            true => Some(true),
            false => self.ended().map(|_| false),
        });
        assert_eq!(outcome, Some(true), "{} never said {words:?}", self.name);
    }

    fn finish(self, patience: Duration) -> Finished {
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
        testify(&self.name, || self.said());
        // Its number is not given up before the guard waits for it.
        let group = Pid::from_child(&self.guard.0);
        // Asked first, for squid to take its shared memory with it.
        let _ = kill_process_group(group, Signal::TERM);
        poll(Duration::from_secs(10), || self.ended());
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Runs a command that must succeed.
fn run(name: &str, command: &mut Command, patience: Duration) -> Finished {
    let process = Process::spawn(name, open_folder(name), command);
    let finished = process.finish(patience);
    let output = String::from_utf8_lossy(&finished.output);
    let (code, errors) = (finished.code, &finished.errors);
    assert!(code == 0, "{name}: exit {code}\n{output}{errors}");
    finished
}

/// A peer that listens.
struct Server {
    process: Process,
    address: SocketAddr,
}

impl Server {
    /// Starts it where `choose` says, and once more elsewhere if it does not come up.
    fn start(
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
struct Tested(Proxy);

impl Tested {
    /// Starts it with time enough for a slow peer.
    fn start(upstream: impl ToString, flags: &[String]) -> Tested {
        let upstream = upstream.to_string();
        let mut all = vec!["-u", &upstream, "--connect-timeout", "60"];
        all.extend(flags.iter().map(String::as_str));
        Tested(Proxy::start(&all))
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.0.address)
    }
}

impl Drop for Tested {
    fn drop(&mut self) {
        testify("simple-proxy", || self.0.log.text());
    }
}

// The proxies on the way.

#[derive(Clone, Copy, PartialEq, Eq)]
enum Proxying {
    Microsocks,
    Dante,
    Tinyproxy,
    Squid,
    Privoxy,
}

impl Proxying {
    /// Each with whether it asks for a password; privoxy cannot.
    const CONFIGURATIONS: [(Proxying, bool); 9] = [
        (Proxying::Microsocks, false),
        (Proxying::Microsocks, true),
        (Proxying::Dante, false),
        (Proxying::Dante, true),
        (Proxying::Tinyproxy, false),
        (Proxying::Tinyproxy, true),
        (Proxying::Squid, false),
        (Proxying::Squid, true),
        (Proxying::Privoxy, false),
    ];

    fn command(self) -> &'static str {
        match self {
            Proxying::Microsocks => "microsocks",
            Proxying::Dante => "danted",
            Proxying::Tinyproxy => "tinyproxy",
            Proxying::Squid => "squid",
            Proxying::Privoxy => "privoxy",
        }
    }

    fn name(self, locked: bool) -> String {
        let command = match self {
            Proxying::Dante => "dante",
            other => other.command(),
        };
        format!(
            "{command}_{}",
            if locked { "with_password" } else { "open" }
        )
    }

    fn needs(self, locked: bool) -> Vec<Need> {
        let mut needs = vec![Need::Command(self.command())];
        match self {
            Proxying::Dante if locked => {
                let commands = ["unshare", "mount", "sh"].map(Need::Command);
                needs.extend(commands.into_iter().chain([Need::MountNamespace]));
            }
            Proxying::Squid if locked => needs.push(Need::Path(SQUID_HELPER)),
            Proxying::Privoxy => needs.push(Need::Path(PRIVOXY_FOLDER)),
            _ => {}
        }
        needs
    }

    fn is_socks(self) -> bool {
        matches!(self, Proxying::Microsocks | Proxying::Dante)
    }

    /// Full of what must be escaped in a URL; tinyproxy takes letters and digits only.
    fn password(self) -> &'static str {
        match self {
            Proxying::Tinyproxy => "s3cret",
            _ => "s3cr:t@/x",
        }
    }

    fn password_in_url(self) -> &'static str {
        match self {
            Proxying::Tinyproxy => "s3cret",
            _ => "s3cr%3At%40%2Fx",
        }
    }

    /// The flags that send the program through it, with this password as URLs have it.
    fn flags(self, address: SocketAddr, password: Option<&str>) -> Vec<String> {
        let login = password.map_or(String::new(), |password| format!("{USER}:{password}@"));
        let (flag, scheme) = match self.is_socks() {
            true => ("--socks-proxy", "socks5"),
            false => ("--http-proxy", "http"),
        };
        vec![flag.to_owned(), format!("{scheme}://{login}{address}")]
    }

    fn start(self, locked: bool) -> Server {
        Server::start(&self.name(locked), free_address, |folder, address| {
            self.prepare(folder, address, locked)
        })
    }

    fn prepare(self, folder: &Folder, address: SocketAddr, locked: bool) -> Command {
        match self {
            Proxying::Microsocks => microsocks(address, locked),
            Proxying::Dante => dante(folder, address, locked),
            Proxying::Tinyproxy => tinyproxy(folder, address, locked),
            Proxying::Squid => squid(folder, address, locked),
            Proxying::Privoxy => privoxy(folder, address),
        }
    }
}

fn microsocks(address: SocketAddr, locked: bool) -> Command {
    let mut command = command("microsocks");
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    command.args(["-i", &ip, "-p", &port]);
    if locked {
        command.args(["-u", USER, "-P", Proxying::Microsocks.password()]);
    }
    command
}

fn dante(folder: &Folder, address: SocketAddr, locked: bool) -> Command {
    let (ip, port) = (address.ip(), address.port());
    let method = if locked { "username" } else { "none" };
    let users = match rustix::process::geteuid().is_root() {
        true => "user.privileged: root\nuser.unprivileged: nobody\n",
        false => "",
    };
    let conf = folder.write(
        "conf",
        &format!(
            "logoutput: stderr\ninternal: {ip} port = {port}\nexternal: lo\n\
             clientmethod: none\nsocksmethod: {method}\n{users}\
             client pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}\n\
             socks pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}\n"
        ),
    );
    let pid = folder.path("pid");
    if !locked {
        let mut command = command("danted");
        command.args(["-f", &conf, "-p", &pid]);
        return command;
    }
    // It checks the system's accounts: a private mount namespace supplies one.
    // The hash is of its password, made with `openssl passwd -6`.
    const ACCOUNT: &str = "alice:x:64999:65534::/nonexistent:/usr/sbin/nologin\n";
    const SHADOW: &str = "alice:$6$simpleproxy$BDBgcOhWt4AUqtcbLUWv32IuXpKcpgMZrm2wKvAPvbny7YXu8.bzZbPDNtRVlcXvzZxVSzsltCMFaQDrCSEbt0:19000:0:99999:7:::\n";
    let passwd = folder.write("passwd", &(read("/etc/passwd") + ACCOUNT));
    let shadow = folder.write("shadow", &(read("/etc/shadow") + SHADOW));
    open_to_all(Path::new(&shadow), 0o600);
    let mut command = command("unshare");
    command.args([
        "-m",
        "sh",
        "-c",
        "mount --bind \"$1\" /etc/passwd && mount --bind \"$2\" /etc/shadow &&
         exec \"$3\" -f \"$4\" -p \"$5\"",
        "sh",
    ]);
    let danted = find("danted").expect("danted is installed");
    command.args([&passwd, &shadow]).arg(danted);
    command.args([&conf, &pid]);
    command
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn tinyproxy(folder: &Folder, address: SocketAddr, locked: bool) -> Command {
    let (ip, port) = (address.ip(), address.port());
    let login = match locked {
        true => format!("BasicAuth {USER} {}\n", Proxying::Tinyproxy.password()),
        false => String::new(),
    };
    let conf = format!("Port {port}\nListen {ip}\nTimeout 600\n{login}");
    let mut command = command("tinyproxy");
    command.args(["-d", "-c", &folder.write("conf", &conf)]);
    command
}

fn squid(folder: &Folder, address: SocketAddr, locked: bool) -> Command {
    let path = folder.0.display();
    let access = if locked {
        // The hash is of its password, made with `openssl passwd -apr1`.
        let users = folder.write("users", "alice:$apr1$simple$EOgyZrtlOtpooynWlprYD1\n");
        format!(
            "auth_param basic program {SQUID_HELPER} {users}\n\
             auth_param basic children 2\nauth_param basic realm test\n\
             acl authed proxy_auth REQUIRED\n\
             http_access allow authed\nhttp_access deny all\n"
        )
    } else {
        "http_access allow all\n".to_owned()
    };
    let conf = format!(
        "http_port {address}\nvisible_hostname squid.test\npid_filename {path}/pid\n\
         cache_log stdio:{path}/stderr\ncoredump_dir {path}\naccess_log none\n\
         cache deny all\npinger_enable off\nshutdown_lifetime 0 seconds\n\
         max_filedescriptors 1024\n{access}"
    );
    // Its name tells its shared memory from that of others.
    let name = format!("peer{}n{}", std::process::id(), number());
    let mut command = command("squid");
    command.args(["-N", "-n", &name, "-f", &folder.write("conf", &conf)]);
    command
}

fn privoxy(folder: &Folder, address: SocketAddr) -> Command {
    // Without its folder every failure is an error 500 about missing templates.
    let conf = format!(
        "listen-address {address}\nconfdir {PRIVOXY_FOLDER}\ntoggle 0\n\
         forwarded-connect-retries 0\n"
    );
    let mut command = command("privoxy");
    command.args(["--no-daemon", &folder.write("conf", &conf)]);
    command
}

/// Two proxies, of which the first is killed, back again, and stopped; then the second. No
/// request that begins while one of them serves fails.
fn two_in_turn(first: Proxying, second: Proxying) {
    let upstream = origin(|mut client| {
        if client.try_head().is_some() {
            client.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let (mut one, two) = (first.start(false), second.start(false));
    let [flag, one_url] = &first.flags(one.address, None)[..] else {
        panic!("a flag and a URL")
    };
    let two_url = &second.flags(two.address, None)[1];
    let flags = [flag.clone(), format!("{one_url},{two_url}")];
    // Half of it is what a proxy that hangs may cost.
    let timeout = ["--connect-timeout".to_owned(), "8".to_owned()];
    let proxy = Tested::start(upstream, &[&flags[..], &timeout].concat());
    let all_are_served = |what: &str| {
        let clients: Vec<_> = (0..40).map(|_| proxy.0.connect()).collect();
        for mut client in clients {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            let response = client.response();
            assert_eq!(response.status(), 200, "{what}: {}", response.text());
        }
    };
    all_are_served("both serve");
    let address = one.address;
    drop(one);
    all_are_served("the first is killed");
    one = Server::start(
        first.command(),
        || address,
        |folder, address| first.prepare(folder, address, false),
    );
    all_are_served("the first is back");
    let group = Pid::from_child(&one.process.guard.0);
    kill_process_group(group, Signal::STOP).expect("it runs");
    all_are_served("the first is stopped");
    kill_process_group(group, Signal::CONT).expect("it is stopped");
    all_are_served("the first goes on");
    drop(two);
    all_are_served("the second is killed");
    drop(one);
    assert_eq!(proxy.0.get("/").status(), 502);
}

/// A server that takes the key in `folder` alone, whoever runs the tests.
fn sshd(folder: &Folder, address: SocketAddr) -> Command {
    for key in ["host", "user"] {
        let path = folder.path(key);
        let mut keygen = command("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f", &path]);
        run("ssh-keygen", &mut keygen, PATIENCE);
    }
    let conf = folder.write(
        "conf",
        &format!(
            "ListenAddress {address}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\n\
             PermitRootLogin prohibit-password\nAllowTcpForwarding yes\n",
            folder.path("host"),
            folder.path("user.pub"),
        ),
    );
    // Its packages leave this folder to the service manager.
    let _ = fs::create_dir_all("/run/sshd");
    let mut command = command("sshd");
    command.args(["-D", "-e", "-f", &conf]);
    command
}

/// The SOCKS server of a client that is logged in at `server`.
fn ssh(server: &Server, folder: &Folder, address: SocketAddr) -> Command {
    let known = folder.path("known_hosts");
    let mut command = command("ssh");
    command.args(["-N", "-F", "none", "-D", &address.to_string()]);
    command.args(["-i", &server.process.folder.path("user")]);
    for option in [
        "BatchMode=yes",
        "ExitOnForwardFailure=yes",
        "StrictHostKeyChecking=no",
        &format!("UserKnownHostsFile={known}"),
    ] {
        command.args(["-o", option]);
    }
    command.args(["-p", &server.address.port().to_string()]);
    command.arg(server.address.ip().to_string());
    command
}

/// `ssh -D` has no reply for a target that it cannot reach: it closes.
fn ssh_carries_and_names_a_dead_target() {
    let server = Server::start("sshd", free_address, sshd);
    let socks = Server::start("ssh", free_address, |folder, address| {
        ssh(&server, folder, address)
    });
    let flags = ["-s".to_owned(), format!("socks5://{}", socks.address)];
    let upstream = origin_on_localhost(echo);
    for host in ["127.0.0.1", "localhost"] {
        let proxy = Tested::start(format!("{host}:{upstream}"), &flags);
        assert_eq!(proxy.0.get("/p").text(), "path=/p host=a.example\n");
        let mut client = proxy.0.connect();
        client.upgrade("/");
        client.send_bytes(&frame(b"through ssh", MASK));
        assert_eq!(client.frame().as_deref(), Some(&b"through ssh"[..]));
    }
    let proxy = Tested::start(dead_address(), &flags);
    assert_eq!(proxy.0.get("/").status(), 502);
    let line = proxy.0.log.wait_for("[proxy-refused]");
    assert!(line.contains("closed without a reply"), "{line}");
}

// Each proxy with HTTP.

/// An origin that the name localhost leads to, in whichever family; its port.
fn origin_on_localhost(script: impl Fn(Client) + Clone + Send + Sync + 'static) -> u16 {
    loop {
        let port = origin_at("127.0.0.1:0", script.clone()).port();
        let v6 = TcpListener::bind(("::1", port)).map(drop);
        match v6.map_err(|error| error.kind()) {
            Ok(()) => {
                origin_at(&format!("[::1]:{port}"), script);
                return port;
            }
            Err(std::io::ErrorKind::AddrInUse) => {}
            Err(_) => return port,
        }
    }
}

fn carries_http_and_tls(via: Proxying, locked: bool) {
    let plain = origin_on_localhost(echo);
    let acceptor = Certificate::new("localhost").acceptor();
    let tls = origin_on_localhost(move |client| {
        if let Some(client) = client.accept_tls(&acceptor) {
            echo(client);
        }
    });
    let server = via.start(locked);
    let password = locked.then(|| via.password_in_url());
    for (host, port, mode) in [
        ("127.0.0.1", plain, "off"),
        ("localhost", plain, "off"),
        ("127.0.0.1", tls, "on"),
        ("localhost", tls, "on"),
    ] {
        let mut flags = via.flags(server.address, password);
        flags.extend(["--tls".to_owned(), mode.to_owned()]);
        let proxy = Tested::start(format!("{host}:{port}"), &flags);
        for path in ["/one", "/two"] {
            let response = proxy.0.get(path);
            assert_eq!(response.status(), 200, "{host} TLS {mode}: {response:?}");
            assert_eq!(response.text(), format!("path={path} host=a.example\n"));
        }
    }
}

/// The client gets 502 and the log the stage, with `words` and without a credential.
fn fails(proxy: &Tested, stage: &str, words: &str) {
    let response = proxy.0.get("/failing");
    assert_eq!(response.status(), 502, "{response:?}");
    let line = proxy.0.log.wait_for("/failing -> 502");
    assert!(line.contains(&format!(" [{stage}] ")), "{line}");
    assert!(line.contains(words), "no {words:?} in {line}");
    let text = format!("{}{response:?}", proxy.0.log.text());
    assert!(!text.contains("s3cr"), "a password in {text}");
}

fn names_a_refused_upstream(via: Proxying, locked: bool) {
    let server = via.start(locked);
    let flags = via.flags(server.address, locked.then(|| via.password_in_url()));
    let words = match via {
        Proxying::Microsocks | Proxying::Dante => "SOCKS5 reply 5: connection refused",
        Proxying::Tinyproxy => "CONNECT answered 500 Unable to connect",
        Proxying::Squid => "CONNECT answered 503 Service Unavailable",
        Proxying::Privoxy => "CONNECT answered 503 ",
    };
    fails(
        &Tested::start(free_address(), &flags),
        "proxy-refused",
        words,
    );
}

fn refuses_a_wrong_or_missing_password(via: Proxying) {
    let upstream = origin(echo);
    let server = via.start(true);
    let (wrong, missing) = match via {
        Proxying::Microsocks | Proxying::Dante => (
            "the proxy refused the user name or password",
            "the proxy wants a user name and a password",
        ),
        // A wrong password is 401 to it, as if it were the origin.
        Proxying::Tinyproxy => ("CONNECT answered 401 ", "CONNECT answered 407 "),
        _ => ("CONNECT answered 407 ", "CONNECT answered 407 "),
    };
    for (password, words) in [(Some("wrong-s3cr%3At%40%2Fx"), wrong), (None, missing)] {
        let proxy = Tested::start(upstream, &via.flags(server.address, password));
        fails(&proxy, "proxy-auth", words);
        let route = proxy.0.log.wait_for("路由: ");
        assert_eq!(route.contains("alice:***@"), password.is_some(), "{route}");
    }
    // The same server lets the right one in.
    let flags = via.flags(server.address, Some(via.password_in_url()));
    let proxy = Tested::start(upstream, &flags);
    assert_eq!(proxy.0.get("/").status(), 200);
    let log = proxy.0.log.text();
    assert!(!log.contains("s3cr"), "a password in {log}");
}

// WebSocket clients.

#[derive(Clone, Copy)]
enum Talker {
    Wscat,
    Python,
    Chromium,
}

impl Talker {
    const ALL: [Talker; 3] = [Talker::Wscat, Talker::Python, Talker::Chromium];

    fn name(self) -> &'static str {
        match self {
            Talker::Wscat => "wscat",
            Talker::Python => "websocket_client",
            Talker::Chromium => "chromium",
        }
    }

    fn needs(self) -> Vec<Need> {
        match self {
            Talker::Wscat => vec![Need::Wscat],
            Talker::Python => vec![Need::Python("websocket")],
            Talker::Chromium => vec![Need::Command("chromium"), Need::Command("node")],
        }
    }

    /// Opens `url`, sends a message, checks that it comes back, closes.
    fn talk(self, url: &str) {
        match self {
            Talker::Wscat => {
                let mut command = command("wscat");
                command.args(["--no-color", "-c", url, "-x", MESSAGE, "-w", "-1"]);
                // It leaves when its input ends.
                command.stdin(Stdio::piped());
                let mut process = Process::spawn("wscat", open_folder("wscat"), &mut command);
                process.waits_to_say(MESSAGE);
                drop(process.guard.0.stdin.take());
                let finished = process.finish(PATIENCE);
                assert_eq!(finished.code, 0, "{}", finished.errors);
            }
            Talker::Python => {
                let finished = run("client", python("client.py").args([url, MESSAGE]), PATIENCE);
                assert_eq!(
                    String::from_utf8_lossy(&finished.output),
                    format!("{MESSAGE}\n")
                );
            }
            Talker::Chromium => {
                let profile = open_folder("profile");
                let mut command = command("node");
                command
                    .arg(script_path("console.mjs"))
                    .args([url, MESSAGE])
                    .arg(&profile.0);
                let finished = run("chromium", &mut command, 2 * PATIENCE);
                let seen = String::from_utf8_lossy(&finished.output);
                assert_eq!(seen, format!("open; message {MESSAGE}; close 1000 true\n"));
            }
        }
    }
}

fn websocket_trial(client: Talker, via: Option<Proxying>, with_tls: bool) -> Trial {
    let mut needs = client.needs();
    needs.push(Need::Python("websockets"));
    needs.extend(via.map(|via| via.needs(true)).unwrap_or_default());
    if with_tls {
        needs.push(Need::Port443);
    }
    let route = match via {
        Some(via) => format!("through_{}", via.name(true)),
        None => "directly".to_owned(),
    };
    let scheme = if with_tls { "wss" } else { "ws" };
    let name = format!("{}_{route}_to_{scheme}", client.name());
    trial(&name, &needs, move || websocket(client, via, with_tls))
}

/// One browser at a time is as much as a small machine bears.
fn one_browser() -> MutexGuard<'static, ()> {
    static BROWSER: Mutex<()> = Mutex::new(());
    BROWSER.lock().unwrap_or_else(PoisonError::into_inner)
}

fn websocket(client: Talker, via: Option<Proxying>, with_tls: bool) {
    let _turn = matches!(client, Talker::Chromium).then(one_browser);
    let origin = websocket_origin(with_tls);
    let server = via.map(|via| (via, via.start(true)));
    let (route, flags) = match &server {
        Some((via, server)) => (
            if via.is_socks() {
                "SOCKS5 socks5://alice:***@"
            } else {
                "CONNECT http://alice:***@"
            },
            via.flags(server.address, Some(via.password_in_url())),
        ),
        None => ("direct", vec!["--direct".to_owned()]),
    };
    // No word about TLS: the port decides.
    let proxy = Tested::start(origin.address, &flags);
    let address = proxy.0.address;
    client.talk(&format!("ws://{address}/ws/chat?token=hidden"));
    let log = &proxy.0.log;
    log.wait_for(&format!("路由: {route}"));
    log.wait_for(&format!(
        "===收到请求开始=== GET /ws/chat (Host: {address})"
    ));
    log.wait_for(&format!("WebSocket 请求: /ws/chat (Host: {address})"));
    log.wait_for("WebSocket 连接建立，开始双向转发");
    log.wait_for("WebSocket 连接关闭");
    let log = log.text();
    assert!(!log.contains("hidden") && !log.contains("s3cr"), "{log}");
}

/// Python's WebSocket server, with a certificate of its own making if on port 443.
fn websocket_origin(with_tls: bool) -> Server {
    let choose = if with_tls {
        free_address_at_443
    } else {
        free_address
    };
    Server::start("origin", choose, |folder, address| {
        let mut command = python("origin.py");
        command.args([address.ip().to_string(), address.port().to_string()]);
        if with_tls {
            let certificate = Certificate::new("origin.test");
            command.arg(folder.write("cert.pem", &certificate.pem()));
            command.arg(folder.write("key.pem", &certificate.key_pem()));
        }
        command
    })
}

// A way on which the packets of one connection are lost from some moment on.

/// Asks, lets the connection rest, drops what is sent on it, and asks again. Prints the second
/// answer's status and how many seconds it took.
const FORGETTING: &str = r#"
ip link set lo up
cat > "$FOLDER/origin.py" <<'END'
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Length', '0')
        self.end_headers()
server = ThreadingHTTPServer(('127.0.0.1', 9000), Handler)
print('ready', flush=True)
server.serve_forever()
END
"$PYTHON" "$FOLDER/origin.py" >"$FOLDER/origin" 2>&1 &
"$PROGRAM" -b 127.0.0.1 -p 9001 -d -u 127.0.0.1:9000 2>"$FOLDER/log" &
until grep -q ready "$FOLDER/origin" && grep -q 127.0.0.1:9001 "$FOLDER/log"; do sleep 0.1; done
curl -s -o /dev/null http://127.0.0.1:9001/
sleep 6
port=$(ss -Htn state established dport = :9000 | awk '{ sub(/.*:/, "", $3); print $3 }')
iptables -A OUTPUT -p tcp --sport "$port" --dport 9000 -j DROP
curl -s -m 60 -o /dev/null -w '%{http_code} %{time_total}' http://127.0.0.1:9001/
kill %1 %2
"#;

/// A request on a kept connection goes on a fresh one once the old one stays silent.
fn a_way_that_a_nat_has_forgotten() {
    let folder = open_folder("forgotten");
    let mut command = Command::new("unshare");
    command.args(["-n", "bash", "-c", FORGETTING]);
    command.env("FOLDER", &folder.0).env("PYTHON", PYTHON);
    command.env("PROGRAM", PROGRAM).stdin(Stdio::null());
    let output = command.output().expect("unshare is there");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let (status, seconds) = told.split_once(' ').unwrap_or_default();
    assert_eq!(status, "200", "{output:?}");
    let seconds: f64 = seconds.parse().expect("curl prints a number");
    // Acknowledgements are waited for for a second, and not for a quarter of an hour.
    assert!((1.0..30.0).contains(&seconds), "{seconds} s");
}

// uWSGI, which closes behind each response without saying so.

const UWSGI_PYTHON: &str = "/usr/lib/uwsgi/plugins/python3_plugin.so";

/// Answers with the length of what it was sent. The response's end is seen 200 ms before the
/// connection's where `close` takes as long.
const UWSGI_APPLICATION: &str = "import time
class Body:
    def __iter__(self):
        yield b'fine'
    def close(self):
        time.sleep(PAUSE)
def application(environ, start_response):
    environ['wsgi.input'].read()
    start_response('200 OK', [('Content-Length', '4')])
    return Body()
";

/// 8 clients send 100 POSTs each, and none meets a connection that is about to be closed.
fn uwsgi_posts(slow: bool) {
    let uwsgi = Server::start("uwsgi", free_address, |folder, address| {
        let pause = if slow { "0.2" } else { "0" };
        let application = UWSGI_APPLICATION.replace("PAUSE", pause);
        let file = folder.write("app.py", &application);
        let mut command = command("uwsgi");
        command.args(["--plugin", "python3", "--http-socket", &address.to_string()]);
        command.args(["--wsgi-file", &file, "--processes", "4", "--threads", "8"]);
        command.args(["--enable-threads", "--listen", "100", "--die-on-term"]);
        command
    });
    let proxy = Tested::start(uwsgi.address, &["--direct".to_owned()]);
    let address = proxy.0.address;
    let clients: Vec<_> = (0..8)
        .map(|_| {
            thread::spawn(move || {
                let mut client = Client::connect(address);
                let ask = |_| {
                    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
                    client.response().status()
                };
                (0..100).map(ask).collect::<Vec<_>>()
            })
        })
        .collect();
    for client in clients {
        assert_eq!(client.join().expect("no panic"), vec![200; 100]);
    }
}

// nginx as the origin, curl as the client.

/// nginx with these server blocks, in which LISTEN and FOLDER stand for what is chosen.
fn nginx(servers: &str, prepare: impl Fn(&Folder)) -> Server {
    Server::start("nginx", free_address, |folder, address| {
        prepare(folder);
        let path = folder.0.to_str().expect("a path of ASCII");
        let mut temporary = String::new();
        for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            temporary += &format!("{kind}_temp_path {path}/{kind};\n");
        }
        let servers = servers.replace("LISTEN", &address.to_string());
        let conf = format!(
            "daemon off;\nworker_processes 1;\npid {path}/pid;\nerror_log stderr;\n\
             events {{ worker_connections 256; }}\n\
             http {{\naccess_log off;\ndefault_type text/plain;\nclient_max_body_size 0;\n\
             {temporary}{}}}\n",
            servers.replace("FOLDER", path)
        );
        let mut command = command("nginx");
        let conf = folder.write("conf", &conf);
        command.args(["-p", path, "-e", "stderr", "-c", &conf]);
        command
    })
}

/// nginx with files, one of 5 MiB among them, to read and to write.
struct Files {
    nginx: Server,
    proxy: Tested,
    noise: Vec<u8>,
}

const TEXT: &str = "a line that gzip makes shorter\n";

impl Files {
    fn serve() -> Files {
        let noise = Noise::new(5).bytes(FIVE_MIB);
        let servers = "server { listen LISTEN; root FOLDER/files;
             gzip on; gzip_min_length 1; gzip_types text/plain;
             location /up/ { dav_methods PUT; }
             location = /connection { return 200 \"$connection $connection_requests\\n\"; }
             location = /discard { return 200 \"$http_content_length\"; } }\n";
        let nginx = nginx(servers, |folder| {
            for path in [folder.0.join("files"), folder.0.join("files/up")] {
                fs::create_dir(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
                open_to_all(&path, 0o777);
            }
            folder.write("files/hello", "hello from nginx\n");
            folder.write("files/text", &TEXT.repeat(1000));
            let path = folder.path("files/noise");
            fs::write(&path, &noise).unwrap_or_else(|error| panic!("{path}: {error}"));
        });
        let proxy = Tested::start(nginx.address, &["--direct".to_owned()]);
        Files {
            nginx,
            proxy,
            noise,
        }
    }

    fn noise_path(&self) -> String {
        self.nginx.process.folder.path("files/noise")
    }

    /// Whether nginx has stored the noise, byte for byte, under this name.
    fn assert_stored(&self, name: &str) {
        let path = self.nginx.process.folder.path(&format!("files/up/{name}"));
        let stored = fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let same = stored == self.noise;
        assert!(
            same,
            "{} bytes arrived as {} others",
            self.noise.len(),
            stored.len()
        );
    }
}

fn curl_with(stdin: Stdio, args: &[&str]) -> Finished {
    let mut command = command("curl");
    command.args(["-q", "-sS", "--noproxy", "*", "-m", "60"]);
    run("curl", command.args(args).stdin(stdin), 2 * PATIENCE)
}

fn curl(args: &[&str]) -> Finished {
    curl_with(Stdio::null(), args)
}

fn curl_text(args: &[&str]) -> String {
    String::from_utf8_lossy(&curl(args).output).into_owned()
}

/// Six clients log in again and again, side by side with strangers, on two threads.
fn apache_ntlm_users_are_nobody_else() {
    let apache = apache_with_ntlm();
    let flags = ["--direct", "--threads", "2"].map(str::to_owned);
    let proxy = Tested::start(apache.address, &flags);
    let url = proxy.url("/page");
    let finished = run("logins", python("logins.py").arg(url), PATIENCE * 2);
    let output = String::from_utf8_lossy(&finished.output);
    assert_eq!(output, "refused: 90, right: 90\n");
}

/// Apache, which authenticates connections by NTLM: user1 to user6, whose passwords have the
/// same numbers.
fn apache_with_ntlm() -> Server {
    Server::start("apache2", free_address, |folder, address| {
        let path = folder.0.to_str().expect("a path of ASCII");
        folder.write("page", "for users");
        let users = (1..=6).map(|n| format!("DOMAIN:user{n}:password{n}\n"));
        let users = folder.write("users", &users.collect::<String>());
        let user = match rustix::process::geteuid().is_root() {
            true => "User nobody\nGroup nogroup\n",
            false => "",
        };
        let modules = [
            "mpm_event",
            "authn_core",
            "authz_core",
            "authz_user",
            "headers",
            "auth_gssapi",
        ];
        let modules = modules
            .map(|name| format!("LoadModule {name}_module {APACHE_MODULES}/mod_{name}.so\n"))
            .concat();
        let conf = format!(
            "ServerName localhost\nServerRoot {path}\nPidFile {path}/pid\nErrorLog /dev/stderr\n\
             Listen {address}\n{user}{modules}DocumentRoot {path}\n\
             KeepAlive On\nMaxKeepAliveRequests 0\nKeepAliveTimeout 60\n\
             <Directory {path}>\nAuthType GSSAPI\nAuthName users\n\
             GssapiConnectionBound On\nGssapiAllowedMech ntlmssp\nRequire valid-user\n\
             Header always set X-User \"expr=%{{REMOTE_USER}}\"\n</Directory>\n"
        );
        let mut command = command("apache2");
        command.args(["-X", "-f", &folder.write("conf", &conf)]);
        command.env("NTLM_USER_FILE", users);
        command
    })
}

fn nginx_get_and_head() {
    let files = Files::serve();
    assert_eq!(
        curl_text(&[&files.proxy.url("/hello")]),
        "hello from nginx\n"
    );
    let head = curl_text(&["-I", &files.proxy.url("/noise")]);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(field(&head, "content-length"), Some("5242880"));
    assert!(
        field(&head, "server").is_some_and(|s| s.starts_with("nginx")),
        "{head}"
    );
    let status = curl_text(&[
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        &files.proxy.url("/none"),
    ]);
    assert_eq!(status, "404");
    files
        .proxy
        .0
        .log
        .wait_for("请求完成: HEAD /noise -> 200 (0 bytes, ");
    files
        .proxy
        .0
        .log
        .wait_for("请求完成: GET /hello -> 200 (17 bytes, ");
}

fn nginx_five_mebibytes_each_way() {
    let files = Files::serve();
    let download = curl(&[&files.proxy.url("/noise")]).output;
    assert!(download == files.noise, "{} bytes came", download.len());
    let status = ["-w", "%{http_code}"];
    let put = ["-T", &files.noise_path(), &files.proxy.url("/up/put")];
    assert_eq!(curl_text(&[&put[..], &status].concat()), "201");
    files.assert_stored("put");
    // nginx answers this one at once and throws the body away.
    let body = format!("@{}", files.noise_path());
    let post = ["--data-binary", &body, &files.proxy.url("/discard")];
    assert_eq!(curl_text(&[&post[..], &status].concat()), "5242880200");
    let log = &files.proxy.0.log;
    log.wait_for("请求完成: GET /noise -> 200 (5242880 bytes, ");
    log.wait_for("请求完成: PUT /up/put -> 201 (0 bytes, ");
    log.wait_for("请求完成: POST /discard -> 200 (7 bytes, ");
}

fn nginx_chunked_upload() {
    let files = Files::serve();
    let noise = File::open(files.noise_path()).expect("it was written");
    let url = files.proxy.url("/up/chunked");
    let sent = curl_with(noise.into(), &["-v", "-T", "-", &url]);
    let chunked = sent.errors.contains("> Transfer-Encoding: chunked");
    assert!(
        chunked && sent.errors.contains("< HTTP/1.1 201 "),
        "{}",
        sent.errors
    );
    files.assert_stored("chunked");
}

fn nginx_upload_that_expects_100() {
    let files = Files::serve();
    let (path, url) = (files.noise_path(), files.proxy.url("/up/expected"));
    let expect = ["-H", "Expect: 100-continue", "--expect100-timeout", "50"];
    let sent = curl(&[&["-v", "-T", &path, &url][..], &expect].concat());
    let asked = sent.errors.contains("> Expect: 100-continue");
    assert!(
        asked && sent.errors.contains("< HTTP/1.1 100 Continue"),
        "{}",
        sent.errors
    );
    assert!(sent.errors.contains("< HTTP/1.1 201 "), "{}", sent.errors);
    files.assert_stored("expected");
}

fn nginx_on_a_unix_socket() {
    let servers = "server { listen LISTEN; listen unix:FOLDER/socket; root FOLDER; }\n";
    let nginx = nginx(servers, |folder| {
        folder.write("hello", "hello from nginx\n");
    });
    let socket = nginx.process.folder.path("socket");
    let proxy = Tested::start(format!("unix:{socket}"), &[]);
    assert_eq!(curl_text(&[&proxy.url("/hello")]), "hello from nginx\n");
    let head = curl_text(&["-I", &proxy.url("/hello")]);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

/// The report of `--check`, and whether it found all well.
fn checked(upstream: SocketAddr, flags: &[&str]) -> (String, bool) {
    let upstream = upstream.to_string();
    let mut command = program();
    command.args([
        "--check",
        "-u",
        &upstream,
        "--tls",
        "on",
        "--log-lang",
        "en",
    ]);
    let output = command.args(flags).output().expect("the program runs");
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    // Lines are broken where the terminal would end.
    let words: Vec<&str> = report.split_whitespace().collect();
    (words.join(" "), output.status.success())
}

/// A certificate that signs itself, and its key, in PEM files.
fn client_certificate(folder: &Folder) -> [String; 2] {
    let certificate = Certificate::new("client.example");
    let chain = folder.write("client.pem", &certificate.pem());
    [chain, folder.write("client.key", &certificate.key_pem())]
}

const MISSING: &str = "asks for a client certificate: --tls-cert and --tls-key";

fn nginx_that_demands_a_client_certificate() {
    let clients = open_folder("clients");
    let [chain, key] = client_certificate(&clients);
    let servers = format!(
        "server {{ listen LISTEN ssl; ssl_certificate FOLDER/cert.pem;
         ssl_certificate_key FOLDER/key.pem; ssl_protocols VERSION;
         ssl_client_certificate {chain}; ssl_verify_client on;
         location / {{ return 200 \"$ssl_client_s_dn\"; }} }}\n"
    );
    for version in ["TLSv1.2", "TLSv1.3"] {
        let nginx = nginx(&servers.replace("VERSION", version), |folder| {
            let certificate = Certificate::new("nginx.example");
            folder.write("cert.pem", &certificate.pem());
            folder.write("key.pem", &certificate.key_pem());
        });
        let flags = ["--tls", "on", "--tls-cert", &chain, "--tls-key", &key];
        let proxy = Tested::start(nginx.address, &flags.map(str::to_owned));
        assert_eq!(curl_text(&[&proxy.url("/")]), "CN=client.example");
        let (report, is_well) = checked(nginx.address, &flags[2..]);
        assert!(
            is_well && !report.contains("client certificate"),
            "{report}"
        );
        let (report, is_well) = checked(nginx.address, &[]);
        assert!(!is_well && report.contains(MISSING), "{version}: {report}");
    }
}

fn s_server(folder: &Folder, address: SocketAddr, more: &[&str]) -> Command {
    let certificate = Certificate::new("old.example");
    let mut command = command("openssl");
    command.args(["s_server", "-accept", &address.to_string(), "-www"]);
    command.args(["-cert", &folder.write("cert.pem", &certificate.pem())]);
    command.args(["-key", &folder.write("key.pem", &certificate.key_pem())]);
    command.args(more);
    command
}

/// It ends the handshake of a client without a certificate, where nginx answers 400.
fn openssl_that_demands_a_client_certificate() {
    for version in ["-tls1_2", "-tls1_3"] {
        let server = Server::start("s_server", free_address, |folder, address| {
            s_server(folder, address, &[version, "-Verify", "1"])
        });
        let [chain, key] = client_certificate(&server.process.folder);
        let (report, is_well) = checked(server.address, &[]);
        assert!(!is_well && report.contains(MISSING), "{version}: {report}");
        let flags = ["--tls", "on", "--tls-cert", &chain, "--tls-key", &key];
        let proxy = Tested::start(server.address, &flags.map(str::to_owned));
        let response = proxy.0.fetch("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        assert_eq!(response.status(), 200, "{version}");
    }
}

fn openssl_that_speaks_tls_1_0_alone() {
    let server = Server::start("s_server", free_address, |folder, address| {
        s_server(
            folder,
            address,
            &["-tls1", "-cipher", "DEFAULT:@SECLEVEL=0"],
        )
    });
    let conf = server.process.folder.write(
        "openssl.cnf",
        "openssl_conf = init\n[init]\nssl_conf = ssl\n[ssl]\nsystem_default = tls\n\
         [tls]\nCipherString = DEFAULT:@SECLEVEL=0\n",
    );
    let upstream = server.address.to_string();
    for (min, status) in [("1.0", 200), ("1.2", 502)] {
        let args = ["-u", &upstream, "--tls", "on", "--tls-min", min];
        let proxy = Tested(Proxy::start_with(&args, &[("OPENSSL_CONF", &conf)]));
        assert_eq!(proxy.0.get("/").status(), status, "{min}");
    }
}

fn nginx_keep_alive() {
    let files = Files::serve();
    let url = files.proxy.url("/connection");
    let text = curl_text(&["-w", "%{num_connects}\n", &url, &url]);
    let lines: Vec<&str> = text.lines().collect();
    let &[first, "1", second, "0"] = &lines[..] else {
        panic!("not two answers over one connection: {text}")
    };
    // The connection to nginx is kept, too.
    let connection = first.split(' ').next().unwrap_or_default();
    assert_eq!(first, format!("{connection} 1"));
    assert_eq!(second, format!("{connection} 2"));
}

fn nginx_gzip_passes() {
    let files = Files::serve();
    let (url, gzip) = (files.proxy.url("/text"), "Accept-Encoding: gzip");
    let head = curl_text(&["-D", "-", "-o", "/dev/null", "-H", gzip, &url]);
    assert_eq!(field(&head, "content-encoding"), Some("gzip"), "{head}");
    let raw = curl(&["-H", gzip, &url]).output;
    assert!(raw.starts_with(&[0x1f, 0x8b]) && raw.len() < TEXT.len() * 100);
    assert_eq!(curl_text(&["--compressed", &url]), TEXT.repeat(1000));
    assert_eq!(curl_text(&[&url]), TEXT.repeat(1000));
}

const VHOSTS: [&str; 3] = ["a.test", "b.test", "c.test"];

/// Three hosts on one address, each with a certificate of its own, made by openssl; and
/// a file with all certificates.
fn three_vhosts() -> (Server, String) {
    let mut servers = String::new();
    for name in VHOSTS {
        servers += &format!(
            "server {{ listen LISTEN ssl; server_name {name};\n\
             ssl_certificate FOLDER/{name}.pem; ssl_certificate_key FOLDER/{name}.key;\n\
             return 200 \"{name} $ssl_server_name $host $connection $connection_requests\\n\"; }}\n"
        );
    }
    let nginx = nginx(&servers, |folder| {
        let mut all = String::new();
        for name in VHOSTS {
            let certificate = folder.path(&format!("{name}.pem"));
            let mut command = command("openssl");
            command.args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]);
            command.args(["-pkeyopt", "ec_paramgen_curve:prime256v1"]);
            command.args(["-subj", &format!("/CN={name}")]);
            command.args(["-addext", &format!("subjectAltName=DNS:{name}")]);
            command.args(["-keyout", &folder.path(&format!("{name}.key"))]);
            command.args(["-out", &certificate]).stdin(Stdio::null());
            run("openssl", &mut command, PATIENCE);
            all += &read(&certificate);
        }
        folder.write("all.pem", &all);
    });
    let all = nginx.process.folder.path("all.pem");
    (nginx, all)
}

fn nginx_three_vhosts_by_sni() {
    let (nginx, certificates) = three_vhosts();
    // With verification, too: then the certificate must be that of the Host.
    for more in [&[][..], &["--tls-verify", "--tls-ca", &certificates]] {
        let flags = [&["--direct", "--tls", "on"], more].concat();
        let flags: Vec<String> = flags.into_iter().map(str::to_owned).collect();
        let proxy = Tested::start(nginx.address, &flags);
        for host in VHOSTS {
            let text = curl_text(&["-H", &format!("Host: {host}"), &proxy.url("/")]);
            let expected = format!("{host} {host} {host} ");
            assert!(text.starts_with(&expected), "{text} instead of {expected}");
        }
    }
}

fn nginx_three_vhosts_over_one_connection() {
    let (nginx, _) = three_vhosts();
    let flags = ["--direct", "--tls", "on"].map(str::to_owned);
    let proxy = Tested::start(nginx.address, &flags);
    let url = proxy.url("/");
    let headers = VHOSTS.map(|host| format!("Host: {host}"));
    let hosts: Vec<usize> = (0..30).map(|i| (i * i + i / 4) % 3).collect();
    let mut args = Vec::new();
    for &host in &hosts {
        if !args.is_empty() {
            // What follows is another request, with options of its own.
            args.extend(["--next", "-q", "-sS", "--noproxy", "*", "-m", "60"]);
        }
        args.extend(["-w", "%{num_connects}\n", "-H", &headers[host], &url]);
    }
    let text = curl_text(&args);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 60, "{text}");
    let connects: Vec<&str> = lines.iter().skip(1).step_by(2).copied().collect();
    assert_eq!(connects.concat(), format!("1{}", "0".repeat(29)), "{text}");
    let mut reused = [false; 3];
    for (&host, line) in hosts.iter().zip(lines.iter().step_by(2)) {
        let name = VHOSTS[host];
        let expected = format!("{name} {name} {name} ");
        assert!(line.starts_with(&expected), "{line} instead of {expected}");
        reused[host] |= !line.ends_with(" 1");
    }
    assert_eq!(
        reused, [true; 3],
        "connections to nginx were not kept: {text}"
    );
}
