//! `make bench-long`: what users wait for over a long way, counted in round trips.
//!
//! Two network namespaces joined by an emulated way (`way.rs`): the program and its client
//! here, proxies and upstream there (`far.rs`). Whole round trips are what is judged, and the
//! best of five attempts: noise of the machine only adds. Options: `--rtt MILLISECONDS`,
//! `--rest SECONDS` (how long a connection is left alone), `--rate MBIT`, `--loss PER_MILLION`.

mod far;
#[path = "../compare/tls.rs"]
mod tls;
mod way;

use std::cell::Cell;
use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{exit, Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The program that cargo has built for this benchmark.
const PROGRAM: &str = env!("CARGO_BIN_EXE_simple-proxy");

/// The body of a POST.
pub const BODY: &[u8] = b"name=value";

const FAR: &str = "10.77.0.2";

/// Nothing here takes longer than a way of some seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Less than one whole round trip over a goal is noise.
const NOISE: f64 = 0.75;

struct Options {
    rtt: Duration,
    rest: Duration,
    rate: u64,
    loss: u64,
}

impl Options {
    fn read() -> Options {
        let given: Vec<String> = env::args().collect();
        let number = |name: &str, default: u64| {
            let value = given.iter().position(|word| word == name);
            let value = value.and_then(|at| given.get(at + 1));
            value.map_or(default, |value| {
                value.parse().unwrap_or_else(|_| {
                    eprintln!("{name} {value}: not a number");
                    exit(2)
                })
            })
        };
        Options {
            rtt: Duration::from_millis(number("--rtt", 100).max(1)),
            rest: Duration::from_secs(number("--rest", 40)),
            rate: number("--rate", 200).max(1) * 1_000_000,
            loss: number("--loss", 0),
        }
    }
}

fn main() {
    let role = env::args().nth(1);
    let outcome = match role.as_deref() {
        Some("far") => far::serve(),
        Some("inside") => inside(&Options::read()),
        _ => enter(),
    };
    if let Err(error) = outcome {
        eprintln!("bench-long: {error}");
        exit(1);
    }
}

/// Becomes the same program in a network namespace of its own, or says why it cannot.
fn enter() -> io::Result<()> {
    let mut reasons = Vec::new();
    if !rustix::process::geteuid().is_root() {
        reasons.push("it needs root, for network namespaces".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        reasons.push("the kernel has no TUN devices (/dev/net/tun)".to_owned());
    }
    for tool in ["ip", "unshare", "nsenter"] {
        if find(tool).is_none() {
            reasons.push(format!("{tool} is missing (iproute2, util-linux)"));
        }
    }
    if !reasons.is_empty() {
        println!(
            "The long way cannot be emulated here: {}.",
            reasons.join("; ")
        );
        return Ok(());
    }
    let mut command = Command::new("unshare");
    command.arg("--net").arg(env::current_exe()?).arg("inside");
    Err(command.args(env::args().skip(1)).exec())
}

fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut folders = env::split_paths(&path).chain(usual);
    folders.find_map(|folder| Some(folder.join(name)).filter(|path| path.is_file()))
}

/// Ends with its guard.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(words: &[&str]) -> io::Result<()> {
    let program = find(words[0]).unwrap_or_else(|| words[0].into());
    match Command::new(program).args(&words[1..]).status()?.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("`{}` failed", words.join(" ")))),
    }
}

/// The far end, and the way to it.
fn lay(options: &Options) -> io::Result<Running> {
    let mut command = Command::new("unshare");
    command.arg("--net").arg(env::current_exe()?).arg("far");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Running(command.spawn()?);
    let mut line = String::new();
    let said = child.0.stdout.take().expect("it is piped");
    BufReader::new(said).read_line(&mut line)?;
    let pid = child.0.id().to_string();
    let near = way::device("near0")?;
    let far = way::device("far0")?;
    run(&["ip", "link", "set", "lo", "up"])?;
    run(&["ip", "link", "set", "far0", "netns", &pid])?;
    run(&["ip", "address", "add", "10.77.0.1/30", "dev", "near0"])?;
    run(&["ip", "link", "set", "near0", "up"])?;
    for words in ["address add 10.77.0.2/30 dev far0", "link set far0 up"] {
        let mut all = vec!["nsenter", "--net", "--target", &pid, "ip"];
        all.extend(words.split(' '));
        run(&all)?;
    }
    let way = way::Way {
        delay: options.rtt / 2,
        rate: options.rate,
        loss: options.loss,
    };
    way::join(near, far, way)?;
    Ok(child)
}

/// What takes part: the program with some options, or a peer, which goes directly.
#[derive(Clone, Copy, PartialEq)]
enum Who {
    Ours,
    Nginx,
    Haproxy,
}

/// A proxy that listens.
struct Proxy {
    address: SocketAddr,
    _running: Running,
}

thread_local! {
    /// Ports of this namespace are ours alone.
    static NEXT_PORT: Cell<u16> = const { Cell::new(8000) };
}

impl Proxy {
    /// None where the peer is not installed.
    fn start(who: Who, port_there: u16, more: &[&str], folder: &Path) -> io::Result<Option<Proxy>> {
        let port = NEXT_PORT.get();
        NEXT_PORT.set(port + 1);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut command = match who {
            Who::Ours => {
                let mut command = Command::new(PROGRAM);
                command.args(["-b", "127.0.0.1", "-p", &port.to_string(), "-q"]);
                command.args(["-u", "bench.example:443", "--log-lang", "en"]);
                command.args(["-s", &format!("socks5://user:word@{FAR}:{port_there}")]);
                command.args(more);
                command
            }
            Who::Nginx => {
                let Some(nginx) = find("nginx") else {
                    return Ok(None);
                };
                let file = folder.join("nginx.conf");
                fs::write(&file, nginx_file(port, folder))?;
                let mut command = Command::new(nginx);
                command.arg("-c").arg(file).arg("-e").arg("stderr");
                command
            }
            Who::Haproxy => {
                let Some(haproxy) = find("haproxy") else {
                    return Ok(None);
                };
                let file = folder.join("haproxy.cfg");
                fs::write(&file, haproxy_file(port))?;
                let mut command = Command::new(haproxy);
                command.arg("-db").arg("-f").arg(file);
                command
            }
        };
        let said = fs::File::create(folder.join("said"))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said);
        let mut running = Running(command.spawn()?);
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            if running.0.try_wait()?.is_some() || start.elapsed() > PATIENCE {
                let said = fs::read_to_string(folder.join("said")).unwrap_or_default();
                return Err(io::Error::other(format!(
                    "{command:?} does not listen: {said}"
                )));
            }
            sleep(Duration::from_millis(5));
        }
        Ok(Some(Proxy {
            address,
            _running: running,
        }))
    }

    /// How long one exchange takes from connecting to the end of the answer's head, which
    /// must have this status; and the connection.
    fn exchange(&self, request: &[u8], status: &str) -> io::Result<(Duration, TcpStream)> {
        let start = Instant::now();
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request)?;
        let mut head = Vec::new();
        let mut bytes = [0; 4096];
        while !head.windows(4).any(|four| four == b"\r\n\r\n") {
            match stream.read(&mut bytes)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => head.extend_from_slice(&bytes[..n]),
            }
        }
        let took = start.elapsed();
        let head = String::from_utf8_lossy(&head).into_owned();
        match head.split(' ').nth(1) == Some(status) {
            true => Ok((took, stream)),
            false => Err(io::Error::other(head)),
        }
    }

    fn get(&self) -> io::Result<Duration> {
        let request = b"GET / HTTP/1.1\r\nHost: bench.example\r\nConnection: close\r\n\r\n";
        self.exchange(request, "200").map(|(took, _)| took)
    }

    fn post(&self) -> io::Result<Duration> {
        let head = "POST / HTTP/1.1\r\nHost: bench.example\r\nConnection: close\r\n";
        let head = format!("{head}Content-Length: {}\r\n\r\n", BODY.len());
        let request = [head.as_bytes(), BODY].concat();
        self.exchange(&request, "200").map(|(took, _)| took)
    }

    fn websocket(&self) -> io::Result<(Duration, TcpStream)> {
        let request = b"GET /ws HTTP/1.1\r\nHost: bench.example\r\nConnection: Upgrade\r\n\
            Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        self.exchange(request, "101")
    }
}

fn nginx_file(port: u16, folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "user root; worker_processes 1; daemon off; pid {folder}/nginx.pid;
error_log stderr crit;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream up {{ server {FAR}:443; keepalive 16; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass https://up; proxy_http_version 1.1; proxy_ssl_verify off;
      proxy_set_header Host $http_host; proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
    }}
  }}
}}
"
    )
}

fn haproxy_file(port: u16) -> String {
    format!(
        "defaults
  mode http
  http-reuse always
  timeout connect 10s
  timeout client 1h
  timeout server 1h
frontend front
  bind 127.0.0.1:{port}
  default_backend back
backend back
  server up {FAR}:443 ssl verify none
"
    )
}

/// The least of five: noise of the machine only adds.
fn least(mut attempt: impl FnMut() -> io::Result<Duration>) -> io::Result<Duration> {
    let mut least = attempt()?;
    for _ in 1..5 {
        least = least.min(attempt()?);
    }
    Ok(least)
}

/// A line of the table: what was done, how many round trips or requests it may take, and how
/// it is measured, with nothing where somebody cannot take part.
struct Work {
    name: &'static str,
    goal: f64,
    peers: bool,
    measure: fn(Who, &Lab) -> io::Result<Option<f64>>,
}

struct Lab<'a> {
    options: &'a Options,
    folder: &'a Path,
    /// Whether the program has the flag.
    spares: bool,
}

impl Lab<'_> {
    fn start(&self, who: Who, more: &[&str]) -> io::Result<Option<Proxy>> {
        Proxy::start(who, far::SOCKS, more, self.folder)
    }

    fn trips(&self, took: Duration) -> Option<f64> {
        Some(took.as_secs_f64() / self.options.rtt.as_secs_f64())
    }
}

const WORKS: [Work; 7] = [
    Work {
        name: "WebSocket, a kept connection idle",
        goal: 1.05,
        peers: true,
        measure: |who, lab| {
            let Some(proxy) = lab.start(who, &["--threads", "1"])? else {
                return Ok(None);
            };
            let took = least(|| {
                proxy.get()?;
                // The answer's end gives the connection back a moment later.
                sleep(lab.options.rtt / 4);
                proxy.websocket().map(|(took, _)| took)
            });
            Ok(lab.trips(took?))
        },
    },
    Work {
        name: "WebSocket, nothing kept, the name just used, `--spares 1`",
        goal: 1.1,
        peers: false,
        measure: |who, lab| {
            if !lab.spares {
                return Ok(None);
            }
            let Some(proxy) = lab.start(who, &["--spares", "1"])? else {
                return Ok(None);
            };
            drop(proxy.websocket()?);
            let took = least(|| {
                // A spare takes the whole way, after the pause that it may begin with.
                sleep(lab.options.rtt * 10 + Duration::from_millis(500));
                proxy.websocket().map(|(took, _)| took)
            });
            Ok(lab.trips(took?))
        },
    },
    Work {
        name: "WebSocket, nothing kept",
        goal: 6.1,
        peers: false,
        measure: |who, lab| {
            let Some(proxy) = lab.start(who, &[])? else {
                return Ok(None);
            };
            Ok(lab.trips(least(|| proxy.websocket().map(|(took, _)| took))?))
        },
    },
    Work {
        name: "30 GETs from new clients, `--threads 16`: how many pay the way",
        goal: 1.0,
        peers: true,
        measure: |who, lab| {
            let Some(proxy) = lab.start(who, &["--threads", "16"])? else {
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
    Work {
        name: "GET after a rest",
        goal: 1.0,
        peers: true,
        measure: |who, lab| {
            let Some(proxy) = lab.start(who, &[])? else {
                return Ok(None);
            };
            proxy.get()?;
            sleep(lab.options.rest);
            Ok(lab.trips(proxy.get()?))
        },
    },
    Work {
        name: "POST after 3 s of rest",
        goal: 1.0,
        peers: true,
        measure: |who, lab| {
            let Some(proxy) = lab.start(who, &[])? else {
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
    Work {
        name: "24 GETs over a proxy with 4 slots, `--threads 8`: failures",
        goal: 0.0,
        peers: false,
        measure: |who, lab| {
            let more = ["--threads", "8"];
            let Some(proxy) = Proxy::start(who, far::FEW, &more, lab.folder)? else {
                return Ok(None);
            };
            let failed = (0..24).filter(|_| {
                sleep(lab.options.rtt / 4);
                proxy.get().is_err()
            });
            Ok(Some(failed.count() as f64))
        },
    },
];

fn inside(options: &Options) -> io::Result<()> {
    let _far = lay(options)?;
    let folder = env::temp_dir().join(format!("simple-proxy-long.{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let help = Command::new(PROGRAM).arg("--help").output()?.stdout;
    let lab = Lab {
        options,
        folder: &folder,
        spares: String::from_utf8_lossy(&help).contains("--spares"),
    };
    let (milliseconds, rest) = (options.rtt.as_millis(), options.rest.as_secs());
    println!("How many round trips of {milliseconds} ms a user waits: less is better, 1 is the least for");
    println!("a request. simple-proxy goes through SOCKS5 with a password and TLS 1.3, the peers");
    println!("directly over TLS; a rest is {rest} s. A goal is met up to {NOISE} above it.\n");
    println!("| work | simple-proxy | nginx | HAProxy | goal | |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let mut missed = 0;
    for work in WORKS {
        let shown = |measured: &io::Result<Option<f64>>| match measured {
            Ok(Some(figure)) => format!("{figure:.2}"),
            Ok(None) => String::new(),
            Err(error) => format!("failed: {}", error.to_string().replace(['\r', '\n'], " ")),
        };
        let ours = (work.measure)(Who::Ours, &lab);
        let verdict = match &ours {
            Ok(Some(figure)) if *figure <= work.goal + NOISE => "met",
            Ok(None) => "no such flag",
            _ => {
                missed += 1;
                "missed"
            }
        };
        let [nginx, haproxy] = [Who::Nginx, Who::Haproxy].map(|peer| match work.peers {
            true => shown(&(work.measure)(peer, &lab)),
            false => String::new(),
        });
        let (name, ours, goal) = (work.name, shown(&ours), work.goal);
        println!("| {name} | {ours} | {nginx} | {haproxy} | {goal} | {verdict} |");
    }
    fs::remove_dir_all(&folder)?;
    match missed {
        0 => Ok(()),
        _ => Err(io::Error::other(format!("{missed} goals were missed"))),
    }
}
